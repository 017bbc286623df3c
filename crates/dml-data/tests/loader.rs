//! What a loader promises: order, bits, errors, a clean end, no read too many; whatever the number of workers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device};
use dml_data::transform::{Pipeline, Views};
use dml_data::{
    Batch, Batches, Decoded, Error, Item, Loader, LoaderConfig, MPerClass, MPerClassConfig, Result, Sampler,
    SamplerState, Sequential, Shuffled, Source, Tail, bundled,
};

const AUGMENT: &str = r#"
transform = [
    { name = "random-resized-crop", size = [20, 20] },
    { name = "horizontal-flip" },
    { name = "color-jitter" },
    { name = "rand-augment" },
    { name = "gaussian-blur", size = 3 },
    { name = "random-erasing" },
]
"#;

/// A sampler that repeats images within an epoch: two classes of a few images, drawn many times.
fn repeating() -> MPerClass {
    let labels = bundled::mnist_5k().unwrap().labels().to_vec();
    let config = MPerClassConfig { classes: 2, per_class: 5, batches_per_epoch: Some(6) };
    MPerClass::new(&labels, &[0, 1, 2, 3, 500, 501, 502, 503, 504], config, 3).unwrap()
}

fn bits(batch: &Batch) -> (Vec<u32>, Vec<i64>, Vec<usize>) {
    let values = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let labels = batch.labels.to_vec1().unwrap();
    (values.iter().map(|v| v.to_bits()).collect(), labels, batch.indices.clone())
}

fn run(workers: usize, state: SamplerState, count: usize) -> Vec<(Vec<u32>, Vec<i64>, Vec<usize>)> {
    let digits = Arc::new(bundled::mnist_5k().unwrap());
    let pipeline = Pipeline::from_toml(AUGMENT).unwrap();
    let views = Views::two(pipeline.clone(), pipeline);
    let config = LoaderConfig { workers, prefetch: 3, seed: 11, ..Default::default() };
    let batches = Batches::resume(repeating(), state).unwrap();
    Loader::new(digits, batches, views, config).unwrap().take(count).map(|b| bits(&b.unwrap())).collect()
}

#[test]
fn batches_are_the_same_bits_in_the_same_order_whatever_the_number_of_workers() {
    let alone = run(0, SamplerState::default(), 15);
    let expected: Vec<Vec<usize>> =
        Batches::new(repeating()).take(15).map(|indices| indices.repeat(2)).collect();
    assert_eq!(alone.iter().map(|(_, _, indices)| indices.clone()).collect::<Vec<_>>(), expected);
    for workers in [1, 2, 7] {
        assert!(run(workers, SamplerState::default(), 15) == alone, "{workers} workers");
    }
}

#[test]
fn a_loader_resumes_in_mid_epoch_with_the_same_augmentations() -> Result<()> {
    let whole = run(2, SamplerState::default(), 15);
    for done in [1, 4, 6, 9] {
        let mut batches = Batches::new(repeating());
        batches.by_ref().take(done).for_each(drop);
        assert!(run(2, batches.state(), 15 - done)[..] == whole[done..], "after {done}");
    }
    // The loader's own state is that of what was delivered, not of what was prefetched.
    let digits = Arc::new(bundled::mnist_5k()?);
    let mut loader =
        Loader::new(digits, Batches::new(repeating()), Pipeline::default(), LoaderConfig::default())?;
    for batch in loader.by_ref().take(7) {
        batch?;
    }
    assert_eq!(loader.state(), SamplerState { epoch: 1, batch: 1 });
    assert_eq!(loader.delivered(), 7);
    Ok(())
}

#[test]
fn an_image_dealt_again_and_its_other_view_are_augmented_differently() {
    let batches = run(1, SamplerState::default(), 12);
    let mut seen = std::collections::BTreeSet::new();
    let mut count = 0;
    for (values, labels, indices) in &batches {
        assert_eq!(labels.len(), 20);
        for (row, index) in values.chunks_exact(400).zip(indices) {
            seen.insert((index, row));
            count += 1;
        }
    }
    assert_eq!(seen.len(), count);
}

#[test]
fn raw_pixels_arrive_as_the_set_itself_gives_them() -> Result<()> {
    let digits = bundled::mnist_5k()?.normalized_by(&[5, 900, 4000])?;
    let pipeline = Pipeline::from(&digits);
    let digits = Arc::new(digits);
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let config = LoaderConfig { dtype, batches: Some(2), ..Default::default() };
        let batches = Batches::new(Sequential::new(&[7, 4999, 0], 2)?);
        let all: Vec<Batch> =
            Loader::new(digits.clone(), batches, pipeline.clone(), config)?.collect::<Result<_>>()?;
        assert_eq!(all.len(), 2);
        for batch in all {
            let expected = digits.tensor(&batch.indices, dtype, &Device::Cpu)?;
            let same = batch.images.eq(&expected)?.to_dtype(DType::F32)?.min_all()?.to_scalar::<f32>()?;
            assert_eq!((batch.images.dims(), same), (expected.dims(), 1.0));
        }
    }
    let config = LoaderConfig { dtype: DType::U8, ..Default::default() };
    let message = Loader::new(digits, Batches::new(Sequential::new(&[0], 1)?), pipeline, config).unwrap_err();
    assert_eq!(message.to_string(), "Loader::new: `dtype` is U8, expected a floating-point type");
    Ok(())
}

/// Counts what is read; some images are bad.
#[derive(Debug)]
struct Counting {
    labels: Vec<i64>,
    names: Vec<String>,
    reads: AtomicUsize,
}

impl Counting {
    fn new(n: usize) -> Self {
        let names = vec!["a".to_owned(), "b".to_owned()];
        Self { labels: (0..n).map(|i| (i % 2) as i64).collect(), names, reads: AtomicUsize::new(0) }
    }
}

/// Images with these indices fail in a way of their own.
const DAMAGED: usize = 21;
const PANICS: usize = 35;
const LARGE: usize = 47;
const MISSING: usize = 51;

impl Source for Counting {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.names
    }

    fn item(&self, index: usize) -> Result<Item<'_>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let side = if index == LARGE { 5 } else { 4 };
        match index {
            DAMAGED => {
                Ok(Item::Encoded { bytes: b"nonsense"[..].into(), name: "a/21.jpg".into(), crop: None })
            }
            PANICS => panic!("a source with a mistake"),
            MISSING => Err(Error::Io {
                path: "b/51.jpg".into(),
                action: "read this file",
                source: std::io::ErrorKind::NotFound.into(),
            }),
            _ => Ok(Item::Raw {
                pixels: vec![index as u8; side * side].into(),
                channels: 1,
                height: side,
                width: side,
            }),
        }
    }
}

#[test]
fn a_large_set_is_read_no_further_than_the_prefetch() -> Result<()> {
    let source = Arc::new(Counting::new(100_000));
    let all: Vec<usize> = (1000..100_000).collect();
    let config = LoaderConfig { workers: 3, prefetch: 4, ..Default::default() };
    let batches = Batches::new(Shuffled::new(&all, 10, Tail::Drop, 1)?);
    let mut loader = Loader::new(source.clone(), batches, Pipeline::default(), config)?;
    for batch in loader.by_ref().take(5) {
        batch?;
    }
    drop(loader);
    let reads = source.reads.load(Ordering::SeqCst);
    assert!((50..=(5 + 4) * 10).contains(&reads), "{reads} images were read for five batches of ten");
    // With a limit, nothing beyond it.
    let source = Arc::new(Counting::new(100_000));
    let config = LoaderConfig { workers: 3, prefetch: 9, batches: Some(2), ..Default::default() };
    let batches = Batches::new(Shuffled::new(&all, 10, Tail::Drop, 1)?);
    assert_eq!(Loader::new(source.clone(), batches, Pipeline::default(), config)?.count(), 2);
    assert_eq!(source.reads.load(Ordering::SeqCst), 20);
    Ok(())
}

#[test]
fn what_goes_wrong_in_a_worker_reaches_the_caller_in_its_place_with_the_name() -> Result<()> {
    for workers in [0, 1, 3] {
        let all: Vec<usize> = (0..60).collect();
        let config = LoaderConfig { workers, batches: Some(6), ..Default::default() };
        let batches = Batches::new(Sequential::new(&all, 10)?);
        let loader =
            Loader::new(Arc::new(Counting::new(60)), batches, Pipeline::default().with_channels(1)?, config)?;
        let results: Vec<std::result::Result<Vec<usize>, String>> =
            loader.map(|batch| batch.map(|b| b.indices).map_err(|e| e.to_string())).collect();
        assert_eq!(results.len(), 6);
        assert_eq!(results[0], Ok((0..10).collect()));
        assert_eq!(results[1], Ok((10..20).collect()));
        assert_eq!(
            results[2],
            Err("a/21.jpg is neither PNG nor JPEG: it begins with [6e, 6f, 6e, 73]; fetch the file again or leave it \
                 out"
                .to_owned())
        );
        assert_eq!(
            results[3],
            Err("image 35 (not read yet): a worker of the loader panicked: a source with a mistake; leave the image \
                 out, and report this"
                .to_owned())
        );
        assert_eq!(
            results[4],
            Err("image 47 (raw pixels): Loader: `image` is 1 × 5 × 5 after its transforms, expected 1 × 4 × 4 like \
                 the first of its batch; let the pipeline end with a resize or crop to one size"
                .to_owned())
        );
        assert!(
            results[5].as_ref().is_err_and(|message| message.starts_with("b/51.jpg: cannot read this file"))
        );
    }
    Ok(())
}

/// A sampler that panics in its second epoch.
#[derive(Debug)]
struct Broken;

impl Sampler for Broken {
    fn batches_per_epoch(&self) -> usize {
        2
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        assert_eq!(epoch, 0, "no second epoch");
        vec![vec![0], vec![1]]
    }
}

#[test]
fn a_sampler_that_panics_ends_the_loader_with_an_error() -> Result<()> {
    for workers in [0, 2] {
        let config = LoaderConfig { workers, ..Default::default() };
        let source = Arc::new(Counting::new(10));
        let results: Vec<bool> = Loader::new(source, Batches::new(Broken), Pipeline::default(), config)?
            .map(|b| b.is_ok())
            .collect();
        assert_eq!(results, [true, true, false], "{workers} workers");
    }
    Ok(())
}

#[test]
fn dropping_a_loader_joins_its_workers_whatever_they_do() -> Result<()> {
    let all: Vec<usize> = (0..20).collect();
    for round in 0..200 {
        let source = Arc::new(Counting::new(20));
        let config = LoaderConfig { workers: 1 + round % 4, prefetch: 1 + round % 3, ..Default::default() };
        let batches = Batches::new(Shuffled::new(&all, 1 + round % 7, Tail::Keep, 0)?);
        let mut loader = Loader::new(source.clone(), batches, Pipeline::default(), config)?;
        for _ in 0..round % 5 {
            let _ = loader.next();
        }
        drop(loader);
        // A worker that was still there would hold the source.
        assert_eq!(Arc::strong_count(&source), 1, "round {round}");
    }
    Ok(())
}

#[test]
fn a_small_set_of_files_is_decoded_once() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures/pictures.safetensors");
    let all = candle_core::safetensors::load(path, &Device::Cpu)?;
    let files: Vec<Vec<u8>> = ["file.jpeg-420", "file.png-rgb", "file.png-grey"]
        .iter()
        .map(|f| all[*f].to_vec1().unwrap())
        .collect();
    #[derive(Debug)]
    struct Files(Vec<Vec<u8>>, Vec<i64>, Vec<String>, AtomicUsize);
    impl Source for Files {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn labels(&self) -> &[i64] {
            &self.1
        }
        fn class_names(&self) -> &[String] {
            &self.2
        }
        fn item(&self, index: usize) -> Result<Item<'_>> {
            self.3.fetch_add(1, Ordering::SeqCst);
            Ok(Item::Encoded { bytes: (&self.0[index][..]).into(), name: format!("{index}"), crop: None })
        }
    }
    let source = Arc::new(Files(files, vec![0; 3], vec!["x".to_owned()], AtomicUsize::new(0)));
    let resize = Pipeline::from_toml("transform = [{ name = \"resize\", size = [32, 40] }]")?;
    let decoded = Arc::new(Decoded::new(source.as_ref(), &resize, 3 * 32 * 40 * 3, 2)?);
    assert_eq!(source.3.load(Ordering::SeqCst), 3);
    let first = |source: Arc<dyn Source>, pipeline: Pipeline| -> Result<Vec<f32>> {
        let batches = Batches::new(Sequential::new(&[2, 0, 1], 3)?);
        let batch = Loader::new(source, batches, pipeline, LoaderConfig::default())?.next().unwrap()?;
        assert_eq!(batch.images.dims(), [3, 3, 32, 40]);
        Ok(batch.images.flatten_all()?.to_vec1()?)
    };
    assert_eq!(first(decoded, Pipeline::default())?, first(source.clone(), resize.clone())?);
    let message = Decoded::new(source.as_ref(), &resize, 11_000, 2).unwrap_err().to_string();
    assert_eq!(
        message,
        "Decoded::new: `source` is of 3 images, expected images of at most 11000 bytes altogether; read them on \
         demand instead"
    );
    let flip = Pipeline::from_toml("transform = [{ name = \"horizontal-flip\" }]")?;
    assert!(Decoded::new(source.as_ref(), &flip, usize::MAX, 1).is_err());
    Ok(())
}
