//! Whether a file holds what the manifest says: length and checksums, of the packed file or of what is in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, Read, Write},
    path::Path,
};

use flate2::write::MultiGzDecoder;
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::{
    DataFile, Error, Result,
    archive::{self, Packing},
    format::FETCH_AGAIN,
};

/// What [`verify`] found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The length of the file as it lies there.
    pub file_bytes: u64,
    /// Whether it is a gzip file.
    pub gzip: bool,
    /// What it was compared with.
    pub against: Against,
}

/// What a file was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// A checksum of its content: the copy may have been packed anew.
    Content,
    /// A checksum of the packed file.
    Archive,
    /// Nothing: no checksum is known, the manifest says so.
    Nothing,
}

impl std::fmt::Display for Against {
    /// As a report says it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Content => "verified by its content",
            Self::Archive => "verified",
            Self::Nothing => "NOT verified against a published checksum: none is known",
        })
    }
}

/// Checks the file at `path` against its entry. `progress` is told the bytes read so far.
///
/// Of one file, gzip or raw, the content checksums decide where the entry has them; else those of the archive. An
/// archive of several files is right if its own checksums are, or if what is in it is. MD5 is used where nothing
/// better is known.
///
/// # Errors
/// [`Error::Io`]; [`Error::Corrupt`] for a damaged gzip stream, [`Error::Archive`] for a damaged archive;
/// [`Error::Checksum`] names what differs.
pub fn verify(path: &Path, file: &DataFile, progress: &mut dyn FnMut(u64)) -> Result<Verified> {
    // By the name it shall have: it may still lie under another.
    if let Some(packing) = Packing::of(&file.name) {
        return verify_archive(path, packing, file, progress);
    }
    let mut input = BufReader::new(File::open(path).map_err(Error::io(path, "open this file"))?);
    let mut buffer = vec![0; 1 << 16];
    let (mut archive, mut read, mut n) =
        (Sum::of(&file.archive_sha256, &file.archive_md5), 0u64, fill(&mut input, &mut buffer, path)?);
    let gzip = buffer[..n].starts_with(&[0x1f, 0x8b]);
    // The content sink refuses to go beyond the expected length, so a gzip bomb is cut short.
    let mut content = Content::new(gzip, file);
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
    let against = compare(path, file, content.sum(), gzip.then_some(&archive))?;
    Ok(Verified { file_bytes: read, gzip, against })
}

/// An archive of several files: its own checksums, else what is in it.
fn verify_archive(
    path: &Path,
    packing: Packing,
    file: &DataFile,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified> {
    let mut input = File::open(path).map_err(Error::io(path, "open this file"))?;
    let mut buffer = vec![0; 1 << 18];
    let mut sum = Sum::of(&file.archive_sha256, &file.archive_md5);
    loop {
        let n = fill(&mut input, &mut buffer, path)?;
        if n == 0 {
            break;
        }
        sum.update(&buffer[..n]);
        progress(sum.len);
    }
    let verified = |against| Verified { file_bytes: sum.len, gzip: packing == Packing::TarGz, against };
    match sum.compare(path, "archive", &file.archive_sha256, &file.archive_md5) {
        Ok(true) => return Ok(verified(Against::Archive)),
        // Packed anew, perhaps; only what is in it can tell.
        Err(_) if !file.members.is_empty() || file.content_tree_sha256.is_some() => {}
        Err(error) => {
            // What is shorter than published was cut off, which says more than a checksum.
            return Err(match file.archive_bytes {
                Some(expected) if expected != sum.len => {
                    differs(path, "archive length", sum.len.to_string(), expected.to_string(), CUT_OR_OTHER)
                }
                _ => error,
            });
        }
        Ok(false) => {}
    }
    if file.members.is_empty() && file.content_tree_sha256.is_none() {
        // At least it must be readable to its end.
        archive::visit(path, packing, &mut |name, content| {
            std::io::copy(content, &mut std::io::sink()).map_err(|e| Error::Archive {
                path: path.to_owned(),
                member: name.to_owned(),
                why: e.to_string(),
                remedy: FETCH_AGAIN,
            })?;
            Ok(true)
        })?;
        return Ok(verified(Against::Nothing));
    }
    verify_members(path, packing, file)?;
    Ok(verified(Against::Content))
}

/// Every file in the archive if the tree is known, else those that are listed; each of those must be there.
fn verify_members(path: &Path, packing: Packing, file: &DataFile) -> Result<()> {
    let mut missing: BTreeSet<&str> = file.members.iter().map(|m| m.name.as_str()).collect();
    let mut tree = BTreeMap::new();
    archive::visit(path, packing, &mut |name, content| {
        let listed = file.members.iter().find(|m| m.name == name);
        if listed.is_none() && file.content_tree_sha256.is_none() {
            return Ok(true);
        }
        let mut sum = Sum { sha256: Some(Sha256::new()), ..Sum::default() };
        if let Some(member) = listed {
            missing.remove(name);
            sum.limit = Some(member.bytes);
            sum.md5 = member.md5.as_ref().map(|_| Md5::new());
        }
        let copied = std::io::copy(content, &mut sum);
        if let Some(member) = listed {
            let what = format!("{name} in this archive");
            if sum.len != member.bytes {
                let got =
                    if sum.too_long() { format!("more than {}", member.bytes) } else { sum.len.to_string() };
                let what = format!("the length of {what}");
                return Err(differs(path, what, got, member.bytes.to_string(), CUT_OR_OTHER));
            }
            sum.compare(path, &what, &member.sha256, &member.md5)?;
        }
        copied.map_err(|e| Error::Archive {
            path: path.to_owned(),
            member: name.to_owned(),
            why: e.to_string(),
            remedy: FETCH_AGAIN,
        })?;
        tree.insert(name.to_owned(), sum.sha256());
        Ok(true)
    })?;
    if let Some(&name) = missing.first() {
        let (got, expected) = ("absent".to_owned(), "to hold it".to_owned());
        return Err(differs(path, name.to_owned(), got, expected, CUT_OR_OTHER));
    }
    let Some(expected) = &file.content_tree_sha256 else { return Ok(()) };
    let lines: String = tree.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
    let got = hex(&Sha256::digest(lines));
    if got != *expected {
        return Err(differs(path, "tree sha256", got, expected.clone(), ANOTHER_SOURCE));
    }
    Ok(())
}

const CUT_OR_OTHER: &str = "this is another version or a part of the set; fetch the complete file";
const ANOTHER_SOURCE: &str = "fetch the file again, or from another source";

fn differs(
    path: &Path,
    what: impl Into<String>,
    got: String,
    expected: String,
    remedy: &'static str,
) -> Error {
    Error::Checksum { path: path.to_owned(), what: what.into(), got, expected, remedy }
}

/// The content of one file, then the archive where nothing is known of the content.
fn compare(path: &Path, file: &DataFile, content: &Sum, archive: Option<&Sum>) -> Result<Against> {
    if let Some(expected) = file.content_bytes
        && content.len != expected
    {
        return Err(differs(
            path,
            "content length",
            content.len.to_string(),
            expected.to_string(),
            CUT_OR_OTHER,
        ));
    }
    if content.compare(path, "content", &file.content_sha256, &file.content_md5)? {
        return Ok(Against::Content);
    }
    if file.archive_sha256.is_none() && file.archive_md5.is_none() {
        return Ok(Against::Nothing);
    }
    let Some(archive) = archive else {
        let remedy = "only the published .gz can be verified; fetch that";
        return Err(differs(path, "format", "raw".into(), "gzip".into(), remedy));
    };
    archive.compare(path, "archive", &file.archive_sha256, &file.archive_md5)?;
    Ok(Against::Archive)
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

/// Length and those checksums of a stream that are asked for, up to `limit` bytes.
#[derive(Debug, Clone, Default)]
struct Sum {
    len: u64,
    sha256: Option<Sha256>,
    md5: Option<Md5>,
    limit: Option<u64>,
}

impl Sum {
    /// With the checksums that are known.
    fn of(sha256: &Option<String>, md5: &Option<String>) -> Self {
        Self {
            sha256: sha256.as_ref().map(|_| Sha256::new()),
            md5: md5.as_ref().map(|_| Md5::new()),
            ..Self::default()
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    fn sha256(&self) -> String {
        self.sha256.clone().map(|sum| hex(&sum.finalize())).unwrap_or_default()
    }

    fn md5(&self) -> String {
        self.md5.clone().map(|sum| hex(&sum.finalize())).unwrap_or_default()
    }

    /// Every checksum there is must hold; `false` if there is none.
    fn compare(
        &self,
        path: &Path,
        what: &str,
        sha256: &Option<String>,
        md5: &Option<String>,
    ) -> Result<bool> {
        for (name, got, expected) in [("sha256", self.sha256(), sha256), ("md5", self.md5(), md5)] {
            if let Some(expected) = expected
                && got != *expected
            {
                return Err(differs(path, format!("{what} {name}"), got, expected.clone(), ANOTHER_SOURCE));
            }
        }
        Ok(sha256.is_some() || md5.is_some())
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
    fn new(gzip: bool, file: &DataFile) -> Self {
        let sum = Sum { limit: file.content_bytes, ..Sum::of(&file.content_sha256, &file.content_md5) };
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
        if let (true, Some(expected)) = (sum.too_long(), file.content_bytes) {
            let remedy = "this is another file or another version; fetch the one of the manifest";
            let got = format!("more than {expected}");
            return differs(path, "content length", got, expected.to_string(), remedy);
        }
        tracing::debug!(%source, "gzip");
        Error::Corrupt {
            path: path.to_owned(),
            offset: sum.len,
            why: "the gzip stream is damaged or ends early (content counted unpacked)".to_owned(),
            remedy: FETCH_AGAIN,
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
        let mut sum = Sum { sha256: Some(Sha256::new()), md5: Some(Md5::new()), ..Sum::default() };
        sum.update(b"abc"); // RFC 1321 and FIPS 180-4
        assert_eq!(sum.md5(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(sum.sha256(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
