//! Losses of the rows of a [`PairMatrix`], value and derivatives in one pass over the matrix.
//!
//! A family of losses says what it is for one row, generic in the element type; the functions here run it over all rows
//! on all threads, compiled for the processor's wide registers (which needs the family's functions to be
//! `#[inline(always)]`). A row's result depends on that row alone, so results do not depend on the number of threads.

use candle_core::{CpuStorage, Device, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::buffer::{Buffer, Table};
use crate::cpu::{lane_sum, vectorized};
use crate::normalize::dot;
use crate::pairs::{PairMatrix, Per, piece_rows};
use crate::real::{Real, with_real};

/// A loss with one value for each row of the matrix, a function of that row.
pub trait RowLoss: Sync {
    /// How many numbers a row of `columns` entries needs to work with.
    fn scratch(&self, columns: usize) -> usize {
        let _ = columns;
        0
    }

    /// The loss of row `i`; its derivative by each entry goes to `slopes`, which is all 0 before. `scratch` holds
    /// whatever the row before left.
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T;
}

/// A loss with one value for each of many tuples (pairs, triplets) that belong to the rows of the matrix as their
/// anchors. The tuples are visited, never listed, so they may be more than fit in memory.
pub trait TupleLoss: Sync {
    /// As [`RowLoss::scratch`].
    fn scratch(&self, columns: usize) -> usize {
        let _ = columns;
        0
    }

    /// Number and sum of the losses of row `i`, and how many lie in the band.
    fn tally<T: Real>(&self, i: usize, row: &[T], band: Band<T>, scratch: &mut [T]) -> Tally;

    /// Σ weight·loss over the losses of row `i` in the band; the derivatives are added to `slopes`.
    fn weigh<T: Real>(
        &self,
        i: usize,
        row: &[T],
        weight: T,
        band: Band<T>,
        slopes: &mut [T],
        scratch: &mut [T],
    ) -> T;
}

/// Something to find out about each row.
pub trait RowMap: Sync {
    /// What is found.
    type Found: Send;

    /// Appends what row `i` gives.
    fn find<T: Real>(&self, i: usize, row: &[T], found: &mut Vec<Self::Found>);
}

/// The losses that count: above `low` and below `high`, where there are such bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band<T> {
    low: T,
    high: T,
}

impl<T: Real> Band<T> {
    /// Losses above `low` and below `high`.
    pub fn new(low: Option<f64>, high: Option<f64>) -> Self {
        // A comparison with NaN is false, so a bound that is NaN excludes nothing.
        let bound = |bound: Option<f64>| T::from_f64(bound.unwrap_or(f64::NAN));
        Self { low: bound(low), high: bound(high) }
    }

    /// Whether a loss counts.
    #[inline(always)]
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "a loss that is NaN counts, and is seen")]
    pub fn holds(&self, loss: T) -> bool {
        let (low, high) = (loss <= self.low, loss >= self.high);
        !(low | high)
    }
}

/// Numbers about the losses of one anchor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// How many there are.
    pub count: f64,
    /// Their sum.
    pub sum: f64,
    /// How many lie in the band.
    pub inside: f64,
}

impl Tally {
    /// Counts one more loss.
    #[inline(always)]
    pub fn add<T: Real>(&mut self, loss: T, band: Band<T>) {
        self.count += 1.0;
        self.sum += loss.to_f64();
        self.inside += if band.holds(loss) { 1.0 } else { 0.0 };
    }
}

/// Derivatives of one value by each entry of a matrix.
#[derive(Debug)]
pub struct Slopes(Table);

impl Slopes {
    /// Their sum over each row of `columns` entries.
    pub fn row_sums(&self, columns: usize) -> Vec<f64> {
        fn sums<T: Real>(values: &[T], columns: usize) -> Vec<f64> {
            values.chunks_exact(columns.max(1)).map(|row| lane_sum(row).to_f64()).collect()
        }
        match self.0.slice::<f64>() {
            Ok(values) => sums(values, columns),
            Err(_) => sums::<f32>(self.0.slice().unwrap_or(&[]), columns),
        }
    }
}

vectorized! {
    fn losses_of_rows<T: Real, F: RowLoss>(
        first: usize, rows: &[T], m: usize, losses: &mut [T], slopes: &mut [T], f: &F,
    ) {
        let mut scratch = vec![T::ZERO; f.scratch(m)];
        let each = rows.chunks_exact(m).zip(slopes.chunks_exact_mut(m)).zip(losses);
        for (i, ((row, slopes), loss)) in each.enumerate() {
            *loss = f.loss(first + i, row, slopes, &mut scratch);
        }
    }
}

vectorized! {
    fn tallies_of_rows<T: Real, F: TupleLoss>(
        first: usize, rows: &[T], m: usize, tallies: &mut [Tally], band: Band<T>, f: &F,
    ) {
        let mut scratch = vec![T::ZERO; f.scratch(m)];
        for (i, (row, tally)) in rows.chunks_exact(m).zip(tallies).enumerate() {
            *tally = f.tally(first + i, row, band, &mut scratch);
        }
    }
}

vectorized! {
    fn weighed_rows<T: Real, F: TupleLoss>(
        first: usize, rows: &[T], m: usize, sums: &mut [f64], slopes: &mut [T], counts: (&[f64], Band<T>), f: &F,
    ) {
        let mut scratch = vec![T::ZERO; f.scratch(m)];
        let each = rows.chunks_exact(m).zip(slopes.chunks_exact_mut(m)).zip(sums).zip(counts.0);
        for (i, (((row, slopes), sum), &weight)) in each.enumerate() {
            if weight != 0.0 {
                *sum = f.weigh(first + i, row, T::from_f64(weight), counts.1, slopes, &mut scratch).to_f64();
            }
        }
    }
}

vectorized! {
    fn found_in_rows<T: Real, F: RowMap>(first: usize, rows: &[T], m: usize, found: &mut Vec<F::Found>, f: &F) {
        for (i, row) in rows.chunks_exact(m).enumerate() {
            f.find(first + i, row, found);
        }
    }
}

vectorized! {
    fn dots_of_rows<T: Real>(a: &[T], b: &[T], m: usize, out: &mut [T]) {
        for (out, (a, b)) in out.iter_mut().zip(a.chunks_exact(m).zip(b.chunks_exact(m))) {
            *out = dot(a, b);
        }
    }
}

impl PairMatrix {
    /// The loss of each row, `[n]`, as one node of the graph.
    ///
    /// Where the loss is a function of exp(s)·matrix with a learned scalar s, hand in s as `log_scale`: its derivative
    /// is Σ_j slope_j·entry_j.
    ///
    /// # Errors
    /// When candle fails.
    pub fn row_losses<F: RowLoss>(&self, f: &F, log_scale: Option<&Tensor>) -> Result<Tensor> {
        let (n, m) = (self.rows(), self.columns());
        with_real!(self.dtype(), "row_losses", T => {
            let values = self.table().slice::<T>()?;
            let mut losses = vec![<T as Real>::ZERO; n];
            let mut slopes = Buffer::<T>::zeros(n * m);
            let piece = piece_rows(n, m).max(1);
            if piece < n {
                let both = losses.par_chunks_mut(piece).zip(slopes.par_chunks_mut(piece * m.max(1)));
                both.enumerate().for_each(|(k, (losses, slopes))| {
                    losses_of_rows(k * piece, &values[k * piece * m..], m.max(1), losses, slopes, f);
                });
            } else {
                losses_of_rows(0, values, m.max(1), &mut losses, &mut slopes, f);
            }
            let mut by_scale = Vec::new();
            if log_scale.is_some() {
                by_scale = vec![<T as Real>::ZERO; n];
                dots_of_rows(&slopes, values, m.max(1), &mut by_scale);
            }
            let losses = self.attach(T::storage(losses), Shape::from(n), Table::new(slopes), Per::Row)?;
            with_scale(losses, T::storage(by_scale), log_scale)
        })
    }

    /// Number and sum of the losses of each row, and how many lie above `low` and below `high`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn tally<F: TupleLoss>(&self, f: &F, low: Option<f64>, high: Option<f64>) -> Result<Vec<Tally>> {
        let (n, m) = (self.rows(), self.columns());
        let mut tallies = vec![Tally::default(); n];
        with_real!(self.dtype(), "tally", T => {
            let (values, band) = (self.table().slice::<T>()?, Band::<T>::new(low, high));
            let piece = piece_rows(n, m).max(1);
            if piece < n {
                tallies.par_chunks_mut(piece).enumerate().for_each(|(k, tallies)| {
                    tallies_of_rows(k * piece, &values[k * piece * m..], m.max(1), tallies, band, f);
                });
            } else {
                tallies_of_rows(0, values, m.max(1), &mut tallies, band, f);
            }
        });
        Ok(tallies)
    }

    /// No derivatives yet.
    ///
    /// # Errors
    /// When candle fails.
    pub fn slopes(&self) -> Result<Slopes> {
        let len = self.rows() * self.columns();
        with_real!(self.dtype(), "slopes", T => Ok(Slopes(Table::new(Buffer::<T>::zeros(len)))))
    }

    /// `Σ_i weights[i]·(the losses of row i in the band)`; the derivatives are added to `slopes`.
    ///
    /// # Errors
    /// When there is not a weight a row.
    pub fn weigh<F: TupleLoss>(
        &self,
        f: &F,
        weights: &[f64],
        low: Option<f64>,
        high: Option<f64>,
        slopes: &mut Slopes,
    ) -> Result<f64> {
        let (n, m) = (self.rows(), self.columns());
        if weights.len() != n {
            bail!("weigh: {} weights, expected {n}, one a row", weights.len());
        }
        let mut sums = vec![0.0; n];
        with_real!(self.dtype(), "weigh", T => {
            let (values, band) = (self.table().slice::<T>()?, Band::<T>::new(low, high));
            let slopes = slopes.0.slice_mut::<T>()?;
            let piece = piece_rows(n, m).max(1);
            if piece < n {
                let both = sums.par_chunks_mut(piece).zip(slopes.par_chunks_mut(piece * m.max(1)));
                both.zip(weights.par_chunks(piece)).enumerate().for_each(|(k, ((sums, slopes), weights))| {
                    weighed_rows(k * piece, &values[k * piece * m..], m.max(1), sums, slopes, (weights, band), f);
                });
            } else {
                weighed_rows(0, values, m.max(1), &mut sums, slopes, (weights, band), f);
            }
        });
        Ok(sums.iter().sum())
    }

    /// A value with its derivatives, a scalar node of the graph. `log_scale` as in [`row_losses`](Self::row_losses).
    ///
    /// # Errors
    /// When candle fails.
    pub fn attach_value(&self, value: f64, slopes: Slopes, log_scale: Option<&Tensor>) -> Result<Tensor> {
        let m = self.columns().max(1);
        with_real!(self.dtype(), "attach_value", T => {
            let mut by_scale = Vec::new();
            if log_scale.is_some() {
                let mut rows = vec![<T as Real>::ZERO; self.rows()];
                dots_of_rows(slopes.0.slice::<T>()?, self.table().slice::<T>()?, m, &mut rows);
                let sum: f64 = rows.iter().map(|&v| Real::to_f64(v)).sum();
                by_scale.push(<T as Real>::from_f64(sum));
            }
            let value = T::storage(vec![<T as Real>::from_f64(value)]);
            let value = self.attach(value, Shape::from(()), slopes.0, Per::Whole)?;
            with_scale(value, T::storage(by_scale), log_scale)
        })
    }

    /// A value with derivatives worked out elsewhere, row-major, a scalar node of the graph.
    ///
    /// # Errors
    /// When there is not a derivative for each entry.
    pub fn attach_table(&self, value: f64, slopes: &[f64]) -> Result<Tensor> {
        if slopes.len() != self.rows() * self.columns() {
            bail!("attach_table: {} derivatives, expected {}", slopes.len(), self.rows() * self.columns());
        }
        let table = with_real!(self.dtype(), "attach_table", T => {
            let mut table = Buffer::<T>::stale(slopes.len());
            table.iter_mut().zip(slopes).for_each(|(out, &v)| *out = <T as Real>::from_f64(v));
            Table::new(table)
        });
        self.attach_value(value, Slopes(table), None)
    }

    /// What each row gives, in the order of the rows.
    ///
    /// # Errors
    /// When candle fails.
    pub fn map_rows<F: RowMap>(&self, f: &F) -> Result<Vec<F::Found>> {
        let (n, m) = (self.rows(), self.columns());
        with_real!(self.dtype(), "map_rows", T => {
            let values = self.table().slice::<T>()?;
            let piece = piece_rows(n, m).max(1);
            if m == 0 || piece >= n {
                let mut found = Vec::new();
                found_in_rows(0, values, m.max(1), &mut found, f);
                return Ok(found);
            }
            let pieces: Vec<Vec<F::Found>> = values
                .par_chunks(piece * m)
                .enumerate()
                .map(|(k, rows)| {
                    let mut found = Vec::new();
                    found_in_rows(k * piece, rows, m, &mut found, f);
                    found
                })
                .collect();
            Ok(pieces.into_iter().flatten().collect())
        })
    }
}

/// Adds a term that is 0 and whose derivative by s is `by_scale`.
fn with_scale(losses: Tensor, by_scale: CpuStorage, log_scale: Option<&Tensor>) -> Result<Tensor> {
    let Some(s) = log_scale else { return Ok(losses) };
    let by_scale = match by_scale {
        CpuStorage::F64(values) => Tensor::from_vec(values, losses.shape(), &Device::Cpu)?,
        CpuStorage::F32(values) => Tensor::from_vec(values, losses.shape(), &Device::Cpu)?,
        _ => bail!("row_losses: element type is not f32 or f64"),
    };
    let by_scale = by_scale.to_device(losses.device())?.to_dtype(losses.dtype())?;
    let zero = (s - s.detach())?.to_dtype(losses.dtype())?;
    losses + by_scale.broadcast_mul(&zero)?
}
