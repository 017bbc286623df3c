//! Single images, every class equally likely.

use super::class_decks::ClassDecks;
use super::{Sampler, check_indices};
use crate::{Error, Result, split::by_class};

/// Batches whose images are drawn class first: from the first image of epoch 0 on, the numbers of images of any two
/// classes differ by at most one at any time, however unequal the classes are. Small classes repeat their images.
///
/// Classes and images come from decks that go on from epoch to epoch: all classes before one again, all images of a
/// class before one again. Within a later epoch alone two classes may differ by two, as it may end one round of the
/// deck and begin another. An epoch draws as many images as there are, rounded down to whole batches, at least one.
#[derive(Debug, Clone)]
pub struct ClassBalanced {
    decks: ClassDecks,
    batches: usize,
}

impl ClassBalanced {
    /// Batches of `batch` of the images at `indices`, `labels` being those of the whole set.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices or batches of 0, [`Error::Index`] for an index beyond the labels.
    /// # Examples
    /// ```
    /// use dml_data::{ClassBalanced, Sampler};
    /// let labels = [0, 0, 0, 0, 0, 0, 0, 1];
    /// let sampler = ClassBalanced::new(&labels, &[0, 1, 2, 3, 4, 5, 6, 7], 4, 0)?;
    /// let drawn = sampler.epoch(0).concat();
    /// assert_eq!(drawn.iter().filter(|&&i| labels[i] == 1).count(), 4);
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn new(labels: &[i64], indices: &[usize], batch: usize, seed: u64) -> Result<Self> {
        let op = "ClassBalanced::new";
        check_indices(op, labels, indices)?;
        if batch == 0 {
            let (got, expected) = ("0".to_owned(), "at least 1".to_owned());
            return Err(Error::Argument { op, arg: "batch", got, expected });
        }
        let members = by_class(labels, indices.iter().copied()).into_values().collect();
        let decks = ClassDecks::new(members, [batch, 1], seed, 0);
        Ok(Self { decks, batches: (indices.len() / batch).max(1) })
    }
}

impl Sampler for ClassBalanced {
    fn batches_per_epoch(&self) -> usize {
        self.batches
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        self.decks.epoch(epoch, self.batches)
    }
}
