//! The quick suite: everything the project claims, at small scale, on the bundled digits.
//!
//! 1. *Metric learning*, closed-set and zero-shot: the same encoder, loss, batches and number of steps under five
//!    distances; the same embeddings scored under D_φ and under the Euclidean distance.
//! 2. *Directed retrieval*: find the digit that 25 ink points were drawn from; fixed and learned divergences, both
//!    argument orders, and the law that the points were drawn by. See `quick_directed.rs`.
//!
//! The learning rate of φ in metric learning is the best of three on held-out training images, of each seed 50 of the
//! 350 of a digit in the closed set, and digits 3 and 4 of the five trained on in the zero-shot protocol. MAP@R,
//! mean over seeds 0 and 1, as `cargo run -p dml --example select_rates -- metric` prints it:
//!
//! | | closed set: 3e-3 | 1e-2 | 3e-2 | zero-shot: 3e-3 | 1e-2 | 3e-2 |
//! |---|---|---|---|---|---|---|
//! | Mahalanobis | 0.867 | 0.867 | **0.869** | 0.567 | **0.569** | 0.564 |
//! | Max-affine | 0.869 | **0.872** | 0.866 | **0.574** | 0.565 | 0.572 |
//! | Deep divergence | 0.761 | 0.673 | **0.769** | 0.483 | 0.527 | **0.555** |
//! | Empirical Bregman | 0.871 | 0.871 | **0.874** | **0.583** | 0.579 | 0.567 |

use std::sync::Arc;

use candle_core::Device;
use dml_data::{ImageSet, Split, TrainSize};
use serde::Serialize;

use super::metric::{Test, measure};
use super::quick_directed::QUERIES;
use super::{
    Finished, Job, Record, SuiteOptions, mark_complete, metrics_lines, quick_directed, quick_report, run_jobs,
};
use crate::task::{Images, MetricConfig, MetricTask};
use crate::{Error, Method, OptimizerConfig, Result, SmallConvConfig, TrainConfig, Watch, atomic};

/// How much of the suite runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuickConfig {
    /// Seeds of the metric learning runs.
    pub metric_seeds: u64,
    /// Training steps of each.
    pub metric_steps: usize,
    /// Seeds of the directed retrieval runs.
    pub directed_seeds: u64,
    /// Training steps of each; Mahalanobis gets several times as many.
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

/// The methods of the metric learning comparison, the baseline first.
pub(super) const METHODS: [Method; 5] = [
    Method::Euclidean,
    Method::DeepMahalanobis,
    Method::MaxAffine,
    Method::DeepDivergence,
    Method::EmpiricalBregman,
];

/// The protocols: the folder, and how it is called.
pub(super) const PROTOCOLS: [(&str, &str); 2] = [("closed-set", "closed set"), ("zero-shot", "zero-shot")];

/// Training images of each digit in the closed-set split and in directed retrieval.
const TRAIN_PER_CLASS: usize = 350;
/// Digits trained on in the zero-shot protocol; retrieval is among the others.
const SEEN: [u32; 5] = [0, 1, 2, 3, 4];

/// Everything that happened in a suite.
#[derive(Debug)]
pub struct Outcome {
    /// The runs in order.
    pub runs: Vec<Finished>,
    /// The files written.
    pub files: Vec<std::path::PathBuf>,
}

/// Runs the suite, or what is left of it, and writes `report.md`, `report.html`, `figures/` and `metrics.jsonl`.
///
/// # Errors
/// [`Error::Interrupted`] when asked to stop, and whatever goes wrong in a run.
pub fn run(config: QuickConfig, options: &SuiteOptions<'_>, command: &str) -> Result<Outcome> {
    let start = std::time::Instant::now();
    let digits = Arc::new(dml_data::bundled::mnist_5k()?);
    let jobs = jobs(config, &digits)?;
    let runs = run_jobs(&jobs, options)?;
    atomic::write(options.folder.join("metrics.jsonl"), metrics_lines(&jobs, &runs)?)?;
    let facts = quick_report::Facts {
        config: &config,
        digits: &digits,
        workers: options.workers,
        elapsed: start.elapsed(),
        command,
    };
    let report = quick_report::build(facts, &runs)?;
    let mut files = report.write(&options.folder)?;
    files.push(options.folder.join("metrics.jsonl"));
    mark_complete(options)?;
    Ok(Outcome { runs, files })
}

fn jobs<'a>(config: QuickConfig, digits: &Arc<ImageSet>) -> Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    // Longest first, so that no worker is left alone at the end.
    for method in METHODS.into_iter().rev() {
        for (protocol, _) in PROTOCOLS {
            for seed in 0..config.metric_seeds {
                jobs.push(metric_job(&config, digits.clone(), protocol, method, seed)?);
            }
        }
    }
    for query in QUERIES {
        for learned in query.learned {
            for seed in 0..config.directed_seeds {
                jobs.push(quick_directed::learned_job(&config, digits.clone(), query, learned, seed)?);
            }
        }
        for seed in 0..config.directed_seeds {
            jobs.push(quick_directed::fixed_job(digits.clone(), query, seed)?);
        }
    }
    Ok(jobs)
}

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

/// Of 3e-3, 1e-2 and 3e-2 the one with the highest score on held-out training images: the table at the top.
fn generator_rate(protocol: &str, method: Method) -> f64 {
    match (protocol, method) {
        ("zero-shot", Method::MaxAffine | Method::EmpiricalBregman) => 3e-3,
        ("zero-shot", Method::DeepMahalanobis) | ("closed-set", Method::MaxAffine) => 1e-2,
        _ => 3e-2,
    }
}

fn metric_job<'a>(
    config: &QuickConfig,
    digits: Arc<ImageSet>,
    protocol: &'static str,
    method: Method,
    seed: u64,
) -> Result<Job<'a>> {
    let classes = if protocol == "zero-shot" { SEEN.len() } else { 10 };
    let problem =
        MetricConfig { method, encoder: SmallConvConfig::default(), classes, per_class: 100 / classes, seed };
    let optimizer =
        OptimizerConfig { generator_rate: generator_rate(protocol, method), ..Default::default() };
    let training = TrainConfig { steps: config.metric_steps, optimizer, ..Default::default() };
    let text = describe(protocol, &problem, Some(training))?;
    let work = move |watch: &Watch<'_>| metric_run(&digits, protocol, &problem, &training, watch);
    let id = format!("{protocol}/{}/seed-{seed}", method.id());
    Ok(Job { id, config: text, steps: training.steps, work: Box::new(work) })
}

fn metric_run(
    digits: &Arc<ImageSet>,
    protocol: &str,
    problem: &MetricConfig,
    training: &TrainConfig,
    watch: &Watch<'_>,
) -> Result<Record> {
    let split = split(digits, protocol, problem.seed)?;
    let images = Arc::new(digits.as_ref().clone().normalized_by(&split.train)?);
    let task = MetricTask::new(images.clone(), &split.train, problem, &Device::Cpu)?;
    let test = Test { images: &Images::plain(images), indices: &split.test };
    measure(&task, training, test, problem, watch)
}
