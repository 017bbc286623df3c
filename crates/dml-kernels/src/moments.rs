//! Second moments of the columns of a matrix: the variances, and how far the covariances are from none.
//!
//! With X centered and C = XᵀX/(n − 1), value and gradient are a matrix product each: the gradient of any function of C is
//! X·(G + Gᵀ)/(n − 1), whose columns sum to 0 as those of X do, so centering asks for nothing more.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};

use crate::buffer::{Buffer, Table};
use crate::cpu::{Matrix, column_sums, contiguous, gemm, lane_sum, share, vectorized, with_slice};
use crate::dispatch::on_cpu;
use crate::matmul::matmul;
use crate::real::{Real, with_real};
use crate::variadic::{Results, Variadic, apply};

/// What [`column_moments`] returns.
#[derive(Debug, Clone)]
pub struct Moments {
    /// The variance of each column, `[d]`.
    pub variance: Tensor,
    /// Σ C_jk² over the covariances of different columns, j ≠ k, a scalar.
    pub covariance: Tensor,
}

/// Variances and squared covariances of the columns of `x` `[n, d]`, n − 1 below the line.
///
/// # Errors
/// For fewer than two rows, or when `x` is no matrix.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::column_moments};
/// let x = Tensor::new(&[[1f64, 0.], [3., 4.]], &Device::Cpu)?;
/// let moments = column_moments(&x)?;
/// assert_eq!(moments.variance.to_vec1::<f64>()?, [2., 8.]);
/// assert_eq!(moments.covariance.to_scalar::<f64>()?, 2. * 4. * 4.);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn column_moments(x: &Tensor) -> Result<Moments> {
    let (n, d) = match x.dims2() {
        Ok((n, d)) if n > 1 && d > 0 => (n, d),
        _ => bail!("column_moments: `x` has shape {:?}, expected [n, d] with two rows at least", x.dims()),
    };
    if on_cpu(x) {
        let mut results = apply(ColumnMoments { n, d }, &[&x.contiguous()?])?.into_iter();
        let (Some(variance), Some(covariance)) = (results.next(), results.next()) else {
            bail!("column_moments: results are missing");
        };
        return Ok(Moments { variance, covariance });
    }
    let share = 1.0 / (n as f64 - 1.0);
    let centered = x.broadcast_sub(&x.mean_keepdim(0)?)?; // [n, d]
    let table = (matmul(&centered.t()?.contiguous()?, &centered)? * share)?; // [d, d]
    let variance = (centered.sqr()?.sum(0)? * share)?; // [d]
    let other = Tensor::eye(d, x.dtype(), x.device())?.affine(-1.0, 1.0)?;
    Ok(Moments { variance, covariance: (table * other)?.sqr()?.sum_all()? })
}

/// ‖x_i − y_i‖² of each pair of rows: `[n, d]`, `[n, d]` → `[n]`.
///
/// # Errors
/// When the shapes differ.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::row_squared_distance};
/// let x = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
/// assert_eq!(row_squared_distance(&x, &x.zeros_like()?)?.to_vec1::<f32>()?, [0., 25.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn row_squared_distance(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.rank() != 2 || x.dims() != y.dims() || x.dtype() != y.dtype() {
        let (x, y) = (x.dims(), y.dims());
        bail!("row_squared_distance: `x` has shape {x:?} and `y` {y:?}, expected [n, d] of one type");
    }
    if on_cpu(x) && on_cpu(y) {
        return x.contiguous()?.apply_op2(&y.contiguous()?, RowSquaredDistance);
    }
    (x - y)?.sqr()?.sum(D::Minus1)
}

struct ColumnMoments {
    n: usize,
    d: usize,
}

/// What the backward pass needs.
struct Kept {
    /// X less the means of its columns.
    centered: Table,
    /// The covariances, 0 on the diagonal.
    covariance: Table,
}

vectorized! {
    fn less_row<T: Real>(out: &mut [T], x: &[T], row: &[T]) {
        for (out, x) in out.chunks_exact_mut(row.len()).zip(x.chunks_exact(row.len())) {
            for ((out, &x), &r) in out.iter_mut().zip(x).zip(row) {
                *out = x - r;
            }
        }
    }
}

vectorized! {
    fn squares<T: Real>(x: &[T], d: usize) -> T {
        let (mut sum, mut row) = (T::ZERO, vec![T::ZERO; d]);
        for x in x.chunks_exact(d) {
            row.iter_mut().zip(x).for_each(|(out, &x)| *out = x * x);
            sum += lane_sum(&row);
        }
        sum
    }
}

impl ColumnMoments {
    fn share<T: Real>(&self) -> T {
        T::from_f64(1.0 / (self.n as f64 - 1.0))
    }

    fn forward<T: Real>(&self, x: &[T]) -> (Results, Kept) {
        let Self { n, d } = *self;
        let inverse = T::from_f64(1.0 / n as f64);
        let mean: Vec<T> = column_sums(x, d).into_iter().map(|sum| sum * inverse).collect();
        let mut centered = Buffer::stale(n * d);
        share(&mut centered, d, |start, out| less_row(out, &x[start..], &mean));
        let mut table = Buffer::stale(d * d);
        let columns = Matrix::new(&centered, n, d);
        gemm(&mut table, columns.t(), columns, false, true);
        let scale = self.share::<T>();
        table.iter_mut().for_each(|v| *v = *v * scale);
        let mut variance = Vec::with_capacity(d);
        for v in table.iter_mut().step_by(d + 1) {
            variance.push(*v);
            *v = T::ZERO;
        }
        let covariance = vec![squares(&table, d)];
        let results = vec![(T::storage(variance), Shape::from(d)), (T::storage(covariance), Shape::from(()))];
        (results, Kept { centered: Table::new(centered), covariance: Table::new(table) })
    }

    /// X·M with M = (2·diag(g_variance) + 4·g_covariance·C)/(n − 1).
    fn backward<T: Real>(&self, kept: &Kept, variance: &[T], covariance: T) -> Result<Vec<T>> {
        let Self { n, d } = *self;
        let mut inner = Buffer::copy_of(kept.covariance.slice::<T>()?);
        let (share, two) = (self.share::<T>(), T::ONE + T::ONE);
        let factor = two * two * covariance * share;
        inner.iter_mut().for_each(|v| *v = *v * factor);
        inner.iter_mut().step_by(d + 1).zip(variance).for_each(|(v, &by)| *v = two * by * share);
        let mut out = vec![T::ZERO; n * d];
        let centered = kept.centered.slice::<T>()?;
        gemm(&mut out, Matrix::new(centered, n, d), Matrix::new(&inner, d, d), false, true);
        Ok(out)
    }
}

impl Variadic for ColumnMoments {
    const NAME: &'static str = "column_moments";
    type Kept = Kept;

    fn forward(&self, args: &[Tensor]) -> Result<(Results, Kept)> {
        with_real!(args[0].dtype(), Self::NAME, T => {
            with_slice::<T, _>(Self::NAME, &args[0], |x| Ok(self.forward(x)))
        })
    }

    fn backward(
        &self,
        args: &[Tensor],
        kept: &Kept,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        with_real!(args[0].dtype(), Self::NAME, T => {
            let values = |at: usize, len: usize| match grads.get(at) {
                Some(Some(grad)) => with_slice::<T, _>(Self::NAME, grad, |grad| Ok(grad.to_vec())),
                _ => Ok(vec![<T as Real>::ZERO; len]),
            };
            let (variance, covariance) = (values(0, self.d)?, values(1, 1)?);
            let out = self.backward(kept, &variance, covariance[0])?;
            Ok(vec![Some(T::tensor(out, args[0].shape())?)])
        })
    }
}

struct RowSquaredDistance;

vectorized! {
    fn squared_distances<T: Real>(out: &mut [T], x: &[T], y: &[T], d: usize) {
        let mut gaps = vec![T::ZERO; d];
        for (out, (x, y)) in out.iter_mut().zip(x.chunks_exact(d).zip(y.chunks_exact(d))) {
            for ((gap, &x), &y) in gaps.iter_mut().zip(x).zip(y) {
                *gap = (x - y) * (x - y);
            }
            *out = lane_sum(&gaps);
        }
    }
}

vectorized! {
    /// The gradients of x and of y, its negative.
    fn scaled_gaps<T: Real>(to_x: &mut [T], to_y: &mut [T], x: &[T], y: &[T], scale: &[T], d: usize) {
        let outs = to_x.chunks_exact_mut(d).zip(to_y.chunks_exact_mut(d));
        for (((to_x, to_y), (x, y)), &s) in outs.zip(x.chunks_exact(d).zip(y.chunks_exact(d))).zip(scale) {
            for ((to_x, to_y), (&x, &y)) in to_x.iter_mut().zip(to_y).zip(x.iter().zip(y)) {
                let by = (s + s) * (x - y);
                *to_x = by;
                *to_y = -by;
            }
        }
    }
}

impl CustomOp2 for RowSquaredDistance {
    fn name(&self) -> &'static str {
        "row_squared_distance"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, d) = (x_layout.dims()[0], x_layout.dims()[1]);
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, x_layout)?;
            let y = contiguous(self.name(), <T as Real>::slice(y)?, y_layout)?;
            let mut out = vec![<T as Real>::ZERO; n];
            squared_distances(&mut out, x, y, d.max(1));
            Ok((T::storage(out), Shape::from(n)))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (op, d) = (self.name(), x.dim(1)?.max(1));
        with_real!(x.dtype(), op, T => {
            let len = x.elem_count();
            let (mut to_x, mut to_y) = (vec![<T as Real>::ZERO; len], vec![<T as Real>::ZERO; len]);
            with_slice::<T, _>(op, x, |x| with_slice::<T, _>(op, y, |y| with_slice::<T, _>(op, grad, |grad| {
                scaled_gaps(&mut to_x, &mut to_y, x, y, grad, d);
                Ok(())
            })))?;
            let (to_x, to_y) = (T::tensor(to_x, x.shape())?, T::tensor(to_y, x.shape())?);
            Ok((x.track_op().then_some(to_x), y.track_op().then_some(to_y)))
        })
    }
}
