//! What is selected in rows, against plain loops, candle's own operations and finite differences.

#![allow(clippy::unwrap_used)] // helpers outside test functions

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::{Classes, Closer, Hardest, hardest, natively};
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
    let message = |classes: Classes<'_>| hardest(&x, classes, Closer::Smaller).unwrap_err().to_string();
    assert_eq!(
        message(Classes { rows: &[0, 1], columns: &[0], own: None }),
        "hardest: `classes` has 2 rows, 1 columns and None own columns, expected 2, 3 and 2 or none"
    );
    assert_eq!(
        message(Classes { rows: &[0, 1], columns: &[0, 1, 0], own: Some(&[0, 3]) }),
        "hardest: the own column of row 1 is not among the 3 columns"
    );
}
