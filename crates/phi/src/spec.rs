//! A generator as plain data: what a configuration file or the header of a parameter file says about it.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::{
    AffineInput, DeepDivergence, DeepDivergenceConfig, EmpiricalBregman, EmpiricalBregmanConfig, Error, Even,
    Factor, Generator, Icnn, IcnnConfig, ItakuraSaito, LogSumExp, Mahalanobis, MahalanobisConfig, MaxAffine,
    MaxAffineConfig, NegativeEntropy, PNorm, Result, Scaled, Separable, SeparableConfig, SquaredEuclidean,
    Sum,
};

/// More than this is a damaged file or a slip, not a generator.
const MOST_PARAMETERS: u128 = 1 << 31;

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
        let count = self.parameter_count(dim);
        if count > MOST_PARAMETERS {
            return Err(Error::Config {
                generator: "Spec",
                field: "sizes",
                got: format!("{count} parameters for dimension {dim}"),
                expected: "at most 2³¹ altogether",
            });
        }
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

impl Spec {
    /// The numbers that the generator learns in dimension `dim`, saturating where sizes are absurd.
    pub(crate) fn parameter_count(&self, dim: usize) -> u128 {
        let d = dim as u128;
        match self {
            Self::Mahalanobis(config) => match config.factor {
                Factor::Triangular => d.saturating_mul(d),
                Factor::Dense { rank } => d.saturating_mul(rank as u128),
            },
            Self::MaxAffine(config) => (config.pieces as u128).saturating_mul(d.saturating_add(1)),
            Self::DeepDivergence(config) => {
                icnn_count(d, &config.widths).saturating_mul(config.subnetworks as u128)
            }
            Self::Separable(config) => separable_count(d, config),
            Self::Icnn(config) => icnn_count(d, &config.widths),
            Self::EmpiricalBregman(config) => {
                let separable = config.separable.as_ref().map_or(0, |config| separable_count(d, config));
                let icnn = config.icnn.as_ref().map_or(0, |config| icnn_count(d, &config.widths));
                separable.saturating_add(icnn)
            }
            Self::Sum { parts } => {
                parts.iter().fold(0, |sum: u128, part| sum.saturating_add(part.parameter_count(dim)))
            }
            Self::Scaled { inner, .. } | Self::Even { inner } => inner.parameter_count(dim),
            Self::AffineInput { inner_dim, inner } => {
                let map = (*inner_dim as u128).saturating_mul(d.saturating_add(1));
                map.saturating_add(inner.parameter_count(*inner_dim))
            }
            Self::SquaredEuclidean
            | Self::NegativeEntropyOrthant
            | Self::NegativeEntropySimplex
            | Self::ItakuraSaito
            | Self::LogSumExp
            | Self::PNorm { .. } => 0,
        }
    }
}

fn separable_count(d: u128, config: &SeparableConfig) -> u128 {
    d.saturating_mul(config.units as u128).saturating_mul(3)
}

fn icnn_count(d: u128, widths: &[usize]) -> u128 {
    let (mut sum, mut before) = (0u128, 0u128); // parameters so far, units of the layer before
    for width in widths.iter().map(|&width| width as u128).chain([1]) {
        let each = before.saturating_add(d).saturating_add(1);
        sum = sum.saturating_add(width.saturating_mul(each));
        before = width;
    }
    sum
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Parameter;

    #[test]
    fn the_count_is_that_of_the_built_generator() -> Result<()> {
        for named in crate::testing::every_generator(3, 1)? {
            let count: usize =
                named.phi.parameters().iter().map(|Parameter { var, .. }| var.elem_count()).sum();
            assert_eq!(named.spec.parameter_count(3), count as u128, "{}", named.name);
        }
        Ok(())
    }

    #[test]
    fn absurd_sizes_are_an_error() {
        let separable = SeparableConfig { units: 1 << 62, ..Default::default() };
        let icnn = IcnnConfig { widths: vec![1 << 62, 1 << 62], ..Default::default() };
        let max_affine = MaxAffineConfig { pieces: 1 << 63, ..Default::default() };
        for spec in [Spec::Separable(separable), Spec::Icnn(icnn), Spec::MaxAffine(max_affine)] {
            let message = spec.build(8, 0, DType::F32, &Device::Cpu).unwrap_err().to_string();
            assert!(message.contains("parameters for dimension 8, expected at most 2³¹"), "{message}");
        }
    }
}
