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
            Self::Squareplus => {
                let Knee { sign, above, root } = Knee::of(z)?;
                // s(−|z|) = 2/(√(z² + 4) + |z|): a sum where (z + √…)/2 would be a difference.
                let tail = ((root + (z * sign)?)?.recip()? * 2.0)?;
                Ok(((z * above)? + tail)?)
            }
        }
    }

    /// s′(z), elementwise.
    ///
    /// # Errors
    /// When the tensor operation fails.
    pub fn slope(self, z: &Tensor) -> Result<Tensor> {
        match self {
            Self::Softplus => Ok(dml_kernels::sigmoid(z)?),
            Self::Squareplus => {
                let Knee { sign, above, root } = Knee::of(z)?;
                let tail = ((&root + (z * &sign)?)? * root)?.recip()?; // half of s′(−|z|)
                Ok((above + ((tail * sign)? * -2.0)?)?)
            }
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

/// Which side of the knee z is on, as constants, and √(z² + 4).
struct Knee {
    sign: Tensor,  // 1 where z ≥ 0, −1 elsewhere
    above: Tensor, // 1 where z ≥ 0, 0 elsewhere
    root: Tensor,
}

impl Knee {
    fn of(z: &Tensor) -> Result<Self> {
        let above = z.detach().ge(0.0)?.to_dtype(z.dtype())?;
        Ok(Self { sign: above.affine(2.0, -1.0)?, above, root: root(z)? })
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

    #[test]
    fn squareplus_keeps_its_digits_far_below_the_knee() -> Result<()> {
        // s(z) = −1/z and s′(z) = 1/z² to a relative 1/z².
        let z = Tensor::new(&[[-3e4f32, -1e7, -1e20]], &Device::Cpu)?;
        let (value, slope) =
            (host(&Activation::Squareplus.value(&z)?)?, host(&Activation::Squareplus.slope(&z)?)?);
        for ((z, value), slope) in [3e4, 1e7].into_iter().zip(&value).zip(&slope) {
            assert!((value * z - 1.0).abs() < 1e-6, "s(−{z}) = {value}");
            assert!((slope * z * z - 1.0).abs() < 1e-6, "s′(−{z}) = {slope}");
        }
        assert_eq!((value[2], slope[2]), (0.0, 0.0)); // z² overflows
        Ok(())
    }

    #[test]
    fn squareplus_has_half_a_slope_at_the_knee() -> Result<()> {
        let z = candle_core::Var::new(&[0.0, 1e-9, -1e-9], &Device::Cpu)?;
        let gradient = |t: Tensor| -> Result<Vec<f64>> {
            host(&t.sum_all()?.backward()?.get(&z).cloned().expect("a gradient"))
        };
        for slope in gradient(Activation::Squareplus.value(&z)?)? {
            assert!((slope - 0.5).abs() < 1e-8, "{slope}");
        }
        for curvature in gradient(Activation::Squareplus.slope(&z)?)? {
            assert!((curvature - 0.25).abs() < 1e-8, "{curvature}"); // 2/(z² + 4)^{3/2}
        }
        Ok(())
    }
}
