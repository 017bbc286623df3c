//! φ(x) = −Σ log x, whose divergence is the Itakura–Saito divergence (Banerjee et al. 2005).

use candle_core::{D, Tensor};
use dml_kernels::{ConvexCurve, scalar_divergence};

use crate::tensor::{check_pivot, host, ln_ratio, rounded_once, shift};
use crate::{Domain, Error, Generator, Result};

/// φ(x) = −Σ_j log x_j on the positive orthant; D(x ‖ y) = Σ x/y − log(x/y) − 1, unchanged by a common scale.
///
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], Table 1.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Generator, ItakuraSaito}};
/// let x = Tensor::new(&[[1.0, 2.0]], &Device::Cpu)?;
/// assert_eq!(ItakuraSaito.value_and_grad(&x)?.1.to_vec2::<f64>()?, [[-1.0, -0.5]]);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ItakuraSaito;

const NAME: &str = "ItakuraSaito";

impl Generator for ItakuraSaito {
    fn domain(&self) -> Domain {
        Domain::PositiveOrthant
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(NAME, "x", x)?;
        Ok((x.log()?.sum(D::Minus1)?.neg()?, x.recip()?.neg()?))
    }

    /// Σ r − log(x/μ) and (x − μ)/(xμ), with r = (x − μ)/μ.
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("ItakuraSaito::centered", x, pivot)?;
        self.check("ItakuraSaito::centered", "pivot", pivot)?;
        self.check("ItakuraSaito::centered", "x", x)?;
        rounded_once(x, pivot, |x, pivot| {
            let r = shift(x, pivot)?.broadcast_div(pivot)?; // [n, d]
            Ok(((&r - ln_ratio(x, pivot)?)?.sum(D::Minus1)?, (r / x)?))
        })
    }

    /// Σ t − log(1 + t), t = (x − y)/y, where x is within half of y, and Σ t − (log x − log y) elsewhere.
    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let zeros = Tensor::zeros(y.shape(), y.dtype(), y.device())?;
        let near = step.detach().abs()?.lt(&(y.detach() * 0.5)?)?;
        let ratio = (step / y)?;
        let close = scalar_divergence(ConvexCurve::NegativeLog, &near.where_cond(&ratio, &zeros)?)?;
        let apart = (&ratio - (x.log()? - y.log()?)?)?;
        Ok(near.where_cond(&close, &apart)?.sum(D::Minus1)?)
    }

    /// −1/g, for g < 0.
    fn grad_conjugate(&self, g: &Tensor) -> Result<Option<Tensor>> {
        const OP: &str = "ItakuraSaito::grad_conjugate";
        Domain::Reals.check(OP, "g", g)?;
        let outside = host(g)?.into_iter().enumerate().find(|(_, value)| *value >= 0.0);
        if let Some((i, value)) = outside {
            let row = i / g.dim(1)?;
            return Err(Error::Domain { op: OP, arg: "g", row, value, domain: "the negative orthant" });
        }
        Ok(Some(g.recip()?.neg()?))
    }
}
