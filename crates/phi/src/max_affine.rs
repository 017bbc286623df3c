//! φ(x) = max_k ⟨a_k, x⟩ + b_k, a learned piecewise linear convex function (Siahkamari et al. 2020), and its smooth form
//! τ·log Σ_k exp((⟨a_k, x⟩ + b_k)/τ).

use candle_core::{D, DType, Device, Tensor, Var};
use dml_kernels::matmul;
use serde::{Deserialize, Serialize};

use crate::log_sum_exp::{self, behind};
use crate::tensor::{
    Draw, affine, check_pivot, constant_var, log_sum_exp, parameter, require, rounded_once, shift, winner,
};
use crate::{Domain, Error, Generator, Parameter, Result};

/// The shape of a [`MaxAffine`] and how it starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaxAffineConfig {
    /// K, the affine pieces. Default 64.
    pub pieces: usize,
    /// τ > 0 of the smooth form, `None` for the maximum itself. Default `None`. The maximum has D = 0 within a
    /// piece, where nothing is learned; the smooth form has a gradient everywhere.
    pub temperature: Option<f64>,
}

impl Default for MaxAffineConfig {
    fn default() -> Self {
        Self { pieces: 64, temperature: None }
    }
}

/// A maximum of learned affine functions, or its softmax-smoothed form.
///
/// Parameters `a` `[k, d]` and `b` `[k]`. Where pieces tie the first counts.
///
/// # Source
/// Siahkamari et al. 2020 \[siahkamari2020\].
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Generator, MaxAffine}};
/// let a = Tensor::new(&[[1.0], [-1.0]], &Device::Cpu)?; // |x|
/// let phi = MaxAffine::from_parameters(&a, &Tensor::new(&[0.0, 0.0], &Device::Cpu)?, None)?;
/// let (value, grad) = phi.value_and_grad(&Tensor::new(&[[-3.0], [2.0]], &Device::Cpu)?)?;
/// assert_eq!(value.to_vec1::<f64>()?, [3.0, 2.0]);
/// assert_eq!(grad.to_vec2::<f64>()?, [[-1.0], [1.0]]);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MaxAffine {
    slopes: Var,  // a, [k, d]
    offsets: Var, // b, [k]
    temperature: Option<f64>,
}

const NAME: &str = "MaxAffine";

impl MaxAffine {
    /// Random tangent planes of ½‖x‖² at standard normal points, so that every piece is the largest somewhere.
    ///
    /// # Errors
    /// [`Error::Config`] for a dimension or number of pieces of 0 or a temperature that is not positive.
    pub fn new(
        dim: usize,
        config: &MaxAffineConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let k = config.pieces;
        require(dim > 0, NAME, "dim", dim, "at least 1")?;
        require(k > 0, NAME, "pieces", k, "at least 1")?;
        let mut draw = Draw::new(seed);
        let points: Vec<f64> = (0..k * dim).map(|_| draw.normal()).collect();
        let offsets = points.chunks(dim).map(|p| -0.5 * p.iter().map(|v| v * v).sum::<f64>()).collect();
        let slopes = constant_var(points, &[k, dim], (dtype, device))?;
        let offsets = constant_var(offsets, &[k], (dtype, device))?;
        Self::from_parameters(&slopes, &offsets, config.temperature)
    }

    /// The function with given `a` `[k, d]` and `b` `[k]`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DType`] when the two do not fit, [`Error::Domain`] when they are not finite,
    /// [`Error::Config`] for a temperature that is not positive.
    pub fn from_parameters(a: &Tensor, b: &Tensor, temperature: Option<f64>) -> Result<Self> {
        const OP: &str = "MaxAffine::from_parameters";
        let fine = temperature.is_none_or(|t| t.is_finite() && t > 0.0);
        require(fine, NAME, "temperature", temperature, "a finite number > 0, or none")?;
        let got = || a.dims().to_vec();
        let (k, d) = a.dims2().map_err(|_| Error::Shape {
            op: OP,
            arg: "a",
            got: got(),
            expected: "[k, d]".to_owned(),
        })?;
        if a.dtype() != b.dtype() {
            return Err(Error::DType { op: OP, arg: "b", got: b.dtype(), expected: a.dtype() });
        }
        Ok(Self {
            slopes: parameter(OP, "a", a, &[k, d])?,
            offsets: parameter(OP, "b", b, &[k])?,
            temperature,
        })
    }

    /// K, the number of pieces.
    pub fn pieces(&self) -> usize {
        self.offsets.elem_count()
    }

    /// φ as a function of the scores s = a·x + b, with its gradient in s: `[n, k]` → (`[n]`, `[n, k]`).
    fn top(&self, scores: &Tensor) -> Result<(Tensor, Tensor)> {
        match self.temperature {
            None => {
                let mask = winner(scores)?;
                Ok(((scores * &mask)?.sum(D::Minus1)?, mask))
            }
            Some(tau) => {
                let (value, p) = log_sum_exp(&(scores * (1.0 / tau))?)?;
                Ok(((value * tau)?, p))
            }
        }
    }
}

impl MaxAffine {
    fn around(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        let slopes = self.slopes.to_dtype(x.dtype())?;
        let delta = matmul(&shift(x, pivot)?, &slopes.t()?)?; // [n, k]
        let s0 = affine(pivot, &self.slopes, &self.offsets)?; // [1, k]
        let (value, share) = match self.temperature {
            None => {
                let (phi0, mask0) = self.top(&s0)?; // [1], [1, k]
                let behind = s0.broadcast_sub(&phi0.unsqueeze(1)?)?; // ≤ 0
                let (value, mask) = self.top(&delta.broadcast_add(&behind)?)?;
                let tangent = matmul(&delta, &mask0.t()?)?.squeeze(1)?; // [n]
                ((value - tangent)?, mask.broadcast_sub(&mask0)?)
            }
            Some(tau) => {
                let scale = 1.0 / tau;
                let (value, share) = log_sum_exp::centered(&(delta * scale)?, &(s0 * scale)?)?;
                ((value * tau)?, share)
            }
        };
        Ok((value, matmul(&share, &slopes)?))
    }
}

impl Generator for MaxAffine {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(NAME, "x", x)?;
        let (value, share) = self.top(&affine(x, &self.slopes, &self.offsets)?)?;
        Ok((value, matmul(&share, &self.slopes.to_dtype(x.dtype())?)?))
    }

    /// From the increments δ_k = ⟨a_k, x − μ⟩: max_k(δ_k + s_k(μ) − φ(μ)) less the winner's increment at μ.
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("MaxAffine::centered", x, pivot)?;
        self.check("MaxAffine::centered", "pivot", pivot)?;
        self.check("MaxAffine::centered", "x", x)?;
        rounded_once(x, pivot, |x, pivot| self.around(x, pivot))
    }

    /// From the increments δ_k = ⟨a_k, x − y⟩: of the log-partition function, or how far the winner at y falls behind at x.
    fn divergence(&self, _: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let slopes = self.slopes.to_dtype(step.dtype())?;
        let delta = matmul(step, &slopes.t()?)?; // [n, k]
        let scores = affine(y, &self.slopes, &self.offsets)?; // [n, k]
        if let Some(tau) = self.temperature {
            let scale = 1.0 / tau;
            return Ok((log_sum_exp::divergence(&(delta * scale)?, &(scores * scale)?)? * tau)?);
        }
        let best = scores.detach().argmax_keepdim(D::Minus1)?; // [n, 1]
        let ahead = (behind(&scores)? + delta.broadcast_sub(&delta.gather(&best, 1)?)?)?; // 0 for the winner at y
        let now = ahead.detach().argmax_keepdim(D::Minus1)?;
        Ok(ahead.gather(&now, 1)?.squeeze(1)?)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.slopes.dims()[1])
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("a", &self.slopes), Parameter::new("b", &self.offsets)]
    }
}
