//! Fetching datasets: from a folder of this machine, over HTTP, or from the Hugging Face hub. A file is verified
//! against the manifest before it is put in place, so that what lies there is whole and right, or absent.
//!
//! An interrupted transfer goes on where it stopped, even that of a killed process; a wrong file is set aside as
//! `FILE.bad` and fetched again.

mod transfer;

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use flate2::{Compression, GzBuilder};

pub use crate::http::Network;
use crate::{Against, DataFile, Dataset, Error, Manifest, Result, Verified, atomic, bundled, verify::verify};

/// Where files come from if not from where they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirror<'a> {
    /// A folder that holds the files, or a folder `NAME` with the files, raw or gzip.
    Folder(&'a Path),
    /// An address below which the files lie, as `NAME/FILE` or as `FILE`.
    Url(&'a str),
}

impl<'a> Mirror<'a> {
    /// An address if it looks like one, else a folder.
    ///
    /// # Examples
    /// ```
    /// use dml_data::download::Mirror;
    /// assert_eq!(Mirror::new("http://localhost:8000/sets"), Mirror::Url("http://localhost:8000/sets"));
    /// assert_eq!(Mirror::new("sets"), Mirror::Folder("sets".as_ref()));
    /// ```
    pub fn new(place: &'a str) -> Self {
        let address = place.starts_with("http://") || place.starts_with("https://");
        if address { Self::Url(place) } else { Self::Folder(Path::new(place)) }
    }
}

/// How to fetch.
#[derive(Clone)]
pub struct Options<'a> {
    /// Where files come from; `None`: from where the manifest says.
    pub mirror: Option<Mirror<'a>>,
    /// Where to put them: `dir/NAME/FILE`.
    pub dir: &'a Path,
    /// Only verify what lies in `dir`.
    pub verify_only: bool,
    /// How many files are fetched at a time.
    pub jobs: usize,
    /// Proxies, patience.
    pub network: Network,
    /// Told of each step forward, from any thread.
    pub progress: &'a (dyn Fn(Progress<'_>) + Sync),
}

impl<'a> Options<'a> {
    /// Fetch into `dir` from where the manifest says, four files at a time, silently, with the proxies of the
    /// environment.
    pub fn new(dir: &'a Path) -> Self {
        Self {
            mirror: None,
            dir,
            verify_only: false,
            jobs: 4,
            network: Network::from_env(),
            progress: &|_| {},
        }
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("mirror", &self.mirror)
            .field("dir", &self.dir)
            .field("verify_only", &self.verify_only)
            .field("jobs", &self.jobs)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// How far a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The dataset.
    pub dataset: &'a str,
    /// The file.
    pub file: &'a str,
    /// What is being done.
    pub step: Step,
    /// The bytes of it done.
    pub done: u64,
    /// All bytes, where known.
    pub total: Option<u64>,
}

/// What is being done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Coming over the network.
    Download,
    /// Being compared with the manifest.
    Verify,
    /// In place, or given up.
    Done,
}

/// A dataset that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its name in the manifest: that of a part where only the part was to be had.
    pub dataset: String,
    /// Which part of the set it is, if it is a part only. Every figure from it must say so.
    pub partial: Option<String>,
    /// Its files.
    pub files: Vec<FetchedFile>,
}

/// A file that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length on disk.
    pub bytes: u64,
    /// How it got there.
    pub how: How,
    /// What it was compared with.
    pub against: Against,
    /// Wrong files that were in its place or came first, set aside.
    pub set_aside: Vec<PathBuf>,
}

/// How a file got in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was there and right.
    AlreadyThere,
    /// Copied from the mirror, or for a bundled dataset from the source tree.
    Copied,
    /// Downloaded.
    Downloaded,
}

/// The datasets that can be fetched.
///
/// # Errors
/// As [`Manifest::builtin`].
pub fn list() -> Result<Vec<Dataset>> {
    Ok(Manifest::builtin()?.datasets)
}

/// Puts the files of dataset `name` into `options.dir/name`, or verifies them there. Files that are there and
/// right are left alone, so an interrupted fetch goes on where it stopped; wrong ones are set aside as `FILE.bad`.
///
/// Where a mirror, or the folder to verify, has only a known part of the set, that part is fetched under its own
/// name, and [`Fetched::partial`] says so.
///
/// # Errors
/// [`Error::UnknownDataset`]; [`Error::NotFound`] for a file that no folder has; [`Error::Checksum`],
/// [`Error::Corrupt`] and [`Error::Archive`] for a file of a mirror's folder that is not what the manifest says;
/// [`Error::CannotDownload`] names every address tried and what was wrong there. Nothing wrong is put in place.
/// # Examples
/// ```
/// use dml_data::download::{self, How, Options};
/// let folder = tempfile::tempdir()?;
/// let fetched = download::fetch("mnist-5k", &Options::new(folder.path()))?;
/// assert!(fetched.files.iter().all(|file| file.how == How::Copied));
/// let again = download::fetch("mnist-5k", &Options { verify_only: true, ..Options::new(folder.path()) })?;
/// assert!(again.files.iter().all(|file| file.how == How::AlreadyThere));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn fetch(name: &str, options: &Options<'_>) -> Result<Fetched> {
    let manifest = Manifest::builtin()?;
    let mut fetched = fetch_all(&manifest, &[name], options);
    fetched.pop().unwrap_or_else(|| Err(unknown(&manifest, name)))
}

/// As [`fetch`] for several datasets of `manifest`, up to `options.jobs` files at a time; one result a name.
///
/// # Errors
/// Those of [`fetch`], a result each: one set that cannot be had does not keep the others away.
pub fn fetch_all(manifest: &Manifest, names: &[&str], options: &Options<'_>) -> Vec<Result<Fetched>> {
    let sets: Vec<Result<&Dataset>> = names.iter().map(|name| manifest.get(name)).collect();
    // (set, file), in order; results in the same order.
    let tasks: Vec<(usize, &Dataset, &DataFile)> = sets
        .iter()
        .enumerate()
        .filter_map(|(i, set)| Some((i, *set.as_ref().ok()?)))
        .flat_map(|(i, set)| set.files.iter().map(move |file| (i, set, file)))
        .collect();
    let results: Vec<Mutex<Option<Result<FetchedFile>>>> = tasks.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, tasks.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let (Some((_, set, file)), Some(result)) = (tasks.get(i), results.get(i)) else { break };
                    let fetched = fetch_file(set, file, options);
                    options.report(set, file, Step::Done, 0, None);
                    if let Ok(mut result) = result.lock() {
                        *result = Some(fetched);
                    }
                }
            });
        }
    });
    let mut files: Vec<Vec<Result<FetchedFile>>> = names.iter().map(|_| Vec::new()).collect();
    for ((i, ..), result) in tasks.iter().zip(results) {
        if let (Some(files), Ok(Some(result))) = (files.get_mut(*i), result.into_inner()) {
            files.push(result);
        }
    }
    let whole = |set: Result<&Dataset>, files: Vec<Result<FetchedFile>>| {
        let set = set?;
        match files.into_iter().collect::<Result<Vec<_>>>() {
            Ok(files) => Ok(Fetched { dataset: set.name.clone(), partial: set.partial.clone(), files }),
            Err(error) => fetch_part(manifest, set, options).unwrap_or(Err(error)),
        }
    };
    sets.into_iter().zip(files).map(|(set, files)| whole(set, files)).collect()
}

/// The first known part of a set that can be had where the whole cannot; `None` if there is none.
fn fetch_part(manifest: &Manifest, whole: &Dataset, options: &Options<'_>) -> Option<Result<Fetched>> {
    if options.mirror.is_none() && !options.verify_only {
        return None; // where the whole is published, a part would only hide what went wrong
    }
    let parts = manifest.datasets.iter().filter(|set| set.partial_of.as_ref() == Some(&whole.name));
    for part in parts {
        let files = part.files.iter().map(|file| fetch_file(part, file, options)).collect::<Result<Vec<_>>>();
        if let Ok(files) = files {
            tracing::warn!(whole = whole.name, part = part.name, "only a part of this set is to be had");
            return Some(Ok(Fetched { dataset: part.name.clone(), partial: part.partial.clone(), files }));
        }
    }
    None
}

fn unknown(manifest: &Manifest, name: &str) -> Error {
    match manifest.get(name) {
        Err(error) => error,
        Ok(_) => Error::UnknownDataset { name: name.to_owned(), known: String::new() },
    }
}

/// One file: left alone if right, else set aside and fetched.
fn fetch_file(dataset: &Dataset, file: &DataFile, options: &Options<'_>) -> Result<FetchedFile> {
    let folder = options.dir.join(&dataset.name);
    let path = folder.join(&file.name);
    let mut set_aside = Vec::new();
    if path.exists() {
        match verify_with_progress(&path, dataset, file, options) {
            Ok(Verified { file_bytes: bytes, against, .. }) => {
                return Ok(FetchedFile { path, bytes, how: How::AlreadyThere, against, set_aside });
            }
            Err(error) if options.verify_only => return Err(error),
            Err(error) => {
                let bad = put_aside(&path, &path)?;
                tracing::warn!(%error, set_aside = %bad.display(), "fetching again");
                set_aside.push(bad);
            }
        }
    } else if options.verify_only {
        return Err(missing(dataset, file, vec![path], "fetch it without verifying only".to_owned()));
    }
    let mut fetched = match options.mirror {
        Some(Mirror::Folder(mirror)) => copy(dataset, file, mirror, path, options)?,
        Some(Mirror::Url(address)) => {
            let address = address.trim_end_matches('/');
            let folders = [Some(&dataset.name), dataset.partial_of.as_ref()];
            let mut urls: Vec<String> =
                folders.iter().flatten().map(|folder| format!("{address}/{folder}/{}", file.name)).collect();
            urls.push(format!("{address}/{}", file.name));
            transfer::fetch(dataset, file, &urls, &path, options)?
        }
        None if dataset.bundled => copy(dataset, file, &bundled::folder(&dataset.name)?, path, options)?,
        None => {
            let urls: Vec<String> = file.urls.iter().map(|url| options.network.resolve(url)).collect();
            match transfer::fetch(dataset, file, &urls, &path, options) {
                Err(error) if cfg!(feature = "hub") && dataset.hub.is_some() => {
                    from_hub(dataset, file, path, options, error)?
                }
                fetched => fetched?,
            }
        }
    };
    set_aside.append(&mut fetched.set_aside);
    Ok(FetchedFile { set_aside, ..fetched })
}

/// Renames a wrong file to the name of the right one with `.bad` behind it.
fn put_aside(wrong: &Path, path: &Path) -> Result<PathBuf> {
    let mut bad = path.as_os_str().to_owned();
    bad.push(".bad");
    let bad = PathBuf::from(bad);
    fs::rename(wrong, &bad).map_err(Error::io(&bad, "set a wrong file aside under this name"))?;
    Ok(bad)
}

fn copy(
    dataset: &Dataset,
    file: &DataFile,
    mirror: &Path,
    path: PathBuf,
    options: &Options<'_>,
) -> Result<FetchedFile> {
    let raw = file.name.strip_suffix(".gz").unwrap_or(&file.name);
    let folders = [Some(&dataset.name), dataset.partial_of.as_ref()];
    let mut places = Vec::new();
    for root in folders.iter().flatten().map(|folder| mirror.join(folder)).chain([mirror.to_owned()]) {
        places.push(root.join(&file.name));
        if raw != file.name && !raw.ends_with(".tar") {
            places.push(root.join(raw));
        }
    }
    let Some(source) = places.iter().find(|place| place.is_file()) else {
        let remedy = match file.urls.first() {
            Some(url) => format!("put it there, e.g. from {url}"),
            None => format!("put it there, e.g. from {}", dataset.homepage),
        };
        return Err(missing(dataset, file, places, remedy));
    };
    install(source, path, dataset, file, How::Copied, options)
}

/// Verifies `source`, puts a copy at `path` (packed if its name asks for it), and verifies what lies there.
fn install(
    source: &Path,
    path: PathBuf,
    dataset: &Dataset,
    file: &DataFile,
    how: How,
    options: &Options<'_>,
) -> Result<FetchedFile> {
    let found = verify_with_progress(source, dataset, file, options)?;
    let mut input = File::open(source).map_err(Error::io(source, "open this file"))?;
    let pack = !found.gzip && file.name.ends_with(".gz");
    atomic::write_checked(
        &path,
        |out| if pack { gzip(&mut input, out) } else { io::copy(&mut input, out).map(|_| ()) },
        // The source may have changed since it was verified: only what was written counts.
        |aside| verify(aside, file, &mut |_| {}).map(|_| ()),
    )?;
    let bytes = fs::metadata(&path).map_err(Error::io(&path, "read this file"))?.len();
    tracing::info!(dataset = dataset.name, file = file.name, bytes, "in place");
    Ok(FetchedFile { path, bytes, how, against: found.against, set_aside: Vec::new() })
}

fn gzip(input: &mut dyn io::Read, out: &mut dyn Write) -> io::Result<()> {
    let mut packed = GzBuilder::new().mtime(0).write(out, Compression::best());
    io::copy(input, &mut packed)?;
    packed.finish().map(|_| ())
}

fn verify_with_progress(
    path: &Path,
    dataset: &Dataset,
    file: &DataFile,
    options: &Options<'_>,
) -> Result<Verified> {
    let total = fs::metadata(path).map_err(Error::io(path, "read this file"))?.len();
    verify(path, file, &mut |done| options.report(dataset, file, Step::Verify, done, Some(total)))
}

impl Options<'_> {
    fn report(&self, dataset: &Dataset, file: &DataFile, step: Step, done: u64, total: Option<u64>) {
        (self.progress)(Progress { dataset: &dataset.name, file: &file.name, step, done, total });
    }
}

fn missing(dataset: &Dataset, file: &DataFile, looked_at: Vec<PathBuf>, remedy: String) -> Error {
    Error::NotFound { dataset: dataset.name.clone(), file: file.name.clone(), looked_at, remedy }
}

/// How to go on by hand when nothing can be downloaded.
fn by_hand(dataset: &Dataset, file: &DataFile) -> String {
    let place = file.urls.first().unwrap_or(&dataset.homepage);
    format!("fetch it by hand, e.g. from {place}, and name its folder as the mirror")
}

#[cfg(not(feature = "hub"))]
fn from_hub(_: &Dataset, _: &DataFile, _: PathBuf, _: &Options<'_>, error: Error) -> Result<FetchedFile> {
    Err(error)
}

/// The hub's copy, where the addresses of the manifest gave nothing but `error`.
#[cfg(feature = "hub")]
fn from_hub(
    dataset: &Dataset,
    file: &DataFile,
    path: PathBuf,
    options: &Options<'_>,
    error: Error,
) -> Result<FetchedFile> {
    let Some(hub) = &dataset.hub else { return Err(error) };
    tracing::warn!(%error, repository = hub.repo, "trying the hub");
    options.report(dataset, file, Step::Download, 0, None);
    let downloaded = crate::hub::download(dataset, hub, &[file]).map_err(|why| Error::CannotDownload {
        dataset: dataset.name.clone(),
        why: format!("{error}; hub: {why}"),
        remedy: format!("check the network and try again, or {}", by_hand(dataset, file)),
    })?;
    match downloaded.first() {
        Some(source) => install(source.path(), path, dataset, file, How::Downloaded, options),
        None => Err(error),
    }
}
