//! Batches within a few super-classes, whose classes are hard to tell apart (Cakir et al. 2019).

use std::collections::BTreeMap;

use super::class_decks::ClassDecks;
use super::deck::Deck;
use super::{Sampler, check_indices};
use crate::{Error, Result, split::by_class};

/// The size of batches and epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HierarchicalConfig {
    /// The super-classes in a batch. Cakir et al. use 2.
    pub groups: usize,
    /// The classes of each.
    pub classes: usize,
    /// The images of each class; at least 2 give positives.
    pub per_class: usize,
    /// The batches of an epoch. `None`: as many as it takes to draw as many images as there are, rounded down, at
    /// least one.
    pub batches_per_epoch: Option<usize>,
}

impl Default for HierarchicalConfig {
    fn default() -> Self {
        Self { groups: 2, classes: 4, per_class: 4, batches_per_epoch: None }
    }
}

/// Batches of `groups` super-classes × `classes` classes × `per_class` images: most negatives share the anchor's
/// super-class and are hard (Cakir et al. 2019 \[cakir2019\], Section 3.3).
///
/// Super-classes, the classes of each and the images of each class come from decks that go on from epoch to epoch: all
/// before one again, at each of the three levels. A super-class with fewer classes gives each of its classes, then
/// repeats them.
#[derive(Debug, Clone)]
pub struct Hierarchical {
    groups: Deck,
    /// For each super-class its classes and their images.
    classes: Vec<ClassDecks>,
    batches: usize,
}

impl Hierarchical {
    /// Over the images at `indices`; `labels` and `groups` are those of the whole set, a super-class for each image.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices, sizes of 0, another number of groups than labels, fewer super-classes
    /// than a batch takes, or a class that lies in two; [`Error::Index`] for an index beyond the labels;
    /// [`Error::TooFewSamples`] for a class of one image where more are wanted.
    /// # Examples
    /// ```
    /// use dml_data::{Hierarchical, HierarchicalConfig, Sampler};
    /// let labels = [0, 0, 1, 1, 2, 2, 3, 3]; // cat, dog; bus, car
    /// let groups = [0, 0, 0, 0, 1, 1, 1, 1]; // animal; vehicle
    /// let config = HierarchicalConfig { groups: 1, classes: 2, per_class: 2, ..Default::default() };
    /// let sampler = Hierarchical::new(&labels, &groups, &[0, 1, 2, 3, 4, 5, 6, 7], config, 3)?;
    /// for batch in sampler.epoch(0) {
    ///     assert!(batch.iter().all(|&i| groups[i] == groups[batch[0]]));
    /// }
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn new(
        labels: &[i64],
        groups: &[i64],
        indices: &[usize],
        config: HierarchicalConfig,
        seed: u64,
    ) -> Result<Self> {
        let op = "Hierarchical::new";
        let argument = |arg, got: String, expected: String| Err(Error::Argument { op, arg, got, expected });
        check_indices(op, labels, indices)?;
        if groups.len() != labels.len() {
            return argument(
                "groups",
                format!("{} values", groups.len()),
                format!("{}, one a label", labels.len()),
            );
        }
        let mut members: BTreeMap<i64, Vec<Vec<usize>>> = BTreeMap::new();
        for (class, images) in by_class(labels, indices.iter().copied()) {
            let group = groups[images[0]];
            if let Some(&other) = images.iter().find(|&&i| groups[i] != group) {
                let got = format!("{group} and {} for class {class}", groups[other]);
                return argument("groups", got, "one super-class for each class".to_owned());
            }
            if config.per_class > 1 && images.len() == 1 {
                return Err(Error::TooFewSamples { op, class, got: 1, needed: 2 });
            }
            members.entry(group).or_default().push(images);
        }
        let HierarchicalConfig { groups: n, classes, per_class, batches_per_epoch } = config;
        let size = n.checked_mul(classes).and_then(|b| b.checked_mul(per_class)).filter(|&b| b > 0);
        let Some(size) = size.filter(|_| n <= members.len() && batches_per_epoch != Some(0)) else {
            let expected = format!("1 to {} super-classes, and other sizes of at least 1", members.len());
            return argument("config", format!("{config:?}"), expected);
        };
        let batches = batches_per_epoch.unwrap_or_else(|| (indices.len() / size).max(1));
        let groups = Deck::new(members.len(), n, seed, 0);
        let mut stream = 1;
        let decks = |members: Vec<Vec<usize>>| {
            let first = stream;
            stream += 1 + members.len() as u64;
            ClassDecks::new(members, [classes, per_class], seed, first)
        };
        Ok(Self { groups, classes: members.into_values().map(decks).collect(), batches })
    }
}

impl Sampler for Hierarchical {
    fn batches_per_epoch(&self) -> usize {
        self.batches
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let before = u128::from(epoch) * self.batches as u128;
        let mut groups = self.groups.after(before);
        let dealt = self.groups.dealt(before);
        let mut classes: Vec<_> =
            self.classes.iter().zip(dealt).map(|(decks, hands)| decks.after(hands)).collect();
        (0..self.batches)
            .map(|_| groups.hand().into_iter().flat_map(|group| classes[group].hand()).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sampled_is_named() {
        let config = HierarchicalConfig { groups: 2, classes: 1, per_class: 2, batches_per_epoch: None };
        let message = |labels: &[i64], groups: &[i64]| {
            let all: Vec<usize> = (0..labels.len()).collect();
            Hierarchical::new(labels, groups, &all, config, 0).unwrap_err().to_string()
        };
        assert_eq!(
            message(&[0, 0, 1, 1], &[0, 0, 1]),
            "Hierarchical::new: `groups` is 3 values, expected 4, one a label"
        );
        assert_eq!(
            message(&[0, 0, 1, 1], &[0, 1, 1, 1]),
            "Hierarchical::new: `groups` is 0 and 1 for class 0, expected one super-class for each class"
        );
        assert!(message(&[0, 0, 1, 1], &[0, 0, 0, 0]).contains("expected 1 to 1 super-classes"));
        assert!(message(&[0, 0, 1], &[0, 0, 1]).contains("class 1 has 1 sample(s)"));
    }
}
