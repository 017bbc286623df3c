//! `cargo xtask download`: fetches datasets and verifies them.
//!
//! HTTPS needs a cryptographic library that compiles C, so the default build leaves it out, and this command starts
//! itself again with it where an address needs it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use dml_data::download::{self, FetchedFile, How, Mirror, Network, Options, Progress, Step};
use dml_data::{Dataset, Manifest};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::flags::Download;

pub fn run(flags: &Download) -> anyhow::Result<()> {
    let manifest = Manifest::builtin()?;
    if flags.list {
        for dataset in &manifest.datasets {
            println!("{}", line(dataset));
        }
        return Ok(());
    }
    let names: Vec<&str> = match flags.all {
        // The whole sets: a part is fetched where a mirror has no more than that.
        true => {
            manifest.datasets.iter().filter(|d| d.partial_of.is_none()).map(|d| d.name.as_str()).collect()
        }
        false => flags.names.iter().map(String::as_str).collect(),
    };
    let sets = names.iter().map(|name| manifest.get(name)).collect::<Result<Vec<_>, _>>()?;
    let mirror = flags.mirror.as_deref().map(Mirror::new);
    let https = |address: &str| address.starts_with("https://");
    let secure = match mirror {
        Some(Mirror::Folder(_)) => false,
        Some(Mirror::Url(address)) => https(address),
        None => sets.iter().flat_map(|set| &set.files).flat_map(|file| &file.urls).any(|url| https(url)),
    };
    if !flags.verify {
        let missing = (secure && !cfg!(feature = "tls")) || (flags.hub && !cfg!(feature = "hub"));
        if missing {
            return again(if flags.hub { "tls,hub" } else { "tls" });
        }
    }
    let dir = flags.dir.clone().unwrap_or_else(dml_data::data_dir);
    let bars = Bars { all: MultiProgress::new(), each: Mutex::new(BTreeMap::new()) };
    let progress = |progress: Progress<'_>| bars.show(progress);
    let mut network = Network::from_env();
    network.timeout = Duration::from_secs(flags.timeout.max(1));
    let options = Options {
        mirror,
        dir: &dir,
        verify_only: flags.verify,
        jobs: flags.jobs.max(1),
        network,
        progress: &progress,
    };
    let mut failed = 0;
    for (name, fetched) in names.iter().zip(download::fetch_all(&manifest, &names, &options)) {
        match fetched {
            Ok(fetched) => {
                for file in &fetched.files {
                    println!("{}", told(file));
                }
                if let Some(part) = &fetched.partial {
                    println!("{name}: PARTIAL, in place as {}: {part}", fetched.dataset);
                }
            }
            Err(error) => {
                failed += 1;
                // Some errors begin with the name of the set, others with that of a file.
                let message = format!("{:#}", anyhow::Error::from(error));
                let message = message.strip_prefix(&format!("{name}: ")).unwrap_or(&message);
                eprintln!("{name}: {message}");
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} datasets are not in place", names.len());
    Ok(())
}

/// A dataset in a line of `--list`.
fn line(dataset: &Dataset) -> String {
    let n: usize = dataset.images.values().sum();
    let size = match dataset.download_bytes() {
        Some(bytes) => format!("{:.1} MB", bytes as f64 / 1e6),
        None => "size unknown".to_owned(),
    };
    let unverified = dataset.files.iter().any(|file| file.content.is_some() && file.archive.is_some());
    let notes = [
        dataset.bundled.then_some("comes with the workspace"),
        dataset.partial_of.is_some().then_some("PARTIAL"),
        unverified.then_some("no published checksum"),
        dataset
            .files
            .iter()
            .all(|file| file.urls.is_empty() && !dataset.bundled)
            .then_some("by hand or mirror only"),
    ];
    let notes: String = notes.iter().flatten().map(|note| format!("  [{note}]")).collect();
    format!(
        "{:<17} {:>7} images {:>6} classes {:>12}  {}{notes}",
        dataset.name,
        n,
        dataset.n_classes(),
        size,
        dataset.license,
    )
}

/// A file in a line of the result.
fn told(file: &FetchedFile) -> String {
    let how = match file.how {
        How::AlreadyThere => "already there",
        How::Copied => "copied",
        How::Downloaded => "downloaded",
    };
    let aside: String = file
        .set_aside
        .iter()
        .map(|bad| format!("; a wrong file was set aside as {}", bad.display()))
        .collect();
    format!("{}: {how}, {}, {} bytes{aside}", file.path.display(), file.against, file.bytes)
}

/// The same command from a build with these features.
fn again(features: &str) -> anyhow::Result<()> {
    eprintln!("building with {features}: takes a while, the first time");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--package", "xtask", "--features", features, "--"])
        .args(std::env::args_os().skip(1))
        .status()
        .context("cannot start cargo")?;
    anyhow::ensure!(status.success(), "the download failed");
    Ok(())
}

/// One bar per file that is being fetched or verified.
struct Bars {
    all: MultiProgress,
    each: Mutex<BTreeMap<(String, String), (Step, ProgressBar)>>,
}

impl Bars {
    fn show(&self, progress: Progress<'_>) {
        let Ok(mut each) = self.each.lock() else { return };
        let key = (progress.dataset.to_owned(), progress.file.to_owned());
        if progress.step == Step::Done {
            if let Some((_, bar)) = each.remove(&key) {
                bar.finish_and_clear();
            }
            return;
        }
        let (step, bar) =
            each.entry(key).or_insert_with(|| (Step::Done, self.all.add(ProgressBar::no_length())));
        if *step != progress.step {
            *step = progress.step;
            let doing = match progress.step {
                Step::Verify => "verify  ",
                _ => "download",
            };
            let style = ProgressStyle::with_template(
                "{msg} [{wide_bar}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(format!("{doing} {}/{}", progress.dataset, progress.file));
            bar.reset();
        }
        if let Some(total) = progress.total {
            bar.set_length(total);
        }
        bar.set_position(progress.done);
    }
}
