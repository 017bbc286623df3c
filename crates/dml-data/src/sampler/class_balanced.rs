//! Single images, every class equally likely.

use super::deck::Deck;
use super::{Sampler, check_indices, epoch_rng};
use crate::{Error, Result, split::by_class};

/// Batches whose images are drawn class first: over an epoch, the numbers of images of any two classes differ by at
/// most one, however unequal the classes are. Small classes repeat their images.
///
/// Classes and images come from decks: all classes before one again, all images of a class before one again. An
/// epoch draws as many images as there are, rounded down to whole batches, at least one.
#[derive(Debug, Clone)]
pub struct ClassBalanced {
    members: Vec<Vec<usize>>,
    batch: usize,
    batches: usize,
    seed: u64,
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
    pub fn new(labels: &[u32], indices: &[usize], batch: usize, seed: u64) -> Result<Self> {
        let op = "ClassBalanced::new";
        check_indices(op, labels, indices)?;
        if batch == 0 {
            let (got, expected) = ("0".to_owned(), "at least 1".to_owned());
            return Err(Error::Argument { op, arg: "batch", got, expected });
        }
        let members = by_class(labels, indices.iter().copied()).into_values().collect();
        Ok(Self { members, batch, batches: (indices.len() / batch).max(1), seed })
    }
}

impl Sampler for ClassBalanced {
    fn batches_per_epoch(&self) -> usize {
        self.batches
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut rng = epoch_rng(self.seed, epoch);
        let mut classes = Deck::new((0..self.members.len()).collect());
        let mut images: Vec<Deck> = self.members.iter().map(|m| Deck::new(m.clone())).collect();
        (0..self.batches)
            .map(|_| {
                let drawn = classes.deal(self.batch, &mut rng);
                drawn.iter().flat_map(|&class| images[class].deal(1, &mut rng)).collect()
            })
            .collect()
    }
}
