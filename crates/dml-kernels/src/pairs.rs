//! The matrix of all pairs of rows, with the way back from its gradient to the rows.
//!
//! A loss of pairs is a function of this matrix. As candle operations, each step of such a loss is a matrix of its own,
//! forward and backward. Here the matrix is computed once, outside the graph; the loss and its derivatives by the matrix
//! are worked out in one pass over its rows (see [`RowLoss`](crate::RowLoss) and [`TupleLoss`](crate::TupleLoss)); and
//! one node of the graph leads from the rows to the loss, whose backward pass is one or two matrix products.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{Matrix, column_sums, gemm, lane_sum, threads, vectorized, with_slice};
use crate::normalize::{dot, inverse_length, is_shortest};
use crate::real::{Real, on_cpu, with_real};

/// Squared distances below so many roundings of the squared norms cannot be told from 0.
const ROUNDINGS: f64 = 16.0;
/// A gradient with at most one entry in so many is multiplied entry by entry.
const SPARSE: usize = 64;
/// Matrices below this size are not worth a second thread.
const SHARE_FROM: usize = 16_384;

/// What entry (i, j) of a matrix of pairs says of the rows x_i and y_j.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pairing {
    /// ⟨x_i, y_j⟩.
    InnerProduct,
    /// ‖x_i − y_j‖ to a power above 0. What cannot be told from 0 is 0 with gradient 0.
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
    values: Arc<CpuStorage>,
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
    rows: CpuStorage,
    /// 1/‖row‖, or 0 for a row that was left as it is; empty without normalization.
    inverse: CpuStorage,
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
    /// Euclidean length first where `normalize` says so (a row shorter than 1e-12 is left as it is). `None` where these kernels do not apply: elsewhere than on
    /// the CPU, or for other element types than f32 and f64.
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
            let keep = |(rows, inverse)| Prepared { rows: T::storage(rows), inverse: T::storage(inverse) };
            let rows = Rows {
                x: x.clone(),
                y: y.cloned(),
                pairing,
                d,
                left: keep(left),
                right: right.map(keep),
            };
            let source = Source::Rows(Arc::new(rows));
            Ok(Some(Self { n, m, values: Arc::new(T::storage(values)), source }))
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
            with_slice::<T, _>("pairs", &host, |values| Ok(T::storage(values.to_vec())))?
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
        BackendStorage::dtype(&*self.values)
    }

    /// The values, row-major.
    pub fn values(&self) -> Vec<f64> {
        match &*self.values {
            CpuStorage::F64(values) => values.clone(),
            CpuStorage::F32(values) => values.iter().map(|&v| f64::from(v)).collect(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn storage(&self) -> &CpuStorage {
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
        let copy =
            with_real!(self.dtype(), "pairs", T => T::storage(<T as Real>::slice(&self.values)?.to_vec()));
        self.attach(copy, Shape::from((self.n, self.m)), T0::storage(Vec::new()), Per::Entry)
    }

    /// Values with given derivatives by the matrix, as a node of the graph.
    pub(crate) fn attach(
        &self,
        result: CpuStorage,
        shape: Shape,
        slopes: CpuStorage,
        per: Per,
    ) -> Result<Tensor> {
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
                let up = |storage: CpuStorage, shape: Shape| -> Result<Tensor> {
                    let host = with_real!(self.dtype(), "pairs", T => {
                        T::tensor(<T as Real>::slice(&storage)?.to_vec(), &shape)?
                    });
                    host.to_device(matrix.device())?.to_dtype(matrix.dtype())
                };
                let Some(result) = attached.take() else { bail!("attached: called twice") };
                let slopes = up(attached.slopes, Shape::from((self.n, self.m)))?;
                let carrier = ((matrix - matrix.detach())? * slopes)?;
                let carrier = if per == Per::Row { carrier.sum(1)? } else { carrier.sum_all()? };
                carrier.reshape(&attached.shape)? + up(result, attached.shape)?
            }
        }
    }
}

/// The element type of storages that hold nothing.
type T0 = f32;

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
    slopes: CpuStorage,
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

    /// The gradient of the matrix.
    fn gradient<T: Real>(&self, grad: &[T]) -> Result<Vec<T>> {
        Ok(match self.per {
            Per::Entry => grad.to_vec(),
            Per::Whole => {
                let slopes = T::slice(&self.slopes)?;
                let factor = grad.first().copied().unwrap_or(T::ZERO);
                let mut out = vec![T::ZERO; slopes.len()];
                by_rows(&mut out, self.matrix.m, |start, out| scaled(out, &slopes[start..], factor));
                out
            }
            Per::Row => {
                let (slopes, m) = (T::slice(&self.slopes)?, self.matrix.m.max(1));
                let mut out = vec![T::ZERO; slopes.len()];
                by_rows(&mut out, m, |start, out| {
                    let rows = out.chunks_exact_mut(m).zip(slopes[start..].chunks_exact(m));
                    for ((out, slopes), &factor) in rows.zip(&grad[start / m..]) {
                        scaled(out, slopes, factor);
                    }
                });
                out
            }
        })
    }
}

vectorized! {
    fn scaled<T: Real>(out: &mut [T], x: &[T], factor: T) {
        for (o, &v) in out.iter_mut().zip(x) {
            *o = v * factor;
        }
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
            let gradient = with_slice::<T, _>("attached", grad, |grad| self.gradient(grad))?;
            match &self.matrix.source {
                Source::Graph(_) => T::tensor(gradient, x.shape()).map(Some),
                Source::Rows(rows) => {
                    let (to_x, _) = rows.pull_back(<T as Real>::slice(&self.matrix.values)?, gradient, true, false)?;
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
            let gradient = with_slice::<T, _>("attached", grad, |grad| self.gradient(grad))?;
            let values = <T as Real>::slice(&self.matrix.values)?;
            let (to_x, to_y) = rows.pull_back(values, gradient, want_x, want_y)?;
            let to_x = want_x.then(|| T::tensor(to_x, x.shape())).transpose()?;
            let to_y = want_y.then(|| T::tensor(to_y, y.shape())).transpose()?;
            Ok((to_x, to_y))
        })
    }
}

impl Rows {
    /// From the gradient of the matrix to that of the rows.
    fn pull_back<T: Real>(
        &self,
        values: &[T],
        mut gradient: Vec<T>,
        want_x: bool,
        want_y: bool,
    ) -> Result<(Vec<T>, Vec<T>)> {
        let (d, a) = (self.d, T::slice(&self.left.rows)?);
        let b = match &self.right {
            Some(right) => T::slice(&right.rows)?,
            None => a,
        };
        let (n, m) = (a.len() / d, b.len() / d);
        let nonzero: usize = count_nonzero(&gradient);
        let euclidean = match self.pairing {
            Pairing::InnerProduct => None,
            Pairing::Euclidean { power } => Some(power),
        };
        let (mut to_a, mut to_b) = (vec![T::ZERO; a.len()], Vec::new());
        if self.right.is_some() {
            to_b = vec![T::ZERO; b.len()];
        }
        if nonzero * SPARSE <= n * m {
            let into_b = self.right.is_some();
            for i in 0..n {
                for j in 0..m {
                    let g = gradient[i * m + j];
                    if g == T::ZERO {
                        continue;
                    }
                    let (a, b) = (&a[i * d..(i + 1) * d], &b[j * d..(j + 1) * d]);
                    let factor = match euclidean {
                        None => g,
                        Some(power) => g * twice_slope(values[i * m + j], power),
                    };
                    // A row with itself may be both: one after the other.
                    add_pair(&mut to_a[i * d..(i + 1) * d], a, b, factor, euclidean.is_some());
                    let other = if into_b { &mut to_b } else { &mut to_a };
                    add_pair(&mut other[j * d..(j + 1) * d], b, a, factor, euclidean.is_some());
                }
            }
        } else {
            if let Some(power) = euclidean {
                by_rows(&mut gradient, m, |start, g| chain(g, &values[start..], power));
            }
            if self.right.is_none() {
                // Row i of the matrix and column i lead to the same row.
                let (sums, both) = with_transpose(&gradient, n);
                gemm(&mut to_a, Matrix::new(&both, n, n), Matrix::new(a, n, d), false, true);
                if euclidean.is_some() {
                    own_less_others(&mut to_a, a, &sums, d);
                }
            } else {
                let table = Matrix::new(&gradient, n, m);
                if want_x {
                    gemm(&mut to_a, table, Matrix::new(b, m, d), false, true);
                    if euclidean.is_some() {
                        let sums: Vec<T> = gradient.chunks_exact(m.max(1)).map(lane_sum).collect();
                        own_less_others(&mut to_a, a, &sums, d);
                    }
                }
                if want_y {
                    gemm(&mut to_b, table.t(), Matrix::new(a, n, d), false, true);
                    if euclidean.is_some() {
                        own_less_others(&mut to_b, b, &column_sums(&gradient, m), d);
                    }
                }
            }
        }
        let inverse = T::slice(&self.left.inverse)?;
        if !inverse.is_empty() && want_x {
            with_slice::<T, _>("pairs", &self.x, |x| {
                unnormalize(&mut to_a, x, inverse, d);
                Ok(())
            })?;
        }
        if let (Some(right), Some(y)) = (&self.right, &self.y)
            && want_y
        {
            let inverse = T::slice(&right.inverse)?;
            if !inverse.is_empty() {
                with_slice::<T, _>("pairs", y, |y| {
                    unnormalize(&mut to_b, y, inverse, d);
                    Ok(())
                })?;
            }
        }
        Ok((to_a, to_b))
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
fn prepare<T: Real>(x: &[T], d: usize, normalize: bool) -> (Vec<T>, Vec<T>) {
    let mut rows = x.to_vec();
    let mut inverse = Vec::new();
    if normalize {
        inverse = vec![T::ZERO; x.len() / d];
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
    /// (g − u⟨g, u⟩)/‖x‖, u = x/‖x‖, for rows that were normalized.
    fn unnormalize<T: Real>(gradient: &mut [T], x: &[T], inverse: &[T], d: usize) {
        for ((g, x), &scale) in gradient.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(inverse) {
            if scale > T::ZERO {
                let along = dot(g, x) * scale * scale;
                g.iter_mut().zip(x).for_each(|(g, &x)| *g = (*g - x * along) * scale);
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
fn all_pairs<T: Real>(a: &[T], b: &[T], d: usize, pairing: Pairing) -> Vec<T> {
    let (n, m) = (a.len() / d, b.len() / d);
    let mut out = vec![T::ZERO; n * m];
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
                *o = if square > floor * scale { square } else { T::ZERO };
            }
            if power == 1.0 {
                row.iter_mut().for_each(|o| *o = o.sqrt());
            } else if power != 2.0 {
                row.iter_mut().for_each(|o| *o = if *o > T::ZERO { o.powf(half) } else { T::ZERO });
            }
        }
    }
}

/// 2·dD/d(‖x − y‖²) at the distance D, 0 where D is 0.
#[inline(always)]
fn twice_slope<T: Real>(value: T, power: f64) -> T {
    if power == 2.0 {
        T::ONE + T::ONE
    } else if value > T::ZERO {
        if power == 1.0 {
            T::ONE / value
        } else {
            T::from_f64(power) * value.powf(T::from_f64((power - 2.0) / power))
        }
    } else {
        T::ZERO
    }
}

vectorized! {
    fn chain<T: Real>(gradient: &mut [T], values: &[T], power: f64) {
        if power == 1.0 {
            for (g, &v) in gradient.iter_mut().zip(values) {
                let slope = *g / v;
                *g = if v > T::ZERO { slope } else { T::ZERO };
            }
        } else {
            for (g, &v) in gradient.iter_mut().zip(values) {
                *g = *g * twice_slope(v, power);
            }
        }
    }
}

vectorized! {
    fn count_nonzero<T: Real>(x: &[T]) -> usize {
        let mut count = 0;
        for chunk in x.chunks(256) {
            let mut own = 0u32;
            for &v in chunk {
                own += u32::from(v != T::ZERO);
            }
            count += own as usize;
        }
        count
    }
}

vectorized! {
    /// `out += factor·(own − other)` for distances, `out += factor·other` for inner products.
    fn add_pair<T: Real>(out: &mut [T], own: &[T], other: &[T], factor: T, euclidean: bool) {
        if euclidean {
            for ((o, &x), &y) in out.iter_mut().zip(own).zip(other) {
                *o += factor * (x - y);
            }
        } else {
            for (o, &y) in out.iter_mut().zip(other) {
                *o += factor * y;
            }
        }
    }
}

vectorized! {
    /// `out = sum·own − out`, row by row.
    fn own_less_others<T: Real>(out: &mut [T], own: &[T], sums: &[T], d: usize) {
        for ((out, own), &sum) in out.chunks_exact_mut(d).zip(own.chunks_exact(d)).zip(sums) {
            out.iter_mut().zip(own).for_each(|(o, &x)| *o = sum * x - *o);
        }
    }
}

/// G + Gᵀ of a square matrix, and its row sums.
fn with_transpose<T: Real>(g: &[T], n: usize) -> (Vec<T>, Vec<T>) {
    let mut both = g.to_vec();
    by_rows(&mut both, n, |start, out| add_transpose(out, g, start / n.max(1), n));
    let sums = both.chunks_exact(n.max(1)).map(lane_sum).collect();
    (sums, both)
}

vectorized! {
    /// Tiles keep the lines of the transpose in the cache while they are read across.
    fn add_transpose<T: Real>(out: &mut [T], g: &[T], first: usize, n: usize) {
        const TILE: usize = 16;
        let rows = out.len() / n.max(1);
        let mut i0 = 0;
        while i0 < rows {
            let i1 = (i0 + TILE).min(rows);
            let mut j0 = 0;
            while j0 < n {
                let j1 = (j0 + TILE).min(n);
                for j in j0..j1 {
                    let column = &g[j * n + first + i0..j * n + first + i1];
                    for (i, &v) in column.iter().enumerate() {
                        out[(i0 + i) * n + j] += v;
                    }
                }
                j0 = j1;
            }
            i0 = i1;
        }
    }
}
