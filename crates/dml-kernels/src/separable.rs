//! The units of a separable convex function: values and slopes of all rows at once, without an `[n, d, k]` tensor.
//!
//! With z = z₀ + sδ, unit (j, k) contributes to row i, whose shift from the pivot is δ = δ_ij,
//!
//! value_ij += a·(softplus(z) − softplus(z₀) − σ(z₀)·s·δ),  slope_ij += a·s·(σ(z) − σ(z₀)),
//!
//! its own divergence from the pivot and the derivative of that. A unit costs an exponential, a logarithm and a
//! quotient in either pass; backward recomputes them, which is faster than reading them back from memory.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{contiguous, threads, vectorized, with_slice};
use crate::real::{Real, on_cpu, with_real};
use crate::softplus::{above_kink, increment_of, sigmoid, sigmoid_of, softplus_increment};

/// Σ_j value_ij `[n]` and slope_ij `[n, d]` of softplus units: `shift` `[n, d]`; `scale` s, `at_pivot` z₀ and
/// `height` a, each `[d, k]`.
///
/// # Errors
/// When the shapes disagree.
pub fn separable_units(
    shift: &Tensor,
    scale: &Tensor,
    at_pivot: &Tensor,
    height: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (Ok((n, d)), Ok((rows, k))) = (shift.dims2(), scale.dims2()) else {
        bail!(
            "separable_units: `shift` has shape {:?}, `scale` {:?}, expected [n, d] and [d, k]",
            shift.dims(),
            scale.dims()
        );
    };
    if rows != d || at_pivot.dims() != [d, k] || height.dims() != [d, k] {
        bail!(
            "separable_units: `scale` has shape {:?}, `at_pivot` {:?}, `height` {:?}, expected [{d}, k] each",
            scale.dims(),
            at_pivot.dims(),
            height.dims()
        );
    }
    if on_cpu(shift) {
        let units = Tensor::stack(&[scale, at_pivot, height], 0)?; // [3, d, k]
        let both = shift.contiguous()?.apply_op2(&units, Units { n, d, k })?; // [2, n, d]
        return Ok((both.get(0)?.sum(D::Minus1)?, both.get(1)?));
    }
    let flat = |t: &Tensor| t.reshape((1, d * k));
    let beside = shift.unsqueeze(2)?.broadcast_as((n, d, k))?.reshape((n, d * k))?;
    let delta = beside.broadcast_mul(&flat(scale)?)?;
    let (z0, height) = (flat(at_pivot)?, flat(height)?);
    let slope0 = sigmoid(&z0)?;
    let bend = (softplus_increment(&z0, &delta)? - delta.broadcast_mul(&slope0)?)?;
    let value = bend.broadcast_mul(&height)?.sum(D::Minus1)?;
    let slope = sigmoid(&delta.broadcast_add(&z0)?)?.broadcast_sub(&slope0)?;
    let weight = (height * flat(scale)?)?;
    Ok((value, slope.broadcast_mul(&weight)?.reshape((n, d, k))?.sum(D::Minus1)?))
}

/// From `[n, d]` and `[3, d, k]` (s, z₀, a) to `[2, n, d]` (values, slopes).
struct Units {
    n: usize,
    d: usize,
    k: usize,
}

/// The units of one coordinate, with what all rows share: σ(z₀) and log(1 + e^−|z₀|).
struct Coordinate<'a, T> {
    scale: &'a [T],
    at_pivot: &'a [T],
    height: &'a [T],
    slope0: Vec<T>,
    above0: Vec<T>,
}

impl Units {
    fn coordinate<'a, T: Real>(&self, units: &'a [T], j: usize) -> Coordinate<'a, T> {
        let part = |p: usize| &units[(p * self.d + j) * self.k..][..self.k];
        let (scale, at_pivot, height) = (part(0), part(1), part(2));
        let slope0 = at_pivot.iter().map(|&z| sigmoid_of(z)).collect();
        let above0 = at_pivot.iter().map(|&z| above_kink(z)).collect();
        Coordinate { scale, at_pivot, height, slope0, above0 }
    }

    /// Calls `f(coordinate, its column of results)` for all coordinates, shared among threads, and returns the
    /// results of `width` numbers each, `[d, width]`.
    fn columns<T: Real>(&self, width: usize, f: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
        let mut out = vec![T::ZERO; self.d * width];
        if out.is_empty() {
            return out;
        }
        let piece = self.d.div_ceil(threads());
        out.par_chunks_mut(piece * width).enumerate().for_each(|(i, out)| {
            vectorized(|| {
                for (j, out) in out.chunks_exact_mut(width).enumerate() {
                    f(i * piece + j, out);
                }
            });
        });
        out
    }

    fn forward<T: Real>(&self, shift: &[T], units: &[T]) -> Vec<T> {
        let (n, d) = (self.n, self.d);
        let columns = self.columns(2 * n, |j, out| {
            let unit = self.coordinate(units, j);
            let (values, slopes) = out.split_at_mut(n);
            for (i, (value, slope)) in values.iter_mut().zip(slopes).enumerate() {
                (*value, *slope) = unit.row(shift[i * d + j]);
            }
        });
        // [d, 2, n] → [2, n, d]
        let mut out = vec![T::ZERO; 2 * n * d];
        for (j, column) in columns.chunks_exact((2 * n).max(1)).enumerate() {
            for (i, &v) in column.iter().enumerate() {
                out[i * d + j] = v;
            }
        }
        out
    }

    /// The gradients of shift `[n, d]` and units `[3, d, k]`.
    fn backward<T: Real>(&self, shift: &[T], units: &[T], slopes: &[T], grad: &[T]) -> (Vec<T>, Vec<T>) {
        let (n, d, k) = (self.n, self.d, self.k);
        let (grad_value, grad_slope) = grad.split_at(n * d);
        let columns = self.columns(n + 3 * k, |j, out| {
            let unit = self.coordinate(units, j);
            let (to_shift, to_units) = out.split_at_mut(n);
            for (i, to_shift) in to_shift.iter_mut().enumerate() {
                let at = i * d + j;
                let (gv, gs) = (grad_value[at], grad_slope[at]);
                *to_shift = gv * slopes[at] + gs * unit.row_backward(shift[at], gv, gs, to_units);
            }
        });
        let (mut to_shift, mut to_units) = (vec![T::ZERO; n * d], vec![T::ZERO; 3 * d * k]);
        for (j, column) in columns.chunks_exact((n + 3 * k).max(1)).enumerate() {
            for (i, &v) in column[..n].iter().enumerate() {
                to_shift[i * d + j] = v;
            }
            for (p, part) in column[n..].chunks_exact(k.max(1)).enumerate() {
                to_units[(p * d + j) * k..][..k].copy_from_slice(part);
            }
        }
        (to_shift, to_units)
    }
}

/// Partial sums, so that a row's units fill the vector registers in a fixed order.
const LANES: usize = 8;

impl<T: Real> Coordinate<'_, T> {
    /// value and slope of one shift.
    #[inline(always)]
    fn row(&self, delta: T) -> (T, T) {
        let (mut value, mut slope) = ([T::ZERO; LANES], [T::ZERO; LANES]);
        let k = self.scale.len();
        for start in (0..k).step_by(LANES) {
            for lane in 0..LANES.min(k - start) {
                let at = start + lane;
                let (s, z0, a) = (self.scale[at], self.at_pivot[at], self.height[at]);
                let step = s * delta;
                value[lane] += a * (increment_of(z0, self.above0[at], step) - self.slope0[at] * step);
                slope[lane] += a * s * (sigmoid_of(z0 + step) - self.slope0[at]);
            }
        }
        (sum(value), sum(slope))
    }

    /// Adds what one row gives the units' gradients and returns ∂slope/∂δ.
    #[inline(always)]
    fn row_backward(&self, delta: T, gv: T, gs: T, to_units: &mut [T]) -> T {
        let k = self.scale.len();
        let (to_scale, rest) = to_units.split_at_mut(k);
        let (to_pivot, to_height) = rest.split_at_mut(k);
        let mut curvature = [T::ZERO; LANES];
        for start in (0..k).step_by(LANES) {
            for lane in 0..LANES.min(k - start) {
                let at = start + lane;
                let (s, z0, a, s0) = (self.scale[at], self.at_pivot[at], self.height[at], self.slope0[at]);
                let step = s * delta;
                let slope = sigmoid_of(z0 + step);
                let (rise, bend, bend0) = (slope - s0, slope * (T::ONE - slope), s0 * (T::ONE - s0));
                curvature[lane] += a * s * s * bend;
                to_scale[at] += a * (gv * delta * rise + gs * (rise + step * bend));
                to_pivot[at] += a * (gv * (rise - bend0 * step) + gs * s * (bend - bend0));
                to_height[at] += gv * (increment_of(z0, self.above0[at], step) - s0 * step) + gs * s * rise;
            }
        }
        sum(curvature)
    }
}

#[inline(always)]
fn sum<T: Real>(lanes: [T; LANES]) -> T {
    let mut total = T::ZERO;
    for v in lanes {
        total += v;
    }
    total
}

impl CustomOp2 for Units {
    fn name(&self) -> &'static str {
        "separable_units"
    }

    fn cpu_fwd(
        &self,
        shift: &CpuStorage,
        shift_layout: &Layout,
        units: &CpuStorage,
        units_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(shift.dtype(), self.name(), T => {
            let shift = contiguous(self.name(), <T as Real>::slice(shift)?, shift_layout)?;
            let units = contiguous(self.name(), <T as Real>::slice(units)?, units_layout)?;
            Ok((T::storage(self.forward(shift, units)), Shape::from((2, self.n, self.d))))
        })
    }

    fn bwd(
        &self,
        shift: &Tensor,
        units: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let op = self.name();
        with_real!(shift.dtype(), op, T => {
            let (to_shift, to_units) = with_slice::<T, _>(op, shift, |shift| {
                with_slice::<T, _>(op, units, |units| {
                    with_slice::<T, _>(op, res, |res| {
                        with_slice::<T, _>(op, grad, |grad| {
                            Ok(self.backward(shift, units, &res[self.n * self.d..], grad))
                        })
                    })
                })
            })?;
            Ok((Some(T::tensor(to_shift, shift.shape())?), Some(T::tensor(to_units, units.shape())?)))
        })
    }
}
