//! Sums over leading dimensions, a row added to every row, and inner products of rows.
//!
//! candle differentiates a broadcast by a sum over the leading dimensions, and takes that sum one element after the
//! other; here either is one pass over memory.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{column_sums, contiguous, share, threads, vectorized, with_slices};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};

/// Σ over all dimensions but the last: `[…, k]` → `[k]`.
///
/// Rows are added in blocks and the blocks' sums after that, so rounding grows with the square root of the number
/// of rows.
///
/// # Errors
/// For a scalar.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::sum_leading};
/// let x = Tensor::new(&[[[1f32, 2.], [3., 4.]], [[5., 6.], [7., 8.]]], &Device::Cpu)?; // [2, 2, 2]
/// assert_eq!(sum_leading(&x)?.to_vec1::<f32>()?, [16., 20.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn sum_leading(x: &Tensor) -> Result<Tensor> {
    let Some((&k, leading)) = x.dims().split_last() else {
        bail!("sum_leading: `x` is a scalar, expected [..., k]");
    };
    if on_cpu(x) {
        return x.contiguous()?.apply_op1(SumLeading { k });
    }
    let rows = leading.iter().product::<usize>();
    x.reshape((rows, k))?.sum(0)
}

/// The row added to each row: `x` `[…, k]`, `row` `[k]` → `[…, k]`.
///
/// # Errors
/// When the shapes disagree.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::add_row};
/// let x = Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu)?;
/// let bias = Tensor::new(&[10f32, 20.], &Device::Cpu)?;
/// assert_eq!(add_row(&x, &bias)?.to_vec2::<f32>()?, [[11., 22.], [13., 24.]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn add_row(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    let k = x.dims().last().copied();
    if k != Some(row.elem_count()) || row.rank() != 1 {
        bail!("add_row: `x` has shape {:?} and `row` {:?}, expected [..., k] and [k]", x.dims(), row.dims());
    }
    if on_cpu(x) {
        return x.contiguous()?.apply_op2(&row.contiguous()?, AddRow);
    }
    x.broadcast_add(row)
}

/// ⟨a_i, b_i⟩ row by row: `[n, d]`, `[n, d]` → `[n]`.
///
/// # Errors
/// When the shapes disagree.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::row_dot};
/// let a = Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu)?;
/// assert_eq!(row_dot(&a, &a)?.to_vec1::<f32>()?, [5., 25.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn row_dot(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.rank() != 2 || a.dims() != b.dims() {
        bail!("row_dot: `a` has shape {:?} and `b` {:?}, expected [n, d] of both", a.dims(), b.dims());
    }
    if on_cpu(a) {
        return a.contiguous()?.apply_op2(&b.contiguous()?, RowDot);
    }
    (a * b)?.sum(D::Minus1)
}

struct SumLeading {
    k: usize,
}

impl SumLeading {
    fn forward<T: Real>(&self, x: &[T]) -> Vec<T> {
        const ROWS: usize = 256;
        const SHARE_FROM: usize = 1 << 16;
        let k = self.k.max(1);
        if x.len() <= ROWS * k {
            return column_sums(x, self.k);
        }
        let blocks =
            |x: &[T]| -> Vec<T> { x.chunks(ROWS * k).flat_map(|block| column_sums(block, k)).collect() };
        let sums: Vec<T> = if x.len() < SHARE_FROM || threads() == 1 {
            blocks(x)
        } else {
            // Whole blocks a thread, so that the sums do not depend on the threads.
            let piece = (x.len() / k).div_ceil(ROWS).div_ceil(threads()) * ROWS * k;
            x.par_chunks(piece).flat_map_iter(blocks).collect()
        };
        self.forward(&sums)
    }
}

impl CustomOp1 for SumLeading {
    fn name(&self) -> &'static str {
        "sum_leading"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, layout)?;
            Ok((T::storage(self.forward(x)), Shape::from(self.k)))
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.broadcast_as(x.shape())?.contiguous()?))
    }
}

struct AddRow;

vectorized! {
    fn add_to_rows<T: Real>(out: &mut [T], x: &[T], row: &[T]) {
        for (out, x) in out.chunks_exact_mut(row.len()).zip(x.chunks_exact(row.len())) {
            for ((o, &x), &r) in out.iter_mut().zip(x).zip(row) {
                *o = x + r;
            }
        }
    }
}

impl CustomOp2 for AddRow {
    fn name(&self) -> &'static str {
        "add_row"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        row: &CpuStorage,
        row_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, x_layout)?;
            let row = contiguous(self.name(), <T as Real>::slice(row)?, row_layout)?;
            let mut out = vec![<T as Real>::ZERO; x.len()];
            if !row.is_empty() {
                share(&mut out, row.len(), |start, out| add_to_rows(out, &x[start..], row));
            }
            Ok((T::storage(out), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        _: &Tensor,
        row: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_row = row.track_op().then(|| sum_leading(grad)).transpose()?;
        Ok((Some(grad.clone()), to_row))
    }
}

struct RowDot;

vectorized! {
    fn dots<T: Real>(out: &mut [T], a: &[T], b: &[T], d: usize) {
        for (out, (a, b)) in out.iter_mut().zip(a.chunks_exact(d).zip(b.chunks_exact(d))) {
            let mut lanes = [T::ZERO; 16];
            let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
            let mut sum = T::ZERO;
            for (&a, &b) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
                sum += a * b;
            }
            for (a, b) in a_chunks.zip(b_chunks) {
                for l in 0..16 {
                    lanes[l] += a[l] * b[l];
                }
            }
            for lane in lanes {
                sum += lane;
            }
            *out = sum;
        }
    }
}

vectorized! {
    fn scale_rows<T: Real>(out: &mut [T], x: &[T], scale: &[T], d: usize) {
        for ((out, x), &s) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(scale) {
            for (o, &x) in out.iter_mut().zip(x) {
                *o = s * x;
            }
        }
    }
}

impl CustomOp2 for RowDot {
    fn name(&self) -> &'static str {
        "row_dot"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, d) = (a_layout.dims()[0], a_layout.dims()[1]);
        with_real!(a.dtype(), self.name(), T => {
            let a = contiguous(self.name(), <T as Real>::slice(a)?, a_layout)?;
            let b = contiguous(self.name(), <T as Real>::slice(b)?, b_layout)?;
            let mut out = vec![<T as Real>::ZERO; n];
            dots(&mut out, a, b, d.max(1));
            Ok((T::storage(out), Shape::from(n)))
        })
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let op = self.name();
        with_real!(a.dtype(), op, T => {
            let scaled = |x: &Tensor| with_slices::<T, 2, _>(op, [x, grad], |[x, grad]| {
                let mut out = vec![<T as Real>::ZERO; x.len()];
                scale_rows(&mut out, x, grad, a.dim(1)?.max(1));
                T::tensor(out, a.shape())
            });
            let to_a = a.track_op().then(|| scaled(b)).transpose()?;
            Ok((to_a, b.track_op().then(|| scaled(a)).transpose()?))
        })
    }
}
