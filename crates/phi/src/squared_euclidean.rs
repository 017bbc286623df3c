//! φ(x) = ‖x‖², whose divergence is the squared Euclidean distance (Banerjee et al. 2005, Table 1).

use candle_core::{D, Tensor};

use crate::{Domain, Generator, Result};

/// φ(x) = ‖x‖² on ℝᵈ; D(x ‖ y) = ‖x − y‖².
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
        self.check("SquaredEuclidean", "pivot", pivot)?;
        self.value_and_grad(&x.broadcast_sub(pivot)?) // a quadratic form is its own divergence
    }

    fn strong_convexity(&self) -> Result<f64> {
        Ok(2.0)
    }

    fn grad_conjugate(&self, g: &Tensor) -> Result<Option<Tensor>> {
        self.check("SquaredEuclidean::grad_conjugate", "g", g)?;
        Ok(Some((g / 2.0)?))
    }
}
