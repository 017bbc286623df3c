//! The whole story on one page: digits in, a learned divergence out.
//!
//! Trains a small convolutional encoder together with a convex φ on digits 0–4 and looks for digits 5–9, which
//! neither has ever seen: `cargo run -p dml --example quickstart -- empirical-bregman 150`.

use std::sync::Arc;

use candle_core::Device;
use dml::task::{MetricConfig, MetricTask, evaluate, evaluate_euclidean};
use dml::{Method, SmallConvConfig, TrainConfig, Watch, train};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    dml_kernels::settle_threads();
    let mut arguments = std::env::args().skip(1);
    let method = match arguments.next().as_deref() {
        Some("euclidean") => Method::Euclidean,
        Some("mahalanobis") => Method::DeepMahalanobis,
        Some("max-affine") => Method::MaxAffine,
        Some("deep-divergence") => Method::DeepDivergence,
        Some("icnn") => Method::Icnn,
        Some("separable") => Method::Separable,
        _ => Method::EmpiricalBregman,
    };
    let steps = arguments.next().map_or(Ok(150), |s| s.parse())?;
    let seed = arguments.next().map_or(Ok(0), |s| s.parse())?;

    let digits = dml_data::bundled::mnist_5k()?;
    let split = digits.zero_shot(&[0, 1, 2, 3, 4])?;
    let digits = Arc::new(digits.normalized_by(&split.train)?);

    let problem =
        MetricConfig { method, encoder: SmallConvConfig::default(), classes: 5, per_class: 20, seed };
    let task = MetricTask::new(digits.clone(), &split.train, &problem, &Device::Cpu)?;
    let start = std::time::Instant::now();
    let losses = train(&task, &TrainConfig { steps, ..Default::default() }, &Watch::default())?;
    println!("{}: {steps} steps in {:.1} s", method.label(), start.elapsed().as_secs_f64());
    println!("loss {:.3} → {:.3}", losses.first().unwrap_or(&0.0), losses.last().unwrap_or(&0.0));

    let start = std::time::Instant::now();
    let embeddings = task.embed(&split.test)?; // [2500, 32]
    println!("{} images embedded in {:.2} s", split.test.len(), start.elapsed().as_secs_f64());
    let labels: Vec<i64> = split.test.iter().map(|&i| digits.labels()[i]).collect();
    let start = std::time::Instant::now();
    let own = evaluate(task.generator().as_ref(), &embeddings, &labels)?;
    println!("ranked in {:.2} s", start.elapsed().as_secs_f64());
    println!("under D_φ:       MAP@R {:.3}, P@1 {:.3}", own.map_at_r, own.precision_at_1);
    let euclidean = evaluate_euclidean(&embeddings, &labels)?;
    println!("under ‖x − y‖²:  MAP@R {:.3}, P@1 {:.3}", euclidean.map_at_r, euclidean.precision_at_1);
    Ok(())
}
