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
    fs::File,
    io::{BufReader, Cursor, ErrorKind, Read, Write},
    path::Path,
};

use flate2::{Compression, GzBuilder, bufread::MultiGzDecoder};

use crate::{Error, Result, atomic};

/// More than this is refused: a header must not make a process swallow all memory.
const MAX_BYTES: u64 = 2 << 30;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const U8: u8 = 0x08;
const FETCH_AGAIN: &str = "fetch the file again";
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
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path, "open this file"))?);
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(Error::io(path, "read this file"))?;
    let gzip = start == GZIP_MAGIC;
    let whole = Cursor::new(start).chain(file);
    if gzip {
        parse(Counted { reader: MultiGzDecoder::new(whole), offset: 0, path, gzip }, rank)
    } else {
        parse(Counted { reader: whole, offset: 0, path, gzip }, rank)
    }
}

fn parse<R: Read>(mut input: Counted<'_, R>, rank: Option<u8>) -> Result<Idx> {
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
    let sizes = input.exactly(4 * usize::from(r), "the sizes in the header")?;
    let dims: Vec<u32> =
        sizes.chunks_exact(4).map(|b| b.iter().fold(0, |size, &byte| size << 8 | u32::from(byte))).collect();
    if let Some(axis) = dims.iter().skip(1).position(|&d| d == 0) {
        let why = format!("size {} of the images is 0, expected at least 1", axis + 1);
        return Err(corrupt(8 + 4 * axis as u64, why, FETCH_AGAIN));
    }
    let len = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(u64::from(d)));
    let len = len.filter(|&len| len <= MAX_BYTES).ok_or_else(|| {
        let why = format!("the header claims {dims:?} values, more than the {MAX_BYTES} bytes allowed");
        corrupt(4, why, "split the file, or fetch it again if its header is damaged")
    })?;
    let expected = format!("{len} values, as the header says {dims:?},");
    let data = input.exactly(len as usize, &expected)?;
    let end = input.offset;
    if !input.up_to(1)?.is_empty() {
        let why = format!("bytes after the last of the {len} values, expected the end of the file");
        return Err(corrupt(end, why, FETCH_AGAIN));
    }
    Ok(Idx { dims: dims.into_iter().map(|d| d as usize).collect(), data })
}

/// A reader that knows where it is and what it reads.
struct Counted<'a, R> {
    reader: R,
    offset: u64,
    path: &'a Path,
    gzip: bool,
}

impl<R: Read> Counted<'_, R> {
    /// At most `n` bytes, fewer only at the end. The buffer grows as bytes arrive.
    fn up_to(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let outcome = self.reader.by_ref().take(n as u64).read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        match outcome {
            Ok(_) => Ok(bytes),
            Err(e) if self.gzip => {
                let why = match e.kind() {
                    ErrorKind::UnexpectedEof => "the gzip stream ends early (content counted unpacked)",
                    ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                        "the gzip stream is damaged (content counted unpacked)"
                    }
                    _ => return Err(Error::io(self.path, "read this file")(e)),
                };
                Err(Error::Corrupt {
                    path: self.path.to_owned(),
                    offset: self.offset,
                    why: why.to_owned(),
                    remedy: FETCH_AGAIN,
                })
            }
            Err(e) => Err(Error::io(self.path, "read this file")(e)),
        }
    }

    fn exactly(&mut self, n: usize, expected: &str) -> Result<Vec<u8>> {
        let start = self.offset;
        let bytes = self.up_to(n)?;
        if bytes.len() < n {
            return Err(Error::Corrupt {
                path: self.path.to_owned(),
                offset: self.offset,
                why: format!(
                    "the file ends here, expected {expected} from byte {start} to byte {}",
                    start + n as u64
                ),
                remedy: FETCH_AGAIN,
            });
        }
        Ok(bytes)
    }
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
