//! Neighbours among close points, ties, and the bits of scores.

#![allow(clippy::unwrap_used)] // helpers outside test functions

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use dml_retrieval::{Divergence, Gallery, Scorer, k_nearest};
use phi::{NegativeEntropy, SquaredEuclidean, testing::every_generator};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Twenty clusters of twenty rows, centers ±1 in 32 dimensions.
fn clusters(spread: f64) -> TestResult<Tensor> {
    let normal = |seed, n| phi::testing::points(&SquaredEuclidean, seed, n, 32);
    let centers = normal(1, 20)?.sign()?.repeat((20, 1))?;
    Ok((centers + (normal(2, 400)? * spread)?)?.to_dtype(DType::F32)?)
}

#[test]
fn all_neighbours_in_tight_clusters_are_right() -> TestResult {
    for spread in [1e-2, 1e-3, 1e-4, 1e-5] {
        let x = clusters(spread)?;
        let rows = x.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let found = k_nearest(
            &Divergence::new(&SquaredEuclidean, Side::First, &x, &x)?,
            3,
            Gallery::IncludesQueries,
        )?;
        let square =
            |i: usize, j: usize| -> f64 { rows[i].iter().zip(&rows[j]).map(|(a, b)| (a - b).powi(2)).sum() };
        for i in 0..400 {
            let mut others: Vec<(f64, u32)> =
                (0..400).filter(|&j| j != i).map(|j| (square(i, j), j as u32)).collect();
            others.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let want: Vec<u32> = others[..3].iter().map(|&(_, j)| j).collect();
            assert_eq!(found.indices(i), want, "spread {spread:e}, query {i}");
            for (got, (want, _)) in found.scores(i).iter().zip(&others) {
                assert!((got - want).abs() <= 1e-6 * want, "spread {spread:e}: {got:e} for {want:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn ties_of_whole_numbers_go_to_the_smaller_index() -> TestResult {
    let mut gallery = vec![[7f32, 9., 11.]];
    for axis in 0..3 {
        for sign in [1.0, -1.0] {
            let mut row = [0f32; 3];
            row[axis] = sign;
            gallery.push(row);
        }
    }
    gallery.extend([[100., 3., 5.], [2000., 1., 1.], [-77., 12., 0.]]);
    let gallery = Tensor::from_vec(gallery.concat(), (gallery.len(), 3), &Device::Cpu)?;
    let query = Tensor::zeros((1, 3), DType::F32, &Device::Cpu)?;
    for side in [Side::First, Side::Second] {
        let found =
            k_nearest(&Divergence::new(&SquaredEuclidean, side, &query, &gallery)?, 6, Gallery::Separate)?;
        assert_eq!(found.indices(0), [1, 2, 3, 4, 5, 6]);
        assert_eq!(found.scores(0), [1.0; 6]);
    }
    Ok(())
}

#[test]
fn scores_are_never_negative_zero_for_the_row_itself_and_bits_alone_and_in_blocks() -> TestResult {
    let x = Tensor::new(&[[10f32, 0.1], [10., 0.101], [-10., 0.3]], &Device::Cpu)?;
    let icnn = phi::Spec::Icnn(Default::default()).build(2, 1, DType::F32, &Device::Cpu)?;
    let scorer = Divergence::new(&*icnn, Side::First, &x, &x)?;
    assert!((0..3).all(|i| scorer.block(i..i + 1).unwrap().to_vec2::<f64>().unwrap()[0][i] == 0.0));
    for named in every_generator(4, 9)? {
        let phi = named.spec.build(4, 2, DType::F32, &Device::Cpu)?;
        let x = phi::testing::points(&*phi, 3, 70, 4)?.to_dtype(DType::F32)?;
        for side in [Side::First, Side::Second] {
            let scorer = Divergence::new(&*phi, side, &x, &x)?;
            let whole = scorer.block(0..70)?.to_vec2::<f64>()?;
            assert!(whole.concat().iter().all(|&d| d >= 0.0), "{}", named.name);
            assert!((0..70).all(|i| whole[i][i] == 0.0), "{}", named.name);
            for (start, end) in [(0, 1), (15, 17), (16, 32), (33, 70), (69, 70)] {
                let part = scorer.block(start..end)?.to_vec2::<f64>()?;
                assert_eq!(part[..], whole[start..end], "{}, {side:?}", named.name);
            }
        }
    }
    Ok(())
}

#[test]
fn an_item_infinitely_far_ranks_last() -> TestResult {
    let gallery = Tensor::new(&[[1f32, 0.], [0.5, 0.5], [0.9, 0.1]], &Device::Cpu)?;
    let query = Tensor::new(&[[0.8f32, 0.2]], &Device::Cpu)?;
    let phi = NegativeEntropy::simplex();
    let found = k_nearest(&Divergence::new(&phi, Side::First, &query, &gallery)?, 3, Gallery::Separate)?;
    assert_eq!(found.indices(0), [2, 1, 0]);
    assert_eq!(found.scores(0)[2], f64::INFINITY);
    Ok(())
}

#[test]
fn element_types_that_differ_are_named_at_once() -> TestResult {
    let queries = Tensor::zeros((1, 2), DType::F64, &Device::Cpu)?;
    let gallery = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
    let error = Divergence::new(&SquaredEuclidean, Side::First, &queries, &gallery).unwrap_err().to_string();
    assert_eq!(
        error,
        "Divergence::new: `gallery` holds F32, expected F64 as the queries; convert it with `to_dtype`"
    );
    Ok(())
}
