//! What can go wrong in a run, and how to put it right.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate, or of the crates it orchestrates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that makes no sense.
    #[error("{what}: `{field}` is {got}, expected {expected}")]
    Config {
        /// What was configured.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// What it was.
        got: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A loss that is no longer a number.
    #[error("step {step}: the loss is {loss}; lower the learning rates or look for bad input")]
    Diverged {
        /// The step, from 0.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// A parameter that takes no part in the loss, so that training would leave it as it is.
    #[error("step {step}: parameter `{name}` receives no gradient; remove it or use it in the loss")]
    NoGradient {
        /// The step, from 0.
        step: usize,
        /// The parameter.
        name: String,
    },
    /// A file that is damaged, does not fit, or cannot be read.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        why: String,
    },
    /// The run was asked to stop; it goes on from its last checkpoint when started again.
    #[error("interrupted; start again to go on from the last checkpoint")]
    Interrupted,
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] crate::atomic::Error),
    /// The report could not be made.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// The data could not be read or split.
    #[error(transparent)]
    Data(#[from] dml_data::Error),
    /// The generator refused.
    #[error(transparent)]
    Generator(#[from] phi::Error),
    /// The divergence refused.
    #[error(transparent)]
    Divergence(#[from] bregman::Error),
    /// The loss refused.
    #[error(transparent)]
    Loss(#[from] dml_loss::Error),
    /// The evaluation refused.
    #[error(transparent)]
    Retrieval(#[from] dml_retrieval::Error),
    /// A tensor operation failed; op and shapes follow in the source chain.
    #[error("tensor operation failed")]
    Candle(#[from] candle_core::Error),
}
