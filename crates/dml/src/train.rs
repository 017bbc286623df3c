//! The training loop: a task, an optimizer, checkpoints.
//!
//! A step is a function of the task and its number, so a run that was killed goes on from its last checkpoint and
//! ends bit-identical to one never killed.

use std::ops::AddAssign;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use crate::checkpoint::Checkpoint;
use crate::{Error, Optimizer, OptimizerConfig, Parameter, Result};

/// A learning problem: what one training step minimizes.
pub trait Task {
    /// The loss of step `step`, a scalar with its graph. The same step with the same parameters gives the same bits.
    ///
    /// # Errors
    /// What model, loss and data return.
    fn loss(&self, step: usize) -> Result<Tensor>;

    /// Everything to learn, in a fixed order.
    fn parameters(&self) -> Vec<Parameter>;

    /// Sets what is best begun where the first batch lies; called once, before step 0.
    ///
    /// # Errors
    /// What model, loss and data return.
    fn calibrate(&self) -> Result<()> {
        Ok(())
    }

    /// How long its steps have waited for data until now, altogether.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }
}

/// How long the steps of a run took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Elapsed {
    /// All of it, seconds.
    pub wall_s: f64,
    /// Of that, waiting for data, seconds.
    pub data_wait_s: f64,
}

impl Elapsed {
    /// The share of the time that was waiting for data, 0 to 1.
    pub fn waiting(&self) -> f64 {
        if self.wall_s > 0.0 { self.data_wait_s / self.wall_s } else { 0.0 }
    }
}

impl AddAssign for Elapsed {
    fn add_assign(&mut self, other: Self) {
        self.wall_s += other.wall_s;
        self.data_wait_s += other.data_wait_s;
    }
}

/// The length of a run and its optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The number of steps.
    pub steps: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self { steps: 300, checkpoint_every: 100, optimizer: OptimizerConfig::default() }
    }
}

/// What watches a run: where it keeps its checkpoint, what stops it, who hears of each step.
#[derive(Default)]
pub struct Watch<'a> {
    /// The checkpoint file; none is kept without.
    pub checkpoint: Option<PathBuf>,
    /// Ties the checkpoint to a configuration: another one is not resumed from.
    pub fingerprint: String,
    /// Set it, and the run saves a checkpoint and ends with [`Error::Interrupted`].
    pub stop: Option<&'a AtomicBool>,
    /// Called after each step with the number of steps done and the loss.
    pub on_step: Option<&'a (dyn Fn(usize, f64) + Sync)>,
    /// Called once all steps are done with the time of those that this call made.
    pub on_end: Option<&'a (dyn Fn(Elapsed) + Sync)>,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("checkpoint", &self.checkpoint).finish_non_exhaustive()
    }
}

/// Trains, from the watch's checkpoint where there is one; returns the loss of every step.
///
/// # Errors
/// [`Error::Diverged`] when the loss is no longer finite, [`Error::Interrupted`] when asked to stop,
/// [`Error::File`] for a checkpoint that is damaged, and what task and optimizer return.
pub fn train(task: &dyn Task, config: &TrainConfig, watch: &Watch<'_>) -> Result<Vec<f64>> {
    let optimizer = Optimizer::new(task.parameters(), config.optimizer, config.steps)?;
    let mut losses = Vec::new(); // not of `config.steps`, which may be any number
    let checkpoint =
        watch.checkpoint.as_deref().map(|path| Checkpoint { path, fingerprint: &watch.fingerprint });
    if let Some(checkpoint) = &checkpoint {
        losses = checkpoint.load(&optimizer.state())?.unwrap_or_default();
    }
    if losses.is_empty() {
        task.calibrate()?;
    } else {
        info!(step = losses.len(), "resumed");
    }
    let (start, waited) = (Instant::now(), task.waited());
    for step in losses.len()..config.steps {
        if watch.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            if let Some(checkpoint) = checkpoint.as_ref().filter(|_| step > 0) {
                checkpoint.save(&optimizer.state(), &losses)?;
            }
            return Err(Error::Interrupted);
        }
        let loss = task.loss(step)?;
        let value = loss.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        if !value.is_finite() {
            return Err(Error::Diverged { step, loss: value });
        }
        optimizer.step(step, &loss.backward()?)?;
        losses.push(value);
        debug!(step, loss = value, "step");
        if let Some(on_step) = watch.on_step {
            on_step(step + 1, value);
        }
        let due = config.checkpoint_every > 0 && (step + 1) % config.checkpoint_every == 0;
        if let Some(checkpoint) = checkpoint.as_ref().filter(|_| due && step + 1 < config.steps) {
            checkpoint.save(&optimizer.state(), &losses)?;
        }
    }
    let elapsed = Elapsed {
        wall_s: start.elapsed().as_secs_f64(),
        data_wait_s: task.waited().saturating_sub(waited).as_secs_f64(),
    };
    let Elapsed { wall_s, data_wait_s } = elapsed;
    info!(steps = config.steps, wall_s, data_wait_s, waiting_percent = 100.0 * elapsed.waiting(), "trained");
    if let Some(on_end) = watch.on_end {
        on_end(elapsed);
    }
    Ok(losses)
}
