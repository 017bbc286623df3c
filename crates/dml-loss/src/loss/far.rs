//! What losses over histograms and ranks share: the matrix on the host, turned so that larger is farther.

use candle_core::Tensor;

use crate::{Batch, Distance, Error, Result, tensor::download};

/// The matrix of a batch with its values on the host, signed so that larger is farther.
#[derive(Debug)]
pub(crate) struct Far {
    /// Within the graph, `[n, m]`.
    pub matrix: Tensor,
    /// sign·matrix, row-major.
    pub values: Vec<f64>,
    /// 1 for distances, −1 for similarities.
    pub sign: f64,
    /// The number of columns.
    pub m: usize,
    /// Least and largest value: those the distance can have, or for an unbounded one those of the batch.
    pub range: (f64, f64),
}

impl Far {
    /// `None` where there is nothing to compare.
    pub fn new(batch: &Batch, distance: &dyn Distance) -> Result<Option<Self>> {
        if batch.nothing() {
            return Ok(None);
        }
        let matrix = batch.all_pairs(distance)?; // [n, m]
        let sign = if distance.larger_is_closer() { -1.0 } else { 1.0 };
        let values: Vec<f64> = download(&matrix)?.into_iter().map(|v| sign * v).collect();
        let range = match distance.range() {
            Some((low, high)) if sign > 0.0 => (low, high),
            Some((low, high)) => (-high, -low),
            None => {
                let low = values.iter().copied().fold(f64::INFINITY, f64::min);
                (low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
            }
        };
        let m = matrix.dim(1)?;
        Ok(Some(Self { matrix, values, sign, m, range }))
    }

    /// With the range the caller gives, in the distance's own units.
    pub fn within(mut self, range: Option<(f64, f64)>) -> Self {
        if let Some((low, high)) = range {
            self.range = if self.sign > 0.0 { (low, high) } else { (-high, -low) };
        }
        self
    }

    /// The row of anchor i.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.m..(i + 1) * self.m]
    }

    /// The range cut into bins: first edge and width, which is never 0.
    pub fn bins(&self, n: usize) -> (f64, f64) {
        let (low, high) = self.range;
        let width = (high - low) / n as f64;
        (low, if width > 0.0 { width } else { 1.0 })
    }

    /// Slopes with respect to the far values as slopes with respect to the matrix.
    pub fn turned(&self, mut slopes: Vec<f64>) -> Vec<f64> {
        slopes.iter_mut().for_each(|slope| *slope *= self.sign);
        slopes
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
