//! A learned convex function a coordinate:
//! φ(x) = Σ_j Σ_k softplus(a_jk)·softplus(w_jk·u_j + b_jk) + c/2‖x‖², u = (x − m)/h.
//!
//! u measures x in units of the range [m − h, m + h] of the data, so that parameters are of order one whatever
//! the units of x. A sum of softplus units with free slopes and knees approximates every convex function of one
//! variable, so this family holds x², x log x and −log x as cases.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::tensor::{
    Draw, check_pivot, constant_var, dot, host, parameter, require, rows, shift, softplus_inverse,
    squared_norm,
};
use crate::{Domain, Error, Generator, Parameter, Result};

/// The shape of a [`Separable`] and how it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeparableConfig {
    /// Softplus units a coordinate. Default 16.
    pub units: usize,
    /// c ≥ 0 of the term c/2‖x‖², the modulus of strong convexity. Default 0.1; 0 works as well, 10
    /// costs accuracy.
    pub curvature: f64,
    /// The range (lo, hi) of the coordinates in the data, over which the knees start evenly spread. Default
    /// (−1, 1), for which u = x. [`over`](Self::over) takes it from data.
    pub range: (f64, f64),
    /// How sharp the knees start: slope w of a unit times the spacing of the knees. Default 1, where
    /// neighbouring units just overlap and φ starts smooth.
    pub sharpness: f64,
}

impl Default for SeparableConfig {
    fn default() -> Self {
        Self { units: 16, curvature: 0.1, range: (-1.0, 1.0), sharpness: 1.0 }
    }
}

impl SeparableConfig {
    /// This configuration with the range of the entries of `x`, widened to (v, v + 1) if all are equal to v.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Domain`] when `x` is not `[n, d]`, not empty and finite.
    pub fn over(self, x: &Tensor) -> Result<Self> {
        Domain::Reals.check("SeparableConfig::over", "x", x)?;
        let lo = host(&x.flatten_all()?.min(0)?)?[0];
        let hi = host(&x.flatten_all()?.max(0)?)?[0];
        Ok(Self { range: if lo < hi { (lo, hi) } else { (lo, lo + 1.0) }, ..self })
    }
}

/// A learned convex function for each coordinate, a generator on ℝᵈ.
///
/// Parameters `w`, `b`, `a`, each `[d, k]`; `a` passes through a softplus. Best where coordinates mean something
/// (counts, histograms, spectra); it cannot express a rotation.
///
/// # Examples
/// ```
/// # use {candle_core::{DType, Device, Tensor}, phi::{Generator, Separable, SeparableConfig}};
/// let counts = Tensor::new(&[[0f32, 3., 1.], [7., 0., 2.]], &Device::Cpu)?;
/// let config = SeparableConfig::default().over(&counts)?;
/// assert_eq!(config.range, (0.0, 7.0));
/// let phi = Separable::new(3, &config, 1, DType::F32, &Device::Cpu)?;
/// assert_eq!(phi.value(&counts)?.dims(), [2]);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Separable {
    slope: Var,  // w, [d, k]
    knee: Var,   // b, [d, k]
    height: Var, // a before its softplus, [d, k]
    curvature: f64,
    middle: f64, // m
    half: f64,   // h
}

const NAME: &str = "Separable";

fn check_numbers(curvature: f64, (lo, hi): (f64, f64)) -> Result<()> {
    require(curvature.is_finite() && curvature >= 0.0, NAME, "curvature", curvature, "a finite number ≥ 0")?;
    let fine = lo.is_finite() && hi.is_finite() && lo < hi && (hi - lo).is_finite();
    require(fine, NAME, "range", (lo, hi), "finite (lo, hi) with lo < hi")
}

impl Separable {
    /// Random units: knees evenly spread over the range, jittered by half their spacing, slopes of random sign.
    ///
    /// # Errors
    /// [`Error::Config`] names a field of `config` that makes no sense.
    pub fn new(
        dim: usize,
        config: &SeparableConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let &SeparableConfig { units, curvature, range, sharpness } = config;
        require(dim > 0, NAME, "dim", dim, "at least 1")?;
        require(units > 0, NAME, "units", units, "at least 1")?;
        require(
            sharpness.is_finite() && sharpness > 0.0,
            NAME,
            "sharpness",
            sharpness,
            "a finite number > 0",
        )?;
        check_numbers(curvature, range)?;
        let mut draw = Draw::new(seed);
        let spacing = 2.0 / units as f64; // of u, which runs over [−1, 1]
        let (mut slopes, mut knees) = (Vec::with_capacity(dim * units), Vec::with_capacity(dim * units));
        for _ in 0..dim {
            for k in 0..units {
                let at = -1.0 + spacing * (k as f64 + 0.5 + draw.uniform(-0.5, 0.5));
                let sign = if draw.uniform(0.0, 1.0) < 0.5 { -1.0 } else { 1.0 };
                let slope = sign * sharpness / spacing * draw.uniform(0.5, 1.5);
                slopes.push(slope);
                knees.push(-slope * at); // slope·u + knee = 0 at u = at
            }
        }
        let shape = [dim, units];
        let heights = vec![softplus_inverse(1.0 / units as f64); dim * units];
        Ok(Self {
            slope: constant_var(slopes, &shape, (dtype, device))?,
            knee: constant_var(knees, &shape, (dtype, device))?,
            height: constant_var(heights, &shape, (dtype, device))?,
            curvature,
            middle: f64::midpoint(range.0, range.1),
            half: (range.1 - range.0) / 2.0,
        })
    }

    /// Units with given parameters `w`, `b`, `a` (before its softplus), each `[d, k]`.
    ///
    /// # Errors
    /// [`Error::Config`] names a parameter that is missing, [`Error::Shape`] one that does not fit,
    /// [`Error::Domain`] one that is not finite.
    pub fn from_parameters(
        parameters: &HashMap<String, Tensor>,
        curvature: f64,
        range: (f64, f64),
    ) -> Result<Self> {
        const OP: &str = "Separable::from_parameters";
        check_numbers(curvature, range)?;
        let find = |name: &'static str| {
            parameters.get(name).ok_or_else(|| Error::Config {
                generator: NAME,
                field: name,
                got: "missing".to_owned(),
                expected: "a tensor [d, units]",
            })
        };
        let w = find("w")?;
        let shape = w.dims().to_vec();
        if shape.len() != 2 {
            return Err(Error::Shape { op: OP, arg: "w", got: shape, expected: "[d, units]".to_owned() });
        }
        let checked = |name: &'static str| -> Result<Var> {
            let tensor = find(name)?;
            if tensor.dtype() != w.dtype() {
                return Err(Error::DType { op: OP, arg: name, got: tensor.dtype(), expected: w.dtype() });
            }
            parameter(OP, name, tensor, &shape)
        };
        Ok(Self {
            slope: checked("w")?,
            knee: checked("b")?,
            height: checked("a")?,
            curvature,
            middle: f64::midpoint(range.0, range.1),
            half: (range.1 - range.0) / 2.0,
        })
    }

    /// Units a coordinate.
    pub fn units(&self) -> usize {
        self.slope.dims()[1]
    }

    /// u_j·v_jk: each coordinate times the weights of its units, `[n, d]`, `[d·k]` → `[n, d·k]`.
    fn spread(&self, u: &Tensor, v: &Tensor) -> Result<Tensor> {
        let ((n, d), k) = (u.dims2()?, self.units());
        let beside = u.unsqueeze(2)?.broadcast_as((n, d, k))?.reshape((n, d * k))?;
        Ok((beside * rows(v, n)?)?)
    }

    /// Σ_k t_jk·v_jk: the weighted units of each coordinate added up, `[n, d·k]`, `[d·k]` → `[n, d]`.
    fn gather(&self, t: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (d, k) = self.slope.dims2()?;
        let n = t.dim(0)?;
        Ok((t * rows(v, n)?)?.reshape((n, d, k))?.sum(D::Minus1)?)
    }

    fn heights(&self) -> Result<Tensor> {
        Ok(dml_kernels::softplus(&self.height.flatten_all()?)?) // [d·k]
    }

    /// w·u + b, `[n, d]` → `[n, d·k]`.
    fn pre_activation(&self, x: &Tensor) -> Result<Tensor> {
        let n = x.dim(0)?;
        let u = ((x - self.middle)? * (1.0 / self.half))?;
        Ok((self.spread(&u, &self.slope.flatten_all()?)? + rows(&self.knee.flatten_all()?, n)?)?)
    }

    /// softplus(a)·w/h, what a unit's slope counts in ∂φ/∂x: `[d·k]`.
    fn weights(&self, heights: &Tensor) -> Result<Tensor> {
        Ok(((heights * self.slope.flatten_all()?)? * (1.0 / self.half))?)
    }
}

impl Generator for Separable {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        self.check(NAME, "x", x)?;
        let units = dot(&dml_kernels::softplus(&self.pre_activation(x)?)?, &self.heights()?)?;
        Ok((units + (squared_norm(x)? * (0.5 * self.curvature))?)?)
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(NAME, "x", x)?;
        let z = self.pre_activation(x)?; // [n, d·k]
        let heights = self.heights()?;
        let units = dot(&dml_kernels::softplus(&z)?, &heights)?;
        let value = (units + (squared_norm(x)? * (0.5 * self.curvature))?)?;
        let grad = self.gather(&dml_kernels::sigmoid(&z)?, &self.weights(&heights)?)?;
        Ok((value, (grad + (x * self.curvature)?)?))
    }

    /// The sum of the units' own divergences softplus(z̄ + δ) − softplus(z̄) − σ(z̄)δ, from δ = w(x − μ)/h.
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("Separable::centered", x, pivot)?;
        self.check("Separable::centered", "pivot", pivot)?;
        self.check("Separable::centered", "x", x)?;
        let n = x.dim(0)?;
        let shift = shift(x, pivot)?; // [n, d]
        let scale = (self.slope.flatten_all()? * (1.0 / self.half))?;
        let delta = self.spread(&shift, &scale)?; // [n, d·k]
        let z0 = self.pre_activation(pivot)?; // [1, d·k]
        let slope0 = rows(&dml_kernels::sigmoid(&z0)?.squeeze(0)?, n)?;
        let heights = self.heights()?;
        let bend = (dml_kernels::softplus_increment(&z0, &delta)? - (&slope0 * &delta)?)?;
        let value = (dot(&bend, &heights)? + (squared_norm(&shift)? * (0.5 * self.curvature))?)?;
        let slope = dml_kernels::sigmoid(&(rows(&z0.squeeze(0)?, n)? + &delta)?)?;
        let grad = self.gather(&(slope - slope0)?, &self.weights(&heights)?)?;
        Ok((value, (grad + (shift * self.curvature)?)?))
    }

    fn dim(&self) -> Option<usize> {
        Some(self.slope.dims()[0])
    }

    fn strong_convexity(&self) -> Result<f64> {
        Ok(self.curvature)
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![
            Parameter::new("w", &self.slope),
            Parameter::new("b", &self.knee),
            Parameter::new("a", &self.height),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_do_not_fit_are_named() -> Result<()> {
        let w = Tensor::ones((2, 3), DType::F32, &Device::Cpu)?;
        let message = |all: &[(&str, &Tensor)]| {
            let all = all.iter().map(|(name, t)| ((*name).to_owned(), (*t).clone())).collect();
            Separable::from_parameters(&all, 0.1, (0.0, 1.0)).unwrap_err().to_string()
        };
        assert_eq!(message(&[("w", &w)]), "Separable: `b` is missing, expected a tensor [d, units]");
        assert_eq!(
            message(&[("w", &w), ("b", &w.t()?)]),
            "Separable::from_parameters: `b` has shape [3, 2], expected [2, 3]"
        );
        Ok(())
    }
}
