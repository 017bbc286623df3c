//! Convex generators φ: the functions whose Bregman divergence is a distance, classical and learned.

mod activation;
mod combinator;
mod deep_divergence;
mod domain;
mod empirical_bregman;
mod error;
mod file;
mod generator;
mod icnn;
mod itakura_saito;
mod linalg;
mod log_sum_exp;
mod mahalanobis;
mod max_affine;
mod negative_entropy;
mod p_norm;
mod separable;
mod spec;
mod squared_euclidean;
mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use activation::Activation;
pub use combinator::{AffineInput, Even, Scaled, Sum};
pub use deep_divergence::{DeepDivergence, DeepDivergenceConfig};
pub use domain::Domain;
pub use empirical_bregman::{EmpiricalBregman, EmpiricalBregmanConfig};
pub use error::{Error, Result};
pub use file::{Header, load, load_parameters, read_header, save};
pub use generator::{Generator, Parameter};
pub use icnn::{Icnn, IcnnConfig};
pub use itakura_saito::ItakuraSaito;
pub use log_sum_exp::LogSumExp;
pub use mahalanobis::{Factor, Mahalanobis, MahalanobisConfig};
pub use max_affine::{MaxAffine, MaxAffineConfig};
pub use negative_entropy::NegativeEntropy;
pub use p_norm::PNorm;
pub use separable::{Separable, SeparableConfig};
pub use spec::Spec;
pub use squared_euclidean::SquaredEuclidean;
