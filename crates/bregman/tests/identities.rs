//! What holds for the divergence of every generator, in f64, at parameters far from where they start.

use bregman::{
    Dual, Lift, Side, all_pairs, bregman_information, conjugate, conjugate_divergence, grad_conjugate,
    jeffreys, jeffreys_all_pairs, jensen_bregman, jensen_bregman_all_pairs, left_centroid, paired, pivot,
    right_centroid, sets,
};
use candle_core::{D, DType, Device, Tensor};
use phi::{
    Domain, Generator,
    testing::{Named, every_generator, points as rows},
};
use proptest::prelude::*;

#[path = "support/oracle.rs"]
mod oracle;
use oracle::*;

/// Of the largest entry: both sides are sums of some dozens of terms of that size, each rounded once.
const ROUND_OFF: f64 = 1e-11;
/// What the numeric inverse of ∇φ leaves, squared away or not: its residual is 1e-9.
const SOLVED: f64 = 1e-7;

fn each(
    d: usize,
    seed: u64,
    mut law: impl FnMut(&str, &dyn Generator) -> TestResult,
) -> Result<(), TestCaseError> {
    let fail = |name: &str, e: &dyn std::error::Error| TestCaseError::fail(format!("{name}: {}", report(e)));
    for Named { name, phi, .. } in every_generator(d, seed).map_err(|e| fail("every_generator", &e))? {
        law(name, &*phi).map_err(|e| fail(name, &*e))?;
    }
    Ok(())
}

fn report(e: &dyn std::error::Error) -> String {
    e.source().map_or(e.to_string(), |source| format!("{e}: {}", report(source)))
}

fn close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) -> TestResult {
    let distance = distance(a, b)?;
    if distance <= tolerance { Ok(()) } else { Err(format!("{what}: off by {distance:e}").into()) }
}

fn dot(a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    (a * b)?.sum(D::Minus1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_pairs_is_the_formula(seed: u64, n in 1..9usize, m in 1..9usize, d in 2..9usize) {
        each(d, seed, |_, phi| {
            let (x, y) = (rows(phi, seed, n, d)?, rows(phi, !seed, m, d)?);
            let fast = all_pairs(phi, &x, &y)?;
            close("all_pairs", &fast, &Tensor::new(naive(phi, &x, &y)?, &Device::Cpu)?, ROUND_OFF)?;
            let own = all_pairs(phi, &x, &x)?;
            close("own", &own, &Tensor::new(naive(phi, &x, &x)?, &Device::Cpu)?, ROUND_OFF)?;
            for (i, row) in own.to_vec2::<f64>()?.iter().enumerate() {
                assert_eq!(row[i], 0.0);
                assert!(row.iter().all(|v| *v >= 0.0));
            }
            let k = n.min(m);
            let diagonal = paired(phi, &x.narrow(0, 0, k)?, &y.narrow(0, 0, k)?)?.to_vec1::<f64>()?;
            let fast = fast.to_vec2::<f64>()?;
            for (i, value) in diagonal.iter().enumerate() {
                assert!((value - fast[i][i]).abs() <= ROUND_OFF * (1.0 + value));
            }
            Ok(())
        })?;
    }

    #[test]
    fn three_points(seed: u64, n in 1..7usize, d in 2..9usize) {
        each(d, seed, |_, phi| {
            let (x, y, z) = (rows(phi, seed, n, d)?, rows(phi, !seed, n, d)?, rows(phi, seed ^ 7, n, d)?);
            let (at_y, at_z) = (phi.value_and_grad(&y)?.1, phi.value_and_grad(&z)?.1);
            let corner = dot(&(at_y - at_z)?, &(&x - &y)?)?;
            let sum = ((paired(phi, &x, &y)? + paired(phi, &y, &z)?)? + corner)?;
            close("three points", &sum, &paired(phi, &x, &z)?, ROUND_OFF)
        })?;
    }

    #[test]
    fn lifted_scores_are_the_divergence(seed: u64, n in 1..7usize, m in 1..9usize, d in 2..9usize) {
        each(d, seed, |_, phi| {
            let (q, g) = (rows(phi, seed, n, d)?, rows(phi, !seed, m, d)?);
            for side in [Side::First, Side::Second] {
                let lift = Lift::new(phi, &pivot(phi, &g)?, side)?;
                let (queries, items) = (lift.queries(&q)?, lift.gallery(&g)?);
                assert_eq!((queries.dims(), items.dims()), (&[n, d + 1][..], &[m, d + 1][..]));
                let scores = lift.offset(&q)?.unsqueeze(1)?.broadcast_sub(&queries.matmul(&items.t()?)?)?;
                let expected = side.all_pairs(phi, &q, &g)?;
                assert_eq!(expected.dims(), [n, m]);
                close("scores", &scores, &expected, ROUND_OFF)?;
                close("divergences", &lift.divergences(&q, &g)?, &expected, ROUND_OFF)?;
            }
            Ok(())
        })?;
    }

    #[test]
    fn symmetric_forms(seed: u64, n in 1..7usize, m in 1..7usize, d in 2..7usize) {
        each(d, seed, |_, phi| {
            let (x, y) = (rows(phi, seed, n, d)?, rows(phi, !seed, m, d)?);
            let both = (all_pairs(phi, &x, &y)? + all_pairs(phi, &y, &x)?.t()?)?;
            let all = jeffreys_all_pairs(phi, &x, &y)?;
            close("Jeffreys", &all, &both, ROUND_OFF)?;
            let jensen = jensen_bregman_all_pairs(phi, &x, &y)?;
            let k = n.min(m);
            let (x, y) = (x.narrow(0, 0, k)?, y.narrow(0, 0, k)?);
            let middle = ((&x + &y)? * 0.5)?;
            let half = ((paired(phi, &x, &middle)? + paired(phi, &y, &middle)?)? * 0.5)?;
            close("Jensen–Bregman", &jensen_bregman(phi, &x, &y)?, &half, ROUND_OFF)?;
            let (all, jensen) = (all.to_vec2::<f64>()?, jensen.to_vec2::<f64>()?);
            let rows = jeffreys(phi, &x, &y)?.to_vec1::<f64>()?;
            for i in 0..k {
                assert!((rows[i] - all[i][i]).abs() <= ROUND_OFF * (1.0 + rows[i]));
            }
            for (i, value) in half.to_vec1::<f64>()?.into_iter().enumerate() {
                assert!((value - jensen[i][i]).abs() <= ROUND_OFF * (1.0 + value));
            }
            let own = jensen_bregman_all_pairs(phi, &x, &x)?.to_vec2::<f64>()?;
            assert!((0..k).all(|i| own[i][i] == 0.0));
            Ok(())
        })?;
    }

    #[test]
    fn duality(seed: u64, n in 1..5usize, d in 2..6usize) {
        each(d, seed, |name, phi| {
            if !invertible(name) {
                return Ok(());
            }
            let (x, y) = (rows(phi, seed, n, d)?, rows(phi, !seed, n, d)?);
            let (at_x, at_y) = (phi.value_and_grad(&x)?.1, phi.value_and_grad(&y)?.1);
            close("∇φ*(∇φ(x))", &grad_conjugate(phi, &at_x)?, &x, SOLVED)?;
            let numeric = Dual { ignore_closed_form: true, ..Dual::default() }.solve(phi, &at_x)?;
            assert!(!numeric.report.closed_form && numeric.report.residual <= 1e-9);
            // Strong convexity with modulus m: ‖point − x‖ ≤ ‖∇φ(point) − ∇φ(x)‖ / m, and each of the d slopes is off by
            // no more than the residual, which is relative to 1 + the largest slope.
            let largest = at_x.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
            let slopes = numeric.report.residual * (1.0 + largest) * (d as f64).sqrt();
            let m = phi.strong_convexity()?;
            let reached = if m > 0.0 { SOLVED + slopes / m } else { SOLVED };
            close("numeric ∇φ*(∇φ(x))", &numeric.point, &x, reached)?;
            let fenchel = (phi.value(&x)? + conjugate(phi, &at_x)?)?;
            close("φ(x) + φ*(∇φ(x))", &fenchel, &dot(&at_x, &x)?, SOLVED)?;
            close("dual", &conjugate_divergence(phi, &at_y, &at_x)?, &paired(phi, &x, &y)?, SOLVED)
        })?;
    }

    #[test]
    fn pythagoras(seed: u64, n in 1..5usize, d in 2..6usize, t in -0.5..0.5f64) {
        each(d, seed, |name, phi| {
            if !invertible(name) || phi.domain() != Domain::Reals {
                return Ok(());
            }
            // y is the projection of z onto a plane with normal a, since ∇φ(y) − ∇φ(z) is along a.
            let (z, a) = (rows(phi, seed, n, d)?, rows(phi, !seed, 1, d)?);
            let y = grad_conjugate(phi, &phi.value_and_grad(&z)?.1.broadcast_add(&(&a * t)?)?)?;
            let step = rows(phi, seed ^ 7, n, d)?;
            let along = dot(&step, &a.broadcast_as(step.shape())?)?.unsqueeze(1)?;
            let normal = along.broadcast_mul(&a)?.broadcast_div(&a.sqr()?.sum_all()?)?;
            let x = (&y + (step - normal)?)?; // any point of the plane
            let sum = (paired(phi, &x, &y)? + paired(phi, &y, &z)?)?;
            close("Pythagoras", &sum, &paired(phi, &x, &z)?, SOLVED)
        })?;
    }

    #[test]
    fn centroids_are_where_the_sum_is_least(seed: u64, n in 2..7usize, d in 2..6usize) {
        each(d, seed, |name, phi| {
            let (x, other) = (rows(phi, seed, n, d)?, rows(phi, !seed, 1, d)?);
            let weights = rows(&phi::SquaredEuclidean, seed ^ 7, 1, n)?.squeeze(0)?.sqr()?;
            let shares = weights.broadcast_div(&weights.sum_all()?)?;
            let expected = |d: Tensor| dot(&d.flatten_all()?, &shares)?.to_scalar::<f64>();

            let mean = right_centroid(&x, Some(&weights))?;
            let least = expected(all_pairs(phi, &x, &mean)?)?;
            let elsewhere = expected(all_pairs(phi, &x, &other)?)?;
            let information = bregman_information(phi, &x, Some(&weights))?.to_scalar::<f64>()?;
            assert!((information - least).abs() <= ROUND_OFF * (1.0 + elsewhere));
            let gap = paired(phi, &mean, &other)?.to_vec1::<f64>()?[0];
            assert!((elsewhere - least - gap).abs() <= ROUND_OFF * (1.0 + elsewhere), "compensation");

            if invertible(name) {
                let left = left_centroid(phi, &x, Some(&weights))?;
                let least = expected(all_pairs(phi, &left, &x)?)?;
                let elsewhere = expected(all_pairs(phi, &other, &x)?)?;
                if phi.domain() != Domain::Simplex {
                    let gap = paired(phi, &other, &left)?.to_vec1::<f64>()?[0];
                    assert!((elsewhere - least - gap).abs() <= SOLVED * (1.0 + elsewhere), "compensation, left");
                }
                assert!(least <= elsewhere + SOLVED);
            }
            Ok(())
        })?;
    }

    #[test]
    fn expected_divergence_is_the_mean_over_pairs(seed: u64, n in 1..7usize, m in 1..7usize, d in 2..6usize) {
        each(d, seed, |_, phi| {
            let (p, q) = (rows(phi, seed, n, d)?, rows(phi, !seed, m, d)?);
            let pairs = all_pairs(phi, &p, &q)?.mean_all()?;
            close("expected", &sets::expected_divergence(phi, &p, &q)?, &pairs, ROUND_OFF)?;
            let means = all_pairs(phi, &sets::set_means(&p, &vec![0; n], 1)?, &sets::set_means(&q, &vec![0; m], 1)?)?;
            close("means", &sets::mean_divergence(phi, &p, &q)?, &means.reshape(())?, ROUND_OFF)
        })?;
    }
}

#[test]
fn a_point_that_is_no_gradient_is_an_error() -> TestResult {
    // The slopes of a softplus network without a quadratic part are bounded.
    let device = Device::Cpu;
    let phi = phi::MaxAffine::new(
        2,
        &phi::MaxAffineConfig { pieces: 4, temperature: Some(1.0) },
        3,
        DType::F64,
        &device,
    )?;
    let g = Tensor::new(&[[0.0f64, 0.0], [100.0, 0.0]], &device)?;
    let error = Dual { max_iterations: 20, ..Dual::default() }.solve(&phi, &g).unwrap_err().to_string();
    assert!(error.starts_with("Dual::solve: row 1 of `g` stands at residual "), "{error}");
    Ok(())
}

#[test]
fn bad_arguments_are_named() -> TestResult {
    let device = Device::Cpu;
    let phi = phi::SquaredEuclidean;
    let tensor = |n: usize, d: usize| Tensor::ones((n, d), DType::F64, &device);
    let nan = Tensor::new(&[[1.0, 2.0], [3.0, f64::NAN]], &device)?;
    let huge = (tensor(2, 2)?.to_dtype(DType::F32)? * 1e30)?;
    let cases = [
        (all_pairs(&phi, &tensor(2, 3)?, &tensor(2, 4)?), "all_pairs: `y` has shape [2, 4], expected [m, 3]"),
        (paired(&phi, &tensor(2, 3)?, &tensor(3, 3)?), "paired: `y` has shape [3, 3], expected [2, 3]"),
        (
            all_pairs(&phi, &tensor(0, 3)?, &tensor(2, 3)?),
            "all_pairs: `x` has shape [0, 3], expected [n, d] with at least one row and one column",
        ),
        (
            all_pairs(&phi, &tensor(2, 2)?, &nan),
            "all_pairs: row 1 of `y` holds NaN, outside the finite reals; project it into the domain first",
        ),
        (
            all_pairs(&phi, &tensor(2, 2)?, &tensor(2, 2)?.to_dtype(DType::F32)?),
            "all_pairs: `y` holds F32, expected F64 as its partner; convert it with `to_dtype`",
        ),
        (
            all_pairs(&phi, &tensor(2, 2)?.to_dtype(DType::U8)?, &tensor(2, 2)?),
            "all_pairs: `x` holds U8, expected F32 or F64; convert it with `to_dtype`",
        ),
        (
            all_pairs(&phi, &huge, &huge.neg()?),
            "all_pairs: D is not finite at row 0 of `x`; scale the points down, move them away from the border of \
             the domain, or compute in f64",
        ),
        (
            right_centroid(&tensor(2, 2)?, Some(&Tensor::new(&[1.0, -1.0], &device)?)),
            "right_centroid: entry 1 of `weights` is -1, expected finite and ≥ 0",
        ),
        (
            right_centroid(&tensor(2, 2)?, Some(&Tensor::new(&[0.0, 0.0], &device)?)),
            "right_centroid: entry 0 of `weights` is 0, as all others, expected one weight above 0 at least",
        ),
        (
            right_centroid(&tensor(2, 2)?, Some(&Tensor::new(&[1.0], &device)?)),
            "right_centroid: `weights` has shape [1], expected [2], a weight per row of `x`",
        ),
        (
            sets::set_means(&tensor(2, 2)?, &[0, 2], 2),
            "set_means: entry 1 of `membership` is 2, expected below the number of sets, 2",
        ),
        (
            sets::set_means(&tensor(2, 2)?, &[0, 1], 3),
            "set_means: `sets` is 3, expected at most 2, a row of `x` for each set",
        ),
        (
            sets::set_means(&tensor(2, 2)?, &[0, 0], 2),
            "set_means: entry 1 of `sets` is empty, expected one row at least",
        ),
        (
            bregman::Dual { tolerance: Some(f64::NAN), ignore_closed_form: true, ..Default::default() }
                .solve(&phi, &tensor(2, 2)?)
                .map(|solution| solution.point),
            "Dual::solve: `tolerance` is NaN, expected finite and ≥ 0",
        ),
        (
            Lift::new(&phi, &tensor(2, 2)?, Side::First).map(|lift| lift.pivot().clone()),
            "Lift::new: `pivot` has shape [2, 2], expected [1, d]",
        ),
    ];
    for (result, message) in cases {
        assert_eq!(result.unwrap_err().to_string(), message);
    }
    Ok(())
}

#[test]
fn points_outside_the_domain_are_named() -> TestResult {
    let x = Tensor::new(&[[1.0, 2.0], [0.0, 1.0]], &Device::Cpu)?;
    let error = all_pairs(&phi::ItakuraSaito, &x, &x).unwrap_err().to_string();
    let expected = "all_pairs: row 1 of `x` holds 0, outside the positive orthant (every coordinate > 0); project it \
                    into the domain first";
    assert_eq!(error, expected);
    Ok(())
}

#[test]
fn points_next_to_the_smallest_number_have_a_pivot_in_the_domain() -> TestResult {
    // The mean of such coordinates rounds to 0, which is no point of the orthant; no error may speak of a pivot.
    let x = Tensor::new(&[[1e-45f32, 1.0], [1e-45, 0.5], [3e-45, 2.0]], &Device::Cpu)?;
    let d = all_pairs(&phi::NegativeEntropy::orthant(), &x, &x)?.to_vec2::<f32>()?;
    assert!(d.concat().iter().all(|v| v.is_finite()) && d[0][1] > 0.0, "{d:?}");
    let d = all_pairs(&phi::ItakuraSaito, &x, &x)?.to_vec2::<f32>()?;
    assert!(
        (f64::from(d[0][1]) - (2.0 - 2f64.ln() - 1.0)).abs() < 1e-6,
        "a common scale changes nothing: {d:?}"
    );
    let tiny = (Tensor::new(&[[1.0, 1.0], [1.0, 0.5]], &Device::Cpu)? * 5e-324)?;
    let message = all_pairs(&phi::ItakuraSaito, &tiny, &tiny).unwrap_err().to_string();
    assert!(!message.contains("pivot"), "{message}");
    Ok(())
}
