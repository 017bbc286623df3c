//! What can go wrong with data, and how to put it right.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate: it names the function or file, the place, what was wanted and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be opened, read or written; the system's reason follows in the source chain.
    #[error("{}: cannot {action}; check that the path exists and that this user may access it", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file whose bytes are not what its format asks for.
    #[error("{}: byte {offset}: {why}; {remedy}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where, counted in the unpacked content for a gzip file.
        offset: u64,
        /// What was found and what was expected there.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An archive, or a file in it, that cannot be read.
    #[error("{}: {member}: {why}; {remedy}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The file in it.
        member: String,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A line of a text file that is not what its format asks for.
    #[error("{}:{line}: {why}; {remedy}", path.display())]
    Line {
        /// The file, or archive and file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What was found and what was expected there.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A folder that does not hold what it should.
    #[error("{}: {why}; {remedy}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Images and labels that do not belong together.
    #[error(
        "{} holds {n_images} images, {} holds {n_labels} labels; take both files from the same part of the \
         same dataset", images.display(), labels.display()
    )]
    CountMismatch {
        /// The file of images.
        images: PathBuf,
        /// How many it holds.
        n_images: usize,
        /// The file of labels.
        labels: PathBuf,
        /// How many it holds.
        n_labels: usize,
    },
    /// A picture that cannot be decoded.
    #[error("{name} {why}; fetch the file again or leave it out")]
    Decode {
        /// The file, or archive and member.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// An image that could not be brought into a batch; what was wrong follows in the source chain.
    #[error("image {index} ({name}): {source}")]
    Image {
        /// Its index in the set.
        index: usize,
        /// Its file, or `raw pixels`.
        name: String,
        /// What was wrong.
        source: Box<Error>,
    },
    /// A loader's worker that panicked: a mistake in a source or a transform.
    #[error(
        "image {index} ({name}): a worker of the loader panicked: {message}; leave the image out, and report this"
    )]
    Panicked {
        /// The index of the image it worked on.
        index: usize,
        /// Its file, `raw pixels`, or that it was not read yet.
        name: String,
        /// What the panic said.
        message: String,
    },
    /// A thread that the system refuses to start.
    #[error("cannot start a thread; use fewer workers, or end other programs")]
    Thread {
        /// The system's reason.
        source: std::io::Error,
    },
    /// An argument that makes no sense.
    #[error("{op}: `{arg}` is {got}, expected {expected}")]
    Argument {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// What it was.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// An index beyond the end of a set.
    #[error("{op}: `indices[{position}]` is {index}, but the set holds {len} items; use indices below {len}")]
    Index {
        /// The function called.
        op: &'static str,
        /// The position in `indices`.
        position: usize,
        /// The index found there.
        index: usize,
        /// The number of items.
        len: usize,
    },
    /// A class without any sample.
    #[error("{op}: class {class} has no sample; leave it out or add images of it")]
    MissingClass {
        /// The function called.
        op: &'static str,
        /// The class.
        class: i64,
    },
    /// A class with too few samples for what is asked.
    #[error("{op}: class {class} has {got} sample(s), {needed} are needed; leave it out or add images of it")]
    TooFewSamples {
        /// The function called.
        op: &'static str,
        /// The class.
        class: i64,
        /// How many samples it has.
        got: usize,
        /// How many are needed.
        needed: usize,
    },
    /// A manifest that cannot be used.
    #[error("{}: {why}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, in which entry, and what to do.
        why: String,
    },
    /// A dataset that the manifest does not list.
    #[error("dataset `{name}` is not in the manifest; known are {known}")]
    UnknownDataset {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A file whose content is not the one the manifest describes.
    #[error("{}: {what} is {got}, the manifest says {expected}; {remedy}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What was compared, e.g. `content sha256`.
        what: String,
        /// What the file has.
        got: String,
        /// What it should have.
        expected: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file of a dataset that is nowhere to be found.
    #[error("{dataset}: {file} is neither of {}; {remedy}", looked_at.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound {
        /// The dataset.
        dataset: String,
        /// The file.
        file: String,
        /// The places tried.
        looked_at: Vec<PathBuf>,
        /// What to do.
        remedy: String,
    },
    /// A download without a way to download.
    #[error("{dataset}: {why}; {remedy}")]
    CannotDownload {
        /// The dataset.
        dataset: String,
        /// What stands in the way.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A tensor operation failed; op and shapes follow in the source chain.
    #[error("tensor operation failed")]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// For `map_err`: an [`Error::Io`] about `path`.
    pub(crate) fn io(path: &std::path::Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
