//! Two convolutions with pooling and two linear layers: enough for digits, and fast on two cores.

use candle_core::{DType, Device, Tensor, Var};
use dml_kernels::{Activation, Conv2dConfig, conv2d_max_pool2d, linear};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Encoder, Mode, he_normal, lecun_normal, weights_and_biases};
use crate::{Error, Result};

/// The shape of a [`SmallConv`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmallConvConfig {
    /// Channels after the first and the second convolution.
    pub channels: [usize; 2],
    /// Units of the hidden linear layer.
    pub hidden: usize,
    /// d, the dimension of the embedding.
    pub dim: usize,
}

impl Default for SmallConvConfig {
    fn default() -> Self {
        Self { channels: [16, 32], hidden: 128, dim: 32 }
    }
}

/// conv 3×3 – ReLU – pool 2 – conv 3×3 – ReLU – pool 2 – linear – ReLU – linear.
#[derive(Debug, Clone)]
pub struct SmallConv {
    image: [usize; 3],
    dim: usize,
    layers: [(Var, Var); 4], // weight, bias
}

impl SmallConv {
    /// Random weights for images of shape `[c, h, w]`.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0 or the images are smaller than 4×4.
    pub fn new(
        image: [usize; 3],
        config: &SmallConvConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let [channels, height, width] = image;
        let SmallConvConfig { channels: [first, second], hidden, dim } = *config;
        if height < 4 || width < 4 || channels == 0 {
            let (got, expected) = (format!("{image:?}"), "[c, h, w] with h and w at least 4");
            return Err(Error::Config { what: "SmallConv", field: "image", got, expected });
        }
        if [first, second, hidden, dim].contains(&0) {
            let (got, expected) = (format!("{config:?}"), "sizes of at least 1");
            return Err(Error::Config { what: "SmallConv", field: "config", got, expected });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let flat = second * (height / 2 / 2) * (width / 2 / 2);
        let bias = |n: usize| -> Result<Var> { Ok(Var::zeros(n, dtype, device)?) };
        let layers = [
            (he_normal(&[first, channels, 3, 3], &mut rng, dtype, device)?, bias(first)?),
            (he_normal(&[second, first, 3, 3], &mut rng, dtype, device)?, bias(second)?),
            (he_normal(&[hidden, flat], &mut rng, dtype, device)?, bias(hidden)?),
            (lecun_normal(&[dim, hidden], &mut rng, dtype, device)?, bias(dim)?),
        ];
        Ok(Self { image, dim, layers })
    }
}

impl Encoder for SmallConv {
    fn forward(&self, images: &Tensor, _: Mode) -> Result<Tensor> {
        let [c, h, w] = self.image;
        if images.rank() != 4 || images.dims()[1..] != self.image {
            let got = format!("images of shape {:?} for [n, {c}, {h}, {w}]", images.dims());
            let expected = "images of the shape the encoder was made for";
            return Err(Error::Config { what: "SmallConv::forward", field: "images", got, expected });
        }
        let [conv1, conv2, hidden, out] = &self.layers;
        let config = Conv2dConfig { padding: 1, activation: Activation::Relu, ..Default::default() };
        let x = conv2d_max_pool2d(images, &conv1.0, Some(&conv1.1), config)?;
        let x = conv2d_max_pool2d(&x, &conv2.0, Some(&conv2.1), config)?;
        let x = linear(&x.flatten_from(1)?, &hidden.0, Some(&hidden.1), Activation::Relu)?;
        Ok(linear(&x, &out.0, Some(&out.1), Activation::Identity)?)
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        weights_and_biases(&["conv1", "conv2", "hidden", "out"], &self.layers)
    }
}
