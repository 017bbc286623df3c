//! The pairs that multi-similarity mining keeps (Wang et al. 2019).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Miner, Pairs, Result, Tuples,
    error::finite,
    miner::{Farness, Found},
};

/// Knobs of [`MultiSimilarityMiner`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultiSimilarityMinerConfig {
    /// ε: how near to the hardest pair of the other kind a pair must be; 0.1, for cosines.
    pub epsilon: f64,
}

impl Default for MultiSimilarityMinerConfig {
    fn default() -> Self {
        Self { epsilon: 0.1 }
    }
}

/// Positives farther than the closest negative less ε, and negatives closer than the farthest positive plus ε, of each
/// anchor.
///
/// An anchor without negatives keeps no positive, and the other way round. Cosine is usual; any distance with ε in its
/// units. O(nm) time, O(nm) pairs.
///
/// # Source
/// Wang et al. 2019 \[wang2019ms\], equations 10 and 11.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32], [2.], [3.], [9.]], &Device::Cpu)?;
/// let config = MultiSimilarityMinerConfig { epsilon: 0.1 };
/// let miner = MultiSimilarityMiner { distance: Arc::new(Lp::raw(2.0)), config };
/// let pairs = miner.mine(&Batch::new(&x, &[0, 0, 1, 1])?)?.to_pairs();
/// // Row 0 has its positive at 2, before its first negative at 3; row 3 has its positive at 6, as no negative is closer.
/// assert_eq!((pairs.positive.anchor, pairs.positive.other), (vec![1, 2], vec![0, 3]));
/// assert_eq!((pairs.negative.anchor, pairs.negative.other), (vec![1, 2, 2], vec![2, 0, 1]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct MultiSimilarityMiner {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// ε.
    pub config: MultiSimilarityMinerConfig,
}

impl Miner for MultiSimilarityMiner {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        finite("MultiSimilarityMiner", &[("epsilon", self.config.epsilon)])?;
        let Some(far) = Farness::new("MultiSimilarityMiner", batch, &self.distance)? else {
            return Ok(Tuples::Pairs(Pairs::default()));
        };
        let (epsilon, classes) = (self.config.epsilon, batch.classes());
        let found = far.each_anchor(|a, far, found| {
            let other = |j: usize| if classes.is_negative(a, j) { far[j] } else { f64::INFINITY };
            let closest = (0..far.len()).map(other).fold(f64::INFINITY, f64::min);
            let farthest = classes.positives(a).map(|p| far[p]).fold(f64::NEG_INFINITY, f64::max);
            let hard = classes.positives(a).filter(|&p| far[p] + epsilon > closest);
            found.extend(hard.map(|p| Found::Positive(a, p)));
            let hard = (0..far.len()).filter(|&n| far[n] - epsilon < farthest && classes.is_negative(a, n));
            found.extend(hard.map(|n| Found::Negative(a, n)));
        })?;
        Ok(Tuples::Pairs(Pairs::of(found)))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
