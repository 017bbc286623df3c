//! Negatives drawn so that their distances are spread evenly (Wu et al. 2017).

use std::sync::Arc;

use candle_core::Tensor;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Miner, Result, Triplets, Tuples, error::positive, miner::Farness,
    sampling::draws, tensor::upload, tuples::ClassRows,
};

/// Knobs of [`DistanceWeighted`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistanceWeightedConfig {
    /// Smaller distances are taken as this one, which bounds the weights; 0.5.
    pub cutoff: f64,
    /// Negatives at or beyond this distance are never drawn, as they cost nothing; 1.4.
    pub nonzero_loss_cutoff: f64,
    /// Seeds the draws; 0.
    pub seed: u64,
}

impl Default for DistanceWeightedConfig {
    fn default() -> Self {
        Self { cutoff: 0.5, nonzero_loss_cutoff: 1.4, seed: 0 }
    }
}

/// One negative for each positive pair, drawn with probability proportional to 1/q(D), q the density of distances
/// between random points of the unit sphere: q(D) = D^(d−2)·(1 − D²/4)^((d−3)/2).
///
/// Distances above 2 have no density there and weight 0. Draws are a function of `seed` and of the batch's distances;
/// nothing is remembered between batches. An anchor without a candidate gives no triplet. O(nm) time and memory, a
/// triplet a positive pair.
///
/// # Distances
/// Euclid of normalized rows, of which q is the density. Another distance, a divergence too, is taken as if it were
/// that one; a similarity is an error.
/// # Source
/// Wu et al. 2017 \[wu2017\], section 4, equations 2 and 3.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[1f64, 0.], [0.8, 0.6], [0.6, 0.8], [-1., 0.]], &Device::Cpu)?;
/// let miner = DistanceWeighted::new(Arc::new(Lp::default()), DistanceWeightedConfig::default())?;
/// let weights = miner.weights(&Batch::new(&x, &[0, 0, 1, 2])?)?.to_vec2::<f64>()?;
/// // Of the negatives of row 0, the opposite one is too far to cost anything.
/// assert_eq!(weights[0], [0.0, 0.0, 1.0, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct DistanceWeighted {
    distance: Arc<dyn Distance>,
    config: DistanceWeightedConfig,
}

impl DistanceWeighted {
    /// A miner of triplets.
    ///
    /// # Errors
    /// [`Error::Config`] for a similarity or a cutoff that is not positive.
    pub fn new(distance: Arc<dyn Distance>, config: DistanceWeightedConfig) -> Result<Self> {
        let owner = "DistanceWeighted";
        if distance.larger_is_closer() {
            let expected = "the Euclidean distance of normalized rows";
            return Err(Error::config(owner, "distance", distance.name(), expected));
        }
        positive(owner, &[("cutoff", config.cutoff), ("nonzero_loss_cutoff", config.nonzero_loss_cutoff)])?;
        Ok(Self { distance, config })
    }

    /// The probability of each column as the negative of each row: `[n, m]`, rows summing to 1, or 0 where there is no
    /// candidate.
    ///
    /// # Errors
    /// What the distance returns.
    pub fn weights(&self, batch: &Batch) -> Result<Tensor> {
        let (n, m) = (batch.len(), batch.column_labels().len());
        let weights = match Farness::new("DistanceWeighted", batch, &self.distance)? {
            Some(far) => self.table(batch, &far)?,
            None => Vec::new(),
        };
        upload(weights, (n, m), batch.embeddings())
    }

    fn table(&self, batch: &Batch, far: &Farness) -> Result<Vec<f64>> {
        let d = batch.embeddings().dim(1)? as f64;
        let log_weight = |distance: f64| {
            let at = distance.max(self.config.cutoff);
            let log = (2.0 - d) * at.ln() - 0.5 * (d - 3.0) * (1.0 - 0.25 * at * at).ln();
            (at < self.config.nonzero_loss_cutoff && log.is_finite()).then_some(log)
        };
        let classes = batch.classes();
        far.each_anchor(|i, far, weights| {
            let negative = (0..far.len()).filter(|&j| classes.is_negative(i, j));
            let candidates: Vec<(usize, f64)> =
                negative.filter_map(|j| log_weight(far[j]).map(|log| (j, log))).collect();
            let most = candidates.iter().map(|(_, log)| *log).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = candidates.iter().map(|(_, log)| (log - most).exp()).sum();
            let first = weights.len();
            weights.resize(first + far.len(), 0.0);
            for (j, log) in candidates {
                weights[first + j] = (log - most).exp() / sum;
            }
        })
    }
}

impl Miner for DistanceWeighted {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let mut triplets = Triplets::default();
        let Some(far) = Farness::new("DistanceWeighted", batch, &self.distance)? else {
            return Ok(Tuples::Triplets(triplets));
        };
        let weights = self.table(batch, &far)?;
        let mut rng = draws(self.config.seed, far.values().iter().map(|v| v.to_bits()));
        let mut columns = ClassRows::default();
        for a in 0..batch.len() {
            columns.fill(batch, a);
            let row = &weights[a * far.columns()..(a + 1) * far.columns()];
            let Some(last) = columns.negative.iter().copied().rfind(|&j| row[j] > 0.0) else { continue };
            for &p in &columns.positive {
                let mut left: f64 = rng.random();
                let drawn = columns.negative.iter().copied().find(|&j| {
                    left -= row[j];
                    row[j] > 0.0 && left < 0.0
                });
                triplets.push(a, p, drawn.unwrap_or(last));
            }
        }
        Ok(Tuples::Triplets(triplets))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
