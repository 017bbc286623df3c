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
/// A semi-hard choice is made after the other. With [`Strategy::All`] on one side neither side waits for the other: all
/// pairs of that side are taken and every choice of the other, those of anchors that have nothing on one side too, as
/// the negative of a class with one row in the batch. Ties go to the lowest index. Any distance. O(nm) time, O(n)
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
                (Strategy::All, _) => (None, negative(f64::NEG_INFINITY)),
                (_, Strategy::All) => (positive(f64::INFINITY), None),
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

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::{DotProduct, Lp};

    const STRATEGIES: [Strategy; 4] = [Strategy::Easy, Strategy::Hard, Strategy::SemiHard, Strategy::All];

    type Ranges = (Option<(f64, f64)>, Option<(f64, f64)>);

    /// What a loop over anchors selects, with the matrix as it is.
    fn naive(
        values: &[Vec<f64>],
        labels: &[i64],
        larger_is_closer: bool,
        config: BatchEasyHardConfig,
    ) -> Pairs {
        let inside =
            |range: Option<(f64, f64)>, v: f64| range.is_none_or(|(low, high)| low <= v && v <= high);
        let far = |v: f64| if larger_is_closer { -v } else { v };
        let mut pairs = Pairs::default();
        for (a, row) in values.iter().enumerate() {
            let of = |same: bool, range| -> Vec<(usize, f64)> {
                let kept = row
                    .iter()
                    .enumerate()
                    .filter(|&(j, &v)| j != a && (labels[j] == labels[a]) == same && inside(range, v));
                kept.map(|(j, &v)| (j, far(v))).collect()
            };
            let positives = of(true, config.allowed_pos_range);
            let negatives = of(false, config.allowed_neg_range);
            let pick = |from: &[(usize, f64)], farthest: bool| -> Option<(usize, f64)> {
                let mut best: Option<(usize, f64)> = None;
                for &(j, v) in from {
                    if best.is_none_or(|(_, b)| if farthest { v > b } else { v < b }) {
                        best = Some((j, v));
                    }
                }
                best
            };
            let positive = pick(&positives, config.pos_strategy == Strategy::Hard);
            let negative = pick(&negatives, config.neg_strategy == Strategy::Easy);
            let semi_positive = negative.and_then(|(_, n)| {
                let closer: Vec<_> = positives.iter().copied().filter(|&(_, p)| p < n).collect();
                pick(&closer, true)
            });
            let semi_negative = positive.and_then(|(_, p)| {
                let farther: Vec<_> = negatives.iter().copied().filter(|&(_, n)| n > p).collect();
                pick(&farther, false)
            });
            let one = |choice: Option<(usize, f64)>| choice.map(|(j, _)| j).into_iter().collect::<Vec<_>>();
            let every = |list: &[(usize, f64)]| list.iter().map(|&(j, _)| j).collect::<Vec<_>>();
            let positives = match config.pos_strategy {
                Strategy::All => every(&positives),
                Strategy::SemiHard => one(semi_positive),
                _ => one(positive),
            };
            let negatives = match config.neg_strategy {
                Strategy::All => every(&negatives),
                Strategy::SemiHard => one(semi_negative),
                _ => one(negative),
            };
            // One choice on either side is one only together with the other.
            let all = config.pos_strategy == Strategy::All || config.neg_strategy == Strategy::All;
            if all || (!positives.is_empty() && !negatives.is_empty()) {
                positives.into_iter().for_each(|p| pairs.positive.push(a, p));
                negatives.into_iter().for_each(|n| pairs.negative.push(a, n));
            }
        }
        pairs
    }

    #[test]
    fn every_strategy_is_its_loop() -> Result<()> {
        // Classes of three, two and one; a tie between the last two columns; one class alone; each row its own class.
        let x = [[0.3f64, 1.0], [1.2, 0.4], [-0.5, 0.9], [0.6, -1.1], [2.0, 0.1], [2.0, 0.1]];
        let x = Tensor::new(&x, &Device::Cpu)?;
        let distances: [Arc<dyn Distance>; 2] = [Arc::new(Lp::raw(2.0)), Arc::new(DotProduct::raw())];
        let ranges: [Ranges; 4] =
            [(None, None), (Some((0.5, 1.5)), None), (None, Some((0.5, 1.5))), (Some((9.0, 9.5)), None)];
        for labels in [[0, 1, 0, 1, 0, 2], [0; 6], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 1]] {
            let batch = Batch::new(&x, &labels)?;
            for distance in &distances {
                let values = distance.all_pairs(&x, &x)?.to_vec2::<f64>()?;
                for (allowed_pos_range, allowed_neg_range) in ranges {
                    for (p, n) in STRATEGIES.into_iter().flat_map(|p| STRATEGIES.map(|n| (p, n))) {
                        let config = BatchEasyHardConfig {
                            pos_strategy: p,
                            neg_strategy: n,
                            allowed_pos_range,
                            allowed_neg_range,
                        };
                        let Ok(miner) = BatchEasyHard::new(distance.clone(), config) else { continue };
                        let want = naive(&values, &labels, distance.larger_is_closer(), config);
                        assert_eq!(miner.mine(&batch)?.to_pairs(), want, "{config:?} {labels:?}");
                    }
                }
            }
        }
        Ok(())
    }
}
