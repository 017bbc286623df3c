//! IDX, the format of MNIST and its kin: a big-endian header, then the raw values (LeCun et al. 1998).
//!
//! ```text
//! byte 0, 1   zero
//! byte 2      element type: 0x08 is u8, the only one read here
//! byte 3      rank r: 1 for labels [n], 3 for images [n, h, w]
//! 4 … 4+4r    r sizes, u32 big-endian
//! then        the values, row by row
//! ```
//!
//! Files may be raw or gzip; their first two bytes decide, not their name.

use std::{
    io::{Read, Write},
    path::Path,
};

use flate2::{Compression, GzBuilder};

use super::counted::{Counted, MAX_BYTES, unpacked};
use crate::{Error, Result, atomic};

const U8: u8 = 0x08;
const NOT_THIS_FILE: &str = "give an IDX file as MNIST has them, raw or gzip";

/// An IDX file in memory: `data` row by row, as many values as the product of `dims`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// The sizes: `[n]` for labels, `[n, h, w]` for images.
    pub dims: Vec<usize>,
    /// The values.
    pub data: Vec<u8>,
}

/// Reads labels (rank 1) or images (rank 3), raw or gzip.
///
/// Memory grows with the values really there, never with what the header claims.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Corrupt`] names the byte of the unpacked content, what
/// was expected there and what to do: wrong magic or element type, another rank, a file that ends early or
/// goes on after the last value, a damaged gzip stream, more than 2 GiB.
/// # Source
/// LeCun et al. 1998 \[lecun1998\].
/// # Examples
/// ```
/// use dml_data::format::idx::{self, Idx};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("labels-idx1-ubyte.gz");
/// let labels = Idx { dims: vec![3], data: vec![7, 2, 1] };
/// idx::write(&path, &labels)?;
/// assert_eq!(idx::read(&path)?, labels);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read(path: impl AsRef<Path>) -> Result<Idx> {
    read_rank(path.as_ref(), None)
}

/// Reads a file that must hold images, `[n, h, w]`.
///
/// # Errors
/// As [`read`], and [`Error::Corrupt`] at byte 3 for another rank.
pub fn read_images(path: impl AsRef<Path>) -> Result<Idx> {
    read_rank(path.as_ref(), Some(3))
}

/// Reads a file that must hold labels, `[n]`.
///
/// # Errors
/// As [`read`], and [`Error::Corrupt`] at byte 3 for another rank.
pub fn read_labels(path: impl AsRef<Path>) -> Result<Idx> {
    read_rank(path.as_ref(), Some(1))
}

/// Writes an IDX file, gzip if its name ends in `.gz` (without name and time, so equal content gives equal
/// bytes). The file is whole or absent.
///
/// # Errors
/// [`Error::Argument`] when `dims` is not of rank 1 or 3 or does not match `data`; [`Error::Io`].
pub fn write(path: impl AsRef<Path>, idx: &Idx) -> Result<()> {
    let path = path.as_ref();
    let header = header(idx)?;
    atomic::write(path, |out| {
        if path.extension().is_some_and(|e| e == "gz") {
            let mut gz = GzBuilder::new().mtime(0).write(out, Compression::best());
            gz.write_all(&header)?;
            gz.write_all(&idx.data)?;
            gz.finish().map(|_| ())
        } else {
            out.write_all(&header)?;
            out.write_all(&idx.data)
        }
    })
}

fn header(idx: &Idx) -> Result<Vec<u8>> {
    let argument = |expected: String| Error::Argument {
        op: "idx::write",
        arg: "idx.dims",
        got: format!("{:?}", idx.dims),
        expected,
    };
    let rank = match idx.dims.len() {
        1 => 1u8,
        3 => 3u8,
        _ => return Err(argument("[n] or [n, h, w]".into())),
    };
    let len = idx.dims.iter().try_fold(1usize, |product, &d| product.checked_mul(d));
    if len != Some(idx.data.len()) {
        return Err(argument(format!("sizes whose product is the {} values given", idx.data.len())));
    }
    let mut header = vec![0, 0, U8, rank];
    for &d in &idx.dims {
        let d = u32::try_from(d).map_err(|_| argument("sizes below 2^32".into()))?;
        header.extend(d.to_be_bytes());
    }
    Ok(header)
}

fn read_rank(path: &Path, rank: Option<u8>) -> Result<Idx> {
    parse_rank(unpacked(path)?, rank)
}

/// Reads labels or images from memory, unpacked; `path` is for messages.
///
/// # Errors
/// As [`read`].
/// # Examples
/// ```
/// let labels = dml_data::format::idx::parse(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 5], "labels".as_ref())?;
/// assert_eq!(labels.data, [7, 5]);
/// # Ok::<(), dml_data::Error>(())
/// ```
pub fn parse(bytes: &[u8], path: &Path) -> Result<Idx> {
    parse_rank(Counted::new(bytes, path), None)
}

fn parse_rank<R: Read>(mut input: Counted<'_, R>, rank: Option<u8>) -> Result<Idx> {
    let corrupt = |offset: u64, why: String, remedy: &'static str| Error::Corrupt {
        path: input.path.to_owned(),
        offset,
        why,
        remedy,
    };
    let magic = input.exactly(4, "the 4 magic bytes of an IDX file")?;
    let [zero0, zero1, element, r] = magic[..] else {
        return Err(corrupt(0, "no magic bytes".into(), NOT_THIS_FILE)); // `exactly` returned 4
    };
    if [zero0, zero1] != [0, 0] {
        let why = format!("wrong magic {zero0:#04x} {zero1:#04x}, expected 0x00 0x00 as an IDX file starts");
        return Err(corrupt(0, why, NOT_THIS_FILE));
    }
    if element != U8 {
        let name = match element {
            0x09 => " (i8)",
            0x0b => " (i16)",
            0x0c => " (i32)",
            0x0d => " (f32)",
            0x0e => " (f64)",
            _ => "",
        };
        let why = format!("wrong element type {element:#04x}{name}, expected 0x08 (u8)");
        return Err(corrupt(2, why, "convert the file to u8"));
    }
    match rank {
        Some(expected) if r != expected => {
            let name = |r| match r {
                1 => " (labels)",
                3 => " (images)",
                _ => "",
            };
            let why = format!("wrong rank {r}{}, expected {expected}{}", name(r), name(expected));
            return Err(corrupt(3, why, "check that images and labels are not swapped"));
        }
        None if r != 1 && r != 3 => {
            let why = format!("wrong rank {r}, expected 1 (labels) or 3 (images)");
            return Err(corrupt(3, why, NOT_THIS_FILE));
        }
        _ => {}
    }
    let sizes = input.exactly(4 * u64::from(r), "the sizes in the header")?;
    let dims: Vec<u32> =
        sizes.chunks_exact(4).map(|b| b.iter().fold(0, |size, &byte| size << 8 | u32::from(byte))).collect();
    if let Some(axis) = dims.iter().skip(1).position(|&d| d == 0) {
        let why = format!("size {} of the images is 0, expected at least 1", axis + 1);
        return Err(corrupt(8 + 4 * axis as u64, why, super::FETCH_AGAIN));
    }
    let len = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(u64::from(d)));
    let len = len.filter(|&len| len <= MAX_BYTES).ok_or_else(|| {
        let why = format!("the header claims {dims:?} values, more than the {MAX_BYTES} bytes allowed");
        corrupt(4, why, "split the file, or fetch it again if its header is damaged")
    })?;
    let expected = format!("{len} values, as the header says {dims:?},");
    let data = input.exactly(len, &expected)?;
    let end = input.offset;
    if !input.up_to(1)?.is_empty() {
        let why = format!("bytes after the last of the {len} values, expected the end of the file");
        return Err(corrupt(end, why, super::FETCH_AGAIN));
    }
    Ok(Idx { dims: dims.into_iter().map(|d| d as usize).collect(), data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_labels_are_a_file_of_no_labels() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels");
        let empty = Idx { dims: vec![0], data: vec![] };
        write(&path, &empty)?;
        assert_eq!(read_labels(&path)?, empty);
        Ok(())
    }

    #[test]
    fn refuses_to_write_what_it_could_not_read() {
        let write = |dims: Vec<usize>| {
            write("never-written", &Idx { dims, data: vec![0; 6] }).unwrap_err().to_string()
        };
        assert_eq!(write(vec![2, 3]), "idx::write: `idx.dims` is [2, 3], expected [n] or [n, h, w]");
        assert_eq!(
            write(vec![7]),
            "idx::write: `idx.dims` is [7], expected sizes whose product is the 6 values given"
        );
    }

    #[test]
    fn equal_content_gives_equal_bytes() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let idx = Idx { dims: vec![2, 2, 2], data: (0..8).collect() };
        let (a, b) = (folder.path().join("a.gz"), folder.path().join("b.gz"));
        write(&a, &idx)?;
        write(&b, &idx)?;
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
        Ok(())
    }
}
