//! Residual networks (He et al. 2016 \[he2016\]) under torchvision's parameter names.
//!
//! A block computes max(F(x) + S(x), 0): F is two 3×3 convolutions, or 1×1, 3×3, 1×1 with four times the channels
//! at the end (the bottleneck, its stride on the 3×3 as in torchvision); S is the identity, or a 1×1 convolution
//! where the shape changes. Batch normalization follows every convolution.

use candle_core::{DType, Device, Tensor, Var};
use dml_kernels::{
    Activation, BatchNormConfig, BatchNormMode, Conv2dConfig, Running, add_relu, batch_norm2d, conv2d,
    global_avg_pool2d, linear, max_pool2d,
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Encoder, Mode, he_normal_fan_out, lecun_normal};
use crate::{Error, Result};

/// The weight of the newest batch in running statistics, and ε: PyTorch's defaults.
const MOMENTUM: f64 = 0.1;
const EPSILON: f64 = 1e-5;

/// The number of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResNetDepth {
    /// ResNet-18: two basic blocks in each stage.
    #[default]
    R18,
    /// ResNet-34: 3, 4, 6 and 3 basic blocks.
    R34,
    /// ResNet-50: 3, 4, 6 and 3 bottlenecks.
    R50,
}

impl ResNetDepth {
    fn blocks(self) -> [usize; 4] {
        match self {
            Self::R18 => [2, 2, 2, 2],
            Self::R34 | Self::R50 => [3, 4, 6, 3],
        }
    }

    /// Output channels of a block per inner channel.
    fn expansion(self) -> usize {
        if self == Self::R50 { 4 } else { 1 }
    }
}

/// What comes before the first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResNetStem {
    /// A 3×3 convolution, stride 1, for images of about 32×32.
    #[default]
    Cifar,
    /// A 7×7 convolution, stride 2, and maximum pooling 3×3, stride 2: torchvision's, for images of about 224×224.
    ImageNet,
}

/// γ of each block's last normalization at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockInit {
    /// 1, as torchvision does.
    #[default]
    One,
    /// 0, so that each block starts as its shortcut (Goyal et al. 2017 \[goyal2017\]).
    Zero,
}

/// The shape of a [`ResNet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNetConfig {
    /// The number of layers.
    pub depth: ResNetDepth,
    /// What comes before the first block.
    pub stem: ResNetStem,
    /// Channels of the first stage; each later one has twice as many. 64 in the paper.
    pub width: usize,
    /// d of the linear layer `fc` at the end; without, the embedding is the pooled features, `8·width` of them
    /// (`32·width` for ResNet-50).
    pub dim: Option<usize>,
    /// How blocks start.
    pub block_init: BlockInit,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            depth: ResNetDepth::R18,
            stem: ResNetStem::Cifar,
            width: 64,
            dim: Some(128),
            block_init: BlockInit::One,
        }
    }
}

/// A residual network from images `[n, c, h, w]` of any size to embeddings.
///
/// Parameters and buffers have torchvision's names (`conv1.weight`, `bn1.running_mean`, `layer2.0.downsample.0.weight`,
/// `fc.bias`, …), so [`load_weights`](crate::load_weights) reads published weights for the ImageNet stem and width
/// 64; keep `"fc."` to put them under an embedding layer.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dml::{Encoder, Mode, ResNet, ResNetConfig};
///
/// let config = ResNetConfig { width: 4, dim: Some(16), ..Default::default() };
/// let encoder = ResNet::new(3, &config, 0, DType::F32, &Device::Cpu)?;
/// let images = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(encoder.forward(&images, Mode::Train)?.dims(), [2, 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ResNet {
    channels: usize,
    dim: usize,
    stem_kind: ResNetStem,
    stem: Unit,
    stages: Vec<Vec<Block>>,
    head: Option<(Var, Var)>, // weight [d, features], bias [d]
}

impl ResNet {
    /// Random weights for images of `channels` channels: convolutions He with fan-out, γ = 1 or as configured,
    /// β = 0, and for `fc` variance 1 / fan-in with bias 0.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0.
    pub fn new(
        channels: usize,
        config: &ResNetConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let ResNetConfig { depth, stem: stem_kind, width, dim, block_init } = *config;
        if channels == 0 || width == 0 || dim == Some(0) {
            let got = format!("{config:?} for {channels} channels");
            return Err(Error::Config {
                what: "ResNet",
                field: "config",
                got,
                expected: "sizes of at least 1",
            });
        }
        let mut init = Init { rng: ChaCha8Rng::seed_from_u64(seed), dtype, device };
        let (kernel, stride) = match stem_kind {
            ResNetStem::Cifar => (3, 1),
            ResNetStem::ImageNet => (7, 2),
        };
        let stem = init.unit([width, channels, kernel, kernel], stride, BlockInit::One)?;
        let mut inputs = width;
        let mut stages = Vec::with_capacity(4);
        for (i, blocks) in depth.blocks().into_iter().enumerate() {
            let inner = width << i;
            let outputs = inner * depth.expansion();
            let mut stage = Vec::with_capacity(blocks);
            for j in 0..blocks {
                let stride = if i > 0 && j == 0 { 2 } else { 1 };
                stage.push(init.block(depth, [inputs, inner, outputs], stride, block_init)?);
                inputs = outputs;
            }
            stages.push(stage);
        }
        let head = match dim {
            Some(dim) => Some((
                lecun_normal(&[dim, inputs], &mut init.rng, dtype, device)?,
                Var::zeros(dim, dtype, device)?,
            )),
            None => None,
        };
        Ok(Self { channels, dim: dim.unwrap_or(inputs), stem_kind, stem, stages, head })
    }

    /// Every convolution with its normalization, and their names, in torchvision's order.
    fn units(&self) -> Vec<(String, String, &Unit)> {
        let mut units = vec![("conv1".to_owned(), "bn1".to_owned(), &self.stem)];
        for (i, stage) in self.stages.iter().enumerate() {
            for (j, block) in stage.iter().enumerate() {
                let at = format!("layer{}.{j}", i + 1);
                for (k, unit) in block.units.iter().enumerate() {
                    units.push((format!("{at}.conv{}", k + 1), format!("{at}.bn{}", k + 1), unit));
                }
                if let Some(unit) = &block.shortcut {
                    units.push((format!("{at}.downsample.0"), format!("{at}.downsample.1"), unit));
                }
            }
        }
        units
    }

    fn check(&self, images: &Tensor, mode: Mode) -> Result<()> {
        let wrong = |expected| {
            let got = format!("images of shape {:?} for {} channels", images.dims(), self.channels);
            Err(Error::Config { what: "ResNet::forward", field: "images", got, expected })
        };
        match images.dims4() {
            Ok((n, c, h, w)) if c == self.channels && h > 0 && w > 0 => {
                // Each halving rounds up.
                let halvings = if self.stem_kind == ResNetStem::Cifar { 3 } else { 5 };
                let last = n * h.div_ceil(1 << halvings) * w.div_ceil(1 << halvings);
                if mode == Mode::Train && last < 2 {
                    return wrong(
                        "two images or larger ones: the last stage would see one value per channel",
                    );
                }
                Ok(())
            }
            _ => wrong("[n, c, h, w] with the channels that the encoder was made for"),
        }
    }
}

impl Encoder for ResNet {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.check(images, mode)?;
        let mut x = self.stem.forward(images, mode, Activation::Relu)?;
        if self.stem_kind == ResNetStem::ImageNet {
            x = max_pool2d(&x, 3, 2, 1)?;
        }
        for block in self.stages.iter().flatten() {
            x = block.forward(&x, mode)?;
        }
        let features = global_avg_pool2d(&x)?; // [n, features]
        match &self.head {
            Some((weight, bias)) => Ok(linear(&features, weight, Some(bias), Activation::Identity)?),
            None => Ok(features),
        }
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let units = self.units().into_iter().flat_map(|(conv, norm, unit)| {
            [
                (format!("{conv}.weight"), unit.weight.clone()),
                (format!("{norm}.weight"), unit.gamma.clone()),
                (format!("{norm}.bias"), unit.beta.clone()),
            ]
        });
        let head = self.head.iter().flat_map(|(weight, bias)| {
            [("fc.weight".to_owned(), weight.clone()), ("fc.bias".to_owned(), bias.clone())]
        });
        units.chain(head).collect()
    }

    fn buffers(&self) -> Vec<(String, Var)> {
        let units = self.units().into_iter().flat_map(|(_, norm, unit)| {
            [
                (format!("{norm}.running_mean"), unit.running.mean.clone()),
                (format!("{norm}.running_var"), unit.running.var.clone()),
            ]
        });
        units.collect()
    }
}

/// A convolution without bias and the normalization behind it.
#[derive(Debug, Clone)]
struct Unit {
    weight: Var, // [o, c, k, k]
    stride: usize,
    padding: usize,
    gamma: Var,
    beta: Var,
    running: Running,
}

impl Unit {
    fn forward(&self, x: &Tensor, mode: Mode, activation: Activation) -> Result<Tensor> {
        let config = Conv2dConfig { stride: self.stride, padding: self.padding, ..Default::default() };
        let y = conv2d(x, &self.weight, None, config)?;
        let mode = match mode {
            Mode::Train => BatchNormMode::Train { momentum: MOMENTUM },
            Mode::Eval => BatchNormMode::Eval,
        };
        let config = BatchNormConfig { mode, epsilon: EPSILON, activation };
        Ok(batch_norm2d(&y, &self.gamma, &self.beta, Some(&self.running), config)?)
    }
}

/// max(F(x) + S(x), 0).
#[derive(Debug, Clone)]
struct Block {
    /// F; a ReLU stands between two.
    units: Vec<Unit>,
    /// S, where it is not the identity.
    shortcut: Option<Unit>,
}

impl Block {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut y = x.clone();
        for (i, unit) in self.units.iter().enumerate() {
            let last = i + 1 == self.units.len();
            let activation = if last { Activation::Identity } else { Activation::Relu };
            y = unit.forward(&y, mode, activation)?;
        }
        Ok(match &self.shortcut {
            Some(unit) => add_relu(&y, &unit.forward(x, mode, Activation::Identity)?)?,
            None => add_relu(&y, x)?,
        })
    }
}

/// Draws the initial weights, in torchvision's order of layers.
struct Init<'a> {
    rng: ChaCha8Rng,
    dtype: DType,
    device: &'a Device,
}

impl Init<'_> {
    /// A convolution with weights of `shape`, padded so that stride 1 keeps the size.
    fn unit(&mut self, shape: [usize; 4], stride: usize, gamma: BlockInit) -> Result<Unit> {
        let (outputs, kernel) = (shape[0], shape[2]);
        Ok(Unit {
            weight: he_normal_fan_out(shape, &mut self.rng, self.dtype, self.device)?,
            stride,
            padding: kernel / 2,
            gamma: match gamma {
                BlockInit::One => Var::ones(outputs, self.dtype, self.device)?,
                BlockInit::Zero => Var::zeros(outputs, self.dtype, self.device)?,
            },
            beta: Var::zeros(outputs, self.dtype, self.device)?,
            running: Running::new(outputs, self.dtype, self.device)?,
        })
    }

    fn block(
        &mut self,
        depth: ResNetDepth,
        [inputs, inner, outputs]: [usize; 3],
        stride: usize,
        last: BlockInit,
    ) -> Result<Block> {
        let one = BlockInit::One;
        let units = if depth == ResNetDepth::R50 {
            vec![
                self.unit([inner, inputs, 1, 1], 1, one)?,
                self.unit([inner, inner, 3, 3], stride, one)?,
                self.unit([outputs, inner, 1, 1], 1, last)?,
            ]
        } else {
            vec![self.unit([inner, inputs, 3, 3], stride, one)?, self.unit([outputs, inner, 3, 3], 1, last)?]
        };
        let reshapes = stride != 1 || inputs != outputs;
        let shortcut = if reshapes { Some(self.unit([outputs, inputs, 1, 1], stride, one)?) } else { None };
        Ok(Block { units, shortcut })
    }
}
