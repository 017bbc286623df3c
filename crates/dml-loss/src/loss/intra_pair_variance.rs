//! Intra-pair variance loss (Yu & Tao 2019 call for pairs of like distance).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, PairList, Pairs, Part, Result, Tuples,
    tensor::{entries, hinge},
};

/// Tolerances of [`IntraPairVariance`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntraPairVarianceConfig {
    /// Positive pairs may be worse than their mean by this share of it.
    pub pos_eps: f64,
    /// Negative pairs likewise.
    pub neg_eps: f64,
}

impl Default for IntraPairVarianceConfig {
    fn default() -> Self {
        Self { pos_eps: 0.01, neg_eps: 0.01 }
    }
}

/// Squared hinge of pairs that are worse than the mean of their kind: with mean μ₊ of the positive distances
/// [D − (1 + ε)μ₊]₊², with mean μ₋ of the negative ones [(1 − ε)μ₋ − D]₊², turned for similarities.
///
/// Parts `pos_loss` and `neg_loss`. Added to another loss rather than used alone.
///
/// # Source
/// Yu & Tao 2019 \[yu2019\], section 3.2.
#[derive(Debug, Clone)]
pub struct IntraPairVariance {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The tolerances.
    pub config: IntraPairVarianceConfig,
}

impl Loss for IntraPairVariance {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let Pairs { positive, negative } = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs);
        if positive.is_empty() && negative.is_empty() {
            return Ok(Vec::new());
        }
        let matrix = batch.all_pairs(&*self.distance)?; // [n, m]
        let similarity = self.distance.larger_is_closer();
        let side = |name, pairs: PairList, eps: f64, below: bool| -> Result<Option<Part>> {
            if pairs.is_empty() {
                return Ok(None);
            }
            let values = entries(&matrix, &pairs.anchor, &pairs.other)?; // [k]
            let mean = values.mean_keepdim(0)?; // [1]
            let gap = match below {
                true => (mean * (1.0 - eps))?.broadcast_sub(&values)?,
                false => values.broadcast_sub(&(mean * (1.0 + eps))?)?,
            };
            Ok(Some(Part::new(name, hinge(&gap)?.sqr()?, Index::Pairs(pairs))))
        };
        let positive = side("pos_loss", positive, self.config.pos_eps, similarity)?;
        let negative = side("neg_loss", negative, self.config.neg_eps, !similarity)?;
        Ok(positive.into_iter().chain(negative).collect())
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
