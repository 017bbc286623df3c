//! Convex generators φ: the functions whose Bregman divergence is a distance, classical and learned.
//!
//! A generator φ on a convex set C ⊆ ℝᵈ makes the divergence D_φ(x ‖ y) = φ(x) − φ(y) − ⟨∇φ(y), x − y⟩: x is the
//! first argument, y the point where the tangent is taken. [`Generator`] is the contract: φ and ∇φ row by row,
//! `[n, d]` → (`[n]`, `[n, d]`), **∇φ in closed form out of differentiable operations**. A loss that holds ∇φ then needs
//! one first-order `backward()`, and its gradients with respect to inputs and to every parameter are exact.
//!
//! ```
//! use candle_core::{D, DType, Device, Tensor};
//! use phi::{Generator, Icnn, IcnnConfig};
//!
//! let phi = Icnn::new(2, &IcnnConfig::default(), 42, DType::F32, &Device::Cpu)?;
//! let x = Tensor::new(&[[0f32, 1.], [2., 3.]], &Device::Cpu)?;
//! let y = Tensor::new(&[[1f32, 1.], [2., 3.]], &Device::Cpu)?;
//! let (phi_y, grad_y) = phi.value_and_grad(&y)?; // [n], [n, d]
//! let tangent = (grad_y * (&x - &y)?)?.sum(D::Minus1)?;
//! let divergence = (phi.value(&x)? - phi_y - tangent)?.to_vec1::<f32>()?;
//! assert!(divergence[0] > 0.0 && divergence[1] == 0.0); // zero only at x = y
//! # Ok::<(), phi::Error>(())
//! ```
//!
//! Learned generators are convex by construction, whatever values an optimizer gives their parameters. They come
//! from a configuration and a seed, from given tensors (`from_parameters`), from a [`Spec`], or from a file
//! ([`load`]). Divergences of many points, duals, centroids and clustering are in the crate `bregman`.
//!
//! # Crate features
//! - `testing`: opens `phi::testing`, for tests of code that takes any generator: every generator with parameters
//!   far from their initial values, points in its domain, finite differences.

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
