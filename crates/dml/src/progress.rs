//! Progress of a suite on stderr: bars on a terminal, a line for each finished run elsewhere.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::Elapsed;

/// The bars of a suite: one over all steps, one for each run under way.
#[derive(Debug)]
pub(crate) struct Progress {
    bars: MultiProgress,
    total: ProgressBar,
    finished: AtomicUsize,
    runs: usize,
    terminal: bool,
}

/// The bar of one run.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    progress: &'a Progress,
    id: String,
    bar: ProgressBar,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress {
    /// Bars for `runs` runs of `steps` steps altogether.
    pub fn new(runs: usize, steps: usize) -> Self {
        let bars = MultiProgress::new();
        let total = bars.add(ProgressBar::new(steps as u64));
        total.set_style(style("{elapsed_precise} [{wide_bar}] {msg}  {percent:>3} %  ~{eta} left"));
        total.set_message(format!("0/{runs} runs"));
        total.enable_steady_tick(Duration::from_millis(200));
        let terminal = std::io::stderr().is_terminal();
        Self { bars, total, finished: AtomicUsize::new(0), runs, terminal }
    }

    /// A bar for a run that starts.
    pub fn start(&self, id: &str, steps: usize) -> Line<'_> {
        let bar = self.bars.insert_before(&self.total, ProgressBar::new(steps as u64));
        bar.set_style(style("  {prefix:<44} {bar:20} step {pos}/{len}  {msg}"));
        bar.set_prefix(id.to_owned());
        Line { progress: self, id: id.to_owned(), bar }
    }

    /// A run whose results were there.
    pub fn skip(&self, id: &str, steps: usize) {
        self.total.inc(steps as u64);
        self.finish_run(id, "done before");
    }

    /// Clears the bars.
    pub fn finish(&self) {
        self.total.finish_and_clear();
    }

    fn finish_run(&self, id: &str, message: &str) {
        let done = self.finished.fetch_add(1, Ordering::Relaxed) + 1;
        let runs = self.runs;
        self.total.set_message(format!("{done}/{runs} runs"));
        let line = format!("[{done:>3}/{runs}] {id:<44} {message}");
        if self.terminal {
            let _ = self.bars.println(line);
        } else {
            eprintln!("{line}");
        }
    }
}

impl Line<'_> {
    /// `step` steps are done, the last with this loss.
    pub fn step(&self, step: usize, loss: f64) {
        let before = self.bar.position();
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("loss {loss:.3}"));
        self.progress.total.inc((step as u64).saturating_sub(before));
    }

    /// The run is over; it trained for so long, in part waiting for data.
    pub fn done(self, message: &str, wall_s: f64, trained: &Elapsed) {
        self.bar.finish_and_clear();
        // A task that draws its data in the step itself has no loader to wait for.
        let waiting = if trained.data_wait_s > 0.0 {
            format!(", {:.1} % of training waited for data", 100.0 * trained.waiting())
        } else {
            String::new()
        };
        self.progress.finish_run(&self.id, &format!("{message}  ({wall_s:.1} s{waiting})"));
    }
}
