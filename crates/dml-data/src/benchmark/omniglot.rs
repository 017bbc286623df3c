//! Omniglot: characters of alphabets, each drawn by 20 people \[lake2015\].
//!
//! In each archive `FOLDER/ALPHABET/characterNN/ID_DRAWER.png`, one bit a pixel; ink is 0 and paper 255, the reverse
//! of MNIST. A class is alphabet and character, `Greek/character01`; its group is the alphabet.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use image::{ImageFormat, ImageReader, Limits};

use super::{Opened, Parts, Set};
use crate::{
    Dataset, Error, ImageSet, Part, Result,
    archive::{self, Packing},
    format::FETCH_AGAIN,
};

/// Of the PNG files of one archive.
const MAX_BYTES: u64 = 1 << 30;
/// Rows and columns of a drawing at most; they are 105×105.
const MAX_SIDE: u32 = 1024;

/// The drawings of one archive, in the order of their names.
struct Drawings {
    pixels: Vec<u8>,
    shape: [usize; 3],
    /// The class of each, `ALPHABET/CHARACTER`.
    classes: Vec<String>,
}

pub(super) fn open(dataset: &Dataset, folder: &Path) -> Result<Opened> {
    let mut parts: BTreeMap<Part, Drawings> = BTreeMap::new();
    for file in &dataset.files {
        parts.insert(file.part, read(&folder.join(&file.name))?);
    }
    // One numbering for all parts: training classes first, each part's in the order of their names.
    let (mut numbers, mut names) = (BTreeMap::new(), Vec::new());
    let mut alphabets = BTreeMap::new();
    for drawings in parts.values() {
        for class in &drawings.classes {
            if !numbers.contains_key(class) {
                numbers.insert(class.clone(), names.len() as i64);
                names.push(class.clone());
            }
            let n = alphabets.len() as i64;
            alphabets.entry(alphabet(class).to_owned()).or_insert(n);
        }
    }
    let mut sets = parts.into_iter().map(|(part, drawings)| -> Result<(Part, Set)> {
        let labels = drawings.classes.iter().map(|class| numbers[class]).collect();
        let groups = drawings.classes.iter().map(|class| alphabets[alphabet(class)]).collect();
        let set =
            ImageSet::new(drawings.pixels, drawings.shape, labels, names.clone())?.with_groups(groups)?;
        Ok((part, Set::Memory(Arc::new(set))))
    });
    match (sets.next().transpose()?, sets.next().transpose()?) {
        (Some((Part::Train, train)), Some((Part::Test, test))) => Ok(Opened::divided(train, test)),
        (Some((_, set)), _) => Ok(Opened { parts: Parts::Whole { set, official: None }, unlabelled: None }),
        (None, _) => Err(Error::MissingClass { op: "omniglot", class: 0 }),
    }
}

fn alphabet(class: &str) -> &str {
    class.split_once('/').map_or(class, |(alphabet, _)| alphabet)
}

fn read(path: &Path) -> Result<Drawings> {
    let files = match Packing::of(&path.to_string_lossy()) {
        // What macOS puts beside the files is not of the set.
        Some(_) => {
            archive::read(path, MAX_BYTES, &|name| name.ends_with(".png") && !name.starts_with("__MACOSX/"))?
        }
        None => BTreeMap::new(),
    };
    let fault = |member: &str, why: String| Error::Archive {
        path: path.to_owned(),
        member: member.to_owned(),
        why,
        remedy: FETCH_AGAIN,
    };
    let mut drawings = Drawings { pixels: Vec::new(), shape: [0; 3], classes: Vec::new() };
    for (name, bytes) in &files {
        let Some(class) = class_of(name) else {
            return Err(fault(name, "does not lie at FOLDER/ALPHABET/CHARACTER/FILE.png".to_owned()));
        };
        let mut reader = ImageReader::with_format(std::io::Cursor::new(bytes), ImageFormat::Png);
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        reader.limits(limits);
        let image = reader.decode().map_err(|e| fault(name, e.to_string()))?.into_luma8();
        let shape = [1, image.height() as usize, image.width() as usize];
        if drawings.classes.is_empty() {
            drawings.shape = shape;
            drawings.pixels.reserve(files.len().saturating_mul(image.len()));
        } else if drawings.shape != shape {
            let [_, h, w] = drawings.shape;
            return Err(fault(name, format!("is {}×{}, the others {h}×{w}", shape[1], shape[2])));
        }
        drawings.pixels.extend_from_slice(&image);
        drawings.classes.push(class);
    }
    if drawings.classes.is_empty() {
        return Err(fault("its PNG files", "there are none".to_owned()));
    }
    Ok(drawings)
}

fn class_of(name: &str) -> Option<String> {
    match name.split('/').collect::<Vec<_>>()[..] {
        [_, alphabet, character, _] => Some(format!("{alphabet}/{character}")),
        _ => None,
    }
}
