//! The images in their order: for evaluation.

use super::Sampler;
use crate::{Error, Result};

/// The images at `indices` in that order, cut into batches; the last may be smaller. Every epoch is the same.
#[derive(Debug, Clone)]
pub struct Sequential {
    indices: Vec<usize>,
    batch: usize,
}

impl Sequential {
    /// Batches of `batch` of the given indices.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices or batches of 0.
    /// # Examples
    /// ```
    /// use dml_data::{Sampler, Sequential};
    /// assert_eq!(Sequential::new(&[4, 2, 7], 2)?.epoch(0), [vec![4, 2], vec![7]]);
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn new(indices: &[usize], batch: usize) -> Result<Self> {
        let argument = |arg, got: String| Error::Argument {
            op: "Sequential::new",
            arg,
            got,
            expected: "at least one".to_owned(),
        };
        if indices.is_empty() {
            return Err(argument("indices", "empty".to_owned()));
        }
        if batch == 0 {
            return Err(argument("batch", "0".to_owned()));
        }
        Ok(Self { indices: indices.to_vec(), batch })
    }
}

impl Sampler for Sequential {
    fn batches_per_epoch(&self) -> usize {
        self.indices.len().div_ceil(self.batch)
    }

    fn epoch(&self, _: u64) -> Vec<Vec<usize>> {
        self.indices.chunks(self.batch).map(<[usize]>::to_vec).collect()
    }
}
