//! What can go wrong with a generator, and how to put it right.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate: it names the function, the argument or file, the place, and what was wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor of the wrong rank or size.
    #[error("{op}: `{arg}` has shape {got:?}, expected {expected}")]
    Shape {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The shape it had.
        got: Vec<usize>,
        /// The shape it should have.
        expected: String,
    },
    /// A tensor whose element type is not the generator's.
    #[error("{op}: `{arg}` holds {got:?}, expected {expected:?}; convert it with `to_dtype`")]
    DType {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The type it had.
        got: candle_core::DType,
        /// The type it should have.
        expected: candle_core::DType,
    },
    /// A row outside the generator's domain.
    #[error("{op}: row {row} of `{arg}` holds {value}, outside {domain}; project it into the domain first")]
    Domain {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The first row outside.
        row: usize,
        /// The offending value (a coordinate, or the sum of the row for the simplex).
        value: f64,
        /// The domain, in words.
        domain: &'static str,
    },
    /// A parameter of a generator that makes no sense.
    #[error("{generator}: `{field}` is {got}, expected {expected}")]
    Config {
        /// The generator.
        generator: &'static str,
        /// The field of its configuration.
        field: &'static str,
        /// What it was.
        got: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A parameter file that does not fit, is damaged, or cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to do.
        why: String,
    },
    /// A tensor operation failed; op and shapes follow in the source chain.
    #[error("tensor operation failed")]
    Candle(#[from] candle_core::Error),
}
