//! The matrix of all pairs of rows, with the way back from its gradient to the rows.
//!
//! A loss of pairs is a function of this matrix. As candle operations, each step of such a loss is a matrix of its own,
//! forward and backward. Here the matrix is computed once, outside the graph; the loss and its derivatives by the
//! matrix are worked out in one pass over its rows (see [`RowLoss`](crate::RowLoss) and
//! [`TupleLoss`](crate::TupleLoss)); and one node of the graph leads from the rows to the loss, whose backward pass is
//! one or two matrix products.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::buffer::{Buffer, Table};
use crate::cpu::{Matrix, column_sums, gemm, threads, vectorized, with_slice};
use crate::normalize::{dot, inverse_length, is_shortest};
use crate::real::{Real, on_cpu, with_real};
use backward::MatrixGradient;

mod backward;

/// Squared distances below so many roundings of the squared norms cannot be told from 0.
const ROUNDINGS: f64 = 16.0;
/// Matrices below this size are not worth a second thread.
const SHARE_FROM: usize = 16_384;

/// What entry (i, j) of a matrix of pairs says of the rows x_i and y_j.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pairing {
    /// ⟨x_i, y_j⟩.
    InnerProduct,
    /// ‖x_i − y_j‖ to a power above 0. What cannot be told from 0 is 0, with gradient 0 but for the square, whose
    /// gradient 2·(x_i − y_j) has no singularity.
    Euclidean {
        /// The power.
        power: f64,
    },
}

/// The values of all pairs, `[n, m]`, and where their gradient goes.
#[derive(Clone)]
pub struct PairMatrix {
    n: usize,
    m: usize,
    values: Arc<Table>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// The matrix is a node of the graph.
    Graph(Tensor),
    /// Only the rows are.
    Rows(Arc<Rows>),
}

/// The rows that the pairs are made of; one set where it is paired with itself.
struct Rows {
    x: Tensor,
    y: Option<Tensor>,
    pairing: Pairing,
    d: usize,
    left: Prepared,
    right: Option<Prepared>,
}

/// Rows as they enter the product: normalized and centered where that is asked for.
struct Prepared {
    rows: Table,
    /// 1/‖row‖, or 0 for a row that was left as it is; empty without normalization.
    inverse: Table,
}

impl fmt::Debug for PairMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Graph(_) => "graph".to_owned(),
            Source::Rows(rows) => format!("{:?}", rows.pairing),
        };
        write!(f, "PairMatrix({} × {}, {source})", self.n, self.m)
    }
}

impl PairMatrix {
    /// All pairs of the rows of `x` `[n, d]` with those of `y` `[m, d]`, or with one another; rows are divided by their
    /// Euclidean length first where `normalize` says so (a row shorter than 1e-12 is left as it is). `None` where these
    /// kernels do not apply: elsewhere than on the CPU, or for other element types than f32 and f64.
    ///
    /// # Errors
    /// When the shapes do not fit.
    ///
    /// ```
    /// # use {candle_core::{Device, Tensor}, dml_kernels::{PairMatrix, Pairing}};
    /// let x = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
    /// let matrix = PairMatrix::of_rows(&x, None, Pairing::Euclidean { power: 1.0 }, false)?.unwrap();
    /// assert_eq!(matrix.values(), [0.0, 5.0, 5.0, 0.0]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn of_rows(
        x: &Tensor,
        y: Option<&Tensor>,
        pairing: Pairing,
        normalize: bool,
    ) -> Result<Option<Self>> {
        let other = y.unwrap_or(x);
        let (Ok((n, d)), Ok((m, width))) = (x.dims2(), other.dims2()) else {
            bail!(
                "pairs: `x` has shape {:?} and `y` {:?}, expected [n, d] and [m, d]",
                x.dims(),
                other.dims()
            );
        };
        if d != width || d == 0 {
            bail!("pairs: `x` has {d} columns and `y` {width}, expected as many, at least one");
        }
        if !on_cpu(x) || !on_cpu(other) || x.dtype() != other.dtype() {
            return Ok(None);
        }
        with_real!(x.dtype(), "pairs", T => {
            let mut left = with_slice::<T, _>("pairs", x, |x| Ok(prepare(x, d, normalize)))?;
            let mut right = match y {
                None => None,
                Some(y) => Some(with_slice::<T, _>("pairs", y, |y| Ok(prepare(y, d, normalize)))?),
            };
            if matches!(pairing, Pairing::Euclidean { .. }) {
                let of = right.as_ref().map_or(&left.0, |(rows, _)| rows);
                let mean = column_sums(of, d);
                let share = <T as Real>::ONE / <T as Real>::from_f64(m.max(1) as f64);
                let mean: Vec<T> = mean.into_iter().map(|v| v * share).collect();
                subtract_from_rows(&mut left.0, &mean);
                if let Some((rows, _)) = &mut right {
                    subtract_from_rows(rows, &mean);
                }
            }
            let b = right.as_ref().map_or(&left.0, |(rows, _)| rows);
            let values = all_pairs(&left.0, b, d, pairing);
            let keep = |(rows, inverse)| Prepared { rows: Table::new(rows), inverse: Table::new(inverse) };
            let rows = Rows {
                x: x.clone(),
                y: y.cloned(),
                pairing,
                d,
                left: keep(left),
                right: right.map(keep),
            };
            let source = Source::Rows(Arc::new(rows));
            Ok(Some(Self { n, m, values: Arc::new(Table::new(values)), source }))
        })
    }

    /// A matrix `[n, m]` within a graph, of any device.
    ///
    /// # Errors
    /// When it is no matrix.
    pub fn of_graph(matrix: &Tensor) -> Result<Self> {
        let (n, m) = matrix.dims2()?;
        let dtype = if matrix.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let host = matrix.detach().to_device(&Device::Cpu)?.to_dtype(dtype)?;
        let values = with_real!(dtype, "pairs", T => {
            with_slice::<T, _>("pairs", &host, |values| Ok(Table::new(Buffer::copy_of(values))))?
        });
        Ok(Self { n, m, values: Arc::new(values), source: Source::Graph(matrix.clone()) })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.m
    }

    /// f32 or f64.
    pub fn dtype(&self) -> DType {
        self.values.dtype()
    }

    /// The values, row-major.
    pub fn values(&self) -> Vec<f64> {
        if let Ok(values) = self.values.slice::<f64>() {
            return values.to_vec();
        }
        self.entries::<f32>().iter().map(|&v| f64::from(v)).collect()
    }

    /// The values where they are of this type, row-major; nothing where they are of the other.
    pub fn entries<T: Real>(&self) -> &[T] {
        self.values.slice().unwrap_or(&[])
    }

    pub(crate) fn table(&self) -> &Table {
        &self.values
    }

    /// The matrix as a node of the graph, `[n, m]`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn tensor(&self) -> Result<Tensor> {
        if let Source::Graph(matrix) = &self.source {
            return Ok(matrix.clone());
        }
        let copy = with_real!(self.dtype(), "pairs", T => T::storage(self.values.slice::<T>()?.to_vec()));
        self.attach(copy, Shape::from((self.n, self.m)), Table::new(Buffer::<f32>::stale(0)), Per::Entry)
    }

    /// Values with given derivatives by the matrix, as a node of the graph.
    pub(crate) fn attach(&self, result: CpuStorage, shape: Shape, slopes: Table, per: Per) -> Result<Tensor> {
        let op = |matrix: Self| Attached { result: Mutex::new(Some(result)), shape, slopes, per, matrix };
        match &self.source {
            Source::Rows(rows) => match &rows.y {
                None => rows.x.apply_op1(op(self.clone())),
                Some(y) => rows.x.apply_op2(y, op(self.clone())),
            },
            Source::Graph(matrix) if on_cpu(matrix) => matrix.apply_op1(op(self.clone())),
            Source::Graph(matrix) => {
                // The second factor carries the gradient and is exactly 0.
                let attached = op(self.clone());
                let up = |host: Tensor| host.to_device(matrix.device())?.to_dtype(matrix.dtype());
                let Some(result) = attached.take() else { bail!("attached: called twice") };
                let (slopes, result) = with_real!(self.dtype(), "pairs", T => {
                    let slopes = attached.slopes.slice::<T>()?.to_vec();
                    let result = <T as Real>::slice(&result)?.to_vec();
                    (T::tensor(slopes, &Shape::from((self.n, self.m)))?, T::tensor(result, &attached.shape)?)
                });
                let slopes = up(slopes)?;
                let carrier = ((matrix - matrix.detach())? * slopes)?;
                let carrier = if per == Per::Row { carrier.sum(1)? } else { carrier.sum_all()? };
                carrier.reshape(&attached.shape)? + up(result)?
            }
        }
    }
}

/// What the slopes of an attached value belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Per {
    /// A value a row, each a function of its row of the matrix.
    Row,
    /// One value.
    Whole,
    /// The matrix itself: its gradient is the incoming one.
    Entry,
}

/// A node from the rows, or from the matrix, to values that are known already.
struct Attached {
    result: Mutex<Option<CpuStorage>>,
    shape: Shape,
    slopes: Table,
    per: Per,
    matrix: PairMatrix,
}

impl Attached {
    fn take(&self) -> Option<CpuStorage> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn forward(&self) -> Result<(CpuStorage, Shape)> {
        match self.take() {
            Some(result) => Ok((result, self.shape.clone())),
            None => bail!("attached: called twice"),
        }
    }

    /// The gradient of the matrix, from that of the result.
    fn gradient<'a, T: Real>(&'a self, grad: &'a [T]) -> Result<MatrixGradient<'a, T>> {
        Ok(match self.per {
            Per::Entry => MatrixGradient { slopes: grad, factors: None },
            Per::Whole | Per::Row => MatrixGradient { slopes: self.slopes.slice()?, factors: Some(grad) },
        })
    }
}

impl CustomOp1 for Attached {
    fn name(&self) -> &'static str {
        "attached"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_real!(self.matrix.dtype(), CustomOp1::name(self), T => {
            match &self.matrix.source {
                Source::Graph(_) => {
                    let mut gradient = vec![<T as Real>::ZERO; x.elem_count()];
                    with_slice::<T, _>("attached", grad, |grad| {
                        self.gradient(grad)?.write(&mut gradient, self.matrix.entries(), self.matrix.m, None);
                        Ok(())
                    })?;
                    T::tensor(gradient, x.shape()).map(Some)
                }
                Source::Rows(rows) => {
                    let values = self.matrix.values.slice()?;
                    let (to_x, _) = with_slice::<T, _>("attached", grad, |grad| {
                        rows.pull_back(values, self.gradient(grad)?, true, false)
                    })?;
                    T::tensor(to_x, x.shape()).map(Some)
                }
            }
        })
    }
}

impl CustomOp2 for Attached {
    fn name(&self) -> &'static str {
        "attached"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Source::Rows(rows) = &self.matrix.source else { bail!("attached: two operands without rows") };
        let (want_x, want_y) = (x.track_op(), y.track_op());
        with_real!(self.matrix.dtype(), CustomOp2::name(self), T => {
            let values = self.matrix.values.slice()?;
            let (to_x, to_y) = with_slice::<T, _>("attached", grad, |grad| {
                rows.pull_back(values, self.gradient(grad)?, want_x, want_y)
            })?;
            let to_x = want_x.then(|| T::tensor(to_x, x.shape())).transpose()?;
            let to_y = want_y.then(|| T::tensor(to_y, y.shape())).transpose()?;
            Ok((to_x, to_y))
        })
    }
}

/// Cuts a matrix into pieces of whole rows for all threads; several a thread, so that a late one holds up less.
pub(crate) fn by_rows<T: Send>(out: &mut [T], m: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let piece = piece_rows(out.len() / m.max(1), m) * m;
    if piece == 0 || piece >= out.len() {
        return f(0, out);
    }
    out.par_chunks_mut(piece).enumerate().for_each(|(i, out)| f(i * piece, out));
}

/// How many rows a piece has.
pub(crate) fn piece_rows(n: usize, m: usize) -> usize {
    if n * m < SHARE_FROM || threads() == 1 { n } else { n.div_ceil(4 * threads()) }
}

/// Rows, divided by their length where that is asked for, and the inverse lengths.
fn prepare<T: Real>(x: &[T], d: usize, normalize: bool) -> (Buffer<T>, Buffer<T>) {
    let mut rows = Buffer::copy_of(x);
    let mut inverse = Buffer::stale(0);
    if normalize {
        inverse = Buffer::zeros(x.len() / d);
        normalize_rows(&mut rows, &mut inverse, d);
    }
    (rows, inverse)
}

vectorized! {
    fn normalize_rows<T: Real>(rows: &mut [T], inverse: &mut [T], d: usize) {
        for (row, inverse) in rows.chunks_exact_mut(d).zip(inverse) {
            let scale = inverse_length(row);
            if !is_shortest(scale) {
                *inverse = scale;
                row.iter_mut().for_each(|v| *v = *v * scale);
            }
        }
    }
}

vectorized! {
    fn subtract_from_rows<T: Real>(rows: &mut [T], mean: &[T]) {
        for row in rows.chunks_exact_mut(mean.len().max(1)) {
            row.iter_mut().zip(mean).for_each(|(v, &m)| *v = *v - m);
        }
    }
}

vectorized! {
    fn squared_lengths<T: Real>(rows: &[T], d: usize, out: &mut [T]) {
        for (out, row) in out.iter_mut().zip(rows.chunks_exact(d)) {
            *out = dot(row, row);
        }
    }
}

/// The matrix of prepared rows.
fn all_pairs<T: Real>(a: &[T], b: &[T], d: usize, pairing: Pairing) -> Buffer<T> {
    let (n, m) = (a.len() / d, b.len() / d);
    let mut out = Buffer::stale(n * m);
    gemm(&mut out, Matrix::new(a, n, d), Matrix::new(b, m, d).t(), false, true);
    if let Pairing::Euclidean { power } = pairing {
        let (mut aa, mut bb) = (vec![T::ZERO; n], vec![T::ZERO; m]);
        squared_lengths(a, d, &mut aa);
        squared_lengths(b, d, &mut bb);
        by_rows(&mut out, m, |start, out| distances(out, &aa[start / m.max(1)..], &bb, power));
    }
    out
}

vectorized! {
    fn distances<T: Real>(out: &mut [T], aa: &[T], bb: &[T], power: f64) {
        let floor = T::from_f64(ROUNDINGS * T::EPSILON);
        let (two, half) = (T::ONE + T::ONE, T::from_f64(0.5 * power));
        for (row, &aa) in out.chunks_exact_mut(bb.len().max(1)).zip(aa) {
            for (o, &bb) in row.iter_mut().zip(bb) {
                let scale = aa + bb;
                let square = scale - two * *o;
                // Neither a NaN nor squares that overflow are a distance of 0.
                *o = if (square <= floor * scale) & (scale < T::ONE / T::ZERO) { T::ZERO } else { square };
            }
            if power == 1.0 {
                row.iter_mut().for_each(|o| *o = o.sqrt());
            } else if power != 2.0 {
                row.iter_mut().for_each(|o| *o = if *o == T::ZERO { T::ZERO } else { o.powf(half) });
            }
        }
    }
}
