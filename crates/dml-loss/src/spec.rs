//! Losses and whole objectives by name, as a configuration file writes them.

use std::sync::Arc;

use candle_core::{DType, Device};
use phi::Generator;
use serde::{Deserialize, Serialize};

use crate::{error::finite, *};

/// A loss by name. The class names of pytorch-metric-learning are accepted as well.
///
/// ```
/// # use dml_loss::LossSpec;
/// let error = toml::from_str::<LossSpec>("name = \"tripple\"").unwrap_err().to_string();
/// assert!(error.contains("expected one of ") && error.contains("`triplet-margin`"), "{error}");
/// let error = toml::from_str::<LossSpec>("name = \"contrastive\"\nmargin = 1").unwrap_err().to_string();
/// assert!(error.contains("expected `pos_margin` or `neg_margin`"), "{error}");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LossSpec {
    /// [`Contrastive`].
    #[serde(alias = "ContrastiveLoss")]
    Contrastive(ContrastiveConfig),
    /// [`TripletMargin`].
    #[serde(alias = "TripletMarginLoss")]
    TripletMargin(TripletMarginConfig),
    /// [`NPairs`].
    #[serde(alias = "NPairsLoss")]
    NPairs(NPairsConfig),
    /// [`InfoNce`].
    InfoNce(InfoNceConfig),
    /// [`SupCon`].
    #[serde(alias = "SupConLoss")]
    SupCon(SupConConfig),
    /// [`NtXent`].
    #[serde(alias = "NTXentLoss")]
    NtXent(NtXentConfig),
    /// [`Contrastive`] over the signal-to-noise distance.
    #[serde(alias = "SignalToNoiseRatioContrastiveLoss")]
    SignalToNoiseContrastive(ContrastiveConfig),
    /// [`MultiSimilarity`].
    #[serde(alias = "MultiSimilarityLoss")]
    MultiSimilarity(MultiSimilarityConfig),
    /// [`Circle`].
    #[serde(alias = "CircleLoss")]
    Circle(CircleConfig),
    /// [`LiftedStructure`].
    #[serde(alias = "LiftedStructureLoss")]
    LiftedStructure(LiftedStructureConfig),
    /// [`GeneralizedLiftedStructure`].
    #[serde(alias = "GeneralizedLiftedStructureLoss")]
    GeneralizedLiftedStructure(LiftedStructureConfig),
    /// [`IntraPairVariance`].
    #[serde(alias = "IntraPairVarianceLoss")]
    IntraPairVariance(IntraPairVarianceConfig),
    /// [`Margin`].
    #[serde(alias = "MarginLoss")]
    Margin(MarginConfig),
    /// [`Nca`].
    #[serde(alias = "NCALoss")]
    Nca(NcaConfig),
    /// [`ProxyNca`].
    #[serde(alias = "ProxyNCALoss")]
    ProxyNca(ProxyNcaConfig),
    /// [`ProxyAnchor`].
    #[serde(alias = "ProxyAnchorLoss")]
    ProxyAnchor(ProxyAnchorConfig),
    /// [`MarginSoftmax::normalized_softmax`].
    #[serde(alias = "NormalizedSoftmaxLoss")]
    NormalizedSoftmax(NormalizedSoftmaxConfig),
    /// [`MarginSoftmax::cos_face`].
    #[serde(alias = "CosFaceLoss")]
    CosFace(CosFaceConfig),
    /// [`MarginSoftmax::arc_face`], with sub-centers too.
    #[serde(alias = "ArcFaceLoss", alias = "SubCenterArcFaceLoss")]
    ArcFace(ArcFaceConfig),
    /// [`SoftTriple`].
    #[serde(alias = "SoftTripleLoss")]
    SoftTriple(SoftTripleConfig),
    /// [`TupletMargin`].
    #[serde(alias = "TupletMarginLoss")]
    TupletMargin(TupletMarginConfig),
    /// [`Angular`].
    #[serde(alias = "AngularLoss")]
    Angular(AngularConfig),
    /// [`FastAp`].
    #[serde(alias = "FastAPLoss")]
    FastAp(FastApConfig),
    /// [`SmoothAp`].
    #[serde(alias = "SmoothAPLoss")]
    SmoothAp(SmoothApConfig),
    /// [`Pnp`].
    #[serde(alias = "PNPLoss")]
    Pnp(PnpConfig),
    /// [`Histogram`].
    #[serde(alias = "HistogramLoss")]
    Histogram(HistogramConfig),
    /// [`RankedList`].
    #[serde(alias = "RankedListLoss")]
    RankedList(RankedListConfig),
    /// [`LargeMarginSoftmax`].
    #[serde(alias = "LargeMarginSoftmaxLoss")]
    LargeMarginSoftmax(LargeMarginSoftmaxConfig),
    /// [`LargeMarginSoftmax::sphere_face`].
    #[serde(alias = "SphereFaceLoss")]
    SphereFace(LargeMarginSoftmaxConfig),
    /// [`P2sGrad`].
    #[serde(alias = "P2SGradLoss")]
    P2sGrad(P2sGradConfig),
    /// [`Instance`].
    #[serde(alias = "InstanceLoss")]
    Instance(InstanceConfig),
    /// [`VicReg`].
    #[serde(alias = "VICRegLoss")]
    VicReg(VicRegConfig),
    /// [`Manifold`].
    #[serde(alias = "ManifoldLoss")]
    Manifold(ManifoldConfig),
    /// [`ThresholdConsistentMargin`].
    #[serde(alias = "ThresholdConsistentMarginLoss")]
    ThresholdConsistentMargin(ThresholdConsistentMarginConfig),
    /// [`DynamicSoftMargin`].
    #[serde(alias = "DynamicSoftMarginLoss")]
    DynamicSoftMargin(DynamicSoftMarginConfig),
    /// [`CentroidTriplet`].
    #[serde(alias = "CentroidTripletLoss")]
    CentroidTriplet(CentroidTripletConfig),
    /// [`CrossBatchMemory`] around another loss.
    #[serde(alias = "CrossBatchMemory")]
    CrossBatchMemory(CrossBatchMemorySpec),
    /// [`MomentumQueue`] around another loss.
    MomentumQueue(MomentumQueueSpec),
    /// [`TwoViews`] of another loss.
    #[serde(alias = "SelfSupervisedLoss")]
    TwoViews(TwoViewsSpec),
    /// [`WeightedSum`] of several.
    #[serde(alias = "MultipleLosses")]
    WeightedSum(WeightedSumSpec),
}

/// [`CrossBatchMemory`] as a configuration file writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossBatchMemorySpec {
    /// The loss.
    pub loss: Box<LossSpec>,
    /// Its miner, over the loss's distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miner: Option<MinerSpec>,
    /// Rows remembered; at least a batch.
    #[serde(default = "memory_size")]
    pub memory_size: usize,
}

/// [`MomentumQueue`] as a configuration file writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MomentumQueueSpec {
    /// The loss.
    pub loss: Box<LossSpec>,
    /// Its miner, over the loss's distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miner: Option<MinerSpec>,
    /// Which keys are positives.
    #[serde(default)]
    pub labels: QueueLabels,
    /// Keys remembered; at least a batch.
    #[serde(default = "memory_size")]
    pub memory_size: usize,
}

fn memory_size() -> usize {
    1024
}

/// [`TwoViews`] as a configuration file writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoViewsSpec {
    /// The loss.
    pub loss: Box<LossSpec>,
    /// Its miner, over the loss's distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miner: Option<MinerSpec>,
    /// Its reducer; the loss's usual one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducer: Option<ReducerSpec>,
    /// Whether both views give anchors.
    #[serde(default = "yes")]
    pub symmetric: bool,
}

fn yes() -> bool {
    true
}

/// [`WeightedSum`] as a configuration file writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedSumSpec {
    /// The terms; one without a distance takes that of the sum, or its loss's usual one.
    pub terms: Vec<TermSpec>,
}

/// A term of [`WeightedSumSpec`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermSpec {
    /// Multiplies it.
    #[serde(default = "crate::regularizer::one")]
    pub weight: f64,
    /// The term.
    pub objective: ObjectiveSpec,
}

impl LossSpec {
    /// The distance it is usually used with.
    pub fn default_distance(&self) -> DistanceSpec {
        match self {
            Self::Contrastive(_)
            | Self::TripletMargin(_)
            | Self::LiftedStructure(_)
            | Self::GeneralizedLiftedStructure(_)
            | Self::Margin(_)
            | Self::Angular(_)
            | Self::RankedList(_)
            | Self::CentroidTriplet(_)
            | Self::WeightedSum(_)
            | Self::DynamicSoftMargin(_) => DistanceSpec::euclidean(),
            Self::InfoNce(_) | Self::Nca(_) | Self::ProxyNca(_) | Self::FastAp(_) | Self::VicReg(_) => {
                DistanceSpec::squared_euclidean()
            }
            Self::NPairs(_) | Self::NormalizedSoftmax(_) => DistanceSpec::DotProduct(Default::default()),
            Self::SupCon(_)
            | Self::NtXent(_)
            | Self::MultiSimilarity(_)
            | Self::Circle(_)
            | Self::IntraPairVariance(_)
            | Self::ProxyAnchor(_)
            | Self::CosFace(_)
            | Self::ArcFace(_)
            | Self::SoftTriple(_)
            | Self::TupletMargin(_)
            | Self::SmoothAp(_)
            | Self::Pnp(_)
            | Self::Histogram(_)
            | Self::LargeMarginSoftmax(_)
            | Self::SphereFace(_)
            | Self::P2sGrad(_)
            | Self::Instance(_)
            | Self::Manifold(_)
            | Self::ThresholdConsistentMargin(_) => DistanceSpec::cosine(),
            Self::CrossBatchMemory(spec) => spec.loss.default_distance(),
            Self::MomentumQueue(spec) => spec.loss.default_distance(),
            Self::TwoViews(spec) => spec.loss.default_distance(),
            Self::SignalToNoiseContrastive(_) => DistanceSpec::SignalToNoise(Default::default()),
        }
    }

    /// The loss; its learned parameters get this dtype and device.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when a parameter is out of range.
    pub fn build(&self, distance: Arc<dyn Distance>, dtype: DType, device: &Device) -> Result<Arc<dyn Loss>> {
        self.check()?;
        Ok(match self.clone() {
            Self::Contrastive(config) | Self::SignalToNoiseContrastive(config) => {
                Arc::new(Contrastive { distance, config })
            }
            Self::TripletMargin(config) => Arc::new(TripletMargin { distance, config }),
            Self::NPairs(_) => Arc::new(NPairs { distance }),
            Self::InfoNce(InfoNceConfig { temperature, direction }) => {
                Arc::new(InfoNce { distance, temperature: temperature.build(dtype, device)?, direction })
            }
            Self::SupCon(config) => {
                Arc::new(SupCon { distance, temperature: config.temperature.build(dtype, device)? })
            }
            Self::NtXent(config) => {
                Arc::new(NtXent { distance, temperature: config.temperature.build(dtype, device)? })
            }
            Self::MultiSimilarity(config) => Arc::new(MultiSimilarity { distance, config }),
            Self::Circle(config) => Arc::new(Circle { distance, config }),
            Self::LiftedStructure(config) => Arc::new(LiftedStructure { distance, config }),
            Self::GeneralizedLiftedStructure(config) => {
                Arc::new(GeneralizedLiftedStructure { distance, config })
            }
            Self::IntraPairVariance(config) => Arc::new(IntraPairVariance { distance, config }),
            Self::Margin(config) => Arc::new(Margin::new(distance, config, dtype, device)?),
            Self::ProxyAnchor(config) => Arc::new(ProxyAnchor::new(distance, config, dtype, device)?),
            Self::NormalizedSoftmax(config) => {
                Arc::new(MarginSoftmax::normalized_softmax(distance, config, dtype, device)?)
            }
            Self::CosFace(config) => Arc::new(MarginSoftmax::cos_face(distance, config, dtype, device)?),
            Self::ArcFace(config) => Arc::new(MarginSoftmax::arc_face(distance, config, dtype, device)?),
            Self::SoftTriple(config) => Arc::new(SoftTriple::new(distance, config, dtype, device)?),
            Self::TupletMargin(config) => Arc::new(TupletMargin { distance, config }),
            Self::Angular(config) => Arc::new(Angular { distance, config }),
            Self::FastAp(config) => Arc::new(FastAp::new(distance, config)?),
            Self::SmoothAp(config) => Arc::new(SmoothAp::new(distance, config)?),
            Self::Pnp(config) => Arc::new(Pnp::new(distance, config)?),
            Self::Histogram(config) => Arc::new(Histogram::new(distance, config)?),
            Self::RankedList(config) => Arc::new(RankedList::new(distance, config)?),
            Self::LargeMarginSoftmax(config) => {
                Arc::new(LargeMarginSoftmax::new(distance, config, dtype, device)?)
            }
            Self::SphereFace(config) => {
                Arc::new(LargeMarginSoftmax::sphere_face(distance, config, dtype, device)?)
            }
            Self::P2sGrad(config) => Arc::new(P2sGrad::new(config, dtype, device)?),
            Self::Instance(config) => Arc::new(Instance { distance, config }),
            Self::VicReg(config) => Arc::new(VicReg::new(config)?),
            Self::Manifold(config) => Arc::new(Manifold::new(distance, config, dtype, device)?),
            Self::ThresholdConsistentMargin(config) => {
                Arc::new(ThresholdConsistentMargin { distance, config })
            }
            Self::DynamicSoftMargin(config) => Arc::new(DynamicSoftMargin::new(distance, config)?),
            Self::CentroidTriplet(config) => Arc::new(CentroidTriplet { distance, config }),
            Self::CrossBatchMemory(CrossBatchMemorySpec { loss, miner, memory_size }) => {
                let miner = miner.map(|miner| miner.build(distance.clone())).transpose()?;
                Arc::new(CrossBatchMemory::new(loss.build(distance, dtype, device)?, miner, memory_size)?)
            }
            Self::MomentumQueue(MomentumQueueSpec { loss, miner, labels, memory_size }) => {
                let miner = miner.map(|miner| miner.build(distance.clone())).transpose()?;
                let loss = loss.build(distance, dtype, device)?;
                Arc::new(MomentumQueue::new(loss, miner, labels, memory_size)?)
            }
            Self::TwoViews(TwoViewsSpec { loss, miner, reducer, symmetric }) => {
                let mut objective = Objective::new(loss.build(distance.clone(), dtype, device)?);
                objective.miner = miner.map(|miner| miner.build(distance)).transpose()?;
                if let Some(reducer) = reducer {
                    objective.reducer = reducer.build();
                }
                Arc::new(TwoViews { objective, symmetric })
            }
            Self::WeightedSum(WeightedSumSpec { terms }) => {
                let term = |TermSpec { weight, objective }: TermSpec| -> Result<(f64, Objective)> {
                    let own = objective.distance.map(|spec| spec.build(None)).transpose()?;
                    let distance = own.unwrap_or_else(|| distance.clone());
                    Ok((weight, objective.build_over(distance, None, dtype, device)?))
                };
                Arc::new(WeightedSum { terms: terms.into_iter().map(term).collect::<Result<_>>()? })
            }
            Self::Nca(config) => Arc::new(Nca { distance, config }),
            Self::ProxyNca(config) => Arc::new(ProxyNca::new(distance, config, dtype, device)?),
        })
    }

    /// The parameters of those losses that have no constructor to check them.
    fn check(&self) -> Result<()> {
        match self {
            Self::Contrastive(config) | Self::SignalToNoiseContrastive(config) => config.check(),
            Self::TripletMargin(config) => config.check(),
            Self::MultiSimilarity(config) => config.check(),
            Self::Circle(config) => config.check(),
            Self::LiftedStructure(config) | Self::GeneralizedLiftedStructure(config) => config.check(),
            Self::IntraPairVariance(config) => config.check(),
            Self::TupletMargin(config) => config.check(),
            Self::Angular(config) => config.check(),
            Self::Instance(config) => config.check(),
            Self::ThresholdConsistentMargin(config) => config.check(),
            Self::CentroidTriplet(config) => config.check(),
            Self::Nca(config) => config.check(),
            Self::WeightedSum(WeightedSumSpec { terms }) => {
                terms.iter().try_for_each(|term| finite("WeightedSum", &[("weight", term.weight)]))
            }
            _ => Ok(()),
        }
    }

    /// The loss where no learned parameter of its own has a place.
    pub(crate) fn build_without_parameters(&self, distance: Arc<dyn Distance>) -> Result<Arc<dyn Loss>> {
        let loss = self.build(distance, DType::F32, &Device::Cpu)?;
        match loss.own_parameters().first() {
            None => Ok(loss),
            Some(parameter) => {
                let expected = "a loss without learned parameters";
                Err(Error::config("MaximumLoss", "loss", format!("one with `{}`", parameter.name), expected))
            }
        }
    }
}

/// A whole objective: a loss with its distance, an optional miner, a reducer.
///
/// ```
/// # use {candle_core::{DType, Device}, dml_loss::ObjectiveSpec};
/// let spec: ObjectiveSpec = toml::from_str(
///     r#"
///     loss = { name = "triplet-margin", margin = 0.2 }
///     distance = { name = "bregman", anchor = "second" }
///     miner = { name = "triplet-margin", type_of_triplets = "semi-hard" }
///     "#,
/// )?;
/// let phi = std::sync::Arc::new(phi::SquaredEuclidean);
/// let objective = spec.build(Some(phi), DType::F32, &Device::Cpu)?;
/// assert!(objective.parameters().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveSpec {
    /// The loss.
    pub loss: LossSpec,
    /// Its distance; the loss's usual one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<DistanceSpec>,
    /// The miner, which selects by the loss's distance unless `miner_distance` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miner: Option<MinerSpec>,
    /// The distance by which the miner selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miner_distance: Option<DistanceSpec>,
    /// The reducer; the loss's usual one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reducer: Option<ReducerSpec>,
    /// Regularizers, with weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regularizers: Vec<RegularizationSpec>,
}

impl ObjectiveSpec {
    /// A loss with its usual distance and reducer and no miner.
    pub fn new(loss: LossSpec) -> Self {
        Self {
            loss,
            distance: None,
            miner: None,
            miner_distance: None,
            reducer: None,
            regularizers: Vec::new(),
        }
    }

    /// The objective; `generator` is φ where a distance is a Bregman divergence, and learned parameters of the loss
    /// get this dtype and device.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when a parameter is out of range or φ is missing.
    pub fn build(
        &self,
        generator: Option<Arc<dyn Generator>>,
        dtype: DType,
        device: &Device,
    ) -> Result<Objective> {
        if let LossSpec::WeightedSum(WeightedSumSpec { terms }) = &self.loss {
            self.loss.check()?;
            let term = |TermSpec { weight, objective }: &TermSpec| -> Result<(f64, Objective)> {
                let objective = Self { distance: objective.distance.or(self.distance), ..objective.clone() };
                Ok((*weight, objective.build(generator.clone(), dtype, device)?))
            };
            let terms = terms.iter().map(term).collect::<Result<_>>()?;
            return self.finish(Arc::new(WeightedSum { terms }), None, generator);
        }
        let distance = self.distance.unwrap_or_else(|| self.loss.default_distance());
        self.build_over(distance.build(generator.clone())?, generator, dtype, device)
    }

    /// As [`build`](Self::build), over a distance that is there already.
    fn build_over(
        &self,
        distance: Arc<dyn Distance>,
        generator: Option<Arc<dyn Generator>>,
        dtype: DType,
        device: &Device,
    ) -> Result<Objective> {
        self.finish(self.loss.build(distance.clone(), dtype, device)?, Some(distance), generator)
    }

    fn finish(
        &self,
        loss: Arc<dyn Loss>,
        distance: Option<Arc<dyn Distance>>,
        generator: Option<Arc<dyn Generator>>,
    ) -> Result<Objective> {
        let mut objective = Objective::new(loss);
        if let Some(miner) = &self.miner {
            let distance = match (self.miner_distance, distance) {
                (Some(spec), _) => spec.build(generator.clone())?,
                (None, Some(distance)) => distance,
                (None, None) => miner.default_distance().build(generator.clone())?,
            };
            objective = objective.with_miner(miner.build(distance)?);
        }
        if let Some(reducer) = &self.reducer {
            objective = objective.with_reducer(reducer.build());
        }
        for regularizer in &self.regularizers {
            objective = objective.with_regularization(regularizer.build(generator.as_ref())?);
        }
        Ok(objective)
    }
}
