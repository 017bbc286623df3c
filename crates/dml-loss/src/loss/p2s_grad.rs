//! P2SGrad: regression of cosines on class membership (Zhang et al. 2019).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Loss, Parameter, Part, Result, Role, Tuples,
    loss::class_table::{ClassTable, class_ids, one_hot},
    tensor::normalize_rows,
};

/// Knobs of [`P2sGrad`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct P2sGradConfig {
    /// The width of the embeddings; must be given.
    #[serde(alias = "descriptors_dim")]
    pub embedding_size: usize,
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// Seeds the initial weights.
    pub seed: u64,
}

/// The mean over rows i and classes c of (cos θ_ic − \[c is the class of i\])², θ_ic the angle of row i to column c of
/// `weight`.
///
/// No scale and no margin: the gradient is that of a softmax whose probabilities are the cosines. Columns are divided by
/// their length, and that division is not differentiated, on purpose: the gradient for `weight` `[d, classes]` is that of
/// unit columns. Part `loss`, one for the batch. Tuples play no part, and there is no distance to choose.
///
/// # Source
/// Zhang et al. 2019 \[zhang2019psgrad\], equation 11.
#[derive(Debug, Clone)]
pub struct P2sGrad {
    config: P2sGradConfig,
    weight: Var,
}

impl P2sGrad {
    /// With seeded normal weights.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when a size is 0.
    pub fn new(config: P2sGradConfig, dtype: DType, device: &Device) -> Result<Self> {
        let P2sGradConfig { embedding_size: width, num_classes: classes, seed } = config;
        let weight = ClassTable { owner: "P2sGrad", classes, width, seed }.columns(1, dtype, device)?;
        Ok(Self { config, weight })
    }
}

impl Loss for P2sGrad {
    fn unreduced(&self, batch: &Batch, _: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let ids = class_ids("P2sGrad", batch, self.config.num_classes)?;
        let columns = self.weight.as_tensor().t()?.contiguous()?; // [classes, d]
        let step = (normalize_rows(&columns.detach(), 2.0)? - columns.detach())?;
        let unit = (columns + step)?;
        let cosine = normalize_rows(batch.embeddings(), 2.0)?.matmul(&unit.t()?)?; // [n, classes]
        let gap = (&cosine - one_hot(&ids, &cosine)?)?;
        Ok(vec![Part::whole("loss", gap.sqr()?.mean_all()?.reshape(1)?)])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        None
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("weight", &self.weight, Role::Proxy)]
    }

    fn class_rows(&self) -> Result<Option<Tensor>> {
        Ok(Some(self.weight.as_tensor().t()?.contiguous()?))
    }
}
