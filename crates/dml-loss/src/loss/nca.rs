//! Neighbourhood components analysis (Goldberger et al. 2004) and its proxies (Movshovitz-Attias et al. 2017).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, PairCounts, Parameter, Part, Result, Role, Tuples,
    loss::class_table::{ClassTable, class_ids, cross_entropy, weighted},
    tensor::{masked_log_sum_exp, rows},
};

/// Knobs of [`Nca`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NcaConfig {
    /// Multiplies the closeness.
    pub softmax_scale: f64,
}

impl Default for NcaConfig {
    fn default() -> Self {
        Self { softmax_scale: 1.0 }
    }
}

/// −log Σ_{j of i's class} softmax_j(s·closeness_ij), over all j but i itself; rows without a positive are left out.
///
/// Given tuples become weights of the rows. Part `loss`, a loss a row. The squared Euclidean distance is usual; any
/// distance, a divergence too.
///
/// # Source
/// Goldberger et al. 2004 \[goldberger2004\], equation 2.
#[derive(Debug, Clone)]
pub struct Nca {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The scale.
    pub config: NcaConfig,
}

impl Loss for Nca {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let counts = PairCounts::new(batch, None);
        let per_row = counts.row_sums(&counts.positive);
        let kept: Vec<u32> = (0..counts.n).filter(|&i| per_row[i] > 0.0).map(|i| i as u32).collect();
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let values = batch.all_pairs(&*self.distance)?; // [n, m]
        let logits = (self.distance.closeness(&values)? * self.config.softmax_scale)?;
        let either: Vec<f64> = counts.positive.iter().zip(&counts.negative).map(|(p, n)| p + n).collect();
        let all = masked_log_sum_exp(&logits, &counts.keep(&either, &logits)?, false)?;
        let own = masked_log_sum_exp(&logits, &counts.keep(&counts.positive, &logits)?, false)?;
        let losses = weighted(&(all - own)?.squeeze(1)?, tuples, batch.has_reference())?; // [n]
        Ok(vec![Part::new("loss", rows(&losses, &kept)?, Index::Rows(kept))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}

/// Knobs of [`ProxyNca`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyNcaConfig {
    /// The number of classes; must be given.
    pub num_classes: usize,
    /// The width of the embeddings; must be given.
    pub embedding_size: usize,
    /// Multiplies the closeness.
    pub softmax_scale: f64,
    /// Seeds the initial proxies.
    pub seed: u64,
}

impl Default for ProxyNcaConfig {
    fn default() -> Self {
        Self { num_classes: 0, embedding_size: 0, softmax_scale: 1.0, seed: 0 }
    }
}

/// −log softmax_c(s·closeness(x_i, proxy_c)) at the class of i.
///
/// Given tuples become weights of their anchors. Own parameter `proxies` `[classes, d]`. Part `loss`, a loss a row.
/// Under a divergence the proxies stand where [`BregmanDistance::anchor`](crate::BregmanDistance) puts the others.
///
/// # Source
/// Movshovitz-Attias et al. 2017 \[movshovitz2017\]; with the own class in the denominator, as in Teh et al. 2020
/// \[teh2020\].
#[derive(Debug, Clone)]
pub struct ProxyNca {
    distance: Arc<dyn Distance>,
    config: ProxyNcaConfig,
    proxies: Var,
}

impl ProxyNca {
    /// With seeded normal proxies.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when a size is 0.
    pub fn new(
        distance: Arc<dyn Distance>,
        config: ProxyNcaConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let table = ClassTable {
            owner: "ProxyNca",
            classes: config.num_classes,
            width: config.embedding_size,
            seed: config.seed,
        };
        Ok(Self { distance, config, proxies: table.rows(dtype, device)? })
    }
}

impl Loss for ProxyNca {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let classes = class_ids("ProxyNca", batch, self.config.num_classes)?;
        let values = self.distance.all_pairs(batch.embeddings(), &self.proxies)?; // [n, classes]
        let logits = (self.distance.closeness(&values)? * self.config.softmax_scale)?;
        let losses = cross_entropy(&logits, &classes)?;
        Ok(vec![Part::of_rows(weighted(&losses, tuples, true)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("proxies", &self.proxies, Role::Proxy)]
    }

    fn class_rows(&self) -> Result<Option<Tensor>> {
        Ok(Some(self.proxies.as_tensor().clone()))
    }
}
