//! Pairs beyond a margin: positives that are too far, negatives that are too close.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Miner, Pairs, Result, Tuples,
    miner::{Farness, Found},
};

/// Margins of [`PairMargin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairMarginConfig {
    /// Positive pairs farther than this are kept.
    pub pos_margin: f64,
    /// Negative pairs closer than this are kept.
    pub neg_margin: f64,
}

impl Default for PairMarginConfig {
    fn default() -> Self {
        Self { pos_margin: 0.2, neg_margin: 0.8 }
    }
}

/// Positive pairs with D > m₊ and negative pairs with D < m₋, turned for similarities.
#[derive(Debug, Clone)]
pub struct PairMargin {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The margins.
    pub config: PairMarginConfig,
}

impl Miner for PairMargin {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let Some(far) = Farness::new(batch, &self.distance)? else {
            return Ok(Tuples::Pairs(Pairs::default()));
        };
        let (pos, neg) = (far.sign * self.config.pos_margin, far.sign * self.config.neg_margin);
        let classes = batch.classes();
        let found = far.each_anchor(|a, far, found| {
            let too_far = classes.positives(a).filter(|&p| far[p] > pos);
            found.extend(too_far.map(|p| Found::Positive(a, p)));
            let too_close = (0..far.len()).filter(|&n| far[n] < neg && classes.is_negative(a, n));
            found.extend(too_close.map(|n| Found::Negative(a, n)));
        })?;
        Ok(Tuples::Pairs(Pairs::of(found)))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
