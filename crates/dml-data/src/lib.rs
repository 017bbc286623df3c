//! Labelled images for metric learning: reading, verifying, splitting, sampling.
//!
//! - [`ImageSet`] holds images as bytes and cuts normalized batches `[b, c, h, w]` out of them;
//!   [`bundled::mnist_5k`] is a real one that comes with the workspace.
//! - A [`Source`] is what any set, in memory or on disk, offers to a loader: labels, and one image at a time.
//! - [`split`] makes closed-set parts (same classes, other images) and zero-shot parts (other classes).
//! - A [`Sampler`] is a plan of batches, a pure function of seed and epoch; [`Batches`] walks through it and
//!   resumes in mid-epoch from two numbers; [`Loader`] turns it into tensors on threads of its own, ahead of the
//!   training step.
//! - [`transform`] decodes, resizes, augments and normalizes, alike whatever thread does it.
//! - [`Manifest`] knows the datasets and their checksums, [`download::fetch`] puts them in place, verified, and
//!   [`benchmark()`] opens them by name, with their official parts and zero-shot protocol.
//! - [`FileSet`] and [`Listing`] read one's own images, [`Embeddings`] what was embedded elsewhere.
//!
//! ```
//! use std::sync::Arc;
//! use dml_data::transform::Pipeline;
//! use dml_data::{Batches, Loader, LoaderConfig, MPerClass, MPerClassConfig, TrainSize, bundled};
//!
//! let digits = bundled::mnist_5k()?;
//! let split = digits.closed_set(TrainSize::Fraction(0.7), 42)?; // indices of 3,500 and 1,500 digits
//! let digits = Arc::new(digits.normalized_by(&split.train)?);
//!
//! let config = MPerClassConfig { classes: 10, per_class: 8, ..Default::default() };
//! let sampler = MPerClass::new(digits.labels(), &split.train, config, 42)?;
//! let pipeline = Pipeline::from(digits.as_ref()); // no transforms, only the set's normalization
//! for batch in Loader::new(digits, Batches::new(sampler), pipeline, LoaderConfig::default())?.take(3) {
//!     assert_eq!(batch?.images.dims(), [80, 1, 28, 28]);
//! }
//! # Ok::<(), dml_data::Error>(())
//! ```
//!
//! # Crate features
//! - `tls`: downloads over HTTPS. Off by default: it brings a cryptographic library that compiles C. Plain HTTP and
//!   folders need no feature.
//! - `hub`: where an address fails, the Hugging Face hub through hf-hub and the readers of candle-datasets. Off by
//!   default: it brings an async runtime, a TLS stack and parquet.

mod archive;
mod atomic;
pub mod benchmark;
pub mod bundled;
mod dataset;
pub mod download;
mod embeddings;
mod error;
mod file_set;
pub mod format;
mod http;
#[cfg(feature = "hub")]
mod hub;
mod listing;
mod loader;
mod manifest;
mod sampler;
mod source;
pub mod split;
pub mod transform;
mod verify;

pub use benchmark::{Benchmark, Completeness, Protocol, Set, Subset, benchmark, benchmark_of};
pub use bundled::data_dir;
pub use dataset::{ImageSet, Normalization};
pub use embeddings::Embeddings;
pub use error::{Error, Result};
pub use file_set::{FileSet, Record};
pub use listing::Listing;
pub use loader::{Batch, Decoded, Loader, LoaderConfig};
pub use manifest::{
    DataFile, Dataset, Format, Holds, Hub, HubReader, Manifest, Member, Part, Unknown, ZeroShot,
};
pub use sampler::{
    Batches, ClassBalanced, FixedTriplets, Hierarchical, HierarchicalConfig, MPerClass, MPerClassConfig,
    PByK, Sampler, SamplerState, Sequential, Shard, ShardOf, Shuffled, Tail,
};
pub use source::{BoundingBox, Item, Source};
pub use split::{Split, TrainSize};
pub use verify::{Against, Verified, verify};
