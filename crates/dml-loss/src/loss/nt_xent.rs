//! Normalized temperature-scaled cross entropy (Chen et al. 2020): each positive pair against its anchor's negatives.

use std::sync::Arc;

use dml_kernels::softplus;
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, PairCounts, Pairs, Parameter, Part, Reduced, Reducer, Result, Temperature,
    TemperatureSpec, Tuples,
    loss::{
        logits::{Logits, calibrate, check_temperature},
        positive_rows::{OfPositives, Scaled},
        tuple_sum::{Added, TupleSum},
    },
    tensor::{entries, fill_unless, masked_log_sum_exp, rows as rows_of, upload},
    tuples::{PairTable, Repeats},
};

/// Knobs of [`NtXent`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NtXentConfig {
    /// 0.07 (the default) to 0.5 for cosines; `"learned"` for divergences.
    pub temperature: TemperatureSpec,
}

impl Default for NtXentConfig {
    fn default() -> Self {
        Self { temperature: TemperatureSpec::Fixed(0.07) }
    }
}

/// −log( exp(l_ap) / (exp(l_ap) + Σ_n exp(l_an)) ) for each positive pair, n over the negatives of a, l the closeness
/// over the temperature.
///
/// Other positives of a are not in the denominator, as they are in [`SupCon`](crate::SupCon). Part `loss`, a loss a
/// positive pair, 0 for an anchor without negatives. A pair that tuples name twice counts twice, a negative in the
/// denominator too. Without any positive or any negative pair the loss is 0. Over [`TwoViews`](crate::TwoViews) it is
/// the loss of SimCLR.
///
/// # Distances
/// Any. Cosine with a fixed temperature is usual. Under a divergence l_ij = −exp(s)·D_φ(x_i ‖ x_j) (`Side::First`) with
/// a learned s, set by [`Objective::calibrate`](crate::Objective::calibrate) before the first step.
/// # Cost
/// With L_a = log Σ_n exp(l_an) the loss of a pair is softplus(L_a − l_ap): O(nm) time and memory, where a table of
/// positive pairs by negative pairs would be O(n⁴).
/// # Source
/// Chen et al. 2020 \[chen2020\], equation 1; van den Oord et al. 2018 \[oord2018\].
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = NtXent { distance: Arc::new(Cosine), temperature: Temperature::fixed(1.0)? };
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// let value = Objective::new(Arc::new(loss)).forward(&Batch::new(&x, &[0, 0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Each positive pair, at cosine 1, against one negative at 0.
/// assert!((value - (-1f64).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct NtXent {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The temperature.
    pub temperature: Temperature,
}

impl Loss for NtXent {
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        let pairs = PairTable::new(batch, tuples, Repeats::Each);
        if pairs.one_sided() {
            return Ok(Reduced::Nothing);
        }
        let Logits { matrix, factor, log_scale } =
            Logits::new("NtXent", batch, &self.distance, &self.temperature)?;
        let mut sum = TupleSum::new(&matrix, reducer, batch.labels())?;
        let losses = OfPositives { pairs: &pairs, factor, own: Scaled(factor) };
        match sum.add("loss", &losses, |_| Ok(None))? {
            Added::Yes => Ok(Reduced::of(sum.finish(log_scale.as_ref())?)),
            Added::No => Ok(Reduced::Unknown),
        }
    }

    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let counts = PairCounts::new(batch, tuples);
        if counts.one_sided() {
            return Ok(Vec::new());
        }
        check_temperature("NtXent", batch, &self.temperature)?;
        let values = batch.all_pairs(&*self.distance)?; // [n, m]
        let logits = self.temperature.logits(&self.distance.closeness(&values)?)?; // [n, m]
        // A negative pair listed c times adds c·exp(l) = exp(l + log c).
        let log_counts = counts.negative.iter().map(|&c| c.max(1.0).ln()).collect();
        let repeated = (&logits + upload(log_counts, (counts.n, counts.m), &logits)?)?;
        let keep = counts.keep(&counts.negative, &logits)?;
        let norm = masked_log_sum_exp(&repeated, &keep, false)?.squeeze(1)?; // [n]
        let positive = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs).positive;
        let own = entries(&logits, &positive.anchor, &positive.other)?; // [k]
        let losses = softplus(&(rows_of(&norm, &positive.anchor)? - own)?)?;
        // An anchor without negatives has nothing to be told from.
        let has_negative = counts.row_sums(&counts.negative);
        let has_negative: Vec<u8> =
            positive.anchor.iter().map(|&a| u8::from(has_negative[a as usize] > 0.0)).collect();
        let has_negative = candle_core::Tensor::from_vec(has_negative, positive.len(), losses.device())?;
        let losses = fill_unless(&losses, &has_negative, 0.0)?;
        Ok(vec![Part::new("loss", losses, Index::Pairs(positive))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        self.temperature.parameters()
    }

    fn calibrate(&self, batch: &Batch) -> Result<()> {
        calibrate(batch, &*self.distance, &self.temperature)
    }
}
