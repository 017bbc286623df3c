//! A miner by name, as a configuration file writes it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    AngularMiner, AngularMinerConfig, BatchEasyHard, BatchEasyHardConfig, BatchHard, BatchHardConfig,
    Distance, DistanceSpec, DistanceWeighted, DistanceWeightedConfig, HardAware, HardAwareConfig, LossSpec,
    MaximumLoss, Miner, MultiSimilarityMiner, MultiSimilarityMinerConfig, PairMargin, PairMarginConfig,
    RandomTriplets, RandomTripletsConfig, Result, TripletMarginMiner, TripletMarginMinerConfig,
    UniformHistogram, UniformHistogramConfig,
};

/// [`MaximumLoss`] as a configuration file writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaximumLossSpec {
    /// The loss whose value decides, over the miner's distance: one without learned parameters.
    pub loss: Box<LossSpec>,
    /// Rows of a subset.
    pub output_batch_size: usize,
    /// Subsets tried.
    #[serde(default = "three")]
    pub num_trials: usize,
    /// Seeds the draws.
    #[serde(default)]
    pub seed: u64,
}

fn three() -> usize {
    3
}

/// A miner by name. The class names of pytorch-metric-learning are accepted as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// [`AngularMiner`].
    #[serde(alias = "AngularMiner")]
    Angular(AngularMinerConfig),
    /// [`DistanceWeighted`].
    #[serde(alias = "DistanceWeightedMiner")]
    DistanceWeighted(DistanceWeightedConfig),
    /// [`UniformHistogram`].
    #[serde(alias = "UniformHistogramMiner")]
    UniformHistogram(UniformHistogramConfig),
    /// [`MaximumLoss`].
    #[serde(alias = "MaximumLossMiner")]
    MaximumLoss(MaximumLossSpec),
    /// [`RandomTriplets`].
    RandomTriplets(RandomTripletsConfig),
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
        Ok(match self.clone() {
            Self::BatchHard(config) => Arc::new(BatchHard::new(distance, config)),
            Self::BatchEasyHard(config) => Arc::new(BatchEasyHard::new(distance, config)?),
            Self::TripletMargin(config) => Arc::new(TripletMarginMiner { distance, config }),
            Self::HardAware(config) => Arc::new(HardAware::new(distance, config)?),
            Self::MultiSimilarity(config) => Arc::new(MultiSimilarityMiner { distance, config }),
            Self::Angular(config) => Arc::new(AngularMiner::new(config)?),
            Self::DistanceWeighted(config) => Arc::new(DistanceWeighted::new(distance, config)?),
            Self::UniformHistogram(config) => Arc::new(UniformHistogram::new(distance, config)?),
            Self::MaximumLoss(MaximumLossSpec { loss, output_batch_size, num_trials, seed }) => {
                let loss = loss.build_without_parameters(distance)?;
                Arc::new(MaximumLoss::new(loss, output_batch_size, num_trials, seed)?)
            }
            Self::RandomTriplets(config) => Arc::new(RandomTriplets { config }),
            Self::PairMargin(config) => Arc::new(PairMargin { distance, config }),
        })
    }
}
