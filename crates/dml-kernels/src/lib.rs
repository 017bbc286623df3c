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
mod conv2d;
mod cpu;
mod layer_norm;
mod linear;
mod matmul;
mod normalize;
mod pairs;
mod pool2d;
mod real;
mod residual;
mod row_loss;
mod separable;
mod softplus;

pub use adamw::{AdamW, adamw_step};
pub use batch_norm::{BatchNormConfig, BatchNormMode, Running, batch_norm1d, batch_norm2d};
pub use conv2d::{Conv2dConfig, conv2d};
pub use layer_norm::layer_norm;
pub use linear::{Activation, linear};
pub use matmul::matmul;
pub use normalize::l2_normalize;
pub use pairs::{PairMatrix, Pairing, first_not_finite};
pub use pool2d::{avg_pool2d, global_avg_pool2d, max_pool2d};
pub use real::Real;
pub use residual::add_relu;
pub use row_loss::{Band, RowLoss, RowMap, Slopes, Tally, TupleLoss};
pub use separable::separable_units;
pub use softplus::{sigmoid, softplus, softplus_increment};
