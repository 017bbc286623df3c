//! P classes × K images, every class exactly equally often.

use super::class_decks::ClassDecks;
use super::deck::greatest_common_divisor;
use super::{Sampler, check_indices};
use crate::{Error, Result, split::by_class};

/// Batches of P different classes × K images, in epochs in which **each class appears exactly equally often**:
/// the shortest such, lcm(C, P) / P batches for C classes.
///
/// [`MPerClass`](super::MPerClass) follows the number of images and deals classes nearly equally often; this one
/// follows the number of classes, so that rare classes and frequent ones have the same weight (Schroff et al. 2015
/// \[schroff2015\], who sample about 40 faces per identity). Images come from decks
/// that go on from epoch to epoch, as there.
#[derive(Debug, Clone)]
pub struct PByK {
    decks: ClassDecks,
    p: usize,
}

impl PByK {
    /// Over the images at `indices`, `labels` being those of the whole set.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices, sizes of 0, or more classes a batch than there are;
    /// [`Error::Index`] for an index beyond the labels; [`Error::TooFewSamples`] for a class of one image where
    /// K > 1.
    /// # Examples
    /// ```
    /// use dml_data::{PByK, Sampler};
    /// let labels = [0, 0, 1, 1, 2, 2];
    /// let sampler = PByK::new(&labels, &[0, 1, 2, 3, 4, 5], 2, 2, 7)?;
    /// let epoch = sampler.epoch(0);
    /// assert_eq!(epoch.len(), 3); // 3 classes in pairs: each class twice
    /// assert!((0..6).all(|i| epoch.concat().iter().filter(|&&j| j == i).count() == 2));
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn new(labels: &[i64], indices: &[usize], p: usize, k: usize, seed: u64) -> Result<Self> {
        let op = "PByK::new";
        check_indices(op, labels, indices)?;
        let classes = by_class(labels, indices.iter().copied());
        if p == 0 || k == 0 || p > classes.len() {
            let expected =
                format!("1 to {} classes, as many as `indices` have, and at least 1 image", classes.len());
            let got = format!("{p} classes × {k} images");
            return Err(Error::Argument { op, arg: "p, k", got, expected });
        }
        if let Some((&class, _)) = classes.iter().find(|(_, members)| k > 1 && members.len() == 1) {
            return Err(Error::TooFewSamples { op, class, got: 1, needed: 2 });
        }
        Ok(Self { decks: ClassDecks::new(classes.into_values().collect(), [p, k], seed, 0), p })
    }
}

impl Sampler for PByK {
    fn batches_per_epoch(&self) -> usize {
        self.decks.n_classes() / greatest_common_divisor(self.decks.n_classes(), self.p)
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        self.decks.epoch(epoch, self.batches_per_epoch())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sampled_is_named() {
        let message = |labels: &[i64], p, k| {
            let all: Vec<usize> = (0..labels.len()).collect();
            PByK::new(labels, &all, p, k, 0).unwrap_err().to_string()
        };
        assert_eq!(
            message(&[0, 0, 1, 1], 3, 2),
            "PByK::new: `p, k` is 3 classes × 2 images, expected 1 to 2 classes, as many as `indices` have, and at \
             least 1 image"
        );
        assert!(message(&[0, 0, 1], 2, 2).starts_with("PByK::new: class 1 has 1 sample(s)"));
        assert!(message(&[0, 0], 1, 0).contains("1 classes × 0 images"));
    }
}
