//! Norms of rows.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Part, Regularizer, Result,
    tensor::{root, row_norm},
};

/// Knobs of [`LpNorm`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LpNormConfig {
    /// The p of the norm; 2.
    pub p: f64,
    /// e, the power it is raised to; 1.
    pub power: f64,
}

impl Default for LpNormConfig {
    fn default() -> Self {
        Self { p: 2.0, power: 1.0 }
    }
}

/// ‖x‖_pᵉ of each row, with gradient 0 at 0.
///
/// Keeps rows that are not normalized from growing, as Sohn 2016 \[sohn2016\] does for N-pairs. O(kd).
///
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let rows = Tensor::new(&[[3f32, 4.], [0., 1.]], &Device::Cpu)?;
/// let penalty = LpNorm::new(LpNormConfig::default())?.penalty(&rows)?;
/// assert_eq!(penalty.map(|p| p.to_scalar::<f32>()).transpose()?, Some(3.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LpNorm {
    config: LpNormConfig,
}

impl LpNorm {
    /// With the given norm.
    ///
    /// # Errors
    /// [`Error::Config`] unless 1 ≤ p < ∞ and power > 0.
    pub fn new(config: LpNormConfig) -> Result<Self> {
        if !(config.p >= 1.0 && config.p.is_finite()) {
            return Err(Error::config("LpNorm", "p", config.p, "1 ≤ p < ∞"));
        }
        if !(config.power > 0.0 && config.power.is_finite()) {
            return Err(Error::config("LpNorm", "power", config.power, "a positive number"));
        }
        Ok(Self { config })
    }
}

impl Regularizer for LpNorm {
    fn unreduced(&self, rows: &Tensor) -> Result<Option<Part>> {
        if rows.elem_count() == 0 {
            return Ok(None);
        }
        let norms = root(&row_norm(rows, self.config.p)?.squeeze(1)?, self.config.power)?; // [k]
        Ok(Some(Part::of_rows(norms)?))
    }
}
