//! Multi-similarity loss (Wang et al. 2019).

use std::sync::Arc;

use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Loss, Part, Result, Tuples,
    error::{finite, positive},
    rows::{self, log_sum_exp},
    tuples::{PairTable, Repeats},
};

/// Knobs of [`MultiSimilarity`]: α and β as in the paper, whose λ is 1; 0.5 is pytorch-metric-learning's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultiSimilarityConfig {
    /// α, the sharpness over positive pairs; 2.
    pub alpha: f64,
    /// β, the sharpness over negative pairs; 50.
    pub beta: f64,
    /// λ, the similarity (or distance) that parts positives from negatives; 0.5.
    pub base: f64,
}

impl Default for MultiSimilarityConfig {
    fn default() -> Self {
        Self { alpha: 2.0, beta: 50.0, base: 0.5 }
    }
}

impl MultiSimilarityConfig {
    pub(crate) fn check(&self) -> Result<()> {
        positive("MultiSimilarity", &[("alpha", self.alpha), ("beta", self.beta)])?;
        finite("MultiSimilarity", &[("base", self.base)])
    }
}

/// 1/α·log(1 + Σ_p exp(α(λ − s_p))) + 1/β·log(1 + Σ_n exp(β(s_n − λ))) for each row; for distances 1/α·log(1 + Σ_p
/// exp(α(D_p − λ))) + 1/β·log(1 + Σ_n exp(β(λ − D_n))).
///
/// Part `loss`, a loss a row, also for rows with pairs of one kind alone. A pair that tuples name twice counts once.
/// Its usual miner is [`MultiSimilarityMiner`](crate::MultiSimilarityMiner).
///
/// # Distances
/// Cosine is usual; any distance with λ in its units. Under a divergence set λ near the median divergence and α, β to a
/// few times its reciprocal: β = 50 is meant for cosines.
/// # Cost
/// O(nm) time and memory.
/// # Source
/// Wang et al. 2019 \[wang2019ms\], equation 15.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = MultiSimilarity { distance: Arc::new(Cosine), config: MultiSimilarityConfig::default() };
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// let value = Objective::new(Arc::new(loss)).forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Two rows with a positive at cosine 1; negatives at 0 cost next to nothing.
/// assert!((value - 2.0 / 3.0 * 0.5 * (-1f64).exp().ln_1p()).abs() < 1e-9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        self.config.check()?;
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
