//! Close points beside far ones, zeros in histograms, whole numbers: what a median of errors does not show.

#![allow(clippy::unwrap_used)] // helpers outside test functions

use bregman::{
    Gallery, Side, all_pairs,
    cluster::{assign, hard::KMeans, soft::Mixture},
    jeffreys, jeffreys_all_pairs, jensen_bregman, paired,
};
use candle_core::{DType, Device, Tensor, Var};
use phi::{ItakuraSaito, NegativeEntropy, Spec, SquaredEuclidean};
use proptest::prelude::*;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

#[path = "support/oracle.rs"]
mod oracle;
use oracle::*;

fn rows<const D: usize>(rows: &[[f32; D]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), D), &Device::Cpu).unwrap()
}

fn near(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance * want.abs(), "{what}: {got:e} for {want:e}");
}

#[test]
fn a_row_far_off_takes_no_digit_of_the_others() -> TestResult {
    let with = |o: f32| rows(&[[1.0, 2.0], [2.0, 1.0], [1.5, 1.7], [o, o]]);
    for spec in [
        Spec::SquaredEuclidean,
        Spec::Icnn(Default::default()),
        Spec::EmpiricalBregman(Default::default()),
        Spec::NegativeEntropyOrthant,
        Spec::ItakuraSaito,
    ] {
        let wide = spec.build(2, 42, DType::F64, &Device::Cpu)?;
        let narrow = spec.build(2, 42, DType::F32, &Device::Cpu)?;
        for (wide, narrow) in wide.parameters().iter().zip(narrow.parameters()) {
            wide.var.set(&narrow.var.to_dtype(DType::F64)?)?;
        }
        for o in [1.0, 1e4, 1e5, 1e6] {
            let x = with(o);
            let got = all_pairs(&*narrow, &x, &x)?.to_vec2::<f32>()?;
            let want = naive(&*wide, &x.to_dtype(DType::F64)?, &x.to_dtype(DType::F64)?)?;
            for (i, j) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
                near(f64::from(got[i][j]), want[i][j], 1e-4, &format!("{spec:?}, {o:e}, ({i}, {j})"));
            }
        }
    }
    assert_eq!(all_pairs(&SquaredEuclidean, &with(1e5), &with(1e5))?.to_vec2::<f32>()?[0][1], 2.0);
    Ok(())
}

#[test]
fn zeros_may_meet_zeros() -> TestResult {
    let (x, y) = (rows(&[[0.5, 0.5, 0.0]]), rows(&[[0.25, 0.5, 0.25]]));
    let half = 0.5 * 2f64.ln();
    for phi in [NegativeEntropy::simplex(), NegativeEntropy::orthant()] {
        let value = |t: bregman::Result<Tensor>| -> TestResult<f64> {
            Ok(f64::from(t?.flatten_all()?.to_vec1::<f32>()?[0]))
        };
        near(value(paired(&phi, &x, &y))?, half, 1e-6, "paired");
        near(value(all_pairs(&phi, &x, &y))?, half, 1e-6, "all pairs");
        near(value(Side::Second.all_pairs(&phi, &y, &x))?, half, 1e-6, "second side");
        assert_eq!(value(paired(&phi, &x, &x))?, 0.0);
        let both = Tensor::cat(&[&x, &rows(&[[0.25, 0.75, 0.0]])], 0)?;
        let own = all_pairs(&phi, &both, &both)?.to_vec2::<f32>()?;
        near(f64::from(own[0][1]), half + 0.5 * (2f64 / 3.0).ln(), 1e-6, "zeros on both sides");
        let message = |t: bregman::Result<Tensor>| t.unwrap_err().to_string();
        let infinite = "D is infinite: row 0 of `y` is 0 where row 0 of `x` is not; smooth `y`, say by adding a small \
                        number to every coordinate, or exchange the sides";
        assert_eq!(message(paired(&phi, &y, &x)), format!("paired: {infinite}"));
        assert_eq!(message(all_pairs(&phi, &y, &x)), format!("all_pairs: {infinite}"));
        assert!(message(jeffreys(&phi, &x, &y)).contains("row 0 of `x` holds 0, outside"));
        assert_eq!(
            Gallery::new(&phi, Side::First, &x)?.divergences(&y)?.to_vec2::<f64>()?,
            [[f64::INFINITY]]
        );
    }
    let message = paired(&ItakuraSaito, &x, &y).unwrap_err().to_string();
    assert!(message.contains("row 0 of `x` holds 0, outside the positive orthant"), "{message}");
    Ok(())
}

#[test]
fn gradients_beside_zeros_are_finite_and_right() -> TestResult {
    // One-hot targets against predictions: the gradient by y is −x/y + 1.
    let x = Tensor::new(&[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], &Device::Cpu)?;
    let y = Var::new(&[[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]], &Device::Cpu)?;
    for sum in [
        paired(&NegativeEntropy::simplex(), &x, &y)?.sum_all()?,
        (all_pairs(&NegativeEntropy::simplex(), &x, &y)? * Tensor::eye(2, DType::F64, &Device::Cpu)?)?
            .sum_all()?,
    ] {
        let got = sum.backward()?.get(&y).unwrap().to_vec2::<f64>()?;
        let want = [[1.0 - 1.0 / 0.2, 1.0, 1.0], [1.0, 1.0 - 1.0 / 0.6, 1.0]];
        for (got, want) in got.concat().into_iter().zip(want.concat()) {
            assert!((got - want).abs() < 1e-12, "{got} for {want}");
        }
    }
    let x = Var::new(&[[1.0, 0.0]], &Device::Cpu)?;
    let y = Tensor::new(&[[0.5, 0.5]], &Device::Cpu)?;
    let got = paired(&NegativeEntropy::simplex(), &x, &y)?
        .sum_all()?
        .backward()?
        .get(&x)
        .unwrap()
        .to_vec2::<f64>()?;
    near(got[0][0], 2f64.ln(), 1e-14, "slope by the share that is there");
    assert_eq!(got[0][1], 0.0);
    Ok(())
}

#[test]
fn shares_with_four_decimals_are_shares() -> TestResult {
    let x = rows(&[[0.3333, 0.3333, 0.3333], [0.6667, 0.1667, 0.1667]]);
    let d = all_pairs(&NegativeEntropy::simplex(), &x, &x)?.to_vec2::<f32>()?;
    near(f64::from(d[1][0]), 0.6667 * 2f64.ln() - 2.0 * 0.1667 * 2f64.ln(), 1e-3, "KL");
    let message =
        all_pairs(&NegativeEntropy::simplex(), &rows(&[[1.0, 2.0]]), &rows(&[[0.5, 0.5]])).unwrap_err();
    let message = message.to_string();
    assert!(
        message.contains("row 0 of `x` holds 3") && message.contains("divide each row by its sum"),
        "{message}"
    );
    Ok(())
}

#[test]
fn equal_distances_of_whole_numbers_are_equal() -> TestResult {
    // Six neighbours at distance 1, eight at 3, in a far corner.
    let mut all = vec![[500.0f32, 500.0, 500.0]];
    for step in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] {
        for sign in [1.0, -1.0] {
            all.push([500.0 + sign * step[0], 500.0 + sign * step[1], 500.0 + sign * step[2]]);
        }
    }
    all.extend([[0.0, 0.0, 0.0], [1000.0, 3.0, 7.0], [1.0, 999.0, 2.0]]);
    let x = rows(&all);
    let d = all_pairs(&SquaredEuclidean, &x, &x)?.to_vec2::<f32>()?;
    assert_eq!(d[0][1..7], [1.0; 6]);
    let d = Gallery::new(&SquaredEuclidean, Side::First, &x)?.divergences(&x)?.to_vec2::<f64>()?;
    assert_eq!(d[0][1..7], [1.0; 6]);
    Ok(())
}

fn with_outlier(seed: u64, far: f64) -> Tensor {
    let x = phi::testing::points(&SquaredEuclidean, seed, 60, 3).unwrap();
    let far = Tensor::full(far, (1, 3), &Device::Cpu).unwrap();
    Tensor::cat(&[&x, &far], 0).unwrap().to_dtype(DType::F32).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn objectives_never_rise_and_likelihoods_never_fall(seed: u64, k in 2..7usize, far in 0..4usize) {
        let far = [1.0, 1e3, 1e5, 1e6][far];
        let x = with_outlier(seed, far);
        for spec in [Spec::SquaredEuclidean, Spec::Icnn(Default::default())] {
            let phi = spec.build(3, 7, DType::F32, &Device::Cpu).unwrap();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let kmeans = KMeans { restarts: 2, tolerance: 0.0, ..KMeans::new(k) };
            let found = kmeans.fit(&*phi, &x, &mut rng).unwrap();
            prop_assert!(found.history.windows(2).all(|w| w[1] <= w[0]), "{:?}", found.history);
            prop_assert!(found.converged && found.objective == *found.history.last().unwrap());
            let mixture = Mixture { restarts: 1, max_iterations: 60, tolerance: 0.0, ..Mixture::new(k) };
            let fit = mixture.fit(&*phi, &x, &mut rng).unwrap();
            prop_assert!(fit.history.windows(2).all(|w| w[1] >= w[0]), "{:?}", fit.history);
        }
    }
}

#[test]
fn an_outlier_hides_no_cluster() -> TestResult {
    let x = rows(&[[0.0], [1.0], [10.0], [11.0], [1e5]]);
    let found = KMeans::new(3).fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(1))?;
    assert_eq!(found.objective, 1.0);
    let (labels, d) = assign(&SquaredEuclidean, &x, &found.centroids)?;
    assert_eq!(labels, found.labels);
    assert_eq!(d, [0.25, 0.25, 0.25, 0.25, 0.0]);
    Ok(())
}

#[test]
fn counts_with_zeros_have_clusters() -> TestResult {
    // Words of two topics that share none: every centroid is 0 somewhere, and infinitely far from the other topic.
    let x = rows(&[[3., 1., 0., 0.], [5., 2., 0., 0.], [0., 0., 2., 4.], [0., 0., 1., 3.], [4., 1., 0., 0.]]);
    let found = KMeans::new(2).fit(&NegativeEntropy::orthant(), &x, &mut ChaCha8Rng::seed_from_u64(3))?;
    assert!(found.objective.is_finite(), "{found:?}");
    let of = |i: usize| found.labels[i];
    assert!(of(0) == of(1) && of(1) == of(4) && of(2) == of(3) && of(0) != of(2), "{:?}", found.labels);
    Ok(())
}

#[test]
fn a_divergence_has_the_same_bits_alone_and_among_others() -> TestResult {
    for spec in [Spec::SquaredEuclidean, Spec::Icnn(Default::default()), Spec::NegativeEntropyOrthant] {
        let phi = spec.build(5, 3, DType::F32, &Device::Cpu)?;
        let x = phi::testing::points(&*phi, 4, 150, 5)?.to_dtype(DType::F32)?;
        // Clusters, so that some are computed on their own.
        let x = Tensor::cat(&[&x, &(&x * 1.000_01)?], 0)?;
        for side in [Side::First, Side::Second] {
            let gallery = Gallery::new(&*phi, side, &x)?;
            let all = gallery.divergences(&x)?.to_vec2::<f64>()?;
            for (start, len) in [(0, 1), (1, 1), (17, 1), (149, 1), (3, 40), (100, 33), (295, 5)] {
                let some = gallery.divergences(&x.narrow(0, start, len)?)?.to_vec2::<f64>()?;
                assert_eq!(some[..], all[start..start + len], "{spec:?}, {side:?}: rows from {start} on");
            }
            // Of equal items.
            let twice =
                Gallery::new(&*phi, side, &Tensor::cat(&[&x, &x], 0)?)?.divergences(&x.narrow(0, 2, 3)?)?;
            for row in twice.to_vec2::<f64>()? {
                assert_eq!(row[..300], row[300..], "{spec:?}, {side:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_quiet_bin_beside_a_loud_one_is_finite() -> TestResult {
    let want = |x: f64| x - x.ln() - 1.0; // D(x ‖ 1)
    for tiny in [1e-13f32, 1e-16, 1e-20, 1e-37] {
        let (x, y) = (rows(&[[tiny]]), rows(&[[1.0]]));
        let alone = f64::from(paired(&ItakuraSaito, &x, &y)?.to_vec1::<f32>()?[0]);
        near(alone, want(f64::from(tiny)), 1e-6, "paired");
        for (set, i, j) in [(rows(&[[tiny], [1.0]]), 0, 1), (rows(&[[1.0], [tiny]]), 1, 0)] {
            let d = all_pairs(&ItakuraSaito, &set, &set)?.to_vec2::<f32>()?;
            near(f64::from(d[i][j]), want(f64::from(tiny)), 5e-5, "whatever the order of the rows");
        }
    }
    let items = rows(&[[1e-20], [2e-20], [3e-20]]);
    let d =
        Gallery::new(&ItakuraSaito, Side::Second, &items)?.divergences(&rows(&[[1.0]]))?.to_vec2::<f64>()?;
    for (got, x) in d[0].iter().zip([1e-20f32, 2e-20, 3e-20]) {
        near(*got, want(f64::from(x)), 1e-9, "search");
    }
    let x = Var::new(&[[1e-14f64]], &Device::Cpu)?;
    let y = Tensor::new(&[[1f64]], &Device::Cpu)?;
    let gradients = paired(&ItakuraSaito, &x, &y)?.sum_all()?.backward()?;
    near(gradients.get(&x).unwrap().to_vec2::<f64>()?[0][0], 1.0 - 1e14, 1e-12, "gradient");
    Ok(())
}

#[test]
fn a_small_share_is_not_nothing() -> TestResult {
    let x = Var::new(&[[1e-20f32]], &Device::Cpu)?;
    let d = paired(&NegativeEntropy::orthant(), &x, &rows(&[[1.0]]))?;
    let gradients = d.sum_all()?.backward()?;
    near(f64::from(gradients.get(&x).unwrap().to_vec2::<f32>()?[0][0]), 1e-20f64.ln(), 1e-5, "log(x/y)");
    let (x, y) = (Tensor::new(&[[1f64]], &Device::Cpu)?, Tensor::new(&[[1e-310f64]], &Device::Cpu)?);
    near(
        paired(&NegativeEntropy::orthant(), &x, &y)?.to_vec1::<f64>()?[0],
        -1e-310f64.ln() - 1.0,
        1e-12,
        "KL",
    );
    let (x, y) = (Tensor::new(&[[1e300f64]], &Device::Cpu)?, Tensor::new(&[[1e-300f64]], &Device::Cpu)?);
    let d = Gallery::new(&ItakuraSaito, Side::First, &y)?.divergences(&x)?.to_vec2::<f64>()?;
    assert_eq!(d, [[f64::INFINITY]], "beyond the largest number, and no NaN");
    Ok(())
}

#[test]
fn a_null_direction_of_a_metric_costs_no_digit() -> TestResult {
    let l = Tensor::new(&[[0.7f32], [0.7]], &Device::Cpu)?;
    let phi = phi::Mahalanobis::from_parameters(&l, phi::Factor::Dense { rank: 1 }, 0.0)?;
    for b in [1e5f32, 1e6] {
        let x = rows(&[[0.0, 0.0], [b, 1.0 - b]]); // the sum is 1: D = 0.7²
        let d = all_pairs(&phi, &x, &x)?.to_vec2::<f32>()?;
        near(f64::from(d[1][0]), f64::from(0.7f32).powi(2), 1e-4, "first");
        near(f64::from(d[0][1]), f64::from(0.7f32).powi(2), 1e-4, "second");
    }
    Ok(())
}

#[test]
fn a_common_offset_of_logits_costs_no_digit() -> TestResult {
    let wide = |t: &Tensor| t.to_dtype(DType::F64);
    let z = rows(&[[0.0, 0.0, 0.0], [0.0, 1.0, 3.0]]); // D does not notice an offset
    let want = naive(&phi::LogSumExp, &wide(&z)?, &wide(&z)?)?;
    for o in [1e4f32, 12345.0, 77777.0, 1e5] {
        let x = rows(&[[0.0, 0.0, 0.0], [o, o + 1.0, o + 3.0]]);
        let d = all_pairs(&phi::LogSumExp, &x, &x)?.to_vec2::<f32>()?;
        near(f64::from(d[0][1]), want[0][1], 1e-4, &format!("offset {o}"));
        let j = jeffreys_all_pairs(&phi::LogSumExp, &x, &x)?.to_vec2::<f32>()?;
        near(f64::from(j[0][1]), want[0][1] + want[1][0], 1e-4, &format!("Jeffreys, offset {o}"));
    }
    Ok(())
}

#[test]
fn jensen_shannon_takes_zeros() -> TestResult {
    let (x, y) = (rows(&[[0.0, 1.0]]), rows(&[[1.0, 0.0]]));
    let d = jensen_bregman(&NegativeEntropy::simplex(), &x, &y)?.to_vec1::<f32>()?[0];
    near(f64::from(d), 2f64.ln(), 1e-6, "Jensen–Shannon");
    Ok(())
}

#[test]
fn wide_rows_of_one_sign_keep_four_digits() -> TestResult {
    for d in [128, 512, 1024, 4096] {
        for (a, b) in [(1.1f32, 1.4f32), (0.7, 0.9), (0.3, 0.38), (2.3, 2.9), (1.0001, 1.2)] {
            let row = |v: f32| Tensor::full(v, (1, d), &Device::Cpu);
            let x = Tensor::cat(&[row(0.0)?, row(0.0)?, row(0.0)?, row(a)?, row(b)?], 0)?; // the pivot is 0
            let got = all_pairs(&SquaredEuclidean, &x, &x)?.to_vec2::<f32>()?[3][4];
            let want = d as f64 * (f64::from(a) - f64::from(b)).powi(2);
            near(f64::from(got), want, 1e-4, &format!("{d} columns of {a} and {b}"));
        }
    }
    Ok(())
}
