//! A miner by name, as a configuration file writes it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    BatchEasyHard, BatchEasyHardConfig, BatchHard, BatchHardConfig, Distance, DistanceSpec, HardAware,
    HardAwareConfig, Miner, MultiSimilarityMiner, MultiSimilarityMinerConfig, PairMargin, PairMarginConfig,
    Result, TripletMarginMiner, TripletMarginMinerConfig,
};

/// A miner by name. The class names of pytorch-metric-learning are accepted as well.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MinerSpec {
    /// [`BatchHard`].
    #[serde(alias = "BatchHardMiner")]
    BatchHard(BatchHardConfig),
    /// [`BatchEasyHard`].
    #[serde(alias = "BatchEasyHardMiner")]
    BatchEasyHard(BatchEasyHardConfig),
    /// [`TripletMarginMiner`].
    #[serde(alias = "TripletMarginMiner")]
    TripletMargin(TripletMarginMinerConfig),
    /// [`PairMargin`].
    #[serde(alias = "PairMarginMiner")]
    PairMargin(PairMarginConfig),
    /// [`HardAware`].
    #[serde(alias = "HDCMiner")]
    HardAware(HardAwareConfig),
    /// [`MultiSimilarityMiner`].
    #[serde(alias = "MultiSimilarityMiner")]
    MultiSimilarity(MultiSimilarityMinerConfig),
}

impl MinerSpec {
    /// The distance it is usually used with, where the loss does not say.
    pub fn default_distance(&self) -> DistanceSpec {
        match self {
            Self::MultiSimilarity(_) => DistanceSpec::cosine(),
            _ => DistanceSpec::euclidean(),
        }
    }

    /// The miner.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when strategies do not go together.
    pub fn build(&self, distance: Arc<dyn Distance>) -> Result<Arc<dyn Miner>> {
        Ok(match *self {
            Self::BatchHard(config) => Arc::new(BatchHard::new(distance, config)),
            Self::BatchEasyHard(config) => Arc::new(BatchEasyHard::new(distance, config)?),
            Self::TripletMargin(config) => Arc::new(TripletMarginMiner { distance, config }),
            Self::HardAware(config) => Arc::new(HardAware::new(distance, config)?),
            Self::MultiSimilarity(config) => Arc::new(MultiSimilarityMiner { distance, config }),
            Self::PairMargin(config) => Arc::new(PairMargin { distance, config }),
        })
    }
}
