//! Bregman divergence mathematics over any generator.

mod all_pairs;
mod clamp;
mod error;
mod lift;
mod paired;
mod pivot;
mod side;

pub use all_pairs::all_pairs;
pub use error::{Error, Result};
pub use lift::Lift;
pub use paired::paired;
pub use pivot::mean_pivot;
pub use side::Side;
