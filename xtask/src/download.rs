//! `cargo xtask download`: fetches datasets and verifies them.
//!
//! What comes from the Hugging Face hub needs a feature that takes minutes to build, so the default build leaves it
//! out, and this command starts itself again with it where it is needed.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use dml_data::download::{self, How, Options, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use crate::flags::Download;

pub fn run(flags: &Download) -> anyhow::Result<()> {
    if flags.list {
        for dataset in download::list()? {
            println!("{:<16} {}", dataset.name, dataset.license);
        }
        return Ok(());
    }
    let names = match flags.all {
        true => download::list()?.into_iter().map(|dataset| dataset.name).collect(),
        false => flags.names.clone(),
    };
    if !cfg!(feature = "hub") && flags.mirror.is_none() && !flags.verify {
        return with_hub();
    }
    let dir = flags
        .dir
        .clone()
        .or_else(|| std::env::var_os(dml_data::bundled::DATA_DIR_VARIABLE).map(PathBuf::from));
    let dir = dir.unwrap_or_else(|| PathBuf::from("data"));
    let mut failed = 0;
    for name in &names {
        let bar = RefCell::new((String::new(), ProgressBar::hidden()));
        let progress = |progress: Progress<'_>| show(&bar, progress);
        let options = Options {
            mirror: flags.mirror.as_deref(),
            dir: &dir,
            verify_only: flags.verify,
            progress: &progress,
        };
        let fetched = download::fetch(name, &options);
        bar.borrow().1.finish_and_clear();
        match fetched {
            Ok(files) => {
                for file in files {
                    let how = match file.how {
                        How::AlreadyThere => "verified",
                        How::Copied => "copied and verified",
                        How::Downloaded => "downloaded and verified",
                    };
                    println!("{}: {how}, {} bytes", file.path.display(), file.bytes);
                }
            }
            Err(error) => {
                failed += 1;
                eprintln!("{name}: {:#}", anyhow::Error::from(error));
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} datasets are not in place", names.len());
    Ok(())
}

/// The same command from a build with the feature.
fn with_hub() -> anyhow::Result<()> {
    eprintln!("building with the hub feature: minutes, the first time");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--package", "xtask", "--features", "hub", "--"])
        .args(std::env::args_os().skip(1))
        .status()
        .context("cannot start cargo")?;
    anyhow::ensure!(status.success(), "the download failed");
    Ok(())
}

/// One bar per file and step.
fn show(bar: &RefCell<(String, ProgressBar)>, progress: Progress<'_>) {
    let label = format!("{}/{} {:?}", progress.dataset, progress.file, progress.step).to_lowercase();
    let mut bar = bar.borrow_mut();
    if bar.0 != label {
        bar.1.finish_and_clear();
        let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {eta}");
        let fresh = ProgressBar::new(progress.total.unwrap_or(0));
        fresh.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        fresh.set_message(label.clone());
        *bar = (label, fresh);
    }
    bar.1.set_position(progress.done);
}
