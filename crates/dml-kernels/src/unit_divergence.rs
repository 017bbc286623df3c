//! What an activation does over a step, to the relative precision of the step: its rise s(z + δ) − s(z) and its
//! divergence D_s(z + δ ‖ z) = s(z + δ) − s(z) − s′(z)·δ ≥ 0.
//!
//! With them the divergence of a network is a sum of non-negative terms, each a function of differences: the chain rule
//! of Bregman divergences, D_φ(x ‖ y) = Σ_l ⟨∂φ/∂h_l(y), D_s(z_l(x) ‖ z_l(y))⟩.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::convex_network::ConvexActivation;
use crate::cpu::{contiguous, share, with_slices};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};
use crate::scalar_divergence::{ConvexCurve, scalar_divergence};
use crate::softplus::{sigmoid, softplus};

/// The rises and the divergences of units at `z` over `step`, both of the shape of `z`.
///
/// # Errors
/// When the shapes disagree.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::{ConvexActivation, unit_divergence}};
/// let (z, step) = (Tensor::new(&[[3f32]], &Device::Cpu)?, Tensor::new(&[[1e-4f32]], &Device::Cpu)?);
/// let (_, d) = unit_divergence(ConvexActivation::Softplus, &z, &step)?;
/// let curvature = 0.045_176_66; // of log(1 + eᶻ) at 3
/// assert!((d.to_vec2::<f32>()?[0][0] / (curvature * 0.5e-8) - 1.0).abs() < 1e-3);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn unit_divergence(activation: ConvexActivation, z: &Tensor, step: &Tensor) -> Result<(Tensor, Tensor)> {
    if z.dims() != step.dims() {
        bail!(
            "unit_divergence: `z` has shape {:?} and `step` {:?}, expected the same",
            z.dims(),
            step.dims()
        );
    }
    if on_cpu(z) {
        let both = z.contiguous()?.apply_op2(&step.contiguous()?, Units(activation))?; // [2, …]
        return Ok((both.get(0)?, both.get(1)?));
    }
    let (rise, divergence, _) = native(activation, z, step)?;
    Ok((rise, divergence))
}

/// What a unit gives for a step δ from z.
pub(crate) struct Step {
    pub rise: f64,
    /// D_s(z + δ ‖ z).
    pub divergence: f64,
    /// s′(z + δ) − s′(z), the derivative of the divergence by δ.
    pub growth: f64,
    /// s′(z + δ), the derivative of the rise by δ.
    pub slope: f64,
    /// s″(z)·δ: the growth less this is the derivative of the divergence by z.
    pub turn: f64,
}

pub(crate) fn step_of(activation: ConvexActivation, z: f64, step: f64) -> Step {
    match activation {
        ConvexActivation::Softplus => softplus_step(z, step),
        ConvexActivation::Squareplus => squareplus_step(z, step),
    }
}

const EXPONENTIAL: [f64; 14] = ConvexCurve::Exponential.coefficients();
const LOGARITHM: [f64; 14] = ConvexCurve::NegativeLog.coefficients();

fn logistic(z: f64) -> f64 {
    let e = (-z.abs()).exp();
    (if z < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

fn softplus_of(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// s(z) − z = s(−z), and no divergence changes by the affine z: right of its knee, where softplus is z and next to
/// nothing besides, the unit is looked at as the mirrored one, which is that nothing.
fn softplus_step(z: f64, step: f64) -> Step {
    let right = z > 0.0;
    let t = if right { -step } else { step };
    let slope0 = logistic(-z.abs());
    let bend0 = slope0 * (1.0 - slope0); // s″
    let (rise, divergence) = if t < 1.0 {
        // log(1 + w) with w = σ(eᵗ − 1), and the divergence σ·(eᵗ − 1 − t) − (w − log(1 + w)): of two terms that are not
        // negative, the second at most as large as the first by σ ≤ ½.
        let w = slope0 * t.exp_m1();
        let (exponential, logarithm) = (ConvexCurve::Exponential, ConvexCurve::NegativeLog);
        (w.ln_1p(), slope0 * exponential.at(&EXPONENTIAL, t) - logarithm.at(&LOGARITHM, w))
    } else {
        let rise = softplus_of(t - z.abs()) - softplus_of(-z.abs());
        (rise, rise - slope0 * t)
    };
    // σ(a) − σ(b) = σ(b)·σ(−a)·(e^{a−b} − 1), from the side where the exponential is small.
    let after = z + step;
    let growth = if step > 0.0 {
        -logistic(after) * logistic(-z) * (-step).exp_m1()
    } else {
        logistic(z) * logistic(-after) * step.exp_m1()
    };
    let rise = match right {
        true if after > 0.0 => step + rise,
        true => softplus_of(after) - softplus_of(z),
        false => rise,
    };
    Step { rise, divergence, growth, slope: logistic(after), turn: bend0 * step }
}

/// With R = √(z² + 4): s(z) = (z + R)/2 and s′(z) = s(z)/R. All differences are written out as quotients.
fn squareplus_step(z0: f64, step: f64) -> Step {
    let of = |z: f64, root: f64| {
        if z < 0.0 { 2.0 / (root - z) } else { 0.5 * (root + z) }
    };
    let z = z0 + step;
    let (root, root0) = (z.hypot(2.0), z0.hypot(2.0));
    let sum = root + root0;
    // R − R₀ = δ(z + z₀)/(R + R₀).
    let rise = step * (of(z, root) + of(z0, root0)) / sum;
    // zR₀ − z₀R = δ(RR₀ − zz₀ + 4)/(R + R₀); on one side of the knee RR₀ − zz₀ = (4z² + 4z₀² + 16)/(RR₀ + zz₀).
    let (product, roots) = (z * z0, root * root0);
    let size = roots + product.abs();
    let apart = if product < 0.0 { size } else { 4.0 * (z * z + z0 * z0 + 4.0) / size };
    let turn = step * (apart + 4.0) / sum;
    Step {
        rise,
        divergence: 0.5 * step * turn / (sum * root0),
        growth: 0.5 * turn / roots,
        slope: of(z, root) / root,
        turn: 2.0 * step / (root0 * root0 * root0),
    }
}

/// From `[…]` and `[…]` (z, δ) to `[2, …]` (rises, divergences).
struct Units(ConvexActivation);

impl CustomOp2 for Units {
    fn name(&self) -> &'static str {
        "unit_divergence"
    }

    fn cpu_fwd(
        &self,
        z: &CpuStorage,
        z_layout: &Layout,
        step: &CpuStorage,
        step_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(z.dtype(), self.name(), T => {
            let z = contiguous(self.name(), <T as Real>::slice(z)?, z_layout)?;
            let step = contiguous(self.name(), <T as Real>::slice(step)?, step_layout)?;
            let mut pairs = vec![[<T as Real>::ZERO; 2]; z.len()];
            share(&mut pairs, 1, |start, pairs| {
                for (pair, (&z, &step)) in pairs.iter_mut().zip(z[start..].iter().zip(&step[start..])) {
                    let unit = step_of(self.0, Real::to_f64(z), Real::to_f64(step));
                    *pair = [<T as Real>::from_f64(unit.rise), <T as Real>::from_f64(unit.divergence)];
                }
            });
            let rises = pairs.iter().map(|pair| pair[0]);
            let both: Vec<T> = rises.chain(pairs.iter().map(|pair| pair[1])).collect();
            let shape: Vec<usize> = std::iter::once(2).chain(z_layout.dims().iter().copied()).collect();
            Ok((T::storage(both), Shape::from(shape)))
        })
    }

    fn bwd(
        &self,
        z: &Tensor,
        step: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_real!(z.dtype(), self.name(), T => {
            let found = with_slices::<T, 3, _>(self.name(), [z, step, grad], |[z, step, grad]| {
                let (on_rise, on_divergence) = grad.split_at(z.len());
                let mut pairs = vec![[<T as Real>::ZERO; 2]; z.len()];
                share(&mut pairs, 1, |start, pairs| {
                    for (i, pair) in (start..).zip(pairs) {
                        let unit = step_of(self.0, Real::to_f64(z[i]), Real::to_f64(step[i]));
                        let (r, d) = (Real::to_f64(on_rise[i]), Real::to_f64(on_divergence[i]));
                        let to_z = r * unit.growth + d * (unit.growth - unit.turn);
                        let to_step = r * unit.slope + d * unit.growth;
                        *pair = [<T as Real>::from_f64(to_z), <T as Real>::from_f64(to_step)];
                    }
                });
                Ok(pairs)
            })?;
            let part = |at: usize| T::tensor(found.iter().map(|pair| pair[at]).collect(), z.shape());
            Ok((Some(part(0)?), Some(part(1)?)))
        })
    }
}

/// Rises, divergences and growths of the slope out of candle's operations.
pub(crate) fn native(
    activation: ConvexActivation,
    z: &Tensor,
    step: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let sign_of = |t: &Tensor| t.detach().ge(0.0)?.to_dtype(t.dtype())?.affine(2.0, -1.0);
    if activation == ConvexActivation::Squareplus {
        let root = |z: &Tensor| (z.sqr()? + 4.0)?.sqrt();
        let after = (z + step)?;
        let (root1, root0) = (root(&after)?, root(z)?);
        let value = |z: &Tensor, root: &Tensor| -> Result<Tensor> {
            let above = z.detach().ge(0.0)?.to_dtype(z.dtype())?;
            (z * above)? + ((root + (z * sign_of(z)?)?)?.recip()? * 2.0)?
        };
        let sum = (&root1 + &root0)?;
        let rise = ((step * (value(&after, &root1)? + value(z, &root0)?)?)? / &sum)?;
        let (product, roots) = ((&after * z)?, (&root1 * &root0)?);
        let same = product.detach().ge(0.0)?.to_dtype(z.dtype())?;
        let size = (&roots + (product * same.affine(2.0, -1.0)?)?)?;
        let one_side = ((((after.sqr()? + z.sqr()?)? * 4.0)? + 16.0)? / &size)?;
        let apart = ((one_side * &same)? + (size * same.affine(-1.0, 1.0)?)?)?;
        let turn = ((step * (apart + 4.0)?)? / &sum)?;
        let divergence = (((step * &turn)? / (sum * root0)?)? * 0.5)?;
        return Ok((rise, divergence, ((turn / roots)? * 0.5)?));
    }
    let sign = (sign_of(z)? * -1.0)?; // −1 mirrors
    let (low, t) = ((z * &sign)?, (step * &sign)?);
    let slope = sigmoid(&low)?;
    // As in `softplus_step`.
    let near = t.detach().lt(1.0)?.to_dtype(t.dtype())?;
    let far = near.affine(-1.0, 1.0)?;
    let inner = (&t * &near)?;
    let exponential = scalar_divergence(ConvexCurve::Exponential, &inner)?;
    let w = (&slope * (&exponential + &inner)?)?;
    let logarithm = scalar_divergence(ConvexCurve::NegativeLog, &w)?;
    let outer = (softplus(&(&low + &t)?)? - softplus(&low)?)?;
    let rise = ((w - &logarithm)? + (&outer * &far)?)?;
    let divergence = (((&slope * exponential)? - logarithm)? + ((outer - (slope * t)?)? * far)?)?;
    let right = sign.affine(-0.5, 0.5)?;
    // As in `softplus_step`, from the side where the exponential is small.
    let up = step.detach().gt(0.0)?.to_dtype(step.dtype())?; // 1 for a step upwards
    let down = up.affine(-2.0, 1.0)?; // −1 for a step upwards
    let inner = (step * &down)?;
    let change = (scalar_divergence(ConvexCurve::Exponential, &inner)? + &inner)?;
    let (before, after) = (z.contiguous()?, (z + step)?);
    let upwards = ((sigmoid(&after)? * sigmoid(&before.neg()?)?)? * &up)?;
    let downwards = ((sigmoid(&before)? * sigmoid(&after.neg()?)?)? * up.affine(-1.0, 1.0)?)?;
    let growth = ((change * down)? * (upwards + downwards)?)?;
    Ok(((rise + (step * right)?)?, divergence, growth))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::natively;

    const BOTH: [ConvexActivation; 2] = [ConvexActivation::Softplus, ConvexActivation::Squareplus];

    fn second(activation: ConvexActivation, z: f64) -> f64 {
        match activation {
            ConvexActivation::Softplus => logistic(z) * logistic(-z),
            ConvexActivation::Squareplus => 2.0 / (z * z + 4.0).powf(1.5),
        }
    }

    /// ∫₀^δ (δ − t)·s″(z + t) dt by Simpson's rule on many pieces, which subtracts nothing.
    fn integral(activation: ConvexActivation, z: f64, step: f64) -> f64 {
        let pieces = 20_000;
        let width = step / f64::from(pieces);
        let f = |i: i32| {
            let t = width * f64::from(i);
            (step - t) * second(activation, z + t)
        };
        let inner: f64 = (1..pieces).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (f(0) + f(pieces) + inner) * width / 3.0
    }

    #[test]
    fn every_step_keeps_its_digits_on_either_side_of_the_knee() -> Result<()> {
        for activation in BOTH {
            for z in [-40.0, -5.0, -0.3, 0.0, 0.3, 5.0, 40.0] {
                for size in [1e-9, 1e-5, 0.04, 0.11, 0.4, 0.99, 1.01, 3.0, 20.0] {
                    for step in [size, -size] {
                        let want = integral(activation, z, step);
                        let got = step_of(activation, z, step).divergence;
                        assert!(
                            (got - want).abs() <= 2e-11 * want,
                            "{activation:?} at {z} by {step}: {got:e} for {want:e}"
                        );
                        let tensor = |v: f64| Tensor::new(&[[v as f32]], &Device::Cpu);
                        let single = || unit_divergence(activation, &tensor(z)?, &tensor(step)?);
                        for (rise, d) in [single()?, natively(single)?] {
                            let (z, step) = (f64::from(z as f32), f64::from(step as f32));
                            let want = integral(activation, z, step);
                            let (rise, d) = (rise.to_vec2::<f32>()?[0][0], d.to_vec2::<f32>()?[0][0]);
                            // The exponential of z has the digits that z has.
                            let allowed = 2e-5 * want + f64::from(f32::MIN_POSITIVE);
                            assert!(
                                (f64::from(d) - want).abs() <= allowed,
                                "{activation:?} at {z} by {step}, f32: {d:e} for {want:e}"
                            );
                            let exact = step_of(activation, z, step).rise;
                            assert!(
                                (f64::from(rise) - exact).abs() <= 1e-5 * exact.abs(),
                                "{activation:?} at {z} by {step}, f32: rise {rise:e} for {exact:e}"
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn enormous_steps_stay_finite() {
        for activation in BOTH {
            for (z, step) in [(0.0, 1e6), (3.0, -1e6), (-700.0, 1e6), (700.0, -1e6), (-1e6, -1e6)] {
                let Step { rise, divergence, growth, .. } = step_of(activation, z, step);
                assert!(
                    rise.is_finite() && growth.is_finite() && divergence >= 0.0,
                    "{activation:?} {z} {step}"
                );
                let value = |z: f64| match activation {
                    ConvexActivation::Softplus => softplus_of(z),
                    ConvexActivation::Squareplus => 0.5 * (z + z.hypot(2.0)),
                };
                let want = value(z + step) - value(z);
                assert!(
                    (rise - want).abs() <= 1e-9 * want.abs().max(1.0),
                    "{activation:?} {z} {step}: {rise}"
                );
            }
        }
    }

    #[test]
    fn derivatives_are_those_of_finite_differences() -> Result<()> {
        for activation in BOTH {
            for natively_too in [false, true] {
                let z = Var::new(&[[-6.0, -0.4, 0.2, 2.0, 7.0]], &Device::Cpu)?;
                let step = Var::new(&[[0.3, 0.02, -0.03, -4.0, 0.01]], &Device::Cpu)?;
                let weights = Tensor::new(&[[0.3, -1.0, 0.7, 2.0, 1.1]], &Device::Cpu)?;
                let value = |z: &Tensor, step: &Tensor| -> Result<Tensor> {
                    let run = || unit_divergence(activation, z, step);
                    let (rise, d) = if natively_too { natively(run)? } else { run()? };
                    ((rise * &weights)? + (d * 100.0)?)?.sum_all()
                };
                let gradients = value(&z, &step)?.backward()?;
                for (at, var) in [&z, &step].into_iter().enumerate() {
                    let got = gradients.get(var).unwrap().to_vec2::<f64>()?.concat();
                    let start = var.to_vec2::<f64>()?.concat();
                    for (i, got) in got.into_iter().enumerate() {
                        let h = 1e-5;
                        let moved = |by: f64| -> Result<f64> {
                            let mut v = start.clone();
                            v[i] += by;
                            let v = Tensor::from_vec(v, var.shape(), &Device::Cpu)?;
                            let (z, step) =
                                if at == 0 { (&v, step.as_tensor()) } else { (z.as_tensor(), &v) };
                            value(z, step)?.to_scalar::<f64>()
                        };
                        let want = (moved(h)? - moved(-h)?) / (2.0 * h);
                        assert!(
                            (got - want).abs() < 1e-7 * want.abs().max(1.0),
                            "{activation:?}, argument {at}, entry {i}: {got} for {want}"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn shapes_that_disagree_are_named() {
        let tensor = |n: usize| Tensor::zeros((1, n), DType::F32, &Device::Cpu).unwrap();
        let error =
            unit_divergence(ConvexActivation::Softplus, &tensor(2), &tensor(3)).unwrap_err().to_string();
        assert!(error.contains("`z` has shape [1, 2] and `step` [1, 3]"), "{error}");
    }
}
