//! Archives of several files, `.tar.gz` and `.zip`: walked through, read by index, or unpacked once.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use flate2::{
    Crc,
    bufread::{DeflateDecoder, MultiGzDecoder},
};
use zip::CompressionMethod;

use crate::{Error, Result, format::FETCH_AGAIN};

/// How several files are packed in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// A tape archive in a gzip stream: can only be read from front to back.
    TarGz,
    /// A zip archive: has an index.
    Zip,
}

impl Packing {
    /// By the name of the file; `None` for a file that is no archive.
    pub(crate) fn of(name: &str) -> Option<Self> {
        if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
            Some(Self::TarGz)
        } else if name.ends_with(".zip") {
            Some(Self::Zip)
        } else {
            None
        }
    }
}

/// Calls `visit` with the name and content of every file of the archive, in its order, until that says to stop
/// with `false`.
pub(crate) fn visit(
    path: &Path,
    packing: Packing,
    visit: &mut dyn FnMut(&str, &mut dyn Read) -> Result<bool>,
) -> Result<()> {
    match packing {
        Packing::TarGz => visit_tar(path, visit),
        Packing::Zip => {
            let index = ZipIndex::open(path)?;
            for (name, entry) in &index.entries {
                let mut content = entry.content(path).map_err(|e| damaged(path, name, &e))?;
                if !visit(name, &mut content)? {
                    return Ok(());
                }
            }
            Ok(())
        }
    }
}

/// The files of the archive that `wanted` accepts, read into memory, at most `limit` bytes in all.
pub(crate) fn read(
    path: &Path,
    limit: u64,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = limit;
    visit(path, packing(path)?, &mut |name, content| {
        if wanted(name) {
            let mut bytes = Vec::new();
            content.take(left + 1).read_to_end(&mut bytes).map_err(|e| damaged(path, name, &e))?;
            left = match left.checked_sub(bytes.len() as u64) {
                Some(left) => left,
                None => return Err(fault(path, name, format!("goes beyond {limit} bytes in all"))),
            };
            found.insert(name.to_owned(), bytes);
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Unpacks the archive beside itself, into `NAME.unpacked`, unless that was done before with an archive of the same
/// length; where the archive is gone, what was unpacked before still serves. The folder is whole or absent.
pub(crate) fn unpack(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parent = path.parent().unwrap_or_else(|| Path::new("."));
    let target = parent.join(format!("{name}.unpacked"));
    let marker = target.join(COMPLETE);
    let length = fs::metadata(path).map(|meta| meta.len().to_string()).ok();
    let done = || match (fs::read_to_string(&marker), &length) {
        (Ok(unpacked), Some(length)) => unpacked.trim() == length,
        (Ok(_), None) => true,
        (Err(_), _) => false,
    };
    if done() {
        return Ok(target);
    }
    // One process unpacks, others wait for it and find it done.
    let lock = parent.join(format!(".{name}.lock"));
    let lock = File::create(&lock).map_err(Error::io(&lock, "create this file, to unpack beside it"))?;
    lock.lock().map_err(Error::io(parent, "lock a file in this folder"))?;
    if done() {
        return Ok(target);
    }
    let Some(length) = length else {
        return Err(Error::io(path, "open this file")(io::ErrorKind::NotFound.into()));
    };
    // What a killed process left.
    let aside = parent.join(format!(".{name}.unpacking"));
    remove_folder(&aside)?;
    if let Err(error) = unpack_into(path, &aside, &length) {
        let _ = remove_folder(&aside); // the first error counts
        return Err(error);
    }
    remove_folder(&target)?;
    fs::rename(&aside, &target).map_err(Error::io(&target, "rename the unpacked folder to this"))?;
    Ok(target)
}

fn unpack_into(path: &Path, aside: &Path, length: &str) -> Result<()> {
    fs::create_dir_all(aside).map_err(Error::io(aside, "create this folder"))?;
    tracing::info!(archive = %path.display(), "unpacking, once");
    let mut folders = BTreeSet::new();
    visit(path, packing(path)?, &mut |member, content| {
        let at = aside.join(member);
        let folder = at.parent().unwrap_or(aside);
        if folders.insert(folder.to_owned()) {
            fs::create_dir_all(folder).map_err(Error::io(folder, "create this folder"))?;
        }
        let mut file = File::create(&at).map_err(Error::io(&at, "create this file"))?;
        io::copy(content, &mut file).map_err(|e| match e.kind() {
            io::ErrorKind::StorageFull => Error::io(&at, "write this file")(e),
            _ => damaged(path, member, &e),
        })?;
        file.sync_all().map_err(Error::io(&at, "sync this file"))?;
        Ok(true)
    })?;
    crate::atomic::write(&aside.join(COMPLETE), |out| writeln!(out, "{length}"))
}

/// In an unpacked folder: the length of the archive that it came from.
const COMPLETE: &str = ".complete";

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(folder, "remove this folder")(e)),
        _ => Ok(()),
    }
}

fn packing(path: &Path) -> Result<Packing> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Packing::of(&name).ok_or_else(|| Error::Argument {
        op: "archive",
        arg: "path",
        got: path.display().to_string(),
        expected: "a .tar.gz, .tgz or .zip".to_owned(),
    })
}

fn visit_tar(path: &Path, visit: &mut dyn FnMut(&str, &mut dyn Read) -> Result<bool>) -> Result<()> {
    let file =
        BufReader::with_capacity(1 << 16, File::open(path).map_err(Error::io(path, "open this file"))?);
    let left = Rc::new(Cell::new(MAX_BETWEEN_FILES));
    let stream = Limited { reader: MultiGzDecoder::new(file), left: left.clone() };
    let mut archive = tar::Archive::new(stream);
    let whole = |e: &io::Error| damaged(path, "its list of files", e);
    for entry in archive.entries().map_err(|e| whole(&e))? {
        let mut entry = entry.map_err(|e| whole(&e))?;
        left.set(u64::MAX);
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // A name that leads out of the archive is none of the files of a set.
        if entry.header().entry_type().is_file()
            && let Some(plain) = plain_name(&name)
            && !visit(&plain, &mut entry)?
        {
            return Ok(());
        }
        io::copy(&mut entry, &mut io::sink()).map_err(|e| damaged(path, &name, &e))?;
        left.set(MAX_BETWEEN_FILES);
    }
    Ok(())
}

/// Long names lie between the files and are read whole, and a packed stream of a few kilobytes can hold gigabytes.
const MAX_BETWEEN_FILES: u64 = 16 << 20;

/// A reader that refuses to go beyond what is left.
struct Limited<R> {
    reader: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if most == 0 && !buffer.is_empty() {
            let why = format!("more than {MAX_BETWEEN_FILES} bytes between two files");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let n = self.reader.read(&mut buffer[..most])?;
        self.left.set(left - n as u64);
        Ok(n)
    }
}

/// A path with `/`, without leading `./`; `None` if it leads elsewhere.
fn plain_name(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn damaged(path: &Path, member: &str, source: &io::Error) -> Error {
    fault(path, member, source.to_string())
}

fn fault(path: &Path, member: &str, why: String) -> Error {
    Error::Archive { path: path.to_owned(), member: member.to_owned(), why, remedy: FETCH_AGAIN }
}

/// The files of a zip archive and where each lies, so that any of them can be read at any time, by any thread.
#[derive(Debug)]
pub(crate) struct ZipIndex {
    path: PathBuf,
    entries: Vec<(String, Entry)>,
}

/// Where a file of a zip archive lies.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u64,
    packed: u64,
    length: u64,
    crc32: u32,
    method: CompressionMethod,
}

impl ZipIndex {
    /// Reads the index of the archive at `path`; files in the order of the archive.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = BufReader::new(File::open(path).map_err(Error::io(path, "open this file"))?);
        let index = |e: zip::result::ZipError| fault(path, "its index", e.to_string());
        let mut archive = zip::ZipArchive::new(file).map_err(index)?;
        let mut entries = Vec::new();
        for i in 0..archive.len() {
            let file = archive.by_index_raw(i).map_err(index)?;
            let name = String::from_utf8_lossy(file.name_raw()).into_owned();
            if !file.is_file() {
                continue;
            }
            if file.encrypted() {
                return Err(fault(path, &name, "is encrypted".to_owned()));
            }
            let (Some(plain), Some(start)) = (plain_name(&name), file.data_start()) else { continue };
            let entry = Entry {
                start,
                packed: file.compressed_size(),
                length: file.size(),
                crc32: file.crc32(),
                method: file.compression(),
            };
            entries.push((plain, entry));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The archive.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its files, in its order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// The name of its file number `i`.
    pub(crate) fn name(&self, i: usize) -> Option<&str> {
        self.entries.get(i).map(|(name, _)| name.as_str())
    }

    /// The bytes of its file number `i`, at most `limit`; compared with the checksum in the index.
    pub(crate) fn read(&self, i: usize, limit: u64) -> Result<Vec<u8>> {
        let Some((name, entry)) = self.entries.get(i) else {
            return Err(fault(&self.path, "its index", format!("has no file number {i}")));
        };
        if entry.length > limit {
            return Err(fault(
                &self.path,
                name,
                format!("has {} bytes, expected at most {limit}", entry.length),
            ));
        }
        let mut bytes = Vec::new();
        let mut content = entry.content(&self.path).map_err(|e| damaged(&self.path, name, &e))?;
        content.read_to_end(&mut bytes).map_err(|e| damaged(&self.path, name, &e))?;
        Ok(bytes)
    }
}

impl Entry {
    /// The content, unpacked; its end is an error unless length and checksum agree with the index.
    fn content(&self, path: &Path) -> io::Result<Checked> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.start))?;
        let packed = BufReader::new(file.take(self.packed));
        let reader: Box<dyn Read> = match self.method {
            CompressionMethod::Stored => Box::new(packed),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(packed)),
            method => {
                return Err(io::Error::other(format!("is packed by {method:?}, expected stored or deflate")));
            }
        };
        Ok(Checked { reader, left: self.length, crc: Crc::new(), expected: self.crc32 })
    }
}

/// A reader that must give so many bytes with this checksum.
struct Checked {
    reader: Box<dyn Read>,
    left: u64,
    crc: Crc,
    expected: u32,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.crc.update(&buffer[..n]);
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        self.left =
            self.left.checked_sub(n as u64).ok_or_else(|| invalid("is longer than its index says"))?;
        if n == 0 && !buffer.is_empty() {
            if self.left > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.crc.sum() != self.expected {
                return Err(invalid("does not have the CRC-32 of its index"));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn tar_gz(path: &Path, files: &[(&str, &[u8])]) {
        let mut tar = tar::Builder::new(GzEncoder::new(File::create(path).unwrap(), Compression::fast()));
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Names as they are, also those that the builder would refuse.
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
    }

    fn zip(path: &Path, files: &[(&str, &[u8])]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        let stored = zip::write::SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, content) in files {
            zip.start_file(*name, stored).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
    }

    const FILES: [(&str, &[u8]); 3] = [("./a/x.txt", b"one"), ("a/y.txt", b"two"), ("z", b"")];

    #[test]
    fn both_packings_give_the_same_files() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.tar.gz", "x.tgz", "x.zip"] {
            let path = folder.path().join(name);
            if name.ends_with("zip") {
                zip(&path, &FILES)
            } else {
                tar_gz(&path, &FILES)
            }
            let found = read(&path, 6, &|name| name != "z")?;
            let expected = [("a/x.txt".to_owned(), b"one".to_vec()), ("a/y.txt".to_owned(), b"two".to_vec())];
            assert_eq!(found, BTreeMap::from(expected), "{name}");
            assert_eq!(
                read(&path, 5, &|_| true).unwrap_err().to_string(),
                format!("{}: a/y.txt: goes beyond 5 bytes in all; fetch the file again", path.display())
            );
            let unpacked = unpack(&path)?;
            assert_eq!(fs::read(unpacked.join("a/y.txt")).unwrap(), b"two");
            assert_eq!(unpacked, folder.path().join(format!("{name}.unpacked")));
        }
        Ok(())
    }

    #[test]
    fn names_that_lead_out_are_left_out() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar.gz");
        tar_gz(&path, &[("../evil", b"1"), ("/etc/evil", b"2"), ("a/../../evil", b"3"), ("good", b"4")]);
        let unpacked = unpack(&path)?;
        let names: Vec<_> = fs::read_dir(&unpacked).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}"); // good, and the marker
        assert!(!folder.path().join("evil").exists());
        Ok(())
    }

    #[test]
    fn unpacking_again_happens_only_for_another_archive_and_a_damaged_one_leaves_nothing() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tgz");
        tar_gz(&path, &FILES);
        let unpacked = unpack(&path)?;
        // A folder that a killed process left half-written does not count, and goes.
        let aside = folder.path().join(".x.tgz.unpacking");
        fs::create_dir(&aside).unwrap();
        fs::write(unpacked.join("z"), b"mine").unwrap();
        assert_eq!(fs::read(unpack(&path)?.join("z")).unwrap(), b"mine");
        let good = fs::read(&path).unwrap();
        fs::write(&path, &good[..good.len() - 20]).unwrap();
        let message = unpack(&path).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
        assert!(message.ends_with("; fetch the file again"), "{message}");
        // The archive may go once it is unpacked.
        fs::remove_file(&path).unwrap();
        assert_eq!(unpack(&path)?, unpacked);
        Ok(())
    }

    #[test]
    fn a_name_that_does_not_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tgz");
        let mut tar = tar::Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(4 * MAX_BETWEEN_FILES);
        header.set_cksum();
        tar.append(&header, io::repeat(b'a').take(4 * MAX_BETWEEN_FILES)).unwrap();
        tar.into_inner().unwrap().finish().unwrap();
        assert!(fs::metadata(&path).unwrap().len() < MAX_BETWEEN_FILES / 10);
        assert_eq!(
            read(&path, 10, &|_| true).unwrap_err().to_string(),
            format!(
                "{}: its list of files: more than 16777216 bytes between two files; fetch the file again",
                path.display()
            )
        );
    }

    #[test]
    fn a_flipped_bit_in_a_zip_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.zip");
        zip(&path, &[("a", b"hello"), ("b", b"world")]);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(5).position(|w| w == b"world").unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let index = ZipIndex::open(&path).unwrap();
        assert_eq!(index.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(index.read(0, 5).unwrap(), b"hello");
        let name = path.display();
        let message = |result: Result<Vec<u8>>| result.unwrap_err().to_string();
        assert_eq!(
            message(index.read(1, 5)),
            format!("{name}: b: does not have the CRC-32 of its index; fetch the file again")
        );
        assert_eq!(
            message(index.read(0, 4)),
            format!("{name}: a: has 5 bytes, expected at most 4; fetch the file again")
        );
    }
}
