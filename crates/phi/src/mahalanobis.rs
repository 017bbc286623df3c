//! φ(x) = xᵀ(LLᵀ + εI)x, whose divergence is the squared Mahalanobis distance (Davis et al. 2007).

use candle_core::{DType, Device, Tensor, Var};
use dml_kernels::matmul;
use serde::{Deserialize, Serialize};

use crate::linalg;
use crate::tensor::{Draw, check_pivot, host, parameter, require, rounded_once, shift, squared_norm};
use crate::{Domain, Generator, Parameter, Result};

/// The shape of L.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// Lower triangular, `[d, d]`: what lies above the diagonal is ignored and receives gradient 0.
    #[default]
    Triangular,
    /// Dense, `[d, r]`: LLᵀ of rank at most r.
    Dense {
        /// r, the columns of L.
        rank: usize,
    },
}

/// The shape of a [`Mahalanobis`] and how it starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MahalanobisConfig {
    /// The shape of L. Default lower triangular, which is full rank with the fewest numbers.
    pub factor: Factor,
    /// ε ≥ 0. Default 0: the classical metric. A low-rank L needs ε > 0 for D(x ‖ y) = 0 only at x = y.
    pub epsilon: f64,
}

impl Default for MahalanobisConfig {
    fn default() -> Self {
        Self { factor: Factor::Triangular, epsilon: 0.0 }
    }
}

/// A learned quadratic form; D(x ‖ y) = (x − y)ᵀ(LLᵀ + εI)(x − y).
///
/// Parameter `L`, `[d, d]` or `[d, r]`. No half: with L = I and ε = 0 it is the squared Euclidean distance.
///
/// # Source
/// Davis et al. 2007 \[davis2007\].
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Factor, Generator, Mahalanobis}};
/// let l = Tensor::new(&[[2.0, 0.0], [1.0, 3.0]], &Device::Cpu)?;
/// let phi = Mahalanobis::from_parameters(&l, Factor::Triangular, 0.0)?;
/// let x = Tensor::new(&[[1.0, 1.0]], &Device::Cpu)?;
/// assert_eq!(phi.value(&x)?.to_vec1::<f64>()?, [18.0]); // ‖Lᵀx‖² = 3² + 3²
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Mahalanobis {
    l: Var,               // [d, r]
    mask: Option<Tensor>, // ones on and below the diagonal
    epsilon: f64,
}

const NAME: &str = "Mahalanobis";

impl Mahalanobis {
    /// Starts at the squared Euclidean distance (triangular: L = I) or at a random projection that keeps
    /// squared lengths on average (dense: entries of variance 1/r).
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a dimension or rank of 0 or a negative ε.
    pub fn new(
        dim: usize,
        config: &MahalanobisConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        require(dim > 0, NAME, "dim", dim, "at least 1")?;
        let l = match config.factor {
            Factor::Triangular => Tensor::eye(dim, dtype, device)?,
            Factor::Dense { rank } => {
                require(rank > 0, NAME, "rank", rank, "at least 1")?;
                let std = 1.0 / (rank as f64).sqrt();
                Draw::new(seed).var(&[dim, rank], (dtype, device), |r| r.normal() * std)?.into_inner()
            }
        };
        Self::from_parameters(&l, config.factor, config.epsilon)
    }

    /// The form with a given L, `[d, d]` for [`Factor::Triangular`], `[d, rank]` for [`Factor::Dense`].
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when L has another shape, [`Error::Domain`](crate::Error::Domain) when it
    /// is not finite, [`Error::Config`](crate::Error::Config) for a negative ε.
    pub fn from_parameters(l: &Tensor, factor: Factor, epsilon: f64) -> Result<Self> {
        const OP: &str = "Mahalanobis::from_parameters";
        require(epsilon.is_finite() && epsilon >= 0.0, NAME, "epsilon", epsilon, "a finite number ≥ 0")?;
        let dim = l.dims().first().copied().unwrap_or(0);
        let (shape, mask) = match factor {
            Factor::Triangular => ([dim, dim], Some(Tensor::tril2(dim.max(1), l.dtype(), l.device())?)),
            Factor::Dense { rank } => ([dim, rank], None),
        };
        Ok(Self { l: parameter(OP, "L", l, &shape)?, mask, epsilon })
    }

    fn factor(&self) -> Result<Tensor> {
        Ok(match &self.mask {
            Some(mask) => (self.l.as_tensor() * mask)?,
            None => self.l.as_tensor().clone(),
        })
    }

    /// LLᵀ + εI on the host, row-major.
    fn matrix(&self) -> Result<(Vec<f64>, usize)> {
        let l = self.factor()?.detach().to_dtype(DType::F64)?;
        let (d, _) = l.dims2()?;
        let mut m = host(&l.matmul(&l.t()?)?)?;
        for i in 0..d {
            m[i * d + i] += self.epsilon;
        }
        Ok((m, d))
    }

    fn form(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let l = self.factor()?.to_dtype(x.dtype())?;
        let y = matmul(x, &l)?; // Lᵀx, [n, r]
        let (value, half) = (squared_norm(&y)?, matmul(&y, &l.t()?)?);
        if self.epsilon == 0.0 {
            return Ok((value, (half * 2.0)?));
        }
        let value = (value + (squared_norm(x)? * self.epsilon)?)?;
        Ok((value, ((half + (x * self.epsilon)?)? * 2.0)?))
    }
}

impl Generator for Mahalanobis {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(NAME, "x", x)?;
        self.form(x)
    }

    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("Mahalanobis::centered", x, pivot)?;
        self.check("Mahalanobis::centered", "pivot", pivot)?;
        self.check("Mahalanobis::centered", "x", x)?;
        // A quadratic form is its own divergence. In f64, since Lᵀ(x − μ) may be next to nothing.
        rounded_once(x, pivot, |x, pivot| self.form(&shift(x, pivot)?))
    }

    fn divergence(&self, _: &Tensor, _: &Tensor, step: &Tensor) -> Result<Tensor> {
        Ok(self.form(step)?.0)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.l.dims()[0])
    }

    /// Twice the smallest eigenvalue of LLᵀ + εI.
    fn strong_convexity(&self) -> Result<f64> {
        let (m, d) = self.matrix()?;
        let smallest = linalg::eigenvalues(m, d).into_iter().fold(f64::INFINITY, f64::min);
        Ok(2.0 * smallest.max(self.epsilon))
    }

    /// (LLᵀ + εI)⁻¹g/2; `None` when the matrix is numerically singular. L is held constant.
    fn grad_conjugate(&self, g: &Tensor) -> Result<Option<Tensor>> {
        self.check("Mahalanobis::grad_conjugate", "g", g)?;
        let (m, d) = self.matrix()?;
        let Some(inverse) = linalg::inverse(m, d) else { return Ok(None) };
        let inverse = Tensor::from_vec(inverse, (d, d), &Device::Cpu)?;
        let inverse = inverse.to_dtype(g.dtype())?.to_device(g.device())?;
        Ok(Some((g.matmul(&inverse)? * 0.5)?))
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("L", &self.l)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_named() {
        let l = Tensor::zeros((3, 2), DType::F64, &Device::Cpu).unwrap();
        let error = Mahalanobis::from_parameters(&l, Factor::Triangular, 0.0).unwrap_err();
        assert_eq!(error.to_string(), "Mahalanobis::from_parameters: `L` has shape [3, 2], expected [3, 3]");
        let error = Mahalanobis::from_parameters(&l, Factor::Dense { rank: 2 }, -1.0).unwrap_err();
        assert_eq!(error.to_string(), "Mahalanobis: `epsilon` is -1.0, expected a finite number ≥ 0");
    }

    #[test]
    fn singular_forms_have_no_conjugate_gradient() -> Result<()> {
        let l = Tensor::new(&[[1.0], [1.0]], &Device::Cpu)?;
        let flat = Mahalanobis::from_parameters(&l, Factor::Dense { rank: 1 }, 0.0)?;
        assert!(flat.grad_conjugate(&l.t()?)?.is_none());
        assert!(flat.strong_convexity()?.abs() < 1e-15);
        let round = Mahalanobis::from_parameters(&l, Factor::Dense { rank: 1 }, 0.5)?;
        assert_eq!(round.strong_convexity()?, 1.0);
        let x = Tensor::new(&[[0.3, -0.7]], &Device::Cpu)?;
        let back = round.grad_conjugate(&round.value_and_grad(&x)?.1)?.expect("regular");
        let error = host(&(back - x)?)?;
        assert!(error.iter().all(|e| e.abs() < 1e-14), "{error:?}");
        Ok(())
    }
}
