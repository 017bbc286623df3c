//! LeNet-5's plan with ReLU and maximum pooling in place of tanh and averages (LeCun et al. 1998 \[lecun1998\]).

use candle_core::{DType, Device, Tensor, Var};
use dml_kernels::{Activation, Conv2dConfig, conv2d_max_pool2d, linear};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Encoder, Mode, he_normal, lecun_normal, weights_and_biases};
use crate::{Error, Result};

/// The shape of a [`LeNet`]; the defaults are LeNet-5's, which ends in ten classes where this ends in d = 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeNetConfig {
    /// Channels after the first and the second convolution.
    pub channels: [usize; 2],
    /// Units of the two hidden linear layers.
    pub hidden: [usize; 2],
    /// d, the dimension of the embedding.
    pub dim: usize,
}

impl Default for LeNetConfig {
    fn default() -> Self {
        Self { channels: [6, 16], hidden: [120, 84], dim: 32 }
    }
}

/// conv 5×5 padded by 2 – ReLU – pool 2 – conv 5×5 – ReLU – pool 2 – linear – ReLU – linear – ReLU – linear.
///
/// Parameters are `conv1`, `conv2`, `fc1`, `fc2` and `fc3`, each with `.weight` and `.bias`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dml::{Encoder, LeNet, LeNetConfig, Mode};
///
/// let encoder = LeNet::new([1, 28, 28], &LeNetConfig::default(), 0, DType::F32, &Device::Cpu)?;
/// let images = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// assert_eq!(encoder.forward(&images, Mode::Eval)?.dims(), [2, 32]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LeNet {
    image: [usize; 3],
    dim: usize,
    layers: [(Var, Var); 5], // weight, bias
}

impl LeNet {
    /// Random weights for images of shape `[c, h, w]`: He for what a ReLU follows, biases 0.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0 or the images are smaller than 12×12.
    pub fn new(
        image: [usize; 3],
        config: &LeNetConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let [channels, height, width] = image;
        let LeNetConfig { channels: [first, second], hidden: [wide, narrow], dim } = *config;
        if height < 12 || width < 12 || channels == 0 {
            let (got, expected) = (format!("{image:?}"), "[c, h, w] with h and w at least 12");
            return Err(Error::Config { what: "LeNet", field: "image", got, expected });
        }
        if [first, second, wide, narrow, dim].contains(&0) {
            let (got, expected) = (format!("{config:?}"), "sizes of at least 1");
            return Err(Error::Config { what: "LeNet", field: "config", got, expected });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let pixels = |size: usize| (size / 2 - 4) / 2;
        let flat = second * pixels(height) * pixels(width);
        let bias = |n: usize| -> Result<Var> { Ok(Var::zeros(n, dtype, device)?) };
        let layers = [
            (he_normal(&[first, channels, 5, 5], &mut rng, dtype, device)?, bias(first)?),
            (he_normal(&[second, first, 5, 5], &mut rng, dtype, device)?, bias(second)?),
            (he_normal(&[wide, flat], &mut rng, dtype, device)?, bias(wide)?),
            (he_normal(&[narrow, wide], &mut rng, dtype, device)?, bias(narrow)?),
            (lecun_normal(&[dim, narrow], &mut rng, dtype, device)?, bias(dim)?),
        ];
        Ok(Self { image, dim, layers })
    }
}

impl Encoder for LeNet {
    fn forward(&self, images: &Tensor, _: Mode) -> Result<Tensor> {
        let [c, h, w] = self.image;
        if images.rank() != 4 || images.dims()[1..] != self.image {
            let got = format!("images of shape {:?} for [n, {c}, {h}, {w}]", images.dims());
            let expected = "images of the shape the encoder was made for";
            return Err(Error::Config { what: "LeNet::forward", field: "images", got, expected });
        }
        let [conv1, conv2, fc1, fc2, fc3] = &self.layers;
        let valid = Conv2dConfig { activation: Activation::Relu, ..Default::default() };
        let same = Conv2dConfig { padding: 2, ..valid };
        let x = conv2d_max_pool2d(images, &conv1.0, Some(&conv1.1), same)?;
        let x = conv2d_max_pool2d(&x, &conv2.0, Some(&conv2.1), valid)?;
        let x = linear(&x.flatten_from(1)?, &fc1.0, Some(&fc1.1), Activation::Relu)?;
        let x = linear(&x, &fc2.0, Some(&fc2.1), Activation::Relu)?;
        Ok(linear(&x, &fc3.0, Some(&fc3.1), Activation::Identity)?)
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        weights_and_biases(&["conv1", "conv2", "fc1", "fc2", "fc3"], &self.layers)
    }
}
