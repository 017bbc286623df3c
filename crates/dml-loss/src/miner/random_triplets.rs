//! A number of random triplets for each anchor.

use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Miner, Result, Triplets, Tuples, error::count, sampling::draws, tensor::download,
    tuples::ClassRows,
};

/// Knobs of [`RandomTriplets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomTripletsConfig {
    /// Triplets of each anchor, drawn with replacement; 100.
    pub triplets_per_anchor: usize,
    /// Seeds the draws; 0.
    pub seed: u64,
}

impl Default for RandomTripletsConfig {
    fn default() -> Self {
        Self { triplets_per_anchor: 100, seed: 0 }
    }
}

/// How many triplets of each anchor count: `"all"`, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of triplets, or \"all\"")]
pub enum TripletsPerAnchor {
    /// So many, drawn as [`RandomTriplets`] does.
    Number(usize),
    /// Every valid one.
    All(All),
}

/// The word `"all"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum All {
    /// `"all"`.
    All,
}

impl Default for TripletsPerAnchor {
    fn default() -> Self {
        Self::All(All::All)
    }
}

impl TripletsPerAnchor {
    pub(crate) fn check(self, owner: &'static str) -> Result<()> {
        match self {
            Self::All(_) => Ok(()),
            Self::Number(number) => count(owner, "triplets_per_anchor", number),
        }
    }

    pub(crate) fn is_all(self) -> bool {
        matches!(self, Self::All(_))
    }

    pub(crate) fn triplets(self, batch: &Batch, seed: u64) -> Result<Triplets> {
        match self {
            Self::All(_) => Ok(Triplets::all(batch)),
            Self::Number(triplets_per_anchor) => {
                RandomTriplets { config: RandomTripletsConfig { triplets_per_anchor, seed } }.triplets(batch)
            }
        }
    }
}

/// `triplets_per_anchor` triplets of each anchor that has a positive and a negative, each drawn evenly from all of the
/// anchor's, with replacement: what keeps a triplet loss linear in the batch where all triplets would be cubic.
///
/// Draws are a function of `seed`, labels and embeddings; nothing is remembered between batches. No distance is asked.
/// O(n(m + `triplets_per_anchor`)) time, O(n·`triplets_per_anchor`) memory.
///
/// ```
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let batch = Batch::new(&Tensor::zeros((5, 2), DType::F32, &Device::Cpu)?, &[0, 0, 1, 1, 2])?;
/// let miner = RandomTriplets { config: RandomTripletsConfig { triplets_per_anchor: 3, seed: 1 } };
/// assert_eq!(miner.mine(&batch)?.len(), 4 * 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomTriplets {
    /// How many, and the seed.
    pub config: RandomTripletsConfig,
}

impl RandomTriplets {
    fn triplets(&self, batch: &Batch) -> Result<Triplets> {
        let mut triplets = Triplets::default();
        if batch.nothing() {
            return Ok(triplets);
        }
        let bits = download(batch.embeddings())?.into_iter().map(f64::to_bits);
        let mut rng = draws(self.config.seed, batch.labels().iter().map(|&l| l as u64).chain(bits));
        let mut rows = ClassRows::default();
        for a in 0..batch.len() {
            rows.fill(batch, a);
            if rows.positive.is_empty() || rows.negative.is_empty() {
                continue;
            }
            for _ in 0..self.config.triplets_per_anchor {
                let p = rows.positive[rng.random_range(0..rows.positive.len())];
                let n = rows.negative[rng.random_range(0..rows.negative.len())];
                triplets.push(a, p, n);
            }
        }
        Ok(triplets)
    }
}

impl Miner for RandomTriplets {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        count("RandomTriplets", "triplets_per_anchor", self.config.triplets_per_anchor.max(1))?; // 0 finds nothing
        Ok(Tuples::Triplets(self.triplets(batch)?))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        None
    }
}
