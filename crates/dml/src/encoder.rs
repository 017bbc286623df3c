//! Encoders: networks that map images to embeddings.

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::{Error, Result};

mod small_conv;

pub use small_conv::{SmallConv, SmallConvConfig};

/// A network from images to embeddings.
pub trait Encoder: std::fmt::Debug + Send + Sync {
    /// `[n, c, h, w]` → `[n, d]`, not normalized.
    ///
    /// # Errors
    /// When the images have another shape than the encoder was made for.
    fn forward(&self, images: &Tensor) -> Result<Tensor>;

    /// d.
    fn dim(&self) -> usize;

    /// The learned parameters by name, in a fixed order.
    fn parameters(&self) -> Vec<(String, Var)>;
}

/// Weights for a layer that a ReLU follows: normal with variance 2 / fan-in (He et al. 2015 \[he2015\]).
pub(crate) fn he_normal(shape: &[usize], rng: &mut ChaCha8Rng, dtype: DType, device: &Device) -> Result<Var> {
    let fan_in: usize = shape.iter().skip(1).product();
    normal(shape, (2.0 / fan_in.max(1) as f64).sqrt(), rng, dtype, device)
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
