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
use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::convex_network::ConvexActivation;
use crate::cpu::{contiguous, lane_sum, share, threads, vectorized, with_slices};
use crate::real::{Real, on_cpu, with_real};
use crate::softplus::{Rise, above_kink, rise_from, sigmoid_of};
use crate::unit_divergence::{native, step_of, unit_divergence};

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
    let (z0, height) = (flat(at_pivot)?.broadcast_as((n, d * k))?, flat(height)?);
    let (_, bend, growth) = native(ConvexActivation::Softplus, &z0, &delta)?;
    let value = bend.broadcast_mul(&height)?.sum(D::Minus1)?;
    let weight = (height * flat(scale)?)?;
    Ok((value, growth.broadcast_mul(&weight)?.reshape((n, d, k))?.sum(D::Minus1)?))
}

/// Σ_jk a·D_softplus(z + s·step ‖ z) with z = s·at + knee, to the relative precision of the step: `step` and `at`
/// `[n, d]`; `scale` s, `knee` and `height` a, each `[d, k]` → `[n]`.
///
/// # Errors
/// When the shapes disagree.
pub fn separable_divergence(
    step: &Tensor,
    at: &Tensor,
    scale: &Tensor,
    knee: &Tensor,
    height: &Tensor,
) -> Result<Tensor> {
    let (n, d) = crate::rows::matrix("separable_divergence", "step", step)?;
    let (_, k) = crate::rows::matrix("separable_divergence", "scale", scale)?;
    if at.dims() != [n, d] || [scale, knee, height].iter().any(|t| t.dims() != [d, k]) {
        bail!(
            "separable_divergence: `at` has shape {:?}, `scale` {:?}, `knee` {:?}, `height` {:?}; expected [{n}, {d}] \
             and [{d}, k] each",
            at.dims(),
            scale.dims(),
            knee.dims(),
            height.dims()
        );
    }
    if on_cpu(step) {
        let units = Tensor::stack(&[scale, knee, height], 0)?; // [3, d, k]
        let (step, at) = (step.contiguous()?, at.contiguous()?);
        return step.apply_op3(&at, &units, PairedUnits { d, k })?.sum(D::Minus1);
    }
    let flat = |t: &Tensor| t.reshape((1, d * k));
    let beside = |t: &Tensor| t.unsqueeze(2)?.broadcast_as((n, d, k))?.reshape((n, d * k));
    let step = beside(step)?.broadcast_mul(&flat(scale)?)?;
    let z = beside(at)?.broadcast_mul(&flat(scale)?)?.broadcast_add(&flat(knee)?)?;
    let (_, each) = unit_divergence(ConvexActivation::Softplus, &z, &step)?;
    each.broadcast_mul(&flat(height)?)?.sum(D::Minus1)
}

/// From `[n, d]` (steps), `[n, d]` (points) and `[3, d, k]` (s, knee, a) to `[n, d]`, a sum over the units of each
/// coordinate.
struct PairedUnits {
    d: usize,
    k: usize,
}

impl PairedUnits {
    /// s, knee and a of unit (j, k).
    fn unit<T: Real>(&self, units: &[T], j: usize, k: usize) -> [f64; 3] {
        let part = |p: usize| units[(p * self.d + j) * self.k + k].to_f64();
        [part(0), part(1), part(2)]
    }
}

impl CustomOp3 for PairedUnits {
    fn name(&self) -> &'static str {
        "separable_divergence"
    }

    fn cpu_fwd(
        &self,
        step: &CpuStorage,
        step_layout: &Layout,
        at: &CpuStorage,
        at_layout: &Layout,
        units: &CpuStorage,
        units_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(step.dtype(), self.name(), T => {
            let step = contiguous(self.name(), <T as Real>::slice(step)?, step_layout)?;
            let at = contiguous(self.name(), <T as Real>::slice(at)?, at_layout)?;
            let units = contiguous(self.name(), <T as Real>::slice(units)?, units_layout)?;
            let mut out = vec![<T as Real>::ZERO; step.len()];
            share(&mut out, 1, |start, out| {
                for (i, out) in (start..).zip(out) {
                    let (step, at) = (Real::to_f64(step[i]), Real::to_f64(at[i]));
                    let each = (0..self.k).map(|k| {
                        let [scale, knee, height] = self.unit(units, i % self.d, k);
                        height * step_of(ConvexActivation::Softplus, scale * at + knee, scale * step).divergence
                    });
                    *out = <T as Real>::from_f64(each.sum());
                }
            });
            Ok((T::storage(out), step_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        step: &Tensor,
        at: &Tensor,
        units: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let op = self.name();
        with_real!(step.dtype(), op, T => {
            let found = with_slices::<T, 4, _>(op, [step, at, units, grad], |[step, at, units, grad]| {
                Ok(self.backward(step, at, units, grad))
            })?;
            let [to_step, to_at, to_units] = found;
            Ok((
                Some(T::tensor(to_step, step.shape())?),
                Some(T::tensor(to_at, at.shape())?),
                Some(T::tensor(to_units, units.shape())?),
            ))
        })
    }
}

impl PairedUnits {
    /// The gradients of steps, points and units, a coordinate at a time.
    fn backward<T: Real>(&self, step: &[T], at: &[T], units: &[T], grad: &[T]) -> [Vec<T>; 3] {
        let (d, k) = (self.d, self.k);
        let n = step.len() / d.max(1);
        let coordinate = |j: usize| -> (Vec<[T; 2]>, Vec<[f64; 3]>) {
            let (mut rows, mut sums) = (Vec::with_capacity(n), vec![[0.0; 3]; k]);
            for i in 0..n {
                let [step, at, g] = [step, at, grad].map(|t| t[i * d + j].to_f64());
                let (mut to_step, mut to_at) = (0.0, 0.0);
                if g != 0.0 {
                    for (k, sums) in sums.iter_mut().enumerate() {
                        let [scale, knee, height] = self.unit(units, j, k);
                        let unit = step_of(ConvexActivation::Softplus, scale * at + knee, scale * step);
                        let (by_step, by_z) = (unit.growth, unit.growth - unit.turn);
                        to_step += g * height * scale * by_step;
                        to_at += g * height * scale * by_z;
                        sums[0] += g * height * (by_step * step + by_z * at);
                        sums[1] += g * height * by_z;
                        sums[2] += g * unit.divergence;
                    }
                }
                rows.push([T::from_f64(to_step), T::from_f64(to_at)]);
            }
            (rows, sums)
        };
        let columns: Vec<_> = (0..d).into_par_iter().map(coordinate).collect();
        let [mut to_step, mut to_at] = [vec![T::ZERO; n * d], vec![T::ZERO; n * d]];
        let mut to_units = vec![T::ZERO; 3 * d * k];
        for (j, (rows, sums)) in columns.into_iter().enumerate() {
            for (i, [a, b]) in rows.into_iter().enumerate() {
                (to_step[i * d + j], to_at[i * d + j]) = (a, b);
            }
            for (k, sums) in sums.into_iter().enumerate() {
                for (p, sum) in sums.into_iter().enumerate() {
                    to_units[(p * d + j) * self.k + k] = T::from_f64(sum);
                }
            }
        }
        [to_step, to_at, to_units]
    }
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
            let Rise { bend, growth, .. } = rise_from(at_pivot, slope0, above0, step);
            *value += height * bend;
            *slope += height * scale * growth;
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
            let Rise { bend: own, growth: rise, .. } = rise_from(z0, s0, above0, step);
            let slope = s0 + rise;
            let bend = slope * (T::ONE - slope);
            *curvature += a * s * s * bend;
            *to_scale = a * (gv * delta * rise + gs * (rise + step * bend));
            *to_pivot = a * (gv * (rise - bend0 * step) + gs * s * (bend - bend0));
            *to_height = gv * own + gs * s * rise;
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
