//! The value of a loss whose tuples are visited, not listed: parts, reducer and derivatives in two passes over the
//! matrix.

use candle_core::Tensor;
use dml_kernels::{PairMatrix, Slopes, Tally, TupleLoss};

use crate::{Reducer, Result};

/// Parts of a loss over one matrix, reduced and added.
pub(crate) struct TupleSum<'a> {
    matrix: &'a PairMatrix,
    reducer: &'a dyn Reducer,
    labels: &'a [i64],
    value: f64,
    slopes: Slopes,
    some: bool,
}

/// What became of a part.
pub(crate) enum Added {
    /// It was reduced and added, or had no tuples.
    Yes,
    /// The reducer is no weighted sum: the tuples must be listed.
    No,
}

impl<'a> TupleSum<'a> {
    pub fn new(matrix: &'a PairMatrix, reducer: &'a dyn Reducer, labels: &'a [i64]) -> Result<Self> {
        Ok(Self { matrix, reducer, labels, value: 0.0, slopes: matrix.slopes()?, some: false })
    }

    /// Adds a part; `divisor` gives its divisor from the tallies.
    pub fn add<F: TupleLoss>(
        &mut self,
        part: &'static str,
        losses: &F,
        divisor: impl FnOnce(&[Tally]) -> Result<Option<f64>>,
    ) -> Result<Added> {
        let Some(weighing) = self.reducer.weighing(part)? else { return Ok(Added::No) };
        let (low, high) = weighing.band();
        let tallies = self.matrix.tally(losses, low, high)?;
        if tallies.iter().all(|t| t.count == 0.0) {
            return Ok(Added::Yes);
        }
        let weights = weighing.weights(part, divisor(&tallies)?, &tallies, self.labels)?;
        self.value += self.matrix.weigh(losses, &weights, low, high, &mut self.slopes)?;
        self.some = true;
        Ok(Added::Yes)
    }

    /// Adds the derivatives of weight·Σ losses, without its value.
    pub fn add_slopes<F: TupleLoss>(&mut self, losses: &F, weight: f64) -> Result<()> {
        let weights = vec![weight; self.matrix.rows()];
        self.matrix.weigh(losses, &weights, None, None, &mut self.slopes)?;
        Ok(())
    }

    /// Adds weight·Σ losses, whatever the reducer.
    pub fn add_sum<F: TupleLoss>(&mut self, losses: &F, weight: f64) -> Result<()> {
        let weights = vec![weight; self.matrix.rows()];
        self.value += self.matrix.weigh(losses, &weights, None, None, &mut self.slopes)?;
        self.some = true;
        Ok(())
    }

    /// The derivatives so far, summed over each row.
    pub fn row_sums(&self) -> Vec<f64> {
        self.slopes.row_sums(self.matrix.columns())
    }

    /// The sum of the parts, a scalar; `None` where there was none. Rows' derivatives by the scale as in
    /// [`PairMatrix::attach_value`].
    pub fn finish(self, log_scale: Option<&Tensor>) -> Result<Option<Tensor>> {
        if !self.some {
            return Ok(None);
        }
        Ok(Some(self.matrix.attach_value(self.value, self.slopes, log_scale)?))
    }
}
