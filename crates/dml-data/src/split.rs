//! Training and test parts of a labelled set.
//!
//! *Closed-set*: the same classes in both parts, different images. *Zero-shot* (class-disjoint): the test part
//! holds only classes that were never trained on. Figures of the two are not comparable.

use std::collections::BTreeMap;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// A split: indices into the set, each part in ascending order, disjoint, neither empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The training part.
    pub train: Vec<usize>,
    /// The test part.
    pub test: Vec<usize>,
}

/// How much of each class a closed-set split trains on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainSize {
    /// This share of each class, rounded to the nearest count, but at least one image on either side.
    Fraction(f64),
    /// This many images of each class.
    PerClass(usize),
}

/// The indices of each class, ascending; classes in ascending order.
pub(crate) fn by_class(labels: &[i64], indices: impl Iterator<Item = usize>) -> BTreeMap<i64, Vec<usize>> {
    let mut classes: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for index in indices {
        classes.entry(labels[index]).or_default().push(index);
    }
    classes
}

/// Splits every class by `train`, which images go where being drawn with `seed`.
///
/// The draw of a class depends on the seed, the class and the number of its images only.
///
/// # Errors
/// [`Error::Argument`] for no labels or a share outside (0, 1) or a count of 0; [`Error::TooFewSamples`] for a
/// class of one image, or one that leaves nothing to test on.
/// # Examples
/// ```
/// use dml_data::{TrainSize, split};
/// let labels = [0, 0, 0, 0, 1, 1, 1, 1];
/// let split = split::closed_set(&labels, TrainSize::Fraction(0.75), 7)?;
/// assert_eq!((split.train.len(), split.test.len()), (6, 2));
/// assert_eq!(split, split::closed_set(&labels, TrainSize::PerClass(3), 7)?);
/// # Ok::<(), dml_data::Error>(())
/// ```
pub fn closed_set(labels: &[i64], train: TrainSize, seed: u64) -> Result<Split> {
    let op = "closed_set";
    check_labels(op, labels)?;
    let bad =
        |got: String, expected: &str| Error::Argument { op, arg: "train", got, expected: expected.into() };
    let needed = match train {
        TrainSize::Fraction(f) if !(f > 0.0 && f < 1.0) => {
            return Err(bad(f.to_string(), "a share between 0 and 1, both excluded"));
        }
        TrainSize::PerClass(0) => return Err(bad("0".into(), "at least one image a class")),
        TrainSize::Fraction(_) => 2,
        TrainSize::PerClass(n) => n.saturating_add(1),
    };
    let mut split = Split { train: Vec::new(), test: Vec::new() };
    for (class, mut members) in by_class(labels, 0..labels.len()) {
        let got = members.len();
        if got < needed {
            return Err(Error::TooFewSamples { op, class, got, needed });
        }
        let n_train = match train {
            TrainSize::Fraction(f) => ((f * got as f64).round() as usize).clamp(1, got - 1),
            TrainSize::PerClass(n) => n,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(class as u64); // other bits for every class, negative ones too
        members.shuffle(&mut rng);
        let (train, test) = members.split_at(n_train);
        split.train.extend(train);
        split.test.extend(test);
    }
    split.train.sort_unstable();
    split.test.sort_unstable();
    Ok(split)
}

/// The images of `train_classes` for training, those of all other classes for testing.
///
/// # Errors
/// [`Error::Argument`] for no labels, no or repeated `train_classes`, or no class left to test on;
/// [`Error::MissingClass`] for a class in `train_classes` that no label has; [`Error::TooFewSamples`] for a
/// class of one image, which could never be retrieved.
/// # Examples
/// ```
/// let split = dml_data::split::zero_shot(&[0, 1, 2, 0, 1, 2], &[0, 2])?;
/// assert_eq!(split.train, [0, 2, 3, 5]);
/// assert_eq!(split.test, [1, 4]);
/// # Ok::<(), dml_data::Error>(())
/// ```
pub fn zero_shot(labels: &[i64], train_classes: &[i64]) -> Result<Split> {
    let op = "zero_shot";
    check_labels(op, labels)?;
    let bad = |expected: &str| Error::Argument {
        op,
        arg: "train_classes",
        got: format!("{train_classes:?}"),
        expected: expected.into(),
    };
    let mut wanted = train_classes.to_vec();
    wanted.sort_unstable();
    if wanted.is_empty() || wanted.windows(2).any(|w| w[0] == w[1]) {
        return Err(bad("different classes, at least one"));
    }
    let classes = by_class(labels, 0..labels.len());
    if let Some(&class) = wanted.iter().find(|class| !classes.contains_key(class)) {
        return Err(Error::MissingClass { op, class });
    }
    if wanted.len() == classes.len() {
        return Err(bad("some of the classes, so that others are left to test on"));
    }
    if let Some((&class, members)) = classes.iter().find(|(_, members)| members.len() < 2) {
        return Err(Error::TooFewSamples { op, class, got: members.len(), needed: 2 });
    }
    let (train, test) = (0..labels.len()).partition(|&i| wanted.binary_search(&labels[i]).is_ok());
    Ok(Split { train, test })
}

/// A zero-shot split whose `n_train_classes` training classes are drawn with `seed`.
///
/// # Errors
/// As [`zero_shot`], and [`Error::Argument`] when `n_train_classes` is 0 or leaves no class to test on.
pub fn zero_shot_drawn(labels: &[i64], n_train_classes: usize, seed: u64) -> Result<Split> {
    let op = "zero_shot_drawn";
    check_labels(op, labels)?;
    let mut classes: Vec<i64> = by_class(labels, 0..labels.len()).into_keys().collect();
    if n_train_classes == 0 || n_train_classes >= classes.len() {
        let (got, expected) =
            (n_train_classes.to_string(), format!("1 to {}", classes.len().saturating_sub(1)));
        return Err(Error::Argument { op, arg: "n_train_classes", got, expected });
    }
    classes.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    classes.truncate(n_train_classes);
    zero_shot(labels, &classes)
}

fn check_labels(op: &'static str, labels: &[i64]) -> Result<()> {
    if labels.is_empty() {
        let (got, expected) = ("empty".to_owned(), "a label for each image, at least one".to_owned());
        return Err(Error::Argument { op, arg: "labels", got, expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_split_is_named() {
        let closed = |labels: &[i64], train| closed_set(labels, train, 0).unwrap_err().to_string();
        assert_eq!(
            closed(&[0, 0, 3], TrainSize::Fraction(0.5)),
            "closed_set: class 3 has 1 sample(s), 2 are needed; leave it out or add images of it"
        );
        assert_eq!(
            closed(&[0, 0, 3, 3, 3], TrainSize::PerClass(2)),
            "closed_set: class 0 has 2 sample(s), 3 are needed; leave it out or add images of it"
        );
        assert_eq!(
            closed(&[0, 0], TrainSize::Fraction(f64::NAN)),
            "closed_set: `train` is NaN, expected a share between 0 and 1, both excluded"
        );
        assert_eq!(
            closed(&[], TrainSize::PerClass(1)),
            "closed_set: `labels` is empty, expected a label for each image, at least one"
        );
        assert!(closed_set(&[0, 0], TrainSize::PerClass(usize::MAX), 0).is_err());
        let zero = |labels: &[i64], train: &[i64]| zero_shot(labels, train).unwrap_err().to_string();
        assert_eq!(
            zero(&[0, 0, 1, 1], &[2]),
            "zero_shot: class 2 has no sample; leave it out or add images of it"
        );
        assert_eq!(
            zero(&[0, 0, 1], &[0]),
            "zero_shot: class 1 has 1 sample(s), 2 are needed; leave it out or add images of it"
        );
        assert_eq!(
            zero(&[0, 0, 1, 1], &[1, 0]),
            "zero_shot: `train_classes` is [1, 0], expected some of the classes, so that others are left to \
             test on"
        );
        assert_eq!(
            zero(&[0, 0, 1, 1], &[0, 0]),
            "zero_shot: `train_classes` is [0, 0], expected different classes, at least one"
        );
        assert_eq!(
            zero_shot_drawn(&[0, 0, 1, 1], 2, 0).unwrap_err().to_string(),
            "zero_shot_drawn: `n_train_classes` is 2, expected 1 to 1"
        );
    }

    #[test]
    fn a_small_share_still_leaves_an_image_on_either_side() -> Result<()> {
        let labels = [0, 0, 0, 1, 1, 1];
        assert_eq!(closed_set(&labels, TrainSize::Fraction(0.01), 0)?.train.len(), 2);
        assert_eq!(closed_set(&labels, TrainSize::Fraction(0.99), 0)?.test.len(), 2);
        Ok(())
    }
}
