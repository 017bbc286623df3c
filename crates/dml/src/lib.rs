//! Trains encoders together with a learned Bregman divergence, evaluates them, and reports.

pub mod atomic;
mod checkpoint;
mod encoder;
mod error;
mod method;
mod optimizer;
mod parameter;
mod progress;
pub mod report;
pub mod suite;
pub mod task;
mod train;

pub use checkpoint::Checkpoint;
pub use encoder::{
    BlockInit, Encoder, LeNet, LeNetConfig, Mode, ResNet, ResNetConfig, ResNetDepth, ResNetStem, SmallConv,
    SmallConvConfig, load_weights, save_weights,
};
pub use error::{Error, Result};
pub use method::{Inputs, Method};
pub use optimizer::{Optimizer, OptimizerConfig};
pub use parameter::{Group, Parameter};
pub use train::{Task, TrainConfig, Watch, train};

/// The example of the workspace's README, tested.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The generator that the guide writes, tested.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/extend/new-generator.md")]
struct NewGenerator;
