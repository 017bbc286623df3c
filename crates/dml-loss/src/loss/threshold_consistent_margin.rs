//! Threshold-consistent margin: one threshold for all classes (Zhang et al. 2024).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Loss, PairList, Pairs, Part, Result, Tuples,
    tensor::{entries, fill_unless},
};

/// Knobs of [`ThresholdConsistentMargin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdConsistentMarginConfig {
    /// The weight of the positive pairs.
    pub lambda_plus: f64,
    /// The weight of the negative pairs.
    pub lambda_minus: f64,
    /// Positive pairs less similar than this cost.
    pub margin_plus: f64,
    /// Negative pairs more similar than this cost.
    pub margin_minus: f64,
}

impl Default for ThresholdConsistentMarginConfig {
    fn default() -> Self {
        Self { lambda_plus: 1.0, lambda_minus: 1.0, margin_plus: 0.9, margin_minus: 0.5 }
    }
}

/// λ₊ times the mean of m₊ − s over the positive pairs with s ≤ m₊, plus λ₋ times the mean of s − m₋ over the negative
/// pairs with s ≥ m₋; turned for distances.
///
/// A regularizer beside another loss: only the pairs on the wrong side of the common thresholds count. Part `loss`, one
/// for the batch. Cosine is usual; any distance with the margins in its units.
///
/// # Source
/// Zhang et al. 2024 \[zhang2024\], equation 5.
#[derive(Debug, Clone)]
pub struct ThresholdConsistentMargin {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// Weights and margins.
    pub config: ThresholdConsistentMarginConfig,
}

impl Loss for ThresholdConsistentMargin {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let Pairs { positive, negative } = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs);
        if positive.is_empty() && negative.is_empty() {
            return Ok(Vec::new());
        }
        let matrix = batch.all_pairs(&*self.distance)?; // [n, m]
        let config = self.config;
        let mut total = batch.zero()?;
        let sides: [(PairList, f64, f64, f64); 2] = [
            (positive, config.margin_plus, 1.0, config.lambda_plus),
            (negative, config.margin_minus, -1.0, config.lambda_minus),
        ];
        for (pairs, bound, sign, weight) in sides.into_iter().filter(|(pairs, ..)| !pairs.is_empty()) {
            let values = entries(&matrix, &pairs.anchor, &pairs.other)?; // [k]
            let excess = (self.distance.margin_over(&values, bound)? * sign)?;
            let wrong = excess.detach().ge(0.0)?;
            let count = wrong.to_dtype(excess.dtype())?.sum_all()?.maximum(1.0)?;
            total = (total + ((fill_unless(&excess, &wrong, 0.0)?.sum_all()? / count)? * weight)?)?;
        }
        Ok(vec![Part::whole("loss", total.reshape(1)?)])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
