//! max(0, ·) for matrices of divergences, with a diagonal that is 0 by definition.

use candle_core::{DType, Tensor};

use crate::Result;

/// Entries below zero, and with `zero_diagonal` the diagonal, become 0 with gradient 0.
///
/// Not a number stays not a number: a comparison with NaN is false, so it is not hidden as the nearest point.
pub(crate) fn clamp(divergences: &Tensor, zero_diagonal: bool) -> Result<Tensor> {
    let seen = divergences.detach();
    let mut mask = seen.lt(0.0f64)?;
    if zero_diagonal {
        mask = mask.maximum(&Tensor::eye(seen.dims()[0], DType::U8, seen.device())?)?;
    }
    Ok(mask.where_cond(&seen.zeros_like()?, divergences)?)
}
