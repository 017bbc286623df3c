//! Damaged, mistaken and mismatched files: each names the file, the byte and what to do.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use dml_data::{
    ImageSet,
    format::idx::{self, Idx},
};
use flate2::{Compression, write::GzEncoder};

fn header(magic: [u8; 4], sizes: &[u32]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    sizes.iter().for_each(|n| bytes.extend(n.to_be_bytes()));
    bytes
}

fn with(mut header: Vec<u8>, values: usize) -> Vec<u8> {
    header.extend((0..values).map(|i| i as u8));
    header
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

const IMAGES: [u8; 4] = [0, 0, 8, 3];
const LABELS: [u8; 4] = [0, 0, 8, 1];

/// A good gzip file of three images of 4×4 with noise, so that the deflate stream has literals to damage.
fn good_gz() -> Vec<u8> {
    let noise = (0u32..48).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
    let mut bytes = header(IMAGES, &[3, 4, 4]);
    bytes.extend(noise);
    gz(&bytes)
}

#[test]
fn each_broken_file_has_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let damaged_checksum = {
        let mut bytes = good_gz();
        let crc = bytes.len() - 8;
        bytes[crc] ^= 0xff;
        bytes
    };
    let good = good_gz();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "empty",
            vec![],
            "byte 0: the file ends here, expected the 4 magic bytes of an IDX file from byte 0 to byte 4; fetch \
             the file again",
        ),
        (
            "a web page",
            b"<html>not found</html>".to_vec(),
            "byte 0: wrong magic 0x3c 0x68, expected 0x00 0x00 as an IDX file starts; give an IDX file as MNIST \
             has them, raw or gzip",
        ),
        (
            "floats",
            with(header([0, 0, 0x0d, 3], &[1, 1, 1]), 4),
            "byte 2: wrong element type 0x0d (f32), expected 0x08 (u8); convert the file to u8",
        ),
        (
            "a matrix",
            with(header([0, 0, 8, 2], &[2, 2]), 4),
            "byte 3: wrong rank 2, expected 1 (labels) or 3 (images); give an IDX file as MNIST has them, raw or \
             gzip",
        ),
        (
            "a cut header",
            header(IMAGES, &[3, 4]),
            "byte 12: the file ends here, expected the sizes in the header from byte 4 to byte 16; fetch the \
             file again",
        ),
        (
            "truncated",
            with(header(IMAGES, &[3, 4, 4]), 40),
            "byte 56: the file ends here, expected 48 values, as the header says [3, 4, 4], from byte 16 to byte \
             64; fetch the file again",
        ),
        (
            "too long",
            with(header(LABELS, &[3]), 4),
            "byte 11: bytes after the last of the 3 values, expected the end of the file; fetch the file again",
        ),
        (
            "no rows",
            header(IMAGES, &[3, 0, 4]),
            "byte 8: size 1 of the images is 0, expected at least 1; fetch the file again",
        ),
        (
            "a boastful header",
            header(IMAGES, &[u32::MAX, u32::MAX, u32::MAX]),
            "byte 4: the header claims [4294967295, 4294967295, 4294967295] values, more than the 2147483648 \
             bytes allowed; split the file, or fetch it again if its header is damaged",
        ),
        (
            "a header that claims 2 GiB",
            header(LABELS, &[1 << 31]),
            "byte 8: the file ends here, expected 2147483648 values, as the header says [2147483648], from byte \
             8 to byte 2147483656; fetch the file again",
        ),
        (
            "truncated.gz",
            good[..good.len() - 20].to_vec(),
            "the gzip stream ends early (content counted unpacked); fetch the file again",
        ),
        (
            "damaged.gz",
            damaged_checksum,
            "byte 64: the gzip stream is damaged (content counted unpacked); fetch the file again",
        ),
        (
            "followed.gz",
            [good.as_slice(), b"something that is no gzip"].concat(),
            "the gzip stream is damaged (content counted unpacked); fetch the file again",
        ),
    ];
    for (name, bytes, message) in cases {
        let path = put(folder.path(), name, &bytes);
        let got = idx::read(&path).unwrap_err().to_string();
        if message.starts_with("byte") {
            assert_eq!(got, format!("{}: {message}", path.display()), "{name}");
        } else {
            // The byte at which a cut stream gives out is the decoder's choice.
            assert!(got.starts_with(&format!("{}: byte ", path.display())), "{name}: {got}");
            assert!(got.ends_with(message), "{name}: {got}");
        }
    }
}

#[test]
fn every_cut_and_every_flipped_byte_of_a_gzip_file_is_an_error_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let good = good_gz();
    let expected = idx::read(put(folder.path(), "good.gz", &good)).unwrap();
    for n in 0..good.len() {
        assert!(idx::read(put(folder.path(), "cut.gz", &good[..n])).is_err(), "cut at {n}");
        let mut flipped = good.clone();
        flipped[n] ^= 0x55;
        // The time, the system and the compression level in the gzip header are not content.
        if let Ok(read) = idx::read(put(folder.path(), "flipped.gz", &flipped)) {
            assert_eq!(read, expected, "flipped byte {n}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = idx::read("no/such/file").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no/such/file: cannot open this file; check that the path exists and that this user may access it"
    );
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn images_and_labels_that_do_not_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, idx: &Idx| {
        let path = folder.path().join(name);
        idx::write(&path, idx).unwrap();
        path
    };
    let images = write("images", &Idx { dims: vec![3, 2, 2], data: vec![0; 12] });
    let two = write("two", &Idx { dims: vec![2], data: vec![0, 1] });
    let strange = write("strange", &Idx { dims: vec![3], data: vec![0, 1, 7] });
    let names = || vec!["a".to_owned(), "b".to_owned()];
    let message =
        |images: &Path, labels: &Path| ImageSet::from_idx(images, labels, names()).unwrap_err().to_string();
    assert_eq!(
        message(&images, &two),
        format!(
            "{} holds 3 images, {} holds 2 labels; take both files from the same part of the same dataset",
            images.display(),
            two.display()
        )
    );
    assert_eq!(
        message(&images, &strange),
        format!(
            "{}: byte 10: label 7, expected one below 2; give a name for every class, or fetch the file again",
            strange.display()
        )
    );
    assert_eq!(
        message(&two, &images),
        format!(
            "{}: byte 3: wrong rank 1 (labels), expected 3 (images); check that images and labels are not swapped",
            two.display()
        )
    );
}
