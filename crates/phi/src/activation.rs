//! Convex, increasing activations s(z) with their slopes: what an input-convex network is made of.

use candle_core::Tensor;
use dml_kernels::ConvexActivation;
use serde::{Deserialize, Serialize};

use crate::Result;

/// A convex, increasing, smooth activation s.
///
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::Activation};
/// let z = Tensor::new(&[0.0f64], &Device::Cpu)?;
/// assert_eq!(Activation::Squareplus.value(&z)?.to_vec1::<f64>()?, [1.0]);
/// assert_eq!(Activation::Squareplus.slope(&z)?.to_vec1::<f64>()?, [0.5]);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// log(1 + eᶻ): curvature falls off exponentially.
    #[default]
    Softplus,
    /// (z + √(z² + 4))/2: curvature falls off as |z|⁻³, so units far from their knee still learn, and no
    /// exponential is taken (Barron 2021 \[barron2021\]).
    Squareplus,
}

impl Activation {
    /// s(z), elementwise.
    ///
    /// # Errors
    /// When the tensor operation fails.
    pub fn value(self, z: &Tensor) -> Result<Tensor> {
        match self {
            Self::Softplus => Ok(dml_kernels::softplus(z)?),
            Self::Squareplus => Ok(((z + root(z)?)? * 0.5)?),
        }
    }

    /// s′(z), elementwise.
    ///
    /// # Errors
    /// When the tensor operation fails.
    pub fn slope(self, z: &Tensor) -> Result<Tensor> {
        match self {
            Self::Softplus => Ok(dml_kernels::sigmoid(z)?),
            Self::Squareplus => Ok((z / root(z)?)?.affine(0.5, 0.5)?),
        }
    }
}

impl From<Activation> for ConvexActivation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Softplus => Self::Softplus,
            Activation::Squareplus => Self::Squareplus,
        }
    }
}

/// √(z² + 4), never near 0.
fn root(z: &Tensor) -> Result<Tensor> {
    Ok((z.sqr()? + 4.0)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::tensor::host;

    #[test]
    fn the_slope_belongs_to_the_value() -> Result<()> {
        let z = Tensor::new(&[[-30.0, -2.0, 0.0, 0.5, 25.0]], &Device::Cpu)?;
        let h = 1e-5;
        for s in [Activation::Softplus, Activation::Squareplus] {
            let (above, below) = (s.value(&(&z + h)?)?, s.value(&(&z - h)?)?);
            let numeric = host(&((above - below)? / (2.0 * h))?)?;
            for (want, got) in numeric.iter().zip(host(&s.slope(&z)?)?) {
                assert!((want - got).abs() < 1e-9, "{s:?}: slope {got} for {want}");
            }
        }
        Ok(())
    }
}
