//! A regularizer by name, as a configuration file writes it.

use std::sync::Arc;

use phi::Generator;
use serde::{Deserialize, Serialize};

use crate::{
    CenterInvariant, Curvature, CurvatureConfig, Error, LpNorm, LpNormConfig, RegularFace, Regularization,
    RegularizedRows, Regularizer, Result, Scale, ScaleConfig, SparseCenters, SparseCentersConfig, ZeroMean,
    error::finite,
};

/// A regularizer by name. The class names of pytorch-metric-learning are accepted as well.
///
/// ```
/// # use dml_loss::RegularizerSpec;
/// let error = toml::from_str::<RegularizerSpec>("name = \"l2\"").unwrap_err().to_string();
/// assert!(error.contains("expected one of ") && error.contains("`curvature`"), "{error}");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RegularizerSpec {
    /// [`LpNorm`].
    #[serde(alias = "LpRegularizer")]
    Lp(LpNormConfig),
    /// [`CenterInvariant`].
    #[serde(alias = "CenterInvariantRegularizer")]
    CenterInvariant {},
    /// [`ZeroMean`].
    #[serde(alias = "ZeroMeanRegularizer")]
    ZeroMean {},
    /// [`RegularFace`].
    #[serde(alias = "RegularFaceRegularizer")]
    RegularFace {},
    /// [`SparseCenters`].
    #[serde(alias = "SparseCentersRegularizer")]
    SparseCenters(SparseCentersConfig),
    /// [`Curvature`] of the generator.
    Curvature(CurvatureConfig),
    /// [`Scale`] of the generator.
    Scale(ScaleConfig),
}

impl RegularizerSpec {
    /// The regularizer; `generator` is φ for those that look at it.
    ///
    /// # Errors
    /// [`Error::Config`] when a parameter is out of range or φ is missing.
    pub fn build(&self, generator: Option<&Arc<dyn Generator>>) -> Result<Arc<dyn Regularizer>> {
        let phi = |owner| {
            let missing = || Error::config(owner, "generator", "missing", "a generator φ given by the model");
            generator.cloned().ok_or_else(missing)
        };
        Ok(match *self {
            Self::Lp(config) => Arc::new(LpNorm::new(config)?),
            Self::CenterInvariant {} => Arc::new(CenterInvariant),
            Self::ZeroMean {} => Arc::new(ZeroMean),
            Self::RegularFace {} => Arc::new(RegularFace),
            Self::SparseCenters(config) => Arc::new(SparseCenters::new(config)?),
            Self::Curvature(config) => Arc::new(Curvature::new(phi("Curvature")?, config)?),
            Self::Scale(config) => Arc::new(Scale::new(phi("Scale")?, config)?),
        })
    }
}

/// A regularizer with its weight, as a configuration file writes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegularizationSpec {
    /// The penalty.
    pub regularizer: RegularizerSpec,
    /// What it sees.
    #[serde(default)]
    pub on: RegularizedRows,
    /// Multiplies it.
    #[serde(default = "one")]
    pub weight: f64,
}

pub(crate) fn one() -> f64 {
    1.0
}

impl RegularizationSpec {
    /// The regularization.
    ///
    /// # Errors
    /// As [`RegularizerSpec::build`].
    pub fn build(&self, generator: Option<&Arc<dyn Generator>>) -> Result<Regularization> {
        finite("Regularization", &[("weight", self.weight)])?;
        let regularizer = self.regularizer.build(generator)?;
        Ok(Regularization { regularizer, on: self.on, weight: self.weight })
    }
}
