//! Sets of JPEG and PNG files, in a folder or in a zip archive: only names and labels are kept in memory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

use crate::{BoundingBox, Error, Item, Result, Source, archive::ZipIndex};

/// A file that is larger than this is no picture of a set.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A file of a set, by its path from the root of the set, with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The file.
    pub path: String,
    /// Its class: an index into the names of the classes.
    pub label: i64,
    /// What its class belongs to: an index into the names of the groups.
    pub group: Option<i64>,
    /// Where in the picture the object is.
    pub crop: Option<BoundingBox>,
}

/// A labelled set of image files that are read one at a time.
///
/// Invariants: at least one file; every label and group has a name; all files have a group, or none.
///
/// # Examples
/// ```
/// use dml_data::{FileSet, Item, Source};
/// let folder = tempfile::tempdir()?;
/// for (class, file) in [("cat", "1.png"), ("cat", "2.PNG"), ("dog", "1.jpg")] {
///     std::fs::create_dir_all(folder.path().join(class))?;
///     std::fs::write(folder.path().join(class).join(file), b"not decoded yet")?;
/// }
/// let set = FileSet::image_folder(folder.path())?;
/// assert_eq!((set.labels(), set.class_names()), (&[0, 0, 1][..], &["cat".to_owned(), "dog".to_owned()][..]));
/// let Item::Encoded { bytes, .. } = set.item(2)? else { panic!() };
/// assert_eq!(&*bytes, b"not decoded yet");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileSet {
    files: Files,
    labels: Vec<i64>,
    class_names: Vec<String>,
    groups: Option<Vec<i64>>,
    group_names: Vec<String>,
    /// One a file, or none at all.
    crops: Vec<Option<BoundingBox>>,
}

#[derive(Debug)]
enum Files {
    Folder { root: PathBuf, paths: Vec<Box<str>> },
    Zip { index: ZipIndex, positions: Vec<usize> },
}

impl FileSet {
    /// Files below the folder `root`. Whether they exist shows when they are read.
    ///
    /// # Errors
    /// [`Error::Argument`] for no records, a label or group without name, or a group for some files only.
    pub fn new(
        root: impl Into<PathBuf>,
        records: Vec<Record>,
        class_names: Vec<String>,
        group_names: Vec<String>,
    ) -> Result<Self> {
        let paths = records.iter().map(|record| record.path.as_str().into()).collect();
        Self::build(Files::Folder { root: root.into(), paths }, records, class_names, group_names)
    }

    /// Files of a zip archive.
    pub(crate) fn in_zip(
        index: ZipIndex,
        records: Vec<Record>,
        class_names: Vec<String>,
        group_names: Vec<String>,
    ) -> Result<Self> {
        let places: HashMap<&str, usize> = index.names().enumerate().map(|(i, name)| (name, i)).collect();
        let positions = records
            .iter()
            .map(|record| {
                places.get(record.path.as_str()).copied().ok_or_else(|| Error::Archive {
                    path: index.path().to_owned(),
                    member: record.path.clone(),
                    why: "is listed but absent".to_owned(),
                    remedy: "fetch archive and lists from the same source",
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Self::build(Files::Zip { index, positions }, records, class_names, group_names)
    }

    /// A folder per class with image files in it, `CLASS/…/FILE.jpg`, `.jpeg` or `.png`; classes and files in the
    /// order of their names. Folders in a class belong to it; hidden files and folders are left out.
    ///
    /// # Errors
    /// [`Error::Folder`] when there are no class folders, or no images in one of them; [`Error::Io`] for one that
    /// cannot be read.
    pub fn image_folder(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let fault = |path: &Path, why: &str| Error::Folder {
            path: path.to_owned(),
            why: why.to_owned(),
            remedy: "put the images of each class into a folder of its own, CLASS/FILE.jpg",
        };
        let (mut records, mut class_names, mut folders) = (Vec::new(), Vec::new(), Vec::new());
        for entry in std::fs::read_dir(root).map_err(Error::io(root, "list this folder"))? {
            let entry = entry.map_err(Error::io(root, "list this folder"))?;
            if entry.path().is_dir() && !hidden(&entry.file_name().to_string_lossy()) {
                folders.push(entry.path());
            }
        }
        folders.sort();
        for folder in folders {
            let name = relative(root, &folder).ok_or_else(|| fault(&folder, "its name is not Unicode"))?;
            let label = class_names.len() as i64;
            let before = records.len();
            let walk = WalkDir::new(&folder).follow_links(true).sort_by_file_name();
            let seen = walk
                .into_iter()
                .filter_entry(|e| e.depth() == 0 || !hidden(&e.file_name().to_string_lossy()));
            for entry in seen {
                let entry = entry.map_err(|e| {
                    let path = e.path().unwrap_or(&folder).to_owned();
                    Error::io(&path, "list this folder")(e.into())
                })?;
                if entry.file_type().is_file() && is_image(entry.path()) {
                    let path = relative(root, entry.path())
                        .ok_or_else(|| fault(entry.path(), "its name is not Unicode"))?;
                    records.push(Record { path, label, group: None, crop: None });
                }
            }
            if records.len() == before {
                return Err(fault(&folder, "there is no image in this folder"));
            }
            class_names.push(name);
        }
        if records.is_empty() {
            return Err(fault(root, "there are no folders in it"));
        }
        Self::new(root, records, class_names, Vec::new())
    }

    fn build(
        files: Files,
        records: Vec<Record>,
        class_names: Vec<String>,
        group_names: Vec<String>,
    ) -> Result<Self> {
        let argument =
            |arg, got: String, expected: String| Error::Argument { op: "FileSet::new", arg, got, expected };
        if records.is_empty() {
            return Err(argument("records", "empty".to_owned(), "at least one file".to_owned()));
        }
        for record in &records {
            if !numbers(record.label, &class_names) {
                let expected =
                    format!("labels from 0 to below {}, the number of class names", class_names.len());
                return Err(argument(
                    "records",
                    format!("label {} of {}", record.label, record.path),
                    expected,
                ));
            }
            if record.group.is_some_and(|group| !numbers(group, &group_names)) {
                let expected =
                    format!("groups from 0 to below {}, the number of group names", group_names.len());
                return Err(argument("records", format!("{:?} of {}", record.group, record.path), expected));
            }
        }
        let groups: Vec<i64> = records.iter().filter_map(|record| record.group).collect();
        if !groups.is_empty() && groups.len() != records.len() {
            let got = format!("{} groups for {} files", groups.len(), records.len());
            return Err(argument("records", got, "a group for every file, or for none".to_owned()));
        }
        let any_crop = records.iter().any(|record| record.crop.is_some());
        Ok(Self {
            files,
            labels: records.iter().map(|record| record.label).collect(),
            class_names,
            groups: (!groups.is_empty()).then_some(groups),
            group_names,
            crops: if any_crop { records.iter().map(|record| record.crop).collect() } else { Vec::new() },
        })
    }

    /// The names of the groups.
    pub fn group_names(&self) -> &[String] {
        &self.group_names
    }

    /// Where image `index` lies: its file, or archive and member; `None` beyond the end.
    pub fn name(&self, index: usize) -> Option<String> {
        match &self.files {
            Files::Folder { root, paths } => Some(root.join(&**paths.get(index)?).display().to_string()),
            Files::Zip { index: zip, positions } => {
                let name = zip.name(*positions.get(index)?)?;
                Some(format!("{}: {name}", zip.path().display()))
            }
        }
    }
}

impl Source for FileSet {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn groups(&self) -> Option<&[i64]> {
        self.groups.as_deref()
    }

    fn item(&self, index: usize) -> Result<Item<'_>> {
        let Some(name) = self.name(index) else {
            return Err(Error::Index { op: "FileSet::item", position: 0, index, len: self.len() });
        };
        let bytes = match &self.files {
            Files::Folder { root, paths } => read(&root.join(&*paths[index]))?,
            Files::Zip { index: zip, positions } => zip.read(positions[index], MAX_FILE_BYTES)?,
        };
        Ok(Item::Encoded { bytes: Cow::Owned(bytes), name, crop: self.crops.get(index).copied().flatten() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path, "open this file"))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read this file"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::Corrupt {
            path: path.to_owned(),
            offset: MAX_FILE_BYTES,
            why: "the file goes on, expected a picture of at most 256 MiB".to_owned(),
            remedy: "leave it out of the set",
        });
    }
    Ok(bytes)
}

fn hidden(name: &str) -> bool {
    name.starts_with('.')
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| ["jpg", "jpeg", "png"].contains(&&*extension))
}

/// The path from `root`, with `/`.
fn relative(root: &Path, path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path.strip_prefix(root).ok()?.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

/// Whether a number is the index of a name.
pub(crate) fn numbers(label: i64, names: &[String]) -> bool {
    usize::try_from(label).is_ok_and(|label| label < names.len())
}

/// Numbers names in the order of their values, as numbers if all of them are.
pub(crate) fn numbered<'a>(names: impl Iterator<Item = &'a str>) -> (BTreeMap<&'a str, i64>, Vec<String>) {
    let mut unique: Vec<&str> = names.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    if let Some(mut numbers) =
        unique.iter().map(|name| Some((name.parse::<u64>().ok()?, *name))).collect::<Option<Vec<_>>>()
    {
        numbers.sort_unstable();
        unique = numbers.into_iter().map(|(_, name)| name).collect();
    }
    let names = unique.iter().map(|&name| name.to_owned()).collect();
    (unique.into_iter().zip(0..).collect(), names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file.as_bytes()).unwrap();
        }
        folder
    }

    #[test]
    fn classes_are_folders_and_other_files_are_left_out() -> Result<()> {
        let folder = folder(&[
            "b/2.jpg",
            "b/10.jpg",
            "a/deep/x.JPEG",
            "a/notes.txt",
            ".git/x.png",
            "a/.y.png",
            "z.png",
        ]);
        let set = FileSet::image_folder(folder.path())?;
        assert_eq!(set.class_names(), ["a", "b"]);
        assert_eq!(set.labels(), [0, 1, 1]);
        assert_eq!(set.name(1).unwrap(), folder.path().join("b/10.jpg").display().to_string());
        let Item::Encoded { bytes, name, crop: None } = set.item(0)? else { panic!() };
        assert_eq!((&*bytes, name), (&b"a/deep/x.JPEG"[..], set.name(0).unwrap()));
        Ok(())
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_named() {
        let message = |path: &Path| FileSet::image_folder(path).unwrap_err().to_string();
        let remedy = "put the images of each class into a folder of its own, CLASS/FILE.jpg";
        let flat = folder(&["1.jpg"]);
        let at = flat.path().display().to_string();
        assert_eq!(message(flat.path()), format!("{at}: there are no folders in it; {remedy}"));
        let empty = folder(&["a/1.jpg", "b/readme"]);
        let at = empty.path().join("b").display().to_string();
        assert_eq!(message(empty.path()), format!("{at}: there is no image in this folder; {remedy}"));
        assert!(message(&flat.path().join("none")).contains("cannot list this folder"));
        let gone = folder(&["a/1.jpg"]);
        let set = FileSet::image_folder(gone.path()).unwrap();
        std::fs::remove_file(gone.path().join("a/1.jpg")).unwrap();
        let at = gone.path().join("a/1.jpg").display().to_string();
        assert!(set.item(0).unwrap_err().to_string().starts_with(&format!("{at}: cannot open this file")));
        assert!(set.item(1).unwrap_err().to_string().starts_with("FileSet::item: `indices[0]` is 1"));
    }

    #[test]
    fn records_that_do_not_fit_are_named() {
        let record = |label, group| Record { path: "x.jpg".into(), label, group, crop: None };
        let message = |records: Vec<Record>| {
            FileSet::new("", records, vec!["a".into()], vec!["g".into()]).unwrap_err().to_string()
        };
        assert_eq!(message(vec![]), "FileSet::new: `records` is empty, expected at least one file");
        assert_eq!(
            message(vec![record(1, None)]),
            "FileSet::new: `records` is label 1 of x.jpg, expected labels from 0 to below 1, the number \
             of class names"
        );
        assert_eq!(
            message(vec![record(0, Some(0)), record(0, None)]),
            "FileSet::new: `records` is 1 groups for 2 files, expected a group for every file, or for none"
        );
        assert!(message(vec![record(-1, None)]).contains("label -1 of x.jpg"));
        assert!(message(vec![record(0, Some(1))]).contains("groups from 0 to below 1"));
    }

    #[test]
    fn a_hundred_thousand_files_are_names_until_they_are_asked_for() -> Result<()> {
        // None of them exists, so none can have been opened.
        let record =
            |i: i64| Record { path: format!("{}/{i}.jpg", i % 100), label: i % 100, group: None, crop: None };
        let names = (0..100).map(|i| i.to_string()).collect();
        let set = FileSet::new("nowhere", (0..100_000).map(record).collect(), names, vec![])?;
        assert_eq!((set.len(), set.labels()[99_999]), (100_000, 99));
        assert!(set.item(99_999).unwrap_err().to_string().contains("99/99999.jpg: cannot open this file"));
        Ok(())
    }

    #[test]
    fn names_that_are_numbers_are_ordered_as_numbers() {
        assert_eq!(numbered(["10", "9", "10"].into_iter()).1, ["9", "10"]);
        assert_eq!(numbered(["10", "9", "x"].into_iter()).1, ["10", "9", "x"]);
    }
}
