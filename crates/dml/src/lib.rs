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
    BlockInit, Encoder, LeNet, LeNetConfig, Mlp, MlpConfig, Mode, ResNet, ResNetConfig, ResNetDepth,
    ResNetStem, SmallConv, SmallConvConfig, load_weights, save_weights,
};
pub use error::{Error, Result};
pub use method::{Inputs, Method};
pub use optimizer::{Clipping, Optimizer, OptimizerConfig, UpdateRule};
pub use parameter::{Group, Parameter};
pub use train::{Elapsed, Task, TrainConfig, Watch, train};

/// The example of the workspace's README, tested.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The example of this crate's README, tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct OwnReadme;

/// The examples of `dml-data`'s README, tested here because one of them trains.
#[cfg(doctest)]
#[doc = include_str!("../../dml-data/README.md")]
struct DataReadme;

/// The generator that the guide writes, tested.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/extend/new-generator.md")]
struct NewGenerator;
