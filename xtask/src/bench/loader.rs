//! Loading as a case: epochs of digits in memory and of JPEG files, on two workers.
//!
//! A pass is a whole epoch that ends with nothing in flight, so that no work of one side falls into the other's turn.
//! Before the clock starts both sides show a batch without anything random in it, which must agree.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use candle_core::{DType, Device, Tensor};
use dml_data::transform::Pipeline;
use dml_data::{
    Batches, ImageSet, Item, Loader, LoaderConfig, Normalization, Sequential, Shuffled, Source, Tail,
};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::workload::{Pass, Workload, get};

const SEED: u64 = 20_260_102;
/// Threads on either side that do nothing but load.
const WORKERS: usize = 2;

/// What is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pictures {
    /// 28 × 28 bytes in memory, normalized only.
    Digits,
    /// Files of 256 × 256, a random crop of 224 × 224, flipped half the time, normalized.
    Jpeg,
}

impl Pictures {
    /// How many there are, and how many a batch takes.
    pub fn sizes(self) -> (usize, usize) {
        match self {
            Self::Digits => (20_000, 128),
            Self::Jpeg => (512, 32),
        }
    }

    /// The largest relative difference at which both sides' pixels are the same. Decoders differ by a step of 255 at
    /// many values.
    pub fn tolerance(self) -> f64 {
        match self {
            Self::Digits => 1e-6,
            Self::Jpeg => 2e-2,
        }
    }

    /// The pictures as tensors.
    ///
    /// # Errors
    /// When a picture cannot be encoded.
    pub fn data(self) -> anyhow::Result<HashMap<String, Tensor>> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let (n, _) = self.sizes();
        let labels: Vec<i64> = (0..n).map(|i| (i % 10) as i64).collect();
        let labels = ("labels".to_owned(), Tensor::from_vec(labels, n, &Device::Cpu)?);
        let pixels = match self {
            Self::Digits => {
                let mut pixels = vec![0; n * 784];
                rng.fill_bytes(&mut pixels);
                return Ok(HashMap::from([
                    labels,
                    ("pixels".to_owned(), Tensor::from_vec(pixels, (n, 1, 28, 28), &Device::Cpu)?),
                ]));
            }
            Self::Jpeg => (0..n).map(|_| photograph(&mut rng)).collect::<anyhow::Result<Vec<_>>>()?,
        };
        let ends: Vec<i64> = pixels
            .iter()
            .scan(0, |end, file| {
                *end += file.len() as i64;
                Some(*end)
            })
            .collect();
        let bytes = pixels.concat();
        let length = bytes.len();
        Ok(HashMap::from([
            labels,
            ("files".to_owned(), Tensor::from_vec(bytes, length, &Device::Cpu)?),
            ("ends".to_owned(), Tensor::from_vec(ends, n, &Device::Cpu)?),
        ]))
    }

    /// Our side, for the tensors of `file`; JPEG files are written beside it, where the peer finds them too.
    ///
    /// # Errors
    /// When a file cannot be written, and what the crates return.
    pub fn workload(self, data: HashMap<String, Tensor>, file: Option<&Path>) -> anyhow::Result<Workload> {
        let labels = get(&data, "labels")?.to_vec1()?;
        let names: Vec<String> = (0..10).map(|c| c.to_string()).collect();
        let (n, batch) = self.sizes();
        let (source, training, plain): (Arc<dyn Source>, _, _) = match self {
            Self::Digits => {
                let pixels = get(&data, "pixels")?.flatten_all()?.to_vec1()?;
                let set = ImageSet::new(pixels, [1, 28, 28], labels, names)?;
                let pipeline =
                    Pipeline::default().with_normalization(Normalization::new(vec![0.1307], vec![0.3081])?);
                (Arc::new(set), pipeline.clone(), pipeline)
            }
            Self::Jpeg => {
                let paths = file.map_or_else(|| Ok(Vec::new()), |file| unpack(&data, file))?;
                let pipeline =
                    |first: &str| Pipeline::from_toml(&format!("transform = [{first}]\n{PHOTOGRAPHS}"));
                (
                    Arc::new(Files { paths, labels, names }),
                    pipeline(r#"{ name = "random-crop", size = [224, 224] }, { name = "horizontal-flip" }"#)?,
                    pipeline(r#"{ name = "center-crop", size = [224, 224] }"#)?,
                )
            }
        };
        let all: Vec<usize> = (0..n).collect();
        let config =
            |workers| LoaderConfig { workers, prefetch: 2 * workers, seed: SEED, ..Default::default() };
        let (shown, first) = (source.clone(), all[..batch].to_vec());
        let reference: Pass = Box::new(move || {
            let batches = Batches::new(Sequential::new(&first, first.len())?);
            let batch = Loader::new(shown.clone(), batches, plain.clone(), config(0))?.next();
            Ok((batch.context("no batch")??.images, None))
        });
        let epoch = Cell::new(0);
        let pass: Pass = Box::new(move || {
            let sampler = Shuffled::new(&all, batch, Tail::Drop, SEED)?;
            let count = (all.len() / batch) as u64;
            let state = dml_data::SamplerState { epoch: epoch.replace(epoch.get() + 1), batch: 0 };
            let config = LoaderConfig { batches: Some(count), ..config(WORKERS) };
            let loader =
                Loader::new(source.clone(), Batches::resume(sampler, state)?, training.clone(), config)?;
            let mut last = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
            for batch in loader {
                last = batch?.images;
            }
            Ok((last, None))
        });
        Ok(Workload::of(data, pass, Some(reference)))
    }
}

/// The usual statistics of photographs.
const PHOTOGRAPHS: &str = "[normalize]\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]";

/// A JPEG file of 256 × 256 pixels as a camera or PIL would write it: quality 85, half the resolution in colour.
/// Soft light, a few hard edges, some grain.
fn photograph(rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<u8>> {
    let mut unit = || f64::from(rng.next_u32()) / f64::from(u32::MAX);
    let shapes: Vec<[f64; 6]> = (0..12)
        .map(|_| {
            [
                256.0 * unit(),
                256.0 * unit(),
                10.0 + 60.0 * unit(),
                255.0 * unit(),
                255.0 * unit(),
                255.0 * unit(),
            ]
        })
        .collect();
    let waves: Vec<[f64; 3]> = (0..6).map(|_| [0.2 * unit(), 0.2 * unit(), 6.0 * unit()]).collect();
    let mut pixels = Vec::with_capacity(256 * 256 * 3);
    for y in 0..256 {
        for x in 0..256 {
            let (x, y) = (f64::from(x), f64::from(y));
            let light: f64 = waves.iter().map(|[a, b, c]| 12.0 * (a * x + b * y + c).sin()).sum();
            let inside = shapes.iter().rfind(|[cx, cy, r, ..]| (x - cx).hypot(y - cy) < *r);
            for channel in 0..3 {
                let base = inside.map_or(100.0 + 0.2 * x, |shape| shape[3 + channel]);
                pixels.push((base + light + 16.0 * (unit() - 0.5)).clamp(0.0, 255.0) as u8);
            }
        }
    }
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, 85);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.encode(&pixels, 256, 256, ColorType::Rgb)?;
    Ok(file)
}

/// Writes the files into the folder `FILE.pictures`, numbered.
fn unpack(data: &HashMap<String, Tensor>, file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".pictures");
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let bytes: Vec<u8> = get(data, "files")?.to_vec1()?;
    let (mut paths, mut start) = (Vec::new(), 0);
    for (i, end) in get(data, "ends")?.to_vec1::<i64>()?.into_iter().enumerate() {
        let path = folder.join(format!("{i:05}.jpg"));
        let part = bytes.get(start..end as usize).context("`ends` do not fit `files`")?;
        std::fs::write(&path, part).with_context(|| format!("{}: cannot be written", path.display()))?;
        start = end as usize;
        paths.push(path);
    }
    Ok(paths)
}

/// Files that are read when they are needed.
#[derive(Debug)]
struct Files {
    paths: Vec<PathBuf>,
    labels: Vec<i64>,
    names: Vec<String>,
}

impl Source for Files {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.names
    }

    fn item(&self, index: usize) -> dml_data::Result<Item<'_>> {
        let len = self.paths.len();
        let path = self.paths.get(index);
        let path = path.ok_or(dml_data::Error::Index { op: "Files::item", position: 0, index, len })?;
        let bytes = std::fs::read(path).map_err(|source| dml_data::Error::Io {
            path: path.clone(),
            action: "read this picture",
            source,
        })?;
        Ok(Item::Encoded { bytes: bytes.into(), name: path.display().to_string(), crop: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_photograph_is_a_jpeg_file_of_the_usual_size() -> anyhow::Result<()> {
        let file = photograph(&mut ChaCha8Rng::seed_from_u64(1))?;
        assert!((8_000..60_000).contains(&file.len()), "{} bytes", file.len());
        let image = dml_data::transform::decode(&file, 3, "photograph")?;
        assert_eq!((image.height(), image.width()), (256, 256));
        Ok(())
    }
}
