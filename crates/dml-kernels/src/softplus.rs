//! Softplus log(1 + eᶻ) and its derivative, the activations of the convex networks.

use candle_core::{Result, Tensor};

/// softplus(z) = log(1 + eᶻ), elementwise, without overflow; its gradient is [`sigmoid`].
///
/// # Errors
/// When candle fails.
pub fn softplus(z: &Tensor) -> Result<Tensor> {
    z.relu()? + (z.abs()?.neg()?.exp()? + 1.0)?.log()?
}

/// σ(z) = 1 / (1 + e⁻ᶻ), elementwise.
///
/// # Errors
/// When candle fails.
pub fn sigmoid(z: &Tensor) -> Result<Tensor> {
    (z.neg()?.exp()? + 1.0)?.recip()
}

/// softplus(z₀ + δ) − softplus(z₀) without cancellation, however large z₀ is:
/// `z0` `[1, k]`, `delta` `[n, k]` → `[n, k]`.
///
/// # Errors
/// When candle fails or the shapes disagree.
pub fn softplus_increment(z0: &Tensor, delta: &Tensor) -> Result<Tensor> {
    softplus(&delta.broadcast_add(z0)?)?.broadcast_sub(&softplus(z0)?)
}
