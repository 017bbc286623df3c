//! Bregman divergence mathematics over any generator.
//!
//! A convex function φ induces the divergence D_φ(x ‖ y) = φ(x) − φ(y) − ⟨∇φ(y), x − y⟩: how far φ at x lies above
//! its tangent at y. φ may be a classical function or a network that is learned; this crate asks only for the
//! [`phi::Generator`] contract.
//!
//! **Convention, everywhere:** in D(x ‖ y) the first argument is x, and y is the point where the tangent is taken.
//! Signatures are `(phi, x, y)`, matrices `[i][j]` = D(x_i ‖ y_j). Which argument a query or anchor takes is a
//! [`Side`] that the caller writes down.
//!
//! ```
//! use bregman::{Lift, Side, all_pairs};
//! use candle_core::{Device, Tensor};
//! use phi::SquaredEuclidean;
//!
//! let gallery = Tensor::new(&[[0f32, 0.], [3., 4.], [6., 8.]], &Device::Cpu)?;
//! let d = all_pairs(&SquaredEuclidean, &gallery, &gallery)?; // [3, 3], one matrix product
//! assert_eq!(d.to_vec2::<f32>()?[0], [0., 25., 100.]);
//!
//! // The same ranking as inner products, for an engine that knows no divergence.
//! let queries = Tensor::new(&[[4f32, 4.]], &Device::Cpu)?;
//! let lift = Lift::around(&SquaredEuclidean, &gallery, Side::First)?;
//! let scores = lift.queries(&queries)?.matmul(&lift.gallery(&gallery)?.t()?)?;
//! assert_eq!(scores.argmax(1)?.to_vec1::<u32>()?, [1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Numbers
//! Every divergence has its own relative precision, however small it is beside the others: 1e-4 in f32 in
//! [`all_pairs`], 1e-5 in [`paired`], in value and gradient, also far from the origin and among rows far off. The matrix
//! is one product around a point amid the rows ([`pivot`]), and an entry that is next to nothing beside what the product
//! adds up is computed anew from the difference of its two rows ([`phi::Generator::divergence`]). No divergence is
//! negative, and that of a row with itself is exactly 0.
//! Gradients with respect to points and to the generator's parameters are those of one first-order backward pass.

mod all_pairs;
mod centroid;
pub mod cluster;
mod dual;
mod error;
mod gallery;
mod lift;
mod paired;
mod pairs;
mod pivot;
pub mod sets;
mod side;
mod symmetric;

pub use all_pairs::all_pairs;
pub use centroid::{bregman_information, left_centroid, right_centroid};
pub use dual::{Dual, Report, Solution, conjugate, conjugate_divergence, grad_conjugate};
pub use error::{Error, Result};
pub use gallery::Gallery;
pub use lift::Lift;
pub use paired::paired;
pub use pivot::pivot;
pub use side::Side;
pub use symmetric::{jeffreys, jeffreys_all_pairs, jeffreys_pairs, jensen_bregman, jensen_bregman_all_pairs};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
