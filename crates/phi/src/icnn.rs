//! Input-convex neural network, convex in x by construction (Amos et al. 2017; as a Bregman generator, Lu et al. 2023):
//!
//! h₀ = s(W₀x + b₀), h_l = s(softplus(V_l)·h_{l−1} + W_l·x + b_l), φ(x) = ⟨softplus(v_L), h_{L−1}⟩ + ⟨w_L, x⟩ + b_L + ε/2‖x‖²
//!
//! with s convex and increasing. The weights between layers pass through a softplus, so every value that an
//! optimizer can give them leaves φ convex.

mod init;

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor, Var};
use dml_kernels::{ConvexNetwork, convex_network, matmul, unit_divergence};
use serde::{Deserialize, Serialize};

use crate::tensor::{affine, check_pivot, dot, parameter, require, rows, squared_norm};
use crate::{Activation, Domain, Error, Generator, Parameter, Result};

/// The shape of an [`Icnn`] and how it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IcnnConfig {
    /// Units of each hidden layer, first to last. Default `[128, 128]`.
    pub widths: Vec<usize>,
    /// The convex, increasing activation s. Default softplus.
    pub activation: Activation,
    /// ε ≥ 0 of the term ε/2‖x‖², the modulus of strong convexity. Default 0.1: any ε > 0 makes
    /// D(x ‖ y) = 0 only for x = y, and a small one leaves the learned part its say.
    pub curvature: f64,
    /// The root mean square of the coordinates the network will see, 1/√d for embeddings of length 1. The
    /// first layer is scaled by it, so that units start where the activation bends. Default 1.
    pub input_scale: f64,
}

impl Default for IcnnConfig {
    fn default() -> Self {
        Self { widths: vec![128, 128], activation: Activation::Softplus, curvature: 0.1, input_scale: 1.0 }
    }
}

/// One hidden layer past the first: `hidden` `[k, k_prev]` (before its softplus), `input` `[k, d]`, `bias` `[k]`.
#[derive(Debug, Clone)]
struct Layer {
    hidden: Var,
    input: Var,
    bias: Var,
}

/// An input-convex neural network as a generator on ℝᵈ.
///
/// Parameters, by name: `W0` `[k₀, d]`, `b0` `[k₀]`; for each further hidden layer l `Vl` `[k_l, k_{l−1}]`,
/// `Wl` `[k_l, d]`, `bl` `[k_l]`; for the output, with L hidden layers, `vL` `[k_{L−1}]`, `wL` `[d]`, `bL` `[1]`.
/// `wL` and `bL` are an affine part: no divergence depends on them, and their gradient through one is 0.
///
/// # Source
/// Amos et al. 2017 \[amos2017\], Lu et al. 2023 \[lu2023\]; initial weights after Hoedt & Klambauer 2023
/// \[hoedt2023\].
/// # Examples
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use phi::{Generator, Icnn, IcnnConfig};
///
/// let phi = Icnn::new(2, &IcnnConfig { widths: vec![8], ..Default::default() }, 1, DType::F64, &Device::Cpu)?;
/// let x = Tensor::new(&[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], &Device::Cpu)?;
/// let value = phi.value(&x)?.to_vec1::<f64>()?;
/// assert!(value[1] < (value[0] + value[2]) / 2.0); // the midpoint lies below the chord
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Icnn {
    first_weight: Var,  // [k0, d]
    first_bias: Var,    // [k0]
    layers: Vec<Layer>, // layers 1, 2, …
    top: Var,           // [k_last], before its softplus
    slope: Var,         // [d], the affine part
    offset: Var,        // [1]
    activation: Activation,
    curvature: f64,
}

/// What one forward and reverse pass leaves behind; all but `h` have an entry a layer.
struct Pass {
    z: Vec<Tensor>,        // pre-activations, [n, k_l]
    h: Tensor,             // the last layer's output, [n, k_last]
    slopes: Vec<Tensor>,   // s'(z_l), [n, k_l]
    adjoints: Vec<Tensor>, // ∂φ/∂h_l, [n, k_l]
}

/// The weights between layers, after their softplus: `hidden[l − 1]` leads into layer l.
struct Positive {
    hidden: Vec<Tensor>, // [k_l, k_{l−1}]
    top: Tensor,         // [k_last]
}

impl Icnn {
    /// A network with random weights: pre-activations of every layer start with mean 0 and variance 1.
    ///
    /// # Errors
    /// [`Error::Config`] for a dimension, width or scale of 0, or a negative curvature.
    pub fn new(dim: usize, config: &IcnnConfig, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        const NAME: &str = "Icnn";
        require(dim > 0, NAME, "dim", dim, "at least 1")?;
        require(!config.widths.is_empty(), NAME, "widths", &config.widths, "at least one hidden layer")?;
        require(!config.widths.contains(&0), NAME, "widths", &config.widths, "at least one unit a layer")?;
        let eps = config.curvature;
        require(eps.is_finite() && eps >= 0.0, NAME, "curvature", eps, "a finite number ≥ 0")?;
        let scale = config.input_scale;
        require(scale.is_finite() && scale > 0.0, NAME, "input_scale", scale, "a finite number > 0")?;
        init::icnn(dim, config, seed, (dtype, device))
    }

    /// A network with given weights, named as [`Icnn`] lists them; depth and widths follow from the shapes.
    ///
    /// # Errors
    /// [`Error::Config`] names a parameter that is missing or unknown, [`Error::Shape`] one that does not fit,
    /// [`Error::DType`] one of another type than `W0`, [`Error::Domain`] one that is not finite.
    pub fn from_parameters(
        parameters: &HashMap<String, Tensor>,
        activation: Activation,
        curvature: f64,
    ) -> Result<Self> {
        const OP: &str = "Icnn::from_parameters";
        require(
            curvature.is_finite() && curvature >= 0.0,
            OP,
            "curvature",
            curvature,
            "a finite number ≥ 0",
        )?;
        let find = |name: &str| {
            parameters.get(name).ok_or_else(|| Error::Config {
                generator: OP,
                field: "parameters",
                got: format!("without `{name}`"),
                expected: "W0, b0, V1, W1, b1, …, vL, wL, bL for L hidden layers",
            })
        };
        let hidden = (1..).take_while(|l| parameters.contains_key(&format!("V{l}"))).count();
        let last = hidden + 1;
        let expected = 2 + 3 * hidden + 3;
        let w0 = find("W0")?;
        let (mut width, dim) = w0.dims2().map_err(|_| Error::Shape {
            op: OP,
            arg: "W0",
            got: w0.dims().to_vec(),
            expected: "[units, d]".to_owned(),
        })?;
        let checked = |name: String, arg: &'static str, shape: &[usize]| -> Result<Var> {
            let tensor = find(&name)?;
            if tensor.dtype() != w0.dtype() {
                let (got, expected) = (tensor.dtype(), w0.dtype());
                return Err(Error::DType { op: OP, arg, got, expected });
            }
            parameter(OP, arg, tensor, shape)
        };
        let first_weight = checked("W0".into(), "W0", &[width, dim])?;
        let first_bias = checked("b0".into(), "b0", &[width])?;
        let mut layers = Vec::with_capacity(hidden);
        for l in 1..=hidden {
            let units = find(&format!("V{l}"))?.dims().first().copied().unwrap_or(0);
            layers.push(Layer {
                hidden: checked(format!("V{l}"), "V (hidden weights)", &[units, width])?,
                input: checked(format!("W{l}"), "W (input weights)", &[units, dim])?,
                bias: checked(format!("b{l}"), "b (biases)", &[units])?,
            });
            width = units;
        }
        let top = checked(format!("v{last}"), "v (output weights)", &[width])?;
        let slope = checked(format!("w{last}"), "w (output slope)", &[dim])?;
        let offset = checked(format!("b{last}"), "b (output offset)", &[1])?;
        require(
            parameters.len() == expected,
            OP,
            "parameters",
            parameters.len(),
            "2 + 3·(hidden layers − 1) + 3 tensors and none besides",
        )?;
        Ok(Self { first_weight, first_bias, layers, top, slope, offset, activation, curvature })
    }

    /// Gives the affine part w_L random slopes of the length that the network's own gradient starts with.
    pub(crate) fn tilt(&self, seed: u64) -> Result<()> {
        init::tilt(&self.slope, seed)
    }

    /// The activation s.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Units of each hidden layer.
    pub fn widths(&self) -> Vec<usize> {
        let first = std::iter::once(&self.first_bias);
        first.chain(self.layers.iter().map(|l| &l.bias)).map(|b| b.elem_count()).collect()
    }

    fn positive(&self, dtype: DType) -> Result<Positive> {
        let softplus = |v: &Var| dml_kernels::softplus(&v.to_dtype(dtype)?);
        let hidden: candle_core::Result<_> = self.layers.iter().map(|l| softplus(&l.hidden)).collect();
        Ok(Positive { hidden: hidden?, top: softplus(&self.top)? })
    }

    /// Input weights of layer l.
    fn input(&self, l: usize) -> &Tensor {
        if l == 0 { self.first_weight.as_tensor() } else { self.layers[l - 1].input.as_tensor() }
    }

    /// The network as an operation around a pivot, in the dtype of `x`.
    pub(crate) fn around(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        let dtype = x.dtype();
        let each = |vars: &mut dyn Iterator<Item = &Var>| -> Result<Vec<Tensor>> {
            Ok(vars.map(|v| v.to_dtype(dtype)).collect::<candle_core::Result<_>>()?)
        };
        let input =
            each(&mut std::iter::once(&self.first_weight).chain(self.layers.iter().map(|l| &l.input)))?;
        let bias = each(&mut std::iter::once(&self.first_bias).chain(self.layers.iter().map(|l| &l.bias)))?;
        let hidden = each(&mut self.layers.iter().map(|l| &l.hidden))?;
        let rest = each(&mut [&self.top, &self.slope, &self.offset].into_iter())?;
        let network = ConvexNetwork {
            input: input.iter().collect(),
            bias: bias.iter().collect(),
            hidden: hidden.iter().collect(),
            top: &rest[0],
            affine: rest[1..].iter().collect(),
            activation: self.activation.into(),
            curvature: self.curvature,
        };
        Ok(convex_network(x, pivot, &network)?)
    }

    fn forward(&self, x: &Tensor, positive: &Positive) -> Result<(Vec<Tensor>, Tensor)> {
        let mut z = vec![affine(x, &self.first_weight, &self.first_bias)?]; // [n, k0]
        let mut h = self.activation.value(&z[0])?;
        for (layer, weight) in self.layers.iter().zip(&positive.hidden) {
            let next = (matmul(&h, &weight.t()?)? + affine(x, &layer.input, &layer.bias)?)?; // [n, k_l]
            h = self.activation.value(&next)?;
            z.push(next);
        }
        Ok((z, h))
    }

    /// Forward, then reverse by hand: ∂φ/∂h_l for every layer, last to first.
    fn pass(&self, x: &Tensor, positive: &Positive) -> Result<Pass> {
        let (z, h) = self.forward(x, positive)?;
        let slopes: Result<Vec<_>> = z.iter().map(|z| self.activation.slope(z)).collect();
        let slopes = slopes?;
        let mut adjoints = vec![rows(&positive.top, x.dim(0)?)?]; // reversed until the end
        for l in (0..self.layers.len()).rev() {
            let upstream = (&adjoints[adjoints.len() - 1] * &slopes[l + 1])?; // ∂φ/∂z_{l+1}
            adjoints.push(matmul(&upstream, &positive.hidden[l])?);
        }
        adjoints.reverse();
        Ok(Pass { z, h, slopes, adjoints })
    }

    /// ⟨w_L, x⟩ + b_L + ε/2‖x‖².
    fn quadratic(&self, x: &Tensor) -> Result<Tensor> {
        let (slope, offset) = (self.slope.to_dtype(x.dtype())?, self.offset.to_dtype(x.dtype())?);
        let affine = dot(x, &slope)?.broadcast_add(&offset)?;
        if self.curvature == 0.0 {
            return Ok(affine);
        }
        Ok((affine + (squared_norm(x)? * (0.5 * self.curvature))?)?)
    }
}

impl Generator for Icnn {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        self.check("Icnn", "x", x)?;
        let positive = self.positive(x.dtype())?;
        let (_, h) = self.forward(x, &positive)?;
        Ok((dot(&h, &positive.top)? + self.quadratic(x)?)?)
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check("Icnn", "x", x)?;
        let positive = self.positive(x.dtype())?;
        let pass = self.pass(x, &positive)?;
        let value = (dot(&pass.h, &positive.top)? + self.quadratic(x)?)?;
        let mut grad = rows(&self.slope.to_dtype(x.dtype())?, x.dim(0)?)?; // [n, d]
        if self.curvature != 0.0 {
            grad = (grad + (x * self.curvature)?)?;
        }
        for (l, (adjoint, slope)) in pass.adjoints.iter().zip(&pass.slopes).enumerate() {
            grad = (grad + matmul(&(adjoint * slope)?, &self.input(l).to_dtype(x.dtype())?)?)?;
        }
        Ok((value, grad))
    }

    /// With c_l = ∂φ/∂h_l at μ and z_l, z̄_l the pre-activations at x and μ,
    ///
    /// φ_μ(x) = Σ_l ⟨c_l, s(z_l) − s(z̄_l) − s′(z̄_l)∘(z_l − z̄_l)⟩ + ε/2‖x − μ‖²:
    ///
    /// the divergence of the network is the sum of the divergences of its units, each computed from the
    /// increment z_l − z̄_l, which is propagated from x − μ and never taken as a difference.
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("Icnn::centered", x, pivot)?;
        self.check("Icnn::centered", "pivot", pivot)?;
        self.check("Icnn::centered", "x", x)?;
        self.around(x, pivot)
    }

    /// With c_l = ∂φ/∂h_l at y and δ_l = z_l(x) − z_l(y) carried forward from δ₀ = W₀(x − y),
    ///
    /// D(x ‖ y) = Σ_l ⟨c_l, D_s(z_l(y) + δ_l ‖ z_l(y))⟩ + ε/2‖x − y‖²,  δ_l = V_l·(s(z + δ)_{l−1} − s(z)_{l−1}) + W_l(x − y).
    fn divergence(&self, _: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let dtype = y.dtype();
        let positive = self.positive(dtype)?;
        let Pass { z, adjoints, .. } = self.pass(y, &positive)?;
        let mut sum = (squared_norm(step)? * (0.5 * self.curvature))?; // [n]
        let mut rise: Option<Tensor> = None; // s(z + δ) − s(z), [n, k_l]
        for (l, (z, adjoint)) in z.iter().zip(&adjoints).enumerate() {
            let mut delta = matmul(step, &self.input(l).to_dtype(dtype)?.t()?)?; // [n, k_l]
            if let Some(below) = &rise {
                delta = (delta + matmul(below, &positive.hidden[l - 1].t()?)?)?;
            }
            let (up, unit) = unit_divergence(self.activation.into(), z, &delta)?;
            sum = (sum + (unit * adjoint)?.sum(D::Minus1)?)?;
            rise = Some(up);
        }
        Ok(sum)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.slope.elem_count())
    }

    fn strong_convexity(&self) -> Result<f64> {
        Ok(self.curvature)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let mut all = vec![Parameter::new("W0", &self.first_weight), Parameter::new("b0", &self.first_bias)];
        for (l, layer) in (1..).zip(&self.layers) {
            all.push(Parameter::new(format!("V{l}"), &layer.hidden));
            all.push(Parameter::new(format!("W{l}"), &layer.input));
            all.push(Parameter::new(format!("b{l}"), &layer.bias));
        }
        let last = self.layers.len() + 1;
        all.push(Parameter::new(format!("v{last}"), &self.top));
        all.push(Parameter::new(format!("w{last}"), &self.slope));
        all.push(Parameter::new(format!("b{last}"), &self.offset));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_parameters_are_checked_by_name() -> Result<()> {
        let config = IcnnConfig { widths: vec![3, 2], ..Default::default() };
        let phi = Icnn::new(4, &config, 1, DType::F64, &Device::Cpu)?;
        let all: HashMap<String, Tensor> =
            phi.parameters().into_iter().map(|p| (p.name, p.var.as_tensor().clone())).collect();
        let build = |all: &HashMap<String, Tensor>| Icnn::from_parameters(all, Activation::Softplus, 0.1);
        let again = build(&all)?;
        assert_eq!(again.widths(), [3, 2]);
        let x = Tensor::new(&[[0.1, 0.2, 0.3, 0.4]], &Device::Cpu)?;
        assert_eq!(again.value(&x)?.to_vec1::<f64>()?, phi.value(&x)?.to_vec1::<f64>()?);
        for (name, replacement, want) in [
            (
                "b1",
                None,
                "Icnn::from_parameters: `parameters` is without `b1`, expected W0, b0, V1, W1, b1, …, vL, wL, bL \
                 for L hidden layers",
            ),
            (
                "w2",
                Some(Tensor::zeros(3, DType::F64, &Device::Cpu)?),
                "Icnn::from_parameters: `w (output slope)` has shape [3], expected [4]",
            ),
            (
                "b0",
                Some(Tensor::zeros(3, DType::F32, &Device::Cpu)?),
                "Icnn::from_parameters: `b0` holds F32, expected F64; convert it with `to_dtype`",
            ),
            (
                "c9",
                Some(Tensor::zeros(3, DType::F64, &Device::Cpu)?),
                "Icnn::from_parameters: `parameters` is 9, expected 2 + 3·(hidden layers − 1) + 3 tensors and none \
                 besides",
            ),
        ] {
            let mut broken = all.clone();
            match replacement {
                Some(tensor) => broken.insert(name.to_owned(), tensor),
                None => broken.remove(name),
            };
            assert_eq!(build(&broken).unwrap_err().to_string(), want);
        }
        Ok(())
    }
}
