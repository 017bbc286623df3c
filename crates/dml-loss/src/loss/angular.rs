//! Angular loss (Wang et al. 2017).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, Pairs, Part, Result, Tuples,
    tensor::{masked_log_sum_exp, normalize_rows, rows},
};

/// Knobs of [`Angular`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AngularConfig {
    /// The largest angle at the negative, in degrees; 36 … 45.
    pub alpha: f64,
}

impl Default for AngularConfig {
    fn default() -> Self {
        Self { alpha: 40.0 }
    }
}

/// log(1 + Σ_n exp(4t·⟨a + p, n⟩ − 2(1 + t)·⟨a, p⟩)) for each positive pair, t = tan²α, n over all rows of another
/// class.
///
/// Anchors and positives are L2-normalized; the rows they are compared with enter as they are. Of given tuples only
/// the positive pairs count. It measures angles itself: its distance plays no part and is there for a miner to share.
/// Part `loss`, a loss a positive pair, belonging to the anchor. Memory O(pairs·m).
///
/// # Source
/// Wang et al. 2017 \[wang2017\], equation 8.
#[derive(Debug, Clone)]
pub struct Angular {
    /// Not used by the loss.
    pub distance: Arc<dyn Distance>,
    /// The angle.
    pub config: AngularConfig,
}

impl Loss for Angular {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let pairs = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs).positive;
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let columns = batch.columns(); // [m, d]
        let anchors = normalize_rows(&rows(batch.embeddings(), &pairs.anchor)?, 2.0)?; // [k, d]
        let positives = normalize_rows(&rows(columns, &pairs.other)?, 2.0)?; // [k, d]
        let t = self.config.alpha.to_radians().tan().powi(2);
        let own = (&anchors * &positives)?.sum_keepdim(1)?; // [k, 1]
        let across = (anchors + positives)?.matmul(&columns.t()?)?; // [k, m]
        let logits = (across * (4.0 * t))?.broadcast_sub(&(own * (2.0 * (1.0 + t)))?)?;
        let mut negative = Vec::with_capacity(pairs.len() * batch.column_labels().len());
        for &a in &pairs.anchor {
            let label = batch.labels()[a as usize];
            negative.extend(batch.column_labels().iter().map(|&other| u8::from(other != label)));
        }
        let negative = candle_core::Tensor::from_vec(negative, logits.shape(), logits.device())?;
        let losses = masked_log_sum_exp(&logits, &negative, true)?.squeeze(1)?; // [k]
        Ok(vec![Part::new("loss", losses, Index::Rows(pairs.anchor))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
