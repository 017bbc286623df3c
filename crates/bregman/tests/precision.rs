//! f32 against f64: the error of all-pairs stays below 1e-4 of the median off-diagonal divergence, for every
//! generator, also with all points shifted by 100 standard deviations.
//!
//! The one exception is what f32 itself cannot hold: an entry may be off by one spacing of the f32 numbers around it.
//! That is less than the bound for every entry up to 800 times the median, and matters only where φ is so nearly
//! piecewise linear that most divergences are next to nothing, or below the smallest f32. What is 0 comes out as 0.

use bregman::{Lift, Side, all_pairs, mean_pivot, paired};
use candle_core::{DType, Device, Tensor};
use phi::{
    Domain, Generator, Spec,
    testing::{Named, every_generator, points as rows},
};

#[path = "support/oracle.rs"]
mod oracle;
#[path = "support/saturated.rs"]
mod saturated;
use oracle::*;

const BOUND: f64 = 1e-4;

/// D(x_i ‖ y_j) in f64. By the definition, except where its three terms of the order of φ would leave nothing of D
/// in f64 either: maxima and log-partition functions of scores that are affine in x have
/// D = max s(x) − s_κ(x) and D = τ·KL(p(y) ‖ p(x)), and networks the sum of their units' divergences, here one pair
/// after the other.
fn exact(spec: &Spec, phi: &dyn Generator, x: &Tensor, y: &Tensor) -> TestResult<Vec<Vec<f64>>> {
    let parameters: Vec<Tensor> = phi.parameters().iter().map(|p| p.var.as_tensor().clone()).collect();
    let affine = |x: &Tensor| -> TestResult<Vec<Vec<f64>>> {
        let (a, b) = (parameters[0].to_vec2::<f64>()?, parameters[1].to_vec1::<f64>()?);
        let score = |x: &[f64], k: usize| x.iter().zip(&a[k]).map(|(x, a)| x * a).sum::<f64>() + b[k];
        Ok(x.to_vec2::<f64>()?.iter().map(|x| (0..b.len()).map(|k| score(x, k)).collect()).collect())
    };
    if let Ok(divergence) = saturated::divergence(spec, phi) {
        let (x, y) = (x.to_vec2::<f64>()?, y.to_vec2::<f64>()?);
        return Ok(x.iter().map(|x| y.iter().map(|y| divergence(x, y)).collect()).collect());
    }
    let (temperature, x, y) = match spec {
        Spec::LogSumExp => (Some(1.0), x.to_vec2()?, y.to_vec2()?),
        Spec::MaxAffine(config) => (config.temperature, affine(x)?, affine(y)?),
        Spec::AffineInput { inner, .. } if **inner == Spec::LogSumExp => (Some(1.0), affine(x)?, affine(y)?),
        _ => return naive(phi, x, y),
    };
    let pair = |x: &[f64], y: &[f64]| match temperature {
        Some(tau) => kullback_leibler(y, x, tau),
        None => shortfall(x, y),
    };
    Ok(x.iter().map(|x| y.iter().map(|y| pair(x, y)).collect()).collect())
}

fn winner(scores: &[f64]) -> usize {
    (0..scores.len()).fold(0, |best, k| if scores[k] > scores[best] { k } else { best })
}

/// max s(x) − s_κ(x), κ the winner at y.
fn shortfall(x: &[f64], y: &[f64]) -> f64 {
    x[winner(x)] - x[winner(y)]
}

/// τ·KL(softmax(p/τ) ‖ softmax(q/τ)) of scores.
fn kullback_leibler(p: &[f64], q: &[f64], tau: f64) -> f64 {
    let log_softmax = |s: &[f64]| -> Vec<f64> {
        let top = winner(s);
        let rest: f64 = (0..s.len()).filter(|k| *k != top).map(|k| ((s[k] - s[top]) / tau).exp()).sum();
        s.iter().map(|v| (v - s[top]) / tau - rest.ln_1p()).collect()
    };
    let (p, q) = (log_softmax(p), log_softmax(q));
    let terms = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q));
    tau * terms.sum::<f64>().max(0.0)
}

fn median_off_diagonal(d: &[Vec<f64>]) -> f64 {
    let off = |(i, row): (usize, &Vec<f64>)| {
        row.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, v)| *v).collect::<Vec<_>>()
    };
    let mut values: Vec<f64> = d.iter().enumerate().flat_map(off).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The distance from |v| to the next f32; the smallest f32 below the normal ones.
fn spacing(v: f64) -> f64 {
    let v = v.abs() as f32;
    f64::from(f32::from_bits(v.to_bits() + 1)) - f64::from(v)
}

/// The largest error in units of what is allowed, `bound`·median and one spacing.
fn excess(fast: &[f32], exact: &[f64], bound: f64, median: f64) -> f64 {
    let share = |(&fast, &exact): (&f32, &f64)| {
        if exact == 0.0 && fast != 0.0 {
            return f64::INFINITY;
        }
        let error = (f64::from(fast) - exact).abs();
        if error.is_nan() { f64::INFINITY } else { error / (bound * median).max(spacing(exact)) }
    };
    fast.iter().zip(exact).map(share).fold(0.0, f64::max)
}

fn shifts(domain: Domain) -> &'static [f64] {
    match domain {
        Domain::Reals => &[0.0, 100.0, -100.0],
        Domain::Simplex => &[0.0], // nothing lies far away there
        _ => &[0.0, 100.0],
    }
}

/// Checks one generator at all shifts and returns every failure.
fn check(named: Named, (n, d, seed): (usize, usize, u64)) -> TestResult<Vec<String>> {
    let (name, spec) = (named.name, named.spec.clone());
    let pair = narrow_and_wide(named, d)?;
    let mut failures = Vec::new();
    for &shift in shifts(pair.0.domain()) {
        let what = format!("{name}, d = {d}, seed {seed}, shifted by {shift}");
        failures.extend(check_at(&what, &spec, &pair, shift, (n, d, seed))?);
    }
    Ok(failures)
}

/// Checks one generator with points around (`shift`, …, `shift`).
fn check_at(
    what: &str,
    spec: &Spec,
    (narrow, wide): &(Box<dyn Generator>, Box<dyn Generator>),
    shift: f64,
    (n, d, seed): (usize, usize, u64),
) -> TestResult<Vec<String>> {
    let mut failures = Vec::new();
    let x = (rows(&**narrow, seed ^ 22, n, d)? + shift)?.to_dtype(DType::F32)?;
    let y = (rows(&**narrow, seed ^ 23, n, d)? + shift)?.to_dtype(DType::F32)?;
    let (x64, y64) = (x.to_dtype(DType::F64)?, y.to_dtype(DType::F64)?);
    let own = exact(spec, &**wide, &x64, &x64)?;
    let cross = exact(spec, &**wide, &x64, &y64)?.concat();
    let median = median_off_diagonal(&own);
    let fast = all_pairs(&**narrow, &x, &x)?.to_vec2::<f32>()?;
    for (i, row) in fast.iter().enumerate() {
        assert_eq!(row[i], 0.0, "{what}: diagonal");
        assert!(row.iter().all(|v| *v >= 0.0), "{what}: negative");
    }
    let diagonal: Vec<f64> = cross.iter().step_by(n + 1).copied().collect();
    let flat = |t: Tensor| t.flatten_all()?.to_vec1::<f32>();
    let lifted = |side| -> TestResult<Vec<f32>> {
        let d = Lift::new(&**narrow, &mean_pivot(&**narrow, &x)?, side)?.divergences(&x, &x)?;
        let mut d = flat(if side == Side::First { d } else { d.t()? })?;
        // Nothing tells a lift that query i is item i, so the diagonal is not exact.
        d.iter_mut().step_by(n + 1).for_each(|v| *v = 0.0);
        Ok(d)
    };
    for (form, fast, exact) in [
        ("all pairs", fast.concat(), &own.concat()),
        ("lifted, query first", lifted(Side::First)?, &own.concat()),
        ("lifted, query second", lifted(Side::Second)?, &own.concat()),
        ("two sets", flat(all_pairs(&**narrow, &x, &y)?)?, &cross),
        ("paired", flat(paired(&**narrow, &x, &y)?)?, &diagonal),
    ] {
        let excess = excess(&fast, exact, BOUND, median);
        println!("{what}, {form}: {excess:.1e} of what is allowed, median {median:.2e}");
        if excess > 1.0 {
            failures.push(format!("{what}, {form}: {excess:.2e} times what is allowed, median {median:e}"));
        }
    }
    let itself = paired(&**narrow, &x, &x)?.to_vec1::<f32>()?;
    assert!(itself.iter().all(|v| *v == 0.0), "{what}: paired with itself");
    Ok(failures)
}

#[test]
fn f32_keeps_four_digits_of_the_median() -> TestResult {
    let mut failures = Vec::new();
    for d in [1, 2, 5, 16, 64] {
        for seed in [1, 12, 21, 34] {
            for named in every_generator(d, seed)? {
                failures.extend(check(named, (if d == 64 { 32 } else { 64 }, d, seed))?);
            }
            for p in [1.05, 1.3, 1.9] {
                let spec = Spec::PNorm { p };
                let phi = spec.build(d, 0, DType::F64, &Device::Cpu)?;
                failures.extend(check(
                    Named { name: "p_norm near 1 and 2", spec, smooth: true, phi },
                    (64, d, seed),
                )?);
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// Where even the smallest f32 is too large for D, it is 0 and not the round-off of the affine parts.
#[test]
fn what_no_number_can_hold_is_zero() -> TestResult {
    let d = 8;
    let without = saturated::with_units(0.0).into_iter();
    for (name, spec) in without.chain(saturated::with_units(1e-60)) {
        if name == "icnn_squareplus" || name == "deep_divergence" {
            continue; // the one falls off like |z|⁻³ only, the other has pieces
        }
        for side in [1.0, -1.0] {
            let phi = spec.build(d, 1, DType::F32, &Device::Cpu)?;
            saturated::saturate(&*phi, side * 300.0, 0.0, 0.5, 3)?;
            let x = rows(&*phi, 4, 20, d)?.to_dtype(DType::F32)?;
            let largest = all_pairs(&*phi, &x, &x)?.max_all()?.to_scalar::<f32>()?;
            assert_eq!(largest, 0.0, "{name}, {}", side * 300.0);
        }
    }
    Ok(())
}

/// φ without a quadratic part and every unit far to one side of its knee: D is what an affine function lacks of being
/// one.
#[test]
fn saturated_units_keep_four_digits_of_the_median() -> TestResult {
    let mut failures = Vec::new();
    for d in [1, 4, 32] {
        // Without c in f64, with next to none in f32: the units alone must do.
        let without = saturated::with_units(0.0).into_iter();
        let deep = "deep_divergence"; // has pieces, which differ by far more than they bend
        let with_little = saturated::with_units(1e-30).into_iter().filter(|(name, _)| *name != deep);
        for (name, spec) in without.chain(with_little) {
            for (seed, how_far) in [(1, 6.0), (12, 12.0), (21, 25.0)] {
                for side in [1.0, -1.0] {
                    for &shift in shifts(Domain::Reals) {
                        let what = format!("{name}, d = {d}, {} beyond, at {shift}", side * how_far);
                        let phi = spec.build(d, seed, DType::F64, &Device::Cpu)?;
                        saturated::saturate(&*phi, side * how_far, shift, 0.5, seed)?;
                        let named = Named { name, spec: spec.clone(), smooth: true, phi };
                        let pair = narrow_and_wide(named, d)?;
                        failures.extend(check_at(&what, &spec, &pair, shift, (32, d, seed))?);
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// The generators with units as they are built and pushed, without their quadratic part: far from the knees their
/// divergences span ten powers of ten.
#[test]
fn units_alone_keep_four_digits_of_the_median() -> TestResult {
    let mut failures = Vec::new();
    for d in [2, 16] {
        for (seed, (name, spec)) in (1..).zip(saturated::with_units(0.0)) {
            let phi = spec.build(d, seed, DType::F64, &Device::Cpu)?;
            phi::testing::push_far(&*phi, !seed)?;
            failures.extend(check(Named { name, spec, smooth: true, phi }, (64, d, seed))?);
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// The pivot form of the same in f32, which it has beside a small quadratic part: the digits of the largest.
#[test]
fn a_small_quadratic_part_leaves_the_digits_of_the_largest() -> TestResult {
    // A unit at z has the digits that z has: ε·|z| of eᶻ, here with |z| up to 60.
    const OF_LARGEST: f64 = 1e-5;
    for d in [2, 16] {
        for (seed, (name, spec)) in (1..).zip(saturated::with_units(1e-20)) {
            if name == "deep_divergence" {
                continue; // its largest divergences are those between pieces
            }
            let phi = spec.build(d, seed, DType::F64, &Device::Cpu)?;
            phi::testing::push_far(&*phi, !seed)?;
            let (narrow, wide) = narrow_and_wide(Named { name, spec: spec.clone(), smooth: true, phi }, d)?;
            for &shift in shifts(Domain::Reals) {
                let x = (rows(&*narrow, seed ^ 22, 64, d)? + shift)?.to_dtype(DType::F32)?;
                let x64 = x.to_dtype(DType::F64)?;
                let want = exact(&spec, &*wide, &x64, &x64)?;
                let (median, want) = (median_off_diagonal(&want), want.concat());
                let largest = want.iter().copied().fold(0.0, f64::max);
                let got = all_pairs(&*narrow, &x, &x)?.flatten_all()?.to_vec1::<f32>()?;
                let errors = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs());
                let worst = errors.fold(0.0, f64::max);
                let what = format!("{name}, d = {d}, at {shift}, median {median:.1e}, largest {largest:.1e}");
                println!(
                    "{what}: {:.1e} of the median, {:.1e} of the largest",
                    worst / median,
                    worst / largest
                );
                assert!(worst <= (BOUND * median).max(OF_LARGEST * largest), "{what}: {worst:e}");
            }
        }
    }
    Ok(())
}
