//! Bregman divergence mathematics over any generator.

mod all_pairs;
mod centroid;
mod clamp;
pub mod cluster;
mod dual;
mod error;
mod lift;
mod paired;
mod pivot;
mod side;
mod symmetric;

pub use all_pairs::all_pairs;
pub use centroid::{bregman_information, left_centroid, right_centroid};
pub use dual::{Dual, Report, Solution, conjugate, conjugate_divergence, grad_conjugate};
pub use error::{Error, Result};
pub use lift::Lift;
pub use paired::paired;
pub use pivot::mean_pivot;
pub use side::Side;
pub use symmetric::{jeffreys, jeffreys_all_pairs, jensen_bregman, jensen_bregman_all_pairs};
