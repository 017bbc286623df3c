//! Supervised contrastive loss (Khosla et al. 2020).

use std::sync::Arc;

use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Loss, Parameter, Part, Reducer, Result, Temperature, TemperatureSpec,
    Tuples,
    loss::logits::{Logits, calibrate},
    rows,
    tuples::{PairTable, Repeats},
};

/// Knobs of [`SupCon`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SupConConfig {
    /// 0.1 (the default) for cosines, as in the paper; `"learned"` for divergences.
    pub temperature: TemperatureSpec,
}

impl Default for SupConConfig {
    fn default() -> Self {
        Self { temperature: TemperatureSpec::Fixed(0.1) }
    }
}

/// −1/|P(i)| Σ_{p ∈ P(i)} log( exp(l_ip) / Σ_{a ∈ P(i) ∪ N(i)} exp(l_ia) ) for each row i, P(i) its positives, N(i) its
/// negatives, l the closeness over the temperature.
///
/// Part `loss`, a loss a row, 0 for a row without positives; usually averaged over the nonzero ones
/// ([`AvgNonZero`](crate::AvgNonZero)). A pair that tuples name twice counts once. Without any positive or any negative
/// pair the loss is 0.
///
/// # Distances
/// Any. Cosine with a fixed temperature is usual. Under a divergence l_ij = −exp(s)·D_φ(x_i ‖ x_j) (`Side::First`) with
/// a learned s, set by [`Objective::calibrate`](crate::Objective::calibrate) before the first step.
/// # Cost
/// O(nm) time and memory.
/// # Source
/// Khosla et al. 2020 \[khosla2020\], equation 2.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = SupCon { distance: Arc::new(Cosine), temperature: Temperature::fixed(1.0)? };
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// let value = Objective::new(Arc::new(loss)).forward(&Batch::new(&x, &[0, 0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Each anchor of class 0: two positives at cosine 1 share the softmax with a negative at 0.
/// assert!((value - ((2.0 * 1f64.exp() + 1.0).ln() - 1.0)).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SupCon {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The temperature.
    pub temperature: Temperature,
}

/// Of one row: log Σ exp over both kinds of pair, less the mean logit of the positives.
struct Rows<'a> {
    pairs: &'a PairTable,
    factor: f64,
}

impl RowLoss for Rows<'_> {
    fn scratch(&self, columns: usize) -> usize {
        3 * columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let [positive, either, logits] = rows::parts(scratch, row.len());
        self.pairs.fill(i, positive, either);
        let count = rows::sum(positive);
        if count == T::ZERO {
            return T::ZERO;
        }
        let (factor, share) = (T::from_f64(self.factor), T::ONE / count);
        for (((logit, either), &p), &v) in logits.iter_mut().zip(&mut *either).zip(&*positive).zip(row) {
            *logit = if p > T::ZERO { p * v } else { T::ZERO };
            *either = either.max(p);
        }
        let own = factor * share * rows::sum(logits);
        logits.iter_mut().zip(row).for_each(|(logit, &v)| *logit = factor * v);
        let norm = rows::log_sum_exp_terms(logits, either, false);
        for ((slope, &soft), &p) in slopes.iter_mut().zip(&*logits).zip(&*positive) {
            *slope = factor * (soft - share * p);
        }
        norm.less(own)
    }
}

impl Loss for SupCon {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let pairs = PairTable::new(batch, tuples, Repeats::Once);
        if pairs.one_sided() {
            return Ok(Vec::new());
        }
        let Logits { matrix, factor, log_scale } =
            Logits::new("SupCon", batch, &self.distance, &self.temperature)?;
        let losses = matrix.row_losses(&Rows { pairs: &pairs, factor }, log_scale.as_ref())?; // [n]
        Ok(vec![Part::of_rows(losses)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(AvgNonZero)
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        self.temperature.parameters()
    }

    fn calibrate(&self, batch: &Batch) -> Result<()> {
        calibrate(batch, &*self.distance, &self.temperature)
    }
}
