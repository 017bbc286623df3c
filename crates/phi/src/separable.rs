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
    squared_norm, widened,
};
use crate::{Domain, Error, Generator, Parameter, Result};

/// The shape of a [`Separable`] and how it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeparableConfig {
    /// Softplus units a coordinate. Default 16.
    pub units: usize,
    /// c ≥ 0 of the term c/2‖x‖², the modulus of strong convexity. Default 0.1; 10 costs accuracy, 0 works as well.
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

    /// Places the units where data lie: the knees of each coordinate at evenly spaced quantiles of its column in `x`
    /// `[n, d]`, each as wide as their spacing there, and all with the same rise of slope.
    ///
    /// φ then starts with ∇φ near the distribution function of each coordinate, and can bend sharply where the data
    /// crowd, as counts and histograms do next to 0. Knees closer than a 512th of the column's range are kept that
    /// wide, and a column that is constant keeps its units. Signs of slopes stay as they are.
    ///
    /// # Errors
    /// As [`Generator::check`].
    /// # Examples
    /// ```
    /// # use {candle_core::{DType, Device, Tensor}, phi::{Generator, Separable, SeparableConfig}};
    /// let shares = Tensor::new(&[[0.01, 3.], [0.02, 1.], [0.9, 2.]], &Device::Cpu)?;
    /// let config = SeparableConfig { units: 3, ..Default::default() }.over(&shares)?;
    /// let phi = Separable::new(2, &config, 1, DType::F64, &Device::Cpu)?;
    /// phi.place_knees(&shares)?;
    /// let slope = |v: f64| Ok::<_, phi::Error>(phi.value_and_grad(&Tensor::new(&[[v, 2.]], &Device::Cpu)?)?.1);
    /// let rise = |a: f64, b: f64| Ok::<_, phi::Error>((slope(b)? - slope(a)?)?.to_vec2::<f64>()?[0][0]);
    /// assert!(rise(0.0, 0.03)? > 3.0 * rise(0.4, 0.43)?); // φ″ is large where two of three points lie
    /// # Ok::<(), phi::Error>(())
    /// ```
    pub fn place_knees(&self, x: &Tensor) -> Result<()> {
        self.check("Separable::place_knees", "x", x)?;
        let (n, (d, units)) = (x.dim(0)?, self.slope.dims2()?);
        let (data, [mut slopes, mut knees, mut heights]) =
            (host(x)?, [host(&self.slope)?, host(&self.knee)?, host(&self.height)?]);
        for j in 0..d {
            let mut column: Vec<f64> = data.iter().skip(j).step_by(d).copied().collect();
            column.sort_by(f64::total_cmp);
            let (lo, hi) = (column[0], column[n - 1]);
            if lo >= hi {
                continue;
            }
            let quantile = |p: f64| {
                let at = p.clamp(0.0, 1.0) * (n - 1) as f64;
                let below = (at.floor() as usize).min(n - 1);
                let above = (below + 1).min(n - 1);
                column[below] + (at - below as f64) * (column[above] - column[below])
            };
            for k in 0..units {
                let p = |offset: f64| (k as f64 + 0.5 + offset) / units as f64;
                let narrowest = (hi - lo) / 512.0;
                let spacing = (quantile(p(0.5)) - quantile(p(-0.5))).max(narrowest);
                let knee = (quantile(p(0.0)) - self.middle) / self.half; // in units of u
                let slope = (self.half / spacing).copysign(slopes[j * units + k]);
                slopes[j * units + k] = slope;
                knees[j * units + k] = -slope * knee;
                heights[j * units + k] = softplus_inverse(0.5 / slope.abs());
            }
        }
        for (var, values) in [(&self.slope, slopes), (&self.knee, knees), (&self.height, heights)] {
            let values = Tensor::from_vec(values, (d, units), &Device::Cpu)?;
            var.set(&values.to_dtype(var.dtype())?.to_device(var.device())?)?;
        }
        Ok(())
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

    fn heights(&self, dtype: DType) -> Result<Tensor> {
        Ok(dml_kernels::softplus(&self.height.to_dtype(dtype)?)?) // [d, k]
    }

    /// w/h, the slopes in units of x: `[d, k]`.
    fn scale(&self, dtype: DType) -> Result<Tensor> {
        Ok((self.slope.to_dtype(dtype)? * (1.0 / self.half))?)
    }

    /// The units around a pivot, in the dtype of `x`, which may be wider than that of the parameters.
    pub(crate) fn around(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        let dtype = x.dtype();
        let shift = shift(x, pivot)?; // [n, d]
        // In f64 on the CPU: far from the origin w·u and b cancel, and all rows share what is left.
        let (w, b) = (widened(&self.slope)?, widened(&self.knee)?);
        let u = ((widened(pivot)? - self.middle)? * (1.0 / self.half))?.t()?; // [d, 1]
        let z0 = ((w.broadcast_mul(&u)? + b)?).to_dtype(dtype)?; // [d, k]
        let (scale, heights) = (self.scale(dtype)?, self.heights(dtype)?);
        let (value, slope) = dml_kernels::separable_units(&shift, &scale, &z0, &heights)?;
        let value = (value + (squared_norm(&shift)? * (0.5 * self.curvature))?)?;
        Ok((value, (slope + (shift * self.curvature)?)?))
    }
}

impl Generator for Separable {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    /// The units' divergences from the middle m of the range, and their tangent there.
    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(NAME, "x", x)?;
        let (scale, heights) = (self.scale(x.dtype())?, self.heights(x.dtype())?);
        let shift = (x - self.middle)?; // [n, d]
        let knee = self.knee.to_dtype(x.dtype())?;
        let (bend, slope) = dml_kernels::separable_units(&shift, &scale, &knee, &heights)?;
        let at_middle = (dml_kernels::softplus(&knee)? * &heights)?.sum_all()?;
        let weights = (&heights * scale)?;
        let slope_at_middle = (dml_kernels::sigmoid(&knee)? * weights)?.sum(D::Minus1)?; // [d]
        let n = x.dim(0)?;
        let units =
            ((bend + dot(&shift, &slope_at_middle)?)? + rows(&at_middle.unsqueeze(0)?, n)?.squeeze(1)?)?;
        let value = (units + (squared_norm(x)? * (0.5 * self.curvature))?)?;
        Ok((value, ((slope + rows(&slope_at_middle, n)?)? + (x * self.curvature)?)?))
    }

    /// The sum of the units' own divergences softplus(z̄ + δ) − softplus(z̄) − σ(z̄)δ, from δ = w(x − μ)/h.
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("Separable::centered", x, pivot)?;
        self.check("Separable::centered", "pivot", pivot)?;
        self.check("Separable::centered", "x", x)?;
        self.around(x, pivot)
    }

    /// The sum of the units' own divergences.
    fn divergence(&self, _: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let dtype = y.dtype();
        let (scale, heights) = (self.scale(dtype)?, self.heights(dtype)?);
        let (at, knee) = ((y - self.middle)?, self.knee.to_dtype(dtype)?);
        let units = dml_kernels::separable_divergence(step, &at, &scale, &knee, &heights)?; // [n]
        Ok((units + (squared_norm(step)? * (0.5 * self.curvature))?)?)
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
