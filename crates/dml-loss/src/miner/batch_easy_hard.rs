//! The hardest, easiest or semi-hard positive and negative of each anchor (Hermans et al. 2017, Xuan et al. 2020).

use std::sync::Arc;

use dml_kernels::{Classes, Closer};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Miner, PairList, Pairs, Result, Triplets, Tuples,
    miner::{Farness, Found, finite_pairs},
};

/// Which positive or negative of an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The one that violates least: the closest positive, the farthest negative.
    Easy,
    /// The one that violates most: the farthest positive, the closest negative.
    Hard,
    /// The hardest on the right side of the anchor's other choice: the farthest positive that is closer than the
    /// negative, the closest negative that is farther than the positive.
    #[serde(alias = "semihard")]
    SemiHard,
    /// All of them.
    All,
}

/// Knobs of [`BatchEasyHard`]: the easiest positive and a semi-hard negative by default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchEasyHardConfig {
    /// Which positive; the easiest by default.
    pub pos_strategy: Strategy,
    /// Which negative; a semi-hard one by default.
    pub neg_strategy: Strategy,
    /// Positives outside \[low, high\], in units of the distance, do not count. All count by default.
    pub allowed_pos_range: Option<(f64, f64)>,
    /// Negatives outside \[low, high\], in units of the distance, do not count. All count by default.
    pub allowed_neg_range: Option<(f64, f64)>,
}

impl Default for BatchEasyHardConfig {
    fn default() -> Self {
        Self {
            pos_strategy: Strategy::Easy,
            neg_strategy: Strategy::SemiHard,
            allowed_pos_range: None,
            allowed_neg_range: None,
        }
    }
}

impl BatchEasyHardConfig {
    fn check(&self) -> Result<()> {
        let ranges =
            [("allowed_pos_range", self.allowed_pos_range), ("allowed_neg_range", self.allowed_neg_range)];
        for (field, range) in ranges {
            if let Some((low, high)) = range
                && (low.is_nan() || high.is_nan() || low > high)
            {
                let expected = "a least and a larger value";
                return Err(Error::config("BatchEasyHard", field, format!("[{low}, {high}]"), expected));
            }
        }
        Ok(())
    }
}

/// One positive and one negative of each anchor, as pairs; anchors that lack either are left out.
///
/// A semi-hard choice is made after the other. With [`Strategy::All`] on one side all pairs of that side are taken,
/// those of anchors without a choice on the other side too. Ties go to the lowest index. Any distance. O(nm) time, O(n)
/// pairs (O(nm) with [`Strategy::All`]).
///
/// # Source
/// Xuan et al. 2020 \[xuan2020\], section 3.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32], [1.], [4.], [2.]], &Device::Cpu)?;
/// let miner = BatchEasyHard::new(Arc::new(Lp::raw(2.0)), BatchEasyHardConfig::default())?;
/// let pairs = miner.mine(&Batch::new(&x, &[0, 0, 0, 1])?)?.to_pairs();
/// // The closest positive of each anchor, and the closest negative beyond it; row 2 has no negative beyond.
/// assert_eq!((pairs.positive.anchor, pairs.positive.other), (vec![0], vec![1]));
/// assert_eq!((pairs.negative.anchor, pairs.negative.other), (vec![0], vec![3]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchEasyHard {
    distance: Arc<dyn Distance>,
    config: BatchEasyHardConfig,
}

impl BatchEasyHard {
    /// A miner of pairs.
    ///
    /// # Errors
    /// [`Error::Config`] where a semi-hard choice is to be made relative to another or to all, or a range has no
    /// inside.
    pub fn new(distance: Arc<dyn Distance>, config: BatchEasyHardConfig) -> Result<Self> {
        use Strategy::{All, SemiHard};
        config.check()?;
        if matches!((config.pos_strategy, config.neg_strategy), (SemiHard | All, SemiHard) | (SemiHard, All))
        {
            let got = format!("{:?} beside {:?}", config.pos_strategy, config.neg_strategy);
            let expected = "easy or hard beside a semi-hard strategy";
            return Err(Error::config("BatchEasyHard", "pos_strategy", got, expected));
        }
        Ok(Self { distance, config })
    }

    /// The hardest of both kinds, in one pass over the matrix.
    fn hardest(&self, batch: &Batch) -> Result<Pairs> {
        let mut pairs = Pairs::default();
        if batch.nothing() {
            return Ok(pairs);
        }
        let own: Option<Vec<u32>> = (0..batch.len()).map(|i| batch.own_column(i).map(|j| j as u32)).collect();
        let classes = Classes { rows: batch.labels(), columns: batch.column_labels(), own: own.as_deref() };
        let closer = if self.distance.larger_is_closer() { Closer::Larger } else { Closer::Smaller };
        let found = finite_pairs("BatchEasyHard", batch, &self.distance)?.hardest(classes, closer)?;
        for (a, found) in found.into_iter().enumerate() {
            if let [Some(p), Some(n)] = found {
                pairs.positive.push(a, p as usize);
                pairs.negative.push(a, n as usize);
            }
        }
        Ok(pairs)
    }

    fn pairs(&self, batch: &Batch) -> Result<Pairs> {
        self.config.check()?;
        let BatchEasyHardConfig { allowed_pos_range, allowed_neg_range, .. } = self.config;
        let hard = self.config.pos_strategy == Strategy::Hard && self.config.neg_strategy == Strategy::Hard;
        if hard && allowed_pos_range.is_none() && allowed_neg_range.is_none() {
            return self.hardest(batch);
        }
        let Some(far) = Farness::new("BatchEasyHard", batch, &self.distance)? else {
            return Ok(Pairs::default());
        };
        let allowed = |range: Option<(f64, f64)>| {
            let sign = far.sign;
            move |farness: f64| range.is_none_or(|(low, high)| (low..=high).contains(&(sign * farness)))
        };
        let (allow_pos, allow_neg) = (allowed(allowed_pos_range), allowed(allowed_neg_range));
        let BatchEasyHardConfig { pos_strategy, neg_strategy, .. } = self.config;
        let classes = batch.classes();
        let found = far.each_anchor(|a, far, found| {
            let positives = || classes.positives(a).filter(|&p| allow_pos(far[p]));
            let negatives =
                || (0..far.len()).filter(|&n| classes.is_negative(a, n)).filter(|&n| allow_neg(far[n]));
            if pos_strategy == Strategy::All {
                found.extend(positives().map(|p| Found::Positive(a, p)));
            }
            if neg_strategy == Strategy::All {
                found.extend(negatives().map(|n| Found::Negative(a, n)));
            }
            let positive = |bound: f64| {
                let inside = positives().filter(|&p| far[p] < bound);
                match pos_strategy {
                    Strategy::Easy => least(inside, |p| far[p]),
                    _ => least(inside, |p| -far[p]),
                }
            };
            let negative = |bound: f64| {
                let outside = negatives().filter(|&n| far[n] > bound);
                match neg_strategy {
                    Strategy::Easy => least(outside, |n| -far[n]),
                    _ => least(outside, |n| far[n]),
                }
            };
            let (p, n) = match (pos_strategy, neg_strategy) {
                (Strategy::All, Strategy::All) => (None, None),
                (Strategy::All, _) => {
                    let n = negative(f64::NEG_INFINITY).filter(|_| positives().next().is_some());
                    (None, n)
                }
                (_, Strategy::All) => {
                    (positive(f64::INFINITY).filter(|_| negatives().next().is_some()), None)
                }
                (Strategy::SemiHard, _) => {
                    let n = negative(f64::NEG_INFINITY);
                    (n.and_then(|n| positive(far[n])), n)
                }
                (_, Strategy::SemiHard) => {
                    let p = positive(f64::INFINITY);
                    (p, p.and_then(|p| negative(far[p])))
                }
                _ => (positive(f64::INFINITY), negative(f64::NEG_INFINITY)),
            };
            let needs_both = pos_strategy != Strategy::All && neg_strategy != Strategy::All;
            if needs_both && (p.is_none() || n.is_none()) {
                return;
            }
            if let Some(p) = p {
                found.push(Found::Positive(a, p));
            }
            if let Some(n) = n {
                found.push(Found::Negative(a, n));
            }
        })?;
        Ok(Pairs::of(found))
    }
}

/// The first index of the smallest key.
fn least(indices: impl Iterator<Item = usize>, key: impl Fn(usize) -> f64) -> Option<usize> {
    indices.fold(None, |best, i| match best {
        Some(b) if key(b) <= key(i) => best,
        _ => Some(i),
    })
}

impl Miner for BatchEasyHard {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        Ok(Tuples::Pairs(self.pairs(batch)?))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}

/// Knobs of [`BatchHard`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchHardConfig {
    /// Positives outside \[low, high\], in units of the distance, do not count. All count by default.
    pub allowed_pos_range: Option<(f64, f64)>,
    /// Negatives outside \[low, high\], in units of the distance, do not count. All count by default.
    pub allowed_neg_range: Option<(f64, f64)>,
}

/// The farthest positive and the closest negative of each anchor, as triplets; anchors that lack either are left out.
///
/// Without warm-up an untrained encoder collapses under it, whatever the distance. Ties go to the lowest index. Any
/// distance. O(nm) time, at most n triplets.
///
/// # Source
/// Hermans et al. 2017 \[hermans2017\], equation 5.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32], [1.], [4.], [2.]], &Device::Cpu)?;
/// let miner = BatchHard::new(Arc::new(Lp::raw(2.0)), BatchHardConfig::default());
/// let triplets = miner.mine(&Batch::new(&x, &[0, 0, 0, 1])?)?.to_triplets();
/// assert_eq!((triplets.anchor, triplets.positive, triplets.negative), (vec![0, 1, 2], vec![2, 2, 0], vec![3; 3]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchHard {
    inner: BatchEasyHard,
}

impl BatchHard {
    /// A miner of triplets.
    pub fn new(distance: Arc<dyn Distance>, config: BatchHardConfig) -> Self {
        let config = BatchEasyHardConfig {
            pos_strategy: Strategy::Hard,
            neg_strategy: Strategy::Hard,
            allowed_pos_range: config.allowed_pos_range,
            allowed_neg_range: config.allowed_neg_range,
        };
        Self { inner: BatchEasyHard { distance, config } }
    }
}

impl Miner for BatchHard {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let Pairs { positive, negative: PairList { other: negative, .. } } = self.inner.pairs(batch)?;
        Ok(Tuples::Triplets(Triplets { anchor: positive.anchor, positive: positive.other, negative }))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        self.inner.distance()
    }
}
