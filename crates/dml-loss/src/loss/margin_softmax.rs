//! Softmax over class columns with a margin for the own class: normalized softmax, CosFace, ArcFace, sub-centers.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Parameter, Part, Result, Role, Tuples,
    error::{count, finite, positive},
    loss::{
        class_rows::{ClassRows, OwnClass},
        class_table::{ClassTable, check_rows, class_ids, weighted},
    },
    tensor::normalize_rows,
};

/// Knobs of [`MarginSoftmax::normalized_softmax`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NormalizedSoftmaxConfig {
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// The width of the embeddings; must be given.
    pub embedding_size: usize,
    /// Divides the logits; 0.05.
    pub temperature: f64,
    /// Seeds the initial weights; 0.
    pub seed: u64,
}

impl Default for NormalizedSoftmaxConfig {
    fn default() -> Self {
        Self { num_classes: 0, embedding_size: 0, temperature: 0.05, seed: 0 }
    }
}

/// Knobs of [`MarginSoftmax::cos_face`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CosFaceConfig {
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// The width of the embeddings; must be given.
    pub embedding_size: usize,
    /// m, taken off the own class's cosine; 0.35.
    pub margin: f64,
    /// s, which multiplies the logits; 64.
    pub scale: f64,
    /// Seeds the initial weights; 0.
    pub seed: u64,
}

impl Default for CosFaceConfig {
    fn default() -> Self {
        Self { num_classes: 0, embedding_size: 0, margin: 0.35, scale: 64.0, seed: 0 }
    }
}

/// Knobs of [`MarginSoftmax::arc_face`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArcFaceConfig {
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// The width of the embeddings; must be given.
    pub embedding_size: usize,
    /// m, added to the own class's angle, in degrees; 28.6, which is 0.5 in radians.
    pub margin: f64,
    /// s, which multiplies the logits; 64.
    pub scale: f64,
    /// Centers of each class, of which the nearest counts: 1 (the default) is ArcFace, 3 is usual where labels are
    /// noisy.
    pub sub_centers: usize,
    /// Seeds the initial weights; 0.
    pub seed: u64,
}

impl Default for ArcFaceConfig {
    fn default() -> Self {
        Self { num_classes: 0, embedding_size: 0, margin: 28.6, scale: 64.0, sub_centers: 1, seed: 0 }
    }
}

/// −log softmax_c(s·cos θ_c) at the own class y, whose cosine a margin lowers first; θ_c the angle to column c of `W`.
///
/// | made by | the own class's cosine becomes |
/// |---|---|
/// | [`normalized_softmax`](Self::normalized_softmax) | cos θ_y, and s = 1/temperature |
/// | [`cos_face`](Self::cos_face) | cos θ_y − m |
/// | [`arc_face`](Self::arc_face) | cos(θ_y + m), or cos θ_y − m·sin m where θ_y > π − m |
///
/// Given tuples become weights of the rows. A reference set plays no part. Own parameter `W` `[d,
/// classes·sub_centers]`, the columns of a class side by side, at first standard normal; labels are columns of that
/// table. Part `loss`, a loss a row.
///
/// # Distances
/// Normalized softmax takes any distance of rows to columns, which are of length 1 whatever the distance: the inner
/// product of normalized rows is usual, and under a divergence the logits are −D_φ(x ‖ w_c)/temperature with ‖w_c‖ = 1
/// (`Side::First`). The margins are of cosines: with a distance they are an error.
/// # Cost
/// O(n·classes·sub_centers) time and memory.
/// # Source
/// Zhai & Wu 2019 \[zhai2019\] (normalized softmax); Wang et al. 2018 \[wang2018cosface\], equation 4; Deng et al. 2019
/// \[deng2019\], equation 3; Deng et al. 2020 \[deng2020\] (sub-centers).
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = CosFaceConfig { num_classes: 2, embedding_size: 2, scale: 1.0, ..Default::default() };
/// let loss = MarginSoftmax::cos_face(Arc::new(Cosine), config, DType::F64, &Device::Cpu)?;
/// let loss = Objective::new(Arc::new(loss));
/// loss.parameters()[0].var.set(&Tensor::new(&[[1f64, 0.], [0., 1.]], &Device::Cpu)?)?;
/// let x = Tensor::new(&[[1f64, 0.]], &Device::Cpu)?;
/// // Cosines 1 − 0.35 and 0.
/// let value = loss.forward(&Batch::new(&x, &[0])?)?.to_scalar::<f64>()?;
/// assert!((value - (-0.65f64).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct MarginSoftmax {
    owner: &'static str,
    distance: Arc<dyn Distance>,
    own_class: OwnClass,
    scale: f64,
    classes: usize,
    sub_centers: usize,
    weight: Var,
}

impl MarginSoftmax {
    /// Without a margin.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0.
    pub fn normalized_softmax(
        distance: Arc<dyn Distance>,
        config: NormalizedSoftmaxConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let NormalizedSoftmaxConfig { num_classes: classes, embedding_size: width, temperature, seed } =
            config;
        let owner = "NormalizedSoftmax";
        positive(owner, &[("temperature", temperature)])?;
        let weight = ClassTable { owner, classes, width, seed }.columns(1, dtype, device)?;
        let (own_class, scale) = (OwnClass::AsItIs, 1.0 / temperature);
        Ok(Self { owner, distance, own_class, scale, classes, sub_centers: 1, weight })
    }

    /// cos θ − m for the own class.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0 or the distance is no similarity.
    pub fn cos_face(
        distance: Arc<dyn Distance>,
        config: CosFaceConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let CosFaceConfig { num_classes: classes, embedding_size: width, margin, scale, seed } = config;
        let owner = "CosFace";
        similarity(owner, &*distance)?;
        finite(owner, &[("margin", margin)])?;
        positive(owner, &[("scale", scale)])?;
        let weight = ClassTable { owner, classes, width, seed }.columns(1, dtype, device)?;
        let own_class = OwnClass::Subtract(margin);
        Ok(Self { owner, distance, own_class, scale, classes, sub_centers: 1, weight })
    }

    /// cos(θ + m) for the own class, and the nearest of several centers a class.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0 or the distance is no similarity.
    pub fn arc_face(
        distance: Arc<dyn Distance>,
        config: ArcFaceConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let ArcFaceConfig { num_classes: classes, embedding_size: width, margin, scale, sub_centers, seed } =
            config;
        let owner = "ArcFace";
        similarity(owner, &*distance)?;
        finite(owner, &[("margin", margin)])?;
        positive(owner, &[("scale", scale)])?;
        count(owner, "sub_centers", sub_centers)?;
        let weight = ClassTable { owner, classes, width, seed }.columns(sub_centers, dtype, device)?;
        let own_class = OwnClass::Add(margin.to_radians());
        Ok(Self { owner, distance, own_class, scale, classes, sub_centers, weight })
    }
}

/// Margins of cosines make no sense for distances.
fn similarity(owner: &'static str, distance: &dyn Distance) -> Result<()> {
    match distance.larger_is_closer() {
        true => Ok(()),
        false => Err(Error::config(owner, "distance", distance.name(), "a cosine")),
    }
}

impl Loss for MarginSoftmax {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        check_rows(self.owner, batch, ("W", &self.weight), self.weight.dim(0)?)?;
        let ids = class_ids(self.owner, batch, self.classes)?;
        let mut columns = self.weight.as_tensor().t()?.contiguous()?; // [classes·sub, d]
        if self.own_class == OwnClass::AsItIs {
            columns = normalize_rows(&columns, 2.0)?;
        }
        let sign = if self.distance.larger_is_closer() { 1.0 } else { -1.0 };
        let rows = ClassRows {
            own: &ids,
            per_class: self.sub_centers,
            factor: sign * self.scale,
            margin: self.own_class,
        };
        let losses = self.distance.pairs(batch.embeddings(), &columns)?.row_losses(&rows, None)?; // [n]
        Ok(vec![Part::of_rows(weighted(&losses, tuples, false)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("W", &self.weight, Role::Proxy)]
    }

    fn class_rows(&self) -> Result<Option<Tensor>> {
        Ok(Some(self.weight.as_tensor().t()?.contiguous()?))
    }
}
