//! The laws every generator obeys, over random points with parameters far from their initial values, in f64.

use candle_core::{D, DType, Device, Tensor};
use phi::testing::{Named, every_generator, into_domain, points, relative_error};
use phi::{Domain, Generator, NegativeEntropy, Result};
use proptest::prelude::*;

/// What sums of some hundred terms of order 100 may lose in f64.
const ROUND_OFF: f64 = 1e-10;

fn host(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.flatten_all()?.to_vec1::<f64>()?)
}

/// D_φ(x_i ‖ y_i), by definition.
fn divergence(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (value_y, grad_y) = phi.value_and_grad(y)?;
    let tangent = (grad_y * (x - y)?)?.sum(D::Minus1)?;
    Ok(((phi.value(x)? - value_y)? - tangent)?)
}

fn squared_distance(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok((x - y)?.sqr()?.sum(D::Minus1)?)
}

/// x + t(y − x).
fn lerp(x: &Tensor, y: &Tensor, t: f64) -> Result<Tensor> {
    Ok((x + ((y - x)? * t)?)?)
}

/// Everything of one draw: a generator and two sets of points.
fn for_each(
    (seed, n, d): (u64, usize, usize),
    law: impl Fn(&Named, &Tensor, &Tensor) -> Result<std::result::Result<(), String>>,
) -> std::result::Result<(), TestCaseError> {
    let run = || -> Result<()> {
        for named in every_generator(d, seed)? {
            let (x, y) = (points(&*named.phi, seed, n, d)?, points(&*named.phi, !seed, n, d)?);
            if let Err(why) = law(&named, &x, &y)? {
                return Err(candle_core::Error::Msg(format!("{}: {why}", named.name)).into());
            }
        }
        Ok(())
    };
    run().map_err(|e| TestCaseError::fail(format!("{e}: {:?}", std::error::Error::source(&e))))
}

/// Fails with `what` unless every entry satisfies `fine`.
fn all(t: &Tensor, what: &str, fine: impl Fn(f64) -> bool) -> Result<std::result::Result<(), String>> {
    Ok(match host(t)?.into_iter().find(|v| !fine(*v)) {
        None => Ok(()),
        Some(v) => Err(format!("{what}: {v:e}")),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn divergence_is_non_negative_and_zero_at_itself(seed: u64, n in 1..6usize, d in 1..8usize) {
        for_each((seed, n, d), |Named { phi, .. }, x, y| {
            let own = all(&divergence(&**phi, x, x)?, "D(x ‖ x)", |v| v == 0.0)?;
            let other = all(&divergence(&**phi, x, y)?, "D(x ‖ y)", |v| v >= -ROUND_OFF)?;
            Ok(own.and(other))
        })?;
    }

    #[test]
    fn chord_lies_above_the_graph(seed: u64, n in 1..6usize, d in 1..8usize, t in 0.0..=1.0f64) {
        for_each((seed, n, d), |Named { phi, .. }, x, y| {
            let chord = lerp(&phi.value(x)?, &phi.value(y)?, t)?;
            let gap = (chord - phi.value(&lerp(x, y, t)?)?)?;
            all(&gap, "chord below graph by", |v| v >= -ROUND_OFF)
        })?;
    }

    #[test]
    fn gradient_is_the_slope_along_a_segment(seed: u64, n in 1..6usize, d in 1..8usize) {
        for_each((seed, n, d), |Named { phi, smooth, .. }, x, y| {
            if !smooth {
                return Ok(Ok(())); // a step may cross a kink; tests/param_grad.rs stays clear of them
            }
            let h = 1e-6;
            let rise = (phi.value(&lerp(x, y, h)?)? - phi.value(&lerp(x, y, -h)?)?)?;
            let slope = (phi.value_and_grad(x)?.1 * (y - x)?)?.sum(D::Minus1)?;
            let error = relative_error(&(rise / (2.0 * h))?, &slope, 1.0)?;
            Ok(if error < 1e-5 { Ok(()) } else { Err(format!("∇φ is off by {error:e}")) })
        })?;
    }

    #[test]
    fn strong_convexity_bounds_the_divergence(seed: u64, n in 1..6usize, d in 1..8usize) {
        for_each((seed, n, d), |Named { phi, .. }, x, y| {
            let bound = (squared_distance(x, y)? * (0.5 * phi.strong_convexity()?))?;
            let slack = (divergence(&**phi, x, y)? - bound)?;
            all(&slack, "D(x ‖ y) − m/2·‖x − y‖²", |v| v >= -ROUND_OFF)
        })?;
    }

    #[test]
    fn three_points(seed: u64, n in 1..6usize, d in 1..8usize) {
        for_each((seed, n, d), |Named { phi, .. }, x, y| {
            // D(x ‖ z) = D(x ‖ y) + D(y ‖ z) + ⟨∇φ(y) − ∇φ(z), x − y⟩
            let z = points(&**phi, seed ^ 0x55, n, d)?;
            let turn = (phi.value_and_grad(y)?.1 - phi.value_and_grad(&z)?.1)?;
            let turn = (turn * (x - y)?)?.sum(D::Minus1)?;
            let path = ((divergence(&**phi, x, y)? + divergence(&**phi, y, &z)?)? + turn)?;
            let error = relative_error(&path, &divergence(&**phi, x, &z)?, 1.0)?;
            Ok(if error < ROUND_OFF { Ok(()) } else { Err(format!("three points are off by {error:e}")) })
        })?;
    }

    #[test]
    fn conjugate_gradient_inverts_the_gradient(seed: u64, n in 1..6usize, d in 1..8usize) {
        for_each((seed, n, d), |Named { phi, .. }, x, _| {
            let Some(back) = phi.grad_conjugate(&phi.value_and_grad(x)?.1)? else { return Ok(Ok(())) };
            // The Mahalanobis matrix may be ill-conditioned, hence 1e-6.
            let error = relative_error(&back, x, 1.0)?;
            Ok(if error < 1e-6 { Ok(()) } else { Err(format!("∇φ*(∇φ(x)) is off by {error:e}")) })
        })?;
    }

    #[test]
    fn centred_form_is_the_same_divergence(seed: u64, n in 1..6usize, d in 1..8usize) {
        for_each((seed, n, d), |Named { phi, .. }, x, y| {
            let pivot = y.narrow(0, 0, 1)?;
            let (value, grad) = phi.centered(x, &pivot)?;
            let want = divergence(&**phi, x, &pivot.broadcast_as(x.shape())?.contiguous()?)?;
            let want_grad = phi.value_and_grad(x)?.1.broadcast_sub(&phi.value_and_grad(&pivot)?.1)?;
            let error = relative_error(&value, &want, 1.0)?.max(relative_error(&grad, &want_grad, 1.0)?);
            Ok(if error < ROUND_OFF { Ok(()) } else { Err(format!("centred form is off by {error:e}")) })
        })?;
    }
}

/// D_ij from the centred form, each point with each, in the type of `x`; back in f64.
fn all_pairs(phi: &dyn Generator, x: &Tensor) -> Result<Vec<f64>> {
    let pivot = x.mean_keepdim(0)?;
    let (value, grad) = phi.centered(x, &pivot)?;
    let shift = x.broadcast_sub(&pivot)?;
    let mut out = Vec::new();
    for j in 0..x.dim(0)? {
        let (s, g) = (shift.narrow(0, j, 1)?, grad.narrow(0, j, 1)?);
        let tangent = shift.broadcast_sub(&s)?.broadcast_mul(&g)?.sum(D::Minus1)?;
        let column = (value.broadcast_sub(&value.narrow(0, j, 1)?)? - tangent)?;
        out.extend(host(&column.to_dtype(DType::F64)?)?);
    }
    Ok(out)
}

#[test]
fn f32_keeps_its_digits_a_hundred_deviations_away() -> Result<()> {
    const ALLOWED: f64 = 1e-4; // of the median off-diagonal divergence
    let n = 24;
    for (d, seed) in [(1, 3), (2, 12), (16, 3), (64, 5)] {
        for named in every_generator(d, seed)? {
            if ["max_affine", "max_affine_smooth", "log_sum_exp", "affine_input"].contains(&named.name) {
                continue; // most divergences are next to nothing beside the largest: see bregman/tests/precision.rs
            }
            let phi32 = named.spec.build(d, 0, DType::F32, &Device::Cpu)?;
            for (p32, p64) in phi32.parameters().iter().zip(named.phi.parameters()) {
                // Both hold the f32 numbers exactly.
                p32.var.set(&p64.var.to_dtype(DType::F32)?)?;
                p64.var.set(&p32.var.to_dtype(DType::F64)?)?;
            }
            let shifts: &[f64] = match named.phi.domain() {
                Domain::Reals => &[0.0, 100.0, -100.0],
                Domain::PositiveOrthant => &[0.0, 100.0],
                _ => &[0.0], // nothing lies far away on the simplex
            };
            for shift in shifts {
                let x = (points(&*named.phi, 9, n, d)? + *shift)?.to_dtype(DType::F32)?;
                let exact = x.to_dtype(DType::F64)?;
                let want: Vec<f64> = (0..n)
                    .map(|j| {
                        let y = exact.narrow(0, j, 1)?.broadcast_as((n, d))?.contiguous()?;
                        host(&divergence(&*named.phi, &exact, &y)?)
                    })
                    .collect::<Result<Vec<_>>>()?
                    .concat();
                let got = all_pairs(&*phi32, &x)?;
                let mut sorted: Vec<f64> =
                    want.iter().enumerate().filter(|(i, _)| i / n != i % n).map(|(_, v)| *v).collect();
                sorted.sort_by(f64::total_cmp);
                let median = sorted[sorted.len() / 2];
                let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                let what = format!("{}, d = {d}, shifted by {shift}", named.name);
                assert!(worst <= ALLOWED * median, "{what}: {worst:e} off, median {median:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_coordinate_near_zero_keeps_the_logarithms_finite() -> Result<()> {
    let x = Tensor::new(&[[1e-9f32, 1.0], [1.0, 1e-9]], &Device::Cpu)?;
    let (value, grad) = NegativeEntropy::orthant().centered(&x, &x.mean_keepdim(0)?)?;
    for v in value.to_vec1::<f32>()?.into_iter().chain(grad.flatten_all()?.to_vec1::<f32>()?) {
        assert!(v.is_finite());
    }
    Ok(())
}

#[test]
fn outside_the_domain_is_an_error_for_every_generator() -> Result<()> {
    for Named { name, phi, .. } in every_generator(2, 5)? {
        let nan = Tensor::new(&[[0.5, 0.5], [f64::NAN, 0.5]], &Device::Cpu)?;
        let fine = into_domain(phi.domain(), &Tensor::new(&[[0.1, 0.2]], &Device::Cpu)?)?;
        for message in [
            phi.value(&nan).unwrap_err().to_string(),
            phi.value_and_grad(&nan).unwrap_err().to_string(),
            phi.centered(&nan, &fine).unwrap_err().to_string(),
        ] {
            assert!(message.contains("row 1 of `x` holds NaN, outside"), "{name}: {message}");
        }
        let wide = Tensor::zeros((1, 2), DType::F64, &Device::Cpu)?;
        let wide = Tensor::cat(&[&wide, &fine], 1)?;
        if phi.dim().is_some() {
            let message = phi.value(&wide).unwrap_err().to_string();
            assert!(message.ends_with("`x` has shape [1, 4], expected [n, 2]"), "{name}: {message}");
        }
        let message = phi.centered(&fine, &wide).unwrap_err().to_string();
        assert!(message.contains("has shape [1, 4]"), "{name}: {message}");
    }
    Ok(())
}
