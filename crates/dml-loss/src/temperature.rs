//! The temperature of softmax losses, fixed or learned.

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{Distance, Error, Parameter, Result, Role, tensor::download};

/// The logit that the median distance of the first batch is given.
const FIRST_LOGIT: f64 = 10.0;

/// How closeness becomes a logit: divided by a fixed temperature, or multiplied by a learned scale exp(s).
///
/// Under a learned divergence take a learned one: logit = −exp(s)·D_φ, s in the role
/// [`Temperature`](crate::Role::Temperature) with a learning rate of its own, set once by
/// [`Objective::calibrate`](crate::Objective::calibrate).
///
/// ```
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let temperature = Temperature::learned(0.1, DType::F64, &Device::Cpu)?;
/// let distances = Tensor::new(&[0f64, 4., 5., 6.], &Device::Cpu)?;
/// temperature.calibrate(&Lp::squared(), &distances)?;
/// let logits = temperature.logits(&Lp::squared().closeness(&distances)?)?.to_vec1::<f64>()?;
/// assert!((logits[2] + 10.0).abs() < 1e-9); // the median distance, the zero left out
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub enum Temperature {
    /// logit = closeness / t.
    Fixed(f64),
    /// logit = exp(s)·closeness, s a scalar of the embeddings' dtype.
    Learned(Var),
}

impl Temperature {
    /// A fixed temperature.
    ///
    /// # Errors
    /// [`Error::Config`] unless it is positive and finite.
    pub fn fixed(t: f64) -> Result<Self> {
        if !(t > 0.0 && t.is_finite()) {
            return Err(Error::config("Temperature", "temperature", t, "a positive number or \"learned\""));
        }
        Ok(Self::Fixed(t))
    }

    /// A learned temperature that begins at t; [`calibrate`](Self::calibrate) moves it to fit a first batch.
    ///
    /// # Errors
    /// [`Error::Config`] unless t is positive and finite.
    pub fn learned(t: f64, dtype: DType, device: &Device) -> Result<Self> {
        Self::fixed(t)?;
        let s = Tensor::full(-t.ln(), (), device)?.to_dtype(dtype)?;
        Ok(Self::Learned(Var::from_tensor(&s)?))
    }

    /// What closeness is multiplied by.
    ///
    /// # Errors
    /// When candle fails.
    pub(crate) fn scale(&self) -> Result<f64> {
        Ok(match self {
            Self::Fixed(t) => 1.0 / t,
            Self::Learned(s) => download(s)?.first().map_or(1.0, |s| s.exp()),
        })
    }

    /// Logits of closeness values, same shape.
    ///
    /// # Errors
    /// When the dtypes differ.
    pub fn logits(&self, closeness: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Fixed(t) => (closeness / *t)?,
            Self::Learned(s) => closeness.broadcast_mul(&s.as_tensor().exp()?)?,
        })
    }

    /// Sets a learned s so that the median of the distances in `values` has the logit −10: exp(s)·median = 10.
    /// Zero distances, as of a row to itself, do not count; similarities, whose median means nothing, get exp(s) = 10.
    ///
    /// # Errors
    /// When candle fails.
    pub fn calibrate(&self, distance: &dyn Distance, values: &Tensor) -> Result<()> {
        let Self::Learned(s) = self else { return Ok(()) };
        let mut values = download(values)?;
        values.retain(|v| v.is_finite() && *v > 0.0);
        let scale = if distance.larger_is_closer() {
            FIRST_LOGIT
        } else {
            let middle = values.len() / 2;
            if values.is_empty() {
                return Ok(());
            }
            FIRST_LOGIT / *values.select_nth_unstable_by(middle, f64::total_cmp).1
        };
        let log_scale = Tensor::full(scale.ln(), (), s.device())?.to_dtype(s.dtype())?;
        Ok(s.set(&log_scale)?)
    }

    /// `log_scale` where it is learned.
    pub fn parameters(&self) -> Vec<Parameter> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::Learned(s) => vec![Parameter::new("log_scale", s, Role::Temperature)],
        }
    }
}

/// A temperature in a configuration file: a number, or `"learned"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the temperature is a positive number, or \"learned\"")]
pub enum TemperatureSpec {
    /// A fixed temperature.
    Fixed(f64),
    /// A learned one, set by the first batch.
    Learned(Learned),
}

/// The word `"learned"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Learned {
    /// `"learned"`.
    Learned,
}

impl TemperatureSpec {
    /// A learned temperature.
    pub const LEARNED: Self = Self::Learned(Learned::Learned);

    /// The temperature; a learned one begins at 0.1 until it is calibrated.
    ///
    /// # Errors
    /// [`Error::Config`] unless a fixed one is positive and finite.
    pub fn build(self, dtype: DType, device: &Device) -> Result<Temperature> {
        match self {
            Self::Fixed(t) => Temperature::fixed(t),
            Self::Learned(_) => Temperature::learned(1.0 / FIRST_LOGIT, dtype, device),
        }
    }
}
