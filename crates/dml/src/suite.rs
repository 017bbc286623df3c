//! Suites: many runs, shared among the processor's cores, each recorded when it is done.
//!
//! A run works on one thread of its own, so its result does not depend on which runs stand beside it, and a suite
//! uses every core. A suite that was interrupted, even killed, goes on when it is started again: finished runs are
//! read back, the others go on from their checkpoints.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tracing::{info, info_span};

use crate::progress::Progress;
use crate::{Elapsed, Error, Result, Watch, atomic};

mod metric;
pub mod paper;
mod pca;
pub mod quick;
mod tables;

/// What a finished run leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The loss of every step.
    pub losses: Vec<f64>,
    /// Its results by name.
    pub values: BTreeMap<String, f64>,
    /// Data for plots by name.
    pub arrays: BTreeMap<String, Vec<f64>>,
}

impl Record {
    /// A result.
    ///
    /// # Errors
    /// [`Error::Config`] when the run has no result of that name.
    pub fn value(&self, name: &str) -> Result<f64> {
        self.values.get(name).copied().ok_or_else(|| Error::Config {
            what: "record",
            field: "values",
            got: format!("without `{name}`"),
            expected: "a result of that name",
        })
    }
}

/// Everything that happened in a suite.
#[derive(Debug)]
pub struct Outcome {
    /// The runs in order.
    pub runs: Vec<Finished>,
    /// The files written.
    pub files: Vec<std::path::PathBuf>,
}

type Work<'a> = Box<dyn Fn(&Watch<'_>) -> Result<Record> + Send + Sync + 'a>;

/// One run of a suite.
pub struct Job<'a> {
    /// Its name and folder, e.g. `closed-set/euclidean/seed-0`.
    pub id: String,
    /// Its whole configuration as TOML, written beside its results.
    pub config: String,
    /// Its training steps, for progress.
    pub steps: usize,
    /// The work.
    pub work: Work<'a>,
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("id", &self.id).field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// Where and how a suite runs.
#[derive(Debug)]
pub struct SuiteOptions<'a> {
    /// The folder for runs and report.
    pub folder: PathBuf,
    /// Runs at a time.
    pub workers: usize,
    /// Set it, and the suite saves checkpoints and ends with [`Error::Interrupted`].
    pub stop: &'a AtomicBool,
}

/// A finished run as it is stored: results tied to configuration and program, and how long it took.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    fingerprint: String,
    wall_s: f64,
    train_s: f64,
    data_wait_s: f64,
    record: Record,
}

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The run's name.
    pub id: String,
    /// Its results.
    pub record: Record,
    /// Seconds it took, in the start that finished it.
    pub wall_s: f64,
    /// The time of its training steps, which is part of that.
    pub trained: Elapsed,
    /// Whether an earlier start of the suite finished it.
    pub before: bool,
}

/// The marker of a suite whose report was written: the next start begins anew.
const COMPLETE: &str = "complete";

/// Runs all jobs, or what is left of them; results in the order of the jobs.
///
/// # Errors
/// [`Error::Interrupted`] when asked to stop; else the first error of a job, after the others' current runs ended.
pub fn run_jobs(jobs: &[Job<'_>], options: &SuiteOptions<'_>) -> Result<Vec<Finished>> {
    begin(jobs.iter().map(|job| job.id.as_str()), options)?;
    go_on(jobs, options)
}

/// Makes the folder; where the last start ended with a report, forgets the runs of these names.
fn begin<'a>(ids: impl Iterator<Item = &'a str>, options: &SuiteOptions<'_>) -> Result<()> {
    std::fs::create_dir_all(&options.folder)
        .map_err(|e| file_error(&options.folder, "cannot be made", &e))?;
    let complete = options.folder.join(COMPLETE);
    if complete.is_dir() {
        let why =
            "is a folder where the marker of a finished suite belongs; remove it or choose another folder";
        return Err(Error::File { path: complete, why: why.to_owned() });
    }
    if complete.exists() {
        // The last start ended with a report, so this one is a new measurement.
        for id in ids {
            discard(&options.folder.join(id).join("record.toml"))?;
            discard(&options.folder.join(id).join("checkpoint.safetensors"))?;
        }
        discard(&complete)?;
    }
    Ok(())
}

/// Runs the jobs that are not recorded yet, after [`begin`].
fn go_on(jobs: &[Job<'_>], options: &SuiteOptions<'_>) -> Result<Vec<Finished>> {
    let program = program_digest();
    let total: usize = jobs.iter().map(|job| job.steps).sum();
    let progress = Progress::new(jobs.len(), total);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Vec<Mutex<Option<Result<Finished>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..options.workers.clamp(1, jobs.len().max(1)) {
            scope.spawn(|| {
                while let Some((job, slot)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(i).zip(results.get(i))
                } {
                    if failed.load(Ordering::Relaxed) || options.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let result = on_one_thread(|| run_job(job, &program, options, &progress));
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    if let Ok(mut slot) = slot.lock() {
                        *slot = Some(result);
                    }
                }
            });
        }
    });
    progress.finish();
    let mut finished = Vec::with_capacity(jobs.len());
    let mut interrupted = false;
    for slot in results {
        match slot.into_inner().unwrap_or(None) {
            Some(Ok(run)) => finished.push(run),
            Some(Err(Error::Interrupted)) | None => interrupted = true,
            Some(Err(error)) => return Err(error),
        }
    }
    if interrupted { Err(Error::Interrupted) } else { Ok(finished) }
}

/// Marks the suite as reported.
///
/// # Errors
/// [`Error::Write`] names the file.
pub fn mark_complete(options: &SuiteOptions<'_>) -> Result<()> {
    Ok(atomic::write(options.folder.join(COMPLETE), "")?)
}

fn discard(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file_error(path, "cannot be removed", &e)),
        _ => Ok(()),
    }
}

fn file_error(path: &Path, what: &str, error: &std::io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        why: format!("{what}: {error}; remove it, or check that this user may write there"),
    }
}

/// Calls `f` where every kernel sees one thread.
fn on_one_thread<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(f),
        Err(_) => f(),
    }
}

fn run_job(
    job: &Job<'_>,
    program: &str,
    options: &SuiteOptions<'_>,
    progress: &Progress,
) -> Result<Finished> {
    let _span = info_span!("run", id = job.id).entered();
    let folder = options.folder.join(&job.id);
    let mut hasher = DefaultHasher::new();
    (program, &job.id, &job.config).hash(&mut hasher);
    let fingerprint = format!("{:016x}", hasher.finish());
    let path = folder.join("record.toml");
    if let Some(Stored { wall_s, train_s, data_wait_s, record, .. }) = read_record(&path, &fingerprint)? {
        progress.skip(&job.id, job.steps);
        let trained = Elapsed { wall_s: train_s, data_wait_s };
        return Ok(Finished { id: job.id.clone(), record, wall_s, trained, before: true });
    }
    atomic::write(folder.join("config.toml"), &job.config)?;
    let line = progress.start(&job.id, job.steps);
    let checkpoint = folder.join("checkpoint.safetensors");
    let start = Instant::now();
    let trained = Mutex::new(Elapsed::default());
    let watch = Watch {
        checkpoint: Some(checkpoint.clone()),
        fingerprint: fingerprint.clone(),
        stop: Some(options.stop),
        on_step: Some(&|step, loss| line.step(step, loss)),
        on_end: Some(&|elapsed| *trained.lock().unwrap_or_else(PoisonError::into_inner) += elapsed),
    };
    let record = (job.work)(&watch)?;
    let wall_s = start.elapsed().as_secs_f64();
    let trained = trained.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Elapsed { wall_s: train_s, data_wait_s } = trained;
    info!(wall_s, train_s, data_wait_s, "finished");
    let stored = Stored { fingerprint, wall_s, train_s, data_wait_s, record };
    atomic::write(&path, to_toml(&stored)?)?;
    discard(&checkpoint)?;
    line.done(&summary(&stored.record), wall_s, &trained);
    Ok(Finished { id: job.id.clone(), record: stored.record, wall_s, trained, before: false })
}

fn summary(record: &Record) -> String {
    record
        .values
        .iter()
        .take(2)
        .map(|(name, value)| format!("{name} {value:.3}"))
        .collect::<Vec<_>>()
        .join("  ")
}

/// TOML, whose numbers come back to the bit (serde_json reads some of them one rounding off).
fn to_toml(value: &impl Serialize) -> Result<String> {
    toml::to_string(value).map_err(|e| Error::Config {
        what: "record",
        field: "toml",
        got: e.to_string(),
        expected: "values that can be written as TOML",
    })
}

/// A finished run of the same configuration and program; `None` where there is none.
fn read_record(path: &Path, fingerprint: &str) -> Result<Option<Stored>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file_error(path, "cannot be read", &e)),
    };
    let stored: Stored = toml::from_str(&text).map_err(|e| Error::File {
        path: path.to_owned(),
        why: format!("damaged record ({e}); delete it to repeat the run"),
    })?;
    Ok(Some(stored).filter(|stored| stored.fingerprint == fingerprint))
}

/// A digest of the running program, so that results of another build are never taken for this one's.
fn program_digest() -> String {
    let mut hasher = DefaultHasher::new();
    match std::env::current_exe().and_then(std::fs::read) {
        Ok(bytes) => bytes.hash(&mut hasher),
        Err(_) => env!("CARGO_PKG_VERSION").hash(&mut hasher),
    }
    format!("{:016x}", hasher.finish())
}

/// All runs as JSON lines: for each a `run` line with its configuration, a `step` line for each tenth loss, and a
/// `result` line. No times, so that equal runs give equal bytes.
///
/// # Errors
/// When a value cannot be written as JSON.
pub fn metrics_lines(jobs: &[Job<'_>], finished: &[Finished]) -> Result<String> {
    let mut out = String::new();
    let mut push = |value: serde_json::Value| {
        out.push_str(&value.to_string());
        out.push('\n');
    };
    for (job, run) in jobs.iter().zip(finished) {
        push(serde_json::json!({ "kind": "run", "run": run.id, "config": job.config }));
        for (step, loss) in run.record.losses.iter().enumerate().filter(|(step, _)| step % 10 == 0) {
            push(serde_json::json!({ "kind": "step", "run": run.id, "step": step, "loss": loss }));
        }
        push(serde_json::json!({ "kind": "result", "run": run.id, "values": run.record.values }));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    #[test]
    fn records_come_back_to_the_bit() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.toml");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let losses: Vec<f64> = (0..2000).map(|_| f64::from_bits(rng.random::<u64>())).collect();
        let losses: Vec<f64> = losses.into_iter().filter(|v| v.is_finite()).collect();
        let values = [("a.b".to_owned(), 0.946_666_666_666_666_7), ("c".to_owned(), f64::INFINITY)].into();
        let record = Record { losses, values, arrays: [("x".to_owned(), vec![0.1, -0.0])].into() };
        let stored =
            Stored { fingerprint: "same".to_owned(), wall_s: 1.5, train_s: 1.0, data_wait_s: 0.1, record };
        atomic::write(&path, to_toml(&stored)?)?;
        let back = read_record(&path, "same")?.unwrap().record;
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back.losses), bits(&stored.record.losses));
        assert_eq!(back.values, stored.record.values);
        assert_eq!(bits(&back.arrays["x"]), bits(&stored.record.arrays["x"]));
        assert!(read_record(&path, "other")?.is_none());
        std::fs::write(&path, "fingerprint = 3").unwrap();
        let message = read_record(&path, "same").unwrap_err().to_string();
        assert!(
            message.contains("record.toml: damaged record (") && message.contains("delete it"),
            "{message}"
        );
        Ok(())
    }
}
