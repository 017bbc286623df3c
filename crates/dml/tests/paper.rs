//! The suite on the paper's sets, cut short: missing sets are named, an interruption costs nothing, equal runs give
//! equal bytes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use dml::Error;
use dml::suite::SuiteOptions;
use dml::suite::paper::{self, PaperConfig, Places};

fn config(datasets: &[&str]) -> PaperConfig {
    let datasets = datasets.iter().map(|name| (*name).to_owned()).collect();
    PaperConfig { datasets, most_test: Some(60), held_out: 40, ..PaperConfig::smoke() }
}

/// Runs it on the bundled digits and on a set that nobody has.
fn run(out: &Path, data: &Path, stop: bool) -> Result<Vec<u8>, Box<Error>> {
    let (stop, nothing) = (AtomicBool::new(stop), data.join("nothing"));
    std::fs::create_dir_all(&nothing).unwrap();
    let places = Places { dir: data, mirror: nothing.to_str() };
    let options = SuiteOptions { folder: out.to_owned(), workers: 2, stop: &stop };
    paper::run(&config(&["mnist-5k", "svhn"]), places, &options, "the command")?;
    Ok(std::fs::read(out.join("metrics.jsonl")).unwrap())
}

#[test]
fn a_missing_set_is_named_and_the_others_run() {
    let (out, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(matches!(run(out.path(), data.path(), true), Err(error) if matches!(*error, Error::Interrupted)));
    assert!(!out.path().join("report.md").exists());
    let metrics = run(out.path(), data.path(), false).unwrap();
    let report = std::fs::read_to_string(out.path().join("report.md")).unwrap();
    assert!(report.contains("Missing, so not in this report: svhn."), "{report}");
    assert!(report.contains("| svhn | – | – | – | 73,257 + 26,032 | MISSING |"), "{report}");
    assert!(
        report.contains("mnist-5k, zero-shot: 2,500 training images, retrieval among 60 test images."),
        "{report}"
    );
    for method in ["Euclidean", "Mahalanobis", "Max-affine", "Deep divergence", "Empirical Bregman"] {
        assert!(report.contains(&format!("| {method} |")), "{report}");
    }
    assert!(
        out.path().join("report.html").exists() && out.path().join("figures/map-at-r-mnist-5k.svg").exists()
    );
    // A new measurement elsewhere, without an interruption, gives the same bytes.
    let again = tempfile::tempdir().unwrap();
    assert_eq!(run(again.path(), data.path(), false).unwrap(), metrics);
}

#[test]
fn what_cannot_run_is_an_error() {
    let (out, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stop = AtomicBool::new(false);
    let options = SuiteOptions { folder: out.path().to_owned(), workers: 1, stop: &stop };
    let places = Places { dir: data.path(), mirror: data.path().to_str() };
    let message =
        |datasets: &[&str]| paper::run(&config(datasets), places, &options, "").unwrap_err().to_string();
    assert_eq!(
        message(&["mnits"]),
        "suite paper: `datasets` is `mnits`, expected different names out of mnist, fashion-mnist, cifar10, svhn, \
         stl10, mnist-5k"
    );
    assert!(message(&["mnist-5k", "mnist-5k"]).contains("`mnist-5k`, expected different names"));
    let message = message(&["stl10"]);
    assert!(message.starts_with("suite paper: `datasets` is none that is at hand (stl10: "), "{message}");
    assert!(message.ends_with("expected at least one; give a folder that has it with --mirror"), "{message}");
}
