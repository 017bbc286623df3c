//! File formats of image datasets, and of embeddings.
//!
//! Every reader has a `read` for a file and a `parse` for bytes in memory. Memory grows with the bytes really
//! there, never with what a header claims, and whatever is wrong names the byte.

pub mod cifar;
pub(crate) mod counted;
pub mod idx;
pub mod mat;
pub mod npy;
pub mod stl10;

/// What to do about a file that was damaged on its way.
pub(crate) const FETCH_AGAIN: &str = "fetch the file again";
