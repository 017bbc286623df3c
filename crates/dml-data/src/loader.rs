//! Batches as tensors, made ahead of the training step by worker threads.
//!
//! A [`Sampler`] plans, workers read, transform and normalize each batch into one buffer, and the buffer becomes the
//! tensor without a copy. Batches arrive in the planned order, and hold the same bits, whatever the number of
//! workers; at most [`LoaderConfig::prefetch`] of them are kept. Dropping the loader stops and joins the workers.

mod decoded;
mod maker;
mod plan;

pub use decoded::Decoded;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use crate::transform::Views;
use crate::{Batches, Error, Result, Sampler, SamplerState, Source};
use maker::{Made, Maker};
use plan::Plan;

/// One batch: b images in v views, v·b rows.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The images, normalized: `[v·b, c, h, w]`, the first views of all images, then the second ones.
    pub images: Tensor,
    /// Their labels, i64: `[v·b]`.
    pub labels: Tensor,
    /// Their indices in the set, v·b.
    pub indices: Vec<usize>,
}

/// How a loader works.
#[derive(Debug, Clone)]
pub struct LoaderConfig {
    /// Threads that make batches. With 0 the caller makes each when it asks for it, and waits for all of it.
    pub workers: usize,
    /// Batches kept ready or in the making; at least one a worker.
    pub prefetch: usize,
    /// The seed of all that is random in transforms.
    pub seed: u64,
    /// The loader ends after so many batches, and makes none beyond; without, it goes on for ever.
    pub batches: Option<u64>,
    /// The type of the images: floating point. f16 and bf16 are rounded from f32 by the caller's thread.
    pub dtype: DType,
    /// The device of the tensors; the caller's thread copies, where it is not the CPU.
    pub device: Device,
}

impl Default for LoaderConfig {
    /// Two workers, four batches ahead: pictures of 224 × 224 in batches of 128 then take 300 MB.
    fn default() -> Self {
        Self { workers: 2, prefetch: 4, seed: 0, batches: None, dtype: DType::F32, device: Device::Cpu }
    }
}

/// An iterator of batches: what a sampler plans, read from a source.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use dml_data::transform::Pipeline;
/// use dml_data::{Batches, Loader, LoaderConfig, Shuffled, Tail, bundled};
/// let digits = Arc::new(bundled::mnist_5k()?);
/// let all: Vec<usize> = (0..digits.len()).collect();
/// let batches = Batches::new(Shuffled::new(&all, 100, Tail::Drop, 42)?);
/// let pipeline = Pipeline::from(digits.as_ref());
/// let config = LoaderConfig { batches: Some(50), ..Default::default() }; // one epoch
/// let mut loader = Loader::new(digits, batches, pipeline, config)?;
/// for batch in &mut loader {
///     assert_eq!(batch?.images.dims(), [100, 1, 28, 28]);
/// }
/// println!("waited {:?} for {} batches", loader.waited(), loader.delivered());
/// # Ok::<(), dml_data::Error>(())
/// ```
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    dtype: DType,
    device: Device,
    /// The batch that comes next.
    state: SamplerState,
    delivered: u64,
    waited: Duration,
}

/// What the workers and the caller share.
struct Shared {
    plan: Mutex<Plan>,
    maker: Maker,
    line: Mutex<Line>,
    /// A batch was delivered, so that another may be begun; or all should stop.
    room: Condvar,
    /// A batch is ready, or there will be no more.
    ready: Condvar,
    stop: AtomicBool,
    prefetch: u64,
}

/// Where the batches wait, by number.
#[derive(Default)]
struct Line {
    begun: u64,
    delivered: u64,
    ready: BTreeMap<u64, Result<Made>>,
    /// The number of batches in all, once the plan has ended.
    end: Option<u64>,
}

impl Loader {
    /// Batches of `source` as `batches` plans them, each image through `views`: a
    /// [`Pipeline`](crate::transform::Pipeline) or several.
    ///
    /// # Errors
    /// [`Error::Argument`] for a `dtype` that is not floating point; [`Error::Thread`] when the system refuses a
    /// thread.
    pub fn new<S: Sampler + 'static>(
        source: Arc<dyn Source>,
        batches: Batches<S>,
        views: impl Into<Views>,
        config: LoaderConfig,
    ) -> Result<Self> {
        let LoaderConfig { workers, prefetch, seed, batches: limit, dtype, device } = config;
        if !dtype.is_float() {
            return Err(Error::Argument {
                op: "Loader::new",
                arg: "dtype",
                got: format!("{dtype:?}"),
                expected: "a floating-point type".to_owned(),
            });
        }
        let views = views.into();
        let state = batches.state();
        let random = views.pipelines().iter().any(|pipeline| pipeline.is_random());
        let shared = Arc::new(Shared {
            plan: Mutex::new(Plan::new(batches, random, limit)),
            maker: Maker { source, views, seed, double: dtype == DType::F64 },
            line: Mutex::default(),
            room: Condvar::new(),
            ready: Condvar::new(),
            stop: AtomicBool::new(false),
            prefetch: prefetch.max(workers).max(1) as u64,
        });
        let (delivered, waited) = (0, Duration::ZERO);
        // From here on a failure drops the loader, which stops the workers that were started.
        let mut loader = Self { shared, workers: Vec::new(), dtype, device, state, delivered, waited };
        for worker in 0..workers {
            let shared = loader.shared.clone();
            let thread = std::thread::Builder::new().name(format!("loader-{worker}"));
            let handle = thread.spawn(move || shared.work()).map_err(|source| Error::Thread { source })?;
            loader.workers.push(handle);
        }
        Ok(loader)
    }

    /// The batch that comes next. Saved after a step, [`Batches::resume`] goes on with the following one, and the
    /// images are augmented as they would have been.
    pub fn state(&self) -> SamplerState {
        self.state
    }

    /// How many batches were delivered.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// How long the caller has waited for batches, altogether: what a faster loader could save at most.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    fn take(&mut self) -> Option<Result<Batch>> {
        let made = if self.workers.is_empty() { self.shared.make_next()?.1 } else { self.shared.wait()? };
        self.delivered += 1;
        Some(made.and_then(|made| {
            self.state = made.after;
            made.into_batch(self.dtype, &self.device)
        }))
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let start = Instant::now();
        let batch = self.take();
        self.waited += start.elapsed();
        batch
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker catches its panics, and there is nobody left to tell
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("source", &self.shared.maker.source)
            .field("workers", &self.workers.len())
            .field("state", &self.state)
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}

/// A lock whose data stays valid when a holder panics: nothing here is left half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        let _line = lock(&self.line); // a worker between its check and its wait would miss the call
        self.stop.store(true, Ordering::Relaxed);
        self.room.notify_all();
    }

    /// A worker's life.
    fn work(&self) {
        while self.begin() {
            let Some((number, made)) = self.make_next() else { break };
            let mut line = lock(&self.line);
            line.ready.insert(number, made);
            drop(line);
            self.ready.notify_all();
        }
    }

    /// Waits until there is room for one more batch; false when all should stop.
    fn begin(&self) -> bool {
        let mut line = lock(&self.line);
        while line.begun - line.delivered >= self.prefetch && !self.stopped() {
            line = self.room.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
        line.begun += 1;
        !self.stopped()
    }

    /// The next batch of the plan, made; `None` when there is none.
    fn make_next(&self) -> Option<(u64, Result<Made>)> {
        let mut plan = lock(&self.plan);
        let planned = catch_unwind(AssertUnwindSafe(|| plan.next()));
        let number = plan.planned();
        let job = match planned {
            Ok(Some(job)) => job,
            Ok(None) => {
                drop(plan);
                lock(&self.line).end = Some(number);
                self.ready.notify_all();
                return None;
            }
            Err(panic) => {
                let number = plan.abandon();
                return Some((number, Err(maker::panicked(0, "not read, the sampler failed", &*panic))));
            }
        };
        drop(plan);
        Some((job.number, self.maker.make(&job, &self.stop)))
    }

    /// The next batch in order; `None` after the last.
    fn wait(&self) -> Option<Result<Made>> {
        let mut line = lock(&self.line);
        loop {
            let number = line.delivered;
            if let Some(made) = line.ready.remove(&number) {
                line.delivered += 1;
                drop(line);
                self.room.notify_all();
                return Some(made);
            }
            if line.end.is_some_and(|end| end <= number) {
                return None;
            }
            line = self.ready.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
