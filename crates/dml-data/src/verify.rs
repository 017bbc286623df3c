//! Whether a file holds what the manifest says: length and checksums, of the unpacked content where known.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    path::Path,
};

use flate2::write::MultiGzDecoder;
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::{DataFile, Error, Result};

/// What [`verify`] found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The length of the file as it lies there.
    pub file_bytes: u64,
    /// Whether it is a gzip file.
    pub gzip: bool,
}

/// Checks the file at `path`, gzip or raw, against its entry. `progress` is told the bytes read so far.
///
/// The content checksums decide where the entry has one; else those of the archive. MD5 is used where nothing
/// better is known.
///
/// # Errors
/// [`Error::Io`]; [`Error::Corrupt`] for a damaged gzip stream; [`Error::Checksum`] names what differs.
pub fn verify(path: &Path, file: &DataFile, progress: &mut dyn FnMut(u64)) -> Result<Verified> {
    let mut input = BufReader::new(File::open(path).map_err(Error::io(path, "open this file"))?);
    let mut buffer = vec![0; 1 << 16];
    let (mut archive, mut read, mut n) = (Sum::default(), 0u64, fill(&mut input, &mut buffer, path)?);
    let gzip = buffer[..n].starts_with(&[0x1f, 0x8b]);
    // The content sink refuses to go beyond the expected length, so a gzip bomb is cut short.
    let mut content = Content::new(gzip, file.content_bytes);
    while n > 0 {
        archive.update(&buffer[..n]);
        read += n as u64;
        if let Err(source) = content.write(&buffer[..n]) {
            return Err(content.explain(path, file, source));
        }
        progress(read);
        n = fill(&mut input, &mut buffer, path)?;
    }
    if let Err(source) = content.finish() {
        return Err(content.explain(path, file, source));
    }
    compare(path, file, content.sum(), gzip.then_some(&archive))?;
    Ok(Verified { file_bytes: read, gzip })
}

fn compare(path: &Path, file: &DataFile, content: &Sum, archive: Option<&Sum>) -> Result<()> {
    let differs = |what, got: String, expected: String, remedy| Error::Checksum {
        path: path.to_owned(),
        what,
        got,
        expected,
        remedy,
    };
    if content.len != file.content_bytes {
        let remedy = "this is another version or a part of the set; fetch the complete file";
        return Err(differs(
            "content length",
            content.len.to_string(),
            file.content_bytes.to_string(),
            remedy,
        ));
    }
    let check = |what, got: String, expected: &Option<String>| match expected {
        Some(expected) if *expected != got => {
            Err(differs(what, got, expected.clone(), "fetch the file again, or from another source"))
        }
        expected => Ok(expected.is_some()),
    };
    // Every checksum there is must hold; one known for the content settles the matter.
    let sha256 = check("content sha256", content.sha256(), &file.content_sha256)?;
    let md5 = check("content md5", content.md5(), &file.content_md5)?;
    if sha256 || md5 {
        return Ok(());
    }
    let Some(archive) = archive else {
        let remedy = "only the published .gz can be verified; fetch that";
        return Err(differs("format", "raw".into(), "gzip".into(), remedy));
    };
    check("archive sha256", archive.sha256(), &file.archive_sha256)?;
    check("archive md5", archive.md5(), &file.archive_md5)?;
    Ok(())
}

fn fill(input: &mut impl Read, buffer: &mut [u8], path: &Path) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(path, "read this file")(e)),
        }
    }
    Ok(filled)
}

/// Length and checksums of a stream, up to `limit` bytes.
#[derive(Debug, Clone, Default)]
struct Sum {
    len: u64,
    sha256: Sha256,
    md5: Md5,
    limit: Option<u64>,
}

impl Sum {
    fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        self.sha256.update(bytes);
        self.md5.update(bytes);
    }

    fn sha256(&self) -> String {
        hex(&self.sha256.clone().finalize())
    }

    fn md5(&self) -> String {
        hex(&self.md5.clone().finalize())
    }

    fn too_long(&self) -> bool {
        self.limit.is_some_and(|limit| self.len > limit)
    }
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        if self.too_long() { Err(std::io::Error::other("longer than expected")) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Where the bytes of a file go: unpacked first if they are gzip.
#[derive(Debug)]
enum Content {
    Raw(Box<Sum>),
    Gzip(Box<MultiGzDecoder<Sum>>),
}

impl Content {
    fn new(gzip: bool, expected: u64) -> Self {
        let sum = Sum { limit: Some(expected), ..Sum::default() };
        if gzip { Self::Gzip(Box::new(MultiGzDecoder::new(sum))) } else { Self::Raw(Box::new(sum)) }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Raw(sum) => sum.write_all(bytes),
            Self::Gzip(decoder) => decoder.write_all(bytes),
        }
    }

    fn finish(&mut self) -> std::io::Result<()> {
        match self {
            Self::Raw(_) => Ok(()),
            Self::Gzip(decoder) => decoder.try_finish(),
        }
    }

    fn sum(&self) -> &Sum {
        match self {
            Self::Raw(sum) => sum,
            Self::Gzip(decoder) => decoder.get_ref(),
        }
    }

    fn explain(&self, path: &Path, file: &DataFile, source: std::io::Error) -> Error {
        let sum = self.sum();
        if sum.too_long() {
            return Error::Checksum {
                path: path.to_owned(),
                what: "content length",
                got: format!("more than {}", file.content_bytes),
                expected: file.content_bytes.to_string(),
                remedy: "this is another file or another version; fetch the one of the manifest",
            };
        }
        tracing::debug!(%source, "gzip");
        Error::Corrupt {
            path: path.to_owned(),
            offset: sum.len,
            why: "the gzip stream is damaged or ends early (content counted unpacked)".to_owned(),
            remedy: "fetch the file again",
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_standard_ones() {
        let mut sum = Sum::default();
        sum.update(b"abc"); // RFC 1321 and FIPS 180-4
        assert_eq!(sum.md5(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(sum.sha256(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
