//! Mutated files: thousands of seeded mutations of the fuzzing seeds for each reader, as a bounded form of `fuzz/`.
//!
//! Each gives a value that keeps its promises, or an error that names the file: no panic, and no memory beyond what
//! the bytes hold, whatever a header claims.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

use dml_data::{
    Listing, Manifest, Result, Source, benchmark,
    format::{
        cifar::{self, Variant},
        idx,
        mat::{self, Value},
        npy, stl10,
    },
};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

const MUTATIONS: usize = 4000;
const NAME: &str = "mutated";

/// The seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Values that headers are tried with: ends of ranges, and lengths that invite to allocate.
const INTERESTING: [u32; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x0100_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// One to four changes: a bit, a byte, a word of either order, a piece cut out, doubled, or put in from another seed.
fn mutate(rng: &mut ChaCha8Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds.choose(rng).unwrap().clone();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        // Half of the changes hit the beginning, where headers are.
        let reach = if rng.random() { bytes.len() } else { bytes.len().min(200) };
        let at = rng.random_range(0..reach);
        match rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => {
                let word = *INTERESTING.choose(rng).unwrap();
                let word = if rng.random() { word.to_le_bytes() } else { word.to_be_bytes() };
                bytes.iter_mut().skip(at).zip(word).for_each(|(to, from)| *to = from);
            }
            3 => bytes.truncate(at),
            4 => {
                let end = rng.random_range(at..=bytes.len().min(at + 64));
                bytes.drain(at..end);
            }
            5 => {
                let end = rng.random_range(at..=bytes.len().min(at + 64));
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = seeds.choose(rng).unwrap();
                let from = rng.random_range(0..other.len());
                let end = rng.random_range(from..=other.len().min(from + 64));
                bytes.splice(at..at, other[from..end].iter().copied());
            }
        }
    }
    bytes
}

/// The most address space this process ever had, in bytes; `None` where the system does not tell.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Far more than any seed needs, far less than a header can claim (2 GiB and more).
const ALLOWED: u64 = 512 << 20;

/// Reads every seed and every mutation; how many of the latter were read without error.
fn survive(target: &str, read: impl Fn(&[u8]) -> Result<()>) -> usize {
    survive_from(target, &seeds(target), MUTATIONS, read)
}

fn survive_from(
    target: &str,
    seeds: &[Vec<u8>],
    mutations: usize,
    read: impl Fn(&[u8]) -> Result<()>,
) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let before = peak();
    for seed in seeds {
        let _ = read(seed);
    }
    let mut good = 0;
    for i in 0..mutations {
        let bytes = mutate(&mut rng, seeds);
        match read(&bytes) {
            Ok(()) => good += 1,
            Err(error) => {
                let message = error.to_string();
                // Every error names the file, or an argument built from it.
                assert!(message.contains(NAME) || message.contains("expected"), "{target} {i}: {message}");
            }
        }
    }
    if let (Some(before), Some(after)) = (before, peak()) {
        let grown = after.saturating_sub(before);
        assert!(grown < ALLOWED, "{target}: the address space grew by {grown} bytes");
    }
    println!("{target}: {mutations} mutations of {} seeds, {good} of them read", seeds.len());
    good
}

fn path() -> &'static Path {
    Path::new(NAME)
}

#[test]
fn idx_files() {
    let good = survive("idx", |bytes| {
        let idx = idx::parse(bytes, path())?;
        assert_eq!(idx.dims.iter().product::<usize>(), idx.data.len());
        Ok(())
    });
    assert!(0 < good && good < MUTATIONS);
}

#[test]
fn cifar_files() {
    let good = survive("cifar", |bytes| {
        let both = [Variant::Cifar10, Variant::Cifar100].map(|variant| {
            let records = cifar::parse(bytes, variant, path())?;
            assert_eq!(records.pixels.len(), records.labels.len() * cifar::PIXELS);
            assert!(records.groups.is_empty() || records.groups.len() == records.labels.len());
            Ok(())
        });
        let [ten, hundred] = both;
        ten.or(hundred)
    });
    assert!(0 < good && good < MUTATIONS);
}

#[test]
fn stl10_files() {
    let good = survive("stl10", |bytes| {
        let images = stl10::parse_images(bytes, path()).map(|pixels| assert_eq!(pixels.len(), bytes.len()));
        let labels =
            stl10::parse_labels(bytes, path()).map(|labels| assert!(labels.iter().all(|&label| label < 10)));
        images.or(labels)
    });
    assert!(0 < good && good < MUTATIONS);
}

/// As many values as the sizes say, everywhere.
fn keeps_its_promise(value: &Value) {
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    match value {
        Value::Bytes { dims, values } => assert_eq!(product(dims), values.len()),
        Value::Numbers { dims, values } => assert_eq!(product(dims), values.len()),
        Value::Text(_) => {}
        Value::Cells { dims, values } => {
            assert_eq!(product(dims), values.len());
            values.iter().for_each(keeps_its_promise);
        }
        Value::Struct { dims, fields, values } => {
            assert_eq!(product(dims) * fields.len(), values.len());
            values.iter().for_each(keeps_its_promise);
        }
    }
}

#[test]
fn mat_files() {
    let good = survive("mat", |bytes| {
        mat::parse(bytes, path())?.iter().for_each(|variable| keeps_its_promise(&variable.value));
        Ok(())
    });
    assert!(0 < good && good < MUTATIONS);
}

#[test]
fn npy_files() {
    let good = survive("npy", |bytes| {
        let array = npy::parse(bytes, path())?;
        assert_eq!(array.shape.iter().product::<usize>(), array.to_f64().len());
        Ok(())
    });
    assert!(0 < good && good < MUTATIONS);
}

#[test]
fn manifests() {
    let good = survive("manifest", |bytes| {
        let manifest = Manifest::parse(&String::from_utf8_lossy(bytes), path())?;
        for dataset in &manifest.datasets {
            assert!(!dataset.name.contains(['/', '\\']) && dataset.name != "..");
            assert!(dataset.files.iter().all(|file| !file.name.contains(['/', '\\'])));
        }
        Ok(())
    });
    assert!(0 < good && good < MUTATIONS);
}

#[test]
fn listings() {
    let good = survive("listing", |bytes| {
        let listing = Listing::parse(bytes, path())?;
        let n = listing.set.len();
        assert!(listing.splits.values().flatten().all(|&i| i < n));
        Ok(())
    });
    assert!(0 < good && good < MUTATIONS);
}

/// Archives, the lists in them and PNG files go through other readers, which must keep quiet as well.
#[test]
fn archives() {
    const FEWER: usize = 300; // each writes a file
    let excerpts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/excerpts");
    for (set, file, from) in [
        ("omniglot-small1", "images_background_small1.zip", "omniglot/images_background_small1.zip"),
        ("cifar10", "cifar-10-binary.tar.gz", "cifar10/cifar-10-binary.tar.gz"),
    ] {
        let dir = tempfile::Builder::new().prefix(NAME).tempdir().unwrap();
        fs::create_dir(dir.path().join(set)).unwrap();
        let seed = fs::read(excerpts.join(from)).unwrap();
        survive_from(set, &[seed], FEWER, |bytes| {
            fs::write(dir.path().join(set).join(file), bytes).unwrap();
            benchmark(set, dir.path()).map(|_| ())
        });
    }
}
