//! Encoders: networks that map images to embeddings.

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::{Error, Result};

mod lenet;
mod mlp;
mod resnet;
mod small_conv;
mod weights;

pub use lenet::{LeNet, LeNetConfig};
pub use mlp::{Mlp, MlpConfig};
pub use resnet::{BlockInit, ResNet, ResNetConfig, ResNetDepth, ResNetStem};
pub use small_conv::{SmallConv, SmallConvConfig};
pub use weights::{load_weights, save_weights};

/// What an encoder is run for. Encoders without batch normalization do the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A training step: batches are normalized by their own statistics, and the running ones move.
    Train,
    /// All else: an image's embedding depends on no other image, and nothing moves.
    Eval,
}

/// A network from images to embeddings.
pub trait Encoder: std::fmt::Debug + Send + Sync {
    /// `[n, c, h, w]` → `[n, d]`, not normalized.
    ///
    /// # Errors
    /// When the images have another shape than the encoder was made for.
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor>;

    /// d.
    fn dim(&self) -> usize;

    /// The learned parameters by name, in a fixed order.
    fn parameters(&self) -> Vec<(String, Var)>;

    /// What training moves without a gradient, by name, in a fixed order: running statistics. A checkpoint holds
    /// them beside the parameters.
    fn buffers(&self) -> Vec<(String, Var)> {
        Vec::new()
    }
}

/// Layers by name, as `NAME.weight` and `NAME.bias`.
pub(crate) fn weights_and_biases(names: &[&str], layers: &[(Var, Var)]) -> Vec<(String, Var)> {
    let named = names.iter().zip(layers).flat_map(|(name, (weight, bias))| {
        [(format!("{name}.weight"), weight.clone()), (format!("{name}.bias"), bias.clone())]
    });
    named.collect()
}

/// Weights for a layer that a ReLU follows: normal with variance 2 / fan-in (He et al. 2015 \[he2015\]).
pub(crate) fn he_normal(shape: &[usize], rng: &mut ChaCha8Rng, dtype: DType, device: &Device) -> Result<Var> {
    let fan_in: usize = shape.iter().skip(1).product();
    normal(shape, (2.0 / fan_in.max(1) as f64).sqrt(), rng, dtype, device)
}

/// Weights of a convolution `[o, c, kh, kw]` before a ReLU, for gradients that keep their size: normal with
/// variance 2 / fan-out, fan-out = o·kh·kw (He et al. 2015 \[he2015\]).
pub(crate) fn he_normal_fan_out(
    shape: [usize; 4],
    rng: &mut ChaCha8Rng,
    dtype: DType,
    device: &Device,
) -> Result<Var> {
    let [outputs, _, kernel_height, kernel_width] = shape;
    let fan_out = outputs * kernel_height * kernel_width;
    normal(&shape, (2.0 / fan_out.max(1) as f64).sqrt(), rng, dtype, device)
}

/// Weights for a layer that nothing follows: normal with variance 1 / fan-in.
pub(crate) fn lecun_normal(
    shape: &[usize],
    rng: &mut ChaCha8Rng,
    dtype: DType,
    device: &Device,
) -> Result<Var> {
    let fan_in: usize = shape.iter().skip(1).product();
    normal(shape, (1.0 / fan_in.max(1) as f64).sqrt(), rng, dtype, device)
}

fn normal(
    shape: &[usize],
    deviation: f64,
    rng: &mut ChaCha8Rng,
    dtype: DType,
    device: &Device,
) -> Result<Var> {
    let count = shape.iter().product();
    let normal = Normal::new(0.0, deviation).map_err(|_| Error::Config {
        what: "encoder",
        field: "deviation",
        got: deviation.to_string(),
        expected: "a finite number",
    })?;
    let values: Vec<f64> = normal.sample_iter(rng).take(count).collect();
    Ok(Var::from_tensor(&Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)?)
}
