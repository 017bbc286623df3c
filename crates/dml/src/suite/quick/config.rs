//! How much of the quick suite runs, on which images, and how a run's configuration is written.

use dml_data::{ImageSet, Split, TrainSize};
use serde::Serialize;

use crate::{Error, Result, TrainConfig};

/// How much of the suite runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuickConfig {
    /// Seeds of the metric learning runs.
    pub metric_seeds: u64,
    /// Training steps of each.
    pub metric_steps: usize,
    /// Seeds of the directed retrieval runs.
    pub directed_seeds: u64,
    /// Training steps of each; Mahalanobis, ICNN and embeddings get a multiple.
    pub directed_steps: usize,
}

impl Default for QuickConfig {
    fn default() -> Self {
        Self { metric_seeds: 3, metric_steps: 150, directed_seeds: 5, directed_steps: 300 }
    }
}

impl QuickConfig {
    /// The same runs, cut to a few steps: checks that everything works, measures nothing.
    pub fn smoke() -> Self {
        Self { metric_seeds: 2, metric_steps: 4, directed_seeds: 2, directed_steps: 4 }
    }
}

/// Training images of each digit in the closed-set split and in directed retrieval.
const TRAIN_PER_CLASS: usize = 350;
/// Digits trained on in the zero-shot protocol; retrieval is among the others.
pub(super) const SEEN: [i64; 5] = [0, 1, 2, 3, 4];

/// The split of a protocol. The zero-shot classes are fixed; the closed-set draw is the seed's.
pub(super) fn split(digits: &ImageSet, protocol: &str, seed: u64) -> Result<Split> {
    Ok(match protocol {
        "zero-shot" => digits.zero_shot(&SEEN)?,
        _ => digits.closed_set(TrainSize::PerClass(TRAIN_PER_CLASS), seed)?,
    })
}

#[derive(Serialize)]
struct Described<P> {
    suite: &'static str,
    dataset: &'static str,
    protocol: String,
    problem: P,
    training: Option<TrainConfig>,
}

pub(super) fn describe(
    protocol: &str,
    problem: impl Serialize,
    training: Option<TrainConfig>,
) -> Result<String> {
    let described =
        Described { suite: "quick", dataset: "mnist-5k", protocol: protocol.to_owned(), problem, training };
    toml::to_string(&described).map_err(|e| Error::Config {
        what: "suite",
        field: "config",
        got: e.to_string(),
        expected: "settings that can be written as TOML",
    })
}
