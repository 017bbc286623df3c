//! SoftTriple loss (Qian et al. 2019): several centers a class, softly assigned.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Parameter, Part, Result, Role, Tuples,
    loss::class_table::{ClassTable, class_ids, cross_entropy, one_hot, weighted},
};

/// Knobs of [`SoftTriple`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftTripleConfig {
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// The width of the embeddings; must be given.
    pub embedding_size: usize,
    /// Centers of each class.
    pub centers_per_class: usize,
    /// λ of the paper: multiplies the logits.
    pub la: f64,
    /// The temperature of the assignment to centers.
    pub gamma: f64,
    /// Taken off the own class's similarity.
    pub margin: f64,
    /// Seeds the initial centers.
    pub seed: u64,
}

impl Default for SoftTripleConfig {
    fn default() -> Self {
        Self {
            num_classes: 0,
            embedding_size: 0,
            centers_per_class: 10,
            la: 20.0,
            gamma: 0.1,
            margin: 0.01,
            seed: 0,
        }
    }
}

/// −log softmax_c(λ·S_c) at the own class, from whose S a margin is taken; S_c = Σ_k softmax_k(s_ck/γ)·s_ck over
/// the similarities to the centers of class c.
///
/// Given tuples become weights of the rows. Own parameter `fc` `[d, classes·centers]`, the columns of a class side by
/// side. Part `loss`, a loss a row. Cosine is usual; of a distance s = −D.
///
/// # Source
/// Qian et al. 2019 \[qian2019\], equation 7.
#[derive(Debug, Clone)]
pub struct SoftTriple {
    distance: Arc<dyn Distance>,
    config: SoftTripleConfig,
    centers: Var,
}

impl SoftTriple {
    /// With seeded normal centers.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0 or γ is not positive.
    pub fn new(
        distance: Arc<dyn Distance>,
        config: SoftTripleConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let SoftTripleConfig { num_classes: classes, embedding_size: width, seed, gamma, .. } = config;
        if config.centers_per_class == 0 {
            return Err(Error::config("SoftTriple", "centers_per_class", 0, "at least 1"));
        }
        if gamma.is_nan() || gamma <= 0.0 {
            return Err(Error::config("SoftTriple", "gamma", gamma, "a positive number"));
        }
        let table = ClassTable { owner: "SoftTriple", classes, width, seed };
        Ok(Self { distance, config, centers: table.columns(config.centers_per_class, dtype, device)? })
    }
}

impl Loss for SoftTriple {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let SoftTripleConfig { num_classes, centers_per_class, la, gamma, margin, .. } = self.config;
        let ids = class_ids("SoftTriple", batch, num_classes)?;
        let columns = self.centers.as_tensor().t()?.contiguous()?; // [classes·centers, d]
        let values = self.distance.all_pairs(batch.embeddings(), &columns)?;
        let s = self.distance.closeness(&values)?.reshape((ids.len(), num_classes, centers_per_class))?;
        let logits = (&s / gamma)?;
        let shift = logits.detach().max_keepdim(2)?;
        let share = logits.broadcast_sub(&shift)?.exp()?; // [n, classes, centers]
        let similarity = ((&share * &s)?.sum(2)? / share.sum(2)?)?; // [n, classes]
        let lowered = (&similarity - (one_hot(&ids, &similarity)? * margin)?)?;
        let losses = cross_entropy(&(lowered * la)?, &ids)?;
        Ok(vec![Part::of_rows(weighted(&losses, tuples, false)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("fc", &self.centers, Role::Proxy)]
    }

    fn class_rows(&self) -> Result<Option<Tensor>> {
        Ok(Some(self.centers.as_tensor().t()?.contiguous()?))
    }
}
