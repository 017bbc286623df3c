//! File formats of image datasets.

pub mod idx;
