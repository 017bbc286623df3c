//! Distances, miners, losses and reducers of deep metric learning, over any distance, learned Bregman divergences
//! included.
//!
//! Four parts compose freely: a [`Distance`] compares embeddings, a [`Miner`] selects pairs or triplets, a [`Loss`]
//! gives unreduced values with their tuples, a [`Reducer`] finishes; [`Objective`] holds them together, with
//! [`Regularizer`]s beside them. Each is also constructible by name ([`ObjectiveSpec`]). Losses go around losses:
//! [`CrossBatchMemory`], [`MomentumQueue`], [`TwoViews`], [`WeightedSum`].
//!
//! Conventions: anchors are rows and the others columns; a distance knows whether smaller or larger is closer;
//! which side of D_φ(· ‖ ·) the anchor takes is a value the caller writes. Angles are in degrees where a parameter
//! is named after pytorch-metric-learning's. At the corner of a hinge and at equal rows gradients are 0.
//!
//! ```
//! use std::sync::Arc;
//!
//! use bregman::Side;
//! use candle_core::{Device, Var};
//! use dml_loss::*;
//!
//! let x = Var::new(&[[0f32, 0.1], [0.2, 0.], [1., 0.9], [0.8, 1.]], &Device::Cpu)?;
//! let batch = Batch::new(&x, &[0, 0, 1, 1])?;
//!
//! let distance = Arc::new(BregmanDistance::new(Arc::new(phi::SquaredEuclidean), Side::First));
//! let config = TripletMarginConfig { margin: 2.0, ..Default::default() };
//! let objective = Objective::new(Arc::new(TripletMargin { distance: distance.clone(), config }))
//!     .with_miner(Arc::new(BatchHard::new(distance, BatchHardConfig::default())));
//!
//! let loss = objective.forward(&batch)?; // a scalar
//! assert!(loss.backward()?.get(&x).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod distance;
mod error;
mod loss;
mod miner;
mod objective;
mod parameter;
mod reducer;
mod regularizer;
mod rows;
mod sampling;
mod spec;
mod temperature;
mod tensor;
mod tuples;

pub use batch::Batch;
pub use distance::{
    BregmanDistance, BregmanSpec, Cosine, Distance, DistanceSpec, DotProduct, FixedSpec, Lp, SideSpec,
    SignalToNoise,
};
pub use dml_kernels::Tally;
pub use error::{Error, Result};
pub use loss::{
    Angular, AngularConfig, ArcFaceConfig, CentroidTriplet, CentroidTripletConfig, Circle, CircleConfig,
    Contrastive, ContrastiveConfig, CosFaceConfig, CrossBatchMemory, Direction, DynamicSoftMargin,
    DynamicSoftMarginConfig, FastAp, FastApConfig, GeneralizedLiftedStructure, Histogram, HistogramConfig,
    Index, InfoNce, InfoNceConfig, Instance, InstanceConfig, InstanceTarget, IntraPairVariance,
    IntraPairVarianceConfig, LargeMarginSoftmax, LargeMarginSoftmaxConfig, LiftedStructure,
    LiftedStructureConfig, Loss, Manifold, ManifoldConfig, Margin, MarginConfig, MarginSoftmax, MetaClasses,
    MomentumQueue, MultiSimilarity, MultiSimilarityConfig, NPairs, NPairsConfig, Nca, NcaConfig,
    NormalizedSoftmaxConfig, NtXent, NtXentConfig, P2sGrad, P2sGradConfig, Part, Pnp, PnpConfig, PnpVariant,
    ProxyAnchor, ProxyAnchorConfig, ProxyNca, ProxyNcaConfig, QueueLabels, RankedList, RankedListConfig,
    Reduced, SmoothAp, SmoothApConfig, SoftTriple, SoftTripleConfig, State, SupCon, SupConConfig,
    ThresholdConsistentMargin, ThresholdConsistentMarginConfig, TripletMargin, TripletMarginConfig,
    TupletMargin, TupletMarginConfig, TwoViews, VicReg, VicRegConfig, WeightedSum,
};
pub use miner::{
    All, AngularMiner, AngularMinerConfig, BatchEasyHard, BatchEasyHardConfig, BatchHard, BatchHardConfig,
    DistanceWeighted, DistanceWeightedConfig, HardAware, HardAwareConfig, MaximumLoss, MaximumLossSpec,
    Miner, MinerSpec, MultiSimilarityMiner, MultiSimilarityMinerConfig, PairMargin, PairMarginConfig,
    RandomTriplets, RandomTripletsConfig, Strategy, TripletKind, TripletMarginMiner,
    TripletMarginMinerConfig, TripletsPerAnchor, UniformHistogram, UniformHistogramConfig,
};
pub use objective::Objective;
pub use parameter::{Parameter, Role};
pub use reducer::{
    AvgNonZero, ByPart, ClassWeighted, Divisor, DoNothing, Mean, PerAnchor, Reducer, ReducerSpec, Sum,
    Threshold, Weighing,
};
pub use regularizer::{
    CenterInvariant, Curvature, CurvatureConfig, LpNorm, LpNormConfig, RegularFace, Regularization,
    RegularizationSpec, RegularizedRows, Regularizer, RegularizerSpec, Scale, ScaleConfig, SparseCenters,
    SparseCentersConfig, ZeroMean,
};
pub use spec::{
    CrossBatchMemorySpec, LossSpec, MomentumQueueSpec, ObjectiveSpec, TermSpec, TwoViewsSpec, WeightedSumSpec,
};
pub use temperature::{Learned, Temperature, TemperatureSpec};
pub use tuples::{PairList, Pairs, Triplets, Tuples};

use tuples::PairCounts;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The loss that the guide writes, tested.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/extend/new-loss.md")]
struct NewLoss;
