//! Directed retrieval on the bundled digits: learn the divergence under which 25 ink points find their digit.
//!
//! `cargo run -p dml --example directed -- separable 6e-2 300 2` trains a separable φ at peak rate 6e-2 for 300 steps
//! from two seeds and prints the mean reciprocal rank for both argument orders.

use std::sync::Arc;

use candle_core::Device;
use dml::task::{DirectedConfig, DirectedTask, Embedding, Hidden, Histograms, Pairs, Sample};
use dml::{Method, OptimizerConfig, TrainConfig, Watch, train};
use dml_data::TrainSize;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    dml_kernels::settle_threads();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize, default: &str| arguments.get(i).cloned().unwrap_or_else(|| default.to_owned());
    let method = match argument(0, "separable").as_str() {
        "euclidean" => Method::Euclidean,
        "mahalanobis" => Method::DeepMahalanobis,
        "icnn" => Method::Icnn,
        "empirical-bregman" => Method::EmpiricalBregman,
        _ => Method::Separable,
    };
    let (rate, steps): (f64, usize) = (argument(1, "6e-2").parse()?, argument(2, "300").parse()?);
    let seeds: u64 = argument(3, "2").parse()?;

    let sample = Sample { points: 25, hidden: Hidden::Nothing };
    let digits = dml_data::bundled::mnist_5k()?;
    for query_first in [true, false] {
        for seed in 0..seeds {
            let split = digits.closed_set(TrainSize::PerClass(350), seed)?;
            let items = Arc::new(Histograms::of_ink(&digits, &split.train)?);
            let test = Pairs::draw(&Histograms::of_ink(&digits, &split.test)?, sample, seed, &Device::Cpu)?;
            let problem = DirectedConfig {
                method,
                query_first,
                embedding: Embedding::Nothing,
                sample,
                batch: 200,
                seed,
            };
            let task = DirectedTask::new(items, problem, &Device::Cpu)?;
            let optimizer = OptimizerConfig { generator_rate: rate, ..Default::default() };
            let config = TrainConfig { steps, optimizer, ..Default::default() };
            let start = std::time::Instant::now();
            let losses = train(&task, &config, &Watch::default())?;
            let seconds = start.elapsed().as_secs_f64();
            let mrr = test.mean_reciprocal_rank(task.generator().as_ref(), problem.side())?;
            let order = if query_first { "D(query ‖ item)" } else { "D(item ‖ query)" };
            let last = losses.last().copied().unwrap_or(f64::NAN);
            println!("{order} seed {seed}: MRR {mrr:.3}, last loss {last:.3}, {seconds:.1} s");
        }
    }
    Ok(())
}
