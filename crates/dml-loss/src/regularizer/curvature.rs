//! A generator whose curvature is alike in all directions and places.

use std::sync::Arc;

use candle_core::Tensor;
use phi::Generator;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Parameter, Part, Regularizer, Result, Role,
    tensor::{fill_unless, hinge},
};

/// Knobs of [`Curvature`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurvatureConfig {
    /// ε, added to each curvature: where φ is flat (a max-affine piece) the logarithm stays finite. 10⁻⁶.
    pub eps: f64,
}

impl Default for CurvatureConfig {
    fn default() -> Self {
        Self { eps: 1e-6 }
    }
}

/// (log κ_i − mean of log κ)² over the segments from row i to row i + 1 (the last to the first), κ the mean second
/// derivative of φ along the segment: κ = ⟨∇φ(x) − ∇φ(y), x − y⟩ / ‖x − y‖² + ε.
///
/// 0 for c‖x‖², and otherwise the spread of the logarithm of the curvature: it bounds the condition number of φ where
/// the embeddings lie without asking for any particular scale. κ is (D_φ(x ‖ y) + D_φ(y ‖ x)) / ‖x − y‖², in closed
/// form, so one first-order backward pass gives the gradient for φ's parameters and for the rows. O(kd) beside φ
/// itself. Pairs of equal rows are left out. Usual weights: 10⁻³ to 10⁻².
///
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let rows = Tensor::new(&[[0.1f64, 1.], [2., 0.5], [0.7, 3.]], &Device::Cpu)?;
/// let penalty = |phi: Arc<dyn phi::Generator>| -> Result<Option<f64>> {
///     let penalty = Curvature::new(phi, CurvatureConfig::default())?.penalty(&rows)?;
///     Ok(penalty.map(|p| p.to_scalar()).transpose()?)
/// };
/// // The squared norm is equally curved everywhere, the negative entropy (φ″ = 1/x) is not.
/// assert!(penalty(Arc::new(phi::SquaredEuclidean))?.is_some_and(|p| p < 1e-20));
/// assert!(penalty(Arc::new(phi::NegativeEntropy::orthant()))?.is_some_and(|p| p > 0.01));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Curvature {
    generator: Arc<dyn Generator>,
    config: CurvatureConfig,
}

impl Curvature {
    /// Of a generator.
    ///
    /// # Errors
    /// [`Error::Config`] unless ε is positive.
    pub fn new(generator: Arc<dyn Generator>, config: CurvatureConfig) -> Result<Self> {
        match config.eps > 0.0 {
            true => Ok(Self { generator, config }),
            false => Err(Error::config("Curvature", "eps", config.eps, "a positive number")),
        }
    }
}

/// κ of the segments between distinct consecutive rows, `[k]`; `None` where there is none.
pub(crate) fn curvatures(generator: &dyn Generator, rows: &Tensor, eps: f64) -> Result<Option<Tensor>> {
    let (n, _) = rows.dims2()?;
    if n < 2 {
        return Ok(None);
    }
    let next = |x: &Tensor| -> Result<Tensor> {
        Ok(Tensor::cat(&[&x.narrow(0, 1, n - 1)?, &x.narrow(0, 0, 1)?], 0)?)
    };
    let (_, grad) = generator.value_and_grad(rows)?; // [n, d]
    let (step, change) = ((next(rows)? - rows)?, (next(&grad)? - &grad)?);
    let squared = step.sqr()?.sum(1)?; // [n]
    let apart = squared.detach().gt(0.0)?;
    let count = apart.to_dtype(candle_core::DType::U32)?.sum_all()?.to_scalar::<u32>()?;
    if count == 0 {
        return Ok(None);
    }
    let curvature = ((step * change)?.sum(1)? / fill_unless(&squared, &apart, 1.0)?)?;
    let curvature = (hinge(&curvature)? + eps)?;
    if count as usize == n {
        return Ok(Some(curvature));
    }
    let bits = apart.to_vec1::<u8>()?;
    let kept: Vec<u32> = (0..n as u32).filter(|&i| bits[i as usize] != 0).collect();
    Ok(Some(crate::tensor::rows(&curvature, &kept)?))
}

pub(crate) fn generator_parameters(generator: &dyn Generator) -> Vec<Parameter> {
    let own = generator.parameters();
    own.iter().map(|p| Parameter::new(format!("generator.{}", p.name), &p.var, Role::Generator)).collect()
}

impl Regularizer for Curvature {
    fn unreduced(&self, rows: &Tensor) -> Result<Option<Part>> {
        let Some(curvature) = curvatures(&*self.generator, rows, self.config.eps)? else { return Ok(None) };
        let log = curvature.log()?;
        Ok(Some(Part::of_rows(log.broadcast_sub(&log.mean_keepdim(0)?)?.sqr()?)?))
    }

    fn parameters(&self) -> Vec<Parameter> {
        generator_parameters(&*self.generator)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{Scale, ScaleConfig};

    #[test]
    fn a_square_has_one_curvature_and_the_scale_sees_it() -> Result<()> {
        let rows = Tensor::new(&[[0.0f64, 1.0], [2.0, -1.0], [2.0, -1.0], [0.5, 0.5]], &Device::Cpu)?;
        let phi: Arc<dyn Generator> = Arc::new(phi::SquaredEuclidean);
        let flat = Curvature::new(phi.clone(), CurvatureConfig::default())?.penalty(&rows)?;
        let flat = flat.map(|p| p.to_scalar::<f64>()).transpose()?;
        assert!(flat.is_some_and(|p| p < 1e-20), "{flat:?}");
        let scale = Scale::new(phi.clone(), ScaleConfig { target: 1.0, ..Default::default() })?;
        let scale = scale.penalty(&rows)?.map(|p| p.to_scalar::<f64>()).transpose()?;
        assert!(scale.is_some_and(|p| (p - 2f64.ln().powi(2)).abs() < 1e-5), "{scale:?}");
        let same = Tensor::zeros((3, 2), candle_core::DType::F64, &Device::Cpu)?;
        assert!(Curvature::new(phi, CurvatureConfig::default())?.penalty(&same)?.is_none());
        Ok(())
    }
}
