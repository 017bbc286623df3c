//! f32 against f64: every divergence and its gradient keep their own digits, however small they are beside the others.
//!
//! Rows lie in clusters of spreads from 1 to 1e-5, around offsets up to 100, with and without rows far off. The oracle is
//! the integral D(x ‖ y) = ∫₀¹ ⟨∇φ(y + t(x − y)) − ∇φ(y), x − y⟩ dt of the centred gradient in f64: it knows nothing of
//! the code under test, and subtracts nothing that is close.

#![allow(clippy::unwrap_used)] // helpers outside test functions

use bregman::{Gallery, Side, all_pairs, jeffreys, jeffreys_all_pairs, jensen_bregman, paired};
use candle_core::{D, DType, Device, Tensor, Var};
use phi::{
    Domain, Generator,
    testing::{Named, every_generator, into_domain, points},
};

#[path = "support/oracle.rs"]
mod oracle;
#[path = "support/saturated.rs"]
mod saturated;
use oracle::*;

/// What a matrix may be off by, relative to each entry.
const ALL_PAIRS: f64 = 1e-4;
/// What rows may be off by.
const PAIRED: f64 = 1e-5;
fn host(t: &Tensor) -> Vec<f64> {
    t.detach().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// D(x ‖ y) of one row `[1, d]` with each row of `x` `[n, d]`, in f64, by Gauss–Legendre on halved intervals towards
/// either end, where the integrand may turn.
fn integral(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> TestResult<Vec<f64>> {
    const NODES: [(f64, f64); 4] = [
        (0.069_431_844_202_973_71, 0.173_927_422_568_726_93),
        (0.330_009_478_207_571_87, 0.326_072_577_431_273_07),
        (0.669_990_521_792_428_1, 0.326_072_577_431_273_07),
        (0.930_568_155_797_026_3, 0.173_927_422_568_726_93),
    ];
    let step = x.broadcast_sub(y)?;
    let mut sum = vec![0.0; x.dim(0)?];
    let pieces = 24;
    for piece in 0..pieces {
        for (node, weight) in NODES {
            let t = (f64::from(piece) + node) / f64::from(pieces);
            let at = (&step * t)?.broadcast_add(y)?;
            let turn = phi.centered(&at, y)?.1; // ∇φ(at) − ∇φ(y), [n, d]
            let along = host(&(turn * &step)?.sum(D::Minus1)?);
            sum.iter_mut().zip(along).for_each(|(sum, v)| *sum += v * weight / f64::from(pieces));
        }
    }
    Ok(sum)
}

/// D(x_i ‖ x_j), `[n][n]`: by the definition where that has ten digits, else by the integral.
fn exact(phi: &dyn Generator, x: &Tensor) -> TestResult<Vec<Vec<f64>>> {
    let n = x.dim(0)?;
    let (value, grad) = phi.value_and_grad(x)?;
    let (value, grad, rows) = (host(&value), grad.to_vec2::<f64>()?, x.to_vec2::<f64>()?);
    let mut all = vec![vec![0.0; n]; n];
    for j in 0..n {
        let mut column = Vec::new();
        for i in (0..n).filter(|&i| i != j) {
            let slope: f64 =
                grad[j].iter().zip(rows[i].iter().zip(&rows[j])).map(|(g, (a, b))| g * (a - b)).sum();
            let terms: f64 =
                grad[j].iter().zip(rows[i].iter().zip(&rows[j])).map(|(g, (a, b))| (g * (a - b)).abs()).sum();
            all[i][j] = value[i] - value[j] - slope;
            let digits = all[i][j] / (value[i].abs() + value[j].abs() + terms);
            if digits > 1e-5 || rows[i] == rows[j] {
                continue;
            }
            let far = rows[i].iter().zip(&rows[j]).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt() > 20.0;
            if far {
                // No quadrature sees where φ bends between them: the method in f64, which the test of its own holds.
                all[i][j] = host(&paired(phi, &x.narrow(0, i, 1)?, &x.narrow(0, j, 1)?)?)[0];
                continue;
            }
            if column.is_empty() {
                column = integral(phi, x, &x.narrow(0, j, 1)?.contiguous()?)?;
            }
            // A difference of gradients has the digits of the gradients: what is below is not known here.
            all[i][j] = if column[i] > 1e-11 * terms { column[i] } else { f64::NAN };
        }
    }
    Ok(all)
}

/// Four clusters of four rows of the given spread around an offset, and rows far off; in f32 values.
fn clusters(
    phi: &dyn Generator,
    seed: u64,
    d: usize,
    (spread, offset, far): (f64, f64, f64),
) -> TestResult<Tensor> {
    let reals = |seed, n| points(&phi::SquaredEuclidean, seed, n, d);
    let centers = reals(seed, 4)?.repeat((4, 1))?; // [16, d]
    let mut free = (centers + (reals(!seed, 16)? * spread)?)?;
    let domain = phi.domain();
    if domain == Domain::Reals {
        free = (free + offset)?;
        if far > 0.0 {
            let turned = (reals(seed ^ 5, 2)? * far)?;
            free = Tensor::cat(&[&free, &turned], 0)?;
        }
    }
    let mut rows = into_domain(domain, &free)?;
    if domain == Domain::PositiveOrthant {
        rows = (rows + offset)?;
        if far > 0.0 {
            rows = Tensor::cat(&[&rows, &(into_domain(domain, &reals(seed ^ 5, 2)?)? * far)?], 0)?;
        }
    }
    Ok(rows.to_dtype(DType::F32)?)
}

/// The rounding of two rows as a share of what is between them.
fn rounding_of_inputs(x: &[f64], y: &[f64]) -> f64 {
    let size = x.iter().chain(y).fold(0.0f64, |m, v| m.max(v.abs()));
    let apart = x.iter().zip(y).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    0.5 * f64::from(f32::EPSILON) * size / apart
}

/// The largest relative error, of entries that are above the rounding of the inputs.
fn worst(got: &[f64], want: &[f64], seen: impl Fn(usize) -> bool) -> (f64, usize) {
    let mut worst = (0.0, 0);
    for (i, (got, want)) in got.iter().zip(want).enumerate().filter(|&(i, _)| seen(i)) {
        let error = if want == got { 0.0 } else { (got - want).abs() / want.abs() };
        if !want.is_nan() && (error > worst.0 || error.is_nan()) {
            worst = (error, i);
        }
    }
    worst
}

fn check(named: Named, d: usize, seed: u64) -> TestResult<Vec<String>> {
    let (name, smooth) = (named.name, named.smooth);
    let (narrow, wide) = narrow_and_wide(named, d)?;
    let offsets: &[f64] = match narrow.domain() {
        Domain::Reals => &[0.0, -100.0],
        Domain::PositiveOrthant => &[0.0, 100.0],
        _ => &[0.0],
    };
    let mut failures = Vec::new();
    for (spread, far) in [(1.0, 0.0), (1e-1, 1e4), (1e-2, 0.0), (1e-3, 1e6), (1e-5, 0.0), (1e-5, 1e4)] {
        for &offset in offsets {
            let what = format!("{name}, d = {d}, spread {spread:e}, offset {offset}, far {far:e}");
            let x = clusters(&*narrow, seed, d, (spread, offset, far))?;
            let want = wanted(&*wide, &x, smooth)?;
            failures.extend(check_rows(&what, &*narrow, &x, &want)?);
        }
    }
    Ok(failures)
}

/// Where φ is not smooth an integral over its pieces is rough: the method itself in f64 is the oracle there, which
/// `steps_add_up_to_the_definition` holds.
fn wanted(wide: &dyn Generator, x: &Tensor, smooth: bool) -> TestResult<Vec<Vec<f64>>> {
    let (n, x) = (x.dim(0)?, x.to_dtype(DType::F64)?);
    if smooth {
        return exact(wide, &x);
    }
    let row = |i: usize| -> TestResult<Vec<f64>> {
        Ok(host(&paired(wide, &x.narrow(0, i, 1)?.repeat((n, 1))?, &x)?))
    };
    (0..n).map(row).collect()
}

fn check_rows(what: &str, narrow: &dyn Generator, x: &Tensor, want: &[Vec<f64>]) -> TestResult<Vec<String>> {
    let mut failures = Vec::new();
    let n = x.dim(0)?;
    let row = |x: &Tensor, i: usize| x.narrow(0, i, 1);
    let rows = x.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let flat = want.concat();
    let above = |i: usize| {
        let (a, b) = (&rows[i / n], &rows[i % n]);
        // What the inputs' own rounding does to D is no error, nor is what the smallest f32 does.
        rounding_of_inputs(a, b) < 0.5
    };
    let mut hold = |form: &str, got: &[f64], want: &[f64], bound: f64| {
        let (error, at) = worst(got, want, |i| want[i] > 1e-30 && above(i));
        if error > bound || error.is_nan() {
            failures.push(format!(
                "{what}, {form}: {error:.1e} off at ({}, {}): {:e} for {:e}",
                at / n,
                at % n,
                got[at],
                want[at]
            ));
        }
    };
    let got = host(&all_pairs(narrow, x, x)?);
    assert!(
        (0..n).all(|i| got[i * n + i] == 0.0) && got.iter().all(|&v| v >= 0.0),
        "{what}: diagonal or sign"
    );
    hold("all pairs", &got, &flat, ALL_PAIRS);
    let copy = x.copy()?;
    hold("two sets", &host(&all_pairs(narrow, x, &copy)?), &flat, ALL_PAIRS);
    let turned: Vec<f64> = (0..n * n).map(|i| flat[(i % n) * n + i / n]).collect();
    hold("second side", &host(&Side::Second.all_pairs(narrow, x, x)?), &turned, ALL_PAIRS);
    let both: Vec<f64> = flat.iter().zip(&turned).map(|(a, b)| a + b).collect();
    hold("Jeffreys", &host(&jeffreys_all_pairs(narrow, x, x)?), &both, ALL_PAIRS);
    for (side, want) in [(Side::First, &flat), (Side::Second, &turned)] {
        let got = Gallery::new(narrow, side, x)?.divergences(x)?.flatten_all()?.to_vec1::<f64>()?;
        assert!((0..n).all(|i| got[i * n + i] == 0.0) && got.iter().all(|&v| v >= 0.0), "{what}: search");
        hold("search", &got, want, PAIRED);
    }
    let first =
        Tensor::cat(&(0..n).map(|i| row(x, i)?.repeat((n, 1))).collect::<candle_core::Result<Vec<_>>>()?, 0)?;
    let second = x.repeat((n, 1))?;
    hold("paired", &host(&paired(narrow, &first, &second)?), &flat, PAIRED);
    hold("paired Jeffreys", &host(&jeffreys(narrow, &first, &second)?), &both, PAIRED);
    let jensen = host(&jensen_bregman(narrow, &first, &second)?);
    assert!(jensen.iter().all(|&v| v >= 0.0), "{what}: Jensen");
    Ok(failures)
}

#[test]
fn every_entry_keeps_its_digits() -> TestResult {
    let mut failures = Vec::new();
    for (d, seed) in [(2, 12), (9, 3)] {
        for named in every_generator(d, seed)? {
            failures.extend(check(named, d, seed)?);
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// φ without a quadratic part and every unit far to one side of its knee: D is what an affine function lacks of being
/// one, and spans many powers of ten.
#[test]
fn saturated_units_keep_their_digits() -> TestResult {
    let mut failures = Vec::new();
    let d = 4;
    for (name, spec) in saturated::with_units(0.0).into_iter().chain(saturated::with_units(1e-30)) {
        for (seed, how_far) in [(1, 6.0), (12, 12.0), (21, 25.0)] {
            for side in [1.0, -1.0] {
                for offset in [0.0, 100.0] {
                    let phi = spec.build(d, seed, DType::F64, &Device::Cpu)?;
                    saturated::saturate(&*phi, side * how_far, offset, 0.5, seed)?;
                    let named = Named { name, spec: spec.clone(), smooth: true, phi };
                    let (narrow, wide) = narrow_and_wide(named, d)?;
                    for spread in [1.0, 1e-3] {
                        let what =
                            format!("{name}, {} beyond, at {offset}, spread {spread:e}", side * how_far);
                        let x = clusters(&*narrow, seed, d, (spread, offset, 0.0))?;
                        let (points, divergence) =
                            (x.to_dtype(DType::F64)?.to_vec2()?, saturated::divergence(&spec, &*wide)?);
                        let row = |x: &Vec<f64>| points.iter().map(|y| divergence(x, y)).collect();
                        let want: Vec<Vec<f64>> = points.iter().map(row).collect();
                        failures.extend(check_rows(&what, &*narrow, &x, &want)?);
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// The method of the contract in f64 is the definition, where that has digits.
#[test]
fn steps_add_up_to_the_definition() -> TestResult {
    for (d, seed) in [(1, 2), (3, 7), (16, 9)] {
        for Named { name, phi, .. } in every_generator(d, seed)? {
            let (x, y) = (points(&*phi, 1, 40, d)?, points(&*phi, 2, 40, d)?);
            let want = naive(&*phi, &x, &y)?;
            let got = host(&paired(&*phi, &x, &y)?);
            for (i, got) in got.into_iter().enumerate() {
                let want = want[i][i];
                assert!((got - want).abs() <= 1e-10 * (1.0 + want), "{name}, d = {d}: {got:e} for {want:e}");
            }
        }
    }
    Ok(())
}

/// Far steps of log-partition functions, against the Kullback–Leibler divergence of the shares written out.
#[test]
fn far_steps_of_a_log_partition_keep_their_digits() -> TestResult {
    let log_softmax = |s: &[f64]| -> Vec<f64> {
        let top = (0..s.len()).fold(0, |best, k| if s[k] > s[best] { k } else { best });
        let rest: f64 = (0..s.len()).filter(|k| *k != top).map(|k| (s[k] - s[top]).exp()).sum();
        s.iter().map(|v| (v - s[top]) - rest.ln_1p()).collect()
    };
    for scale in [1.0, 30.0, 1e3, 1e6] {
        let points = (points(&phi::LogSumExp, 6, 30, 5)? * scale)?.to_dtype(DType::F32)?;
        let rows = points.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let got = all_pairs(&phi::LogSumExp, &points, &points)?.to_vec2::<f32>()?;
        for (i, x) in rows.iter().enumerate() {
            for (j, y) in rows.iter().enumerate().filter(|&(j, _)| j != i) {
                let (p, q) = (log_softmax(y), log_softmax(x));
                let want: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
                let largest = p.iter().zip(&q).map(|(p, q)| (p.exp() * (p - q)).abs()).fold(0.0, f64::max);
                if want < 1e-6 * largest || want < 1e-30 {
                    continue; // the terms cancel
                }
                let error = (f64::from(got[i][j]) - want).abs();
                assert!(error <= ALL_PAIRS * want, "{scale:e}, ({i}, {j}): {:e} for {want:e}", got[i][j]);
            }
        }
    }
    Ok(())
}

/// The gradient of each small entry by itself, in points and parameters, f32 against f64.
#[test]
fn gradients_of_small_entries_keep_their_digits() -> TestResult {
    let d = 6;
    for named in every_generator(d, 31)? {
        let name = named.name;
        let (narrow, wide) = narrow_and_wide(named, d)?;
        for (spread, far) in [(1e-1, 0.0), (1e-3, 0.0), (1e-3, 1e4)] {
            let x = clusters(&*narrow, 8, d, (spread, 1.0, far))?;
            let (x32, x64) = (Var::from_tensor(&x)?, Var::from_tensor(&x.to_dtype(DType::F64)?)?);
            for (i, j) in [(0, 4), (9, 1), (3, 15), (2, 5)] {
                let entry = |phi: &dyn Generator, x: &Tensor| -> TestResult<Tensor> {
                    Ok(all_pairs(phi, x, x)?.get(i)?.get(j)?)
                };
                let alone = |phi: &dyn Generator, x: &Tensor| -> TestResult<Tensor> {
                    Ok(paired(phi, &x.narrow(0, i, 1)?, &x.narrow(0, j, 1)?)?.sum_all()?)
                };
                let want = alone(&*wide, &x64)?.backward()?;
                for (form, got) in [("all pairs", entry(&*narrow, &x32)?), ("paired", alone(&*narrow, &x32)?)]
                {
                    let got = got.backward()?;
                    let what = format!("{name}, spread {spread:e}, far {far:e}, ({i}, {j}), {form}");
                    close(&what, got.get(&x32), want.get(&x64))?;
                    for (p, q) in narrow.parameters().iter().zip(wide.parameters()) {
                        close(&format!("{what}, {}", p.name), got.get(&p.var), want.get(&q.var))?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn close(what: &str, got: Option<&Tensor>, want: Option<&Tensor>) -> TestResult {
    let Some(want) = want else { return Ok(()) };
    let want = host(want);
    let size = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let got = got.map_or_else(|| vec![0.0; want.len()], host);
    let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error <= 1e-4 * size, "{what}: {error:e} of {size:e}");
    Ok(())
}
