//! φ(x) = Σ x log x − x, whose divergence is the (generalised) Kullback–Leibler divergence (Banerjee et al. 2005).

use candle_core::{D, Tensor};
use dml_kernels::{ConvexCurve, scalar_divergence};

use crate::tensor::{check_pivot, ln_ratio, log_sum_exp, rounded_once, shift};
use crate::{Domain, Generator, Result};

/// φ(x) = Σ_j x_j log x_j − x_j; ∇φ(x) = log x. In nats.
///
/// On the positive orthant D(x ‖ y) = Σ x log(x/y) − x + y, the generalised Kullback–Leibler divergence; on the
/// simplex, where −x + y adds up to nothing, the Kullback–Leibler divergence of two distributions. Rows there may sum to
/// 1 within a thousandth, and are taken as they are: D is then the generalised one, which is 0 for equal rows and never
/// negative.
///
/// The first argument may have zeros, the second where the first has them too: counts, histograms, one-hot targets. The
/// slope by a coordinate of x that is 0 would be −∞, and is taken as 0.
///
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], Table 1.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Generator, NegativeEntropy}};
/// let x = Tensor::new(&[[1.0, 2.0]], &Device::Cpu)?;
/// let (_, grad) = NegativeEntropy::orthant().value_and_grad(&x)?;
/// assert_eq!(grad.to_vec2::<f64>()?, [[0.0, 2f64.ln()]]);
/// let error = NegativeEntropy::simplex().value(&x).unwrap_err();
/// assert!(error.to_string().starts_with("NegativeEntropy: row 0 of `x` holds 3, outside the probability simplex"));
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NegativeEntropy {
    domain: Domain,
}

const NAME: &str = "NegativeEntropy";

impl NegativeEntropy {
    /// On the positive orthant: generalised Kullback–Leibler.
    pub fn orthant() -> Self {
        Self { domain: Domain::PositiveOrthant }
    }

    /// On the probability simplex: Kullback–Leibler.
    pub fn simplex() -> Self {
        Self { domain: Domain::Simplex }
    }
}

impl Generator for NegativeEntropy {
    fn domain(&self) -> Domain {
        self.domain
    }

    /// With the border, since 0·log 0 = 0.
    fn closure(&self) -> Domain {
        if self.domain == Domain::Simplex { Domain::ClosedSimplex } else { Domain::NonNegativeOrthant }
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(NAME, "x", x)?;
        let log = x.log()?;
        Ok(((x * (&log - 1.0)?)?.sum(D::Minus1)?, log))
    }

    /// Σ x log(x/μ) − x + μ and log(x/μ), the logarithm from (x − μ)/μ where the two are close.
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("NegativeEntropy::centered", x, pivot)?;
        // Any positive point will do as a pivot: φ is the same function on the orthant and on the simplex.
        Domain::PositiveOrthant.check("NegativeEntropy::centered", "pivot", pivot)?;
        self.check_in(self.closure(), "NegativeEntropy::centered", "x", x)?;
        rounded_once(x, pivot, |x, pivot| {
            let ratio = shift(x, pivot)?.broadcast_div(pivot)?; // [n, d]
            let each = scalar_divergence(ConvexCurve::Entropy, &ratio)?.broadcast_mul(pivot)?;
            Ok((each.sum(D::Minus1)?, ln_ratio(x, pivot)?))
        })
    }

    /// Σ y·((1 + t)·log(1 + t) − t), t = (x − y)/y, where x is within half of y, and Σ x·(log x − log y) − (x − y)
    /// elsewhere; where y is 0 that is 0 for x = 0 and ∞ for x > 0.
    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let zeros = Tensor::zeros(y.shape(), y.dtype(), y.device())?;
        let ones = zeros.ones_like()?;
        let (some, live) = (x.detach().gt(0.0)?, y.detach().gt(0.0)?);
        let near = step.detach().abs()?.lt(&(y.detach() * 0.5)?)?;
        let ratio = (near.where_cond(step, &zeros)? / near.where_cond(y, &ones)?)?;
        let close = (y * scalar_divergence(ConvexCurve::Entropy, &ratio)?)?;
        let log_ratio = (some.where_cond(x, &ones)?.log()? - live.where_cond(y, &ones)?.log()?)?;
        // Of x = 0 only y is left, and no slope by x.
        let apart = some.where_cond(&((x * log_ratio)? - step)?, y)?;
        let infinite = (&some * live.eq(0u8)?)?;
        let finite = near.where_cond(&close, &apart)?;
        Ok(infinite.where_cond(&(ones * f64::INFINITY)?, &finite)?.sum(D::Minus1)?)
    }

    /// 0 on the orthant, 2 on the simplex: there Σ v²/x ≥ (Σ|v|)² by Cauchy–Schwarz, and (Σ|v|)² ≥ 2‖v‖² where
    /// Σ v = 0.
    fn strong_convexity(&self) -> Result<f64> {
        Ok(if self.domain == Domain::Simplex { 2.0 } else { 0.0 })
    }

    /// exp(g) on the orthant, the softmax of g on the simplex.
    fn grad_conjugate(&self, g: &Tensor) -> Result<Option<Tensor>> {
        Domain::Reals.check("NegativeEntropy::grad_conjugate", "g", g)?;
        Ok(Some(if self.domain == Domain::Simplex { log_sum_exp(g)?.1 } else { g.exp()? }))
    }
}
