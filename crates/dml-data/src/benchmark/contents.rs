//! What is in a set's archive: through the index of a zip, out of a tape archive unpacked once, or in folders that
//! were unpacked by hand.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Error, FileSet, Format, Record, Result,
    archive::{self, Packing, ZipIndex},
};

/// Lists are a few megabytes.
const MAX_LIST_BYTES: u64 = 256 << 20;
const TOGETHER: &str = "fetch archive and lists from the same source";

/// The folder at the top of a format's archive.
pub(super) fn root_of(format: Format) -> Option<&'static str> {
    match format {
        Format::Cifar10 => Some("cifar-10-batches-bin"),
        Format::Cifar100 => Some("cifar-100-binary"),
        Format::Stl10 => Some("stl10_binary"),
        Format::Cub200 => Some("CUB_200_2011"),
        Format::Cars196 => Some("car_ims"),
        Format::Sop => Some("Stanford_Online_Products"),
        Format::Inshop => Some("img"),
        Format::Idx | Format::Svhn | Format::Omniglot => None,
    }
}

/// A file of a set, in its folder or where In-shop's own folders have it.
pub(super) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let places = ["", "Anno", "Eval", "Img"].map(|sub| folder.join(sub).join(name));
    places.into_iter().find(|path| path.is_file())
}

/// The files of an archive, by their names in it.
#[derive(Debug)]
pub(super) enum Contents {
    Folder(PathBuf),
    Zip(ZipIndex),
}

impl Contents {
    /// Those of `archive` in `folder`, or of `root` there if it was unpacked by hand.
    pub(super) fn open(folder: &Path, archive: &str, root: &str) -> Result<Self> {
        if folder.join(root).is_dir() {
            return Ok(Self::Folder(folder.to_owned()));
        }
        let path = find(folder, archive).unwrap_or_else(|| folder.join(archive));
        match Packing::of(archive) {
            Some(Packing::Zip) => Ok(Self::Zip(ZipIndex::open(&path)?)),
            _ => Ok(Self::Folder(archive::unpack(&path)?)),
        }
    }

    /// The file `name`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(root) => root.join(name),
            Self::Zip(index) => index.path().join(name),
        }
    }

    /// A list, line by line.
    pub(super) fn list(&self, name: &str) -> Result<List> {
        let path = self.path(name);
        match self {
            Self::Folder(_) => List::read(&path),
            Self::Zip(index) => match index.names().position(|file| file == name) {
                Some(i) => List::of(index.read(i, MAX_LIST_BYTES)?, path),
                None => Err(Error::Archive {
                    path: index.path().to_owned(),
                    member: name.to_owned(),
                    why: "is absent".to_owned(),
                    remedy: TOGETHER,
                }),
            },
        }
    }

    /// The set of these files.
    pub(super) fn files(
        self,
        records: Vec<Record>,
        class_names: Vec<String>,
        group_names: Vec<String>,
    ) -> Result<FileSet> {
        match self {
            Self::Folder(root) => FileSet::new(root, records, class_names, group_names),
            Self::Zip(index) => FileSet::in_zip(index, records, class_names, group_names),
        }
    }
}

/// A list of columns that are separated by white space.
#[derive(Debug)]
pub(super) struct List {
    text: String,
    path: PathBuf,
}

impl List {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let length = fs::metadata(path).map_err(Error::io(path, "open this list"))?.len();
        if length > MAX_LIST_BYTES {
            let list = Self { text: String::new(), path: path.to_owned() };
            return Err(list.fault(1, format!("{length} bytes, expected a list of at most {MAX_LIST_BYTES}")));
        }
        Self::of(fs::read(path).map_err(Error::io(path, "read this list"))?, path.to_owned())
    }

    fn of(bytes: Vec<u8>, path: PathBuf) -> Result<Self> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { text, path }),
            Err(_) => {
                let list = Self { text: String::new(), path };
                Err(list.fault(1, "text that is not UTF-8".to_owned()))
            }
        }
    }

    pub(super) fn fault(&self, line: u64, why: String) -> Error {
        Error::Line { path: self.path.clone(), line, why, remedy: TOGETHER }
    }

    /// The lines that are not empty after the first `skip`, with their numbers, in `N` columns.
    pub(super) fn rows<const N: usize>(&self, skip: usize) -> Result<Vec<(u64, [&str; N])>> {
        let mut rows = Vec::new();
        for (line, text) in (1..).zip(self.text.lines()).skip(skip) {
            let columns: Vec<&str> = text.split_whitespace().collect();
            if columns.is_empty() {
                continue;
            }
            let n = columns.len();
            let row = <[&str; N]>::try_from(columns);
            rows.push((line, row.map_err(|_| self.fault(line, format!("{n} columns, expected {N}")))?));
        }
        if rows.is_empty() {
            return Err(self.fault(1, "no lines, expected a list".to_owned()));
        }
        Ok(rows)
    }

    /// As [`rows`](Self::rows) of two columns, number and value, by number.
    pub(super) fn by_number(&self) -> Result<BTreeMap<u64, (u64, &str)>> {
        let mut values = BTreeMap::new();
        for (line, [number, value]) in self.rows(0)? {
            let number = self.number(line, number)?;
            if values.insert(number, (line, value)).is_some() {
                return Err(self.fault(line, format!("number {number} twice")));
            }
        }
        Ok(values)
    }

    pub(super) fn number<T: std::str::FromStr>(&self, line: u64, text: &str) -> Result<T> {
        text.parse().map_err(|_| self.fault(line, format!("`{text}`, expected a number")))
    }

    /// The number in the first line, of rows to come.
    pub(super) fn announced(&self) -> Result<usize> {
        self.number(1, self.text.lines().next().unwrap_or_default().trim())
    }
}
