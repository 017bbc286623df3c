//! M images of each of P classes in every batch, so that each anchor has positives and negatives
//! (Hermans, Beyer & Leibe 2017, Section 2).

use super::class_decks::ClassDecks;
use super::{Sampler, check_indices};
use crate::{Error, Result, split::by_class};

/// The size of batches and epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MPerClassConfig {
    /// P, the classes in a batch; at least 2 give negatives.
    pub classes: usize,
    /// M, the images of each; at least 2 give positives. Hermans et al. use 4.
    pub per_class: usize,
    /// The batches of an epoch. `None`: as many as it takes to draw as many images as there are, rounded down,
    /// at least one.
    pub batches_per_epoch: Option<usize>,
}

impl Default for MPerClassConfig {
    fn default() -> Self {
        Self { classes: 8, per_class: 4, batches_per_epoch: None }
    }
}

/// Batches of P classes × M images, the images of a class side by side.
///
/// Classes come from a shuffled deck that is dealt to the end before it is dealt again: a class is never twice in a
/// batch. The images of a class come from a deck too: all of them are seen before one is seen again. The decks go on
/// from epoch to epoch, so that short epochs do not leave images out: after any number of batches since the first of
/// epoch 0, two classes were dealt equally often to within one, and so were two images of a class. Within a later
/// epoch alone it is two, as it may end one round of the deck and begin another.
///
/// A deck is shuffled each time that it was dealt to the end, unless it has fewer than two hands of cards (2P classes,
/// 2M images of a class): it then keeps its order until hands and deck end together.
///
/// **A class with fewer than M images** gives all of them once, then repeats them, each equally often up to
/// one. A class with at least M images never has one twice in a batch. A class of a single image could only
/// be its own positive and is an error, unless M = 1.
#[derive(Debug, Clone)]
pub struct MPerClass {
    decks: ClassDecks,
    batches: usize,
}

impl MPerClass {
    /// A sampler over the images at `indices` (a part of a split), `labels` being those of the whole set.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices, sizes of 0, or more classes a batch than there are;
    /// [`Error::Index`] for an index beyond the labels; [`Error::TooFewSamples`] for a class of one image
    /// where M > 1.
    /// # Source
    /// Hermans et al. 2017 \[hermans2017\].
    /// # Examples
    /// ```
    /// use dml_data::{Batches, MPerClass, MPerClassConfig};
    /// let labels = [0, 0, 0, 1, 1, 1, 2, 2, 2];
    /// let config = MPerClassConfig { classes: 2, per_class: 2, ..Default::default() };
    /// let sampler = MPerClass::new(&labels, &[0, 1, 2, 3, 4, 5, 6, 7, 8], config, 1)?;
    /// for batch in Batches::new(sampler).take(5) {
    ///     let classes: Vec<i64> = batch.iter().map(|&i| labels[i]).collect();
    ///     assert_eq!(classes[0], classes[1]);
    ///     assert_eq!(classes[2], classes[3]);
    ///     assert_ne!(classes[0], classes[2]);
    /// }
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn new(labels: &[i64], indices: &[usize], config: MPerClassConfig, seed: u64) -> Result<Self> {
        let op = "MPerClass::new";
        let argument = |arg, got: String, expected: String| Error::Argument { op, arg, got, expected };
        check_indices(op, labels, indices)?;
        let classes = by_class(labels, indices.iter().copied());
        let batch = config.classes.checked_mul(config.per_class);
        let batch = batch.filter(|&n| n > 0 && config.classes <= classes.len()).ok_or_else(|| {
            argument(
                "config",
                format!("{} classes × {} images", config.classes, config.per_class),
                format!("1 to {} classes, as many as `indices` have, and at least 1 image", classes.len()),
            )
        })?;
        if config.batches_per_epoch == Some(0) {
            return Err(argument("config.batches_per_epoch", "0".into(), "at least 1".into()));
        }
        if let Some((&class, _)) =
            classes.iter().find(|(_, members)| config.per_class > 1 && members.len() == 1)
        {
            return Err(Error::TooFewSamples { op, class, got: 1, needed: 2 });
        }
        let batches = config.batches_per_epoch.unwrap_or_else(|| (indices.len() / batch).max(1));
        let sizes = [config.classes, config.per_class];
        Ok(Self { decks: ClassDecks::new(classes.into_values().collect(), sizes, seed, 0), batches })
    }
}

impl Sampler for MPerClass {
    fn batches_per_epoch(&self) -> usize {
        self.batches
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        self.decks.epoch(epoch, self.batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(labels: &[i64], indices: &[usize], classes: usize, per_class: usize) -> String {
        let config = MPerClassConfig { classes, per_class, batches_per_epoch: None };
        MPerClass::new(labels, indices, config, 0).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_sampled_is_named() {
        let labels = [0, 0, 1, 1, 2];
        assert_eq!(
            error(&labels, &[], 2, 2),
            "MPerClass::new: `indices` is empty, expected at least one index"
        );
        assert_eq!(
            error(&labels, &[0, 9], 1, 2),
            "MPerClass::new: `indices[1]` is 9, but the set holds 5 items; use indices below 5"
        );
        assert_eq!(
            error(&labels, &[0, 1, 2, 3], 3, 2),
            "MPerClass::new: `config` is 3 classes × 2 images, expected 1 to 2 classes, as many as `indices` \
             have, and at least 1 image"
        );
        assert_eq!(
            error(&labels, &[0, 1, 2, 3, 4], 2, 2),
            "MPerClass::new: class 2 has 1 sample(s), 2 are needed; leave it out or add images of it"
        );
    }

    #[test]
    fn a_small_class_repeats_its_images_evenly() -> Result<()> {
        let labels = [0, 0, 1, 1, 1];
        let config = MPerClassConfig { classes: 2, per_class: 5, batches_per_epoch: Some(20) };
        for batch in MPerClass::new(&labels, &[0, 1, 2, 3, 4], config, 3)?.epoch(0) {
            let count = |i: usize| batch.iter().filter(|&&j| j == i).count();
            assert_eq!(count(0) + count(1), 5);
            assert!((0..2).all(|i| (2..=3).contains(&count(i))), "{batch:?}");
            assert!((2..5).all(|i| (1..=2).contains(&count(i))), "{batch:?}");
        }
        Ok(())
    }
}
