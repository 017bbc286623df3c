//! Ranked list loss: positives within a ball, negatives outside a larger one (Wang et al. 2019).

use std::sync::Arc;

use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Part, Result, Tuples,
    error::finite,
    rows,
    tuples::{PairTable, Repeats},
};

/// What the reference implementation adds to each weight in the denominators.
const SMALL: f64 = 1e-5;

/// Knobs of [`RankedList`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankedListConfig {
    /// m, the gap between the two balls; 0.4.
    pub margin: f64,
    /// T₋: how strongly closer negatives count more; 10.
    #[serde(rename = "Tn", alias = "tn")]
    pub tn: f64,
    /// λ, the share of the negatives, from 0 to 1; 0.5.
    pub imbalance: f64,
    /// α, how far negatives must be; by default 1 + m/2, which is the paper's 1.2.
    pub alpha: Option<f64>,
    /// T₊: how strongly farther positives count more; 0.
    #[serde(rename = "Tp", alias = "tp")]
    pub tp: f64,
}

impl Default for RankedListConfig {
    fn default() -> Self {
        Self { margin: 0.4, tn: 10.0, imbalance: 0.5, alpha: None, tp: 0.0 }
    }
}

/// (1 − λ)·Σ w⁺(D − (α − m)) / Σ w⁺ over the positives with D > α − m, plus λ·Σ w⁻(α − D) / Σ w⁻ over the negatives
/// with D < α, for each row; w⁺ = exp(T₊(D − (α − m))), w⁻ = exp(T₋(α − D)), both part of the graph.
///
/// Each denominator has 10⁻⁵·m more, m here the number of columns, as in pytorch-metric-learning; unlike there a
/// negative at distance exactly 0 counts. Given tuples say which pairs count, each once. Part `loss`, a loss a row.
///
/// # Distances
/// Any but a similarity, which is an error. Euclid of normalized rows is usual. Under a divergence α and m are in units
/// of φ, α near the median of the negatives, and T₋·α stays of order 10.
/// # Cost
/// O(nm) time and memory.
/// # Source
/// Wang et al. 2019 \[wang2019rll\], equations 4 to 11.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = RankedList::new(Arc::new(Lp::raw(2.0)), RankedListConfig::default())?;
/// let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
/// let value = Objective::new(Arc::new(loss)).forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Rows 0 and 1 have a positive 0.2 outside its ball of radius 0.8, and no negative within 1.2.
/// assert!((value - 2.0 / 3.0 * 0.5 * 0.2 / (1.0 + 3e-5)).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct RankedList {
    distance: Arc<dyn Distance>,
    config: RankedListConfig,
}

impl RankedList {
    /// With the given knobs.
    ///
    /// # Errors
    /// [`Error::Config`] for a similarity, or an `imbalance` outside \[0, 1\].
    pub fn new(distance: Arc<dyn Distance>, config: RankedListConfig) -> Result<Self> {
        if distance.larger_is_closer() {
            return Err(Error::config("RankedList", "distance", distance.name(), "no similarity"));
        }
        if !(0.0..=1.0).contains(&config.imbalance) {
            return Err(Error::config("RankedList", "imbalance", config.imbalance, "a share in [0, 1]"));
        }
        let RankedListConfig { margin, tn, tp, alpha, .. } = config;
        let fields = [("margin", margin), ("Tn", tn), ("Tp", tp), ("alpha", alpha.unwrap_or(0.0))];
        finite("RankedList", &fields)?;
        Ok(Self { distance, config })
    }
}

/// Of one row.
struct Rows<'a> {
    pairs: &'a PairTable,
    config: RankedListConfig,
    alpha: f64,
}

impl RowLoss for Rows<'_> {
    fn scratch(&self, columns: usize) -> usize {
        3 * columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let [positive, negative, weights] = rows::parts(scratch, row.len());
        self.pairs.fill(i, positive, negative);
        let RankedListConfig { margin, tn, imbalance, tp, .. } = self.config;
        let kinds = [
            (positive, 1.0, self.alpha - margin, tp, 1.0 - imbalance),
            (negative, -1.0, self.alpha, tn, imbalance),
        ];
        let mut loss = T::ZERO;
        for (counts, sign, bound, temperature, share) in kinds {
            let (sign, bound) = (T::from_f64(sign), T::from_f64(bound));
            let (temperature, share) = (T::from_f64(temperature), T::from_f64(share));
            // Pairs within their ball do not count.
            for ((count, weight), &v) in counts.iter_mut().zip(&mut *weights).zip(row) {
                let excess = sign * (v - bound);
                *count = if excess > T::ZERO { *count } else { T::ZERO };
                *weight = temperature * excess;
            }
            // Both sums are divided by the largest weight.
            let shift = rows::largest(weights, counts).max(T::ZERO);
            let (mut sum, mut norm) = (T::ZERO, T::from_f64(SMALL * row.len() as f64) * (-shift).exp_fast());
            for ((weight, &count), &v) in weights.iter_mut().zip(&*counts).zip(row) {
                let w = (*weight - shift).exp_fast();
                let w = if count > T::ZERO { w } else { T::ZERO };
                *weight = w;
                sum += w * sign * (v - bound);
                norm += w;
            }
            let mean = sum / norm;
            loss += share * mean;
            // d Σwe/Σw = w(1 + T(e − mean))/Σw.
            for ((slope, &w), &v) in slopes.iter_mut().zip(&*weights).zip(row) {
                let excess = sign * (v - bound);
                *slope += share * sign * w * (T::ONE + temperature * (excess - mean)) / norm;
            }
        }
        loss
    }
}

impl Loss for RankedList {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.nothing() {
            return Ok(Vec::new());
        }
        let pairs = &PairTable::new(batch, tuples, Repeats::Once);
        let alpha = self.config.alpha.unwrap_or(1.0 + self.config.margin / 2.0);
        let of = Rows { pairs, config: self.config, alpha };
        Ok(vec![Part::of_rows(batch.pairs(&self.distance)?.row_losses(&of, None)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
