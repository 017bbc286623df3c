//! Copying from a mirror: only verified files arrive, and nothing half-written is left.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{cell::Cell, fs, path::Path};

use dml_data::{
    Manifest, Part, bundled,
    download::{self, How, Options},
};

const FILES: [&str; 2] = ["images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"];

fn files_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_raw_mirror_is_packed_and_a_second_fetch_finds_everything_there() {
    let (mirror, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = bundled::folder("mnist-5k").unwrap();
    let unpack = |name: &str| {
        let mut bytes = Vec::new();
        let file = fs::File::open(source.join(name)).unwrap();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut bytes).unwrap();
        fs::write(mirror.path().join(name.trim_end_matches(".gz")), bytes).unwrap();
    };
    FILES.iter().for_each(|name| unpack(name));
    let told = Cell::new(0);
    let progress = |_: download::Progress<'_>| told.set(told.get() + 1);
    let options = Options { mirror: Some(mirror.path()), progress: &progress, ..Options::new(dir.path()) };
    let fetched = download::fetch("mnist-5k", &options).unwrap();
    assert!(fetched.iter().all(|f| f.how == How::Copied && fs::metadata(&f.path).unwrap().len() == f.bytes));
    assert!(told.get() > 2);
    assert_eq!(files_in(&dir.path().join("mnist-5k")), FILES);
    let again = download::fetch("mnist-5k", &options).unwrap();
    assert!(again.iter().all(|f| f.how == How::AlreadyThere));
    let manifest = Manifest::builtin().unwrap();
    let set = manifest.get("mnist-5k").unwrap().load(&dir.path().join("mnist-5k"), Part::All).unwrap();
    assert_eq!(set, bundled::mnist_5k().unwrap());
}

#[test]
fn a_wrong_source_is_refused_and_leaves_nothing() {
    let (mirror, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = bundled::folder("mnist-5k").unwrap();
    let options = Options { mirror: Some(mirror.path()), ..Options::new(dir.path()) };
    let put = |name: &str, bytes: &[u8]| fs::write(mirror.path().join(name), bytes).unwrap();
    let message = || download::fetch("mnist-5k", &options).unwrap_err().to_string();
    let at = |name: &str| mirror.path().join(name).display().to_string();

    let (m, images) = (mirror.path(), "images-idx3-ubyte");
    let places = [
        m.join("mnist-5k").join(FILES[0]),
        m.join("mnist-5k").join(images),
        m.join(FILES[0]),
        m.join(images),
    ]
    .map(|p| p.display().to_string())
    .join(", ");
    assert_eq!(message(), format!("mnist-5k: {} is neither of {places}; put it there", FILES[0]));

    let good = fs::read(source.join(FILES[0])).unwrap();
    put(FILES[0], &good[..1000]);
    let got = message();
    assert!(got.starts_with(&format!("{}: byte ", at(FILES[0]))), "{got}");
    assert!(got.ends_with(
        "the gzip stream is damaged or ends early (content counted unpacked); fetch the file again"
    ));

    fs::remove_file(mirror.path().join(FILES[0])).unwrap();
    put(images, &vec![0; 3_920_016]);
    let got = message();
    assert!(got.starts_with(&format!("{}: content sha256 is ", at(images))), "{got}");
    assert!(got.ends_with(
        "the manifest says a4a9358b9ba319305e7cd69b2c7410e463401e152d7e9e60189b94a3f159d012; fetch the file \
         again, or from another source"
    ));
    put(images, &vec![0; 3_920_017]);
    assert_eq!(
        message(),
        format!(
            "{}: content length is more than 3920016, the manifest says 3920016; this is another file or \
             another version; fetch the one of the manifest",
            at(images)
        )
    );
    put(images, &[0; 16]);
    assert_eq!(
        message(),
        format!(
            "{}: content length is 16, the manifest says 3920016; this is another version or a part of the \
             set; fetch the complete file",
            at(images)
        )
    );
    assert_eq!(files_in(&dir.path().join("mnist-5k")), [""; 0]);
}

#[test]
fn verifying_only_changes_nothing_and_fetching_repairs() {
    let dir = tempfile::tempdir().unwrap();
    let only = Options { verify_only: true, ..Options::new(dir.path()) };
    let labels = dir.path().join("mnist-5k").join(FILES[1]);
    let message = download::fetch("mnist-5k", &only).unwrap_err().to_string();
    assert!(message.ends_with("; fetch it without verifying only"), "{message}");
    download::fetch("mnist-5k", &Options::new(dir.path())).unwrap();
    fs::write(&labels, b"broken").unwrap();
    assert!(download::fetch("mnist-5k", &only).is_err());
    assert_eq!(fs::read(&labels).unwrap(), b"broken");
    let fetched = download::fetch("mnist-5k", &Options::new(dir.path())).unwrap();
    assert_eq!(fetched.iter().map(|f| f.how).collect::<Vec<_>>(), [How::AlreadyThere, How::Copied]);
    assert_eq!(download::fetch("mnist-5k", &only).unwrap().len(), 2);
}

#[test]
fn what_cannot_be_fetched_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let message = |name| download::fetch(name, &Options::new(dir.path())).unwrap_err().to_string();
    assert_eq!(
        message("cifar"),
        "dataset `cifar` is not in the manifest; known are mnist-5k, mnist, fashion-mnist, kmnist"
    );
    assert_eq!(
        message("kmnist"),
        "kmnist: the manifest names no copy on the hub; fetch the files by hand, e.g. \
         http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-images-idx3-ubyte.gz, and name their folder as the \
         mirror"
    );
    #[cfg(not(feature = "hub"))]
    assert_eq!(
        message("mnist"),
        "mnist: downloads are not compiled in; run `cargo xtask download`, or build with `--features \
         dml-data/hub`, or fetch the files by hand, e.g. \
         https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz, and name their folder as the \
         mirror"
    );
    assert_eq!(download::list().unwrap().len(), 4);
}
