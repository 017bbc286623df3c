//! Miners: which pairs or triplets of a batch a loss is to see.

use std::{fmt::Debug, sync::Arc};

use crate::{Batch, Distance, Result, Tuples, tensor::download};

mod angular;
mod batch_easy_hard;
mod distance_weighted;
mod hard_aware;
mod maximum_loss;
mod multi_similarity;
mod pair_margin;
mod random_triplets;
mod spec;
mod triplet_margin;
mod uniform_histogram;

pub use angular::{AngularMiner, AngularMinerConfig};
pub use batch_easy_hard::{BatchEasyHard, BatchEasyHardConfig, BatchHard, BatchHardConfig, Strategy};
pub use distance_weighted::{DistanceWeighted, DistanceWeightedConfig};
pub use hard_aware::{HardAware, HardAwareConfig};
pub use maximum_loss::MaximumLoss;
pub use multi_similarity::{MultiSimilarityMiner, MultiSimilarityMinerConfig};
pub use pair_margin::{PairMargin, PairMarginConfig};
pub use random_triplets::{All, RandomTriplets, RandomTripletsConfig, TripletsPerAnchor};
pub use spec::{MaximumLossSpec, MinerSpec};
pub use triplet_margin::{TripletKind, TripletMarginMiner, TripletMarginMinerConfig};
pub use uniform_histogram::{UniformHistogram, UniformHistogramConfig};

/// Selects tuples of a batch. No gradient passes through the selection.
pub trait Miner: Debug + Send + Sync {
    /// The selected pairs or triplets, in row-major order.
    ///
    /// # Errors
    /// What the distance returns.
    fn mine(&self, batch: &Batch) -> Result<Tuples>;

    /// The distance by which it selects.
    fn distance(&self) -> Option<&Arc<dyn Distance>>;
}

/// The distances of a batch on the host, turned so that larger is farther.
#[derive(Debug)]
pub(crate) struct Farness {
    pub m: usize,
    pub values: Vec<f64>,
    /// 1 for distances, −1 for similarities: the sign that turns a bound in the same way.
    pub sign: f64,
}

impl Farness {
    /// `None` where there is nothing to compare.
    pub fn new(batch: &Batch, distance: &dyn Distance) -> Result<Option<Self>> {
        if batch.nothing() {
            return Ok(None);
        }
        let matrix = batch.detach().all_pairs(distance)?; // [n, m]
        let sign = if distance.larger_is_closer() { -1.0 } else { 1.0 };
        let m = matrix.dim(1)?;
        let values = download(&matrix)?.into_iter().map(|v| sign * v).collect();
        Ok(Some(Self { m, values, sign }))
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.m..(i + 1) * self.m]
    }
}
