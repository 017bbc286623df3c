//! A gradient as an optimizer takes it: clipped by norm or by value while it is read, never rewritten.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::cpu::{vectorized, with_slice};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};

/// Squares that are added in their own type.
const BLOCK: usize = 1024;

/// The gradient of one parameter, and what is done to each entry on the way into a step.
#[derive(Debug, Clone, Copy)]
pub struct Gradient<'a> {
    /// The gradient as the backward pass left it.
    pub values: &'a Tensor,
    /// A factor, as clipping by the norm gives it; 1 changes nothing.
    pub scale: f64,
    /// Entries beyond ± this are cut to it, before the factor; infinity cuts none.
    pub bound: f64,
}

impl<'a> From<&'a Tensor> for Gradient<'a> {
    fn from(values: &'a Tensor) -> Self {
        Self { values, scale: 1.0, bound: f64::INFINITY }
    }
}

/// Scale and bound in an element type.
#[derive(Clone, Copy)]
pub(crate) struct Taken<T> {
    scale: T,
    bound: T,
}

impl<T: Real> Taken<T> {
    /// The entry as the step takes it; not a number stays not a number.
    #[inline(always)]
    pub(crate) fn of(self, g: T) -> T {
        let cut = if g > self.bound { self.bound } else { g };
        let cut = if cut < -self.bound { -self.bound } else { cut };
        cut * self.scale
    }
}

impl Gradient<'_> {
    pub(crate) fn taken<T: Real>(&self) -> Taken<T> {
        Taken { scale: T::from_f64(self.scale), bound: T::from_f64(self.bound) }
    }

    /// The same out of candle's operations.
    pub(crate) fn native(&self) -> Result<Tensor> {
        let cut = if self.bound.is_finite() {
            self.values.clamp(-self.bound, self.bound)?
        } else {
            self.values.clone()
        };
        if self.scale == 1.0 { Ok(cut) } else { cut * self.scale }
    }
}

/// Σ‖g‖² over all entries of all gradients, in f64 and in a fixed order.
///
/// # Errors
/// When candle fails.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::squared_norm};
/// let (a, b) = (Tensor::new(&[1f32, 2.], &Device::Cpu)?, Tensor::new(&[[4f32]], &Device::Cpu)?);
/// assert_eq!(squared_norm([&a, &b])?, 21.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn squared_norm<'a>(gradients: impl IntoIterator<Item = &'a Tensor>) -> Result<f64> {
    let mut total = 0.0;
    for g in gradients {
        total += if on_cpu(g) {
            with_real!(g.dtype(), "squared_norm", T => with_slice::<T, _>("squared_norm", g, |g| {
                let mut sums = vec![<T as Real>::ZERO; g.len().div_ceil(BLOCK)];
                squares(&mut sums, g);
                #[allow(clippy::useless_conversion, reason = "of f64 it is none")]
                Ok(sums.into_iter().map(f64::from).sum::<f64>())
            }))?
        } else {
            let sum = g.detach().sqr()?.sum_all()?;
            sum.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?
        };
    }
    Ok(total)
}

/// The factor that brings the norm of all gradients together down to `largest`, at most 1, as
/// `torch.nn.utils.clip_grad_norm_` has it: largest / (norm + 10⁻⁶).
///
/// # Errors
/// When `largest` is not above 0.
pub fn clipping_scale(squared_norm: f64, largest: f64) -> Result<f64> {
    if largest.is_nan() || largest <= 0.0 {
        bail!("clipping_scale: `largest` is {largest}, expected a number > 0");
    }
    Ok((largest / (squared_norm.sqrt() + 1e-6)).min(1.0))
}

vectorized! {
    /// Σv² of each block of 1024: within one, f32 loses nothing that matters.
    fn squares<T: Real>(sums: &mut [T], x: &[T]) {
        for (sum, block) in sums.iter_mut().zip(x.chunks(BLOCK)) {
            let mut lanes = [T::ZERO; 16];
            let chunks = block.chunks_exact(16);
            let rest = chunks.remainder();
            for chunk in chunks {
                for l in 0..16 {
                    lanes[l] += chunk[l] * chunk[l];
                }
            }
            for lane in lanes {
                *sum += lane;
            }
            for &v in rest {
                *sum += v * v;
            }
        }
    }
}
