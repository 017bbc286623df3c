//! Metric learning on labelled images: encoder and generator are trained together.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use dml_data::transform::Pipeline;
use dml_data::{
    Batches, ImageSet, Loader, LoaderConfig, MPerClass, MPerClassConfig, Sampler, SamplerState, Sequential,
    Source,
};
use dml_kernels::l2_normalize;
use dml_loss::{Batch, BregmanDistance, Objective, SupCon, Temperature};
use dml_retrieval::{Depth, Divergence, Gallery, Metric, rank};
use phi::{Generator, SquaredEuclidean};
use serde::{Deserialize, Serialize};

use crate::train::Task;
use crate::{Encoder, Error, Group, Inputs, Method, Mode, Parameter, Result, SmallConv, SmallConvConfig};

/// Images that pass through the encoder at once in evaluation.
const EVALUATION_BATCH: usize = 250;

/// A metric learning problem: the model, and how batches are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricConfig {
    /// The distance.
    pub method: Method,
    /// The encoder.
    pub encoder: SmallConvConfig,
    /// P, the classes in a batch.
    pub classes: usize,
    /// M, the images of each.
    pub per_class: usize,
    /// Seed of weights and batches.
    pub seed: u64,
}

/// Images, and how they come to the encoder.
#[derive(Debug, Clone)]
pub struct Images {
    /// The set: in memory, or files that are read when they are needed.
    pub source: Arc<dyn Source>,
    /// What an image goes through in training.
    pub training: Pipeline,
    /// And in evaluation; images of the same shape, nothing random.
    pub evaluation: Pipeline,
    /// Threads that prepare batches beside the step; with 0 the step waits for each.
    pub workers: usize,
}

impl Images {
    /// A set in memory with its own normalization and no augmentation.
    pub fn plain(set: Arc<ImageSet>) -> Self {
        let pipeline = Pipeline::from(set.as_ref());
        Self::in_memory(set, pipeline)
    }

    /// A set in memory that goes through the same pipeline in training and in evaluation.
    pub fn in_memory(set: Arc<ImageSet>, pipeline: Pipeline) -> Self {
        // To normalize a batch of small images takes less than a tenth of a millisecond. To wake a thread that does it
        // costs as much, and where all cores are busy that thread first takes the core of the step that woke it.
        let workers = if pipeline.is_plain() { 0 } else { 1 };
        Self { source: set, training: pipeline.clone(), evaluation: pipeline, workers }
    }

    /// The images at `indices`, in that order, as evaluation sees them: an iterator of batches `[≤ batch, c, h, w]`.
    fn in_order(&self, indices: &[usize], batch: usize, dtype: DType, device: &Device) -> Result<Loader> {
        let sampler = Sequential::new(indices, batch)?;
        let batches = Some(sampler.batches_per_epoch() as u64);
        let workers = if indices.len() > batch { self.workers } else { 0 };
        let config = LoaderConfig { workers, batches, dtype, device: device.clone(), ..Default::default() };
        Ok(Loader::new(self.source.clone(), Batches::new(sampler), self.evaluation.clone(), config)?)
    }
}

/// An encoder and a generator on labelled images, trained with the supervised contrastive loss over D_φ.
///
/// Embeddings have length 1. Anchors are the first argument of D_φ. The logit scale is learned.
#[derive(Debug)]
pub struct MetricTask {
    images: Images,
    sampler: Arc<MPerClass>,
    batches: Mutex<Stream>,
    seed: u64,
    encoder: SmallConv,
    generator: Arc<dyn Generator>,
    objective: Objective,
    dtype: DType,
    device: Device,
}

/// The batches of training, prepared ahead as long as steps are asked for in turn.
#[derive(Debug, Default)]
struct Stream {
    /// The step whose batch comes next, and where it comes from.
    next: Option<(usize, Loader)>,
    /// A batch that was looked at before its step.
    ahead: Option<(usize, dml_data::Batch)>,
    /// What was waited for loaders that were given up.
    waited: Duration,
}

impl MetricTask {
    /// A task over the images at `train` of a set in memory.
    ///
    /// # Errors
    /// As [`with_images`](Self::with_images).
    pub fn new(
        images: Arc<ImageSet>,
        train: &[usize],
        config: &MetricConfig,
        device: &Device,
    ) -> Result<Self> {
        Self::with_images(Images::plain(images), train, config, device)
    }

    /// A task over the images at `train`.
    ///
    /// # Errors
    /// What sampler, loader, encoder and generator return for settings that do not fit the images.
    pub fn with_images(
        images: Images,
        train: &[usize],
        config: &MetricConfig,
        device: &Device,
    ) -> Result<Self> {
        let dtype = DType::F32;
        let plan =
            MPerClassConfig { classes: config.classes, per_class: config.per_class, batches_per_epoch: None };
        let sampler = Arc::new(MPerClass::new(images.source.labels(), train, plan, config.seed)?);
        let first = next(&mut images.in_order(&train[..1], 1, dtype, device)?)?;
        let (_, c, h, w) = first.images.dims4()?;
        let encoder = SmallConv::new([c, h, w], &config.encoder, config.seed, dtype, device)?;
        // The coordinates of points on the unit sphere: root mean square 1/√d, nearly all within three of those.
        let scale = 1.0 / (encoder.dim() as f64).sqrt();
        let range = (-3.0 * scale, 3.0 * scale);
        let seed = config.seed ^ 0x9e37_79b9; // another stream than the encoder's
        let inputs = Inputs { dim: encoder.dim(), range, scale, sample: None };
        let generator = config.method.generator(inputs, seed, dtype, device)?;
        let distance = Arc::new(BregmanDistance::new(generator.clone(), Side::First));
        let temperature = Temperature::learned(0.1, dtype, device)?;
        let objective = Objective::new(Arc::new(SupCon { distance, temperature }));
        let (batches, seed, device) = (Mutex::default(), config.seed, device.clone());
        Ok(Self { images, sampler, batches, seed, encoder, generator, objective, dtype, device })
    }

    /// The generator.
    pub fn generator(&self) -> &Arc<dyn Generator> {
        &self.generator
    }

    /// The embeddings of the images at `indices`, `[n, d]`, of length 1, cut from the graph.
    ///
    /// # Errors
    /// What encoder and data return.
    pub fn embed(&self, indices: &[usize]) -> Result<Tensor> {
        self.embed_images(&self.images, indices)
    }

    /// As [`embed`](Self::embed) for images of another set, as evaluation sees them.
    ///
    /// # Errors
    /// What encoder and data return.
    pub fn embed_images(&self, images: &Images, indices: &[usize]) -> Result<Tensor> {
        let batches = images.in_order(indices, EVALUATION_BATCH, self.dtype, &self.device)?;
        let embedded = batches.map(|batch| Ok(self.forward(&batch?.images, Mode::Eval)?.detach()));
        Ok(Tensor::cat(&embedded.collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(l2_normalize(&self.encoder.forward(images, mode)?)?)
    }

    /// The images of a step.
    fn images(&self, step: usize) -> Result<dml_data::Batch> {
        let mut stream = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, batch)) = stream.ahead.take().filter(|(ahead, _)| *ahead == step) {
            return Ok(batch);
        }
        let mut loader = match stream.next.take() {
            Some((next, loader)) if next == step => loader,
            other => {
                stream.waited += other.map_or(Duration::ZERO, |(_, loader)| loader.waited());
                self.loader(step)?
            }
        };
        let batch = next(&mut loader)?;
        stream.next = Some((step + 1, loader));
        Ok(batch)
    }

    /// Their embeddings and labels.
    fn embedded(&self, batch: &dml_data::Batch) -> Result<Batch> {
        let labels: Vec<i64> = batch.indices.iter().map(|&i| self.images.source.labels()[i]).collect();
        Ok(Batch::new(&self.forward(&batch.images, Mode::Train)?, &labels)?)
    }

    /// The batches from a step on.
    fn loader(&self, step: usize) -> Result<Loader> {
        let per_epoch = self.sampler.batches_per_epoch();
        let state = SamplerState { epoch: (step / per_epoch) as u64, batch: step % per_epoch };
        let batches = Batches::resume(self.sampler.clone(), state)?;
        let config = LoaderConfig {
            workers: self.images.workers,
            seed: self.seed,
            dtype: self.dtype,
            device: self.device.clone(),
            ..Default::default()
        };
        Ok(Loader::new(self.images.source.clone(), batches, self.images.training.clone(), config)?)
    }
}

/// The next batch of a loader that has one.
fn next(loader: &mut Loader) -> Result<dml_data::Batch> {
    let none = || Error::Config {
        what: "MetricTask",
        field: "images",
        got: "a loader without batches".to_owned(),
        expected: "at least one batch",
    };
    Ok(loader.next().ok_or_else(none)??)
}

impl Task for MetricTask {
    fn loss(&self, step: usize) -> Result<Tensor> {
        Ok(self.objective.forward(&self.embedded(&self.images(step)?)?)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let encoder = self.encoder.parameters().into_iter();
        let encoder =
            encoder.map(|(name, var)| Parameter::new(format!("encoder.{name}"), &var, Group::Encoder));
        let objective = self.objective.parameters().into_iter();
        encoder.chain(objective.map(|p| Parameter::new(p.name, &p.var, p.role.into()))).collect()
    }

    fn calibrate(&self) -> Result<()> {
        let batch = self.images(0)?;
        self.objective.calibrate(&self.embedded(&batch)?)?;
        // Step 0 gets the same batch, and meanwhile the loader works on those that follow.
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).ahead = Some((0, batch));
        Ok(())
    }

    fn waited(&self) -> Duration {
        let stream = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        stream.waited + stream.next.as_ref().map_or(Duration::ZERO, |(_, loader)| loader.waited())
    }
}

/// The scores of one set of embeddings under one divergence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean average precision at R.
    pub map_at_r: f64,
    /// Precision at 1, the same as recall at 1.
    pub precision_at_1: f64,
    /// Recall at 1, 2, 4 and 8.
    pub recall: [f64; 4],
}

/// Scores embeddings of images against one another, each image a query, D(query ‖ item).
///
/// # Errors
/// What the retrieval returns, e.g. for a class of one image.
pub fn evaluate(phi: &dyn Generator, embeddings: &Tensor, labels: &[i64]) -> Result<Scores> {
    let scorer = Divergence::new(phi, Side::First, embeddings, embeddings)?;
    let ranking = rank(&scorer, labels, labels, Gallery::IncludesQueries, Depth::MaxRelevant)?;
    let mut recall = [0.0; 4];
    for (value, k) in recall.iter_mut().zip([1, 2, 4, 8]) {
        *value = ranking.mean(Metric::RecallAt(k))?;
    }
    Ok(Scores {
        map_at_r: ranking.mean(Metric::MeanAveragePrecisionAtR)?,
        precision_at_1: ranking.mean(Metric::PrecisionAt1)?,
        recall,
    })
}

/// [`evaluate`] under the squared Euclidean distance.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_euclidean(embeddings: &Tensor, labels: &[i64]) -> Result<Scores> {
    evaluate(&SquaredEuclidean, embeddings, labels)
}
