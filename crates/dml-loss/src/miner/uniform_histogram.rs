//! Pairs drawn evenly over the range of their distances.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Miner, PairList, Pairs, Result, Tuples, error::count, miner::Farness, sampling::draws,
};

/// Knobs of [`UniformHistogram`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UniformHistogramConfig {
    /// Bins between the least and the largest distance of each kind of pair; 100.
    pub num_bins: usize,
    /// Positive pairs drawn from each bin that has any; 10.
    pub pos_per_bin: usize,
    /// Negative pairs drawn from each bin that has any; 10.
    pub neg_per_bin: usize,
    /// Seeds the draws; 0.
    pub seed: u64,
}

impl Default for UniformHistogramConfig {
    fn default() -> Self {
        Self { num_bins: 100, pos_per_bin: 10, neg_per_bin: 10, seed: 0 }
    }
}

/// The same number of pairs, drawn with replacement, from each bin of the histogram of distances that is not empty;
/// positive and negative pairs apart.
///
/// A bin whose distances are rare is drawn as often as a crowded one, so the hardest and the easiest pairs are heard.
/// Draws are a function of `seed` and of the batch's distances; nothing is remembered between batches. Any distance.
/// O(nm) time and memory; at most `num_bins`·(`pos_per_bin` + `neg_per_bin`) pairs.
///
/// # Source
/// pytorch-metric-learning's `UniformHistogramMiner`; the thought, to draw evenly over distances, is that of Wu et al.
/// 2017 \[wu2017\].
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32], [1.], [1.1], [9.]], &Device::Cpu)?;
/// let config = UniformHistogramConfig { num_bins: 2, pos_per_bin: 3, neg_per_bin: 5, seed: 0 };
/// let pairs = UniformHistogram::new(Arc::new(Lp::raw(2.0)), config)?.mine(&Batch::new(&x, &[0, 0, 1, 1])?)?.to_pairs();
/// // Positive pairs at 1 and 7.9, negative ones about 1 and about 8.5: two bins each.
/// assert_eq!((pairs.positive.len(), pairs.negative.len()), (2 * 3, 2 * 5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct UniformHistogram {
    distance: Arc<dyn Distance>,
    config: UniformHistogramConfig,
}

impl UniformHistogram {
    /// A miner of pairs.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for no bins, or too many of anything.
    pub fn new(distance: Arc<dyn Distance>, config: UniformHistogramConfig) -> Result<Self> {
        let UniformHistogramConfig { num_bins, pos_per_bin, neg_per_bin, .. } = config;
        // None of one kind may be wanted.
        let counts = [
            ("num_bins", num_bins),
            ("pos_per_bin", pos_per_bin.max(1)),
            ("neg_per_bin", neg_per_bin.max(1)),
        ];
        counts.into_iter().try_for_each(|(field, number)| count("UniformHistogram", field, number))?;
        Ok(Self { distance, config })
    }

    fn draw(&self, far: (usize, &[f64]), pairs: &PairList, per_bin: usize, rng: &mut ChaCha8Rng) -> PairList {
        let (m, values) = far;
        let value = |k: usize| values[pairs.anchor[k] as usize * m + pairs.other[k] as usize];
        let low = (0..pairs.len()).map(value).fold(f64::INFINITY, f64::min);
        let high = (0..pairs.len()).map(value).fold(f64::NEG_INFINITY, f64::max);
        let bins = self.config.num_bins;
        let scale = if high > low { bins as f64 / (high - low) } else { 0.0 };
        let mut members = vec![Vec::new(); bins];
        (0..pairs.len()).for_each(|k| members[(((value(k) - low) * scale) as usize).min(bins - 1)].push(k));
        let mut drawn = PairList::default();
        for members in members.iter().filter(|members| !members.is_empty()) {
            for _ in 0..per_bin {
                let k = members[rng.random_range(0..members.len())];
                drawn.push(pairs.anchor[k] as usize, pairs.other[k] as usize);
            }
        }
        drawn
    }
}

impl Miner for UniformHistogram {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let Some(far) = Farness::new("UniformHistogram", batch, &self.distance)? else {
            return Ok(Tuples::Pairs(Pairs::default()));
        };
        let all = Pairs::all(batch);
        let (m, values) = (far.columns(), far.values());
        let mut rng = draws(self.config.seed, values.iter().map(|v| v.to_bits()));
        let positive = self.draw((m, &values), &all.positive, self.config.pos_per_bin, &mut rng);
        let negative = self.draw((m, &values), &all.negative, self.config.neg_per_bin, &mut rng);
        Ok(Tuples::Pairs(Pairs { positive, negative }))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
