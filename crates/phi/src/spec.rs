//! A generator as plain data: what a configuration file or the header of a parameter file says about it.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::{
    AffineInput, DeepDivergence, DeepDivergenceConfig, EmpiricalBregman, EmpiricalBregmanConfig, Even,
    Generator, Icnn, IcnnConfig, ItakuraSaito, LogSumExp, Mahalanobis, MahalanobisConfig, MaxAffine,
    MaxAffineConfig, NegativeEntropy, PNorm, Result, Scaled, Separable, SeparableConfig, SquaredEuclidean,
    Sum,
};

/// Which generator, with its whole configuration; in files `kind` names the variant in snake case.
///
/// # Examples
/// ```
/// # use {candle_core::{DType, Device}, phi::{Generator, Spec}};
/// let spec: Spec = serde_json::from_str(r#"{"kind": "icnn", "widths": [16, 16]}"#)?;
/// let phi = spec.build(8, 42, DType::F32, &Device::Cpu)?;
/// assert_eq!(phi.dim(), Some(8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Spec {
    /// [`SquaredEuclidean`].
    SquaredEuclidean,
    /// [`Mahalanobis`].
    Mahalanobis(MahalanobisConfig),
    /// [`NegativeEntropy::orthant`]: generalised Kullback–Leibler.
    NegativeEntropyOrthant,
    /// [`NegativeEntropy::simplex`]: Kullback–Leibler.
    NegativeEntropySimplex,
    /// [`ItakuraSaito`].
    ItakuraSaito,
    /// [`LogSumExp`].
    LogSumExp,
    /// [`PNorm`].
    PNorm {
        /// 1 < p ≤ 2.
        p: f64,
    },
    /// [`MaxAffine`], also its smooth form.
    MaxAffine(MaxAffineConfig),
    /// [`DeepDivergence`].
    DeepDivergence(DeepDivergenceConfig),
    /// [`Separable`].
    Separable(SeparableConfig),
    /// [`Icnn`].
    Icnn(IcnnConfig),
    /// [`EmpiricalBregman`].
    EmpiricalBregman(EmpiricalBregmanConfig),
    /// [`Sum`].
    Sum {
        /// The parts, each drawn from its own seed.
        parts: Vec<Spec>,
    },
    /// [`Scaled`].
    Scaled {
        /// The factor, > 0.
        scale: f64,
        /// What is scaled.
        inner: Box<Spec>,
    },
    /// [`AffineInput`].
    AffineInput {
        /// m, the dimension of the inner generator.
        inner_dim: usize,
        /// ψ in ψ(Ax + b).
        inner: Box<Spec>,
    },
    /// [`Even`].
    Even {
        /// The generator whose even part is taken.
        inner: Box<Spec>,
    },
}

impl Spec {
    /// The generator on ℝᵈ, d = `dim`, with random parameters: the same for the same seed.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) names the generator and the field that makes no sense.
    pub fn build(&self, dim: usize, seed: u64, dtype: DType, device: &Device) -> Result<Box<dyn Generator>> {
        Ok(match self {
            Self::SquaredEuclidean => Box::new(SquaredEuclidean),
            Self::Mahalanobis(config) => Box::new(Mahalanobis::new(dim, config, seed, dtype, device)?),
            Self::NegativeEntropyOrthant => Box::new(NegativeEntropy::orthant()),
            Self::NegativeEntropySimplex => Box::new(NegativeEntropy::simplex()),
            Self::ItakuraSaito => Box::new(ItakuraSaito),
            Self::LogSumExp => Box::new(LogSumExp),
            Self::PNorm { p } => Box::new(PNorm::new(*p)?),
            Self::MaxAffine(config) => Box::new(MaxAffine::new(dim, config, seed, dtype, device)?),
            Self::DeepDivergence(config) => Box::new(DeepDivergence::new(dim, config, seed, dtype, device)?),
            Self::Separable(config) => Box::new(Separable::new(dim, config, seed, dtype, device)?),
            Self::Icnn(config) => Box::new(Icnn::new(dim, config, seed, dtype, device)?),
            Self::EmpiricalBregman(config) => {
                Box::new(EmpiricalBregman::new(dim, config, seed, dtype, device)?)
            }
            Self::Sum { parts } => {
                let built = (0u64..).zip(parts).map(|(i, spec)| {
                    let seed = seed.wrapping_add(i.wrapping_mul(0xd1b5_4a32_d192_ed03));
                    spec.build(dim, seed, dtype, device)
                });
                Box::new(Sum::new(built.collect::<Result<_>>()?)?)
            }
            Self::Scaled { scale, inner } => {
                Box::new(Scaled::new(*scale, inner.build(dim, seed, dtype, device)?)?)
            }
            Self::AffineInput { inner_dim, inner } => {
                let psi = inner.build(*inner_dim, seed, dtype, device)?;
                Box::new(AffineInput::new(dim, *inner_dim, psi, !seed, dtype, device)?)
            }
            Self::Even { inner } => Box::new(Even::new(inner.build(dim, seed, dtype, device)?)?),
        })
    }
}
