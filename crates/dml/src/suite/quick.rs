//! The quick suite: everything the project claims, at small scale, on the bundled digits.
//!
//! 1. *Metric learning*, closed-set and zero-shot: the same encoder, loss, batches and number of steps under five
//!    distances; the same embeddings scored under D_φ and under the Euclidean distance.
//! 2. *Directed retrieval*: find the digit that 25 ink points were drawn from; fixed and learned divergences, both
//!    argument orders.

use std::sync::Arc;

use bregman::Side;
use candle_core::Device;
use dml_data::{ImageSet, Split, TrainSize};
use phi::{Generator, ItakuraSaito, NegativeEntropy, SquaredEuclidean};
use serde::Serialize;

use super::metric::{Test, measure};
use super::{Finished, Job, Record, SuiteOptions, mark_complete, metrics_lines, quick_report, run_jobs};
use crate::task::{DirectedConfig, DirectedTask, Histograms, Images, MetricConfig, MetricTask, Pairs};
use crate::{Error, Method, OptimizerConfig, Result, SmallConvConfig, TrainConfig, Watch, atomic, train};

/// How much of the suite runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuickConfig {
    /// Seeds of the metric learning runs.
    pub metric_seeds: u64,
    /// Training steps of each.
    pub metric_steps: usize,
    /// Seeds of the directed retrieval runs.
    pub directed_seeds: u64,
    /// Training steps of each; Mahalanobis gets more.
    pub directed_steps: usize,
}

impl Default for QuickConfig {
    fn default() -> Self {
        Self { metric_seeds: 3, metric_steps: 150, directed_seeds: 5, directed_steps: 600 }
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

/// The learned divergences of directed retrieval: name, method, query first, peak learning rate, and how many times
/// the steps. Mahalanobis gets several rates and more steps, and the best of them counts.
pub(super) const DIRECTED: [(&str, Method, bool, f64, usize); 10] = [
    ("mahalanobis-1e-2", Method::DeepMahalanobis, true, 1e-2, 1),
    ("mahalanobis-3e-2", Method::DeepMahalanobis, true, 3e-2, 1),
    ("mahalanobis-1e-2-long", Method::DeepMahalanobis, true, 1e-2, 3),
    ("mahalanobis-3e-2-long", Method::DeepMahalanobis, true, 3e-2, 3),
    ("icnn", Method::Icnn, true, 3e-2, 1),
    ("icnn-item-first", Method::Icnn, false, 3e-2, 1),
    ("separable", Method::Separable, true, 6e-2, 1),
    ("separable-item-first", Method::Separable, false, 6e-2, 1),
    ("empirical-bregman", Method::EmpiricalBregman, true, 4e-2, 1),
    ("empirical-bregman-item-first", Method::EmpiricalBregman, false, 4e-2, 1),
];

/// Ink points in a query.
const POINTS: usize = 25;
/// What is added to each cell, mean 1, where a divergence takes logarithms: the candidates.
const SMOOTHING: [f64; 8] = [1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
/// What makes an empty cell a point of the domain and hardly more.
const BARELY_POSITIVE: f64 = 1e-6;
/// Pairs in a batch of directed retrieval.
const PAIRS: usize = 200;
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
    for (name, method, query_first, rate, times) in DIRECTED {
        for seed in 0..config.directed_seeds {
            let problem = DirectedConfig { method, query_first, points: POINTS, batch: PAIRS, seed };
            let optimizer =
                OptimizerConfig { generator_rate: rate, temperature_rate: 1e-2, ..Default::default() };
            let steps = config.directed_steps * times;
            let training = TrainConfig { steps, optimizer, ..Default::default() };
            jobs.push(directed_job(digits.clone(), name, problem, training)?);
        }
    }
    for seed in 0..config.directed_seeds {
        jobs.push(fixed_job(digits.clone(), seed));
    }
    Ok(jobs)
}

/// The split of a protocol. The zero-shot classes are fixed; the closed-set draw is the seed's.
fn split(digits: &ImageSet, protocol: &str, seed: u64) -> Result<Split> {
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
    training: TrainConfig,
}

fn describe(protocol: &str, problem: impl Serialize, training: TrainConfig) -> Result<String> {
    let described =
        Described { suite: "quick", dataset: "mnist-5k", protocol: protocol.to_owned(), problem, training };
    toml::to_string(&described).map_err(|e| Error::Config {
        what: "suite",
        field: "config",
        got: e.to_string(),
        expected: "settings that can be written as TOML",
    })
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
    // Of 3e-3, 1e-2 and 3e-2 the rate at which each method did best in a look at one seed.
    let generator_rate = if method == Method::DeepDivergence { 3e-2 } else { 1e-2 };
    let optimizer = OptimizerConfig { generator_rate, ..Default::default() };
    let training = TrainConfig { steps: config.metric_steps, optimizer, ..Default::default() };
    let text = describe(protocol, &problem, training)?;
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

/// Training histograms, and test pairs.
fn directed_data(digits: &ImageSet, seed: u64) -> Result<(Histograms, Pairs)> {
    let split = split(digits, "closed-set", seed)?;
    let test = Histograms::of_ink(digits, &split.test)?;
    let pairs = Pairs::draw(&test, POINTS, seed ^ 0x5eed, &Device::Cpu)?;
    Ok((Histograms::of_ink(digits, &split.train)?, pairs))
}

fn directed_job<'a>(
    digits: Arc<ImageSet>,
    name: &'static str,
    problem: DirectedConfig,
    training: TrainConfig,
) -> Result<Job<'a>> {
    let text = describe("directed", problem, training)?;
    let work = move |watch: &Watch<'_>| directed_run(&digits, problem, &training, watch);
    let id = format!("directed/{name}/seed-{}", problem.seed);
    Ok(Job { id, config: text, steps: training.steps, work: Box::new(work) })
}

fn directed_run(
    digits: &ImageSet,
    problem: DirectedConfig,
    training: &TrainConfig,
    watch: &Watch<'_>,
) -> Result<Record> {
    let (items, pairs) = directed_data(digits, problem.seed)?;
    let task = DirectedTask::new(Arc::new(items), problem, &Device::Cpu)?;
    let losses = train(&task, training, watch)?;
    let mrr = pairs.mean_reciprocal_rank(task.generator().as_ref(), problem.side())?;
    let mut record = Record { losses, ..Default::default() };
    record.values.insert("mrr".to_owned(), mrr);
    if problem.method == Method::Separable && problem.seed == 0 {
        record.arrays = curvature(task.generator().as_ref())?;
    }
    Ok(record)
}

/// φ″ of a separable generator at a few cells, by differences of its gradient along the diagonal.
fn curvature(phi: &dyn Generator) -> Result<std::collections::BTreeMap<String, Vec<f64>>> {
    let d = phi.dim().unwrap_or(1);
    let (points, step) = (60, 0.1f32);
    let grid: Vec<f32> = (0..=points).map(|i| i as f32 * step).collect();
    let rows: Vec<f32> = grid.iter().flat_map(|&v| vec![v; d]).collect();
    let x = candle_core::Tensor::from_vec(rows, (grid.len(), d), &Device::Cpu)?;
    let gradient = phi.value_and_grad(&x)?.1.to_vec2::<f32>()?;
    let slope = |w: &[Vec<f32>], j: usize| f64::from((w[1][j] - w[0][j]) / step);
    let mean: Vec<f64> =
        gradient.windows(2).map(|w| (0..d).map(|j| slope(w, j)).sum::<f64>() / d as f64).collect();
    let at: Vec<f64> = grid.windows(2).map(|w| f64::from(0.5 * (w[0] + w[1]))).collect();
    Ok([("curvature_at".to_owned(), at), ("curvature".to_owned(), mean)].into())
}

/// The fixed divergences, in both argument orders. Smoothing, where logarithms need it, is chosen on the training
/// images for each divergence and order.
fn fixed_job<'a>(digits: Arc<ImageSet>, seed: u64) -> Job<'a> {
    let work = move |_: &Watch<'_>| fixed_run(&digits, seed);
    let config =
        format!("suite = \"quick\"\ndataset = \"mnist-5k\"\nprotocol = \"directed\"\nseed = {seed}\n");
    Job { id: format!("directed/fixed/seed-{seed}"), config, steps: 0, work: Box::new(work) }
}

fn fixed_run(digits: &ImageSet, seed: u64) -> Result<Record> {
    let (items, test) = directed_data(digits, seed)?;
    let tune = Pairs::draw(&items.spread(test.items.dim(0)?), POINTS, seed ^ 0x7e57, &Device::Cpu)?;
    let mut record = Record::default();
    record.values.insert("euclidean".to_owned(), test.mean_reciprocal_rank(&SquaredEuclidean, Side::First)?);
    let roots = test.map(candle_core::Tensor::sqrt)?;
    record.values.insert("hellinger".to_owned(), roots.mean_reciprocal_rank(&SquaredEuclidean, Side::First)?);
    let (kl, itakura_saito) = (NegativeEntropy::orthant(), ItakuraSaito);
    let smoothed: [(&str, &dyn Generator); 2] = [("kl", &kl), ("itakura-saito", &itakura_saito)];
    for (name, phi) in smoothed {
        for (order, side) in [("query-first", Side::First), ("item-first", Side::Second)] {
            let score = |pairs: &Pairs, (queries, items): (f64, f64)| -> Result<f64> {
                let smoothed = Pairs { queries: (&pairs.queries + queries)?, items: (&pairs.items + items)? };
                smoothed.mean_reciprocal_rank(phi, side)
            };
            let mut best = (f64::NEG_INFINITY, (0.0, 0.0));
            for alpha in SMOOTHING {
                // Both arguments alike, or one of them only as far as it must be positive.
                for smoothing in [(alpha, alpha), (BARELY_POSITIVE, alpha), (alpha, BARELY_POSITIVE)] {
                    let mrr = score(&tune, smoothing)?;
                    if mrr > best.0 {
                        best = (mrr, smoothing);
                    }
                }
            }
            record.values.insert(format!("{name}-{order}"), score(&test, best.1)?);
            record.values.insert(format!("{name}-{order}.smoothing-of-query"), best.1.0);
            record.values.insert(format!("{name}-{order}.smoothing-of-item"), best.1.1);
        }
    }
    Ok(record)
}
