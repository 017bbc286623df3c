//! What can go wrong in retrieval and its evaluation, and how to put it right.

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate: it names the function, the argument, the place, and what was wanted.
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
    /// A tensor of an element type that distances are not computed in.
    #[error("{op}: `{arg}` holds {got:?}, expected F32 or F64; convert it with `to_dtype`")]
    DType {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The type it had.
        got: candle_core::DType,
    },
    /// A list whose length does not fit its partner.
    #[error("{op}: `{arg}` has {got} entries, expected {expected}")]
    Length {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The length it had.
        got: usize,
        /// The length it should have, and why.
        expected: String,
    },
    /// A distance that cannot be ranked.
    #[error(
        "{op}: the distance of query {row} to item {column} is NaN; look for NaN or overflow in embeddings \
         and parameters"
    )]
    NotANumber {
        /// The function called.
        op: &'static str,
        /// The query.
        row: usize,
        /// The item of the gallery.
        column: usize,
    },
    /// A value of a list that is not finite.
    #[error("{op}: entry {index} of `{arg}` is {value}, expected a finite number")]
    NotFinite {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The first entry at fault.
        index: usize,
        /// What it was.
        value: f64,
    },
    /// More neighbours asked for than there are, or none.
    #[error(
        "{op}: `k` is {k}, expected 1 to {available}, the items each query is ranked against; ask for fewer \
         neighbours or give a larger gallery"
    )]
    K {
        /// The function called.
        op: &'static str,
        /// The number asked for.
        k: usize,
        /// The largest possible: the gallery, less the query itself where it is part of it.
        available: usize,
    },
    /// No query has an item to be found.
    #[error(
        "{op}: none of the {queries} queries has a relevant item in the gallery, so the metric is undefined; \
         check that the labels of both sides belong together"
    )]
    NothingRelevant {
        /// The function called.
        op: &'static str,
        /// The number of queries.
        queries: usize,
    },
    /// An option that makes no sense.
    #[error("{op}: `{arg}` is {got}, expected {expected}")]
    Config {
        /// The function called.
        op: &'static str,
        /// The option.
        arg: &'static str,
        /// What it was.
        got: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The divergence could not be evaluated.
    #[error(transparent)]
    Bregman(#[from] bregman::Error),
    /// A tensor operation failed; op and shapes follow in the source chain.
    #[error("tensor operation failed")]
    Candle(#[from] candle_core::Error),
}
