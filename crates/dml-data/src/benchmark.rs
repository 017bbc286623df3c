//! The benchmark sets, opened by name: official parts, the usual zero-shot protocol, and whether all of it is there.
//!
//! Small images are decoded into memory ([`Set::Memory`]); pictures that would not fit are read one at a time
//! ([`Set::OnDemand`]).

mod cars196;
mod cifar;
mod contents;
mod cub200;
mod inshop;
mod omniglot;
mod sop;
mod stl10;
mod svhn;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{Dataset, Error, Format, ImageSet, Manifest, Part, Result, Source, ZeroShot};

/// A set of images, wherever it lies.
#[derive(Debug, Clone)]
pub enum Set {
    /// Decoded, in memory.
    Memory(Arc<ImageSet>),
    /// Read one at a time.
    OnDemand(Arc<dyn Source>),
}

impl Set {
    /// What any set offers.
    pub fn source(&self) -> &dyn Source {
        match self {
            Self::Memory(set) => &**set,
            Self::OnDemand(set) => &**set,
        }
    }

    /// The images in memory, if that is where they are.
    pub fn images(&self) -> Option<&Arc<ImageSet>> {
        match self {
            Self::Memory(set) => Some(set),
            Self::OnDemand(_) => None,
        }
    }
}

/// Some images of a set.
#[derive(Debug, Clone)]
pub struct Subset {
    /// The set.
    pub set: Set,
    /// Indices into it, ascending.
    pub indices: Vec<usize>,
}

impl Subset {
    fn whole(set: Set) -> Self {
        Self { indices: (0..set.source().len()).collect(), set }
    }

    /// Those images whose index `keep` accepts.
    fn filtered(&self, keep: impl Fn(&dyn Source, usize) -> bool) -> Self {
        let set = self.set.source();
        Self {
            indices: self.indices.iter().copied().filter(|&i| keep(set, i)).collect(),
            set: self.set.clone(),
        }
    }

    /// The labels of these images.
    pub fn labels(&self) -> Vec<i64> {
        let labels = self.set.source().labels();
        self.indices.iter().map(|&i| labels[i]).collect()
    }

    /// How many classes they are of.
    pub fn n_classes(&self) -> usize {
        self.labels().into_iter().collect::<BTreeSet<_>>().len()
    }
}

/// What is trained on and what is tested on.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// Training images.
    pub train: Subset,
    /// Test images, the queries.
    pub test: Subset,
    /// Where the queries are looked up, if not among themselves.
    pub gallery: Option<Subset>,
}

/// Whether all of a set is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// As published.
    Complete,
    /// A part only: its figures are not figures of the set.
    Partial {
        /// The set of which it is a part.
        of: String,
        /// Which part, in words.
        what: String,
    },
}

impl std::fmt::Display for Completeness {
    /// As a report says it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Partial { of, what } => write!(f, "PARTIAL, not {of}: {what}"),
        }
    }
}

/// A benchmark set, opened.
#[derive(Debug, Clone)]
pub struct Benchmark {
    /// Its name in the manifest: that of a part where only the part is there.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// The citation key of its paper.
    pub citation: String,
    /// Whether it is all there. Every figure from a part must say so.
    pub completeness: Completeness,
    /// The official parts, where they share their classes.
    pub closed_set: Option<Protocol>,
    /// Training and test on different classes. `None` only where a part of a set has no classes left for one side.
    pub zero_shot: Option<Protocol>,
    /// Images without labels.
    pub unlabelled: Option<Set>,
}

/// Opens the benchmark set `name` of the manifest from `dir`, which has a folder per set as [`download`] makes them;
/// where only a known part of the set is there, that part. See [`Benchmark::completeness`].
///
/// Archives of pictures are unpacked beside themselves the first time, or read through their index. A set that was
/// unpacked by hand, with the folders of its archive, is read as it lies there.
///
/// [`download`]: crate::download
///
/// # Errors
/// [`Error::UnknownDataset`]; [`Error::NotFound`] when neither the set nor a part of it is there, with the command
/// that fetches it; else what the readers of its files have to say.
/// # Examples
/// ```
/// let folder = tempfile::tempdir()?;
/// dml_data::download::fetch("mnist-5k", &dml_data::download::Options::new(folder.path()))?;
/// let digits = dml_data::benchmark("mnist-5k", folder.path())?;
/// let protocol = digits.zero_shot.unwrap();
/// assert_eq!((protocol.train.indices.len(), protocol.train.n_classes()), (2500, 5));
/// assert_eq!(digits.completeness.to_string(), "complete");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn benchmark(name: &str, dir: &Path) -> Result<Benchmark> {
    benchmark_of(&Manifest::builtin()?, name, dir)
}

/// As [`benchmark`], for another manifest.
///
/// # Errors
/// As [`benchmark`].
pub fn benchmark_of(manifest: &Manifest, name: &str, dir: &Path) -> Result<Benchmark> {
    let wanted = manifest.get(name)?;
    let parts = manifest.datasets.iter().filter(|set| set.partial_of.as_ref() == Some(&wanted.name));
    let mut looked_at = Vec::new();
    for dataset in [wanted].into_iter().chain(parts) {
        let folders = [Some(&dataset.name), dataset.partial_of.as_ref()];
        for folder in folders.into_iter().flatten().map(|name| dir.join(name)) {
            match missing(dataset, &folder) {
                None => return open(dataset, &folder),
                Some(path) if dataset.name == wanted.name => looked_at.push(path),
                Some(_) => {}
            }
        }
    }
    let file = wanted.files.first().map(|file| file.name.clone()).unwrap_or_default();
    let remedy = format!("fetch it: cargo xtask download {name}");
    Err(Error::NotFound { dataset: name.to_owned(), file, looked_at, remedy })
}

/// The first file of a set that is not in `folder`, not even unpacked.
fn missing(dataset: &Dataset, folder: &Path) -> Option<PathBuf> {
    let by_hand = contents::root_of(dataset.format);
    let lacks = |name: &str| {
        let unpacked = folder.join(format!("{name}.unpacked")).is_dir();
        let archive = crate::archive::Packing::of(name).is_some();
        let loose = archive && by_hand.is_some_and(|root| folder.join(root).is_dir());
        !(contents::find(folder, name).is_some() || unpacked || loose)
    };
    dataset.files.iter().find(|file| lacks(&file.name)).map(|file| folder.join(&file.name))
}

/// What a format's reader gives.
struct Opened {
    parts: Parts,
    unlabelled: Option<Set>,
}

/// The parts as published.
enum Parts {
    /// Apart: training and test images, and for some a gallery.
    Divided { train: Subset, test: Subset, gallery: Option<Subset> },
    /// One set; which images are official training and test images, where it says so.
    Whole { set: Set, official: Option<(Vec<usize>, Vec<usize>)> },
}

impl Opened {
    fn divided(train: Set, test: Set) -> Self {
        let (train, test) = (Subset::whole(train), Subset::whole(test));
        Self { parts: Parts::Divided { train, test, gallery: None }, unlabelled: None }
    }
}

fn open(dataset: &Dataset, folder: &Path) -> Result<Benchmark> {
    tracing::info!(dataset = dataset.name, folder = %folder.display(), "opening");
    let opened = match dataset.format {
        Format::Idx => idx(dataset, folder)?,
        Format::Cifar10 | Format::Cifar100 => cifar::open(dataset, folder)?,
        Format::Svhn => svhn::open(dataset, folder)?,
        Format::Stl10 => stl10::open(dataset, folder)?,
        Format::Omniglot => omniglot::open(dataset, folder)?,
        Format::Cub200 => cub200::open(folder)?,
        Format::Cars196 => cars196::open(folder)?,
        Format::Sop => sop::open(folder)?,
        Format::Inshop => inshop::open(folder)?,
    };
    let completeness = completeness(dataset, &opened);
    let (closed_set, zero_shot) = protocols(dataset, &opened.parts)?;
    Ok(Benchmark {
        name: dataset.name.clone(),
        title: dataset.title.clone(),
        citation: dataset.citation.clone(),
        completeness,
        closed_set,
        zero_shot,
        unlabelled: opened.unlabelled,
    })
}

fn idx(dataset: &Dataset, folder: &Path) -> Result<Opened> {
    let part = |part| -> Result<Set> { Ok(Set::Memory(Arc::new(dataset.load(folder, part)?))) };
    if dataset.files.iter().any(|file| file.part == Part::All) {
        return Ok(Opened {
            parts: Parts::Whole { set: part(Part::All)?, official: None },
            unlabelled: None,
        });
    }
    Ok(Opened::divided(part(Part::Train)?, part(Part::Test)?))
}

/// Known parts are what the manifest says of them; any set may also turn out to have fewer images than published.
fn completeness(dataset: &Dataset, opened: &Opened) -> Completeness {
    let mut found = BTreeMap::new();
    match &opened.parts {
        Parts::Divided { train, test, gallery } => {
            found.insert(Part::Train, train.indices.len());
            let gallery = gallery.as_ref().map_or(0, |gallery| gallery.indices.len());
            found.insert(Part::Test, test.indices.len() + gallery);
        }
        Parts::Whole { set, .. } => {
            found.insert(Part::All, set.source().len());
        }
    }
    found.insert(Part::Unlabelled, opened.unlabelled.as_ref().map_or(0, |set| set.source().len()));
    let short: Vec<String> = dataset
        .images
        .iter()
        .map(|(part, &n)| (part, n, *found.get(part).unwrap_or(&0)))
        .filter(|(_, n, found)| n != found)
        .map(|(part, n, found)| format!("{} has {found} images of {n}", part.as_str()))
        .collect();
    let known = dataset.partial.clone();
    if known.is_none() && short.is_empty() {
        return Completeness::Complete;
    }
    let of = dataset.partial_of.clone().unwrap_or_else(|| dataset.name.clone());
    let what = known.into_iter().chain(short).collect::<Vec<_>>().join("; ");
    Completeness::Partial { of, what }
}

/// Closed-set and zero-shot protocol.
fn protocols(dataset: &Dataset, parts: &Parts) -> Result<(Option<Protocol>, Option<Protocol>)> {
    let (train, test, closed_set) = match parts {
        Parts::Divided { train, test, gallery } => {
            let official = Protocol { train: train.clone(), test: test.clone(), gallery: gallery.clone() };
            if dataset.zero_shot.is_none() {
                return Ok((None, Some(official)));
            }
            (train.clone(), test.clone(), Some(official))
        }
        Parts::Whole { set, official } => {
            let part = |indices: &Vec<usize>| Subset { set: set.clone(), indices: indices.clone() };
            let official = official.as_ref().map(|(train, test)| Protocol {
                train: part(train),
                test: part(test),
                gallery: None,
            });
            (Subset::whole(set.clone()), Subset::whole(set.clone()), official)
        }
    };
    let Some(rule) = &dataset.zero_shot else { return Ok((closed_set, None)) };
    let names = group_names(&train.set);
    let trains = |set: &dyn Source, i: usize| match rule {
        ZeroShot::TrainClasses(n) => set.labels()[i] < i64::from(*n),
        ZeroShot::TrainGroups(groups) => {
            // The group of a class is told by its name, GROUP/CLASS.
            let class = usize::try_from(set.labels()[i]).ok().and_then(|label| set.class_names().get(label));
            let group = class.and_then(|class| class.split_once('/')).map(|(group, _)| group);
            group.is_some_and(|group| groups.iter().any(|name| name == group))
        }
    };
    if let ZeroShot::TrainGroups(groups) = rule
        && let Some(unknown) = groups.iter().find(|group| !names.contains(group.as_str()))
    {
        return Err(Error::Argument {
            op: "benchmark",
            arg: "zero_shot.train_groups",
            got: format!("`{unknown}`"),
            expected: format!("groups of {}", dataset.name),
        });
    }
    let (train, test) = (train.filtered(trains), test.filtered(|set, i| !trains(set, i)));
    let zero_shot = (!train.indices.is_empty() && !test.indices.is_empty()).then_some(Protocol {
        train,
        test,
        gallery: None,
    });
    Ok((closed_set, zero_shot))
}

fn group_names(set: &Set) -> BTreeSet<&str> {
    set.source().class_names().iter().filter_map(|name| Some(name.split_once('/')?.0)).collect()
}
