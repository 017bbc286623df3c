//! candle operations with fast CPU forward and backward passes.
//!
//! Each function is an ordinary differentiable operation on candle tensors: on the CPU, for `f32` and `f64`, it
//! runs this crate's kernel, elsewhere candle's own operations where those are right. Only first-order gradients
//! exist, as everywhere in the workspace.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use dml_kernels::{Activation, Conv2dConfig, conv2d, max_pool2d};
//!
//! let image = Tensor::arange(0f32, 64., &Device::Cpu)?.reshape((1, 1, 8, 8))?;
//! let weight = Var::from_tensor(&Tensor::full(0.1f32, (4, 1, 3, 3), &Device::Cpu)?)?;
//! let config = Conv2dConfig { padding: 1, activation: Activation::Relu, ..Default::default() };
//! let features = max_pool2d(&conv2d(&image, &weight, None, config)?, 2, 2, 0)?;
//! assert_eq!(features.dims(), [1, 4, 4, 4]);
//! let gradients = features.sum_all()?.backward()?;
//! assert_eq!(gradients.get(&weight).map(|g| g.dims().to_vec()), Some(vec![4, 1, 3, 3]));
//! # Ok::<(), candle_core::Error>(())
//! ```

mod adamw;
mod batch_norm;
mod buffer;
mod center;
mod conv2d;
mod convex_network;
mod cpu;
mod dispatch;
mod finite;
mod gradient;
mod hardest;
mod layer_norm;
mod linear;
mod masked;
mod matmul;
mod moments;
mod normalize;
mod pairs;
mod peak;
mod pool2d;
mod real;
mod reduce;
mod residual;
mod row_loss;
mod rows;
mod scalar_divergence;
mod scratch;
mod separable;
mod sgd;
mod simd;
mod softplus;
mod threads;
mod top_k;
mod unit_divergence;
mod variadic;

pub use adamw::{AdamW, adamw_step};
pub use batch_norm::{BatchNormConfig, BatchNormMode, Running, batch_norm1d, batch_norm2d};
pub use center::center;
pub use conv2d::{Conv2dConfig, conv2d, conv2d_max_pool2d};
pub use convex_network::{ConvexActivation, ConvexNetwork, convex_network};
pub use dispatch::natively;
pub use finite::{first_not_finite, largest_magnitude};
pub use gradient::{Gradient, clipping_scale, squared_norm};
pub use hardest::{Classes, Closer, Hardest, hardest};
pub use layer_norm::layer_norm;
pub use linear::{Activation, linear};
pub use masked::{masked_row_log_sum_exp, masked_row_max, masked_row_min};
pub use matmul::matmul;
pub use moments::{Moments, column_moments, row_squared_distance};
pub use normalize::l2_normalize;
pub use pairs::{LiftedPairs, LiftedSide, PairMatrix, Pairing};
pub use peak::multiply_adds;
pub use pool2d::{avg_pool2d, global_avg_pool2d, max_pool2d};
pub use real::Real;
pub use reduce::{add_row, row_dot, sum_leading};
pub use residual::add_relu;
pub use row_loss::{Band, RowLoss, RowMap, Slopes, Tally, TupleLoss};
pub use scalar_divergence::{ConvexCurve, scalar_divergence};
pub use separable::{separable_divergence, separable_units};
pub use sgd::{Sgd, sgd_step};
pub use softplus::{sigmoid, softplus};
pub use threads::settle_threads;
pub use top_k::row_top_k;
pub use unit_divergence::unit_divergence;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
