//! Supervised contrastive loss (Khosla et al. 2020).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Loss, PairCounts, Parameter, Part, Reducer, Result, Temperature,
    TemperatureSpec, Tuples,
    tensor::{masked_log_sum_exp, upload},
};

/// Knobs of [`SupCon`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SupConConfig {
    /// 0.1 for cosines as in the paper; `"learned"` for divergences.
    pub temperature: TemperatureSpec,
}

impl Default for SupConConfig {
    fn default() -> Self {
        Self { temperature: TemperatureSpec::Fixed(0.1) }
    }
}

/// −1/|P(i)| Σ_{p ∈ P(i)} log( exp(l_ip) / Σ_{a ∈ P(i) ∪ N(i)} exp(l_ia) ), l the logits of the closeness.
///
/// Part `loss`, a loss a row, 0 for a row without positives; usually averaged over the nonzero ones. Cosine with a
/// fixed temperature is usual; with a Bregman divergence use a learned one. Without any positive or any negative
/// pair the loss is 0.
///
/// # Source
/// Khosla et al. 2020 \[khosla2020\], equation 2.
#[derive(Debug, Clone)]
pub struct SupCon {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The temperature.
    pub temperature: Temperature,
}

impl Loss for SupCon {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let counts = PairCounts::new(batch, tuples);
        if counts.one_sided() {
            return Ok(Vec::new());
        }
        let values = batch.all_pairs(&*self.distance)?; // [n, m]
        let logits = self.temperature.logits(&self.distance.closeness(&values)?)?; // [n, m]
        let either: Vec<f64> = counts.positive.iter().zip(&counts.negative).map(|(p, n)| p + n).collect();
        let norm = masked_log_sum_exp(&logits, &counts.keep(&either, &logits)?, false)?.squeeze(1)?; // [n]
        let per_row = counts.row_sums(&counts.positive);
        let m = counts.m;
        let share = counts.positive.iter().enumerate();
        let share = share.map(|(at, &c)| if c > 0.0 { 1.0 / per_row[at / m] } else { 0.0 }).collect();
        let mean = (&logits * upload(share, (counts.n, m), &logits)?)?.sum(1)?; // [n]
        let has_positive = per_row.iter().map(|&k| k.min(1.0)).collect();
        let losses = ((norm - mean)? * upload(has_positive, counts.n, &logits)?)?;
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
        if batch.nothing() {
            return Ok(());
        }
        self.temperature.calibrate(&*self.distance, &batch.detach().all_pairs(&*self.distance)?)
    }
}
