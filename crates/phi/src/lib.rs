//! Convex generators φ: the functions whose Bregman divergence is a distance, classical and learned.

mod activation;
mod domain;
mod empirical_bregman;
mod error;
mod generator;
mod icnn;
mod linalg;
mod mahalanobis;
mod separable;
mod squared_euclidean;
mod tensor;

pub use activation::Activation;
pub use domain::Domain;
pub use empirical_bregman::{EmpiricalBregman, EmpiricalBregmanConfig};
pub use error::{Error, Result};
pub use generator::{Generator, Parameter};
pub use icnn::{Icnn, IcnnConfig};
pub use mahalanobis::{Factor, Mahalanobis, MahalanobisConfig};
pub use separable::{Separable, SeparableConfig};
pub use squared_euclidean::SquaredEuclidean;
