//! `datasets/manifest.toml`: what datasets there are, how each file is verified, what it may be used for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{Error, ImageSet, Result, archive::Packing};

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
    /// The page where its authors, or keepers, offer it.
    pub homepage: String,
    /// The names of its classes, in the order of their labels; empty where its files name them.
    #[serde(default)]
    pub classes: Vec<String>,
    /// How many classes it has, where their names are not listed.
    pub n_classes: Option<usize>,
    /// How many images each of its parts has when it is complete.
    pub images: BTreeMap<Part, usize>,
    /// How its classes are divided for zero-shot retrieval; `None` where its parts are already class-disjoint.
    pub zero_shot: Option<ZeroShot>,
    /// The set of which this is a part only.
    pub partial_of: Option<String>,
    /// Which part, in words that a report can repeat.
    pub partial: Option<String>,
    /// Where the Hugging Face hub has it.
    pub hub: Option<Hub>,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<DataFile>,
}

/// A format of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Pairs of IDX files; see [`crate::format::idx`].
    Idx,
    /// The binary version of CIFAR-10; see [`crate::format::cifar`].
    Cifar10,
    /// The binary version of CIFAR-100; see [`crate::format::cifar`].
    Cifar100,
    /// SVHN, cropped digits in MAT-files; see [`crate::format::mat`].
    Svhn,
    /// The binary version of STL-10; see [`crate::format::stl10`].
    Stl10,
    /// Omniglot, zip archives of PNG files.
    Omniglot,
    /// CUB-200-2011, an archive of JPEG files and lists.
    Cub200,
    /// Cars196, an archive of JPEG files and a MAT-file of annotations.
    Cars196,
    /// Stanford Online Products, a zip archive of JPEG files and lists.
    Sop,
    /// In-shop Clothes Retrieval, a zip archive of JPEG files, and lists.
    Inshop,
}

/// Which classes a zero-shot protocol trains on; it tests on the others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ZeroShot {
    /// The first so many classes, in the order of their labels.
    TrainClasses(u32),
    /// The classes of these groups, by name.
    TrainGroups(Vec<String>),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The part its authors train on.
    Train,
    /// The part its authors test on.
    Test,
    /// Images without labels.
    Unlabelled,
    /// All of a dataset that comes undivided, or in one archive.
    #[default]
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

/// A file and what is known to verify it: `content_*` and `members` describe what is in it, `archive_*` the packed
/// file as its authors published it. Checksums are in lower-case hexadecimal; MD5 guards against accidents, not
/// against malice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Its name, without folder.
    pub name: String,
    /// The part it belongs to.
    #[serde(default)]
    pub part: Part,
    /// What it holds, for formats that keep images and labels apart.
    pub holds: Option<Holds>,
    /// Where its authors, or mirrors, publish it.
    #[serde(default)]
    pub urls: Vec<String>,
    /// The length of the content, of one packed file or of one that is not packed.
    pub content_bytes: Option<u64>,
    /// The SHA-256 of that content.
    pub content_sha256: Option<String>,
    /// The MD5 of that content.
    pub content_md5: Option<String>,
    /// For an archive of several files: the SHA-256 of the lines `SHA256  PATH` of all of them, sorted by path.
    pub content_tree_sha256: Option<String>,
    /// For an archive of several files: those that are read from it.
    #[serde(default, rename = "member")]
    pub members: Vec<Member>,
    /// The length of the published archive.
    pub archive_bytes: Option<u64>,
    /// The SHA-256 of the published archive.
    pub archive_sha256: Option<String>,
    /// The MD5 of the published archive.
    pub archive_md5: Option<String>,
    /// Says that no checksum of the content is known.
    pub content: Option<Unknown>,
    /// Says that no checksum of the archive is known.
    pub archive: Option<Unknown>,
}

/// A file in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its path in the archive.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Option<String>,
    /// Its MD5.
    pub md5: Option<String>,
}

/// The admission that something is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// Nobody is known to publish it.
    Unknown,
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
    ///     "dataset `mnits` is not in the manifest; known are mnist-5k, mnist, fashion-mnist, kmnist, cifar10, \
    ///      cifar100, svhn, stl10, omniglot, cub200, cars196, sop, inshop, fashion-mnist-20k, cifar10-5k-jpeg, \
    ///      omniglot-small1"
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
            match (dataset.classes.len(), dataset.n_classes) {
                (0, None | Some(0)) => {
                    return Err(format!(
                        "dataset `{name}` has no classes; name them in the order of their labels, or give n_classes"
                    ));
                }
                (1.., Some(_)) => {
                    return Err(format!("dataset `{name}` has classes and n_classes; remove n_classes"));
                }
                _ => {}
            }
            if dataset.images.is_empty() || dataset.images.values().any(|&n| n == 0) {
                return Err(format!("dataset `{name}`: images needs a count above 0 for each part"));
            }
            match &dataset.zero_shot {
                Some(ZeroShot::TrainClasses(n)) if *n == 0 || *n as usize >= dataset.n_classes() => {
                    let most = dataset.n_classes() - 1;
                    return Err(format!(
                        "dataset `{name}`: zero_shot.train_classes is {n}, expected 1 to {most}, so that others are \
                         left to test on"
                    ));
                }
                Some(ZeroShot::TrainGroups(groups)) if groups.is_empty() => {
                    return Err(format!("dataset `{name}`: zero_shot.train_groups is empty; name some"));
                }
                _ => {}
            }
            match (&dataset.partial_of, &dataset.partial) {
                (None, None) => {}
                (Some(whole), Some(_)) => {
                    let known = self.datasets.iter().find(|d| d.name == *whole);
                    if known.is_none_or(|whole| whole.partial_of.is_some()) {
                        return Err(format!(
                            "dataset `{name}`: partial_of is `{whole}`, expected a complete set of this manifest"
                        ));
                    }
                }
                _ => {
                    return Err(format!(
                        "dataset `{name}` needs both partial_of and partial, or neither: say which part it is"
                    ));
                }
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
            for file in dataset.files.iter().filter(|_| dataset.format == Format::Idx) {
                let pair =
                    |holds| dataset.files.iter().filter(|f| f.part == file.part && f.holds == holds).count();
                if pair(Some(Holds::Images)) != 1 || pair(Some(Holds::Labels)) != 1 {
                    let part = file.part.as_str();
                    return Err(format!(
                        "dataset `{name}`: part `{part}` needs one file of images and one of labels"
                    ));
                }
            }
            if dataset.files.is_empty() {
                return Err(format!("dataset `{name}` has no files; list them"));
            }
        }
        Ok(())
    }
}

impl Dataset {
    /// The images and labels of `part` out of `folder`, which holds this dataset's IDX files. Sets of other formats
    /// are opened by [`benchmark`](crate::benchmark()).
    ///
    /// # Errors
    /// [`Error::Argument`] when the dataset has no such part in IDX files; else as [`ImageSet::from_idx`].
    pub fn load(&self, folder: &Path, part: Part) -> Result<ImageSet> {
        let path = |holds| -> Result<PathBuf> {
            let file = self.files.iter().find(|f| f.part == part && f.holds == Some(holds));
            file.map(|f| folder.join(&f.name)).ok_or_else(|| Error::Argument {
                op: "Dataset::load",
                arg: "part",
                got: format!("`{}`", part.as_str()),
                expected: format!("a part of {}: {}", self.name, self.parts().join(", ")),
            })
        };
        ImageSet::from_idx(path(Holds::Images)?, path(Holds::Labels)?, self.classes.clone())
    }

    /// The number of classes.
    pub fn n_classes(&self) -> usize {
        self.n_classes.unwrap_or(self.classes.len())
    }

    /// What is to be downloaded, where the length of every file is known.
    pub fn download_bytes(&self) -> Option<u64> {
        self.files.iter().map(|f| f.archive_bytes.or(f.content_bytes)).sum()
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
            Self::Unlabelled => "unlabelled",
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
            ("content_tree_sha256", &self.content_tree_sha256, 64),
            ("archive_sha256", &self.archive_sha256, 64),
            ("archive_md5", &self.archive_md5, 32),
        ];
        for (field, value, digits) in checksums {
            is_checksum(field, value, digits)?;
        }
        for member in &self.members {
            is_checksum(&format!("sha256 of member `{}`", member.name), &member.sha256, 64)?;
            is_checksum(&format!("md5 of member `{}`", member.name), &member.md5, 32)?;
            if member.sha256.is_none() && member.md5.is_none() {
                return Err(format!("member `{}` has no checksum; give its sha256", member.name));
            }
        }
        let several = Packing::of(&self.name).is_some();
        let plain = self.content_sha256.is_some() || self.content_md5.is_some();
        let inside = self.content_tree_sha256.is_some() || !self.members.is_empty();
        if (several && (plain || self.content_bytes.is_some())) || (!several && inside) {
            return Err(
                "content_bytes, content_sha256 and content_md5 describe one file, content_tree_sha256 and \
                        member an archive of several; give those that fit the name"
                    .into(),
            );
        }
        if (plain || inside) == self.content.is_some() {
            return Err("give a checksum of the content, or say `content = \"unknown\"`".into());
        }
        let archive = self.archive_sha256.is_some() || self.archive_md5.is_some();
        if archive && self.archive.is_some() {
            return Err("there is a checksum of the archive; remove `archive = \"unknown\"`".into());
        }
        if self.content.is_some() && !archive && self.archive.is_none() {
            return Err("there is no checksum; give content_sha256, or say `archive = \"unknown\"`".into());
        }
        // How far a gzip stream may go must be known.
        let needed = plain && self.name.ends_with(".gz");
        if self.content_bytes == Some(0) || (needed && self.content_bytes.is_none()) {
            return Err("content_bytes is missing or 0; give the length of the unpacked file".into());
        }
        Ok(())
    }
}

fn is_checksum(field: &str, value: &Option<String>, digits: usize) -> std::result::Result<(), String> {
    match value {
        Some(value)
            if value.len() != digits || value.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
        {
            Err(format!("{field} is `{value}`, expected {digits} lower-case hexadecimal digits"))
        }
        _ => Ok(()),
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
homepage = "https://example.org"
classes = ["a", "b"]
images = { all = 2 }
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
content = "unknown"
archive_md5 = "0123456789abcdef0123456789abcdef"
"#;

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse(text, Path::new("m.toml"))
    }

    #[test]
    fn the_manifest_of_the_workspace_is_sound() -> Result<()> {
        let manifest = Manifest::builtin()?;
        assert_eq!(manifest.datasets.len(), 16);
        for dataset in &manifest.datasets {
            let name = &dataset.name;
            assert!(dataset.homepage.starts_with("http"), "{name}");
            for file in &dataset.files {
                for url in &file.urls {
                    // The file is found under its own name, so that a mirror can keep it so.
                    let last = url.rsplit('/').next().unwrap_or_default();
                    assert_eq!(last.split('?').next(), Some(&*file.name), "{name}");
                    assert!(url.starts_with("http://") || url.starts_with("https://"), "{url}");
                }
            }
            for file in dataset.files.iter().filter(|_| dataset.format == Format::Idx) {
                let n = dataset.images[&file.part] as u64;
                let expected = if file.holds == Some(Holds::Images) { 16 + 784 * n } else { 8 + n };
                assert_eq!(file.content_bytes, Some(expected), "{name} {}", file.name);
            }
            let unknown = |f: &DataFile| f.content.is_some() && f.archive.is_some();
            let unverified: Vec<_> = dataset.files.iter().filter(|f| unknown(f)).collect();
            assert_eq!(unverified.len(), if name == "inshop" { 3 } else { 0 }, "{name}");
        }
        // The lengths of members are those of so many records.
        let bytes = |set: &str, part: &str| -> Result<u64> {
            let members = manifest.get(set)?.files.iter().flat_map(|f| &f.members);
            Ok(members.filter(|m| m.name.contains(part)).map(|m| m.bytes).sum())
        };
        assert_eq!(bytes("cifar10", "data_batch")?, 50_000 * 3073);
        assert_eq!(bytes("cifar10", "test_batch")?, 10_000 * 3073);
        assert_eq!(bytes("cifar100", "train.bin")?, 50_000 * 3074);
        assert_eq!(bytes("stl10", "unlabeled_X")?, 100_000 * 27_648);
        assert_eq!(bytes("cifar10-5k-jpeg", "data_batch")?, 5_000 * 3073);
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
                "m.toml: dataset `tiny`, file `images.gz`: give a checksum of the content, or say `content = \
                 \"unknown\"`",
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
                "m.toml: dataset `tiny` has no classes; name them in the order of their labels, or give n_classes",
            ),
            (("owner/tiny", "tiny"), "m.toml: dataset `tiny`: hub.repo `tiny` is not `owner/name`"),
            (
                ("content_bytes = 20", "content_bytes = 0"),
                "m.toml: dataset `tiny`, file `images.gz`: content_bytes is missing or 0; give the length of the \
                 unpacked file",
            ),
            (
                ("archive_md5 = \"0123456789abcdef0123456789abcdef\"", ""),
                "m.toml: dataset `tiny`, file `labels.gz`: there is no checksum; give content_sha256, or say \
                 `archive = \"unknown\"`",
            ),
            (
                ("content_bytes = 10", "archive = \"unknown\""),
                "m.toml: dataset `tiny`, file `labels.gz`: there is a checksum of the archive; remove `archive = \
                 \"unknown\"`",
            ),
            (
                ("images.gz", "images.tar.gz"),
                "m.toml: dataset `tiny`, file `images.tar.gz`: content_bytes, content_sha256 and content_md5 \
                 describe one file, content_tree_sha256 and member an archive of several; give those that fit the \
                 name",
            ),
            (
                ("images = {", "partial_of = \"tiny\"\nimages = {"),
                "m.toml: dataset `tiny` needs both partial_of and partial, or neither: say which part it is",
            ),
            (
                ("images = {", "partial_of = \"x\"\npartial = \"half\"\nimages = {"),
                "m.toml: dataset `tiny`: partial_of is `x`, expected a complete set of this manifest",
            ),
            (
                ("images = {", "zero_shot = { train_classes = 2 }\nimages = {"),
                "m.toml: dataset `tiny`: zero_shot.train_classes is 2, expected 1 to 1, so that others are left to \
                 test on",
            ),
            (("all = 2", "all = 0"), "m.toml: dataset `tiny`: images needs a count above 0 for each part"),
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
