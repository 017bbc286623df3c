//! The Hugging Face hub: files as they are through `hf-hub`, MNIST and its kin through the readers of
//! `candle-datasets`. Whatever comes is verified by the caller, so a reader that got a format wrong is an
//! error and not a wrong dataset.
//!
//! `candle_datasets::vision::cifar::load` is not used: it gives every image with rows and columns exchanged.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use candle_datasets::vision;
use hf_hub::HFClientSync;

use crate::{
    DataFile, Dataset, Holds, Hub, HubReader, Part,
    format::idx::{self, Idx},
};

/// A file that was downloaded: in the cache of the hub, or rebuilt in a folder that goes with it.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    _folder: Option<std::rc::Rc<tempfile::TempDir>>,
}

impl Source {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The wanted files, in that order; what failed is told in words.
pub(crate) fn download(dataset: &Dataset, hub: &Hub, wanted: &[&DataFile]) -> Result<Vec<Source>, String> {
    match hub.reader {
        HubReader::Files => files(hub, wanted),
        HubReader::CandleMnist => rebuilt(dataset, wanted, vision::mnist::load()),
        HubReader::CandleFashionMnist => rebuilt(dataset, wanted, vision::fashion_mnist::load()),
    }
}

fn files(hub: &Hub, wanted: &[&DataFile]) -> Result<Vec<Source>, String> {
    let client = HFClientSync::new().map_err(|e| format!("the hub client does not start ({e})"))?;
    let (owner, name) = hf_hub::split_id(&hub.repo);
    let repo = client.dataset(owner, name);
    let one = |file: &&DataFile| {
        let path = repo.download_file().filename(file.name.as_str()).send();
        let path = path.map_err(|e| format!("{} of {} cannot be downloaded ({e})", file.name, hub.repo))?;
        Ok(Source { path, _folder: None })
    };
    wanted.iter().map(one).collect()
}

/// Writes what a reader of candle gives, pixels p / 255 as f32, back as IDX files.
fn rebuilt(
    dataset: &Dataset,
    wanted: &[&DataFile],
    set: candle_core::Result<vision::Dataset>,
) -> Result<Vec<Source>, String> {
    let set = set.map_err(|e| format!("{} cannot be downloaded ({e})", dataset.name))?;
    let folder = tempfile::tempdir().map_err(|e| format!("no temporary folder can be made ({e})"))?;
    let folder = std::rc::Rc::new(folder);
    let one = |file: &&DataFile| {
        let (images, labels) = match file.part {
            Part::Train => (&set.train_images, &set.train_labels),
            Part::Test => (&set.test_images, &set.test_labels),
            Part::All | Part::Unlabelled => {
                return Err(format!("{}: the hub has training and test part only", file.name));
            }
        };
        let content = match file.holds {
            Some(Holds::Images) => square_images(images),
            Some(Holds::Labels) => flat_labels(labels),
            None => return Err(format!("{}: is no IDX file", file.name)),
        };
        let content = content.map_err(|e| format!("{} cannot be rebuilt ({e})", file.name))?;
        let path = folder.path().join(&file.name);
        idx::write(&path, &content).map_err(|e| e.to_string())?;
        Ok(Source { path, _folder: Some(folder.clone()) })
    };
    wanted.iter().map(one).collect()
}

fn square_images(images: &Tensor) -> candle_core::Result<Idx> {
    let (n, pixels) = images.dims2()?;
    let side = pixels.isqrt();
    let values = images.flatten_all()?.to_vec1::<f32>()?;
    // p / 255 in f32 is within 2⁻¹⁷ of p after multiplying back: rounding restores p.
    let data = values.into_iter().map(|v| (v * 255.0).round() as u8).collect();
    Ok(Idx { dims: vec![n, side, side], data })
}

fn flat_labels(labels: &Tensor) -> candle_core::Result<Idx> {
    let data = labels.flatten_all()?.to_vec1::<u8>()?;
    Ok(Idx { dims: vec![data.len()], data })
}
