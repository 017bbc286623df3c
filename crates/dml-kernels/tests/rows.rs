//! What is selected in rows, against plain loops, candle's own operations and finite differences.

#![allow(clippy::unwrap_used)] // helpers outside test functions

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::{
    Classes, Closer, Hardest, add_row, hardest, l2_normalize, masked_row_log_sum_exp, masked_row_max,
    masked_row_min, natively, row_dot, row_top_k, sigmoid, softplus, sum_leading,
};
use proptest::prelude::*;

/// Distinct entries, far enough apart that a difference step changes no order, in no order: `[n, m]`.
fn distinct(seed: u64, n: usize, m: usize) -> Tensor {
    let ranks = normal(seed, n * m).arg_sort_last_dim(true).unwrap().to_dtype(DType::F64).unwrap();
    (ranks.affine(0.1, -0.05 * (n * m) as f64).unwrap()).reshape((n, m)).unwrap()
}

fn labels(seed: u64, n: usize) -> Vec<i64> {
    let draws = normal(seed, n).to_vec1::<f64>().unwrap();
    draws.iter().map(|v| if *v < -0.5 { -3 } else { i64::from(*v > 0.7) }).collect()
}

/// The definition, entry by entry.
fn by_loops(x: &[Vec<f64>], classes: Classes<'_>, closer: Closer) -> [Vec<Option<u32>>; 2] {
    let sign = if closer == Closer::Smaller { 1.0 } else { -1.0 };
    let find = |positive: bool| {
        let row = |(i, row): (usize, &Vec<f64>)| {
            let mut best: Option<usize> = None;
            for j in 0..row.len() {
                let same = classes.rows[i] == classes.columns[j];
                if same != positive || classes.own.is_some_and(|own| own[i] as usize == j) {
                    continue;
                }
                let farther = |b: usize| {
                    if positive { sign * row[j] > sign * row[b] } else { sign * row[j] < sign * row[b] }
                };
                if best.is_none_or(farther) {
                    best = Some(j);
                }
            }
            best.map(|j| j as u32)
        };
        x.iter().enumerate().map(row).collect()
    };
    [find(true), find(false)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_hardest_of_each_row(seed: u64, n in 1..7usize, m in 1..40usize, same: bool, larger: bool, ties: bool) {
        let m = if same { n } else { m };
        let (rows, columns) = (labels(seed, n), labels(if same { seed } else { !seed }, m));
        let own: Vec<u32> = (0..n as u32).collect();
        let classes = Classes { rows: &rows, columns: &columns, own: same.then_some(&own) };
        let closer = if larger { Closer::Larger } else { Closer::Smaller };
        // A transposed view is no contiguous matrix.
        let x = if ties { normal(seed, (m, n)).round()? } else { distinct(seed, m, n) };
        let x = Var::from_tensor(&x)?;
        let found = hardest(&x.t()?, classes, closer)?;
        let [positive, negative] = by_loops(&x.t()?.to_vec2()?, classes, closer);
        prop_assert_eq!(&found.positive_idx, &positive);
        prop_assert_eq!(&found.negative_idx, &negative);
        let theirs = natively(|| hardest(&x.t()?, classes, closer))?;
        prop_assert_eq!(&theirs.positive_idx, &positive);
        prop_assert_eq!(&theirs.negative_idx, &negative);
        prop_assert_eq!(found.positive.to_vec1::<f64>()?, theirs.positive.to_vec1::<f64>()?);
        prop_assert_eq!(found.negative.to_vec1::<f64>()?, theirs.negative.to_vec1::<f64>()?);
        // The hinge of the margin takes rows that lack a side to 0.
        let loss = |found: Hardest| {
            let margin = if larger { found.negative - found.positive } else { found.positive - found.negative };
            weigh(&(margin? + 0.53)?.relu()?)
        };
        if !ties {
            assert_gradients("hardest", &[&x], || loss(hardest(&x.t()?, classes, closer)?));
        }
        let (ours, theirs) = (loss(found)?.backward()?, loss(theirs)?.backward()?);
        assert_close("gradient", ours.get(&x).unwrap(), theirs.get(&x).unwrap(), 1e-14);
    }
}

/// A random mask, with a row that keeps nothing among several.
fn mask(seed: u64, n: usize, m: usize) -> Tensor {
    let mask = normal(seed, (n, m)).gt(0.0).unwrap();
    let rows = Tensor::from_vec((0..n).map(|i| u8::from(i != 1)).collect(), (n, 1), &Device::Cpu).unwrap();
    (mask * rows.broadcast_as((n, m)).unwrap()).unwrap()
}

/// Runs `f` on the kernels and on candle's operations: values and gradients of `vars` agree, and with differences.
fn assert_both(what: &str, vars: &[&Var], f: impl Fn() -> candle_core::Result<Tensor>) {
    let (ours, theirs) = (f().unwrap(), natively(&f).unwrap());
    assert_close(what, &ours, &theirs, 1e-12);
    let (ours, theirs) =
        (weigh(&ours).unwrap().backward().unwrap(), weigh(&theirs).unwrap().backward().unwrap());
    for var in vars {
        assert_close(what, ours.get(var).unwrap(), theirs.get(var).unwrap(), 1e-12);
    }
    assert_gradients(what, vars, || weigh(&f()?));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn masked_extremes_and_sums(seed: u64, n in 1..6usize, m in 1..30usize) {
        let x = Var::from_tensor(&distinct(seed, m, n))?;
        let mask = mask(!seed, n, m);
        for extreme in [masked_row_max, masked_row_min] {
            let (ours, theirs) = (extreme(&x.t()?, &mask)?, natively(|| extreme(&x.t()?, &mask))?);
            prop_assert_eq!(ours.1, theirs.1);
            // ±∞ of an empty row has no difference.
            assert_both("extreme", &[&x], || extreme(&x.t()?, &mask)?.0.clamp(-1e3, 1e3));
        }
        let finite = |t: Tensor| t.maximum(-1e3);
        assert_both("log_sum_exp", &[&x], || finite(masked_row_log_sum_exp(&x.t()?, &mask)?));
    }

    #[test]
    fn the_k_best(seed: u64, n in 1..6usize, m in 1..30usize, k in 0..30usize, largest: bool) {
        let k = k.min(m);
        let x = Var::from_tensor(&distinct(seed, m, n))?;
        let (values, columns) = row_top_k(&x.t()?, k, largest)?;
        let (_, theirs) = natively(|| row_top_k(&x.t()?, k, largest))?;
        prop_assert_eq!(columns.to_vec2::<u32>()?, theirs.to_vec2::<u32>()?);
        prop_assert_eq!(values.dims(), [n, k]);
        if k > 0 {
            assert_both("row_top_k", &[&x], || Ok(row_top_k(&x.t()?, k, largest)?.0));
        }
    }

    #[test]
    fn reductions_and_maps(seed: u64, a in 1..5usize, b in 1..5usize, k in 1..20usize) {
        let x = Var::from_tensor(&normal(seed, (b, a, k)))?;
        let (row, y) = (Var::from_tensor(&normal(seed ^ 1, k))?, Var::from_tensor(&normal(seed ^ 2, (k, a)))?);
        assert_both("sum_leading", &[&x], || sum_leading(&x.transpose(0, 1)?));
        assert_both("add_row", &[&x, &row], || add_row(&x.transpose(0, 1)?, &row));
        assert_both("row_dot", &[&x, &y], || row_dot(&x.get(0)?, &y.t()?));
        assert_both("softplus", &[&y], || softplus(&y.t()?));
        assert_both("sigmoid", &[&y], || sigmoid(&y.t()?));
        assert_both("l2_normalize", &[&y], || l2_normalize(&y.t()?));
    }
}

#[test]
fn sums_over_many_rows_do_not_depend_on_the_threads_and_keep_their_digits() {
    let (n, k) = (40_000, 7);
    let x = (normal(3, (n, k)).abs().unwrap() + 100.0).unwrap();
    let single = x.to_dtype(DType::F32).unwrap();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sum_leading(&single)).unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(on(1), on(3));
    let exact = single.to_dtype(DType::F64).unwrap().sum(0).unwrap().to_vec1::<f64>().unwrap();
    for (got, want) in on(2).iter().zip(exact) {
        assert!((f64::from(*got) - want).abs() < 1e-5 * want, "{got} for {want}");
    }
}

#[test]
fn masks_and_counts_that_do_not_fit_are_named() {
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let mask = Tensor::zeros((3, 2), DType::U8, &Device::Cpu).unwrap();
    assert_eq!(
        masked_row_max(&x, &mask).unwrap_err().to_string().lines().next().unwrap_or_default().to_owned(),
        "masked_row_max: `mask` is U8 [3, 2], expected U8 [2, 3] as `x`"
    );
    assert_eq!(
        row_top_k(&x, 4, true).unwrap_err().to_string().lines().next().unwrap_or_default().to_owned(),
        "row_top_k: `k` is 4, expected at most the 3 columns of `x`"
    );
}

#[test]
fn what_is_no_number_is_never_the_closest() {
    for (n, at) in [(3, 1), (40, 0), (40, 17), (40, 39)] {
        let mut x = vec![1f32; n];
        x[at] = f32::NAN;
        let x = Tensor::from_vec(x, (1, n), &Device::Cpu).unwrap();
        let columns: Vec<i64> = (0..n as i64).map(|j| j % 2).collect();
        for own in [None, Some([2u32])] {
            let classes = Classes { rows: &[0], columns: &columns, own: own.as_ref().map(|own| &own[..]) };
            let found = hardest(&x, classes, Closer::Smaller).unwrap();
            assert!(found.positive.to_vec1::<f32>().unwrap()[0].is_nan());
            assert!(found.negative.to_vec1::<f32>().unwrap()[0].is_nan());
        }
    }
}

#[test]
fn many_rows_are_shared_among_threads_and_give_the_same() {
    let (n, m) = (160, 300);
    let x = normal(4, (n, m)).to_dtype(DType::F32).unwrap();
    let (rows, columns) = (labels(1, n), labels(2, m));
    let classes = Classes { rows: &rows, columns: &columns, own: None };
    let double: Vec<Vec<f64>> = x.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
    let [positive, negative] = by_loops(&double, classes, Closer::Larger);
    let found = hardest(&x, classes, Closer::Larger).unwrap();
    assert_eq!((found.positive_idx, found.negative_idx), (positive, negative));
}

#[test]
fn classes_that_do_not_fit_are_named() {
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let message = |classes: Classes<'_>| {
        hardest(&x, classes, Closer::Smaller)
            .unwrap_err()
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        message(Classes { rows: &[0, 1], columns: &[0], own: None }),
        "hardest: `classes` has 2 rows, 1 columns and None own columns, expected 2, 3 and 2 or none"
    );
    assert_eq!(
        message(Classes { rows: &[0, 1], columns: &[0, 1, 0], own: Some(&[0, 3]) }),
        "hardest: the own column of row 1 is not among the 3 columns"
    );
}
