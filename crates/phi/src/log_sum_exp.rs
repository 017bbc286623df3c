//! φ(x) = log Σ exp x, the log-partition function of the categorical distribution (Banerjee et al. 2005).

use candle_core::Tensor;
use dml_kernels::matmul;

use crate::factored::of_log_partition;
use crate::tensor::{check_pivot, log_sum_exp, shift, widened};
use crate::{Domain, Factored, Factors, Generator, Result};

/// φ(x) = log Σ_j exp x_j on ℝᵈ; ∇φ is the softmax, and D(x ‖ y) = KL(softmax y ‖ softmax x). In nats.
///
/// Convex, not strictly: D(x ‖ x + t·1) = 0 for every t.
///
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\].
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Generator, LogSumExp}};
/// let x = Tensor::new(&[[1e4, 1e4]], &Device::Cpu)?; // exp(1e4) would overflow
/// let (value, grad) = LogSumExp.value_and_grad(&x)?;
/// assert_eq!(value.to_vec1::<f64>()?, [1e4 + 2f64.ln()]);
/// assert_eq!(grad.to_vec2::<f64>()?, [[0.5, 0.5]]);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSumExp;

impl Generator for LogSumExp {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check("LogSumExp", "x", x)?;
        log_sum_exp(x)
    }

    /// log Σ p·exp(x − μ) − ⟨p, x − μ⟩ with p = softmax(μ).
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("LogSumExp::centered", x, pivot)?;
        self.check("LogSumExp::centered", "pivot", pivot)?;
        self.check("LogSumExp::centered", "x", x)?;
        centered(&shift(x, pivot)?, pivot)
    }

    fn factored(&self) -> Option<&dyn Factored> {
        Some(self)
    }
}

impl Factored for LogSumExp {
    fn factors(&self, x: &Tensor, _: &Tensor) -> Result<Factors> {
        of_log_partition(&widened(x)?)
    }
}

/// The centred form of log Σ exp at the scores `s0` `[1, k]`, for increments `delta` `[n, k]` of the scores.
pub(crate) fn centered(delta: &Tensor, s0: &Tensor) -> Result<(Tensor, Tensor)> {
    let (value0, p) = log_sum_exp(s0)?; // [1], [1, k]
    let log_p = s0.broadcast_sub(&value0.unsqueeze(1)?)?; // [1, k]
    let (value, q) = log_sum_exp(&delta.broadcast_add(&log_p)?)?;
    let tangent = matmul(delta, &p.t()?)?.squeeze(1)?; // [n]
    Ok(((value - tangent)?, q.broadcast_sub(&p)?))
}
