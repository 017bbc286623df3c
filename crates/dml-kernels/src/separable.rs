//! The units of a separable convex function: values and slopes of all rows at once, without an `[n, d, k]` tensor.
//!
//! With z = z₀ + sδ, unit (j, k) contributes to row i, whose shift from the pivot is δ = δ_ij,
//!
//! value_ij += a·(softplus(z) − softplus(z₀) − σ(z₀)·s·δ),  slope_ij += a·s·(σ(z) − σ(z₀)),
//!
//! its own divergence from the pivot and the derivative of that. Neither changes when s and z₀ change their signs, for
//! softplus(z) − z = softplus(−z) and no divergence notices the affine z. So units right of their knee, where
//! softplus(z) is z and next to nothing besides, are taken mirrored, and that nothing keeps its digits. A unit costs an
//! exponential, a logarithm and a quotient in either pass; backward recomputes them, which is faster than reading them
//! back from memory.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{contiguous, lane_sum, threads, vectorized, with_slices};
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
    let sign = at_pivot.detach().gt(0.0)?.to_dtype(at_pivot.dtype())?.affine(-2.0, 1.0)?; // −1 mirrors
    let (scale, at_pivot) = ((scale * &sign)?, (at_pivot * &sign)?);
    let beside = shift.unsqueeze(2)?.broadcast_as((n, d, k))?.reshape((n, d * k))?;
    let delta = beside.broadcast_mul(&flat(&scale)?)?;
    let (z0, height) = (flat(&at_pivot)?, flat(height)?);
    let slope0 = sigmoid(&z0)?;
    let bend = (softplus_increment(&z0, &delta)? - delta.broadcast_mul(&slope0)?)?;
    let value = bend.broadcast_mul(&height)?.sum(D::Minus1)?;
    let slope = sigmoid(&delta.broadcast_add(&z0)?)?.broadcast_sub(&slope0)?;
    let weight = (height * flat(&scale)?)?;
    Ok((value, slope.broadcast_mul(&weight)?.reshape((n, d, k))?.sum(D::Minus1)?))
}

/// From `[n, d]` and `[3, d, k]` (s, z₀, a) to `[2, n, d]` (values, slopes).
struct Units {
    n: usize,
    d: usize,
    k: usize,
}

impl Units {
    /// The units of coordinate j.
    fn coordinate<T: Real>(&self, units: &[T], j: usize) -> impl Iterator<Item = Unit<T>> {
        let part = |p: usize| units[(p * self.d + j) * self.k..][..self.k].iter().copied();
        part(0).zip(part(1)).zip(part(2)).map(|((scale, at_pivot), height)| {
            let sign = if at_pivot > T::ZERO { -T::ONE } else { T::ONE };
            let (scale, at_pivot) = (sign * scale, sign * at_pivot);
            let (slope0, above0) = (sigmoid_of(at_pivot), above_kink(at_pivot));
            Unit { sign, scale, at_pivot, height, slope0, above0 }
        })
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
            for (j, out) in out.chunks_exact_mut(width).enumerate() {
                f(i * piece + j, out);
            }
        });
        out
    }

    /// Column j of a row-major `[n, d]` matrix.
    fn column<T: Real>(&self, x: &[T], j: usize) -> Vec<T> {
        x.iter().skip(j).step_by(self.d).copied().collect()
    }

    fn forward<T: Real>(&self, shift: &[T], units: &[T]) -> Vec<T> {
        let (n, d) = (self.n, self.d);
        let columns = self.columns(2 * n, |j, out| {
            let shift = self.column(shift, j);
            let (values, slopes) = out.split_at_mut(n);
            for unit in self.coordinate(units, j) {
                add_unit(&unit, &shift, values, slopes);
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
            let rows = Rows {
                shift: self.column(shift, j),
                grad_value: self.column(grad_value, j),
                grad_slope: self.column(grad_slope, j),
            };
            let slopes = self.column(slopes, j);
            let (to_shift, to_units) = out.split_at_mut(n);
            let mut terms = [(); 3].map(|()| vec![T::ZERO; n]);
            for (at, unit) in self.coordinate(units, j).enumerate() {
                unit_backward(&unit, &rows, to_shift, &mut terms);
                for ((p, terms), sign) in terms.iter().enumerate().zip([unit.sign, unit.sign, T::ONE]) {
                    to_units[p * k + at] = sign * lane_sum(terms);
                }
            }
            // `to_shift` holds ∂slope/∂δ so far.
            let grads = rows.grad_value.iter().zip(&rows.grad_slope);
            for ((o, &slope), (&gv, &gs)) in to_shift.iter_mut().zip(&slopes).zip(grads) {
                *o = gv * slope + gs * *o;
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

/// What the rows give one coordinate: shifts, and the gradients of values and slopes.
pub(crate) struct Rows<T> {
    shift: Vec<T>,
    grad_value: Vec<T>,
    grad_slope: Vec<T>,
}

/// One unit with z₀ ≤ 0, mirrored if need be, and what all rows share: σ(z₀) and log(1 + e^−|z₀|).
pub(crate) struct Unit<T> {
    sign: T, // −1 where s and z₀ are those of the mirrored unit
    scale: T,
    at_pivot: T,
    height: T,
    slope0: T,
    above0: T,
}

// Loops run over the rows, which are many and independent, so they fill the vector registers.

vectorized! {
    /// Adds the unit's values and slopes at all shifts.
    fn add_unit<T: Real>(unit: &Unit<T>, shift: &[T], values: &mut [T], slopes: &mut [T]) {
        let Unit { scale, at_pivot, height, slope0, above0, .. } = *unit;
        for ((value, slope), &delta) in values.iter_mut().zip(slopes).zip(shift) {
            let step = scale * delta;
            *value += height * (increment_of(at_pivot, above0, step) - slope0 * step);
            *slope += height * scale * (sigmoid_of(at_pivot + step) - slope0);
        }
    }
}

vectorized! {
    /// Adds ∂slope/∂δ of each row to `curvature`, and sets each row's terms of the gradients of s, z₀ and a.
    fn unit_backward<T: Real>(unit: &Unit<T>, rows: &Rows<T>, curvature: &mut [T], terms: &mut [Vec<T>; 3]) {
        let Unit { scale: s, at_pivot: z0, height: a, slope0: s0, above0, .. } = *unit;
        let bend0 = s0 * (T::ONE - s0);
        let [to_scale, to_pivot, to_height] = terms;
        let inputs = rows.shift.iter().zip(&rows.grad_value).zip(&rows.grad_slope);
        let outputs = curvature.iter_mut().zip(to_scale).zip(to_pivot).zip(to_height);
        for (((&delta, &gv), &gs), (((curvature, to_scale), to_pivot), to_height)) in inputs.zip(outputs) {
            let step = s * delta;
            let slope = sigmoid_of(z0 + step);
            let (rise, bend) = (slope - s0, slope * (T::ONE - slope));
            *curvature += a * s * s * bend;
            *to_scale = a * (gv * delta * rise + gs * (rise + step * bend));
            *to_pivot = a * (gv * (rise - bend0 * step) + gs * s * (bend - bend0));
            *to_height = gv * (increment_of(z0, above0, step) - s0 * step) + gs * s * rise;
        }
    }
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
            let found = with_slices::<T, 4, _>(op, [shift, units, res, grad], |[shift, units, res, grad]| {
                Ok(self.backward(shift, units, &res[self.n * self.d..], grad))
            });
            let (to_shift, to_units) = found?;
            Ok((Some(T::tensor(to_shift, shift.shape())?), Some(T::tensor(to_units, units.shape())?)))
        })
    }
}
