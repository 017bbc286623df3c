//! The matrix of divergences from values and gradients around a pivot:
//!
//! D_ij = max(0, φ_i − ⟨x_i, g_j⟩ + (⟨g_j, y_j⟩ − φ_j)),
//!
//! one matrix product, with the rest in the pass that follows it while the rows are in the cache. In the backward
//! pass a mined loss leaves few entries a row, which are then taken one by one in place of two products.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{Matrix, contiguous, gemm, threads, vectorized, with_slice};
use crate::dispatch::on_cpu;
use crate::matmul::matmul;
use crate::real::{Real, with_real};
use crate::rows::matrix;

/// Divergences of all pairs of rows of one set: `shift` x − μ `[n, d]`, `value` φ_μ `[n]`, `grad` ∇φ_μ `[n, d]` →
/// `[n, n]`, without an entry below 0 and with a diagonal of zeros, both with gradient 0.
///
/// # Errors
/// When the shapes disagree.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::self_divergences};
/// let x = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
/// let (value, grad) = (x.sqr()?.sum(1)?, (&x * 2.0)?); // of ‖x‖²
/// assert_eq!(self_divergences(&x, &value, &grad)?.to_vec2::<f32>()?, [[0., 25.], [25., 0.]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn self_divergences(shift: &Tensor, value: &Tensor, grad: &Tensor) -> Result<Tensor> {
    const OP: &str = "self_divergences";
    let (n, d) = matrix(OP, "shift", shift)?;
    if value.dims() != [n] || grad.dims() != [n, d] {
        bail!(
            "{OP}: `value` has shape {:?}, `grad` {:?}, expected [{n}] and [{n}, {d}]",
            value.dims(),
            grad.dims()
        );
    }
    if on_cpu(shift) {
        return shift.contiguous()?.apply_op3(&value.contiguous()?, &grad.contiguous()?, OneSet { n, d });
    }
    let offset = ((grad * shift)?.sum(D::Minus1)? - value)?;
    native(shift, value, grad, &offset, true)
}

/// Divergences of the rows of one set from those of another, `out[i][j]` = D(x_i ‖ y_j): `shift` x − μ `[n, d]`,
/// `value` φ_μ(x) `[n]`, `grad` ∇φ_μ(y) `[m, d]`, `offset` ⟨∇φ_μ(y), y − μ⟩ − φ_μ(y) `[m]` → `[n, m]`, without an
/// entry below 0.
///
/// # Errors
/// When the shapes disagree.
pub fn cross_divergences(shift: &Tensor, value: &Tensor, grad: &Tensor, offset: &Tensor) -> Result<Tensor> {
    const OP: &str = "cross_divergences";
    let ((n, d), (m, columns)) = (matrix(OP, "shift", shift)?, matrix(OP, "grad", grad)?);
    if value.dims() != [n] || columns != d || offset.dims() != [m] {
        bail!(
            "{OP}: `shift` has shape {:?}, `value` {:?}, `grad` {:?}, `offset` {:?}; expected [n, d], [n], [m, d], [m]",
            shift.dims(),
            value.dims(),
            grad.dims(),
            offset.dims()
        );
    }
    if on_cpu(shift) {
        let constants = Tensor::cat(&[value, offset], 0)?; // [n + m]
        return shift.contiguous()?.apply_op3(&constants, &grad.contiguous()?, TwoSets { n, m, d });
    }
    native(shift, value, grad, offset, false)
}

fn native(
    shift: &Tensor,
    value: &Tensor,
    grad: &Tensor,
    offset: &Tensor,
    zero_diagonal: bool,
) -> Result<Tensor> {
    // The additive terms ride in the product as two more columns: candle differentiates a broadcast slowly.
    let (value, offset) = (value.unsqueeze(1)?, offset.unsqueeze(1)?);
    let ones = |t: &Tensor| Tensor::ones(t.shape(), t.dtype(), t.device());
    let first = Tensor::cat(&[&shift.contiguous()?, &value, &ones(&value)?], 1)?; // [n, d + 2]
    let second = Tensor::cat(&[&grad.neg()?.contiguous()?, &ones(&offset)?, &offset], 1)?; // [m, d + 2]
    clamp_divergences(&matmul(&first, &second.t()?)?, zero_diagonal)
}

/// Entries below zero, and with `zero_diagonal` the diagonal, become 0 with gradient 0, out of candle's operations.
fn clamp_divergences(x: &Tensor, zero_diagonal: bool) -> Result<Tensor> {
    let seen = x.detach();
    let mut mask = seen.lt(&seen.zeros_like()?)?;
    if zero_diagonal {
        mask = mask.maximum(&Tensor::eye(seen.dims()[0], DType::U8, seen.device())?)?;
    }
    mask.where_cond(&seen.zeros_like()?, x)
}

/// What both operations compute: `rows` and `cols` are φ_i and ⟨g_j, y_j⟩ − φ_j.
struct Product<'a, T> {
    shift: &'a [T],
    grad: &'a [T],
    rows: &'a [T],
    cols: &'a [T],
    d: usize,
    zero_diagonal: bool,
}

/// Rows of the matrix that a thread finishes at a time.
const BLOCK: usize = 256;

/// Rows of a thread's piece, for `work` multiplications in all.
fn piece(n: usize, work: usize) -> usize {
    const SHARE_FROM: usize = 1 << 19;
    if work < SHARE_FROM { n.max(1) } else { n.div_ceil(threads()).max(1) }
}

impl<T: Real> Product<'_, T> {
    fn forward(&self) -> Vec<T> {
        let (n, m, d) = (self.rows.len(), self.cols.len(), self.d);
        let mut out = vec![T::ZERO; n * m];
        if out.is_empty() {
            return out;
        }
        let grad = Matrix::new(self.grad, m, d).t();
        let piece = piece(n, n * m * d);
        let run = |(p, out): (usize, &mut [T])| {
            for (b, out) in out.chunks_mut(BLOCK * m).enumerate() {
                let (first, rows) = (p * piece + b * BLOCK, out.len() / m);
                let shift = Matrix::new(&self.shift[first * d..][..rows * d], rows, d);
                gemm(out, shift, grad, false, false);
                finish(out, &self.rows[first..][..rows], self.cols);
            }
        };
        if piece == n {
            run((0, &mut out));
        } else {
            out.par_chunks_mut(piece * m).enumerate().for_each(run);
        }
        if self.zero_diagonal {
            out.iter_mut().step_by(m + 1).for_each(|v| *v = T::ZERO);
        }
        out
    }

    /// The gradients of shift, grad, rows and cols. An entry that is 0 was clamped, or sits at the minimum of D,
    /// where the gradient is 0 anyway.
    fn backward(&self, res: &[T], on: &[T]) -> [Vec<T>; 4] {
        let (n, m, d) = (self.rows.len(), self.cols.len(), self.d);
        let (mut to_shift, mut to_grad) = (vec![T::ZERO; n * d], vec![T::ZERO; m * d]);
        let (mut to_rows, mut to_cols) = (vec![T::ZERO; n], vec![T::ZERO; m]);
        if n * m == 0 {
            return [to_shift, to_grad, to_rows, to_cols];
        }
        if let Some(entries) = few_entries(res, on, m) {
            for &(i, j, v) in &entries {
                let (i, j) = (i as usize, j as usize);
                to_rows[i] += v;
                to_cols[j] += v;
                subtract(&mut to_shift[i * d..][..d], &self.grad[j * d..][..d], v);
                subtract(&mut to_grad[j * d..][..d], &self.shift[i * d..][..d], v);
            }
            return [to_shift, to_grad, to_rows, to_cols];
        }
        let mut negative = vec![T::ZERO; n * m]; // −D̄, 0 where clamped
        let piece = piece(n, n * m * d);
        let grad = Matrix::new(self.grad, m, d);
        type Share<'s, T> = (usize, ((&'s mut [T], &'s mut [T]), &'s mut [T]));
        let run = |(p, ((negative, to_shift), to_rows)): Share<'_, T>| {
            let first = p * piece;
            let rows = to_rows.len();
            let mut to_cols = vec![T::ZERO; m];
            negate(negative, &res[first * m..], &on[first * m..], to_rows, &mut to_cols);
            gemm(to_shift, Matrix::new(negative, rows, m), grad, false, false);
            let mut to_grad = vec![T::ZERO; m * d];
            let shift = Matrix::new(&self.shift[first * d..][..rows * d], rows, d);
            gemm(&mut to_grad, Matrix::new(negative, rows, m).t(), shift, false, false);
            (to_grad, to_cols)
        };
        let shares: Vec<(Vec<T>, Vec<T>)> = if piece == n {
            vec![run((0, ((&mut negative, &mut to_shift), &mut to_rows)))]
        } else {
            let pieces = negative.par_chunks_mut(piece * m).zip(to_shift.par_chunks_mut(piece * d));
            pieces.zip(to_rows.par_chunks_mut(piece)).enumerate().map(run).collect()
        };
        for (i, (share_grad, share_cols)) in shares.into_iter().enumerate() {
            if i == 0 {
                (to_grad, to_cols) = (share_grad, share_cols);
            } else {
                add(&mut to_grad, &share_grad);
                add(&mut to_cols, &share_cols);
            }
        }
        [to_shift, to_grad, to_rows, to_cols]
    }
}

/// The entries of the gradient that are not 0, in order, where they are so few that products would mostly
/// multiply zeros; rows, columns, values.
fn few_entries<T: Real>(res: &[T], on: &[T], m: usize) -> Option<Vec<(u32, u32, T)>> {
    /// A product is so many times faster an entry than taking entries one by one.
    const FEW: usize = 24;
    let most = on.len() / FEW;
    let mut entries = Vec::new();
    for (i, (on, res)) in on.chunks_exact(m).zip(res.chunks_exact(m)).enumerate() {
        collect_entries(&mut entries, i, on, res);
        if entries.len() > most {
            return None;
        }
    }
    Some(entries)
}

vectorized! {
    fn collect_entries<T: Real>(entries: &mut Vec<(u32, u32, T)>, i: usize, on: &[T], res: &[T]) {
        const STRIDE: usize = 64;
        for (c, chunk) in on.chunks(STRIDE).enumerate() {
            let mut any = false;
            for &v in chunk {
                any |= v != T::ZERO;
            }
            if any {
                for (l, &v) in chunk.iter().enumerate() {
                    let j = c * STRIDE + l;
                    if v != T::ZERO && res[j] != T::ZERO {
                        entries.push((i as u32, j as u32, v));
                    }
                }
            }
        }
    }
}

vectorized! {
    /// max(0, row + col − product); not a number stays not a number, so that it is never taken for the closest.
    fn finish<T: Real>(products: &mut [T], rows: &[T], cols: &[T]) {
        for (products, &row) in products.chunks_exact_mut(cols.len()).zip(rows) {
            for (v, &col) in products.iter_mut().zip(cols) {
                let d = (row + col) - *v;
                *v = if d < T::ZERO { T::ZERO } else { d };
            }
        }
    }
}

vectorized! {
    /// −on where res is not 0, with the sums of on over rows and columns.
    fn negate<T: Real>(negative: &mut [T], res: &[T], on: &[T], rows: &mut [T], cols: &mut [T]) {
        let m = cols.len();
        let all = res.chunks_exact(m).zip(on.chunks_exact(m));
        for ((negative, row), (res, on)) in negative.chunks_exact_mut(m).zip(rows).zip(all) {
            for (((neg, &r), &g), col) in negative.iter_mut().zip(res).zip(on).zip(&mut *cols) {
                let g = if r == T::ZERO { T::ZERO } else { g };
                *neg = -g;
                *col += g;
            }
            *row = -crate::cpu::lane_sum(negative);
        }
    }
}

vectorized! {
    fn subtract<T: Real>(out: &mut [T], x: &[T], v: T) {
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = *o - v * x);
    }
}

vectorized! {
    fn add<T: Real>(out: &mut [T], x: &[T]) {
        out.iter_mut().zip(x).for_each(|(o, &x)| *o += x);
    }
}

vectorized! {
    /// ⟨grad, shift⟩ − value, row by row.
    fn offsets<T: Real>(out: &mut [T], shift: &[T], grad: &[T], value: &[T], d: usize) {
        let rows = shift.chunks_exact(d).zip(grad.chunks_exact(d)).zip(value);
        for (out, ((shift, grad), &value)) in out.iter_mut().zip(rows) {
            let mut lanes = [T::ZERO; 16];
            let (xs, gs) = (shift.chunks_exact(16), grad.chunks_exact(16));
            let mut sum = T::ZERO;
            for (&x, &g) in xs.remainder().iter().zip(gs.remainder()) {
                sum += x * g;
            }
            for (x, g) in xs.zip(gs) {
                for l in 0..16 {
                    lanes[l] += x[l] * g[l];
                }
            }
            for lane in lanes {
                sum += lane;
            }
            *out = sum - value;
        }
    }
}

struct OneSet {
    n: usize,
    d: usize,
}

impl OneSet {
    fn offsets<T: Real>(&self, shift: &[T], value: &[T], grad: &[T]) -> Vec<T> {
        let mut out = vec![T::ZERO; self.n];
        offsets(&mut out, shift, grad, value, self.d.max(1));
        out
    }
}

type Grads3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp3 for OneSet {
    fn name(&self) -> &'static str {
        "self_divergences"
    }

    fn cpu_fwd(
        &self,
        shift: &CpuStorage,
        shift_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(shift.dtype(), self.name(), T => {
            let shift = contiguous(self.name(), <T as Real>::slice(shift)?, shift_layout)?;
            let value = contiguous(self.name(), <T as Real>::slice(value)?, value_layout)?;
            let grad = contiguous(self.name(), <T as Real>::slice(grad)?, grad_layout)?;
            let offset = self.offsets(shift, value, grad);
            let product = Product { shift, grad, rows: value, cols: &offset, d: self.d, zero_diagonal: true };
            Ok((T::storage(product.forward()), Shape::from((self.n, self.n))))
        })
    }

    fn bwd(
        &self,
        shift: &Tensor,
        value: &Tensor,
        grad: &Tensor,
        res: &Tensor,
        on: &Tensor,
    ) -> Result<Grads3> {
        let op = self.name();
        let d = self.d.max(1);
        with_real!(shift.dtype(), op, T => {
            let [to_shift, to_grad, to_value] = with_slice::<T, _>(op, shift, |x| {
                with_slice::<T, _>(op, value, |value| {
                    with_slice::<T, _>(op, grad, |g| {
                        with_slice::<T, _>(op, res, |res| {
                            with_slice::<T, _>(op, on, |on| {
                                // The offsets themselves are not needed, only as many.
                                let product = Product { shift: x, grad: g, rows: value, cols: value, d: self.d, zero_diagonal: true };
                                let [mut to_shift, mut to_grad, mut to_rows, to_cols] = product.backward(res, on);
                                add_scaled(&mut to_shift, g, &to_cols, d);
                                add_scaled(&mut to_grad, x, &to_cols, d);
                                to_rows.iter_mut().zip(&to_cols).for_each(|(r, &c)| *r -= c);
                                Ok([to_shift, to_grad, to_rows])
                            })
                        })
                    })
                })
            })?;
            Ok((
                Some(T::tensor(to_shift, shift.shape())?),
                Some(T::tensor(to_value, value.shape())?),
                Some(T::tensor(to_grad, grad.shape())?),
            ))
        })
    }
}

vectorized! {
    /// Row i of `out` += scale_i · row i of `x`.
    fn add_scaled<T: Real>(out: &mut [T], x: &[T], scale: &[T], d: usize) {
        for ((out, x), &s) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(scale) {
            out.iter_mut().zip(x).for_each(|(o, &x)| *o += s * x);
        }
    }
}

/// The second operand holds the values, then the offsets.
struct TwoSets {
    n: usize,
    m: usize,
    d: usize,
}

impl CustomOp3 for TwoSets {
    fn name(&self) -> &'static str {
        "cross_divergences"
    }

    fn cpu_fwd(
        &self,
        shift: &CpuStorage,
        shift_layout: &Layout,
        constants: &CpuStorage,
        constants_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(shift.dtype(), self.name(), T => {
            let shift = contiguous(self.name(), <T as Real>::slice(shift)?, shift_layout)?;
            let constants = contiguous(self.name(), <T as Real>::slice(constants)?, constants_layout)?;
            let grad = contiguous(self.name(), <T as Real>::slice(grad)?, grad_layout)?;
            let (rows, cols) = constants.split_at(self.n);
            let product = Product { shift, grad, rows, cols, d: self.d, zero_diagonal: false };
            Ok((T::storage(product.forward()), Shape::from((self.n, self.m))))
        })
    }

    fn bwd(
        &self,
        shift: &Tensor,
        constants: &Tensor,
        grad: &Tensor,
        res: &Tensor,
        on: &Tensor,
    ) -> Result<Grads3> {
        let op = self.name();
        with_real!(shift.dtype(), op, T => {
            let [to_shift, to_grad, mut to_constants, to_cols] = with_slice::<T, _>(op, shift, |x| {
                with_slice::<T, _>(op, constants, |constants| {
                    with_slice::<T, _>(op, grad, |grad| {
                        with_slice::<T, _>(op, res, |res| {
                            with_slice::<T, _>(op, on, |on| {
                                let (rows, cols) = constants.split_at(self.n);
                                let product = Product { shift: x, grad, rows, cols, d: self.d, zero_diagonal: false };
                                Ok(product.backward(res, on))
                            })
                        })
                    })
                })
            })?;
            to_constants.extend(to_cols);
            Ok((
                Some(T::tensor(to_shift, shift.shape())?),
                Some(T::tensor(to_constants, constants.shape())?),
                Some(T::tensor(to_grad, grad.shape())?),
            ))
        })
    }
}
