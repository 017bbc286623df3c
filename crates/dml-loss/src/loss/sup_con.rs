//! Supervised contrastive loss (Khosla et al. 2020).

use std::sync::Arc;

use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Loss, Parameter, Part, Reducer, Result, Temperature, TemperatureSpec,
    Tuples,
    loss::logits::{Logits, calibrate},
    rows,
    tuples::{PairTable, Repeats},
};

/// Knobs of [`SupCon`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SupConConfig {
    /// 0.1 for cosines as in the paper; `"learned"` for divergences.
    pub temperature: TemperatureSpec,
}

impl Default for SupConConfig {
    fn default() -> Self {
        Self { temperature: TemperatureSpec::Fixed(0.1) }
    }
}

/// −1/|P(i)| Σ_{p ∈ P(i)} log( exp(l_ip) / Σ_{a ∈ P(i) ∪ N(i)} exp(l_ia) ), l the logits of the closeness.
///
/// Part `loss`, a loss a row, 0 for a row without positives; usually averaged over the nonzero ones. Cosine with a
/// fixed temperature is usual; with a Bregman divergence use a learned one. Without any positive or any negative
/// pair the loss is 0.
///
/// # Source
/// Khosla et al. 2020 \[khosla2020\], equation 2.
#[derive(Debug, Clone)]
pub struct SupCon {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The temperature.
    pub temperature: Temperature,
}

/// Of one row: log Σ exp over both kinds of pair, less the mean logit of the positives.
struct Rows<'a> {
    pairs: &'a PairTable,
    factor: f64,
}

impl RowLoss for Rows<'_> {
    fn scratch(&self, columns: usize) -> usize {
        3 * columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let [positive, either, logits] = rows::parts(scratch, row.len());
        self.pairs.fill(i, positive, either);
        let count = rows::sum(positive);
        if count == T::ZERO {
            return T::ZERO;
        }
        let (factor, share) = (T::from_f64(self.factor), T::ONE / count);
        for (((logit, either), &p), &v) in logits.iter_mut().zip(&mut *either).zip(&*positive).zip(row) {
            *logit = p * v;
            *either = either.max(p);
        }
        let own = factor * share * rows::sum(logits);
        logits.iter_mut().zip(row).for_each(|(logit, &v)| *logit = factor * v);
        let norm = rows::log_sum_exp(logits, either, false);
        for ((slope, &soft), &p) in slopes.iter_mut().zip(&*logits).zip(&*positive) {
            *slope = factor * (soft - share * p);
        }
        norm - own
    }
}

impl Loss for SupCon {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let pairs = PairTable::new(batch, tuples, Repeats::Once);
        if pairs.one_sided() {
            return Ok(Vec::new());
        }
        let Logits { matrix, factor, log_scale } = Logits::new(batch, &self.distance, &self.temperature)?;
        let losses = matrix.row_losses(&Rows { pairs: &pairs, factor }, log_scale.as_ref())?; // [n]
        Ok(vec![Part::of_rows(losses)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(AvgNonZero)
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        self.temperature.parameters()
    }

    fn calibrate(&self, batch: &Batch) -> Result<()> {
        calibrate(batch, &*self.distance, &self.temperature)
    }
}
