//! Multiplicative angular margins: large-margin softmax (Liu et al. 2016) and SphereFace (Liu et al. 2017).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Parameter, Part, Result, Role, Tuples,
    error::positive,
    loss::class_table::{ClassTable, check_rows, class_ids, cross_entropy, one_hot, weighted},
    tensor::{entries, ones_like, row_norm, zeros_like},
};

/// Knobs of [`LargeMarginSoftmax`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LargeMarginSoftmaxConfig {
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// The width of the embeddings; must be given.
    pub embedding_size: usize,
    /// m, by which the own class's angle is multiplied: a whole number from 1 to 64; 4.
    pub margin: usize,
    /// s, which multiplies the logits; 1.
    pub scale: f64,
    /// Seeds the initial weights; 0.
    pub seed: u64,
}

impl Default for LargeMarginSoftmaxConfig {
    fn default() -> Self {
        Self { num_classes: 0, embedding_size: 0, margin: 4, scale: 1.0, seed: 0 }
    }
}

/// Which norms multiply the cosines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Norms {
    /// ‖x‖·‖W_c‖: the logits of an ordinary linear layer.
    EmbeddingAndWeight,
    /// ‖x‖.
    Embedding,
}

/// −log softmax_c at the own class y of s·‖x‖·‖W_c‖·cos θ_c (SphereFace: s·‖x‖·cos θ_c), with ψ(θ_y) for cos θ_y: ψ(θ)
/// = (−1)ᵏ cos(mθ) − 2k where kπ/m ≤ θ ≤ (k + 1)π/m, which falls from 1 to 1 − 2m.
///
/// cos(mθ) is the Chebyshev polynomial T_m(cos θ), so no angle is taken and the gradient is finite everywhere. Given
/// tuples become weights of the rows. A reference set plays no part. Own parameter `W` `[d, classes]`, at first
/// standard normal; labels are its columns. Part `loss`, a loss a row. Where the encoder sets the length of rows, they
/// may shrink to 0 at first, which is the fastest way down; rows of length 1 cannot.
///
/// # Distances
/// Cosine only: a distance, and so a divergence, is an error. The lengths of the embeddings count.
/// # Cost
/// O(n·(classes + margin)) time, O(n·classes) memory.
/// # Source
/// Liu et al. 2016 \[liu2016\], equations 4 to 6; Liu et al. 2017 \[liu2017\], equation 7.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = LargeMarginSoftmaxConfig { num_classes: 2, embedding_size: 2, ..Default::default() };
/// let loss = LargeMarginSoftmax::sphere_face(Arc::new(Cosine), config, DType::F64, &Device::Cpu)?;
/// let loss = Objective::new(Arc::new(loss));
/// loss.parameters()[0].var.set(&Tensor::new(&[[0f64, 1.], [1., 0.]], &Device::Cpu)?)?;
/// let x = Tensor::new(&[[1f64, 0.]], &Device::Cpu)?;
/// // The own column at a right angle, ψ = cos 2π − 4, against a cosine of 1.
/// let value = loss.forward(&Batch::new(&x, &[0])?)?.to_scalar::<f64>()?;
/// assert!((value - (4.0 + (-4f64).exp().ln_1p())).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LargeMarginSoftmax {
    owner: &'static str,
    distance: Arc<dyn Distance>,
    config: LargeMarginSoftmaxConfig,
    norms: Norms,
    weight: Var,
}

impl LargeMarginSoftmax {
    /// Large-margin softmax.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0, the margin is out of range or the distance is no similarity.
    pub fn new(
        distance: Arc<dyn Distance>,
        config: LargeMarginSoftmaxConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        Self::build("LargeMarginSoftmax", Norms::EmbeddingAndWeight, distance, config, dtype, device)
    }

    /// SphereFace: the norms of the weights play no part.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn sphere_face(
        distance: Arc<dyn Distance>,
        config: LargeMarginSoftmaxConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        Self::build("SphereFace", Norms::Embedding, distance, config, dtype, device)
    }

    fn build(
        owner: &'static str,
        norms: Norms,
        distance: Arc<dyn Distance>,
        config: LargeMarginSoftmaxConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if !distance.larger_is_closer() {
            return Err(Error::config(owner, "distance", distance.name(), "a cosine"));
        }
        if !(1..=64).contains(&config.margin) {
            return Err(Error::config(owner, "margin", config.margin, "a whole number from 1 to 64"));
        }
        positive(owner, &[("scale", config.scale)])?;
        let LargeMarginSoftmaxConfig { num_classes: classes, embedding_size: width, seed, .. } = config;
        let weight = ClassTable { owner, classes, width, seed }.columns(1, dtype, device)?;
        Ok(Self { owner, distance, config, norms, weight })
    }
}

/// ψ of the cosine: `[n]` → `[n]`.
fn psi(cosine: &Tensor, m: usize) -> Result<Tensor> {
    // T_k(c) = 2c·T_{k−1}(c) − T_{k−2}(c).
    let (mut before, mut now) = (ones_like(cosine)?, cosine.clone());
    for _ in 1..m {
        let next = (((cosine * &now)? * 2.0)? - before)?;
        (before, now) = (now, next);
    }
    let mut k = zeros_like(cosine)?;
    let at = cosine.detach();
    for j in 1..m {
        let edge = (j as f64 * std::f64::consts::PI / m as f64).cos();
        k = (k + at.le(edge)?.to_dtype(cosine.dtype())?)?;
    }
    let half = (&k * 0.5)?;
    let sign = ((&half - half.floor()?)? * -4.0)?.affine(1.0, 1.0)?; // 1 for even k, −1 for odd
    Ok(((now * sign)? - (k * 2.0)?)?)
}

impl Loss for LargeMarginSoftmax {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        check_rows(self.owner, batch, ("W", &self.weight), self.config.embedding_size)?;
        let ids = class_ids(self.owner, batch, self.config.num_classes)?;
        let columns = self.weight.as_tensor().t()?.contiguous()?; // [classes, d]
        let cosine = self.distance.all_pairs(batch.embeddings(), &columns)?; // [n, classes]
        let every: Vec<u32> = (0..ids.len() as u32).collect();
        let own = entries(&cosine, &every, &ids)?; // [n]
        let change = (psi(&own, self.config.margin)? - own)?.unsqueeze(1)?; // [n, 1]
        let moved = (&cosine + one_hot(&ids, &cosine)?.broadcast_mul(&change)?)?;
        let mut logits = (moved.broadcast_mul(&row_norm(batch.embeddings(), 2.0)?)? * self.config.scale)?;
        if self.norms == Norms::EmbeddingAndWeight {
            logits = logits.broadcast_mul(&row_norm(&columns, 2.0)?.t()?)?;
        }
        Ok(vec![Part::of_rows(weighted(&cross_entropy(&logits, &ids)?, tuples, false)?)?])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psi_falls_and_joins_its_pieces() -> Result<()> {
        for m in 1..7 {
            let steps = 400;
            let cosines: Vec<f64> =
                (0..=steps).map(|i| (i as f64 / f64::from(steps) * std::f64::consts::PI).cos()).collect();
            let values = psi(&Tensor::new(cosines, &Device::Cpu)?, m)?.to_vec1::<f64>()?;
            assert!((values[0] - 1.0).abs() < 1e-12);
            assert!((values[steps as usize] - (1.0 - 2.0 * m as f64)).abs() < 1e-12, "m = {m}");
            assert!(values.windows(2).all(|w| w[1] <= w[0] + 1e-12 && w[0] - w[1] < 0.1), "m = {m}");
        }
        Ok(())
    }
}
