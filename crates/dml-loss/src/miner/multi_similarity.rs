//! The pairs that multi-similarity mining keeps (Wang et al. 2019).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Batch, Distance, Miner, Pairs, Result, Tuples, miner::Farness, tuples::ClassRows};

/// Knobs of [`MultiSimilarityMiner`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultiSimilarityMinerConfig {
    /// How near to the hardest pair of the other kind a pair must be.
    pub epsilon: f64,
}

impl Default for MultiSimilarityMinerConfig {
    fn default() -> Self {
        Self { epsilon: 0.1 }
    }
}

/// Positives farther than the closest negative less ε, and negatives closer than the farthest positive plus ε.
///
/// # Source
/// Wang et al. 2019 \[wang2019ms\], equations 10 and 11.
#[derive(Debug, Clone)]
pub struct MultiSimilarityMiner {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// ε.
    pub config: MultiSimilarityMinerConfig,
}

impl Miner for MultiSimilarityMiner {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let mut pairs = Pairs::default();
        let Some(far) = Farness::new(batch, &*self.distance)? else { return Ok(Tuples::Pairs(pairs)) };
        let epsilon = self.config.epsilon;
        let mut rows = ClassRows::default();
        for a in 0..batch.len() {
            rows.fill(batch, a);
            let far = far.row(a);
            let closest = rows.negative.iter().map(|&n| far[n]).fold(f64::INFINITY, f64::min);
            let farthest = rows.positive.iter().map(|&p| far[p]).fold(f64::NEG_INFINITY, f64::max);
            rows.positive
                .iter()
                .filter(|&&p| far[p] + epsilon > closest)
                .for_each(|&p| pairs.positive.push(a, p));
            rows.negative
                .iter()
                .filter(|&&n| far[n] - epsilon < farthest)
                .for_each(|&n| pairs.negative.push(a, n));
        }
        Ok(Tuples::Pairs(pairs))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
