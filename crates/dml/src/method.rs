//! The distances that the suites compare: one generator each, everything else the same.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use phi::{
    DeepDivergence, DeepDivergenceConfig, EmpiricalBregman, EmpiricalBregmanConfig, Generator, Icnn,
    IcnnConfig, Mahalanobis, MahalanobisConfig, MaxAffine, MaxAffineConfig, Separable, SeparableConfig,
    SquaredEuclidean,
};
use serde::{Deserialize, Serialize};

use crate::Result;

/// What is known of the points that a generator will see.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// d.
    pub dim: usize,
    /// The range of their coordinates.
    pub range: (f64, f64),
    /// The root mean square of their coordinates.
    pub scale: f64,
    /// Some of them, `[n, d]`, where there are any before training; separable units start at their quantiles.
    pub sample: Option<&'a Tensor>,
}

/// A method of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The squared Euclidean distance; nothing is learned but the encoder.
    Euclidean,
    /// A learned quadratic form (Davis et al. 2007), trained with the encoder.
    DeepMahalanobis,
    /// A learned maximum of affine functions (Siahkamari et al. 2020), softened so that it has a gradient.
    MaxAffine,
    /// A maximum of learned sub-networks (Cilingir et al. 2020).
    DeepDivergence,
    /// A separable convex function alone.
    Separable,
    /// An input-convex network alone.
    Icnn,
    /// The main model (arXiv 2304.07689): separable and input-convex parts together.
    EmpiricalBregman,
}

impl Method {
    /// The name in tables and plots.
    pub fn label(self) -> &'static str {
        match self {
            Self::Euclidean => "Euclidean",
            Self::DeepMahalanobis => "Mahalanobis",
            Self::MaxAffine => "Max-affine",
            Self::DeepDivergence => "Deep divergence",
            Self::Separable => "Separable",
            Self::Icnn => "ICNN",
            Self::EmpiricalBregman => "Empirical Bregman",
        }
    }

    /// The name in files and folders.
    pub fn id(self) -> &'static str {
        match self {
            Self::Euclidean => "euclidean",
            Self::DeepMahalanobis => "mahalanobis",
            Self::MaxAffine => "max-affine",
            Self::DeepDivergence => "deep-divergence",
            Self::Separable => "separable",
            Self::Icnn => "icnn",
            Self::EmpiricalBregman => "empirical-bregman",
        }
    }

    /// Its generator for the points it will see.
    ///
    /// # Errors
    /// [`Error::Generator`](crate::Error::Generator) for a dimension of 0 or an empty range.
    pub fn generator(
        self,
        inputs: Inputs<'_>,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Arc<dyn Generator>> {
        let Inputs { dim, range, scale, sample } = inputs;
        let place = |separable: &Separable| sample.map_or(Ok(()), |sample| separable.place_knees(sample));
        let separable = SeparableConfig { range, ..Default::default() };
        let icnn = IcnnConfig { input_scale: scale, ..Default::default() };
        Ok(match self {
            Self::Euclidean => Arc::new(SquaredEuclidean),
            Self::DeepMahalanobis => {
                let config = MahalanobisConfig::default();
                Arc::new(Mahalanobis::new(dim, &config, seed, dtype, device)?)
            }
            Self::MaxAffine => {
                // Tangent planes of ½‖x‖² at points of the data's size, and τ of the order of the pieces' differences
                // there, so that several take part at every point.
                let config = MaxAffineConfig::default();
                let far = MaxAffine::new(dim, &config, seed, dtype, device)?;
                let slopes = |p: &phi::Parameter| if p.name == "a" { scale } else { scale * scale };
                let scaled: Vec<Tensor> = far
                    .parameters()
                    .iter()
                    .map(|p| p.var.as_tensor() * slopes(p))
                    .collect::<candle_core::Result<_>>()?;
                let temperature = Some(0.5 * scale * scale * (dim as f64).sqrt());
                Arc::new(MaxAffine::from_parameters(&scaled[0], &scaled[1], temperature)?)
            }
            Self::DeepDivergence => {
                let config = DeepDivergenceConfig { input_scale: scale, ..Default::default() };
                Arc::new(DeepDivergence::new(dim, &config, seed, dtype, device)?)
            }
            Self::Separable => {
                let phi = Separable::new(dim, &separable, seed, dtype, device)?;
                place(&phi)?;
                Arc::new(phi)
            }
            Self::Icnn => Arc::new(Icnn::new(dim, &icnn, seed, dtype, device)?),
            Self::EmpiricalBregman => {
                let config = EmpiricalBregmanConfig {
                    separable: Some(SeparableConfig { curvature: 0.0, ..separable }),
                    icnn: Some(IcnnConfig { curvature: 0.0, ..icnn }),
                    ..Default::default()
                };
                let phi = EmpiricalBregman::new(dim, &config, seed, dtype, device)?;
                phi.separable().map_or(Ok(()), place)?;
                Arc::new(phi)
            }
        })
    }
}
