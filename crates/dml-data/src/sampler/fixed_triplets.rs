//! A fixed set of triplets, for experiments in which the supervision is a list of comparisons.

use rand::{Rng as _, seq::SliceRandom as _};

use super::{Sampler, check_indices, epoch_rng};
use crate::{Error, Result, split::by_class};

/// `n` triplets (anchor, positive, negative), drawn once with the seed and kept: an epoch deals all of them in
/// another order.
///
/// A batch is the triplets' images one after the other, `[a, p, n, a, p, n, …]`; the last batch may be smaller. The
/// anchor's class is uniform among those with two images, the negative's among the other classes.
#[derive(Debug, Clone)]
pub struct FixedTriplets {
    triplets: Vec<[usize; 3]>,
    batch: usize,
    seed: u64,
}

impl FixedTriplets {
    /// `n` triplets of the images at `indices`, `batch` of them at a time.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices, `n` or `batch` of 0, a single class, or no class with two images;
    /// [`Error::Index`] for an index beyond the labels.
    /// # Examples
    /// ```
    /// use dml_data::{FixedTriplets, Sampler};
    /// let labels = [0, 0, 0, 1, 1, 1];
    /// let sampler = FixedTriplets::new(&labels, &[0, 1, 2, 3, 4, 5], 10, 4, 1)?;
    /// assert_eq!(sampler.epoch(0).iter().map(Vec::len).collect::<Vec<_>>(), [12, 12, 6]);
    /// for &[a, p, n] in sampler.triplets() {
    ///     assert!(a != p && labels[a] == labels[p] && labels[a] != labels[n]);
    /// }
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn new(labels: &[i64], indices: &[usize], n: usize, batch: usize, seed: u64) -> Result<Self> {
        let op = "FixedTriplets::new";
        let argument = |arg, got: String, expected: &str| {
            Err(Error::Argument { op, arg, got, expected: expected.to_owned() })
        };
        check_indices(op, labels, indices)?;
        if n == 0 || batch == 0 {
            return argument("n, batch", format!("{n}, {batch}"), "at least 1 each");
        }
        let classes: Vec<Vec<usize>> = by_class(labels, indices.iter().copied()).into_values().collect();
        let anchors: Vec<usize> = (0..classes.len()).filter(|&c| classes[c].len() > 1).collect();
        if classes.len() < 2 || anchors.is_empty() {
            let got = format!("of {} class(es), {} of them with two images", classes.len(), anchors.len());
            return argument("indices", got, "two classes, one of them with two images");
        }
        let mut rng = epoch_rng(seed, u64::MAX); // another stream than any epoch's
        let triplets = (0..n)
            .map(|_| {
                let own = anchors[rng.random_range(0..anchors.len())];
                let other = (own + rng.random_range(1..classes.len())) % classes.len();
                let (own, other) = (&classes[own], &classes[other]);
                let anchor = rng.random_range(0..own.len());
                let positive = (anchor + rng.random_range(1..own.len())) % own.len();
                [own[anchor], own[positive], other[rng.random_range(0..other.len())]]
            })
            .collect();
        Ok(Self { triplets, batch, seed })
    }

    /// The triplets (anchor, positive, negative).
    pub fn triplets(&self) -> &[[usize; 3]] {
        &self.triplets
    }
}

impl Sampler for FixedTriplets {
    fn batches_per_epoch(&self) -> usize {
        self.triplets.len().div_ceil(self.batch)
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut order = self.triplets.clone();
        order.shuffle(&mut epoch_rng(self.seed, epoch));
        order.chunks(self.batch).map(<[[usize; 3]]>::concat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sampled_is_named() {
        let message = |labels: &[i64]| {
            let all: Vec<usize> = (0..labels.len()).collect();
            FixedTriplets::new(labels, &all, 5, 5, 0).unwrap_err().to_string()
        };
        let expected = "expected two classes, one of them with two images";
        assert_eq!(
            message(&[0, 0, 0]),
            format!("FixedTriplets::new: `indices` is of 1 class(es), 1 of them with two images, {expected}")
        );
        assert_eq!(
            message(&[0, 1, 2]),
            format!("FixedTriplets::new: `indices` is of 3 class(es), 0 of them with two images, {expected}")
        );
    }
}
