//! P2SGrad: regression of cosines on class membership (Zhang et al. 2019).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Loss, Parameter, Part, Result, Role, Tuples,
    loss::class_table::{ClassTable, check_rows, class_ids, one_hot},
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
    /// Seeds the initial weights; 0.
    pub seed: u64,
}

/// The mean over rows i and classes c of (cos θ_ic − \[c is the class of i\])², θ_ic the angle of row i to column c of
/// `weight`.
///
/// No scale and no margin: the gradient is that of a softmax whose probabilities are the cosines. Columns are divided
/// by their length, and that division is not differentiated, on purpose: the gradient for `weight` `[d, classes]` is
/// that of unit columns. pytorch-metric-learning does the same, but its columns are of length 1 only to about 1e-7.
/// Part `loss`, one for the batch. Tuples and a reference set play no part.
///
/// # Distances
/// None to choose: it takes cosines itself, and there is no form under a divergence.
/// # Cost
/// O(n·classes) time and memory.
/// # Source
/// Zhang et al. 2019 \[zhang2019psgrad\], equation 11.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = P2sGradConfig { num_classes: 2, embedding_size: 2, seed: 0 };
/// let loss = Objective::new(Arc::new(P2sGrad::new(config, DType::F64, &Device::Cpu)?));
/// loss.parameters()[0].var.set(&Tensor::new(&[[3f64, 0.], [0., 1.]], &Device::Cpu)?)?;
/// let x = Tensor::new(&[[2f64, 0.]], &Device::Cpu)?;
/// // Cosines 1 and 0: right for class 0, wrong by 1 twice for class 1.
/// let value = |label| loss.forward(&Batch::new(&x, &[label])?)?.to_scalar::<f64>().map_err(Error::from);
/// assert_eq!((value(0)?, value(1)?), (0.0, 1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        check_rows("P2sGrad", batch, ("weight", &self.weight), self.config.embedding_size)?;
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
