//! Every fast path against its obvious twin: sort the whole gallery, then loop.

use std::time::Instant;

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use dml_retrieval::{Closer, Depth, Divergence, Gallery, Matrix, Metric, k_nearest, match_items, rank};
use phi::{
    SquaredEuclidean,
    testing::{every_generator, points},
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Two ways of summing at most a few hundred terms of size 1 in f64.
const ROUND_OFF: f64 = 1e-13;

/// Items in ranked order: by distance, then by index, the own row left out.
fn sorted(distances: &[f64], own: Option<usize>, closer: Closer) -> Vec<usize> {
    let mut items: Vec<usize> = (0..distances.len()).filter(|&j| Some(j) != own).collect();
    items.sort_by(|&a, &b| {
        let order = distances[a].total_cmp(&distances[b]);
        let order = if closer == Closer::Larger { order.reverse() } else { order };
        order.then(a.cmp(&b))
    });
    items
}

/// (P@1, recall@2, R-precision, AP within depth, AP@R, reciprocal rank within depth), or nothing.
fn naive(order: &[usize], labels: &[i64], label: i64, depth: usize) -> Option<[f64; 6]> {
    let hit = |rank: usize| labels[order[rank]] == label;
    let relevant = (0..order.len()).filter(|&rank| hit(rank)).count();
    if relevant == 0 {
        return None;
    }
    let precision_at = |rank: usize| (0..=rank).filter(|&i| hit(i)).count() as f64 / (rank + 1) as f64;
    let precision_sum = |depth: usize| -> f64 {
        (0..depth.min(order.len())).filter(|&rank| hit(rank)).map(precision_at).sum()
    };
    let first = (0..depth.min(order.len())).find(|&rank| hit(rank));
    let r = relevant as f64;
    Some([
        f64::from(u8::from(hit(0))),
        f64::from(u8::from((0..2.min(order.len())).any(hit))),
        (0..relevant).filter(|&rank| hit(rank)).count() as f64 / r,
        precision_sum(depth) / r,
        precision_sum(relevant) / r,
        first.map_or(0.0, |rank| 1.0 / (rank + 1) as f64),
    ])
}

/// Few distinct values, so that ties are everywhere.
fn drawn(seed: u64, n: usize, m: usize, levels: u32, dtype: DType) -> Result<(Tensor, Vec<Vec<f64>>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rows: Vec<Vec<f64>> =
        (0..n).map(|_| (0..m).map(|_| f64::from(rng.random_range(0..levels)) - 2.0).collect()).collect();
    Ok((Tensor::from_vec(rows.concat(), (n, m), &Device::Cpu)?.to_dtype(dtype)?, rows))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn ranking_matches_sorting(
        seed: u64, n in 1..12usize, more in 0..20usize, classes in 1..5i64, levels in 1..30u32,
        includes: bool, larger: bool, wide: bool, depth in 0..4usize,
    ) {
        let m = n + more;
        let dtype = if wide { DType::F64 } else { DType::F32 };
        let (scores, rows) = drawn(seed, n, m, levels, dtype).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(!seed);
        let gallery_labels: Vec<i64> = (0..m).map(|_| rng.random_range(0..classes)).collect();
        let query_labels: Vec<i64> = (0..n).map(|_| rng.random_range(0..classes + 1)).collect();
        let closer = if larger { Closer::Larger } else { Closer::Smaller };
        let gallery = if includes { Gallery::IncludesQueries } else { Gallery::Separate };
        let candidates = m - usize::from(includes);
        prop_assume!(candidates > 0 && depth <= candidates);
        let (depth, k) =
            if depth == 0 { (Depth::All, candidates) } else { (Depth::First(depth), depth) };

        let scorer = Matrix::new(&scores, closer).unwrap();
        let ranking = rank(&scorer, &query_labels, &gallery_labels, gallery, depth).unwrap();
        let neighbors = k_nearest(&scorer, k, gallery).unwrap();
        let mut counted = ranking.queries().iter();
        for i in 0..n {
            let order = sorted(&rows[i], includes.then_some(i), closer);
            let found: Vec<usize> = neighbors.indices(i).iter().map(|&j| j as usize).collect();
            prop_assert_eq!(&found, &order[..k]);
            for (score, &j) in neighbors.scores(i).iter().zip(&order) {
                prop_assert_eq!(*score, rows[i][j]);
            }
            let Some(expected) = naive(&order, &gallery_labels, query_labels[i], k) else { continue };
            let got = counted.next().unwrap();
            prop_assert_eq!((got.query, got.label), (i, query_labels[i]));
            let metrics = [
                Metric::PrecisionAt1, Metric::RecallAt(2), Metric::RPrecision,
                Metric::MeanAveragePrecision, Metric::MeanAveragePrecisionAtR, Metric::MeanReciprocalRank,
            ];
            for (metric, expected) in metrics.into_iter().zip(expected) {
                let got = got.value(metric);
                prop_assert!((got - expected).abs() < ROUND_OFF, "{metric} of {i}: {got} {expected}");
            }
        }
        prop_assert!(counted.next().is_none());
    }

    #[test]
    fn matching_matches_sorting(seed: u64, n in 1..12usize, more in 0..9usize, levels in 1..9u32, larger: bool) {
        let (scores, rows) = drawn(seed, n, n + more, levels, DType::F32).unwrap();
        let closer = if larger { Closer::Larger } else { Closer::Smaller };
        let matching = match_items(&Matrix::new(&scores, closer).unwrap()).unwrap();
        for (i, row) in rows.iter().enumerate() {
            let expected = sorted(row, None, closer).iter().position(|&j| j == i).unwrap() + 1;
            prop_assert_eq!(matching.ranks()[i], expected);
        }
    }

}

proptest! {
    // Every generator at each draw.
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn divergence_ranks_as_all_pairs_does(seed: u64, n in 1..9usize, m in 2..20usize, d in 1..9usize) {
        for phi in every_generator(d, seed).unwrap() {
            let (name, phi) = (phi.name, &*phi.phi);
            let (x, y) = (points(phi, seed, n, d).unwrap(), points(phi, !seed, m, d).unwrap());
            for side in [Side::First, Side::Second] {
                let direct = side.all_pairs(phi, &x, &y).unwrap().to_vec2::<f64>().unwrap();
                let scorer = Divergence::new(phi, side, &x, &y).unwrap();
                let found = k_nearest(&scorer, m, Gallery::Separate).unwrap();
                let scale = direct.iter().flatten().fold(1.0, |a: f64, &b| a.max(b));
                for (i, row) in direct.iter().enumerate() {
                    for (&j, &score) in found.indices(i).iter().zip(found.scores(i)) {
                        prop_assert!((score - row[j as usize]).abs() < 1e-9 * scale, "{name} {side:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn blocks_do_not_show() -> Result<()> {
    // Two blocks of queries and one: the same rows, the same neighbours.
    let (n, m, d) = (300, 20_000, 2);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut draw = |rows: usize| -> Result<Tensor> {
        let data: Vec<f32> = (0..rows * d).map(|_| rng.random_range(-1.0..1.0)).collect();
        Ok(Tensor::from_vec(data, (rows, d), &Device::Cpu)?)
    };
    let (x, y) = (draw(n)?, draw(m)?);
    let all = k_nearest(&Divergence::new(&SquaredEuclidean, Side::First, &x, &y)?, 3, Gallery::Separate)?;
    for i in [0, 208, 209, 210, 299] {
        let row = x.narrow(0, i, 1)?;
        let alone = Divergence::new(&SquaredEuclidean, Side::First, &row, &y)?;
        let alone = k_nearest(&alone, 3, Gallery::Separate)?;
        assert_eq!(alone.indices(0), all.indices(i));
    }
    Ok(())
}

#[test]
fn nan_in_a_later_block_is_named() -> Result<()> {
    let (n, m) = (300, 20_000);
    let mut data = vec![0f32; n * m];
    data[250 * m + 7] = f32::NAN;
    let scorer = Matrix::new(&Tensor::from_vec(data, (n, m), &Device::Cpu)?, Closer::Smaller)?;
    let message = match_items(&scorer).unwrap_err().to_string();
    assert!(message.starts_with("match_items: the distance of query 250 to item 7 is NaN;"), "{message}");
    Ok(())
}

#[test]
fn evaluating_1500_by_1500_is_quick() -> Result<()> {
    let n = 1500;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let data: Vec<f32> = (0..n * n).map(|_| rng.random()).collect();
    let labels: Vec<i64> = (0..n as i64).map(|i| i % 10).collect();
    let scorer = Matrix::new(&Tensor::from_vec(data, (n, n), &Device::Cpu)?, Closer::Smaller)?;
    let mut best = f64::INFINITY;
    for _ in 0..15 {
        let start = Instant::now();
        let ranking = rank(&scorer, &labels, &labels, Gallery::IncludesQueries, Depth::All)?;
        best = best.min(start.elapsed().as_secs_f64());
        assert_eq!(ranking.queries().len(), n);
    }
    // 29–38 ms on 2 shared cores. The bound is loose, since machines are busy.
    println!("1500 × 1500: {:.1} ms", best * 1e3);
    assert!(best < 1.0, "{best} s");
    Ok(())
}

#[test]
fn infinite_distances_rank_last() -> Result<()> {
    let scores = Tensor::new(&[[f64::INFINITY, 3.0, f64::INFINITY, f64::NEG_INFINITY]], &Device::Cpu)?;
    let found = k_nearest(&Matrix::new(&scores, Closer::Smaller)?, 4, Gallery::Separate)?;
    assert_eq!(found.indices(0), [3, 1, 0, 2]);
    Ok(())
}

#[test]
fn a_row_outside_the_domain_is_named() -> Result<()> {
    let x = Tensor::new(&[[1f64, 2.0], [f64::NAN, 1.0]], &Device::Cpu)?;
    let good = x.narrow(0, 0, 1)?;
    let message = |queries: &Tensor, gallery: &Tensor| {
        Divergence::new(&SquaredEuclidean, Side::First, queries, gallery).unwrap_err().to_string()
    };
    let outside = "holds NaN, outside the finite reals; project it into the domain first";
    assert_eq!(message(&good, &x), format!("Divergence::new: row 1 of `gallery` {outside}"));
    assert_eq!(message(&x, &good), format!("Divergence::new: row 1 of `queries` {outside}"));
    Ok(())
}
