//! Convex, increasing activations s(z) with their slopes: what an input-convex network is made of.

use candle_core::Tensor;
use dml_kernels::ConvexActivation;
use serde::{Deserialize, Serialize};

use crate::Result;
#[cfg(test)]
use crate::tensor::rows;

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

impl Activation {
    /// s(z₀ + δ) − s(z₀) without cancellation: `z0` `[1, k]`, `delta` `[n, k]` → `[n, k]`.
    ///
    /// # Errors
    /// When the shapes disagree.
    #[cfg(test)]
    fn increment(self, z0: &Tensor, delta: &Tensor) -> Result<Tensor> {
        match self {
            Self::Softplus => Ok(dml_kernels::softplus_increment(z0, delta)?),
            Self::Squareplus => {
                // √(z² + 4) − √(z₀² + 4) = (z − z₀)(z + z₀)/(√… + √…), and so s(z) − s(z₀) =
                // (z − z₀)(s(z) + s(z₀))/(√… + √…), in which nothing is negative but z − z₀.
                let z0 = rows(&z0.squeeze(0)?, delta.dim(0)?)?;
                let z = (&z0 + delta)?;
                let sum = (self.value(&z)? + self.value(&z0)?)?;
                Ok((delta * (sum / (root(&z)? + root(&z0)?)?)?)?)
            }
        }
    }

    /// What an activation bends over a step, as an input-convex network needs it: the divergence of the unit,
    /// s(z₀ + δ) − s(z₀) − s′(z₀)δ ≥ 0, and the growth of its slope, s′(z₀ + δ) − s′(z₀). `z0` `[1, k]`, `delta`,
    /// `rise` = s(z₀ + δ) − s(z₀), `slope` = s′(z₀ + δ) and `slope0` = s′(z₀) `[n, k]` → both `[n, k]`.
    #[cfg(test)]
    fn bend(
        self,
        z0: &Tensor,
        delta: &Tensor,
        (rise, slope, slope0): (&Tensor, &Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Softplus => Ok(((rise - (slope0 * delta)?)?, (slope - slope0)?)),
            Self::Squareplus => {
                // With R = √(z² + 4): zR₀ − z₀R = δ(RR₀ − zz₀ + 4)/(R + R₀), the slope's growth is half of that over RR₀.
                let z0 = rows(&z0.squeeze(0)?, delta.dim(0)?)?;
                let z = (&z0 + delta)?;
                let (root, root0) = (root(&z)?, root(&z0)?);
                let (product, roots) = ((&z * &z0)?, (&root * &root0)?);
                let same = product.detach().ge(0.0)?.to_dtype(z.dtype())?; // on one side of the knee
                let size = (&roots + (product * same.affine(2.0, -1.0)?)?)?; // RR₀ + |zz₀|
                // RR₀ − zz₀ is the size itself, or on one side (4z² + 4z₀² + 16) over it.
                let one_side = ((((z.sqr()? + z0.sqr()?)? * 4.0)? + 16.0)? / &size)?;
                let apart = ((one_side * &same)? + (size * same.affine(-1.0, 1.0)?)?)?;
                let sum = (root + &root0)?;
                let turn = ((delta * (apart + 4.0)?)? / &sum)?;
                let bend = ((delta * &turn)? / (sum * root0)?)?;
                Ok(((bend * 0.5)?, ((turn / roots)? * 0.5)?))
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
    fn what_squareplus_bends_keeps_its_digits_on_either_side() -> Result<()> {
        let s = Activation::Squareplus;
        let (z0s, deltas) =
            ([-400.0f64, 0.3, 400.0, -2.0], [[1.0, -0.6, 1.5, 900.0], [1e-3, 1e-3, -1e-3, 0.0]]);
        let delta = Tensor::new(&deltas, &Device::Cpu)?;
        let z0 = Tensor::new(&[z0s], &Device::Cpu)?;
        let of = |z0: &Tensor, delta: &Tensor| -> Result<(Vec<f64>, Vec<f64>)> {
            let z = delta.broadcast_add(z0)?;
            let slope0 = s.slope(&z0.broadcast_as(z.shape())?.contiguous()?)?;
            let (rise, slope) = (s.increment(z0, delta)?, s.slope(&z)?);
            let (bend, growth) = s.bend(z0, delta, (&rise, &slope, &slope0))?;
            Ok((host(&bend)?, host(&growth)?))
        };
        let narrow = |t: &Tensor| t.to_dtype(candle_core::DType::F32);
        let (wide, single) = (of(&z0, &delta)?, of(&narrow(&z0)?, &narrow(&delta)?)?);
        let at = |z: f64| (z.hypot(2.0) + z) / 2.0;
        for (i, delta) in deltas.concat().into_iter().enumerate() {
            let z0 = z0s[i % 4];
            let slope0 = 0.5 + 0.5 * z0 / z0.hypot(2.0);
            let direct = at(z0 + delta) - at(z0) - slope0 * delta;
            assert!((wide.0[i] - direct).abs() < 1e-12, "{z0} + {delta}: {} for {direct}", wide.0[i]);
            for (wide, single) in [(wide.0[i], single.0[i]), (wide.1[i], single.1[i])] {
                assert!(
                    (wide - single).abs() <= 2e-6 * wide.abs(),
                    "{z0} + {delta}: {single:e} for {wide:e}"
                );
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
        let z0 = Tensor::new(&[[-3e4f32]], &Device::Cpu)?;
        let rise = host(&Activation::Squareplus.increment(&z0, &Tensor::new(&[[10f32]], &Device::Cpu)?)?)?[0];
        let want = 1.0 / 29_990.0 - 1.0 / 30_000.0;
        assert!((rise / want - 1.0).abs() < 1e-6, "{rise:e} for {want:e}");
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
