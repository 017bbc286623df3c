//! The quick suite: everything the project claims, at small scale, on the bundled digits.
//!
//! 1. *Metric learning*, closed-set and zero-shot: the same encoder, loss, batches and number of steps under five
//!    distances; the same embeddings scored under D_φ and under the Euclidean distance.
//! 2. *Directed retrieval*: find the digit that 25 ink points were drawn from; fixed and learned divergences, both
//!    argument orders, and the law that the points were drawn by.

use std::sync::Arc;

use dml_data::ImageSet;

use super::metric::{METHODS, PROTOCOLS};
use super::{Job, Outcome, SuiteOptions, mark_complete, metrics_lines, run_jobs};
use crate::{Result, atomic};
use directed::QUERIES;

mod config;
mod directed;
mod directed_report;
mod metric;
mod report;

pub use config::QuickConfig;

/// Runs the suite, or what is left of it, and writes `report.md`, `report.html`, `figures/` and `metrics.jsonl`.
///
/// # Errors
/// [`Error::Interrupted`](crate::Error::Interrupted) when asked to stop, and whatever goes wrong in a run.
pub fn run(config: QuickConfig, options: &SuiteOptions<'_>, command: &str) -> Result<Outcome> {
    let start = std::time::Instant::now();
    let digits = Arc::new(dml_data::bundled::mnist_5k()?);
    let jobs = jobs(config, &digits)?;
    let runs = run_jobs(&jobs, options)?;
    atomic::write(options.folder.join("metrics.jsonl"), metrics_lines(&jobs, &runs)?)?;
    let facts = report::Facts {
        config: &config,
        digits: &digits,
        workers: options.workers,
        elapsed: start.elapsed(),
        command,
    };
    let report = report::build(facts, &runs)?;
    let mut files = report.write(&options.folder)?;
    files.push(options.folder.join("metrics.jsonl"));
    mark_complete(options)?;
    Ok(Outcome { runs, files })
}

fn jobs<'a>(config: QuickConfig, digits: &Arc<ImageSet>) -> Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    // Short ones last, so that no worker is left alone with a long one at the end.
    for method in METHODS.into_iter().rev() {
        for (protocol, _) in PROTOCOLS {
            for seed in 0..config.metric_seeds {
                jobs.push(metric::job(&config, digits.clone(), protocol, method, seed)?);
            }
        }
    }
    for query in QUERIES {
        for learned in query.learned {
            for seed in 0..config.directed_seeds {
                jobs.push(directed::learned_job(&config, digits.clone(), query, learned, seed)?);
            }
        }
        for seed in 0..config.directed_seeds {
            jobs.push(directed::fixed_job(digits.clone(), query, seed)?);
        }
    }
    Ok(jobs)
}
