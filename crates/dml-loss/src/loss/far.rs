//! What losses over histograms and ranks share: the matrix in f64, turned so that larger is farther.

use std::sync::Arc;

use candle_core::Tensor;
use dml_kernels::PairMatrix;

use crate::{
    Batch, Distance, Error, Result,
    rows::{EachRow, InF64},
};

/// The matrix of a batch, signed so that larger is farther.
#[derive(Debug)]
pub(crate) struct Far {
    matrix: PairMatrix,
    /// 1 for distances, −1 for similarities.
    pub sign: f64,
    /// Least and largest value: those the distance can have, or for an unbounded one those of the batch.
    pub range: (f64, f64),
}

impl Far {
    /// `None` where there is nothing to compare.
    pub fn new(batch: &Batch, distance: &Arc<dyn Distance>) -> Result<Option<Self>> {
        if batch.nothing() {
            return Ok(None);
        }
        let matrix = batch.pairs(distance)?; // [n, m]
        let sign = if distance.larger_is_closer() { -1.0 } else { 1.0 };
        let range = match distance.range() {
            Some((low, high)) if sign > 0.0 => (low, high),
            Some((low, high)) => (-high, -low),
            None => {
                let ends = EachRow::new(|_, row: &[f64], found: &mut Vec<(f64, f64)>| {
                    let widen = |(low, high): (f64, f64), v: &f64| (low.min(sign * v), high.max(sign * v));
                    found.push(row.iter().fold((f64::INFINITY, f64::NEG_INFINITY), widen));
                });
                let widen = |(a, b): (f64, f64), (low, high): (f64, f64)| (a.min(low), b.max(high));
                matrix.map_rows(&ends)?.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), widen)
            }
        };
        Ok(Some(Self { matrix, sign, range }))
    }

    /// sign·matrix, row-major.
    pub fn values(&self) -> Vec<f64> {
        let mut values = self.matrix.values();
        values.iter_mut().for_each(|v| *v *= self.sign);
        values
    }

    /// What `f(i, far)` gives for each row.
    pub fn map_rows<O: Send>(&self, f: impl Fn(usize, &[f64]) -> O + Sync) -> Result<Vec<O>> {
        let each = EachRow::new(|i, row: &[f64], found: &mut Vec<O>| {
            let far: Vec<f64> = row.iter().map(|v| self.sign * v).collect();
            found.push(f(i, &far));
        });
        Ok(self.matrix.map_rows(&each)?)
    }

    /// `f(i, far, slopes)` is the loss of row i and leaves its derivatives by the far values behind: `[n]`.
    pub fn row_losses(&self, f: impl Fn(usize, &[f64], &mut [f64]) -> f64 + Sync) -> Result<Tensor> {
        Ok(self.matrix.row_losses(&InF64 { sign: self.sign, f }, None)?)
    }

    /// One value with its derivatives by the far values: `[1]`.
    pub fn whole(&self, value: f64, mut slopes: Vec<f64>) -> Result<Tensor> {
        slopes.iter_mut().for_each(|slope| *slope *= self.sign);
        Ok(self.matrix.attach_table(value, &slopes)?.reshape(1)?)
    }

    /// With the range the caller gives, in the distance's own units.
    pub fn within(mut self, range: Option<(f64, f64)>) -> Self {
        if let Some((low, high)) = range {
            self.range = if self.sign > 0.0 { (low, high) } else { (-high, -low) };
        }
        self
    }

    /// The range cut into bins: first edge and width, which is never 0.
    pub fn bins(&self, n: usize) -> (f64, f64) {
        let (low, high) = self.range;
        let width = (high - low) / n as f64;
        (low, if width > 0.0 { width } else { 1.0 })
    }
}

/// A range given in a configuration has its ends in order.
pub(crate) fn check_range(owner: &'static str, range: Option<(f64, f64)>) -> Result<()> {
    match range {
        Some((low, high)) if !(low < high && (high - low).is_finite()) => Err(Error::config(
            owner,
            "range",
            format!("[{low}, {high}]"),
            "a least and a larger finite value",
        )),
        _ => Ok(()),
    }
}
