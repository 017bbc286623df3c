//! φ(x) = ‖x‖², whose divergence is the squared Euclidean distance (Banerjee et al. 2005, Table 1).

use candle_core::{D, Tensor};

use crate::tensor::check_pivot;
use crate::{Domain, Generator, Result};

/// φ(x) = ‖x‖² on ℝᵈ; D(x ‖ y) = ‖x − y‖². Its modulus of strong convexity is 2.
///
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], Table 1.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Generator, SquaredEuclidean}};
/// let x = Tensor::new(&[[3.0, 4.0]], &Device::Cpu)?;
/// assert_eq!(SquaredEuclidean.value(&x)?.to_vec1::<f64>()?, [25.0]);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SquaredEuclidean;

impl Generator for SquaredEuclidean {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check("SquaredEuclidean", "x", x)?;
        Ok((x.sqr()?.sum(D::Minus1)?, (x * 2.0)?))
    }

    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("SquaredEuclidean::centered", x, pivot)?;
        self.check("SquaredEuclidean::centered", "pivot", pivot)?;
        self.check("SquaredEuclidean::centered", "x", x)?;
        self.value_and_grad(&x.broadcast_sub(pivot)?) // a quadratic form is its own divergence
    }

    fn divergence(&self, _: &Tensor, _: &Tensor, step: &Tensor) -> Result<Tensor> {
        Ok(step.sqr()?.sum(D::Minus1)?)
    }

    fn strong_convexity(&self) -> Result<f64> {
        Ok(2.0)
    }

    fn grad_conjugate(&self, g: &Tensor) -> Result<Option<Tensor>> {
        self.check("SquaredEuclidean::grad_conjugate", "g", g)?;
        Ok(Some((g / 2.0)?))
    }
}
