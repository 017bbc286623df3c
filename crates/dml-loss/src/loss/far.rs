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
    /// Least and largest value that the distance can have, where it is bounded.
    bounds: Option<(f64, f64)>,
}

impl Far {
    /// `None` where there is nothing to compare.
    pub fn new(batch: &Batch, distance: &Arc<dyn Distance>) -> Result<Option<Self>> {
        if batch.nothing() {
            return Ok(None);
        }
        let sign = if distance.larger_is_closer() { -1.0 } else { 1.0 };
        Ok(Some(Self { matrix: batch.pairs(distance)?, sign, bounds: distance.range() })) // [n, m]
    }

    /// Least and largest value: those that the caller gives, in the distance's own units, else those that the distance
    /// can have, else those of the batch.
    pub fn range(&self, owner: &'static str, given: Option<(f64, f64)>) -> Result<(f64, f64)> {
        match given.or(self.bounds) {
            Some((low, high)) if self.sign > 0.0 => return Ok((low, high)),
            Some((low, high)) => return Ok((-high, -low)),
            None => {}
        }
        // Not `min` and `max`, which would pass over a NaN.
        let widen = |(a, b): (f64, f64), (low, high): (f64, f64)| {
            (if low < a || low.is_nan() { low } else { a }, if high > b || high.is_nan() { high } else { b })
        };
        let nothing = (f64::INFINITY, f64::NEG_INFINITY);
        let ends = self.map_rows(|_, row| row.iter().map(|&v| (v, v)).fold(nothing, widen))?;
        let (low, high) = ends.into_iter().fold(nothing, widen);
        for (end, value) in [("least", low), ("largest", high)] {
            if !value.is_finite() {
                let value = self.sign * value;
                return Err(Error::Diverged {
                    op: owner,
                    what: format!("the {end} of all distances"),
                    value,
                });
            }
        }
        Ok((low, high))
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
}

/// A range cut into n bins: first edge and width, which is never 0.
pub(crate) fn bins((low, high): (f64, f64), n: usize) -> (f64, f64) {
    let width = (high - low) / n as f64;
    (low, if width > 0.0 { width } else { 1.0 })
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
