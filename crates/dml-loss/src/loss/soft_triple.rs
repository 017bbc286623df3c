//! SoftTriple loss (Qian et al. 2019): several centers a class, softly assigned.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Loss, Parameter, Part, Result, Role, Tuples,
    error::{count, finite, positive},
    loss::class_table::{ClassTable, check_rows, class_ids, cross_entropy, one_hot, weighted},
};

/// Knobs of [`SoftTriple`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftTripleConfig {
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// The width of the embeddings; must be given.
    pub embedding_size: usize,
    /// K, the centers of each class; 10.
    pub centers_per_class: usize,
    /// λ of the paper, which multiplies the logits; 20.
    pub la: f64,
    /// γ, the temperature of the assignment to centers; 0.1.
    pub gamma: f64,
    /// δ, taken off the own class's similarity; 0.01.
    pub margin: f64,
    /// Seeds the initial centers; 0.
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

/// −log softmax_c(λ·S_c) at the own class, from whose S the margin δ is taken first; S_c = Σ_k softmax_k(s_ck/γ)·s_ck
/// over the similarities to the K centers of class c.
///
/// Given tuples become weights of the rows. A reference set plays no part. Own parameter `fc` `[d, classes·K]`, the
/// columns of a class side by side, at first standard normal. Part `loss`, a loss a row. The paper adds a penalty that
/// merges centers: [`SparseCenters`](crate::SparseCenters) on the weights, with weight 0.2.
///
/// # Distances
/// Cosine is usual; of a distance s = −D, with λ, γ and δ in its units. Under a divergence centers stand where
/// [`BregmanDistance::anchor`](crate::BregmanDistance) puts the others, and φ must be defined where normal centers lie.
/// # Cost
/// O(n·classes·K) time and memory.
/// # Source
/// Qian et al. 2019 \[qian2019\], equation 7.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = SoftTripleConfig {
///     num_classes: 2,
///     embedding_size: 2,
///     centers_per_class: 2,
///     la: 1.0,
///     gamma: 1.0,
///     ..Default::default()
/// };
/// let loss = Objective::new(Arc::new(SoftTriple::new(Arc::new(Cosine), config, DType::F64, &Device::Cpu)?));
/// // Class 0 has the centers (1, 0) and (0, 1), class 1 twice (0, 1).
/// loss.parameters()[0].var.set(&Tensor::new(&[[1f64, 0., 0., 0.], [0., 1., 1., 1.]], &Device::Cpu)?)?;
/// let x = Tensor::new(&[[1f64, 0.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0])?)?.to_scalar::<f64>()?;
/// let own = 1f64.exp() / (1f64.exp() + 1.0);
/// assert!((value - (-(own - 0.01)).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// [`Error::Config`](crate::Error::Config) when a size is 0 or γ is not positive.
    pub fn new(
        distance: Arc<dyn Distance>,
        config: SoftTripleConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let SoftTripleConfig { num_classes: classes, embedding_size: width, seed, gamma, .. } = config;
        count("SoftTriple", "centers_per_class", config.centers_per_class)?;
        positive("SoftTriple", &[("gamma", gamma), ("la", config.la)])?;
        finite("SoftTriple", &[("margin", config.margin)])?;
        let table = ClassTable { owner: "SoftTriple", classes, width, seed };
        Ok(Self { distance, config, centers: table.columns(config.centers_per_class, dtype, device)? })
    }
}

impl Loss for SoftTriple {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let SoftTripleConfig { num_classes, embedding_size, centers_per_class, la, gamma, margin, .. } =
            self.config;
        check_rows("SoftTriple", batch, ("fc", &self.centers), embedding_size)?;
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
