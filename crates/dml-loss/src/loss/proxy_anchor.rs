//! Proxy-anchor loss (Kim et al. 2020).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Divisor, Index, Loss, Parameter, Part, Reducer, Result, Role, Tuples,
    loss::class_table::{ClassTable, class_ids, one_hot},
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
    /// δ of the paper.
    pub margin: f64,
    /// The scale of the paper.
    pub alpha: f64,
    /// Seeds the initial proxies.
    pub seed: u64,
}

impl Default for ProxyAnchorConfig {
    fn default() -> Self {
        Self { num_classes: 0, embedding_size: 0, margin: 0.1, alpha: 32.0, seed: 0 }
    }
}

/// log(1 + Σ_{x of class c} exp(−α(s(x, c) − δ))) and log(1 + Σ_{other x} exp(α(s(x, c) + δ))) for each proxy c.
///
/// Given tuples become weights w of the rows, of which w − 1 is added to both exponents. Own parameter `proxies`
/// `[classes, d]`. Parts `pos_loss` and `neg_loss`, a loss a class, divided by the number of classes in the batch and
/// by the number of all. Cosine is usual; for distances D takes the place of −s.
///
/// # Source
/// Kim et al. 2020 \[kim2020\], equation 4.
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
        let table = ClassTable { owner: "ProxyAnchor", classes, width, seed };
        Ok(Self { distance, config, proxies: table.rows(dtype, device)? })
    }
}

impl Loss for ProxyAnchor {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let ProxyAnchorConfig { num_classes, margin, alpha, .. } = self.config;
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
