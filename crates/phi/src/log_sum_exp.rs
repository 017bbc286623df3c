//! φ(x) = log Σ exp x, the log-partition function of the categorical distribution (Banerjee et al. 2005).

use candle_core::{D, Tensor};
use dml_kernels::{ConvexCurve, scalar_divergence};

use crate::tensor::{check_pivot, exp_m1, ln_1p, log_sum_exp, rounded_once, rows, shift, winner};
use crate::{Domain, Generator, Result};

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
        rounded_once(x, pivot, |x, pivot| centered(&shift(x, pivot)?, pivot))
    }

    fn divergence(&self, _: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        divergence(step, y)
    }
}

/// log Σ p_k·exp(δ_k) − ⟨p, δ⟩ for increments δ `[n, k]` of the scores `s` `[n, k]`, p the softmax of the scores.
///
/// With the mean ⟨p, δ⟩ taken out of δ it is log(1 + Σ p_k·(exp δ_k − 1 − δ_k)), in which no term is negative.
pub(crate) fn divergence(delta: &Tensor, s: &Tensor) -> Result<Tensor> {
    let log_p = log_softmax(s)?;
    let p = log_p.exp()?; // [n, k]
    let delta = delta.broadcast_sub(&(&p * delta)?.sum_keepdim(D::Minus1)?)?;
    // Past the range of the exponential the divergence is the largest exponent and what the others add to it.
    let exponents = (&log_p + &delta)?;
    let top = exponents.detach().max_keepdim(D::Minus1)?; // [n, 1]
    let near = top.lt(60.0)?.to_dtype(s.dtype())?; // [n, 1]
    let inner = delta.broadcast_mul(&near)?;
    // p·(eᵟ − 1 − δ) from the exponent where δ is large, since p may be small enough to make up for it.
    let large = inner.detach().gt(1.0)?.to_dtype(s.dtype())?;
    let small = large.affine(-1.0, 1.0)?;
    let close = (scalar_divergence(ConvexCurve::Exponential, &(&inner * &small)?)? * &p)?;
    let exponent = exponents.broadcast_mul(&near)?;
    let apart = ((exponent.exp()? - (&p * (inner + 1.0)?)?)? * large)?;
    let within = ln_1p(&(close + apart)?.sum(D::Minus1)?)?; // [n]
    let far = near.affine(-1.0, 1.0)?;
    let beyond = (log_sum_exp(&exponents.broadcast_mul(&far)?)?.0 * far.squeeze(1)?)?;
    Ok(((within * near.squeeze(1)?)? + beyond)?)
}

/// The log-softmax of each row, to full relative precision also where a share is next to 1: the logarithm of the
/// winner's share is −log(1 + what the others have), however little that is.
fn log_softmax(scores: &Tensor) -> Result<Tensor> {
    let behind = behind(scores)?; // [n, k]
    let others = winner(scores)?.affine(-1.0, 1.0)?;
    let rest = (behind.exp()? * others)?.sum_keepdim(D::Minus1)?; // [n, 1]
    Ok(behind.broadcast_sub(&ln_1p(&rest)?)?)
}

/// How far each score lies behind the largest of its row: `[n, k]` → `[n, k]`, 0 at the winner and below elsewhere.
pub(crate) fn behind(scores: &Tensor) -> Result<Tensor> {
    let best = scores.detach().argmax_keepdim(D::Minus1)?; // [n, 1]
    // `gather` and not `max`, whose gradient candle gives to every one of several that tie.
    Ok(scores.broadcast_sub(&scores.contiguous()?.gather(&best, 1)?)?)
}

/// The centred form of log Σ exp at the scores `s0` `[1, k]`, for increments `delta` `[n, k]` of the scores: its
/// divergence from there, and what the shares q change from p.
///
/// With the mean ⟨p, δ⟩ taken out of δ, q_k − p_k = p_k·(exp(δ_k − D) − 1), for shares that change little; that of the
/// winner is what the others lose, since next to 1 a share has no digits to change by little.
pub(crate) fn centered(delta: &Tensor, s0: &Tensor) -> Result<(Tensor, Tensor)> {
    let s = rows(&s0.squeeze(0)?, delta.dim(0)?)?; // [n, k]
    let value = divergence(delta, &s)?; // [n]
    let log_p = log_softmax(&s)?;
    let p = log_p.exp()?;
    let mean = (&p * delta)?.sum_keepdim(D::Minus1)?;
    let log_ratio = delta.broadcast_sub(&(mean + value.unsqueeze(1)?)?)?; // log q − log p
    let near = log_ratio.detach().abs()?.lt(0.5)?.to_dtype(s.dtype())?;
    let by_ratio = (exp_m1(&(log_ratio * &near)?)? * &p)?;
    let q = log_sum_exp(&(log_p + delta)?)?.1;
    let apart = ((q - p)? * near.affine(-1.0, 1.0)?)?;
    let best = winner(&s)?;
    let others = ((by_ratio + apart)? * best.affine(-1.0, 1.0)?)?;
    let lost = others.sum_keepdim(D::Minus1)?; // [n, 1]
    let change = (others - best.broadcast_mul(&lost)?)?;
    Ok((value, change))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::tensor::host;

    #[test]
    fn log_softmax_keeps_the_digits_of_a_share_next_to_one() -> Result<()> {
        let scores = Tensor::new(&[[-50.0, 0.0, -60.0], [3.0, 3.0, -800.0]], &Device::Cpu)?;
        let got = host(&log_softmax(&scores)?)?;
        let rest = (-50f64).exp() + (-60f64).exp();
        assert!((got[1] / -rest - 1.0).abs() < 1e-14, "{got:?}");
        assert!((got[3] + 2f64.ln()).abs() < 1e-15 && (got[5] + 803.0 + 2f64.ln()).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn log_softmax_has_the_gradient_of_every_score() -> Result<()> {
        let scores = Var::new(&[[0.3, 1.0, -0.7]], &Device::Cpu)?;
        let weights = Tensor::new(&[[0.2, -1.0, 0.5]], &Device::Cpu)?;
        let sum = |s: &Tensor| -> Result<Tensor> { Ok((log_softmax(s)? * &weights)?.sum_all()?) };
        let got = sum(&scores)?.backward()?.get(&scores).cloned().expect("a gradient");
        let want = crate::testing::numeric_gradient(&scores, 1e-6, |s| -> Result<f64> {
            Ok(sum(s)?.to_scalar::<f64>()?)
        })?;
        assert!(crate::testing::relative_error(&got, &want, 1.0)? < 1e-9, "{got} for {want}");
        Ok(())
    }

    #[test]
    fn nearly_pure_states_and_enormous_steps_keep_their_digits() -> Result<()> {
        // KL of two nearly pure states: e·log e − e + 1 = 1, in units of e⁻²⁰⁰.
        let (y, x) =
            (Tensor::new(&[[1.0, 200.0]], &Device::Cpu)?, Tensor::new(&[[0.0, 200.0]], &Device::Cpu)?);
        let d = host(&LogSumExp.divergence(&x, &y, &(&x - &y)?)?)?[0];
        assert!((d / ((-199f64).exp() * (-1f64).exp()) - 1.0).abs() < 1e-12, "{d:e}");
        let y = Tensor::new(&[[0.0, 0.0]], &Device::Cpu)?;
        let x = Tensor::new(&[[1e6, 0.0]], &Device::Cpu)?;
        let d = host(&LogSumExp.divergence(&x, &y, &x)?)?[0];
        assert!((d - (5e5 - 2f64.ln())).abs() < 1e-9, "{d}");
        Ok(())
    }
}
