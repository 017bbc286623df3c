//! candle operations with fast CPU forward and backward passes.

mod softplus;

pub use softplus::{sigmoid, softplus, softplus_increment};
