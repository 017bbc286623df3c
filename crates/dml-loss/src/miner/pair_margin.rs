//! Pairs beyond a margin: positives that are too far, negatives that are too close.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Miner, Pairs, Result, Tuples,
    error::finite,
    miner::{Farness, Found},
};

/// Margins of [`PairMargin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairMarginConfig {
    /// m₊: positive pairs farther than this are kept; 0.2, for Euclid of normalized rows.
    pub pos_margin: f64,
    /// m₋: negative pairs closer than this are kept; 0.8, for Euclid of normalized rows.
    pub neg_margin: f64,
}

impl Default for PairMarginConfig {
    fn default() -> Self {
        Self { pos_margin: 0.2, neg_margin: 0.8 }
    }
}

/// Positive pairs with D > m₊ and negative pairs with D < m₋; for similarities s < m₊ and s > m₋.
///
/// With the margins of [`Contrastive`](crate::Contrastive) it keeps the pairs whose loss is not 0. Any distance,
/// margins in its units. O(nm) time, O(nm) pairs.
///
/// # Source
/// The pairs that cost something in Hadsell et al. 2006 \[hadsell2006\].
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32], [1.], [1.5]], &Device::Cpu)?;
/// let miner = PairMargin { distance: Arc::new(Lp::raw(2.0)), config: PairMarginConfig::default() };
/// let pairs = miner.mine(&Batch::new(&x, &[0, 0, 1])?)?.to_pairs();
/// assert_eq!((pairs.positive.len(), pairs.negative.len()), (2, 2)); // negatives at 0.5, not at 1.5
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PairMargin {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The margins.
    pub config: PairMarginConfig,
}

impl Miner for PairMargin {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let PairMarginConfig { pos_margin, neg_margin } = self.config;
        finite("PairMargin", &[("pos_margin", pos_margin), ("neg_margin", neg_margin)])?;
        let Some(far) = Farness::new("PairMargin", batch, &self.distance)? else {
            return Ok(Tuples::Pairs(Pairs::default()));
        };
        let (pos, neg) = (far.sign * pos_margin, far.sign * neg_margin);
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
