//! The matrix of all pairs of rows, with the way back from its gradient to the rows.
//!
//! A loss of pairs is a function of this matrix. As candle operations, each step of such a loss is a matrix of its own,
//! forward and backward. Here the matrix is computed once, outside the graph; the loss and its derivatives by the
//! matrix are worked out in one pass over its rows (see [`RowLoss`](crate::RowLoss) and
//! [`TupleLoss`](crate::TupleLoss)); and one node of the graph leads from the rows to the loss, whose backward pass is
//! one or two matrix products.
//!
//! # Digits
//! The matrix is one product around a point amid the rows, so an entry is a sum of terms that nearly cancel where a
//! distance is small beside them. How much cancels is known for each entry. Those that would keep less than four digits
//! (nine in f64) are *lost*, and computed anew from their two rows alone, value and gradient: distances between rows
//! here (`rows.rs`), divergences by the caller (`lifted.rs`).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, DType, Device, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::buffer::{Buffer, Table};
use crate::cpu::{threads, with_slice};
use crate::real::{Real, on_cpu, with_real};
use crate::variadic::{Results, Variadic, apply};
use gradient::MatrixGradient;
use lifted::Lifted;
use rows::Rows;

mod gradient;
mod lifted;
mod rows;

pub use lifted::{LiftedPairs, LiftedSide};

/// Matrices below this size are not worth a second thread.
const SHARE_FROM: usize = 16_384;

/// What entry (i, j) of a matrix of pairs says of the rows x_i and y_j.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pairing {
    /// ⟨x_i, y_j⟩.
    InnerProduct,
    /// ‖x_i − y_j‖ to a power above 0. Equal rows have distance 0 with gradient 0, also where a power below 2 has a
    /// singularity.
    Euclidean {
        /// The power.
        power: f64,
    },
}

/// When an entry is lost: where it is not above `share` of the terms that it is the difference of, or not above `least`,
/// next to the smallest number.
#[derive(Clone, Copy)]
pub(crate) struct Lost<T> {
    pub share: T,
    pub least: T,
}

impl<T: Real> Lost<T> {
    /// For inner products of `d` terms. They have an error of some roundings, which grows with d where all terms are of
    /// one sign, and an entry may have the relative error of its last digit kept: 5e-5 in f32, 1e-9 in f64.
    pub fn of_width(d: usize) -> Self {
        const LEAST: f64 = 4.0;
        const A_ROUNDING: f64 = 64.0; // terms
        const MOST: f64 = 40.0; // a product is summed in blocks
        let roundings = (LEAST + d as f64 / A_ROUNDING).min(MOST);
        let (kept, least) = if T::EPSILON > 1e-10 { (5e-5, 1e-33) } else { (1e-9, 1e-295) };
        Self { share: T::from_f64(roundings * T::EPSILON / kept), least: T::from_f64(least) }
    }

    /// Whether an entry is kept.
    #[inline(always)]
    pub fn keeps(self, entry: T, terms: T) -> bool {
        (entry > self.share * terms) & (entry > self.least)
    }
}

/// The place of an entry: its row and its column.
pub(crate) type Place = (u32, u32);

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
    /// Only vectors and constants of the rows are.
    Lifted(Arc<Lifted>),
}

impl fmt::Debug for PairMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Graph(_) => "graph".to_owned(),
            Source::Rows(rows) => format!("{:?}", rows.pairing),
            Source::Lifted(_) => "divergences".to_owned(),
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
    /// let x = Tensor::new(&[[0f32, 0.], [3., 4.], [1e6, 0.]], &Device::Cpu)?;
    /// let matrix = PairMatrix::of_rows(&x, None, Pairing::Euclidean { power: 1.0 }, false)?.unwrap();
    /// assert_eq!(matrix.values()[..2], [0.0, 5.0]);
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
        let (rows, values) = Rows::new(x, y, pairing, normalize)?;
        Ok(Some(Self { n, m, values: Arc::new(values), source: Source::Rows(Arc::new(rows)) }))
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
        if let Source::Graph(matrix) = &self.source
            && !on_cpu(matrix)
        {
            return self.attach_elsewhere(matrix, &result, &shape, &slopes, per);
        }
        let (args, wanted): (Vec<&Tensor>, Vec<bool>) = match &self.source {
            Source::Graph(matrix) => vec![matrix],
            Source::Rows(rows) => rows.args(),
            Source::Lifted(lifted) => lifted.args(),
        }
        .into_iter()
        .map(|arg| (arg, arg.track_op()))
        .unzip();
        let matrix = self.clone();
        let op = Attached { result: Mutex::new(Some((result, shape))), slopes, per, wanted, matrix };
        match apply(op, &args)?.pop() {
            Some(value) => Ok(value),
            None => bail!("attached: no result"),
        }
    }

    /// The same for a matrix of another device: the second factor carries the gradient and is exactly 0.
    fn attach_elsewhere(
        &self,
        matrix: &Tensor,
        result: &CpuStorage,
        shape: &Shape,
        slopes: &Table,
        per: Per,
    ) -> Result<Tensor> {
        let up = |host: Tensor| host.to_device(matrix.device())?.to_dtype(matrix.dtype());
        let (slopes, result) = with_real!(self.dtype(), "pairs", T => {
            let slopes = slopes.slice::<T>()?.to_vec();
            let result = <T as Real>::slice(result)?.to_vec();
            (T::tensor(slopes, &Shape::from((self.n, self.m)))?, T::tensor(result, shape)?)
        });
        let carrier = ((matrix - matrix.detach())? * up(slopes)?)?;
        let carrier = if per == Per::Row { carrier.sum(1)? } else { carrier.sum_all()? };
        carrier.reshape(shape)? + up(result)?
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
    result: Mutex<Option<(CpuStorage, Shape)>>,
    slopes: Table,
    per: Per,
    /// Which arguments a gradient is wanted of.
    wanted: Vec<bool>,
    matrix: PairMatrix,
}

impl Attached {
    /// The gradient of the matrix, from that of the result.
    fn gradient<'a, T: Real>(&'a self, grad: &'a [T]) -> Result<MatrixGradient<'a, T>> {
        Ok(match self.per {
            Per::Entry => MatrixGradient { slopes: grad, factors: None },
            Per::Whole | Per::Row => MatrixGradient { slopes: self.slopes.slice()?, factors: Some(grad) },
        })
    }
}

impl Variadic for Attached {
    const NAME: &'static str = "attached";
    type Kept = ();

    fn forward(&self, _: &[Tensor]) -> Result<(Results, ())> {
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Ok((vec![result], ())),
            None => bail!("attached: called twice"),
        }
    }

    fn backward(&self, args: &[Tensor], (): &(), grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(grad) = grads.first().and_then(Option::as_ref) else { return Ok(vec![None; args.len()]) };
        with_real!(self.matrix.dtype(), Self::NAME, T => {
            let values = self.matrix.values.slice::<T>()?;
            let gradients: Vec<Option<Vec<T>>> = with_slice::<T, _>(Self::NAME, grad, |grad| {
                let gradient = self.gradient(grad)?;
                match &self.matrix.source {
                    Source::Graph(_) => {
                        let mut to_matrix = vec![<T as Real>::ZERO; values.len()];
                        gradient.write(&mut to_matrix, values, self.matrix.m, None);
                        Ok(vec![Some(to_matrix)])
                    }
                    Source::Rows(rows) => rows.pull_back(values, gradient, &self.wanted),
                    Source::Lifted(lifted) => lifted.pull_back(values, gradient),
                }
            })?;
            let each = gradients.into_iter().zip(args);
            each.map(|(g, arg)| g.map(|g| T::tensor(g, arg.shape())).transpose()).collect()
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

/// As [`by_rows`], with what each piece finds, in the order of the pieces.
pub(crate) fn found_by_rows<T: Send, R: Send>(
    out: &mut [T],
    m: usize,
    f: impl Fn(usize, &mut [T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let piece = piece_rows(out.len() / m.max(1), m) * m;
    if piece == 0 || piece >= out.len() {
        return f(0, out);
    }
    let each: Vec<Vec<R>> = out.par_chunks_mut(piece).enumerate().map(|(i, out)| f(i * piece, out)).collect();
    each.into_iter().flatten().collect()
}

/// How many rows a piece has.
pub(crate) fn piece_rows(n: usize, m: usize) -> usize {
    if n * m < SHARE_FROM || threads() == 1 { n } else { n.div_ceil(4 * threads()) }
}
