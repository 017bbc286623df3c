//! Threshold-consistent margin: one threshold for all classes (Zhang et al. 2024).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Loss, Part, Result, Sum, Tuples,
    error::finite,
    loss::{
        pair_hinge::{Form, Kind, PairHinge},
        tuple_sum::TupleSum,
    },
    rows::EachRow,
    tuples::{PairTable, Repeats},
};

/// Knobs of [`ThresholdConsistentMargin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdConsistentMarginConfig {
    /// λ₊, the weight of the positive pairs; 1.
    pub lambda_plus: f64,
    /// λ₋, the weight of the negative pairs; 1.
    pub lambda_minus: f64,
    /// m₊: positive pairs less similar than this cost; 0.9.
    pub margin_plus: f64,
    /// m₋: negative pairs more similar than this cost; 0.5.
    pub margin_minus: f64,
}

impl Default for ThresholdConsistentMarginConfig {
    fn default() -> Self {
        Self { lambda_plus: 1.0, lambda_minus: 1.0, margin_plus: 0.9, margin_minus: 0.5 }
    }
}

impl ThresholdConsistentMarginConfig {
    pub(crate) fn check(&self) -> Result<()> {
        finite(
            "ThresholdConsistentMargin",
            &[
                ("margin_plus", self.margin_plus),
                ("margin_minus", self.margin_minus),
                ("lambda_plus", self.lambda_plus),
                ("lambda_minus", self.lambda_minus),
            ],
        )
    }
}

/// λ₊ times the mean of m₊ − s over the positive pairs with s ≤ m₊, plus λ₋ times the mean of s − m₋ over the negative
/// pairs with s ≥ m₋; for distances the signs are turned.
///
/// A regularizer beside another loss ([`WeightedSum`](crate::WeightedSum)): only the pairs on the wrong side of
/// thresholds that all classes share count. Part `loss`, one for the batch. A pair that tuples name twice counts twice.
/// A separate reference set is what the rows are compared with; pytorch-metric-learning looks its row numbers up in the
/// batch.
///
/// # Distances
/// Cosine is usual; any distance with the margins in its units: of a divergence m₊ < m₋, both near its median.
/// # Cost
/// O(nm) time and memory; pairs are visited.
/// # Source
/// Zhang et al. 2024 \[zhang2024\], equation 5.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = ThresholdConsistentMarginConfig::default();
/// let loss = Objective::new(Arc::new(ThresholdConsistentMargin { distance: Arc::new(Cosine), config }));
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// // The positive pair at cosine 0 lacks 0.9; of the negative ones that at cosine 1 has 0.5 too much.
/// let value = loss.forward(&Batch::new(&x, &[0, 1, 0])?)?.to_scalar::<f64>()?;
/// assert!((value - 1.4).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ThresholdConsistentMargin {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// Weights and margins.
    pub config: ThresholdConsistentMarginConfig,
}

impl Loss for ThresholdConsistentMargin {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        if batch.nothing() {
            return Ok(Vec::new());
        }
        let pairs = &PairTable::new(batch, tuples, Repeats::Each);
        let matrix = batch.pairs(&self.distance)?;
        let mut sum = TupleSum::new(&matrix, &Sum, batch.labels())?;
        let sign = if self.distance.larger_is_closer() { -1.0 } else { 1.0 };
        let config = self.config;
        let sides = [
            (Kind::Positive, sign, config.margin_plus, config.lambda_plus),
            (Kind::Negative, -sign, config.margin_minus, config.lambda_minus),
        ];
        for (kind, sign, bound, weight) in sides {
            // Pairs on the threshold are on its wrong side, and count though they cost nothing.
            let wrong = EachRow::new(|i, row: &[f64], found: &mut Vec<(f64, f64)>| {
                let (mut all, mut wrong) = (0.0, 0.0);
                let mut see = |j: usize| {
                    all += 1.0;
                    wrong += f64::from(u8::from(sign * (row[j] - bound) >= 0.0));
                };
                match kind {
                    Kind::Positive => pairs.each_positive(i, &mut see),
                    Kind::Negative => pairs.each_negative(i, &mut see),
                }
                found.push((all, wrong));
            });
            let counts = matrix.map_rows(&wrong)?;
            let (all, wrong) = counts.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
            if all > 0.0 {
                let losses = PairHinge { pairs, kind, sign, bound, form: Form::Hinge };
                sum.add_sum(&losses, weight / f64::max(wrong, 1.0))?;
            }
        }
        match sum.finish(None)? {
            Some(value) => Ok(vec![Part::whole("loss", value.reshape(1)?)]),
            None => Ok(Vec::new()),
        }
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
