//! What the reports of suites share: runs by group and seed, and results as cells of tables.

use std::time::Duration;

use dml_retrieval::{Interval, mean_interval};

use super::Finished;
use crate::report::{Cell, Column, Estimate};
use crate::{Elapsed, Result};

/// The level of all intervals.
pub(super) const LEVEL: f64 = 0.95;

/// The runs, found by the folder of a group of seeds.
pub(super) struct Runs<'a>(pub(super) &'a [Finished]);

impl Runs<'_> {
    /// The runs of a group, in the order of their seeds.
    pub(super) fn group(&self, group: &str) -> impl Iterator<Item = &Finished> {
        let prefix = format!("{group}/seed-");
        self.0.iter().filter(move |run| run.id.starts_with(&prefix))
    }

    /// A result for each seed.
    pub(super) fn values(&self, group: &str, name: &str) -> Result<Vec<f64>> {
        self.group(group).map(|run| run.record.value(name)).collect()
    }

    /// Seconds of the runs whose names begin so, and the time of their training steps.
    pub(super) fn time(&self, prefix: &str) -> (f64, Elapsed) {
        let mut time = (0.0, Elapsed::default());
        for run in self.0.iter().filter(|run| run.id.starts_with(prefix)) {
            time.0 += run.wall_s;
            time.1 += run.trained;
        }
        time
    }

    /// `162 runs in 1,200 s`; of a suite that went on after an interruption, which of them took that long.
    pub(super) fn took(&self, elapsed: Duration) -> String {
        let (n, elapsed) = (self.0.len(), elapsed.as_secs_f64());
        match self.0.iter().filter(|run| run.before).count() {
            0 => format!("{n} runs in {elapsed:.0} s"),
            before => {
                format!("{n} runs, {before} of them before an interruption and the others in {elapsed:.0} s")
            }
        }
    }

    pub(super) fn mean(&self, group: &str, name: &str) -> Result<Interval> {
        Ok(mean_interval(&self.values(group, name)?, LEVEL)?)
    }
}

pub(super) fn estimate(interval: Interval) -> Estimate {
    Estimate { mean: interval.mean, half_width: interval.half_width.unwrap_or(f64::NAN) }
}

pub(super) fn cell(interval: Interval) -> Cell {
    match interval.half_width {
        Some(half_width) => Cell::estimate(interval.mean, half_width),
        None => Cell::number(interval.mean),
    }
}

pub(super) fn numbers(names: &[&str]) -> Vec<Column> {
    names.iter().map(|name| Column { name: (*name).to_owned(), decimals: Some(3) }).collect()
}

/// How a paired difference reads.
pub(super) fn verdict(difference: Interval) -> &'static str {
    match (difference.excludes_zero(), difference.mean > 0.0) {
        (true, true) => "better",
        (true, false) => "worse",
        (false, _) => "no difference shown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Record;

    #[test]
    fn runs_of_an_earlier_start_are_not_counted_into_this_ones_time() {
        let run = |before, wall_s, data_wait_s| Finished {
            id: format!("closed-set/euclidean/seed-{before}"),
            record: Record::default(),
            wall_s,
            trained: Elapsed { wall_s: wall_s / 2.0, data_wait_s },
            before,
        };
        let mut finished = [run(false, 8.0, 0.5), run(false, 2.0, 0.5)];
        let elapsed = Duration::from_millis(5_400);
        assert_eq!(Runs(&finished).took(elapsed), "2 runs in 5 s");
        finished[0].before = true;
        let runs = Runs(&finished);
        assert_eq!(runs.took(elapsed), "2 runs, 1 of them before an interruption and the others in 5 s");
        // Waiting is a share of the steps, not of the runs.
        let (wall_s, trained) = runs.time("closed-set/");
        assert_eq!((wall_s, trained.wall_s, trained.waiting()), (10.0, 5.0, 0.2));
        assert_eq!(runs.time("zero-shot/").1.waiting(), 0.0);
    }
}
