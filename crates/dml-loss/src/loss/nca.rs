//! Neighbourhood components analysis (Goldberger et al. 2004) and its proxies (Movshovitz-Attias et al. 2017).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, Parameter, Part, Result, Role, Tuples,
    error::positive,
    loss::{
        class_rows::{ClassRows, OwnClass},
        class_table::{ClassTable, check_rows, class_ids, weighted},
    },
    rows::{self, log_sum_exp},
    tensor::rows,
    tuples::PairTable,
};

/// Knobs of [`Nca`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NcaConfig {
    /// s, which multiplies the closeness; 1.
    pub softmax_scale: f64,
}

impl Default for NcaConfig {
    fn default() -> Self {
        Self { softmax_scale: 1.0 }
    }
}

impl NcaConfig {
    pub(crate) fn check(&self) -> Result<()> {
        positive("Nca", &[("softmax_scale", self.softmax_scale)])
    }
}

/// −log Σ_{j of i's class} softmax_j(s·closeness_ij) for each row i, over all j but i itself; rows without a positive
/// are left out.
///
/// Given tuples become weights of the rows (with a separate reference set those of the anchors). Part `loss`, a loss a
/// row.
///
/// # Distances
/// The squared Euclidean distance is usual; any distance. Under a divergence the neighbours of i have the probabilities
/// softmax_j(−s·D_φ(x_i ‖ x_j)) (`Side::First`); s is fixed, so it is φ that finds the scale.
/// # Cost
/// O(nm) time and memory.
/// # Source
/// Goldberger et al. 2004 \[goldberger2004\], the logarithm of equation 2.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = Objective::new(Arc::new(Nca { distance: Arc::new(Lp::squared()), config: NcaConfig::default() }));
/// let x = Tensor::new(&[[0f64], [1.], [2.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Row 0 has its class at 1 and another at 4, row 1 both at 1; row 2 is alone in its class.
/// assert!((value - 0.5 * ((-3f64).exp().ln_1p() + 2f64.ln())).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Nca {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The scale.
    pub config: NcaConfig,
}

/// Of one row: log Σ exp over all pairs less that over the positive ones.
struct Rows<'a> {
    pairs: &'a PairTable,
    factor: f64,
}

impl RowLoss for Rows<'_> {
    fn scratch(&self, columns: usize) -> usize {
        4 * columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let [positive, either, own, all] = rows::parts(scratch, row.len());
        self.pairs.fill(i, positive, either);
        let factor = T::from_f64(self.factor);
        for ((own, all), &v) in own.iter_mut().zip(&mut *all).zip(row) {
            *own = factor * v;
            *all = factor * v;
        }
        either.iter_mut().zip(&*positive).for_each(|(either, &p)| *either += p);
        let loss = log_sum_exp(all, either, false) - log_sum_exp(own, positive, false);
        for ((out, &all), &own) in slopes.iter_mut().zip(&*all).zip(&*own) {
            *out = factor * (all - own);
        }
        loss
    }
}

impl Loss for Nca {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        let classes = batch.classes();
        let kept = (0..batch.len()).filter(|&i| classes.counts(i).0 > 0);
        let kept: Vec<u32> = kept.map(|i| i as u32).collect();
        let pairs = PairTable::All(classes.clone());
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let sign = if self.distance.larger_is_closer() { 1.0 } else { -1.0 };
        let of = Rows { pairs: &pairs, factor: sign * self.config.softmax_scale };
        let losses = batch.pairs(&self.distance)?.row_losses(&of, None)?; // [n]
        let losses = weighted(&losses, tuples, batch.has_reference())?;
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
    /// s, which multiplies the closeness: 1 by default; 9 gives the low temperature of ProxyNCA++.
    pub softmax_scale: f64,
    /// Seeds the initial proxies; 0.
    pub seed: u64,
}

impl Default for ProxyNcaConfig {
    fn default() -> Self {
        Self { num_classes: 0, embedding_size: 0, softmax_scale: 1.0, seed: 0 }
    }
}

/// −log softmax_c(s·closeness(x_i, proxy_c)) at the class of i.
///
/// Given tuples become weights of their anchors. A reference set plays no part. Own parameter `proxies` `[classes, d]`,
/// at first standard normal; labels are rows of that table. Part `loss`, a loss a row.
///
/// # Distances
/// The squared Euclidean distance of normalized rows is usual; any distance. Under a divergence proxies stand where
/// [`BregmanDistance::anchor`](crate::BregmanDistance) puts the others: with D_φ(x ‖ proxy) the loss is a linear
/// softmax in x whatever φ is, and the proxy that fits its class best is the class's mean. φ must be defined where
/// normal proxies lie, or the proxies set first.
/// # Cost
/// O(n·classes) time and memory.
/// # Source
/// Movshovitz-Attias et al. 2017 \[movshovitz2017\]; with the own class in the denominator, as in Teh et al. 2020
/// \[teh2020\] and pytorch-metric-learning.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = ProxyNcaConfig { num_classes: 2, embedding_size: 1, ..Default::default() };
/// let loss = Objective::new(Arc::new(ProxyNca::new(Arc::new(Lp::squared()), config, DType::F64, &Device::Cpu)?));
/// loss.parameters()[0].var.set(&Tensor::new(&[[0f64], [1.]], &Device::Cpu)?)?;
/// let x = Tensor::new(&[[0f64]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0])?)?.to_scalar::<f64>()?;
/// assert!((value - (-1f64).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        positive("ProxyNca", &[("softmax_scale", config.softmax_scale)])?;
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
        check_rows("ProxyNca", batch, ("proxies", &self.proxies), self.config.embedding_size)?;
        let classes = class_ids("ProxyNca", batch, self.config.num_classes)?;
        let sign = if self.distance.larger_is_closer() { 1.0 } else { -1.0 };
        let factor = sign * self.config.softmax_scale;
        let of = ClassRows { own: &classes, per_class: 1, factor, margin: OwnClass::AsItIs };
        let losses = self.distance.pairs(batch.embeddings(), &self.proxies)?.row_losses(&of, None)?; // [n]
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
