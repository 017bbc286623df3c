//! VICReg: variance, invariance and covariance of two views (Bardes et al. 2022).

use std::sync::Arc;

use candle_core::Tensor;
use dml_kernels::{Moments, column_moments, row_squared_distance};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Index, Loss, Part, Result, Tuples,
    error::finite,
    tensor::{hinge, root},
};

/// Weights of [`VicReg`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VicRegConfig {
    /// λ, the weight of invariance; 25.
    pub invariance_lambda: f64,
    /// μ, the weight of variance; 25.
    pub variance_mu: f64,
    /// ν, the weight of covariance; 1.
    pub covariance_v: f64,
    /// ε, added to the variances before their root is taken; 10⁻⁴.
    pub eps: f64,
}

impl Default for VicRegConfig {
    fn default() -> Self {
        Self { invariance_lambda: 25.0, variance_mu: 25.0, covariance_v: 1.0, eps: 1e-4 }
    }
}

/// λ·‖z_i − z′_i‖²/d, plus μ/2·\[1 − √(var_j + ε)\]₊ for each coordinate j of either view, plus ν/d·Σ_{j≠k} C_jk² of
/// either view's covariance C.
///
/// The mean over coordinates in the first term and the ½ in the second are those of the authors' code and of
/// pytorch-metric-learning. The batch holds one view, its reference set the other, row i matching row i; labels and
/// tuples play no part. Parts `invariance_loss`, a loss a row; `variance_loss1` and `variance_loss2`, a loss a
/// coordinate; `covariance_loss`, one for the batch. Fewer than two rows have no variance: the loss is 0.
///
/// # Distances
/// None to choose: squared Euclid by definition, the divergence of ‖x‖². For another divergence between the views put
/// [`InfoNce`](crate::InfoNce) or [`TwoViews`](crate::TwoViews) in its place.
/// # Cost
/// O(n·d²) time, O(n·d + d²) memory; no pairs.
/// # Source
/// Bardes et al. 2022 \[bardes2022\], equations 1 to 6.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = Objective::new(Arc::new(VicReg::new(VicRegConfig { eps: 0.0, ..Default::default() })?));
/// let view = Tensor::new(&[[0.5f64], [-0.5]], &Device::Cpu)?;
/// let batch = Batch::new(&view, &[0, 0])?.with_reference(&view, &[0, 0])?;
/// // Equal views of one coordinate: what is left is twice half its deviation's gap to 1.
/// let value = loss.forward(&batch)?.to_scalar::<f64>()?;
/// assert!((value - 25.0 * (1.0 - 0.5f64.sqrt())).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct VicReg {
    config: VicRegConfig,
}

impl VicReg {
    /// With the given weights.
    ///
    /// # Errors
    /// [`Error::Config`] for a negative ε.
    pub fn new(config: VicRegConfig) -> Result<Self> {
        let VicRegConfig { invariance_lambda, variance_mu, covariance_v, eps } = config;
        let weights = [
            ("invariance_lambda", invariance_lambda),
            ("variance_mu", variance_mu),
            ("covariance_v", covariance_v),
        ];
        finite("VicReg", &weights)?;
        match eps >= 0.0 && eps.is_finite() {
            true => Ok(Self { config }),
            false => Err(Error::config("VicReg", "eps", eps, "a number ≥ 0")),
        }
    }
}

/// [1 − √(var_j + ε)]₊/2 of each coordinate, `[d]`, and the mean over coordinates of the squared covariances with
/// others.
fn spread(view: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let Moments { variance, covariance } = column_moments(view)?;
    let deviation = root(&(variance + eps)?, 0.5)?;
    let variance_loss = (hinge(&deviation.affine(-1.0, 1.0)?)? * 0.5)?; // [d]
    Ok((variance_loss, (covariance * (1.0 / view.dim(1)? as f64))?))
}

impl Loss for VicReg {
    fn unreduced(&self, batch: &Batch, _: Option<&Tuples>) -> Result<Vec<Part>> {
        if !batch.has_reference() {
            let expected = "the second view, row by row (Batch::with_reference)";
            return Err(Error::config("VicReg", "reference", "missing", expected));
        }
        let (z, other) = (batch.embeddings(), batch.columns());
        if z.dims() != other.dims() {
            let expected = format!("{:?}, the other view of each row", z.dims());
            return Err(Error::shape("VicReg", "reference", other, expected));
        }
        if batch.len() < 2 {
            return Ok(Vec::new());
        }
        let VicRegConfig { invariance_lambda, variance_mu, covariance_v, eps } = self.config;
        let share = invariance_lambda / z.dim(1)? as f64;
        let mut invariance = Part::of_rows((row_squared_distance(z, other)? * share)?)?;
        invariance.name = "invariance_loss";
        let (variance_1, covariance_1) = spread(z, eps)?;
        let (variance_2, covariance_2) = spread(other, eps)?;
        let coordinates = || Index::Classes((0..z.dims()[1] as u32).collect());
        Ok(vec![
            invariance,
            Part::new("variance_loss1", (variance_1 * variance_mu)?, coordinates()),
            Part::new("variance_loss2", (variance_2 * variance_mu)?, coordinates()),
            Part::whole("covariance_loss", ((covariance_1 + covariance_2)? * covariance_v)?.reshape(1)?),
        ])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        None
    }
}
