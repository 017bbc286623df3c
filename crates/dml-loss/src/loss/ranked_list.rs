//! Ranked list loss: positives within a ball, negatives outside a larger one (Wang et al. 2019).

use std::sync::Arc;

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, PairCounts, Part, Result, Tuples,
    tensor::{fill_unless, hinge},
};

/// What the reference implementation adds to each weight in the denominators.
const SMALL: f64 = 1e-5;

/// Knobs of [`RankedList`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankedListConfig {
    /// m, the gap between the two balls.
    pub margin: f64,
    /// T₋: how strongly closer negatives count more.
    #[serde(rename = "Tn", alias = "tn")]
    pub tn: f64,
    /// λ, the share of the negatives, from 0 to 1.
    pub imbalance: f64,
    /// α, how far negatives must be; 1 + m/2 if not given.
    pub alpha: Option<f64>,
    /// T₊: how strongly farther positives count more.
    #[serde(rename = "Tp", alias = "tp")]
    pub tp: f64,
}

impl Default for RankedListConfig {
    fn default() -> Self {
        Self { margin: 0.4, tn: 10.0, imbalance: 0.5, alpha: None, tp: 0.0 }
    }
}

/// (1 − λ)·Σ w⁺(D − (α − m)) / Σ w⁺ over the positives with D > α − m, plus λ·Σ w⁻(α − D) / Σ w⁻ over the negatives with
/// D < α, for each row; w⁺ = exp(T₊(D − (α − m))), w⁻ = exp(T₋(α − D)), both part of the graph.
///
/// Each denominator has 10⁻⁵·m more, m the number of columns, as in pytorch-metric-learning; unlike there a negative at
/// distance exactly 0 counts. Given tuples say which pairs count. Part `loss`, a loss a row. Any distance (no
/// similarity) with α and m in its units; Euclid of normalized rows is usual.
///
/// # Source
/// Wang et al. 2019 \[wang2019rll\], equations 4 to 11.
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
            return Err(Error::config("RankedList", "distance", format!("{distance:?}"), "no similarity"));
        }
        if !(0.0..=1.0).contains(&config.imbalance) {
            return Err(Error::config("RankedList", "imbalance", config.imbalance, "a share in [0, 1]"));
        }
        Ok(Self { distance, config })
    }
}

/// Σ w·e / (Σ w + 10⁻⁵·m) with w = exp(T·e) over the kept excesses e ≥ 0: `[n, m]` → `[n]`.
fn weighted_excess(excess: &Tensor, keep: &Tensor, temperature: f64) -> Result<Tensor> {
    let columns = excess.dim(1)? as f64;
    let exponent = fill_unless(&(excess * temperature)?, keep, -1e30)?;
    // Both sums are divided by the largest weight.
    let shift = hinge(&exponent.detach().max_keepdim(D::Minus1)?)?; // [n, 1]
    let weights = exponent.broadcast_sub(&shift)?.exp()?; // [n, m]
    let sum = (&weights * fill_unless(excess, keep, 0.0)?)?.sum(1)?; // [n]
    let norm = (weights.sum(1)? + (shift.squeeze(1)?.neg()?.exp()? * (SMALL * columns))?)?;
    Ok((sum / norm)?)
}

impl Loss for RankedList {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.nothing() {
            return Ok(Vec::new());
        }
        let counts = PairCounts::new(batch, tuples);
        let matrix = batch.all_pairs(&*self.distance)?; // [n, m]
        let RankedListConfig { margin, tn, imbalance, alpha, tp } = self.config;
        let alpha = alpha.unwrap_or(1.0 + margin / 2.0);
        let beyond = (&matrix - (alpha - margin))?;
        let within = matrix.affine(-1.0, alpha)?;
        let violating = |kind: &[f64], excess: &Tensor| -> Result<Tensor> {
            Ok((counts.keep(kind, excess)? * excess.detach().gt(0.0)?)?)
        };
        let positive = weighted_excess(&beyond, &violating(&counts.positive, &beyond)?, tp)?;
        let negative = weighted_excess(&within, &violating(&counts.negative, &within)?, tn)?;
        Ok(vec![Part::of_rows(((positive * (1.0 - imbalance))? + (negative * imbalance)?)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
