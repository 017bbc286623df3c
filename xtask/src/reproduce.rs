//! `cargo xtask reproduce`: runs a suite and says where its report is.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use dml::suite::paper::{self, PaperConfig, Places};
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
    let name = match flags.suite {
        Suite::Quick => "quick",
        Suite::Paper => "paper",
    };
    // A check must not replace a measurement.
    let usual = PathBuf::from(format!("runs/{name}{}", if flags.smoke { "-smoke" } else { "" }));
    let folder = flags.out.clone().unwrap_or(usual);
    let options = SuiteOptions { folder, workers: flags.jobs.unwrap_or(cores).max(1), stop: &STOP };
    let command = format!("cargo xtask {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    let outcome = match flags.suite {
        Suite::Quick => {
            let only_paper = flags.datasets.is_empty() && flags.mirror.is_none();
            anyhow::ensure!(
                only_paper,
                "--datasets and --mirror belong to --suite paper; the quick suite has its data"
            );
            let config =
                if flags.smoke { quick::QuickConfig::smoke() } else { quick::QuickConfig::default() };
            quick::run(config, &options, &command)?
        }
        Suite::Paper => {
            let mut config = if flags.smoke { PaperConfig::smoke() } else { PaperConfig::default() };
            if !flags.datasets.is_empty() {
                config.datasets.clone_from(&flags.datasets);
            }
            let dir = dml_data::data_dir();
            let manifest = dml_data::Manifest::builtin()?;
            let places = Places { dir: &dir, mirror: flags.mirror.as_deref(), manifest: &manifest };
            paper::run(&config, places, &options, &command)?
        }
    };
    let mut out = std::io::stdout().lock();
    for file in &outcome.files {
        writeln!(out, "{}", file.display())?;
    }
    Ok(())
}
