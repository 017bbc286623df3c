//! What the softmax losses share: logits of a batch's pairs, that is, closeness times a fixed or learned scale.

use std::sync::Arc;

use candle_core::Tensor;
use dml_kernels::PairMatrix;

use crate::{Batch, Distance, Result, Temperature};

/// A batch's matrix with the factor that makes its entries logits.
pub(crate) struct Logits {
    pub matrix: PairMatrix,
    /// Logit = factor·entry.
    pub factor: f64,
    /// log |factor| within the graph, where it is learned.
    pub log_scale: Option<Tensor>,
}

impl Logits {
    pub fn new(
        owner: &'static str,
        batch: &Batch,
        distance: &Arc<dyn Distance>,
        temperature: &Temperature,
    ) -> Result<Self> {
        check_temperature(owner, batch, temperature)?;
        let sign = if distance.larger_is_closer() { 1.0 } else { -1.0 };
        let factor = sign * temperature.scale()?;
        Ok(Self { matrix: batch.pairs(distance)?, factor, log_scale: temperature.log_scale()? })
    }
}

/// A learned temperature is of the embeddings' type and on their device.
pub(crate) fn check_temperature(owner: &'static str, batch: &Batch, temperature: &Temperature) -> Result<()> {
    match temperature {
        Temperature::Fixed(_) => Ok(()),
        Temperature::Learned(s) => batch.check_type(owner, ("log_scale", s)),
    }
}

/// Sets a learned temperature by the distances of a first batch.
pub(crate) fn calibrate(batch: &Batch, distance: &dyn Distance, temperature: &Temperature) -> Result<()> {
    if batch.nothing() {
        return Ok(());
    }
    temperature.calibrate(distance, &batch.detach().all_pairs(distance)?)
}
