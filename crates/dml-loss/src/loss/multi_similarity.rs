//! Multi-similarity loss (Wang et al. 2019).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Batch, Distance, Loss, PairCounts, Part, Result, Tuples, tensor::masked_log_sum_exp};

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

impl Loss for MultiSimilarity {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.nothing() {
            return Ok(Vec::new());
        }
        let counts = PairCounts::new(batch, tuples);
        let MultiSimilarityConfig { alpha, beta, base } = self.config;
        let excess = self.distance.margin_over(&batch.all_pairs(&*self.distance)?, base)?; // [n, m]
        let positive = counts.keep(&counts.positive, &excess)?;
        let negative = counts.keep(&counts.negative, &excess)?;
        let positive = (masked_log_sum_exp(&(&excess * alpha)?, &positive, true)? / alpha)?; // [n, 1]
        let negative = (masked_log_sum_exp(&(&excess * -beta)?, &negative, true)? / beta)?; // [n, 1]
        Ok(vec![Part::of_rows((positive + negative)?.squeeze(1)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
