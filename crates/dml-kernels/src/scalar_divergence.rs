//! Bregman divergences of functions of one variable, elementwise and to the relative precision of the step.
//!
//! The definition g(a) − g(b) − g′(b)(a − b) is a small difference of large terms where a is close to b. Here each
//! divergence is a function of the step t alone, by its power series where t is small: every digit of t counts.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::cpu::{contiguous, map, map2, with_slices};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};

/// A convex function of one variable whose divergence from its reference point is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ConvexCurve {
    /// g(x) = x log x − x at 1: (1 + t)·log(1 + t) − t, for t ≥ −1.
    Entropy,
    /// g(x) = −log x at 1: t − log(1 + t), for t > −1.
    NegativeLog,
    /// g(x) = eˣ at 0: eᵗ − 1 − t.
    Exponential,
    /// g(x) = |x|ᵖ at 1: |1 + t|ᵖ − 1 − p·t, for p ≥ 1.
    Power(f64),
}

/// Below this |t| the series is taken: its terms reach the round-off of f64.
const NEAR: f64 = 0.1;
const TERMS: usize = 14;

impl ConvexCurve {
    /// The coefficients of t², t³, ….
    pub(crate) const fn coefficients(self) -> [f64; TERMS] {
        let mut all = [0.5; TERMS];
        if let Self::Power(p) = self {
            all[0] = 0.5 * p * (p - 1.0);
        }
        let mut at = 1;
        while at < TERMS {
            let k = (at + 2) as f64;
            all[at] = all[at - 1]
                * match self {
                    Self::Entropy => -(k - 2.0) / k,
                    Self::NegativeLog => -(k - 1.0) / k,
                    Self::Exponential => 1.0 / k,
                    Self::Power(p) => (p - k + 1.0) / k,
                };
            at += 1;
        }
        all
    }

    /// D(reference + t ‖ reference), given the coefficients.
    pub(crate) fn at(self, coefficients: &[f64; TERMS], t: f64) -> f64 {
        if t.abs() < NEAR {
            return coefficients.iter().rev().fold(0.0, |sum, c| sum * t + c) * t * t;
        }
        self.far(t)
    }

    fn far(self, t: f64) -> f64 {
        match self {
            Self::Entropy if t == -1.0 => 1.0,
            Self::Entropy => (1.0 + t) * t.ln_1p() - t,
            Self::NegativeLog => t - t.ln_1p(),
            Self::Exponential => t.exp_m1() - t,
            Self::Power(p) => (1.0 + t).abs().powf(p) - 1.0 - p * t,
        }
    }

    /// dD/dt = g′(1 + t) − g′(1); 0 at the end of the domain of the entropy, where it is −∞.
    fn slope(self, t: f64) -> f64 {
        match self {
            Self::Entropy if t <= -1.0 => 0.0,
            Self::Entropy => t.ln_1p(),
            Self::NegativeLog => t / (1.0 + t),
            Self::Exponential => t.exp_m1(),
            Self::Power(p) if t > -1.0 => p * ((p - 1.0) * t.ln_1p()).exp_m1(),
            Self::Power(p) => p * (-(1.0 + t).abs().powf(p - 1.0) - 1.0),
        }
    }
}

/// D_g(reference + t ‖ reference) elementwise, non-negative, its gradient g′(reference + t) − g′(reference).
///
/// # Errors
/// When candle fails.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::{ConvexCurve, scalar_divergence}};
/// let t = Tensor::new(&[1e-6f64, -1.0], &Device::Cpu)?;
/// let d = scalar_divergence(ConvexCurve::Entropy, &t)?.to_vec1::<f64>()?;
/// assert!((d[0] / 5e-13 - 1.0).abs() < 1e-6); // t²/2, of which (1 + t)·log(1 + t) − t keeps three digits
/// assert_eq!(d[1], 1.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn scalar_divergence(curve: ConvexCurve, t: &Tensor) -> Result<Tensor> {
    if on_cpu(t) {
        return t.contiguous()?.apply_op1(Elementwise(curve));
    }
    let (near, far) = split(t)?;
    let inner = (t * &near)?;
    let coefficients = curve.coefficients();
    let mut series = inner.zeros_like()?;
    for &c in coefficients.iter().rev() {
        series = ((series * &inner)? + c)?;
    }
    let series = (series * inner.sqr()?)?;
    let t = (t * &far)?; // 0, where the function is 0, in place of what the series has
    let direct = match curve {
        ConvexCurve::Entropy => {
            // 0·log 0 = 0, with gradient 0.
            let x = (&t + 1.0)?;
            let some = x.detach().gt(0.0)?.to_dtype(x.dtype())?;
            let log = ((&x * &some)? + some.affine(-1.0, 1.0)?)?.log()?;
            ((x * log)? - t)?
        }
        ConvexCurve::NegativeLog => (&t - (&t + 1.0)?.log()?)?,
        ConvexCurve::Exponential => ((t.exp()? - 1.0)? - t)?,
        ConvexCurve::Power(p) => {
            let x = (&t + 1.0)?;
            let size = (&x * x.detach().sign()?)?;
            ((size.powf(p)? - 1.0)? - (t * p)?)?
        }
    };
    series + direct
}

/// 1 where |t| is small and 0 elsewhere, and the other way round, as constants.
fn split(t: &Tensor) -> Result<(Tensor, Tensor)> {
    let near = t.detach().abs()?.lt(NEAR)?.to_dtype(t.dtype())?;
    let far = near.affine(-1.0, 1.0)?;
    Ok((near, far))
}

struct Elementwise(ConvexCurve);

impl CustomOp1 for Elementwise {
    fn name(&self) -> &'static str {
        "scalar_divergence"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (curve, coefficients) = (self.0, self.0.coefficients());
        with_real!(storage.dtype(), self.name(), T => {
            let t = contiguous(self.name(), <T as Real>::slice(storage)?, layout)?;
            let value = |t: T| <T as Real>::from_f64(curve.at(&coefficients, Real::to_f64(t)));
            Ok((T::storage(map(t, value)), layout.shape().clone()))
        })
    }

    fn bwd(&self, t: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let curve = self.0;
        with_real!(t.dtype(), self.name(), T => {
            let gradient = with_slices::<T, 2, _>(self.name(), [t, grad], |[t, grad]| {
                Ok(map2(t, grad, |t, g| g * <T as Real>::from_f64(curve.slope(Real::to_f64(t)))))
            })?;
            T::tensor(gradient, t.shape()).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::natively;

    const CURVES: [ConvexCurve; 6] = [
        ConvexCurve::Entropy,
        ConvexCurve::NegativeLog,
        ConvexCurve::Exponential,
        ConvexCurve::Power(1.1),
        ConvexCurve::Power(1.5),
        ConvexCurve::Power(2.0),
    ];

    /// ∫₀ᵗ (t − s)·g″ ds by Gauss–Legendre, which subtracts nothing.
    fn integral(curve: ConvexCurve, t: f64) -> f64 {
        let second = |s: f64| match curve {
            ConvexCurve::Entropy => 1.0 / (1.0 + s),
            ConvexCurve::NegativeLog => 1.0 / ((1.0 + s) * (1.0 + s)),
            ConvexCurve::Exponential => s.exp(),
            ConvexCurve::Power(p) => p * (p - 1.0) * (1.0 + s).powf(p - 2.0),
        };
        const NODES: [(f64, f64); 5] = [
            (0.0, 0.568_888_888_888_888_9),
            (0.538_469_310_105_683_1, 0.478_628_670_499_366_47),
            (-0.538_469_310_105_683_1, 0.478_628_670_499_366_47),
            (0.906_179_845_938_664, 0.236_926_885_056_189_08),
            (-0.906_179_845_938_664, 0.236_926_885_056_189_08),
        ];
        let pieces = 64;
        let width = t / f64::from(pieces);
        let mut sum = 0.0;
        for i in 0..pieces {
            let middle = width * (f64::from(i) + 0.5);
            for (x, w) in NODES {
                let s = middle + 0.5 * width * x;
                sum += 0.5 * width * w * (t - s) * second(s);
            }
        }
        sum
    }

    #[test]
    fn every_step_keeps_its_digits() -> Result<()> {
        let mut steps = vec![0.0];
        for size in [1e-12, 1e-7, 1e-5, 1e-3, 0.0999, 0.1001, 0.3, 0.7] {
            steps.extend([size, -size]);
        }
        steps.push(3.0);
        for curve in CURVES {
            let wide = Tensor::new(steps.as_slice(), &Device::Cpu)?;
            let got = scalar_divergence(curve, &wide)?.to_vec1::<f64>()?;
            let elsewhere = natively(|| scalar_divergence(curve, &wide))?.to_vec1::<f64>()?;
            for ((&t, got), elsewhere) in steps.iter().zip(got).zip(elsewhere) {
                let want = integral(curve, t);
                assert!((got - want).abs() <= 1e-12 * want, "{curve:?} at {t}: {got:e} for {want:e}");
                assert!(
                    (elsewhere - want).abs() <= 1e-12 * want,
                    "{curve:?} at {t}: {elsewhere:e} for {want:e}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn the_slope_belongs_to_the_value() -> Result<()> {
        for curve in CURVES {
            for t in [-0.9, -0.2, -0.05, 0.03, 0.4, 2.0] {
                let var = Var::new(&[t], &Device::Cpu)?;
                let got = scalar_divergence(curve, &var)?.sum_all()?.backward()?;
                let got = got.get(&var).unwrap().to_vec1::<f64>()?[0];
                let h = 1e-5;
                let want = (integral(curve, t + h) - integral(curve, t - h)) / (2.0 * h);
                assert!(
                    (got - want).abs() <= 1e-8 * want.abs().max(1.0),
                    "{curve:?} at {t}: {got} for {want}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn an_entropy_of_nothing_is_one_with_gradient_zero() -> Result<()> {
        for run in [scalar_divergence as fn(_, &Tensor) -> _, |c, t| natively(|| scalar_divergence(c, t))] {
            let t = Var::new(&[-1f32], &Device::Cpu)?;
            let d = run(ConvexCurve::Entropy, t.as_tensor())?;
            assert_eq!(d.to_vec1::<f32>()?, [1.0]);
            let gradient = d.sum_all()?.backward()?.get(&t).unwrap().to_vec1::<f32>()?;
            assert!(gradient[0].is_finite(), "{gradient:?}");
        }
        let t = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        assert_eq!(scalar_divergence(ConvexCurve::NegativeLog, &t)?.to_vec1::<f32>()?, [0.0, 0.0]);
        Ok(())
    }
}
