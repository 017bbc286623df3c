//! Lifted structure loss (Song et al. 2016) and its generalization (Hermans et al. 2017).

use std::sync::Arc;

use dml_kernels::{Real, RowLoss, softplus};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, PairCounts, Pairs, Part, Result, Tuples, rows,
    tensor::{entries, fill_unless, hinge, masked_log_sum_exp, rows as rows_of, upload},
    tuples::{PairTable, Repeats},
};

/// Below every logit in f32 and f64, so that an anchor without negatives adds nothing.
const NOTHING: f64 = -1e30;

/// Margins of [`LiftedStructure`] and [`GeneralizedLiftedStructure`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LiftedStructureConfig {
    /// m₋: negatives closer than this weigh most. 1 (the default), for distances of normalized rows.
    pub neg_margin: f64,
    /// m₊, taken off the positive distance; 0.
    pub pos_margin: f64,
}

impl Default for LiftedStructureConfig {
    fn default() -> Self {
        Self { neg_margin: 1.0, pos_margin: 0.0 }
    }
}

/// ½[D_ap − m₊ + log(Σ_n exp(m₋ − D_an) + Σ_n exp(m₋ − D_pn))]₊² for each ordered positive pair; for similarities D −
/// m₊ becomes m₊ − s, and m₋ − D becomes s − m₋.
///
/// Part `loss`, a loss a positive pair; a pair without negatives on either side has the hinge of its distance alone. A
/// pair that tuples name twice counts twice. With a separate reference set the positives have no negatives of their own
/// and the second sum is left out. (pytorch-metric-learning compares their row numbers with those of the batch there,
/// which are of another table.)
///
/// # Distances
/// Any. Under a divergence D_pn is that of the row p as anchor, so both sums have the anchor on the same side.
/// # Cost
/// O(nm) time and memory: positive pairs are listed, sums over negatives taken once for each row.
/// # Source
/// Song et al. 2016 \[song2016\], equation 4.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = LiftedStructureConfig::default();
/// let loss = Objective::new(Arc::new(LiftedStructure { distance: Arc::new(Lp::raw(2.0)), config }));
/// let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // 1 + log(e⁻² + e⁻¹) = log(1 + e⁻¹), squared and halved.
/// assert!((value - 0.5 * (-1f64).exp().ln_1p().powi(2)).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LiftedStructure {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The margins.
    pub config: LiftedStructureConfig,
}

impl Loss for LiftedStructure {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let counts = PairCounts::new(batch, tuples);
        if counts.one_sided() {
            return Ok(Vec::new());
        }
        let values = batch.all_pairs(&*self.distance)?; // [n, m]
        let near = self.distance.margin_over(&values, self.config.neg_margin)?.neg()?; // [n, m]
        let log_counts = counts.negative.iter().map(|&c| c.max(1.0).ln()).collect();
        let logits = (&near + upload(log_counts, (counts.n, counts.m), &near)?)?;
        let keep = counts.keep(&counts.negative, &near)?;
        let norm = masked_log_sum_exp(&logits, &keep, false)?.squeeze(1)?; // [n]
        let some = keep.max(1)?; // [n]
        let norm = fill_unless(&norm, &some, NOTHING)?;
        let positive = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs).positive;
        let mut negatives = rows_of(&norm, &positive.anchor)?; // [k]
        if !batch.has_reference() {
            let of_positive = rows_of(&norm, &positive.other)?;
            let (high, low) = (negatives.maximum(&of_positive)?, negatives.minimum(&of_positive)?);
            negatives = (softplus(&(low - &high)?)? + high)?;
        }
        let some = negatives.detach().gt(NOTHING / 2.0)?;
        let negatives = fill_unless(&negatives, &some, 0.0)?;
        let own = entries(&values, &positive.anchor, &positive.other)?; // [k]
        let own = self.distance.margin_over(&own, self.config.pos_margin)?;
        let losses = (hinge(&(negatives + own)?)?.sqr()? * 0.5)?;
        Ok(vec![Part::new("loss", losses, Index::Pairs(positive))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}

/// [log Σ_p exp(D_ap − m₊) + log Σ_n exp(m₋ − D_an)]₊ for each row a; an empty sum's logarithm counts as 0. For
/// similarities D − m₊ becomes m₊ − s, and m₋ − D becomes s − m₋.
///
/// Part `loss`, a loss a row. A pair that tuples name twice counts once.
///
/// # Distances
/// Any, margins in its units.
/// # Cost
/// O(nm) time and memory.
/// # Source
/// Hermans et al. 2017 \[hermans2017\], the generalized lifted structure of section 2.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = LiftedStructureConfig { neg_margin: 2.0, pos_margin: 0.0 };
/// let loss = Objective::new(Arc::new(GeneralizedLiftedStructure { distance: Arc::new(Lp::raw(2.0)), config }));
/// let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Rows 0 and 1: 1 + (2 − 3) and 1 + (2 − 2); row 2 has negatives alone, at 3 and 2.
/// assert!((value - (0.0 + 1.0 + (-1f64).exp().ln_1p()) / 3.0).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct GeneralizedLiftedStructure {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The margins.
    pub config: LiftedStructureConfig,
}

/// Of one row; `sign` is 1 for distances and −1 for similarities.
struct Rows<'a> {
    pairs: &'a PairTable,
    config: LiftedStructureConfig,
    sign: f64,
}

impl RowLoss for Rows<'_> {
    fn scratch(&self, columns: usize) -> usize {
        4 * columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let (positive, rest) = scratch.split_at_mut(row.len());
        let (negative, rest) = rest.split_at_mut(row.len());
        let (p, n) = rest.split_at_mut(row.len());
        self.pairs.fill(i, positive, negative);
        let sign = T::from_f64(self.sign);
        let (pos, neg) = (T::from_f64(self.config.pos_margin), T::from_f64(self.config.neg_margin));
        for ((p, n), &v) in p.iter_mut().zip(&mut *n).zip(row) {
            *p = sign * (v - pos);
            *n = sign * (neg - v);
        }
        let loss = rows::log_sum_exp(p, positive, false) + rows::log_sum_exp(n, negative, false);
        if loss <= T::ZERO {
            return T::ZERO;
        }
        for ((out, &p), &n) in slopes.iter_mut().zip(&*p).zip(&*n) {
            *out = sign * (p - n);
        }
        loss
    }
}

impl Loss for GeneralizedLiftedStructure {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.nothing() {
            return Ok(Vec::new());
        }
        let pairs = PairTable::new(batch, tuples, Repeats::Once);
        let sign = if self.distance.larger_is_closer() { -1.0 } else { 1.0 };
        let of = Rows { pairs: &pairs, config: self.config, sign };
        Ok(vec![Part::of_rows(batch.pairs(&self.distance)?.row_losses(&of, None)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
