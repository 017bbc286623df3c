//! Reading with the position known, so that an error can name the byte, and with memory that grows as bytes arrive,
//! never by what a header claims.

use std::{
    fs::File,
    io::{BufReader, Cursor, ErrorKind, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use super::FETCH_AGAIN;
use crate::{Error, Result};

/// More than this is refused: a header must not make a process swallow all memory.
pub(crate) const MAX_BYTES: u64 = 2 << 30;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The content of the file at `path`, unpacked if its first two bytes say gzip, whatever its name.
pub(crate) fn unpacked(path: &Path) -> Result<Counted<'_, Box<dyn Read>>> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path, "open this file"))?);
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(Error::io(path, "read this file"))?;
    let gzip = start == GZIP_MAGIC;
    let whole = Cursor::new(start).chain(file);
    let reader: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
    Ok(Counted { reader, offset: 0, path, packing: gzip.then_some("gzip") })
}

/// A reader that knows where it is and what it reads.
pub(crate) struct Counted<'a, R> {
    reader: R,
    /// The bytes read so far, counted unpacked.
    pub(crate) offset: u64,
    /// The file, for messages.
    pub(crate) path: &'a Path,
    /// How it is packed, where it is.
    packing: Option<&'static str>,
}

impl<'a, R: Read> Counted<'a, R> {
    /// From the beginning of something that is not packed.
    pub(crate) fn new(reader: R, path: &'a Path) -> Self {
        Self { reader, offset: 0, path, packing: None }
    }

    /// From the beginning of a stream that is being unpacked: a fault of the reader is one of the packing.
    pub(crate) fn packed(reader: R, path: &'a Path, packing: &'static str) -> Self {
        Self { reader, offset: 0, path, packing: Some(packing) }
    }

    /// An [`Error::Corrupt`] at `offset`.
    pub(crate) fn corrupt(&self, offset: u64, why: String, remedy: &'static str) -> Error {
        Error::Corrupt { path: self.path.to_owned(), offset, why, remedy }
    }

    /// At most `n` bytes, fewer only at the end. The buffer grows as bytes arrive.
    pub(crate) fn up_to(&mut self, n: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let outcome = self.reader.by_ref().take(n).read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        let e = match outcome {
            Ok(_) => return Ok(bytes),
            Err(e) => e,
        };
        let what = match (self.packing, e.kind()) {
            (Some(_), ErrorKind::UnexpectedEof) => "ends early",
            (Some(_), ErrorKind::InvalidInput | ErrorKind::InvalidData) => "is damaged",
            _ => return Err(Error::io(self.path, "read this file")(e)),
        };
        let packing = self.packing.unwrap_or_default();
        let why = format!("the {packing} stream {what} (content counted unpacked)");
        Err(self.corrupt(self.offset, why, FETCH_AGAIN))
    }

    /// Exactly `n` bytes, which are `expected`.
    pub(crate) fn exactly(&mut self, n: u64, expected: &str) -> Result<Vec<u8>> {
        let start = self.offset;
        let mut bytes = self.up_to(n)?;
        bytes.shrink_to_fit(); // growing by doubling leaves up to half of it unused
        if (bytes.len() as u64) < n {
            let end = start + n;
            let why = format!("the file ends here, expected {expected} from byte {start} to byte {end}");
            return Err(self.corrupt(self.offset, why, FETCH_AGAIN));
        }
        Ok(bytes)
    }

    /// Everything up to the end, at most [`MAX_BYTES`].
    pub(crate) fn rest(&mut self) -> Result<Vec<u8>> {
        let bytes = self.up_to(MAX_BYTES + 1)?;
        if bytes.len() as u64 > MAX_BYTES {
            let why = format!("more than the {MAX_BYTES} bytes allowed");
            return Err(self.corrupt(self.offset, why, "split the file"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_takes_no_more_memory_than_it_has_bytes() -> Result<()> {
        // 60,000 images of 28×28 cost 47 MB, whatever the buffer grew to on the way.
        let bytes = vec![1; 60_000 * 784];
        let read = Counted::new(&bytes[..], Path::new("x")).exactly(bytes.len() as u64, "images")?;
        assert_eq!((read.len(), read.capacity()), (bytes.len(), bytes.len()));
        Ok(())
    }
}
