//! One file over HTTP: resumed where it stopped, verified when it is whole, set aside when it is wrong.
//!
//! Beside the place where `FILE` shall lie, `.FILE.part` grows and `.FILE.part.from` tells where it comes from. Only
//! a verified file is renamed into place, so that a process that is killed at any moment leaves nothing that looks
//! complete.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{FetchedFile, How, Options, Step, by_hand, put_aside, verify_with_progress};
use crate::{
    Against, DataFile, Dataset, Error, Result, atomic,
    http::{self, Refusal},
};

/// A try that brings the file less further than this did not get further.
const STEP_FORWARD: u64 = 1 << 16;
/// How often a whole file from one address may be a wrong one.
const WRONG_FILES: u32 = 2;
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Fetches `file` to `path` from the first of `urls` that gives the right one.
pub(super) fn fetch(
    dataset: &Dataset,
    file: &DataFile,
    urls: &[String],
    path: &Path,
    options: &Options<'_>,
) -> Result<FetchedFile> {
    let failed = |why: String, remedy: String| Error::CannotDownload {
        dataset: dataset.name.clone(),
        why: format!("{}: {why}", file.name),
        remedy,
    };
    if urls.is_empty() {
        return Err(failed("no address is known".to_owned(), by_hand(dataset, file)));
    }
    let mut part = match Part::open(path)? {
        Some(part) => part,
        None => {
            let why = "another process is fetching it".to_owned();
            return Err(failed(why, "wait for that, or end it".to_owned()));
        }
    };
    let (mut reasons, mut set_aside) = (Vec::new(), Vec::new());
    for url in urls {
        let mut transfer = Transfer { url, dataset, file, path, options, part: &mut part };
        match transfer.run(&mut set_aside)? {
            Ok(against) => {
                let bytes = part.put_in_place(path)?;
                tracing::info!(dataset = dataset.name, file = file.name, bytes, "in place");
                let path = path.to_owned();
                return Ok(FetchedFile { path, bytes, how: How::Downloaded, against, set_aside });
            }
            Err(reason) => reasons.push(format!("{url}: {reason}")),
        }
    }
    part.give_up();
    let again = "check the network and try again, which goes on where this stopped";
    Err(failed(reasons.join("; "), format!("{again}, or {}", by_hand(dataset, file))))
}

/// The attempts at one address.
struct Transfer<'a> {
    url: &'a str,
    dataset: &'a Dataset,
    file: &'a DataFile,
    path: &'a Path,
    options: &'a Options<'a>,
    part: &'a mut Part,
}

impl Transfer<'_> {
    /// Until the file is there and right, or the address is given up for a reason. An error is one of this machine.
    fn run(&mut self, set_aside: &mut Vec<PathBuf>) -> Result<std::result::Result<Against, String>> {
        let (mut idle, mut wrong, mut furthest) = (0, 0, self.part.length);
        loop {
            let reason = match self.attempt()? {
                Attempt::Whole => match self.verify()? {
                    Ok(against) => return Ok(Ok(against)),
                    Err(reason) => {
                        let bad = self.part.set_aside(self.path)?;
                        tracing::warn!(url = self.url, reason, set_aside = %bad.display(), "a wrong file");
                        set_aside.push(bad);
                        wrong += 1;
                        if wrong >= WRONG_FILES {
                            return Ok(Err(format!("{reason} (twice)")));
                        }
                        furthest = 0;
                        continue;
                    }
                },
                Attempt::Broken(reason) => reason,
                Attempt::Refused(reason) => return Ok(Err(reason)),
            };
            tracing::info!(url = self.url, reason, bytes = self.part.length, "trying again");
            if self.part.length >= furthest.saturating_add(STEP_FORWARD) {
                furthest = self.part.length;
                idle = 0;
                continue;
            }
            let network = &self.options.network;
            if idle >= network.retries {
                return Ok(Err(format!("{reason} ({} tries)", idle + 1)));
            }
            std::thread::sleep(network.backoff.saturating_mul(1 << idle.min(10)).min(LONGEST_PAUSE));
            idle += 1;
        }
    }

    /// One request for what is missing.
    fn attempt(&mut self) -> Result<Attempt> {
        let network = &self.options.network;
        // Where no checksum is known, only the server can tell that two pieces belong together.
        let nothing_known = self.file.content.is_some() && self.file.archive.is_some();
        self.part.begin(self.url, nothing_known)?;
        let from = self.part.length;
        let mut answer = match http::get(network, self.url, from, self.part.origin.validator.as_deref()) {
            Ok(answer) => answer,
            Err(Refusal::BeyondTheEnd) if Some(from) == self.part.origin.total => return Ok(Attempt::Whole),
            Err(Refusal::BeyondTheEnd) => {
                self.part.restart()?;
                return Ok(Attempt::Broken("the server has less than what came before".to_owned()));
            }
            Err(Refusal::Final(reason)) => return Ok(Attempt::Refused(reason)),
            Err(Refusal::Passing(reason)) => return Ok(Attempt::Broken(reason)),
        };
        let other = answer.total.is_some() && self.part.origin.total.is_some_and(|t| answer.total != Some(t));
        if answer.start != from || (from > 0 && other) {
            // The server ignores the range, or the file has changed: what came before does not belong to it.
            self.part.restart()?;
            if answer.start != 0 {
                return Ok(Attempt::Broken(format!(
                    "the server sends byte {} for byte {from}",
                    answer.start
                )));
            }
        }
        self.part.from(self.url, answer.validator.take(), answer.total)?;
        let known = self.file.archive_bytes.or(self.file.content_bytes);
        let total = answer.total.or(known);
        // A copy that was packed anew may be longer; one that does not end is no copy.
        let most = answer.total.or(known.map(|bytes| bytes.saturating_mul(4).saturating_add(1 << 20)));
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = match answer.body.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Ok(Attempt::Broken(http::broken(&e, network))),
            };
            if n == 0 {
                break;
            }
            self.part.append(&buffer[..n])?;
            let done = self.part.length;
            self.options.report(self.dataset, self.file, Step::Download, done, total);
            if most.is_some_and(|most| done > most) {
                self.part.restart()?;
                return Ok(Attempt::Refused(format!("sends more than {done} bytes and does not end")));
            }
        }
        // Without a length in the answer, the end and a broken connection look alike: the checksum decides.
        let got = self.part.length;
        match answer.total {
            Some(total) if got < total => {
                Ok(Attempt::Broken(format!("the connection broke off after {got} of {total} bytes")))
            }
            _ => Ok(Attempt::Whole),
        }
    }

    /// Whether the whole file is the right one; an error is one of this machine.
    fn verify(&mut self) -> Result<std::result::Result<Against, String>> {
        self.part.sync()?;
        match verify_with_progress(&self.part.path, self.dataset, self.file, self.options) {
            Ok(verified) => Ok(Ok(verified.against)),
            Err(error @ Error::Io { .. }) => Err(error),
            Err(error) => {
                // The message names the part; the reader knows the file.
                let part = self.part.path.display().to_string();
                Ok(Err(error.to_string().replace(&part, &self.path.display().to_string())))
            }
        }
    }
}

enum Attempt {
    /// Everything came.
    Whole,
    /// Something came, or nothing; trying again may help.
    Broken(String),
    /// Trying again is of no use.
    Refused(String),
}

/// The file that grows, locked against other processes.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    origin: Origin,
}

/// Where a part comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Origin {
    url: String,
    validator: Option<String>,
    total: Option<u64>,
}

impl Part {
    /// The part beside `path` with what came before; `None` if another process holds it.
    fn open(path: &Path) -> Result<Option<Self>> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(folder).map_err(Error::io(folder, "create this folder"))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = folder.join(format!(".{name}.part"));
        loop {
            let options = File::options().read(true).write(true).create(true).truncate(false).open(&part);
            let file = options.map_err(Error::io(&part, "create this file"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(e)) => return Err(Error::io(&part, "lock this file")(e)),
            }
            // The holder of the lock may have renamed the file between opening and locking.
            if !same_file(&file, &part) {
                continue;
            }
            let length = file.metadata().map_err(Error::io(&part, "read this file"))?.len();
            let text = fs::read_to_string(origin_of(&part)).unwrap_or_default();
            let origin: Origin = toml::from_str(&text).unwrap_or_default();
            return Ok(Some(Self { path: part, file, length, origin }));
        }
    }

    /// Before a request to `url`: what came before counts only if it can be told to belong to the same file, by the
    /// server with a validator, which is a must if `strict`, or in the end by the checksum.
    fn begin(&mut self, url: &str, strict: bool) -> Result<()> {
        let same = self.origin.url == url;
        let belongs = if strict {
            same && self.origin.validator.is_some()
        } else {
            same || self.origin.total.is_some()
        };
        if self.length > 0 && !belongs {
            return self.restart();
        }
        if !same {
            self.origin.validator = None;
        }
        Ok(())
    }

    /// Notes where what follows comes from, before it comes.
    fn from(&mut self, url: &str, validator: Option<String>, total: Option<u64>) -> Result<()> {
        let origin = Origin { url: url.to_owned(), validator, total };
        if origin != self.origin {
            let text = toml::to_string(&origin).unwrap_or_default();
            atomic::write(&origin_of(&self.path), |out| out.write_all(text.as_bytes()))?;
            self.origin = origin;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(self.length)).and_then(|_| self.file.write_all(bytes));
        written.map_err(Error::io(&self.path, "write this file"))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io(&self.path, "empty this file"))?;
        self.length = 0;
        self.origin = Origin::default();
        let _ = fs::remove_file(origin_of(&self.path)); // it describes nothing any more
        Ok(())
    }

    /// Leaves what came for the next time, and nothing if nothing came.
    fn give_up(self) {
        if self.length == 0 {
            let _ = fs::remove_file(origin_of(&self.path));
            let _ = fs::remove_file(&self.path);
            let _ = self.path.parent().map(fs::remove_dir); // only goes if it is empty
        }
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path, "sync this file"))
    }

    /// Renames the wrong content to `path` with `.bad` and begins anew.
    fn set_aside(&mut self, path: &Path) -> Result<PathBuf> {
        let bad = put_aside(&self.path, path)?;
        match Self::open(path)? {
            Some(fresh) => *self = fresh,
            None => {
                return Err(Error::io(&self.path, "lock this file")(std::io::ErrorKind::WouldBlock.into()));
            }
        }
        self.restart()?;
        Ok(bad)
    }

    /// Renames the right content to `path`; its length.
    fn put_in_place(self, path: &Path) -> Result<u64> {
        self.file.sync_all().map_err(Error::io(&self.path, "sync this file"))?;
        let _ = fs::remove_file(origin_of(&self.path)); // it describes nothing any more
        fs::rename(&self.path, path).map_err(Error::io(path, "rename the finished file into place"))?;
        atomic::sync_folder(path);
        Ok(self.length)
    }
}

fn origin_of(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".from");
    PathBuf::from(name)
}

/// Whether an open file is the one that lies at `path`, as far as length and time of birth or change tell.
fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => open.len() == there.len() && open.modified().ok() == there.modified().ok(),
        _ => false,
    }
}
