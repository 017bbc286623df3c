//! Proxy-anchor loss (Kim et al. 2020).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Divisor, Index, Loss, Parameter, Part, Reducer, Result, Role, Tuples,
    error::{finite, positive},
    loss::class_table::{ClassTable, check_rows, class_ids, one_hot},
    tensor::{masked_log_sum_exp, upload},
};

/// Knobs of [`ProxyAnchor`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyAnchorConfig {
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// The width of the embeddings; must be given.
    pub embedding_size: usize,
    /// δ of the paper; 0.1.
    pub margin: f64,
    /// α, the scale of the paper; 32.
    pub alpha: f64,
    /// Seeds the initial proxies; 0.
    pub seed: u64,
}

impl Default for ProxyAnchorConfig {
    fn default() -> Self {
        Self { num_classes: 0, embedding_size: 0, margin: 0.1, alpha: 32.0, seed: 0 }
    }
}

/// 1/|P⁺| Σ_{c in the batch} log(1 + Σ_{x of class c} exp(−α(s(x, c) − δ))) + 1/|P| Σ_c log(1 + Σ_{other x} exp(α(s(x,
/// c) + δ))), c over the proxies, P⁺ those whose class is in the batch, P all of them. For distances D takes the place
/// of −s.
///
/// Given tuples become weights w of the rows, of which w − 1 is added to both exponents, as in pytorch-metric-learning.
/// A reference set plays no part. Own parameter `proxies` `[classes, d]`, at first standard normal; labels are rows of
/// that table. Parts `pos_loss` and `neg_loss`, a loss a class, each with its count of proxies as divisor for the usual
/// reducer ([`Divisor`](crate::Divisor)).
///
/// # Distances
/// Cosine is usual. Under a divergence α and δ are in units of φ, proxies stand where
/// [`BregmanDistance::anchor`](crate::BregmanDistance) puts the others, and φ must be defined where normal proxies lie.
/// # Cost
/// O(n·classes) time and memory.
/// # Source
/// Kim et al. 2020 \[kim2020\], equation 4.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = ProxyAnchorConfig { num_classes: 2, embedding_size: 2, ..Default::default() };
/// let loss = Objective::new(Arc::new(ProxyAnchor::new(Arc::new(Cosine), config, DType::F64, &Device::Cpu)?));
/// loss.parameters()[0].var.set(&Tensor::new(&[[1f64, 0.], [0., 1.]], &Device::Cpu)?)?;
/// let x = Tensor::new(&[[1f64, 0.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0])?)?.to_scalar::<f64>()?;
/// // The row at cosine 1 to its own proxy, the one class present, and at 0 to the other of two.
/// let expected = (-32.0 * (1.0 - 0.1f64)).exp().ln_1p() + 0.5 * (32.0 * (0.0 + 0.1f64)).exp().ln_1p();
/// assert!((value - expected).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ProxyAnchor {
    distance: Arc<dyn Distance>,
    config: ProxyAnchorConfig,
    proxies: Var,
}

impl ProxyAnchor {
    /// With seeded normal proxies.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when a size is 0.
    pub fn new(
        distance: Arc<dyn Distance>,
        config: ProxyAnchorConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let ProxyAnchorConfig { num_classes: classes, embedding_size: width, seed, .. } = config;
        finite("ProxyAnchor", &[("margin", config.margin)])?;
        positive("ProxyAnchor", &[("alpha", config.alpha)])?;
        let table = ClassTable { owner: "ProxyAnchor", classes, width, seed };
        Ok(Self { distance, config, proxies: table.rows(dtype, device)? })
    }
}

impl Loss for ProxyAnchor {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let ProxyAnchorConfig { num_classes, embedding_size, margin, alpha, .. } = self.config;
        check_rows("ProxyAnchor", batch, ("proxies", &self.proxies), embedding_size)?;
        let ids = class_ids("ProxyAnchor", batch, num_classes)?;
        let values = self.distance.all_pairs(batch.embeddings(), &self.proxies)?; // [n, classes]
        // margin_over(s, δ) = δ − s, and its negative at −δ is s + δ; for distances likewise with D for −s.
        let mut positive = (self.distance.margin_over(&values, margin)? * alpha)?;
        let mut negative = (self.distance.margin_over(&values, -margin)? * -alpha)?;
        if let Some(tuples) = tuples {
            let extra = tuples.row_weights(ids.len(), false).into_iter().map(|w| w - 1.0).collect();
            let extra = upload(extra, (ids.len(), 1), &values)?; // [n, 1]
            positive = positive.broadcast_add(&extra)?;
            negative = negative.broadcast_add(&extra)?;
        }
        let own = one_hot(&ids, &values)?.gt(0.5)?.t()?.contiguous()?; // [classes, n]
        let other = own.eq(0u8)?;
        let sum = |x: Tensor, keep: &Tensor| -> Result<Tensor> {
            Ok(masked_log_sum_exp(&x.t()?.contiguous()?, keep, true)?.squeeze(1)?)
        };
        let (positive, negative) = (sum(positive, &own)?, sum(negative, &other)?); // [classes]
        let present = ids.iter().collect::<std::collections::HashSet<_>>().len();
        let part = |name, losses: Tensor, divisor: usize| -> Result<Part> {
            let divisor = upload(vec![divisor as f64], (), &losses)?;
            let index = Index::Classes((0..num_classes as u32).collect());
            Ok(Part { name, losses, index, divisor: Some(divisor) })
        };
        Ok(vec![part("pos_loss", positive, present)?, part("neg_loss", negative, num_classes)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(Divisor::default())
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("proxies", &self.proxies, Role::Proxy)]
    }

    fn class_rows(&self) -> Result<Option<Tensor>> {
        Ok(Some(self.proxies.as_tensor().clone()))
    }
}
