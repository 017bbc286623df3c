//! Metric learning on labelled images: encoder and generator are trained together.

use std::sync::Arc;

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use dml_data::{Batches, ImageSet, MPerClass, MPerClassConfig, Sampler, SamplerState};
use dml_kernels::l2_normalize;
use dml_loss::{Batch, BregmanDistance, Objective, SupCon, Temperature};
use dml_retrieval::{Depth, Divergence, Gallery, Metric, rank};
use phi::{Generator, SquaredEuclidean};
use serde::{Deserialize, Serialize};

use crate::train::Task;
use crate::{Encoder, Group, Inputs, Method, Mode, Parameter, Result, SmallConv, SmallConvConfig};

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

/// An encoder and a generator on labelled images, trained with the supervised contrastive loss over D_φ.
///
/// Embeddings have length 1. Anchors are the first argument of D_φ. The logit scale is learned.
#[derive(Debug)]
pub struct MetricTask {
    images: Arc<ImageSet>,
    sampler: MPerClass,
    encoder: SmallConv,
    generator: Arc<dyn Generator>,
    objective: Objective,
    dtype: DType,
    device: Device,
}

impl MetricTask {
    /// A task over the images at `train`.
    ///
    /// # Errors
    /// What sampler, encoder and generator return for settings that do not fit the images.
    pub fn new(
        images: Arc<ImageSet>,
        train: &[usize],
        config: &MetricConfig,
        device: &Device,
    ) -> Result<Self> {
        let dtype = DType::F32;
        let plan =
            MPerClassConfig { classes: config.classes, per_class: config.per_class, batches_per_epoch: None };
        let sampler = MPerClass::new(images.labels(), train, plan, config.seed)?;
        let encoder = SmallConv::new(images.shape(), &config.encoder, config.seed, dtype, device)?;
        // The coordinates of points on the unit sphere: root mean square 1/√d, nearly all within three of those.
        let scale = 1.0 / (encoder.dim() as f64).sqrt();
        let range = (-3.0 * scale, 3.0 * scale);
        let seed = config.seed ^ 0x9e37_79b9; // another stream than the encoder's
        let inputs = Inputs { dim: encoder.dim(), range, scale, sample: None };
        let generator = config.method.generator(inputs, seed, dtype, device)?;
        let distance = Arc::new(BregmanDistance::new(generator.clone(), Side::First));
        let temperature = Temperature::learned(0.1, dtype, device)?;
        let objective = Objective::new(Arc::new(SupCon { distance, temperature }));
        Ok(Self { images, sampler, encoder, generator, objective, dtype, device: device.clone() })
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
        let batches =
            indices.chunks(EVALUATION_BATCH).map(|batch| Ok(self.forward(batch, Mode::Eval)?.detach()));
        Ok(Tensor::cat(&batches.collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn forward(&self, indices: &[usize], mode: Mode) -> Result<Tensor> {
        let images = self.images.tensor(indices, self.dtype, &self.device)?;
        Ok(l2_normalize(&self.encoder.forward(&images, mode)?)?)
    }

    fn batch(&self, step: usize) -> Result<Batch> {
        let per_epoch = self.sampler.batches_per_epoch();
        let state = SamplerState { epoch: (step / per_epoch) as u64, batch: step % per_epoch };
        let indices = Batches::resume(self.sampler.clone(), state)?.next().unwrap_or_default();
        let labels: Vec<i64> = indices.iter().map(|&i| i64::from(self.images.labels()[i])).collect();
        Ok(Batch::new(&self.forward(&indices, Mode::Train)?, &labels)?)
    }
}

impl Task for MetricTask {
    fn loss(&self, step: usize) -> Result<Tensor> {
        Ok(self.objective.forward(&self.batch(step)?)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let encoder = self.encoder.parameters().into_iter();
        let encoder =
            encoder.map(|(name, var)| Parameter::new(format!("encoder.{name}"), &var, Group::Encoder));
        let objective = self.objective.parameters().into_iter();
        encoder.chain(objective.map(|p| Parameter::new(p.name, &p.var, p.role.into()))).collect()
    }

    fn calibrate(&self) -> Result<()> {
        Ok(self.objective.calibrate(&self.batch(0)?)?)
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
pub fn evaluate(phi: &dyn Generator, embeddings: &Tensor, labels: &[u32]) -> Result<Scores> {
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
pub fn evaluate_euclidean(embeddings: &Tensor, labels: &[u32]) -> Result<Scores> {
    evaluate(&SquaredEuclidean, embeddings, labels)
}
