//! Initial weights that let a signal pass through non-negative layers (after Hoedt & Klambauer 2023).
//!
//! Non-negative weights add up: layer by layer the mean of the pre-activations grows and units become copies of
//! one another. With weights of mean m and variance v, independent, and a bias that takes away the mean, units
//! z, z′ of a layer with fan-in k over inputs h have, over data and weights,
//!
//! Cov(z, z′) = m²·(k·Var h + k(k−1)·Cov(h, h′)),  Var z = Cov(z, z′) + k·v·E h² + (variance of the input term).
//!
//! Both are set so that Var z = 1 and Cov(z, z′) = 1/2 is a fixed point; what the covariance leaves of the variance is shared
//! equally by the hidden and the input weights. Units of the first layer have no covariance but what the d
//! dimensions of the input leave by chance. The moments of h = s(z) are integrals over a normal variable, taken by
//! quadrature, so the rule holds for any activation.

use candle_core::{DType, Device, Var};

use super::{Icnn, IcnnConfig, Layer};
use crate::tensor::{Draw, constant_var, softplus_inverse};
use crate::{Activation, Result};

/// The correlation between units of a layer that the weights keep.
const CORRELATION: f64 = 0.5;

/// Mean and variance of the non-negative weights, and the bias that centres what they add up to.
struct Positive {
    mean: f64,
    variance: f64,
    bias: f64,
}

pub(super) fn icnn(dim: usize, config: &IcnnConfig, seed: u64, at: (DType, &Device)) -> Result<Icnn> {
    let mut draw = Draw::new(seed);
    let moments = Moments::of(config.activation);
    let input_std = 1.0 / (config.input_scale * (dim as f64).sqrt()); // unit variance of ⟨w, x⟩
    let skip_std = input_std * ((1.0 - CORRELATION) / 2.0).sqrt();
    let mut width = config.widths[0];
    let first_weight = draw.var(&[width, dim], at, |r| r.normal() * input_std)?;
    let first_bias = constant_var(vec![0.0; width], &[width], at)?;
    let mut layers = Vec::with_capacity(config.widths.len() - 1);
    let mut covariance = moments.by_chance(dim);
    for &units in &config.widths[1..] {
        let law = moments.weights(width, covariance);
        layers.push(Layer {
            hidden: draw.var(&[units, width], at, |r| softplus_inverse(law.weight(r)))?,
            input: draw.var(&[units, dim], at, |r| r.normal() * skip_std)?,
            bias: constant_var(vec![law.bias; units], &[units], at)?,
        });
        width = units;
        covariance = moments.covariance;
    }
    let law = moments.weights(width, covariance);
    Ok(Icnn {
        first_weight,
        first_bias,
        layers,
        top: draw.var(&[width], at, |r| softplus_inverse(law.weight(r)))?,
        slope: constant_var(vec![0.0; dim], &[dim], at)?,
        offset: constant_var(vec![law.bias], &[1], at)?,
        activation: config.activation,
        curvature: config.curvature,
    })
}

/// Standard normal slopes over √d: the sub-networks of a maximum then differ in direction, not only in detail.
pub(super) fn tilt(slope: &Var, seed: u64) -> Result<()> {
    let dim = slope.elem_count();
    let std = 1.0 / (dim as f64).sqrt();
    let at = (slope.dtype(), slope.device());
    Ok(slope.set(Draw::new(!seed).var(&[dim], at, |r| r.normal() * std)?.as_tensor())?)
}

impl Positive {
    /// A log-normal number with this mean and variance.
    fn weight(&self, draw: &mut Draw) -> f64 {
        let log_variance = (self.variance / self.mean.powi(2)).ln_1p();
        let log_mean = self.mean.ln() - log_variance / 2.0;
        (log_mean + log_variance.sqrt() * draw.normal()).exp()
    }
}

/// Moments of h = s(z), z standard normal, h′ from a z′ correlated with z.
struct Moments {
    mean: f64,       // E h
    square: f64,     // E h²
    covariance: f64, // Cov(h, h′)
    bend: f64,       // E h·(z² − 1), twice the second Hermite coefficient
}

impl Moments {
    fn of(activation: Activation) -> Self {
        let s = |z: f64| match activation {
            Activation::Softplus => z.max(0.0) + (-z.abs()).exp().ln_1p(),
            Activation::Squareplus => (z + (z * z + 4.0).sqrt()) / 2.0,
        };
        let mean = expectation(s);
        // h and h′ are independent given what they share, u: E hh′ = E (E[h | u])².
        let (shared, own) = (CORRELATION.sqrt(), (1.0 - CORRELATION).sqrt());
        let product = expectation(|u| expectation(|v| s(shared * u + own * v)).powi(2));
        Self {
            mean,
            square: expectation(|z| s(z).powi(2)),
            covariance: product - mean * mean,
            bend: expectation(|z| s(z) * (z * z - 1.0)),
        }
    }

    /// The mean of Cov(h, h′) over two units with independent normal weights on d inputs: their correlation r
    /// has E r = 0 and E r² = 1/d, and Cov(h, h′) = … + bend²/2·r² + ….
    fn by_chance(&self, dim: usize) -> f64 {
        self.bend.powi(2) / 2.0 / dim as f64
    }

    fn weights(&self, fan_in: usize, covariance: f64) -> Positive {
        let k = fan_in as f64;
        let spread = k * (self.square - self.mean.powi(2)) + k * (k - 1.0) * covariance;
        let mean = (CORRELATION / spread).sqrt();
        let variance = (1.0 - CORRELATION) / 2.0 / (k * self.square);
        Positive { mean, variance, bias: -k * mean * self.mean }
    }
}

/// E f(z) for standard normal z, by the trapezoidal rule, which is exact to round-off for smooth f.
fn expectation(f: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 0.125;
    let nodes = (-72..=72).map(|i| f64::from(i) * STEP);
    let density = |z: f64| (-z * z / 2.0).exp() * STEP / (2.0 * std::f64::consts::PI).sqrt();
    nodes.map(|z| density(z) * f(z)).sum()
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::tensor::host;

    #[test]
    fn quadrature_knows_the_normal_moments() {
        for (power, want) in [(0, 1.0), (1, 0.0), (2, 1.0), (4, 3.0)] {
            assert!((expectation(|z| z.powi(power)) - want).abs() < 1e-12);
        }
    }

    #[test]
    fn signal_neither_vanishes_nor_explodes() -> Result<()> {
        let n = 256;
        for (activation, d) in
            [(Activation::Softplus, 4), (Activation::Softplus, 32), (Activation::Squareplus, 64)]
        {
            let config = IcnnConfig { widths: vec![96; 6], activation, ..Default::default() };
            let phi = Icnn::new(d, &config, 7, DType::F64, &Device::Cpu)?;
            let mut draw = Draw::new(8);
            let x = draw.var(&[n, d], (DType::F64, &Device::Cpu), Draw::normal)?;
            let (z, _) = phi.forward(&x, &phi.positive(DType::F64)?)?;
            for (l, z) in z.iter().enumerate() {
                let z: &Tensor = z;
                let (mean, square) = (z.mean_all()?, z.sqr()?.mean_all()?);
                let (mean, square) = (host(&mean)?[0], host(&square)?[0]);
                let variance = square - mean * mean;
                assert!(mean.abs() < 0.7, "{activation:?}, d = {d}, layer {l}: mean {mean}");
                assert!(
                    (0.4..2.5).contains(&variance),
                    "{activation:?}, d = {d}, layer {l}: variance {variance}"
                );
            }
        }
        Ok(())
    }
}
