//! Triplets by how far the margin is violated (Schroff et al. 2015).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Batch, Distance, Miner, Result, Triplets, Tuples, error::finite, miner::Farness};

/// Which triplets, by Δ = D(a, n) − D(a, p).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TripletKind {
    /// Δ ≤ margin: all that violate it.
    #[default]
    All,
    /// Δ ≤ 0: the negative is closer than the positive.
    Hard,
    /// 0 < Δ ≤ margin.
    #[serde(alias = "semihard")]
    SemiHard,
    /// Δ > margin: those that violate nothing.
    Easy,
}

/// Knobs of [`TripletMarginMiner`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TripletMarginMinerConfig {
    /// The margin, the loss's own or a little more; 0.2.
    pub margin: f64,
    /// Which triplets; all that violate the margin by default.
    pub type_of_triplets: TripletKind,
}

impl Default for TripletMarginMinerConfig {
    fn default() -> Self {
        Self { margin: 0.2, type_of_triplets: TripletKind::All }
    }
}

/// All triplets of one [kind](TripletKind), by Δ = D(a, n) − D(a, p); for similarities Δ = s(a, p) − s(a, n).
///
/// Any distance, the margin in its units. With p positives and q negatives an anchor: O(n·p·q) time, and as much memory
/// if all are of that kind.
///
/// # Source
/// Schroff et al. 2015 \[schroff2015\], section 3.2.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32], [2.], [3.]], &Device::Cpu)?;
/// let config = TripletMarginMinerConfig { margin: 1.5, type_of_triplets: TripletKind::SemiHard };
/// let miner = TripletMarginMiner { distance: Arc::new(Lp::raw(2.0)), config };
/// // (0, 1, 2): Δ = 3 − 2; (1, 0, 2): Δ = 1 − 2, a hard one.
/// let triplets = miner.mine(&Batch::new(&x, &[0, 0, 1])?)?.to_triplets();
/// assert_eq!((triplets.anchor, triplets.positive, triplets.negative), (vec![0], vec![1], vec![2]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct TripletMarginMiner {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// Margin and kind.
    pub config: TripletMarginMinerConfig,
}

impl Miner for TripletMarginMiner {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        finite("TripletMarginMiner", &[("margin", self.config.margin)])?;
        let mut triplets = Triplets::default();
        let Some(far) = Farness::new("TripletMarginMiner", batch, &self.distance)? else {
            return Ok(Tuples::Triplets(triplets));
        };
        let TripletMarginMinerConfig { margin, type_of_triplets } = self.config;
        let classes = batch.classes();
        let found = far.each_anchor(|a, far, found| {
            for p in classes.positives(a) {
                for n in (0..far.len()).filter(|&n| classes.is_negative(a, n)) {
                    let gap = far[n] - far[p];
                    let wanted = match type_of_triplets {
                        TripletKind::All => gap <= margin,
                        TripletKind::Hard => gap <= 0.0 && gap <= margin,
                        TripletKind::SemiHard => 0.0 < gap && gap <= margin,
                        TripletKind::Easy => gap > margin,
                    };
                    if wanted {
                        found.push([a, p, n]);
                    }
                }
            }
        })?;
        found.into_iter().for_each(|[a, p, n]| triplets.push(a, p, n));
        Ok(Tuples::Triplets(triplets))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
