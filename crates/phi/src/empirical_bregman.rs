//! The main model: φ = Separable + Icnn + c/2‖x‖², trained jointly with the encoder (arXiv 2304.07689).
//!
//! The separable part fits data whose coordinates mean something, the network fits rotated features, and their
//! sum comes close to the better of the two nearly everywhere; each part can be switched off.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::tensor::{check_pivot, require, shift, squared_norm};
use crate::{Domain, Generator, Icnn, IcnnConfig, Parameter, Result, Separable, SeparableConfig};

/// The parts of an [`EmpiricalBregman`] generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmpiricalBregmanConfig {
    /// The separable part, `None` to leave it out. Default: 16 units a coordinate, no curvature of its own.
    pub separable: Option<SeparableConfig>,
    /// The network, `None` to leave it out. Default: 2 × 128 softplus units, no curvature of its own.
    pub icnn: Option<IcnnConfig>,
    /// c ≥ 0 of the common c/2‖x‖². Default 0.1.
    pub curvature: f64,
}

impl Default for EmpiricalBregmanConfig {
    fn default() -> Self {
        Self {
            separable: Some(SeparableConfig { curvature: 0.0, ..Default::default() }),
            icnn: Some(IcnnConfig { curvature: 0.0, ..Default::default() }),
            curvature: 0.1,
        }
    }
}

/// Separable + Icnn + c/2‖x‖²; parameters carry the prefixes `separable.` and `icnn.`.
///
/// # Source
/// Li et al. 2023 \[li2023\], arXiv 2304.07689.
/// # Examples
/// ```
/// # use {candle_core::{DType, Device, Tensor}, phi::{EmpiricalBregman, EmpiricalBregmanConfig, Generator}};
/// let phi = EmpiricalBregman::new(4, &EmpiricalBregmanConfig::default(), 0, DType::F32, &Device::Cpu)?;
/// assert_eq!(phi.parameters()[0].name, "separable.w");
/// assert_eq!(phi.strong_convexity()?, 0.1);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct EmpiricalBregman {
    separable: Option<Separable>,
    icnn: Option<Icnn>,
    curvature: f64,
    dim: usize,
}

const NAME: &str = "EmpiricalBregman";

impl EmpiricalBregman {
    /// Random parts; the two draw from different streams of one seed.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) names a field that makes no sense, also when every part is
    /// switched off.
    pub fn new(
        dim: usize,
        config: &EmpiricalBregmanConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        require(dim > 0, NAME, "dim", dim, "at least 1")?;
        let curvature = config.curvature;
        require(
            curvature.is_finite() && curvature >= 0.0,
            NAME,
            "curvature",
            curvature,
            "a finite number ≥ 0",
        )?;
        let empty = config.separable.is_none() && config.icnn.is_none() && curvature == 0.0;
        require(!empty, NAME, "curvature", curvature, "a number > 0 when both parts are off")?;
        let separable = config.separable.as_ref();
        let icnn = config.icnn.as_ref();
        Ok(Self {
            separable: separable.map(|c| Separable::new(dim, c, seed, dtype, device)).transpose()?,
            icnn: icnn.map(|c| Icnn::new(dim, c, seed ^ 0x9e37_79b9_7f4a_7c15, dtype, device)).transpose()?,
            curvature,
            dim,
        })
    }

    /// The separable part.
    pub fn separable(&self) -> Option<&Separable> {
        self.separable.as_ref()
    }

    /// The network.
    pub fn icnn(&self) -> Option<&Icnn> {
        self.icnn.as_ref()
    }

    fn parts(&self) -> impl Iterator<Item = (&'static str, &dyn Generator)> {
        let separable = self.separable.iter().map(|p| ("separable", p as &dyn Generator));
        separable.chain(self.icnn.iter().map(|p| ("icnn", p as &dyn Generator)))
    }

    /// c/2‖x‖² and its gradient, plus what each part gives.
    fn add(
        &self,
        x: &Tensor,
        part: impl Fn(&dyn Generator) -> Result<(Tensor, Tensor)>,
    ) -> Result<(Tensor, Tensor)> {
        let mut sum = ((squared_norm(x)? * (0.5 * self.curvature))?, (x * self.curvature)?);
        for (_, phi) in self.parts() {
            let (value, grad) = part(phi)?;
            sum = ((sum.0 + value)?, (sum.1 + grad)?);
        }
        Ok(sum)
    }
}

impl Generator for EmpiricalBregman {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        self.check(NAME, "x", x)?;
        let mut sum = (squared_norm(x)? * (0.5 * self.curvature))?;
        for (_, phi) in self.parts() {
            sum = (sum + phi.value(x)?)?;
        }
        Ok(sum)
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(NAME, "x", x)?;
        self.add(x, |phi| phi.value_and_grad(x))
    }

    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("EmpiricalBregman::centered", x, pivot)?;
        self.check("EmpiricalBregman::centered", "x", x)?;
        self.add(&shift(x, pivot)?, |phi| phi.centered(x, pivot))
    }

    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let quadratic = (squared_norm(step)? * (0.5 * self.curvature))?;
        self.parts().try_fold(quadratic, |sum, (_, phi)| Ok((sum + phi.divergence(x, y, step)?)?))
    }

    fn dim(&self) -> Option<usize> {
        Some(self.dim)
    }

    fn strong_convexity(&self) -> Result<f64> {
        self.parts().try_fold(self.curvature, |sum, (_, phi)| Ok(sum + phi.strong_convexity()?))
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.parts()
            .flat_map(|(prefix, phi)| {
                let named = move |p: Parameter| Parameter::new(format!("{prefix}.{}", p.name), &p.var);
                phi.parameters().into_iter().map(named)
            })
            .collect()
    }
}
