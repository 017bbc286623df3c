//! The learning rates of the quick suite, chosen on held-out training images: no test image is looked at.
//!
//! `cargo run -p dml --example select_rates -- metric` or `-- directed` prints, for each method and rate, the mean score
//! over two seeds; a third argument keeps the lines that contain it. Held out are, in the closed set, 50 of 350 training images of each digit; in the zero-shot
//! protocol, digits 3 and 4 of the five trained on; in directed retrieval, 1,490 of the 3,500 training digits. The
//! figures stand in `suite/quick/metric.rs` and `suite/quick/directed.rs`, beside the rates that follow from them.

use std::sync::Arc;

use candle_core::Device;
use dml::task::{
    DirectedConfig, DirectedTask, Embedding, Hidden, Histograms, MetricConfig, MetricTask, Pairs, Sample,
    evaluate,
};
use dml::{Method, MlpConfig, OptimizerConfig, SmallConvConfig, TrainConfig, Watch, train};
use dml_data::{ImageSet, TrainSize};
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SEEDS: u64 = 2;

/// One thing to measure: its name, and the score of a seed.
type Candidate<'a> = (String, Box<dyn Fn(u64) -> Result<f64, Failure> + Send + Sync + 'a>);

fn main() -> Result<(), Failure> {
    let digits = Arc::new(dml_data::bundled::mnist_5k()?);
    let candidates = match std::env::args().nth(1).as_deref() {
        Some("metric") => metric(&digits),
        Some("directed") => directed(&digits),
        _ => return Err("say `metric` or `directed`".into()),
    };
    let part = std::env::args().nth(2).unwrap_or_default();
    let candidates: Vec<_> = candidates.into_iter().filter(|(name, _)| name.contains(&part)).collect();
    let runs: Vec<(usize, u64)> =
        (0..candidates.len()).flat_map(|i| (0..SEEDS).map(move |seed| (i, seed))).collect();
    let scores: Vec<f64> = runs
        .par_iter()
        .map(|&(i, seed)| {
            // A thread of its own, as in the suite.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
            pool.install(|| candidates[i].1(seed))
        })
        .collect::<Result<_, Failure>>()?;
    for ((name, _), scores) in candidates.iter().zip(scores.chunks(SEEDS as usize)) {
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        println!("{name}: {mean:.3}  {scores:.3?}");
    }
    Ok(())
}

/// Every `n`th of the images of each class, the first of them at `n` − 1, and the others.
fn hold_out(digits: &ImageSet, train: &[usize], n: usize) -> (Vec<usize>, Vec<usize>) {
    let mut seen = std::collections::HashMap::<i64, usize>::new();
    let (held, kept) = train.iter().partition(|&&i| {
        let count = seen.entry(digits.labels()[i]).or_default();
        *count += 1;
        count.is_multiple_of(n)
    });
    (kept, held)
}

fn metric(digits: &Arc<ImageSet>) -> Vec<Candidate<'_>> {
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for protocol in ["closed set", "zero-shot"] {
        for method in
            [Method::DeepMahalanobis, Method::MaxAffine, Method::DeepDivergence, Method::EmpiricalBregman]
        {
            for rate in [3e-3, 1e-2, 3e-2] {
                let score = move |seed: u64| -> Result<f64, Failure> {
                    let (kept, held, classes) = if protocol == "zero-shot" {
                        let unseen = |class: i64| (3..5).contains(&class);
                        let all = 0..digits.len();
                        let seen = all.filter(|&i| digits.labels()[i] < 5);
                        let (held, kept) = seen.partition(|&i| unseen(digits.labels()[i]));
                        (kept, held, 3)
                    } else {
                        let split = digits.closed_set(TrainSize::PerClass(350), seed)?;
                        let (kept, held) = hold_out(digits, &split.train, 7);
                        (kept, held, 10)
                    };
                    let images = Arc::new(digits.as_ref().clone().normalized_by(&kept)?);
                    let encoder = SmallConvConfig::default();
                    let problem = MetricConfig { method, encoder, classes, per_class: 100 / classes, seed };
                    let task = MetricTask::new(images, &kept, &problem, &Device::Cpu)?;
                    let optimizer = OptimizerConfig { generator_rate: rate, ..Default::default() };
                    train(
                        &task,
                        &TrainConfig { steps: 150, optimizer, ..Default::default() },
                        &Watch::default(),
                    )?;
                    let labels: Vec<i64> = held.iter().map(|&i| digits.labels()[i]).collect();
                    Ok(evaluate(task.generator().as_ref(), &task.embed(&held)?, &labels)?.map_at_r)
                };
                candidates.push((format!("{protocol}, {}, {rate:.0e}, MAP@R", method.id()), Box::new(score)));
            }
        }
    }
    candidates
}

/// A name, what is learned, the rates and the numbers of steps.
type Try<'a> = (&'a str, Method, Embedding, &'a [f64], &'a [usize]);

fn directed(digits: &Arc<ImageSet>) -> Vec<Candidate<'_>> {
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    let mlp = MlpConfig::default();
    let tries: [Try<'_>; 6] = [
        ("mahalanobis", Method::DeepMahalanobis, Embedding::Nothing, &[3e-3, 1e-2, 3e-2], &[600, 1800]),
        ("mlp", Method::Euclidean, Embedding::Shared(mlp), &[1e-3, 3e-3, 1e-2], &[600, 1800]),
        ("two mlps", Method::Euclidean, Embedding::Towers(mlp), &[1e-3, 3e-3, 1e-2], &[600, 1800]),
        ("icnn", Method::Icnn, Embedding::Nothing, &[1e-2, 3e-2, 1e-1], &[600]),
        ("separable", Method::Separable, Embedding::Nothing, &[2e-2, 6e-2, 2e-1], &[300]),
        ("empirical-bregman", Method::EmpiricalBregman, Embedding::Nothing, &[1e-2, 4e-2, 1e-1], &[300]),
    ];
    let all: fn(u64) -> Hidden = |_| Hidden::Nothing;
    let anew: fn(u64) -> Hidden = |_| Hidden::Anew { cells: 24 };
    let same: fn(u64) -> Hidden = |seed| Hidden::Same { cells: 24, seed };
    for (which, hidden) in [("all cells", all), ("half hidden anew", anew), ("the same half hidden", same)] {
        for (name, method, embedding, rates, lengths) in tries {
            for (&rate, &steps) in
                rates.iter().flat_map(|rate| lengths.iter().map(move |steps| (rate, steps)))
            {
                let score = move |seed: u64| -> Result<f64, Failure> {
                    let split = digits.closed_set(TrainSize::PerClass(350), seed)?;
                    // 3 of 7 for each digit.
                    let (rest, third) = hold_out(digits, &split.train, 3);
                    let (kept, more) = hold_out(digits, &rest, 7);
                    let held: Vec<usize> = third.into_iter().chain(more).collect();
                    let held = Histograms::of_ink(digits, &held)?;
                    let sample = Sample { points: 25, hidden: hidden(seed) };
                    let held = Pairs::draw(&held, sample, seed ^ 0x7e57, &Device::Cpu)?;
                    let (query_first, batch) = (true, 200);
                    let problem = DirectedConfig { method, query_first, embedding, sample, batch, seed };
                    let items = Arc::new(Histograms::of_ink(digits, &kept)?);
                    let task = DirectedTask::new(items, problem, &Device::Cpu)?;
                    // One of the two has parameters.
                    let optimizer =
                        OptimizerConfig { generator_rate: rate, encoder_rate: rate, ..Default::default() };
                    train(&task, &TrainConfig { steps, optimizer, ..Default::default() }, &Watch::default())?;
                    let held = task.embed(&held)?;
                    Ok(held.mean_reciprocal_rank(task.generator().as_ref(), problem.side())?)
                };
                candidates
                    .push((format!("{which}, {name}, {rate:.0e}, {steps} steps, MRR"), Box::new(score)));
            }
        }
    }
    candidates
}
