//! Multi-similarity loss (Wang et al. 2019).

use std::sync::Arc;

use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Loss, Part, Result, Tuples,
    rows::{self, log_sum_exp},
    tuples::{PairTable, Repeats},
};

/// Knobs of [`MultiSimilarity`], the defaults of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultiSimilarityConfig {
    /// Sharpness over positive pairs.
    pub alpha: f64,
    /// Sharpness over negative pairs.
    pub beta: f64,
    /// The similarity (or distance) that parts positives from negatives.
    pub base: f64,
}

impl Default for MultiSimilarityConfig {
    fn default() -> Self {
        Self { alpha: 2.0, beta: 50.0, base: 0.5 }
    }
}

/// 1/α·log(1 + Σ_p exp(α(λ − s_p))) + 1/β·log(1 + Σ_n exp(β(s_n − λ))) for each row; for distances D takes the place
/// of −s and λ that of −λ.
///
/// Part `loss`, a loss a row. Cosine is usual; any distance with λ in its units.
///
/// # Source
/// Wang et al. 2019 \[wang2019ms\], equation 15.
#[derive(Debug, Clone)]
pub struct MultiSimilarity {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// α, β and λ.
    pub config: MultiSimilarityConfig,
}

/// Of one row; `sign` is 1 for distances and −1 for similarities, so that sign·(v − λ) is large for far pairs.
struct Rows<'a> {
    pairs: &'a PairTable,
    config: MultiSimilarityConfig,
    sign: f64,
}

impl RowLoss for Rows<'_> {
    fn scratch(&self, columns: usize) -> usize {
        3 * columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let [positive, negative, logits] = rows::parts(scratch, row.len());
        self.pairs.fill(i, positive, negative);
        let base = T::from_f64(self.config.base);
        let mut loss = T::ZERO;
        for (counts, sharpness) in [(positive, self.config.alpha), (negative, -self.config.beta)] {
            let (factor, share) = (T::from_f64(self.sign * sharpness), T::from_f64(1.0 / sharpness.abs()));
            logits.iter_mut().zip(row).for_each(|(logit, &v)| *logit = factor * (v - base));
            loss += share * log_sum_exp(logits, counts, true);
            let factor = factor * share;
            slopes.iter_mut().zip(&*logits).for_each(|(slope, &p)| *slope += factor * p);
        }
        loss
    }
}

impl Loss for MultiSimilarity {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.nothing() {
            return Ok(Vec::new());
        }
        let pairs = PairTable::new(batch, tuples, Repeats::Once);
        let sign = if self.distance.larger_is_closer() { -1.0 } else { 1.0 };
        let of = Rows { pairs: &pairs, config: self.config, sign };
        Ok(vec![Part::of_rows(batch.pairs(&self.distance)?.row_losses(&of, None)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
