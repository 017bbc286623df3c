//! Convex generators φ: the functions whose Bregman divergence is a distance, classical and learned.

mod domain;
mod error;
mod generator;
mod squared_euclidean;

pub use domain::Domain;
pub use error::{Error, Result};
pub use generator::{Generator, Parameter};
pub use squared_euclidean::SquaredEuclidean;
