//! `cargo xtask reproduce`: runs a suite and says where its report is.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use dml::suite::{SuiteOptions, quick};

use crate::flags::{Reproduce, Suite};

static STOP: AtomicBool = AtomicBool::new(false);

pub fn run(flags: &Reproduce) -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130); // the second time: at once; files are whole or absent all the same
        }
        eprintln!("stopping: saving checkpoints (once more to stop at once)");
    })
    .context("cannot listen for Ctrl-C")?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let Suite::Quick = flags.suite;
    let folder = flags.out.clone().unwrap_or_else(|| {
        // A check must not replace a measurement.
        PathBuf::from(if flags.smoke { "runs/quick-smoke" } else { "runs/quick" })
    });
    let options = SuiteOptions { folder, workers: flags.jobs.unwrap_or(cores).max(1), stop: &STOP };
    let config = if flags.smoke { quick::QuickConfig::smoke() } else { quick::QuickConfig::default() };
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let outcome = quick::run(config, &options, &format!("cargo xtask {command}"))?;
    let mut out = std::io::stdout().lock();
    for file in &outcome.files {
        writeln!(out, "{}", file.display())?;
    }
    Ok(())
}
