//! Every image once an epoch, in shuffled order: for training without labels.

use rand::seq::SliceRandom;

use super::{Sampler, epoch_rng};
use crate::{Error, Result};

/// What to do with the images that do not fill the last batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Give them as a smaller batch.
    Keep,
    /// Leave them out of this epoch; which they are changes with the epoch.
    Drop,
}

/// A shuffled pass over the images at `indices` each epoch.
#[derive(Debug, Clone)]
pub struct Shuffled {
    indices: Vec<usize>,
    batch: usize,
    tail: Tail,
    seed: u64,
}

impl Shuffled {
    /// Batches of `batch` of the given indices.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices, batches of 0, or, with [`Tail::Drop`], batches larger than the set.
    pub fn new(indices: &[usize], batch: usize, tail: Tail, seed: u64) -> Result<Self> {
        let argument =
            |arg, got: String, expected: String| Error::Argument { op: "Shuffled::new", arg, got, expected };
        if indices.is_empty() {
            return Err(argument("indices", "empty".into(), "at least one index".into()));
        }
        if batch == 0 || (tail == Tail::Drop && batch > indices.len()) {
            let expected = format!("1 to {}, the number of indices", indices.len());
            return Err(argument("batch", batch.to_string(), expected));
        }
        Ok(Self { indices: indices.to_vec(), batch, tail, seed })
    }
}

impl Sampler for Shuffled {
    fn batches_per_epoch(&self) -> usize {
        match self.tail {
            Tail::Keep => self.indices.len().div_ceil(self.batch),
            Tail::Drop => self.indices.len() / self.batch,
        }
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut indices = self.indices.clone();
        indices.shuffle(&mut epoch_rng(self.seed, epoch));
        indices.chunks(self.batch).take(self.batches_per_epoch()).map(<[usize]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_sizes_are_named() {
        let error =
            |indices: &[usize], batch, tail| Shuffled::new(indices, batch, tail, 0).unwrap_err().to_string();
        assert_eq!(
            error(&[], 1, Tail::Keep),
            "Shuffled::new: `indices` is empty, expected at least one index"
        );
        assert_eq!(
            error(&[0, 1], 0, Tail::Keep),
            "Shuffled::new: `batch` is 0, expected 1 to 2, the number of indices"
        );
        assert_eq!(
            error(&[0, 1], 3, Tail::Drop),
            "Shuffled::new: `batch` is 3, expected 1 to 2, the number of indices"
        );
    }
}
