//! The hardest share of all pairs, as each stage of a hard-aware cascade sees it (Yuan et al. 2017).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Batch, Distance, Error, Miner, PairList, Pairs, Result, Tuples, miner::Farness};

/// Knobs of [`HardAware`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HardAwareConfig {
    /// The share of the pairs of each kind to keep, in (0, 1\]; 0.5.
    pub filter_percentage: f64,
}

impl Default for HardAwareConfig {
    fn default() -> Self {
        Self { filter_percentage: 0.5 }
    }
}

/// The farthest ⌈share·k⌉ of the k positive pairs and the closest ⌈share·k⌉ of the k negative pairs of the whole batch.
///
/// Ties go to the first in row-major order. Any distance. O(nm·log(nm)) time and O(nm) memory: pairs are sorted.
///
/// # Source
/// Yuan et al. 2017 \[yuan2017\], section 3.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32], [1.], [3.], [9.]], &Device::Cpu)?;
/// let config = HardAwareConfig { filter_percentage: 0.5 };
/// let pairs = HardAware::new(Arc::new(Lp::raw(2.0)), config)?.mine(&Batch::new(&x, &[0, 0, 1, 1])?)?.to_pairs();
/// // Of four positive pairs (both ways) those at 6, of eight negative ones those at 2 and 3.
/// assert_eq!((pairs.positive.anchor, pairs.positive.other), (vec![2, 3], vec![3, 2]));
/// assert_eq!((pairs.negative.anchor, pairs.negative.other), (vec![0, 1, 2, 2], vec![2, 2, 0, 1]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        let Some(far) = Farness::new("HardAware", batch, &self.distance)? else {
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
