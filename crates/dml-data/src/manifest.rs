//! `datasets/manifest.toml`: what datasets there are, how each file is verified, what it may be used for.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{Error, ImageSet, Result};

/// The datasets that are known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The datasets, names unique.
    #[serde(rename = "dataset")]
    pub datasets: Vec<Dataset>,
}

/// A dataset.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Its name on the command line and of its folder.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// The format of its files.
    pub format: Format,
    /// Whether it comes with the workspace.
    #[serde(default)]
    pub bundled: bool,
    /// What it may be used for.
    pub license: String,
    /// The citation key of its paper.
    pub citation: String,
    /// The names of its classes, in the order of their labels.
    pub classes: Vec<String>,
    /// Where the Hugging Face hub has it.
    pub hub: Option<Hub>,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<DataFile>,
}

/// A format of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// Pairs of IDX files; see [`crate::format::idx`].
    Idx,
}

/// A copy on the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// The dataset repository, `owner/name`.
    pub repo: String,
    /// How it is read.
    pub reader: HubReader,
}

/// How a copy on the hub is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HubReader {
    /// The repository holds the very files of the manifest.
    Files,
    /// `candle_datasets::vision::mnist`.
    CandleMnist,
    /// `candle_datasets::vision::fashion_mnist`.
    CandleFashionMnist,
}

/// The part of a dataset that a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The part its authors train on.
    Train,
    /// The part its authors test on.
    Test,
    /// All of a dataset that comes undivided.
    All,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// Images.
    Images,
    /// Labels.
    Labels,
}

/// A file and what is known to verify it. `content_*` describe the unpacked file, `archive_*` the `.gz` as its
/// authors published it. At least one checksum is there, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Its name, without folder.
    pub name: String,
    /// The part it belongs to.
    pub part: Part,
    /// What it holds.
    pub holds: Holds,
    /// Where its authors, or mirrors, publish it.
    #[serde(default)]
    pub urls: Vec<String>,
    /// The length of the content.
    pub content_bytes: u64,
    /// The SHA-256 of the content.
    pub content_sha256: Option<String>,
    /// The MD5 of the content: guards against accidents, not against malice.
    pub content_md5: Option<String>,
    /// The length of the published archive.
    pub archive_bytes: Option<u64>,
    /// The SHA-256 of the published archive.
    pub archive_sha256: Option<String>,
    /// The MD5 of the published archive.
    pub archive_md5: Option<String>,
}

impl Manifest {
    /// The manifest of the workspace, as it was when this crate was built.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    /// # Examples
    /// ```
    /// let manifest = dml_data::Manifest::builtin()?;
    /// assert_eq!(manifest.get("fashion-mnist")?.classes[9], "Ankle boot");
    /// assert_eq!(
    ///     manifest.get("mnits").unwrap_err().to_string(),
    ///     "dataset `mnits` is not in the manifest; known are mnist-5k, mnist, fashion-mnist, kmnist"
    /// );
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn builtin() -> Result<Self> {
        Self::parse(include_str!("../../../datasets/manifest.toml"), Path::new("datasets/manifest.toml"))
    }

    /// Parses and checks a manifest; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Manifest`] names the entry and what is wrong with it.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let manifest_error = |why: String| Error::Manifest { path: path.to_owned(), why };
        let manifest: Self =
            toml::from_str(text).map_err(|e| manifest_error(e.to_string().trim_end().to_owned()))?;
        manifest.check().map_err(manifest_error)?;
        Ok(manifest)
    }

    /// Reads and checks a manifest file.
    ///
    /// # Errors
    /// [`Error::Io`], else as [`parse`](Self::parse).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(&std::fs::read_to_string(path).map_err(Error::io(path, "read this file"))?, path)
    }

    /// The dataset of this name.
    ///
    /// # Errors
    /// [`Error::UnknownDataset`] lists the names there are.
    pub fn get(&self, name: &str) -> Result<&Dataset> {
        self.datasets.iter().find(|d| d.name == name).ok_or_else(|| Error::UnknownDataset {
            name: name.to_owned(),
            known: self.datasets.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn check(&self) -> std::result::Result<(), String> {
        let mut names = BTreeSet::new();
        for dataset in &self.datasets {
            let name = &dataset.name;
            if !is_plain_name(name) {
                return Err(format!(
                    "dataset `{name}`: a name is letters, digits, `-`, `_` and `.`; rename it"
                ));
            }
            if !names.insert(name) {
                return Err(format!("dataset `{name}` is listed twice; rename or remove one"));
            }
            if dataset.classes.is_empty() {
                return Err(format!(
                    "dataset `{name}` has no classes; name them in the order of their labels"
                ));
            }
            if let Some(hub) = &dataset.hub
                && hub.repo.split('/').filter(|part| !part.is_empty()).count() != 2
            {
                return Err(format!("dataset `{name}`: hub.repo `{}` is not `owner/name`", hub.repo));
            }
            let mut files = BTreeSet::new();
            for file in &dataset.files {
                file.check().map_err(|why| format!("dataset `{name}`, file `{}`: {why}", file.name))?;
                if !files.insert(&file.name) {
                    return Err(format!("dataset `{name}` lists `{}` twice; remove one", file.name));
                }
            }
            for file in &dataset.files {
                let pair =
                    |holds| dataset.files.iter().filter(|f| f.part == file.part && f.holds == holds).count();
                if pair(Holds::Images) != 1 || pair(Holds::Labels) != 1 {
                    let part = file.part.as_str();
                    return Err(format!(
                        "dataset `{name}`: part `{part}` needs one file of images and one of labels"
                    ));
                }
            }
            if dataset.files.is_empty() {
                return Err(format!("dataset `{name}` has no files; list at least images and labels"));
            }
        }
        Ok(())
    }
}

impl Dataset {
    /// The images and labels of `part` out of `folder`, which holds this dataset's files.
    ///
    /// # Errors
    /// [`Error::Argument`] when the dataset has no such part; else as [`ImageSet::from_idx`].
    pub fn load(&self, folder: &Path, part: Part) -> Result<ImageSet> {
        let path = |holds| -> Result<PathBuf> {
            let file = self.files.iter().find(|f| f.part == part && f.holds == holds);
            file.map(|f| folder.join(&f.name)).ok_or_else(|| Error::Argument {
                op: "Dataset::load",
                arg: "part",
                got: format!("`{}`", part.as_str()),
                expected: format!("a part of {}: {}", self.name, self.parts().join(", ")),
            })
        };
        ImageSet::from_idx(path(Holds::Images)?, path(Holds::Labels)?, self.classes.clone())
    }

    /// The length of all files, unpacked.
    pub fn content_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.content_bytes).sum()
    }

    fn parts(&self) -> Vec<&'static str> {
        let mut parts: Vec<_> = self.files.iter().map(|f| f.part.as_str()).collect();
        parts.dedup();
        parts
    }
}

impl Part {
    /// Its name in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
            Self::All => "all",
        }
    }
}

impl DataFile {
    fn check(&self) -> std::result::Result<(), String> {
        if !is_plain_name(&self.name) {
            return Err("a name is letters, digits, `-`, `_` and `.`, without folder; rename it".into());
        }
        let checksums = [
            ("content_sha256", &self.content_sha256, 64),
            ("content_md5", &self.content_md5, 32),
            ("archive_sha256", &self.archive_sha256, 64),
            ("archive_md5", &self.archive_md5, 32),
        ];
        for (field, value, digits) in checksums {
            if let Some(value) = value
                && (value.len() != digits || value.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            {
                return Err(format!("{field} is `{value}`, expected {digits} lower-case hexadecimal digits"));
            }
        }
        if checksums.iter().all(|(_, value, _)| value.is_none()) {
            return Err("there is no checksum; give content_sha256".into());
        }
        if self.content_bytes == 0 {
            return Err("content_bytes is 0; give the length of the unpacked file".into());
        }
        Ok(())
    }
}

/// A name that is safe as a path component everywhere.
fn is_plain_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[dataset]]
name = "tiny"
title = "Tiny"
format = "idx"
license = "MIT"
citation = "nobody2020"
classes = ["a", "b"]
hub = { repo = "owner/tiny", reader = "files" }
[[dataset.file]]
name = "images.gz"
part = "all"
holds = "images"
content_bytes = 20
content_md5 = "0123456789abcdef0123456789abcdef"
[[dataset.file]]
name = "labels.gz"
part = "all"
holds = "labels"
content_bytes = 10
archive_md5 = "0123456789abcdef0123456789abcdef"
"#;

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse(text, Path::new("m.toml"))
    }

    #[test]
    fn the_manifest_of_the_workspace_is_sound() -> Result<()> {
        let manifest = Manifest::builtin()?;
        let names: Vec<_> = manifest.datasets.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["mnist-5k", "mnist", "fashion-mnist", "kmnist"]);
        for dataset in &manifest.datasets {
            assert_eq!(dataset.classes.len(), 10);
            for file in dataset.files.iter().filter(|_| !dataset.bundled) {
                let n: u64 = if file.part == Part::Train { 60_000 } else { 10_000 };
                let expected = if file.holds == Holds::Images { 16 + 784 * n } else { 8 + n };
                assert_eq!(file.content_bytes, expected, "{} {}", dataset.name, file.name);
            }
        }
        Ok(())
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse(GOOD).is_ok());
        let cases = [
            (
                ("\"images.gz\"", "\"../images.gz\""),
                "m.toml: dataset `tiny`, file `../images.gz`: a name is letters, digits, `-`, `_` and `.`, \
                 without folder; rename it",
            ),
            (
                ("content_md5 = \"0123456789abcdef0123456789abcdef\"", ""),
                "m.toml: dataset `tiny`, file `images.gz`: there is no checksum; give content_sha256",
            ),
            (
                ("content_md5 = \"0123456789abcdef", "content_md5 = \"0123456789ABCDEF"),
                "m.toml: dataset `tiny`, file `images.gz`: content_md5 is \
                 `0123456789ABCDEF0123456789abcdef`, expected 32 lower-case hexadecimal digits",
            ),
            (
                ("\"labels.gz\"", "\"images.gz\""),
                "m.toml: dataset `tiny` lists `images.gz` twice; remove one",
            ),
            (
                ("holds = \"labels\"", "holds = \"images\""),
                "m.toml: dataset `tiny`: part `all` needs one file of images and one of labels",
            ),
            (
                ("\"a\", \"b\"", ""),
                "m.toml: dataset `tiny` has no classes; name them in the order of their labels",
            ),
            (("owner/tiny", "tiny"), "m.toml: dataset `tiny`: hub.repo `tiny` is not `owner/name`"),
            (
                ("content_bytes = 20", "content_bytes = 0"),
                "m.toml: dataset `tiny`, file `images.gz`: content_bytes is 0; give the length of the unpacked \
                 file",
            ),
        ];
        for ((from, to), message) in cases {
            assert_eq!(parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string(), message);
        }
        let twice = format!("{GOOD}{GOOD}");
        assert_eq!(
            parse(&twice).unwrap_err().to_string(),
            "m.toml: dataset `tiny` is listed twice; rename or remove one"
        );
        let message = parse(&GOOD.replace("license", "licence")).unwrap_err().to_string();
        assert!(message.starts_with("m.toml: ") && message.contains("unknown field `licence`"), "{message}");
    }

    #[test]
    fn a_part_that_is_not_there_is_named() {
        let manifest = Manifest::builtin().unwrap();
        let error = manifest.get("mnist-5k").unwrap().load(Path::new("nowhere"), Part::Train).unwrap_err();
        assert_eq!(error.to_string(), "Dataset::load: `part` is `train`, expected a part of mnist-5k: all");
    }
}
