//! A distance by name, as a configuration file writes it.

use std::sync::Arc;

use bregman::Side;
use phi::Generator;
use serde::{Deserialize, Serialize};

use crate::{
    BregmanDistance, Cosine, Distance, DotProduct, Error, Lp, Result, SignalToNoise, distance::check_powers,
};

/// The side of D(· ‖ ·) the anchor takes, as a configuration file writes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SideSpec {
    /// D(anchor ‖ other).
    #[default]
    First,
    /// D(other ‖ anchor).
    Second,
}

impl From<SideSpec> for Side {
    fn from(side: SideSpec) -> Self {
        match side {
            SideSpec::First => Side::First,
            SideSpec::Second => Side::Second,
        }
    }
}

/// p, power and normalization of the fixed distances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FixedSpec {
    /// The p of the norm, also of the one that rows are divided by; 2.
    pub p: f64,
    /// The power the value is raised to; 1.
    pub power: f64,
    /// Whether rows are normalized first; true by default.
    pub normalize_embeddings: bool,
}

impl Default for FixedSpec {
    fn default() -> Self {
        Self { p: 2.0, power: 1.0, normalize_embeddings: true }
    }
}

/// Side and symmetrization of a Bregman divergence; φ itself comes from the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BregmanSpec {
    /// The argument the anchor takes; the first by default.
    pub anchor: SideSpec,
    /// Whether both directions are averaged; false by default.
    pub symmetrize: bool,
    /// Whether rows are L2-normalized first; false by default.
    pub normalize_embeddings: bool,
}

/// A distance by name. The class names of pytorch-metric-learning are accepted as well.
///
/// ```
/// # use dml_loss::DistanceSpec;
/// let spec: DistanceSpec = toml::from_str("name = \"lp\"\np = 1.0")?;
/// assert!(!spec.build(None)?.larger_is_closer());
/// let error = toml::from_str::<DistanceSpec>("name = \"l2\"").unwrap_err().to_string();
/// assert!(error.contains("unknown variant `l2`, expected one of ") && error.contains("`bregman`"), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DistanceSpec {
    /// [`Lp`].
    #[serde(alias = "LpDistance")]
    Lp(FixedSpec),
    /// [`Cosine`].
    #[serde(alias = "CosineSimilarity")]
    Cosine(FixedSpec),
    /// [`DotProduct`].
    #[serde(alias = "DotProductSimilarity")]
    DotProduct(FixedSpec),
    /// [`SignalToNoise`].
    #[serde(alias = "SNRDistance")]
    SignalToNoise(FixedSpec),
    /// [`BregmanDistance`].
    Bregman(BregmanSpec),
}

impl DistanceSpec {
    /// The Euclidean distance of normalized rows.
    pub fn euclidean() -> Self {
        Self::Lp(FixedSpec::default())
    }

    /// The squared Euclidean distance of normalized rows.
    pub fn squared_euclidean() -> Self {
        Self::Lp(FixedSpec { power: 2.0, ..FixedSpec::default() })
    }

    /// The cosine.
    pub fn cosine() -> Self {
        Self::Cosine(FixedSpec::default())
    }

    /// The distance; `generator` is φ for the Bregman divergence, and of no use to the others.
    ///
    /// # Errors
    /// [`Error::Config`] when a parameter is out of range, or the Bregman divergence has no generator.
    pub fn build(&self, generator: Option<Arc<dyn Generator>>) -> Result<Arc<dyn Distance>> {
        Ok(match *self {
            Self::Lp(s) => Arc::new(Lp::new(s.p, s.power, s.normalize_embeddings)?),
            Self::Cosine(s) if !s.normalize_embeddings => {
                let expected = "true (use `dot-product` for rows as they are)";
                return Err(Error::config("Cosine", "normalize_embeddings", false, expected));
            }
            Self::Cosine(s) if s == FixedSpec::default() => Arc::new(Cosine),
            Self::Cosine(s) | Self::DotProduct(s) => {
                Arc::new(DotProduct::new(s.p, s.power, s.normalize_embeddings)?)
            }
            Self::SignalToNoise(s) => {
                check_powers("SignalToNoise", s.p, s.power)?;
                let FixedSpec { p, power, normalize_embeddings } = s;
                Arc::new(SignalToNoise { p, power, normalize_embeddings })
            }
            Self::Bregman(s) => {
                let missing =
                    || Error::config("bregman", "generator", "missing", "a generator φ given by the model");
                Arc::new(BregmanDistance {
                    generator: generator.ok_or_else(missing)?,
                    anchor: s.anchor.into(),
                    symmetrize: s.symmetrize,
                    normalize_embeddings: s.normalize_embeddings,
                })
            }
        })
    }
}
