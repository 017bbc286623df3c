//! Softplus log(1 + eᶻ) and its derivative, the activations of the convex networks.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::cpu::{column_sums, contiguous, map, map2, share, vectorized, with_slice, with_slices};
use crate::real::{Real, on_cpu, with_real};

/// softplus(z) = log(1 + eᶻ), elementwise, without overflow; its gradient is [`sigmoid`].
///
/// # Errors
/// When candle fails.
pub fn softplus(z: &Tensor) -> Result<Tensor> {
    if on_cpu(z) {
        return z.contiguous()?.apply_op1(Softplus);
    }
    z.relu()? + (z.abs()?.neg()?.exp()? + 1.0)?.log()?
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

/// softplus(z₀ + δ) − softplus(z₀) without cancellation, however large z₀ is:
/// `z0` `[1, k]`, `delta` `[n, k]` → `[n, k]`.
///
/// With softplus(z) = max(z, 0) + g(z), g(z) = log(1 + e^−|z|) ≤ log 2, the first parts differ by
/// max(δ + min(z₀, 0), −max(z₀, 0)), in which the large z₀ has already cancelled.
///
/// # Errors
/// When candle fails or the shapes disagree.
pub fn softplus_increment(z0: &Tensor, delta: &Tensor) -> Result<Tensor> {
    let (one, k) = z0.dims2()?;
    if one != 1 || k == 0 || delta.rank() != 2 || delta.dims()[1] != k {
        candle_core::bail!(
            "softplus_increment: `z0` has shape {:?} and `delta` {:?}, expected [1, k] and [n, k] with k ≥ 1",
            z0.dims(),
            delta.dims()
        );
    }
    if on_cpu(delta) {
        return delta.contiguous()?.apply_op2(&z0.contiguous()?, SoftplusIncrement);
    }
    let kinked = delta
        .broadcast_add(&(z0 - z0.relu()?)?)?
        .broadcast_maximum(&z0.relu()?.neg()?.broadcast_as(delta.shape())?)?;
    let g = |z: &Tensor| -> Result<Tensor> { (z.abs()?.neg()?.exp()? + 1.0)?.log() };
    kinked + g(&delta.broadcast_add(z0)?)?.broadcast_sub(&g(z0)?)?
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

/// softplus(z₀ + δ) − softplus(z₀), given g(z₀), which many rows share.
#[inline(always)]
pub(crate) fn increment_of<T: Real>(z0: T, above0: T, delta: T) -> T {
    let kinked = (delta + z0.min(T::ZERO)).max(-z0.max(T::ZERO));
    kinked + (above_kink(z0 + delta) - above0)
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

/// delta is the first operand and z0 the second, because candle gives the result the first one's device.
struct SoftplusIncrement;

impl CustomOp2 for SoftplusIncrement {
    fn name(&self) -> &'static str {
        "softplus_increment"
    }

    fn cpu_fwd(
        &self,
        delta: &CpuStorage,
        delta_layout: &Layout,
        z0: &CpuStorage,
        z0_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(delta.dtype(), self.name(), T => {
            let delta = contiguous(self.name(), <T as Real>::slice(delta)?, delta_layout)?;
            let z0 = contiguous(self.name(), <T as Real>::slice(z0)?, z0_layout)?;
            let above0: Vec<T> = z0.iter().map(|&z| above_kink(z)).collect();
            let mut out = vec![0 as T; delta.len()];
            share(&mut out, z0.len(), |start, out| {
                increments(out, &delta[start..], z0, &above0);
            });
            Ok((T::storage(out), delta_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        delta: &Tensor,
        z0: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_real!(delta.dtype(), self.name(), T => {
            let found = with_slices::<T, 3, _>(self.name(), [delta, z0, grad], |[delta, z0, grad]| {
                Ok(increment_backward(z0, delta, grad))
            });
            let (to_delta, to_z0) = found?;
            Ok((Some(T::tensor(to_delta, delta.shape())?), Some(T::tensor(to_z0, z0.shape())?)))
        })
    }
}

vectorized! {
    fn increments<T: Real>(out: &mut [T], delta: &[T], z0: &[T], above0: &[T]) {
        for (out, delta) in out.chunks_exact_mut(z0.len()).zip(delta.chunks_exact(z0.len())) {
            for (((o, &z0), &g0), &d) in out.iter_mut().zip(z0).zip(above0).zip(delta) {
                *o = increment_of(z0, g0, d);
            }
        }
    }
}

vectorized! {
    fn increment_gradients<T: Real>(out: &mut [T], delta: &[T], grad: &[T], z0: &[T]) {
        let rows = delta.chunks_exact(z0.len()).zip(grad.chunks_exact(z0.len()));
        for (out, (delta, grad)) in out.chunks_exact_mut(z0.len()).zip(rows) {
            for (((o, &z0), &d), &g) in out.iter_mut().zip(z0).zip(delta).zip(grad) {
                *o = g * sigmoid_of(z0 + d);
            }
        }
    }
}

/// ∂/∂δ = σ(z₀ + δ) and ∂/∂z₀ = Σ_rows σ(z₀ + δ) − σ(z₀).
fn increment_backward<T: Real>(z0: &[T], delta: &[T], grad: &[T]) -> (Vec<T>, Vec<T>) {
    let k = z0.len();
    let mut to_delta = vec![T::ZERO; delta.len()];
    share(&mut to_delta, k, |start, out| {
        increment_gradients(out, &delta[start..], &grad[start..], z0);
    });
    let mut to_z0 = column_sums(&to_delta, k);
    for ((o, g), &z0) in to_z0.iter_mut().zip(column_sums(grad, k)).zip(z0) {
        *o = *o - g * sigmoid_of(z0);
    }
    (to_delta, to_z0)
}

/// The gradient `f(x, grad)` elementwise.
fn backward<T: Real>(op: &str, x: &Tensor, grad: &Tensor, f: impl Fn(T, T) -> T + Sync) -> Result<Tensor> {
    let values = with_slice(op, x, |x| with_slice(op, grad, |grad| Ok(map2(x, grad, f))))?;
    T::tensor(values, x.shape())
}
