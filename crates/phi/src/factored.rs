//! Divergences that do not come from their tangents: D(x_i ‖ y_j) = ⟨u_i, v_j⟩ with factors of the generator's own.
//!
//! Around a pivot every D is a product of `[x − μ, φ_μ, 1]` and `[−∇φ_μ, 1, …]`, exact to the round-off of those
//! entries. That is enough where divergences are of one size. Where φ is piecewise linear, or nearly so, most of
//! them are many orders of magnitude smaller than the largest, and the small ones drown in the tangents' round-off.
//! Such a generator knows other factors, in which what is small in D is small:
//!
//! - max_k s_k: D(x ‖ y) = ⟨s(x) − max s(x), −e_κ(y)⟩, κ(y) the winner at y, exactly 0 within a piece;
//! - sums of softplus units and networks of them: the pivot form itself, in f64. Far from the knees their divergences
//!   grow by a power of ten every few steps, and a quadratic part, which would be the least that D is, is missing;
//! - log Σ exp s: D(x ‖ y) = KL(p(y) ‖ p(x)) = ⟨[ℓ(x), 1], [−p(y), ⟨p(y), ℓ(y)⟩]⟩, ℓ the log-softmax.

use candle_core::{D, DType, Tensor};

use crate::tensor::{shift, winner};
use crate::{Generator, Result};

/// The rows' shares of a divergence: D(x_i ‖ y_j) = ⟨first(x)_i, second(y)_j⟩, one matrix product for all pairs.
///
/// The dtype may be wider than that of the points; the divergences are rounded once, when they are done.
#[derive(Debug, Clone)]
pub struct Factors {
    /// The rows as first arguments, `[n, r]`.
    pub first: Tensor,
    /// The rows as second arguments, `[n, r]`.
    pub second: Tensor,
}

/// A generator whose divergence has factors of its own, which `bregman` then uses.
pub trait Factored: Generator {
    /// The factors of the rows of `x` `[n, d]`, both `[n, r]`, exact in their gradients like everything else.
    ///
    /// `pivot` `[1, d]`, without gradient, is a point amid all that will meet in a product: factors of the same
    /// pivot belong together. `x` and `pivot` have been checked; they may be of a wider dtype than the parameters.
    ///
    /// # Errors
    /// When the tensor operation fails.
    /// # Examples
    /// ```
    /// # use {candle_core::{Device, Tensor}, phi::{Generator, LogSumExp}};
    /// let x = Tensor::new(&[[0f32, 200.], [1., 200.]], &Device::Cpu)?;
    /// let factors = LogSumExp.factored().expect("log Σ exp has factors").factors(&x, &x.narrow(0, 0, 1)?)?;
    /// let d = factors.first.matmul(&factors.second.t()?)?.to_vec2::<f64>()?; // KL of two nearly pure states
    /// assert!((d[0][1] / (-200f64).exp() - 1.0).abs() < 1e-12); // e·log e − e + 1 = 1, in units of e⁻²⁰⁰
    /// # Ok::<(), phi::Error>(())
    /// ```
    fn factors(&self, x: &Tensor, pivot: &Tensor) -> Result<Factors>;
}

impl Factors {
    /// The factors of a sum of divergences.
    pub(crate) fn sum(parts: &[Self]) -> Result<Self> {
        let wide = parts.iter().any(|part| part.first.dtype() == DType::F64);
        let beside = |share: fn(&Self) -> &Tensor| -> Result<Tensor> {
            let each = parts.iter().map(|part| match wide {
                true => share(part).to_dtype(DType::F64),
                false => Ok(share(part).clone()),
            });
            Ok(Tensor::cat(&each.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
        };
        Ok(Self { first: beside(|part| &part.first)?, second: beside(|part| &part.second)? })
    }

    /// The factors of `scale`·D.
    pub(crate) fn scaled(self, scale: f64) -> Result<Self> {
        Ok(Self { second: (self.second * scale)?, ..self })
    }
}

/// The factors of any generator: its own, or those of the pivot.
pub(crate) fn factors_of(phi: &dyn Generator, x: &Tensor, pivot: &Tensor) -> Result<Factors> {
    if let Some(phi) = phi.factored() {
        return phi.factors(x, pivot);
    }
    let dtype = phi.parameters().first().map_or(x.dtype(), |p| p.var.dtype());
    let (x, pivot) = (x.to_dtype(dtype)?, pivot.to_dtype(dtype)?);
    let centered = phi.centered(&x, &pivot)?; // [n], [n, d]
    around_pivot(&x, &pivot, centered)
}

/// The factors of the pivot form: `x` `[n, d]`, `pivot` `[1, d]`, φ_μ and ∇φ_μ at the rows of `x`.
pub(crate) fn around_pivot(x: &Tensor, pivot: &Tensor, (value, grad): (Tensor, Tensor)) -> Result<Factors> {
    let shift = shift(x, pivot)?;
    let constant = ((&grad * &shift)?.sum(D::Minus1)? - &value)?.unsqueeze(1)?;
    let value = value.unsqueeze(1)?;
    let one = value.ones_like()?.detach();
    Ok(Factors {
        first: Tensor::cat(&[&shift, &value, &one], 1)?,
        second: Tensor::cat(&[&grad.neg()?, &one, &constant], 1)?,
    })
}

/// How far each score lies behind the largest of its row: `[n, k]` → `[n, k]`, 0 at the winner and below elsewhere.
pub(crate) fn behind(scores: &Tensor) -> Result<Tensor> {
    let best = scores.detach().argmax_keepdim(D::Minus1)?; // [n, 1]
    // `gather` and not `max`, whose gradient candle gives to every one of several that tie.
    Ok(scores.broadcast_sub(&scores.contiguous()?.gather(&best, 1)?)?)
}

/// The factors of max_k s_k for scores that are affine in x: `[n, k]`.
pub(crate) fn of_maximum(scores: &Tensor) -> Result<Factors> {
    let first = behind(scores)?;
    // The winner at y does not move with y: a zero that belongs to the graph, so that y is found to have gradient 0.
    let still = (&first * first.zeros_like()?)?;
    Ok(Factors { second: (still - winner(scores)?)?, first })
}

/// The factors of log Σ_k exp s_k for scores that are affine in x: `[n, k]`.
pub(crate) fn of_log_partition(scores: &Tensor) -> Result<Factors> {
    let log_p = log_softmax(scores)?;
    let p = log_p.exp()?;
    let information = (&p * &log_p)?.sum_keepdim(D::Minus1)?; // less the entropy, [n, 1]
    let one = information.ones_like()?.detach();
    Ok(Factors {
        first: Tensor::cat(&[&log_p, &one], 1)?,
        second: Tensor::cat(&[&p.neg()?, &information], 1)?,
    })
}

/// The log-softmax of each row, to full relative precision also where a share is next to 1: the logarithm of the
/// winner's share is −log(1 + what the others have), however little that is.
fn log_softmax(scores: &Tensor) -> Result<Tensor> {
    let behind = behind(scores)?; // [n, k]
    let others = winner(scores)?.affine(-1.0, 1.0)?;
    let rest = (behind.exp()? * others)?.sum_keepdim(D::Minus1)?; // [n, 1]
    Ok(behind.broadcast_sub(&crate::tensor::ln_1p(&rest)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::tensor::host;
    use crate::{LogSumExp, SquaredEuclidean, Sum};

    fn product(a: &Factors, b: &Factors) -> Result<Tensor> {
        Ok(a.first.matmul(&b.second.t()?)?)
    }

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
    fn a_sum_takes_each_part_as_it_is_best() -> Result<()> {
        let phi = Sum::new(vec![Box::new(LogSumExp), Box::new(SquaredEuclidean)])?;
        let x = Tensor::new(&[[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]], &Device::Cpu)?;
        let pivot = x.mean_keepdim(0)?;
        let all = factors_of(&phi, &x, &pivot)?;
        let each = (
            product(&factors_of(&LogSumExp, &x, &pivot)?, &factors_of(&LogSumExp, &x, &pivot)?)?,
            product(
                &factors_of(&SquaredEuclidean, &x, &pivot)?,
                &factors_of(&SquaredEuclidean, &x, &pivot)?,
            )?,
        );
        let error = host(&(product(&all, &all)? - (each.0 + each.1)?)?)?;
        assert!(error.iter().all(|e| e.abs() < 1e-12), "{error:?}");
        Ok(())
    }
}
