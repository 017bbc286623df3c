//! Softplus log(1 + eᶻ) and its derivative, the activations of the convex networks.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::cpu::{contiguous, map, map2, with_slice};
use crate::real::{Real, on_cpu, with_real};
use crate::scalar_divergence::{ConvexCurve, scalar_divergence};

/// softplus(z) = log(1 + eᶻ), elementwise, without overflow; its gradient is [`sigmoid`].
///
/// # Errors
/// When candle fails.
pub fn softplus(z: &Tensor) -> Result<Tensor> {
    if on_cpu(z) {
        return z.contiguous()?.apply_op1(Softplus);
    }
    // log(1 + e) as e less the divergence of the logarithm, which keeps the digits of a small e.
    let e = z.abs()?.neg()?.exp()?;
    z.relu()? + (&e - scalar_divergence(ConvexCurve::NegativeLog, &e)?)?
}

/// σ(z) = 1 / (1 + e⁻ᶻ), elementwise; its gradient is σ(1 − σ).
///
/// # Errors
/// When candle fails.
pub fn sigmoid(z: &Tensor) -> Result<Tensor> {
    if on_cpu(z) {
        return z.contiguous()?.apply_op1(Sigmoid);
    }
    // e^−|z|, for e^−z would overflow, and its gradient then be no number.
    let above = z.detach().ge(0.0)?.to_dtype(z.dtype())?;
    let e = z.abs()?.neg()?.exp()?;
    (&e * above.affine(-1.0, 1.0)?)?.add(&above)? / (e + 1.0)?
}

#[inline(always)]
pub(crate) fn softplus_of<T: Real>(z: T) -> T {
    z.max(T::ZERO) + above_kink(z)
}

#[inline(always)]
pub(crate) fn sigmoid_of<T: Real>(z: T) -> T {
    let e = (-z.abs()).exp_fast();
    let numerator = if z < T::ZERO { e } else { T::ONE };
    numerator / (T::ONE + e)
}

/// g(z) = log(1 + e^−|z|), what softplus is above its kink.
#[inline(always)]
pub(crate) fn above_kink<T: Real>(z: T) -> T {
    (-z.abs()).exp_fast().ln_1p_unit()
}

/// What softplus does over a step, from a z₀ ≤ 0.
pub(crate) struct Rise<T> {
    /// softplus(z₀ + t) − softplus(z₀).
    pub rise: T,
    /// The rise less σ(z₀)·t.
    pub bend: T,
    /// σ(z₀ + t) − σ(z₀).
    pub growth: T,
}

/// The step t from z₀ ≤ 0, given σ(z₀) and g(z₀) = log(1 + e^z₀), which many rows share: one exponential. To the relative
/// precision of the step: where that is small, by the power series of
/// rise = log(1 + w), w = σ(z₀)·(eᵗ − 1),  bend = σ(z₀)·(eᵗ − 1 − t) − (w − log(1 + w)),  growth = w·(1 − σ(z₀ + t)).
#[inline(always)]
pub(crate) fn rise_from<T: Real>(z0: T, slope0: T, above0: T, step: T) -> Rise<T> {
    let c = T::from_f64;
    let z = z0 + step;
    let e = (-z.abs()).exp_fast();
    let slope = (if z < T::ZERO { e } else { T::ONE }) / (T::ONE + e);
    let rise = z.max(T::ZERO) + (e.ln_1p_unit() - above0);
    let q = c(1.0 / 720.0) + step * c(1.0 / 5040.0);
    let q = c(1.0 / 24.0) + step * (c(1.0 / 120.0) + step * q);
    let q = step * step * (c(0.5) + step * (c(1.0 / 6.0) + step * q)); // eᵗ − 1 − t
    let w = slope0 * (q + step);
    let l = c(1.0 / 7.0) - w * (c(1.0 / 8.0) - w * c(1.0 / 9.0));
    let l = c(1.0 / 4.0) - w * (c(1.0 / 5.0) - w * (c(1.0 / 6.0) - w * l));
    let l = w * w * (c(0.5) - w * (c(1.0 / 3.0) - w * l)); // w − log(1 + w)
    let near = step.abs() < c(T::NEAR);
    Rise {
        rise: if near { w - l } else { rise },
        bend: if near { slope0 * q - l } else { rise - slope0 * step },
        growth: if near { w * (T::ONE - slope) } else { slope - slope0 },
    }
}

struct Softplus;

impl CustomOp1 for Softplus {
    fn name(&self) -> &'static str {
        "softplus"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(storage.dtype(), self.name(), T => {
            let z = contiguous(self.name(), <T as Real>::slice(storage)?, layout)?;
            Ok((T::storage(map(z, softplus_of::<T>)), layout.shape().clone()))
        })
    }

    fn bwd(&self, z: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_real!(z.dtype(), self.name(), T => {
            backward::<T>(self.name(), z, grad, |z, g| g * sigmoid_of(z)).map(Some)
        })
    }
}

struct Sigmoid;

impl CustomOp1 for Sigmoid {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(storage.dtype(), self.name(), T => {
            let z = contiguous(self.name(), <T as Real>::slice(storage)?, layout)?;
            Ok((T::storage(map(z, sigmoid_of::<T>)), layout.shape().clone()))
        })
    }

    fn bwd(&self, _: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_real!(res.dtype(), self.name(), T => {
            backward::<T>(self.name(), res, grad, |s, g| g * s * (1.0 - s)).map(Some)
        })
    }
}

/// The gradient `f(x, grad)` elementwise.
fn backward<T: Real>(op: &str, x: &Tensor, grad: &Tensor, f: impl Fn(T, T) -> T + Sync) -> Result<Tensor> {
    let values = with_slice(op, x, |x| with_slice(op, grad, |grad| Ok(map2(x, grad, f))))?;
    T::tensor(values, x.shape())
}
