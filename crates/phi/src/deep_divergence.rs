//! Deep divergence learning (Cilingir et al. 2020): φ(p) = max_k E_p[w_k] over K learned sub-networks w_k.
//!
//! φ is convex in the distribution p whatever the w_k are. A point x is the distribution that always gives x, and
//! φ(x) = max_k w_k(x) is then convex in x as well if each w_k is; so the sub-networks here are input-convex, and
//! the point form is a generator on ℝᵈ like any other. Sets of points need only the scores w_k(x).

use candle_core::{D, DType, Device, Tensor};
use dml_kernels::matmul;
use serde::{Deserialize, Serialize};

use crate::log_sum_exp::behind;
use crate::tensor::{check_pivot, require, rounded_once, shift, winner};
use crate::{Activation, Domain, Generator, Icnn, IcnnConfig, Parameter, Result};

/// The shape of a [`DeepDivergence`] and how it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepDivergenceConfig {
    /// K. Default 8.
    pub subnetworks: usize,
    /// Units of each hidden layer of a sub-network. Default `[32]`.
    pub widths: Vec<usize>,
    /// The sub-networks' activation. Default softplus.
    pub activation: Activation,
    /// ε ≥ 0 of a common ε/2‖x‖². Default 0.1.
    pub curvature: f64,
    /// The root mean square of the coordinates the networks will see. Default 1.
    pub input_scale: f64,
}

impl Default for DeepDivergenceConfig {
    fn default() -> Self {
        let activation = Activation::Softplus;
        Self { subnetworks: 8, widths: vec![32], activation, curvature: 0.1, input_scale: 1.0 }
    }
}

/// φ(x) = max_k w_k(x), w_k input-convex networks; parameters carry the prefixes `net0.`, `net1.`, ….
///
/// Each w_k contains the common ε/2‖x‖², so φ has it too. Where sub-networks tie the first counts.
///
/// # Source
/// Cilingir et al. 2020 \[cilingir2020\].
/// # Examples
/// ```
/// # use {candle_core::{DType, Device, Tensor}, phi::{DeepDivergence, DeepDivergenceConfig, Generator}};
/// let config = DeepDivergenceConfig { subnetworks: 3, ..Default::default() };
/// let phi = DeepDivergence::new(2, &config, 1, DType::F64, &Device::Cpu)?;
/// let set = Tensor::new(&[[0.0, 1.0], [1.0, 0.0]], &Device::Cpu)?;
/// let expectations = phi.scores(&set)?.mean(0)?; // E_p[w_k] of the set, [3]
/// let phi_of_set = expectations.max(0)?.to_scalar::<f64>()?;
/// let points = phi.value(&set)?.to_vec1::<f64>()?;
/// assert!(phi_of_set <= (points[0] + points[1]) / 2.0); // convex in the distribution
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DeepDivergence {
    nets: Vec<Icnn>,
}

const NAME: &str = "DeepDivergence";

impl DeepDivergence {
    /// Random sub-networks, each from its own seed.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) names a field that makes no sense.
    pub fn new(
        dim: usize,
        config: &DeepDivergenceConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let k = config.subnetworks;
        require(k > 0, NAME, "subnetworks", k, "at least 1")?;
        let net = IcnnConfig {
            widths: config.widths.clone(),
            activation: config.activation,
            curvature: config.curvature,
            input_scale: config.input_scale,
        };
        let nets = (0..k as u64).map(|i| {
            let seed = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let phi = Icnn::new(dim, &net, seed, dtype, device)?;
            phi.tilt(seed)?;
            Ok(phi)
        });
        Ok(Self { nets: nets.collect::<Result<_>>()? })
    }

    /// K, the number of sub-networks.
    pub fn subnetworks(&self) -> usize {
        self.nets.len()
    }

    /// w_k(x) for every sub-network: `[n, d]` → `[n, K]`.
    ///
    /// The mean over a set's rows is `E_p[w_k]`, from which the divergence of sets is made.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape), [`Error::DType`](crate::Error::DType) or
    /// [`Error::Domain`](crate::Error::Domain) as [`Generator::check`] gives them.
    pub fn scores(&self, x: &Tensor) -> Result<Tensor> {
        self.check(NAME, "x", x)?;
        let scores: Result<Vec<_>> = self.nets.iter().map(|net| net.value(x)).collect();
        Ok(Tensor::stack(&scores?, 1)?)
    }

    /// Picks from each row the entry and the gradient of its winner: values `[n]` and gradients `[n, d]` a net.
    fn pick(scores: &Tensor, grads: &[Tensor]) -> Result<(Tensor, Tensor)> {
        let mask = winner(scores)?; // [n, K]
        let value = (scores * &mask)?.sum(D::Minus1)?;
        let mut grad: Option<Tensor> = None;
        for (k, g) in grads.iter().enumerate() {
            let mine = g.broadcast_mul(&mask.narrow(1, k, 1)?)?;
            grad = Some(match grad {
                Some(sum) => (sum + mine)?,
                None => mine,
            });
        }
        Ok((value, grad.ok_or_else(|| candle_core::Error::Msg("no sub-network".to_owned()))?))
    }
}

impl Generator for DeepDivergence {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        let scores = self.scores(x)?;
        Ok((&scores * winner(&scores)?)?.sum(D::Minus1)?)
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(NAME, "x", x)?;
        let each: Result<Vec<_>> = self.nets.iter().map(|net| net.value_and_grad(x)).collect();
        let (values, grads): (Vec<_>, Vec<_>) = each?.into_iter().unzip();
        Self::pick(&Tensor::stack(&values, 1)?, &grads)
    }

    /// With m the winner at μ and D_k the divergence of w_k,
    /// φ_μ(x) = max_k (w_k(μ) − w_m(μ) + ⟨∇w_k(μ) − ∇w_m(μ), x − μ⟩ + D_k(x ‖ μ)).
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("DeepDivergence::centered", x, pivot)?;
        self.check("DeepDivergence::centered", "x", x)?;
        // Differences of networks, which are small beside each of them.
        rounded_once(x, pivot, |x, pivot| {
            let at: Result<Vec<_>> = self.nets.iter().map(|net| net.value_and_grad(pivot)).collect();
            let (values, grads): (Vec<_>, Vec<_>) = at?.into_iter().unzip();
            let (value0, grad0) = Self::pick(&Tensor::stack(&values, 1)?, &grads)?; // [1], [1, d]
            let shift = shift(x, pivot)?;
            let mut each = (Vec::new(), Vec::new());
            for (net, (value, grad)) in self.nets.iter().zip(values.iter().zip(&grads)) {
                let (own, own_grad) = net.centered(x, pivot)?; // [n], [n, d]
                let (ahead, tilt) = ((value - &value0)?, (grad - &grad0)?); // [1], [1, d]
                let lead = matmul(&shift, &tilt.t()?)?.squeeze(1)?; // [n]
                each.0.push((own + lead)?.broadcast_add(&ahead)?);
                each.1.push(own_grad.broadcast_add(&tilt)?);
            }
            Self::pick(&Tensor::stack(&each.0, 1)?, &each.1)
        })
    }

    /// With κ the winner at y and D_k the divergence of w_k, D(x ‖ y) = D_κ(x ‖ y) + max_k w_k(x) − w_κ(x): its own
    /// divergence, and how far it falls behind at x,
    /// w_k(x) − w_κ(x) = w_k(y) − w_κ(y) + ⟨∇w_k(y) − ∇w_κ(y), x − y⟩ + D_k(x ‖ y) − D_κ(x ‖ y).
    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let (mut at, mut rises, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for net in &self.nets {
            let (value, grad) = net.value_and_grad(y)?; // [n], [n, d]
            let divergence = net.divergence(x, y, step)?;
            rises.push(((grad * step)?.sum(D::Minus1)? + &divergence)?);
            at.push(value);
            own.push(divergence);
        }
        let [at, rises, own] = [at, rises, own].map(|each| Tensor::stack(&each, 1)); // [n, K] each
        let (at, rises) = (at?, rises?);
        let best = at.detach().argmax_keepdim(D::Minus1)?; // [n, 1]
        let ahead = (behind(&at)? + rises.broadcast_sub(&rises.gather(&best, 1)?)?)?; // 0 for κ
        let now = ahead.detach().argmax_keepdim(D::Minus1)?;
        Ok((own?.gather(&best, 1)? + ahead.gather(&now, 1)?)?.squeeze(1)?)
    }

    fn dim(&self) -> Option<usize> {
        self.nets.first().and_then(Generator::dim)
    }

    fn strong_convexity(&self) -> Result<f64> {
        self.nets.iter().try_fold(f64::INFINITY, |least, net| Ok(least.min(net.strong_convexity()?)))
    }

    fn parameters(&self) -> Vec<Parameter> {
        let named = |(k, net): (usize, &Icnn)| -> Vec<Parameter> {
            let prefixed = |p: Parameter| Parameter::new(format!("net{k}.{}", p.name), &p.var);
            net.parameters().into_iter().map(prefixed).collect()
        };
        self.nets.iter().enumerate().flat_map(named).collect()
    }
}
