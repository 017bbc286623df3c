//! The hardest share of all pairs, as each stage of a hard-aware cascade sees it (Yuan et al. 2017).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Batch, Distance, Error, Miner, PairList, Pairs, Result, Tuples, miner::Farness};

/// Knobs of [`HardAware`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HardAwareConfig {
    /// The share of the pairs of each kind to keep, in (0, 1].
    pub filter_percentage: f64,
}

impl Default for HardAwareConfig {
    fn default() -> Self {
        Self { filter_percentage: 0.5 }
    }
}

/// The farthest ⌈share·k⌉ of the k positive pairs and the closest ⌈share·k⌉ of the k negative pairs. Ties go to the
/// first in row-major order.
///
/// # Source
/// Yuan et al. 2017 \[yuan2017\], section 3.
#[derive(Debug, Clone)]
pub struct HardAware {
    distance: Arc<dyn Distance>,
    config: HardAwareConfig,
}

impl HardAware {
    /// A miner of pairs.
    ///
    /// # Errors
    /// [`Error::Config`] unless the share lies in (0, 1].
    pub fn new(distance: Arc<dyn Distance>, config: HardAwareConfig) -> Result<Self> {
        let share = config.filter_percentage;
        if share > 0.0 && share <= 1.0 {
            return Ok(Self { distance, config });
        }
        Err(Error::config("HardAware", "filter_percentage", share, "a share in (0, 1]"))
    }
}

impl Miner for HardAware {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let Some(far) = Farness::new(batch, &self.distance)? else {
            return Ok(Tuples::Pairs(Pairs::default()));
        };
        let values = far.values();
        let hardest = |pairs: &PairList, sign: f64| {
            let at = |k: usize| pairs.anchor[k] as usize * far.columns() + pairs.other[k] as usize;
            let hardness = |k: usize| sign * values[at(k)];
            let mut order: Vec<usize> = (0..pairs.len()).collect();
            order.sort_by(|&a, &b| hardness(b).total_cmp(&hardness(a)));
            order.truncate((self.config.filter_percentage * pairs.len() as f64).ceil() as usize);
            order.sort_unstable();
            let mut kept = PairList::default();
            order.iter().for_each(|&k| kept.push(pairs.anchor[k] as usize, pairs.other[k] as usize));
            kept
        };
        let all = Pairs::all(batch);
        let (positive, negative) = (hardest(&all.positive, 1.0), hardest(&all.negative, -1.0));
        Ok(Tuples::Pairs(Pairs { positive, negative }))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
