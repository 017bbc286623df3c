//! φ(x) = ½‖x‖_p², 1 < p ≤ 2: strongly convex with modulus p − 1, dual to ½‖g‖_q² with 1/p + 1/q = 1.

use candle_core::{D, DType, Tensor};
use dml_kernels::{ConvexCurve, matmul, scalar_divergence};
use serde::{Deserialize, Serialize};

use crate::tensor::{check_pivot, exp_m1, ln_1p, require, rounded_once, shift};
use crate::{Domain, Generator, Result};

/// φ(x) = ½‖x‖_p² on ℝᵈ, 1 < p ≤ 2; ∂φ/∂x_j = sign(x_j)·|x_j|^{p−1}·‖x‖_p^{2−p}.
///
/// φ″ is infinite where a coordinate is 0 and p < 2; gradients through ∇φ are 0 there.
///
/// # Source
/// The mirror map of Banerjee et al. 2005 \[banerjee2005\]; strong convexity in Ball et al. 1994 \[ball1994\].
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Generator, PNorm}};
/// let phi = PNorm::new(1.5)?;
/// let x = Tensor::new(&[[3.0, -1.0]], &Device::Cpu)?;
/// let g = phi.value_and_grad(&x)?.1;
/// let back = phi.grad_conjugate(&g)?.expect("closed form").to_vec2::<f64>()?; // ∇(½‖·‖_3²)
/// assert!((back[0][0] - 3.0).abs() < 1e-12 && (back[0][1] + 1.0).abs() < 1e-12);
/// assert_eq!(PNorm::new(3.0).unwrap_err().to_string(), "PNorm: `p` is 3.0, expected a number with 1 < p ≤ 2");
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PNorm {
    p: f64,
}

/// Below this share of the row's largest entry a coordinate counts as 0, so that |x|^{p−2} stays finite.
const NEGLIGIBLE: f64 = 1e-30;

impl PNorm {
    /// The generator for a given p.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) unless 1 < p ≤ 2.
    pub fn new(p: f64) -> Result<Self> {
        require(p > 1.0 && p <= 2.0, "PNorm", "p", p, "a number with 1 < p ≤ 2")?;
        Ok(Self { p })
    }

    /// p.
    pub fn p(&self) -> f64 {
        self.p
    }
}

/// A row as sign, size relative to its largest entry, and that entry.
struct Scaled {
    sign: Tensor,    // [n, d], 0 where the coordinate counts as 0
    size: Tensor,    // [n, d], |x|/largest, 1 where the coordinate counts as 0
    live: Tensor,    // [n, d], 1 where it does not
    largest: Tensor, // [n, 1], a constant; 1 in a row of zeros
    any: Tensor,     // [n, 1], 1 except in a row of zeros
}

impl Scaled {
    /// The largest entry is a constant: ½‖x‖² = ½m²‖x/m‖² whatever m is, so it drops out of derivatives.
    fn new(x: &Tensor) -> Result<Self> {
        let top = x.detach().abs()?.max_keepdim(D::Minus1)?; // [n, 1]
        let any = top.gt(0.0)?.to_dtype(x.dtype())?;
        let largest = (&top + any.affine(-1.0, 1.0)?)?;
        let unit = x.broadcast_div(&largest)?;
        let live = unit.detach().abs()?.gt(NEGLIGIBLE)?.to_dtype(x.dtype())?;
        let sign = (unit.detach().sign()? * &live)?;
        let size = ((&unit * &sign)? + live.affine(-1.0, 1.0)?)?;
        Ok(Self { sign, size, live, largest, any })
    }

    /// Σ |x/m|^p, 1 in a row of zeros: `[n, 1]`.
    fn total(&self, p: f64) -> Result<Tensor> {
        let powers = (self.size.powf(p)? * &self.live)?;
        Ok((powers.sum_keepdim(D::Minus1)? + self.any.affine(-1.0, 1.0)?)?)
    }
}

/// ½‖x‖_p² and its gradient, for any p > 1.
fn half_squared_norm(x: &Tensor, p: f64) -> Result<(Tensor, Tensor)> {
    let scaled = Scaled::new(x)?;
    let total = scaled.total(p)?; // [n, 1]
    let size = ((total.powf(2.0 / p)? * scaled.largest.sqr()?)? * 0.5)?;
    let value = (size * &scaled.any)?.squeeze(1)?;
    let factor = (total.powf((2.0 - p) / p)? * &scaled.largest)?; // [n, 1]
    let grad = (scaled.size.powf(p - 1.0)? * &scaled.sign)?.broadcast_mul(&factor)?;
    Ok((value, grad))
}

/// See [`PNorm::centered`](Generator::centered).
fn centered(x: &Tensor, pivot: &Tensor, p: f64) -> Result<(Tensor, Tensor)> {
    let at = Scaled::new(pivot)?; // everything [1, d] or [1, 1]
    let (direct, grad) = half_squared_norm(x, p)?; // [n], [n, d]
    let (direct0, grad0) = half_squared_norm(pivot, p)?; // [1, d]
    let shift = shift(x, pivot)?; // [n, d]
    let tangent = matmul(&shift, &grad0.t()?)?.squeeze(1)?; // [n]

    let unit = x.broadcast_div(&at.largest)?; // x in units of the pivot's largest entry
    let unit_shift = shift.broadcast_div(&at.largest)?;
    let size = at.size.broadcast_as(x.shape())?;
    let signed = unit_shift.broadcast_mul(&at.sign)?; // outwards positive
    let ratio = (signed / &size)?;
    let close = ratio.detach().abs()?.lt(0.5)?.to_dtype(x.dtype())?.broadcast_mul(&at.live)?;
    let far = close.affine(-1.0, 1.0)?;
    let near = exp_m1(&(ln_1p(&(ratio * &close)?)? * p)?)?; // (|x|/|μ|)^p − 1, 0 where not close
    let near = near.broadcast_mul(&at.size.powf(p)?)?;
    let outer = (unit.detach().abs()?.gt(NEGLIGIBLE)?.to_dtype(x.dtype())? * &far)?;
    let magnitude = ((&unit * (unit.detach().sign()? * &outer)?)? + outer.affine(-1.0, 1.0)?)?;
    let before = (at.size.powf(p)? * &at.live)?; // |μ|^p, [1, d]
    let apart = ((magnitude.powf(p)? * &outer)? - far.broadcast_mul(&before)?)?;
    let growth = (near + apart)?.sum_keepdim(D::Minus1)?; // ΔS, [n, 1]

    let total = before.sum_keepdim(D::Minus1)?; // S, [1, 1]; 0 when the pivot is the origin
    let origin = at.any.affine(-1.0, 1.0)?; // [1, 1]
    let relative = growth.broadcast_div(&(&total + &origin)?)?; // ΔS/S, [n, 1]
    let close = relative.detach().abs()?.lt(0.5)?.to_dtype(x.dtype())?.broadcast_mul(&at.any)?;
    let far = close.affine(-1.0, 1.0)?.squeeze(1)?;
    let rise = exp_m1(&(ln_1p(&(relative * &close)?)? * (2.0 / p))?)?; // [n, 1], 0 where far
    let half = (((total + &origin)?.powf(2.0 / p)? * at.largest.sqr()?)? * 0.5)?; // [1, 1]
    let near = rise.broadcast_mul(&half)?.squeeze(1)?;
    let value = (near + (direct.broadcast_sub(&direct0)? * far)?)?;
    Ok(((value - tangent)?, grad.broadcast_sub(&grad0)?))
}

/// See [`PNorm::divergence`](Generator::divergence).
fn divergence(step: &Tensor, y: &Tensor, p: f64) -> Result<Tensor> {
    // In units of the largest entry of the pair, a constant that drops out of derivatives.
    let top = |t: &Tensor| t.detach().abs()?.max_keepdim(D::Minus1); // [n, 1]
    let top = top(step)?.maximum(&top(y)?)?;
    let unit = (&top + top.eq(0.0)?.to_dtype(y.dtype())?)?;
    let (step, y) = (step.broadcast_div(&unit)?, y.broadcast_div(&unit)?);
    let x = (&y + &step)?;
    let one_where_not = |mask: &Tensor| mask.affine(-1.0, 1.0);
    // Coordinates that move little beside themselves go by their ratio t, the others by their powers.
    let close = step.detach().abs()?.lt(&(y.detach().abs()? * 0.1)?)?.to_dtype(y.dtype())?;
    let ratio = ((&step * &close)? / ((&y * &close)? + one_where_not(&close)?)?)?;
    let (size_x, size_y) = (Size::of(&x)?, Size::of(&y)?);
    let (power_x, power_y) = (size_x.power(p)?, size_y.power(p)?);
    let tangent = ((size_y.power(p - 1.0)? * &size_y.sign)? * &step)?;
    let far = one_where_not(&close)?;
    let near = (scalar_divergence(ConvexCurve::Power(p), &ratio)? * &power_y)?;
    let apart = (((&power_x - &power_y)? - (&tangent * p)?)? * &far)?;
    let units = (near + apart)?.sum_keepdim(D::Minus1)?; // Σ D_{|·|^p}, [n, 1]
    let near = (exp_m1(&(ln_1p(&ratio)? * p)?)? * &power_y)?;
    let growth = (near + ((power_x - &power_y)? * far)?)?.sum_keepdim(D::Minus1)?; // T − S, [n, 1]

    let total = power_y.sum_keepdim(D::Minus1)?; // S
    let origin = total.detach().eq(0.0)?.to_dtype(y.dtype())?;
    let some = (&total + &origin)?;
    let relative = (&growth / &some)?; // (T − S)/S
    let close = relative.detach().abs()?.lt(0.1)?.to_dtype(y.dtype())?;
    let far = one_where_not(&close)?;
    let near =
        (scalar_divergence(ConvexCurve::Power(2.0 / p), &(&relative * &close)?)? * some.powf(2.0 / p)?)?;
    // T itself where it is far from S: 1 where it is not, so that no power meets a 0.
    let least = if y.dtype() == DType::F64 { 1e-300 } else { 1e-37 };
    let end = (((&growth + &total)? * &far)? + &close)?.maximum(least)?;
    let slope = (some.powf(2.0 / p - 1.0)? * one_where_not(&origin)?)?;
    let begin = (some.powf(2.0 / p)? * one_where_not(&origin)?)?;
    let apart = (((end.powf(2.0 / p)? - begin)? - ((&slope * &growth)? * (2.0 / p))?)? * far)?;
    let outer = ((near + apart)? * 0.5)?; // D_g(T ‖ S)
    let sum = (outer + ((slope * units)? * (1.0 / p))?)?; // g′(S) = S^{2/p − 1}/p
    Ok((sum * unit.sqr()?)?.squeeze(1)?)
}

/// |x| with its sign, a coordinate of 0 apart: no power is taken of it.
struct Size {
    sign: Tensor,
    size: Tensor, // 1 where x is 0
    some: Tensor, // 0 where x is 0
}

impl Size {
    fn of(x: &Tensor) -> Result<Self> {
        let some = x.detach().abs()?.gt(NEGLIGIBLE)?.to_dtype(x.dtype())?;
        let sign = (x.detach().sign()? * &some)?;
        let size = ((x * &sign)? + some.affine(-1.0, 1.0)?)?;
        Ok(Self { sign, size, some })
    }

    fn power(&self, p: f64) -> Result<Tensor> {
        Ok((self.size.powf(p)? * &self.some)?)
    }
}

impl Generator for PNorm {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check("PNorm", "x", x)?;
        half_squared_norm(x, self.p)
    }

    /// With S = Σ|μ_j|^p and ΔS = Σ(|x_j|^p − |μ_j|^p), ½‖x‖² − ½‖μ‖² = ½S^{2/p}·((1 + ΔS/S)^{2/p} − 1), every
    /// difference of powers through expm1 and log1p where its two sides are close.
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("PNorm::centered", x, pivot)?;
        self.check("PNorm::centered", "pivot", pivot)?;
        self.check("PNorm::centered", "x", x)?;
        rounded_once(x, pivot, |x, pivot| centered(x, pivot, self.p))
    }

    /// With S = Σ|y_j|^p, T = Σ|x_j|^p and g(S) = ½S^{2/p}, the chain rule
    /// D(x ‖ y) = D_g(T ‖ S) + g′(S)·Σ_j D_{|·|^p}(x_j ‖ y_j).
    fn divergence(&self, _: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        divergence(step, y, self.p)
    }

    /// p − 1, since ‖v‖_p ≥ ‖v‖₂.
    fn strong_convexity(&self) -> Result<f64> {
        Ok(self.p - 1.0)
    }

    /// The gradient of ½‖g‖_q², q = p/(p − 1).
    fn grad_conjugate(&self, g: &Tensor) -> Result<Option<Tensor>> {
        self.check("PNorm::grad_conjugate", "g", g)?;
        Ok(Some(half_squared_norm(g, self.p / (self.p - 1.0))?.1))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::tensor::host;

    #[test]
    fn zeros_give_zeros_and_finite_derivatives() -> Result<()> {
        let phi = PNorm::new(1.3)?;
        let x = Var::new(&[[0.0, 0.0], [0.0, 2.0]], &Device::Cpu)?;
        let (value, grad) = phi.value_and_grad(&x)?;
        assert_eq!(value.to_vec1::<f64>()?, [0.0, 2.0]);
        assert_eq!(grad.to_vec2::<f64>()?, [[0.0, 0.0], [0.0, 2.0]]);
        let total = (value.sum_all()? + grad.sqr()?.sum_all()?)?;
        let derivative = total.backward()?.get(&x).cloned().expect("gradient");
        assert!(host(&derivative)?.iter().all(|v| v.is_finite()), "{derivative}");
        Ok(())
    }

    #[test]
    fn a_pivot_at_the_origin_changes_nothing() -> Result<()> {
        let phi = PNorm::new(1.5)?;
        let x = Tensor::new(&[[1.0, -2.0], [0.0, 0.5]], &Device::Cpu)?;
        let origin = Tensor::zeros((1, 2), x.dtype(), x.device())?;
        let ((value, grad), (want, want_grad)) = (phi.centered(&x, &origin)?, phi.value_and_grad(&x)?);
        assert_eq!(value.to_vec1::<f64>()?, want.to_vec1::<f64>()?);
        assert_eq!(grad.to_vec2::<f64>()?, want_grad.to_vec2::<f64>()?);
        Ok(())
    }
}
