//! The suite on the paper's sets, cut short: missing sets are named, an interruption costs nothing, equal runs give
//! equal bytes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use dml::Error;
use dml::suite::SuiteOptions;
use dml::suite::paper::{self, PaperConfig, Places};
use dml_data::{Manifest, Unknown};

fn config(datasets: &[&str]) -> PaperConfig {
    let datasets = datasets.iter().map(|name| (*name).to_owned()).collect();
    PaperConfig { datasets, most_test: Some(60), held_out: 40, ..PaperConfig::smoke() }
}

/// Runs it on the bundled digits and on a set that nobody has.
fn run(out: &Path, data: &Path, stop: bool) -> Result<Vec<u8>, Box<Error>> {
    let (stop, nothing) = (AtomicBool::new(stop), data.join("nothing"));
    std::fs::create_dir_all(&nothing).unwrap();
    let manifest = Manifest::builtin().unwrap();
    let places = Places { dir: data, mirror: nothing.to_str(), manifest: &manifest };
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
    assert!(report.contains("22 runs in "), "{report}");
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

/// A MAT-file of level 5 with arrays of unsigned bytes: `(name, sizes, values)`.
fn mat(variables: [(&str, &[u32], &[u8]); 2]) -> Vec<u8> {
    let element = |kind: u32, data: &[u8]| {
        let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    let mut file = [&[b' '; 116][..], &[0; 8], &[0, 1, b'I', b'M']].concat();
    for (name, sizes, values) in variables {
        let sizes: Vec<u8> = sizes.iter().flat_map(|n| n.to_le_bytes()).collect();
        let class_of_bytes = [9, 0, 0, 0, 0, 0, 0, 0];
        let parts = [
            element(6, &class_of_bytes),
            element(5, &sizes),
            element(1, name.as_bytes()),
            element(2, values),
        ];
        file.extend(element(14, &parts.concat()));
    }
    file
}

/// `each` images of each of ten classes, labels from 1: a square whose place is that of its class, and some noise.
fn squares(each: usize, side: usize) -> (Vec<u8>, Vec<u8>) {
    let labels: Vec<u8> = (0..10 * each).map(|i| (i % 10 + 1) as u8).collect();
    let mut pixels = Vec::with_capacity(labels.len() * 3 * side * side);
    for (i, &label) in labels.iter().enumerate() {
        let (column, row) = (usize::from(label) % 5 * side / 5, usize::from(label) % 2 * side / 2);
        for at in 0..3 * side * side {
            let (x, y) = (at / side % side, at % side); // column by column
            let inside = (column..column + side / 5).contains(&x) && (row..row + side / 2).contains(&y);
            pixels.push(if inside { 200 } else { 20 } + (i * 31 + at * 7) as u8 % 50);
        }
    }
    (pixels, labels)
}

#[test]
fn street_numbers_and_larger_pictures_run_from_their_official_files() {
    let (out, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let put = |name: &str, content: &[u8]| {
        let path = data.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    for (part, each) in [("train", 12), ("test", 4)] {
        let (pixels, labels) = squares(each, 32);
        let n = labels.len() as u32;
        put(
            &format!("mirror/svhn/{part}_32x32.mat"),
            &mat([("X", &[32, 32, 3, n], &pixels), ("y", &[n, 1], &labels)]),
        );
        let (pixels, labels) = squares(each, 96);
        put(&format!("stl10/stl10_binary/{part}_X.bin"), &pixels);
        put(&format!("stl10/stl10_binary/{part}_y.bin"), &labels);
    }
    // Published checksums are those of the whole sets.
    let mut manifest = Manifest::builtin().unwrap();
    let svhn = manifest.datasets.iter_mut().find(|set| set.name == "svhn").unwrap();
    for file in &mut svhn.files {
        (file.content_bytes, file.content_sha256, file.content_md5) = (None, None, None);
        (file.archive_bytes, file.archive_sha256, file.archive_md5) = (None, None, None);
        (file.content, file.archive) = (Some(Unknown::Unknown), Some(Unknown::Unknown));
    }
    let (stop, mirror) = (AtomicBool::new(false), data.path().join("mirror"));
    let places = Places { dir: data.path(), mirror: mirror.to_str(), manifest: &manifest };
    let options = SuiteOptions { folder: out.path().to_owned(), workers: 2, stop: &stop };
    let config = PaperConfig { steps: 1, choosing_steps: 1, ..config(&["mnist", "svhn", "stl10"]) };
    paper::run(&config, places, &options, "the command").unwrap();
    let report = std::fs::read_to_string(out.path().join("report.md")).unwrap();
    assert!(report.contains("Missing, so not in this report: mnist."), "{report}");
    for (set, of) in [("svhn", "73,257 + 26,032"), ("stl10", "5,000 + 8,000")] {
        for (protocol, train, test) in [("closed set", 120, 40), ("zero-shot", 60, 20)] {
            let row = format!("| {set} (PARTIAL) | {protocol} | {train} | {test} | {of} | PARTIAL |");
            assert!(report.contains(&row), "{row}\n{report}");
        }
        assert!(report.contains(&format!("{set}: PARTIAL, not {set}: train has 120 images of")), "{report}");
    }
}

#[test]
fn what_cannot_run_is_an_error() {
    let (out, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stop = AtomicBool::new(false);
    let options = SuiteOptions { folder: out.path().to_owned(), workers: 1, stop: &stop };
    let manifest = Manifest::builtin().unwrap();
    let places = Places { dir: data.path(), mirror: data.path().to_str(), manifest: &manifest };
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
