//! A run waits for its data no more than it must, and says how long it did.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::Device;
use dml::task::{Images, MetricConfig, MetricTask};
use dml::{Elapsed, Method, SmallConvConfig, Task, TrainConfig, Watch, train};
use dml_data::transform::Pipeline;
use dml_data::{ImageSet, Item, Source, bundled};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Digits, and how many of them were read; each read takes its time.
#[derive(Debug)]
struct Counting {
    digits: ImageSet,
    reads: AtomicUsize,
    delay: Duration,
}

impl Source for Counting {
    fn len(&self) -> usize {
        self.digits.len()
    }

    fn labels(&self) -> &[i64] {
        self.digits.labels()
    }

    fn class_names(&self) -> &[String] {
        self.digits.class_names()
    }

    fn item(&self, index: usize) -> dml_data::Result<Item<'_>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        self.digits.item(index)
    }
}

fn task(workers: usize, delay: Duration) -> Outcome<(MetricTask, Arc<Counting>)> {
    let digits = bundled::mnist_5k()?;
    let train: Vec<usize> = (0..digits.len()).collect();
    let pipeline = Pipeline::from(&digits);
    let source = Arc::new(Counting { digits, reads: AtomicUsize::new(0), delay });
    let (training, evaluation) = (pipeline.clone(), pipeline);
    let images = Images { source: source.clone(), training, evaluation, workers };
    let (method, encoder) = (Method::EmpiricalBregman, SmallConvConfig::default());
    let config = MetricConfig { method, encoder, classes: 2, per_class: 2, seed: 5 };
    let task = MetricTask::with_images(images, &train, &config, &Device::Cpu)?;
    source.reads.store(0, Ordering::SeqCst); // the shape was looked at
    Ok((task, source))
}

#[test]
fn the_batch_that_calibrates_is_that_of_step_0_and_read_once() -> Outcome<()> {
    let (task, source) = task(0, Duration::ZERO)?;
    task.calibrate()?;
    let loss = |step| -> Outcome<f32> { Ok(task.loss(step)?.to_scalar::<f32>()?) };
    let first = loss(0)?;
    assert_eq!(source.reads.load(Ordering::SeqCst), 4);
    let second = loss(1)?;
    assert_eq!(source.reads.load(Ordering::SeqCst), 8);
    // Asked for again, and out of turn, a step has the same images.
    assert_eq!((loss(0)?.to_bits(), loss(1)?.to_bits()), (first.to_bits(), second.to_bits()));
    assert_ne!(first, second);
    Ok(())
}

#[test]
fn waiting_is_counted_whoever_makes_the_batches() -> Outcome<()> {
    let delay = Duration::from_millis(2);
    for workers in [0, 1] {
        let (task, _) = task(workers, delay)?;
        let elapsed = Mutex::new(Elapsed::default());
        let on_end = |trained: Elapsed| *elapsed.lock().unwrap() += trained;
        let watch = Watch { on_end: Some(&on_end), ..Default::default() };
        train(&task, &TrainConfig { steps: 3, ..Default::default() }, &watch)?;
        let Elapsed { wall_s, data_wait_s } = elapsed.into_inner().unwrap();
        assert!(data_wait_s < wall_s, "{workers} workers: {data_wait_s} of {wall_s} s");
        if workers == 0 {
            // Steps 1 and 2 read four images each while the clock runs.
            assert!(data_wait_s >= 8.0 * delay.as_secs_f64(), "{data_wait_s} s");
        }
    }
    Ok(())
}
