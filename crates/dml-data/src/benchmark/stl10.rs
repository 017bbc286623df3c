//! STL-10: labelled parts in memory, the unlabelled one on disk \[coates2011\].

use std::{
    borrow::Cow,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Opened, Set, contents::Contents};
use crate::{
    Dataset, Error, ImageSet, Item, Result, Source,
    format::{FETCH_AGAIN, stl10},
};

const ROOT: &str = "stl10_binary";

pub(super) fn open(dataset: &Dataset, folder: &Path) -> Result<Opened> {
    let contents = Contents::open(folder, "stl10_binary.tar.gz", ROOT)?;
    let part = |name: &str| {
        let images = contents.path(&format!("{ROOT}/{name}_X.bin"));
        let labels = contents.path(&format!("{ROOT}/{name}_y.bin"));
        let (pixels, of) = (stl10::read_images(&images)?, stl10::read_labels(&labels)?);
        let n_images = pixels.len() / stl10::PIXELS;
        if n_images != of.len() {
            return Err(Error::CountMismatch { images, n_images, labels, n_labels: of.len() });
        }
        let of = of.into_iter().map(i64::from).collect();
        let set = ImageSet::new(pixels, [3, stl10::SIDE, stl10::SIDE], of, dataset.classes.clone())?;
        Ok(Set::Memory(Arc::new(set)))
    };
    let mut opened = Opened::divided(part("train")?, part("test")?);
    let unlabelled = contents.path(&format!("{ROOT}/unlabeled_X.bin"));
    if unlabelled.is_file() {
        opened.unlabelled = Some(Set::OnDemand(Arc::new(Unlabelled::open(unlabelled)?)));
    }
    Ok(opened)
}

/// The images without labels, read one at a time. Every label is 0, the one class `unlabelled`.
#[derive(Debug)]
struct Unlabelled {
    path: PathBuf,
    labels: Vec<i64>,
    class_names: Vec<String>,
}

impl Unlabelled {
    fn open(path: PathBuf) -> Result<Self> {
        let bytes = std::fs::metadata(&path).map_err(Error::io(&path, "open this file"))?.len();
        let (n, left) = (bytes / stl10::PIXELS as u64, bytes % stl10::PIXELS as u64);
        if n == 0 || left != 0 {
            let why = format!("{n} whole images of {} bytes, then {left} bytes", stl10::PIXELS);
            return Err(Error::Corrupt { path, offset: bytes - left, why, remedy: FETCH_AGAIN });
        }
        Ok(Self { path, labels: vec![0; n as usize], class_names: vec!["unlabelled".to_owned()] })
    }
}

impl Source for Unlabelled {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn item(&self, index: usize) -> Result<Item<'_>> {
        if index >= self.len() {
            return Err(Error::Index { op: "STL-10 unlabelled", position: 0, index, len: self.len() });
        }
        let mut file = File::open(&self.path).map_err(Error::io(&self.path, "open this file"))?;
        let mut columns = vec![0; stl10::PIXELS];
        let read = file
            .seek(SeekFrom::Start(index as u64 * stl10::PIXELS as u64))
            .and_then(|_| file.read_exact(&mut columns));
        read.map_err(Error::io(&self.path, "read an image of this file"))?;
        let mut pixels = vec![0; stl10::PIXELS];
        stl10::transpose_image(&columns, &mut pixels);
        let (height, width) = (stl10::SIDE, stl10::SIDE);
        Ok(Item::Raw { pixels: Cow::Owned(pixels), channels: 3, height, width })
    }
}
