//! A generator of a given scale.

use std::sync::Arc;

use candle_core::Tensor;
use phi::Generator;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Parameter, Part, Regularizer, Result,
    regularizer::curvature::{curvatures, generator_parameters},
};

/// Knobs of [`Scale`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleConfig {
    /// The mean curvature to hold; 2 (the default) is that of ‖x‖².
    pub target: f64,
    /// ε, added to each curvature, so that the logarithm stays finite; 10⁻⁶.
    pub eps: f64,
}

impl Default for ScaleConfig {
    fn default() -> Self {
        Self { target: 2.0, eps: 1e-6 }
    }
}

/// (log of the mean curvature − log of the target)², the curvature κ that of [`Curvature`](crate::Curvature). One for
/// the batch.
///
/// A learned generator and a learned temperature can trade scale for ever, since exp(s)·D_φ is all a loss sees; this
/// fixes φ's share and leaves its shape alone. Losses with a margin want it too, since their margin is in units of φ.
/// O(kd) beside φ itself. Usual weights: 10⁻³ to 10⁻¹.
///
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let rows = Tensor::new(&[[0f64, 1.], [2., -1.]], &Device::Cpu)?;
/// let config = ScaleConfig { target: 1.0, ..Default::default() };
/// let penalty = Scale::new(Arc::new(phi::SquaredEuclidean), config)?.penalty(&rows)?;
/// // ‖x‖² has curvature 2.
/// let penalty = penalty.map(|p| p.to_scalar::<f64>()).transpose()?;
/// assert!(penalty.is_some_and(|p| (p - 2f64.ln().powi(2)).abs() < 1e-5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Scale {
    generator: Arc<dyn Generator>,
    config: ScaleConfig,
}

impl Scale {
    /// Of a generator.
    ///
    /// # Errors
    /// [`Error::Config`] unless target and ε are positive.
    pub fn new(generator: Arc<dyn Generator>, config: ScaleConfig) -> Result<Self> {
        for (field, value) in [("target", config.target), ("eps", config.eps)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::config("Scale", field, value, "a positive number"));
            }
        }
        Ok(Self { generator, config })
    }
}

impl Regularizer for Scale {
    fn unreduced(&self, rows: &Tensor) -> Result<Option<Part>> {
        let Some(curvature) = curvatures(&*self.generator, rows, self.config.eps)? else { return Ok(None) };
        let gap = (curvature.mean_keepdim(0)?.log()? - self.config.target.ln())?; // [1]
        Ok(Some(Part::whole("loss", gap.sqr()?)))
    }

    fn parameters(&self) -> Vec<Parameter> {
        generator_parameters(&*self.generator)
    }
}
