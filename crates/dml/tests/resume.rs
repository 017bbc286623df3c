//! A run that is stopped and started again ends bit-identical to one that never was; damaged checkpoints are named.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use dml::task::{MetricConfig, MetricTask};
use dml::{Error, Method, SmallConvConfig, Task, TrainConfig, Watch, train};
use dml_data::{ImageSet, Split};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn digits() -> Outcome<(Arc<ImageSet>, Split)> {
    let digits = dml_data::bundled::mnist_5k()?;
    let split = digits.zero_shot(&[0, 1, 2])?;
    Ok((Arc::new(digits.normalized_by(&split.train)?), split))
}

fn task(seed: u64) -> Outcome<MetricTask> {
    let (digits, split) = digits()?;
    let encoder = SmallConvConfig { channels: [4, 4], hidden: 16, dim: 8 };
    let config = MetricConfig { method: Method::EmpiricalBregman, encoder, classes: 3, per_class: 4, seed };
    Ok(MetricTask::new(digits, &split.train, &config, &Device::Cpu)?)
}

const CONFIG: TrainConfig = TrainConfig {
    steps: 12,
    checkpoint_every: 5,
    optimizer: dml::OptimizerConfig {
        encoder_rate: 2e-3,
        generator_rate: 3e-2,
        temperature_rate: 1e-2,
        weight_decay: 1e-4,
        warmup_steps: 3,
        beta1: 0.9,
        beta2: 0.99,
        rule: dml::UpdateRule::AdamW,
        clipping: dml::Clipping::None,
    },
};

fn bits(losses: &[f64]) -> Vec<u64> {
    losses.iter().map(|loss| loss.to_bits()).collect()
}

fn parameters(task: &MetricTask) -> Outcome<Vec<Vec<f32>>> {
    let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    Ok(task.parameters().iter().map(|p| flat(&p.var)).collect::<Result<_, _>>()?)
}

#[test]
fn equal_runs_are_equal_to_the_bit_and_other_seeds_are_not() -> Outcome<()> {
    let (a, b, other) = (task(1)?, task(1)?, task(2)?);
    let losses = train(&a, &CONFIG, &Watch::default())?;
    assert_eq!(bits(&losses), bits(&train(&b, &CONFIG, &Watch::default())?));
    assert_eq!(parameters(&a)?, parameters(&b)?);
    assert_ne!(bits(&losses), bits(&train(&other, &CONFIG, &Watch::default())?));
    Ok(())
}

#[test]
fn a_stopped_run_goes_on_as_if_it_never_was() -> Outcome<()> {
    let whole = task(1)?;
    let losses = train(&whole, &CONFIG, &Watch::default())?;
    // Stopped by request in mid-epoch, and killed (no last checkpoint) one step after a regular one.
    for (stop_at, killed) in [(7, false), (6, true)] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("checkpoint.safetensors");
        let stop = AtomicBool::new(false);
        let on_step = |step: usize, _: f64| stop.store(step == stop_at, Ordering::Relaxed);
        let watch = |stop| Watch {
            checkpoint: Some(path.clone()),
            fingerprint: "same".to_owned(),
            stop,
            on_step: Some(&on_step),
            ..Default::default()
        };
        let mut config = CONFIG;
        if killed {
            config.checkpoint_every = 5;
        }
        let error = train(&task(1)?, &config, &watch(Some(&stop))).unwrap_err();
        assert!(matches!(error, Error::Interrupted));
        let resumed = task(1)?;
        assert_eq!(bits(&train(&resumed, &CONFIG, &watch(None))?), bits(&losses));
        assert_eq!(parameters(&resumed)?, parameters(&whole)?);
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_another_configuration_is_not_used() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint.safetensors");
    let watch = |fingerprint: &str| Watch {
        checkpoint: Some(path.clone()),
        fingerprint: fingerprint.to_owned(),
        ..Default::default()
    };
    let losses = train(&task(1)?, &CONFIG, &watch("one"))?;
    assert!(path.exists(), "the checkpoint after step 10 stays until the run is recorded");
    assert_eq!(bits(&train(&task(1)?, &CONFIG, &watch("two"))?), bits(&losses));
    Ok(())
}

#[test]
fn damaged_checkpoints_are_named() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint.safetensors");
    let watch =
        || Watch { checkpoint: Some(path.clone()), fingerprint: "same".to_owned(), ..Default::default() };
    train(&task(1)?, &CONFIG, &watch())?;
    let whole = std::fs::read(&path)?;
    for cut in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut])?;
        let message = train(&task(1)?, &CONFIG, &watch()).unwrap_err().to_string();
        assert!(message.contains("checkpoint.safetensors: damaged checkpoint ("), "{message}");
        assert!(message.ends_with("delete it to begin anew"), "{message}");
    }
    // Another model under the same fingerprint.
    std::fs::write(&path, &whole)?;
    let (digits, split) = digits()?;
    let encoder = SmallConvConfig { channels: [4, 5], hidden: 16, dim: 8 };
    let config =
        MetricConfig { method: Method::EmpiricalBregman, encoder, classes: 3, per_class: 4, seed: 1 };
    let other = MetricTask::new(digits, &split.train, &config, &Device::Cpu)?;
    let message = train(&other, &CONFIG, &watch()).unwrap_err().to_string();
    assert!(
        message.contains("tensor `encoder.conv2.weight` is F32 [4, 4, 3, 3], expected F32 [5, 4, 3, 3]"),
        "{message}"
    );
    Ok(())
}

#[test]
fn diverging_runs_say_so() -> Outcome<()> {
    let mut config = CONFIG;
    config.optimizer.encoder_rate = 1e30;
    let error = train(&task(1)?, &config, &Watch::default()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("NaN") || message.contains("loss is") || message.contains("outside"),
        "{message}"
    );
    Ok(())
}
