//! The temperature of softmax losses, fixed or learned.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{Distance, Error, Parameter, Result, Role, tensor::download};

/// The logit that the median distance of the first batch is given.
const FIRST_LOGIT: f64 = 10.0;

/// Closeness is multiplied by no more than 2⁶⁴ and by no less than 2⁻⁶⁴.
const MOST_LOG_SCALE: f64 = 64.0 * std::f64::consts::LN_2;

/// How closeness becomes a logit: divided by a fixed temperature, or multiplied by a learned scale exp(s).
///
/// # Bounds
/// The scale lies between 2⁻⁶⁴ and 2⁶⁴, |s| ≤ 44.36: half the exponents that f32 has, which leaves the other half to the
/// distances, so that logits are numbers while these lie below 2⁶³. A learned s beyond a bound counts as the bound, and
/// its gradient is that of the bound where a step against it leads back inside, and 0 where it would lead further out.
/// Without bounds exp(s) is infinite in f32 from s = 89 on, and a logit of a distance of 0 then NaN. CLIP's bound, a
/// scale of 100, is one for cosines; the divergences of a learned φ may be of any size, and the median of a batch of f32
/// rows at 10⁻¹⁴, as close as they can be told apart, wants a scale of 10¹⁵ to reach the logit 10.
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
    /// [`Error::Config`] unless it is a positive number within the bounds.
    pub fn fixed(t: f64) -> Result<Self> {
        if !(t > 0.0 && t.is_finite()) {
            return Err(Error::config("Temperature", "temperature", t, "a positive number or \"learned\""));
        }
        if t.ln().abs() > MOST_LOG_SCALE {
            let expected = "a number from 2^-64 to 2^64; multiply the distance instead";
            return Err(Error::config("Temperature", "temperature", format!("{t:e}"), expected));
        }
        Ok(Self::Fixed(t))
    }

    /// A learned temperature that begins at t; [`calibrate`](Self::calibrate) moves it to fit a first batch.
    ///
    /// # Errors
    /// [`Error::Config`] unless t is a positive number within the bounds.
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
            Self::Learned(s) => {
                download(s)?.first().map_or(1.0, |s| s.clamp(-MOST_LOG_SCALE, MOST_LOG_SCALE).exp())
            }
        })
    }

    /// A learned s within its bounds and within the graph.
    pub(crate) fn log_scale(&self) -> Result<Option<Tensor>> {
        let Self::Learned(s) = self else { return Ok(None) };
        // One number, worked out on the host, where the kernels take it from too.
        let bounded = s.as_tensor().to_device(&Device::Cpu)?.apply_op1(Bounded)?;
        Ok(Some(bounded.to_device(s.device())?))
    }

    /// Logits of closeness values, same shape.
    ///
    /// # Errors
    /// [`Error::DType`] where a learned s is of another type.
    pub fn logits(&self, closeness: &Tensor) -> Result<Tensor> {
        let (op, arg) = ("Temperature::logits", "closeness");
        match (self, self.log_scale()?) {
            (_, Some(s)) if s.dtype() != closeness.dtype() => {
                let expected = format!("{:?} as `log_scale`", s.dtype());
                Err(Error::DType { op, arg, got: closeness.dtype(), expected })
            }
            (_, Some(s)) => Ok(closeness.broadcast_mul(&s.exp()?)?),
            (Self::Fixed(t), None) => Ok((closeness / *t)?),
            (Self::Learned(_), None) => Ok(closeness.clone()),
        }
    }

    /// Sets a learned s so that the median of the distances in `values` has the logit −10: exp(s)·median = 10.
    /// Zero distances, as of a row to itself, do not count; similarities, whose median means nothing, get exp(s) = 10.
    /// A median that asks for a scale beyond the bounds gets the bound.
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
        let log_scale = scale.ln().clamp(-MOST_LOG_SCALE, MOST_LOG_SCALE);
        let log_scale = Tensor::full(log_scale, (), s.device())?.to_dtype(s.dtype())?;
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

/// s within ±[`MOST_LOG_SCALE`]; backward, what leads an s beyond a bound back inside.
struct Bounded;

impl CustomOp1 for Bounded {
    fn name(&self) -> &'static str {
        "bounded log_scale"
    }

    fn cpu_fwd(&self, s: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let at = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
        let bound = |s: f64| s.clamp(-MOST_LOG_SCALE, MOST_LOG_SCALE);
        let storage = match s {
            CpuStorage::F32(s) => {
                CpuStorage::F32(s[at].iter().map(|&s| bound(f64::from(s)) as f32).collect())
            }
            CpuStorage::F64(s) => CpuStorage::F64(s[at].iter().map(|&s| bound(s)).collect()),
            _ => candle_core::bail!("{}: element type is not f32 or f64", self.name()),
        };
        Ok((storage, layout.shape().clone()))
    }

    fn bwd(&self, s: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // A step goes against the gradient: above the upper bound only a gradient above 0 leads back.
        let out = |s: f64, g: f64| (s > MOST_LOG_SCALE && g < 0.0) || (s < -MOST_LOG_SCALE && g > 0.0);
        let of = |x: &Tensor| x.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let kept: Vec<f64> =
            of(s)?.into_iter().zip(of(gradient)?).map(|(s, g)| if out(s, g) { 0.0 } else { g }).collect();
        Ok(Some(Tensor::from_vec(kept, gradient.shape(), gradient.device())?.to_dtype(gradient.dtype())?))
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
