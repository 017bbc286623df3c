//! Fetching datasets: from a folder of this machine or from the Hugging Face hub, verified against the
//! manifest before a file is put in place, so that what lies there is whole and right, or absent.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder};

use crate::{DataFile, Dataset, Error, Manifest, Result, atomic, bundled, verify::verify};

/// How to fetch.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// A folder that holds the files, or a folder `NAME` with the files, raw or gzip. `None`: the hub.
    pub mirror: Option<&'a Path>,
    /// Where to put them: `dir/NAME/FILE`.
    pub dir: &'a Path,
    /// Only verify what lies in `dir`.
    pub verify_only: bool,
    /// Told of each step forward.
    pub progress: &'a dyn Fn(Progress<'_>),
}

impl<'a> Options<'a> {
    /// Fetch into `dir` from the hub, silently.
    pub fn new(dir: &'a Path) -> Self {
        Self { mirror: None, dir, verify_only: false, progress: &|_| {} }
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("mirror", &self.mirror)
            .field("dir", &self.dir)
            .field("verify_only", &self.verify_only)
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
}

/// A file that is in place and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length on disk.
    pub bytes: u64,
    /// How it got there.
    pub how: How,
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
/// right are left alone, so an interrupted fetch goes on where it stopped; wrong ones are replaced.
///
/// # Errors
/// [`Error::UnknownDataset`]; [`Error::NotFound`] for a file that neither folder has; [`Error::Checksum`] and
/// [`Error::Corrupt`] for a source that is not what the manifest says (nothing is put in place then);
/// [`Error::CannotDownload`] without mirror where the `hub` feature is off, the hub has no copy, or the
/// network fails.
/// # Examples
/// ```
/// use dml_data::download::{self, How, Options};
/// let folder = tempfile::tempdir()?;
/// let fetched = download::fetch("mnist-5k", &Options::new(folder.path()))?;
/// assert!(fetched.iter().all(|file| file.how == How::Copied));
/// let again = download::fetch("mnist-5k", &Options { verify_only: true, ..Options::new(folder.path()) })?;
/// assert!(again.iter().all(|file| file.how == How::AlreadyThere));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn fetch(name: &str, options: &Options<'_>) -> Result<Vec<Fetched>> {
    fetch_dataset(Manifest::builtin()?.get(name)?, options)
}

/// As [`fetch`], for a dataset of another manifest.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_dataset(dataset: &Dataset, options: &Options<'_>) -> Result<Vec<Fetched>> {
    let folder = options.dir.join(&dataset.name);
    let mut fetched: Vec<Option<Fetched>> = Vec::with_capacity(dataset.files.len());
    for file in &dataset.files {
        let path = folder.join(&file.name);
        if !path.exists() {
            if options.verify_only {
                return Err(missing(dataset, file, vec![path], "fetch it without verifying only".to_owned()));
            }
            fetched.push(None);
            continue;
        }
        match verify_with_progress(&path, dataset, file, options) {
            Ok(bytes) => fetched.push(Some(Fetched { path, bytes, how: How::AlreadyThere })),
            Err(error) if options.verify_only => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "replacing");
                fetched.push(None);
            }
        }
    }
    let wanted: Vec<&DataFile> =
        dataset.files.iter().zip(&fetched).filter(|(_, have)| have.is_none()).map(|(file, _)| file).collect();
    let mut new = if wanted.is_empty() {
        Vec::new()
    } else if let Some(mirror) = options.mirror {
        copy(dataset, &wanted, mirror, &folder, options)?
    } else if dataset.bundled {
        copy(dataset, &wanted, &bundled::folder(&dataset.name)?, &folder, options)?
    } else {
        from_hub(dataset, &wanted, &folder, options)?
    }
    .into_iter();
    Ok(fetched.into_iter().filter_map(|have| have.or_else(|| new.next())).collect())
}

fn copy(
    dataset: &Dataset,
    wanted: &[&DataFile],
    mirror: &Path,
    folder: &Path,
    options: &Options<'_>,
) -> Result<Vec<Fetched>> {
    let mut copied = Vec::new();
    for file in wanted {
        let raw = file.name.strip_suffix(".gz").unwrap_or(&file.name);
        let mut places = Vec::new();
        for root in [mirror.join(&dataset.name), mirror.to_owned()] {
            places.push(root.join(&file.name));
            if raw != file.name {
                places.push(root.join(raw));
            }
        }
        let Some(source) = places.iter().find(|place| place.is_file()) else {
            let remedy = match file.urls.first() {
                Some(url) => format!("put it there, e.g. from {url}"),
                None => "put it there".to_owned(),
            };
            return Err(missing(dataset, file, places, remedy));
        };
        let path = folder.join(&file.name);
        copied.push(install(source, path, dataset, file, How::Copied, options)?);
    }
    Ok(copied)
}

/// Verifies `source`, puts a copy at `path` (packed if its name asks for it), and verifies what lies there.
fn install(
    source: &Path,
    path: PathBuf,
    dataset: &Dataset,
    file: &DataFile,
    how: How,
    options: &Options<'_>,
) -> Result<Fetched> {
    let total = std::fs::metadata(source).map_err(Error::io(source, "read this file"))?.len();
    let found =
        verify(source, file, &mut |done| options.report(dataset, file, Step::Verify, done, Some(total)))?;
    let mut input = File::open(source).map_err(Error::io(source, "open this file"))?;
    let pack = !found.gzip && file.name.ends_with(".gz");
    atomic::write_checked(
        &path,
        |out| if pack { gzip(&mut input, out) } else { io::copy(&mut input, out).map(|_| ()) },
        // The source may have changed since it was verified: only what was written counts.
        |aside| verify(aside, file, &mut |_| {}).map(|_| ()),
    )?;
    let bytes = std::fs::metadata(&path).map_err(Error::io(&path, "read this file"))?.len();
    tracing::info!(dataset = dataset.name, file = file.name, bytes, "in place");
    Ok(Fetched { path, bytes, how })
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
) -> Result<u64> {
    let total = std::fs::metadata(path).map_err(Error::io(path, "read this file"))?.len();
    let mut report = |done| options.report(dataset, file, Step::Verify, done, Some(total));
    Ok(verify(path, file, &mut report)?.file_bytes)
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
fn by_hand(wanted: &[&DataFile]) -> String {
    match wanted.iter().find_map(|file| file.urls.first()) {
        Some(url) => format!("fetch the files by hand, e.g. {url}, and name their folder as the mirror"),
        None => "name a folder that holds the files as the mirror".to_owned(),
    }
}

#[cfg(not(feature = "hub"))]
fn from_hub(dataset: &Dataset, wanted: &[&DataFile], _: &Path, _: &Options<'_>) -> Result<Vec<Fetched>> {
    let (why, remedy) = if dataset.hub.is_some() {
        let how = "run `cargo xtask download`, or build with `--features dml-data/hub`, or ";
        ("downloads are not compiled in", format!("{how}{}", by_hand(wanted)))
    } else {
        ("the manifest names no copy on the hub", by_hand(wanted))
    };
    Err(Error::CannotDownload { dataset: dataset.name.clone(), why: why.to_owned(), remedy })
}

#[cfg(feature = "hub")]
fn from_hub(
    dataset: &Dataset,
    wanted: &[&DataFile],
    folder: &Path,
    options: &Options<'_>,
) -> Result<Vec<Fetched>> {
    let failed = |why: String| Error::CannotDownload {
        dataset: dataset.name.clone(),
        why,
        remedy: format!("check the network and try again, or {}", by_hand(wanted)),
    };
    let Some(hub) = &dataset.hub else {
        return Err(Error::CannotDownload {
            dataset: dataset.name.clone(),
            why: "the manifest names no copy on the hub".to_owned(),
            remedy: by_hand(wanted),
        });
    };
    for file in wanted {
        options.report(dataset, file, Step::Download, 0, None);
    }
    let downloaded = crate::hub::download(dataset, hub, wanted).map_err(failed)?;
    let sources = wanted.iter().zip(&downloaded);
    sources
        .map(|(file, source)| {
            install(source.path(), folder.join(&file.name), dataset, file, How::Downloaded, options)
        })
        .collect()
}
