//! Clustering under every generator: objectives that never get worse, groups that are found, runs that repeat.

use bregman::{
    all_pairs,
    cluster::{assign, hard::KMeans, seeding::plus_plus, soft::Mixture},
};
use candle_core::{DType, Device, Tensor};
use phi::{
    Domain,
    testing::{Named, every_generator, points as rows},
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

#[path = "support/oracle.rs"]
mod oracle;
use oracle::*;

/// Of the objective: two evaluations of the same sum around different centroids.
const ROUND_OFF: f64 = 1e-10;

#[test]
fn hard_clustering_never_raises_its_objective() -> TestResult {
    for Named { name, phi, .. } in every_generator(4, 31)? {
        let x = rows(&*phi, 32, 60, 4)?;
        let kmeans = KMeans { restarts: 2, ..KMeans::new(5) };
        let found = kmeans.fit(&*phi, &x, &mut ChaCha8Rng::seed_from_u64(33))?;
        assert!(found.converged, "{name}");
        for step in found.history.windows(2) {
            assert!(step[1] <= step[0] * (1.0 + ROUND_OFF) + ROUND_OFF, "{name}: {step:?}");
        }
        assert_eq!(found.objective, found.history[found.history.len() - 1]);
        let (labels, divergences) = assign(&*phi, &x, &found.centroids)?;
        assert_eq!(labels, found.labels, "{name}");
        let sum: f64 = divergences.iter().sum();
        assert!(
            (sum - found.objective).abs() <= ROUND_OFF * (1.0 + sum),
            "{name}: {sum} {}",
            found.objective
        );
        let again = kmeans.fit(&*phi, &x, &mut ChaCha8Rng::seed_from_u64(33))?;
        assert_eq!((again.labels, again.history), (found.labels, found.history), "{name}");
    }
    Ok(())
}

#[test]
fn soft_clustering_never_lowers_its_likelihood() -> TestResult {
    for Named { name, phi, .. } in every_generator(4, 31)? {
        let x = rows(&*phi, 32, 60, 4)?;
        let mixture = Mixture { restarts: 1, max_iterations: 60, ..Mixture::new(4) };
        let fit = mixture.fit(&*phi, &x, &mut ChaCha8Rng::seed_from_u64(33))?;
        for step in fit.history.windows(2) {
            assert!(step[1] >= step[0] - ROUND_OFF, "{name}: {step:?}");
        }
        assert!((fit.shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        for sum in fit.responsibilities.sum(1)?.to_vec1::<f64>()? {
            assert!((sum - 1.0).abs() < 1e-12);
        }
    }
    Ok(())
}

#[test]
fn groups_far_apart_are_found() -> TestResult {
    for Named { name, phi, .. } in every_generator(3, 41)? {
        if !invertible(name) || phi.domain() == Domain::Simplex {
            continue;
        }
        let offsets = Tensor::new(&[[1.0, 1.0, 1.0], [15.0, 1.0, 1.0], [1.0, 15.0, 15.0]], &Device::Cpu)?;
        let noise = (rows(&*phi, 42, 30, 3)? * 0.1)?;
        let x = (noise + offsets.repeat((10, 1))?)?;
        let found = KMeans::new(3).fit(&*phi, &x, &mut ChaCha8Rng::seed_from_u64(43))?;
        let labels = &found.labels;
        assert!((3..30).all(|i| labels[i] == labels[i % 3]), "{name}: {labels:?}");
        assert!(labels[0] != labels[1] && labels[1] != labels[2] && labels[0] != labels[2], "{name}");
        let fit = Mixture::new(3).fit(&*phi, &x, &mut ChaCha8Rng::seed_from_u64(43))?;
        let sure = fit.responsibilities.max(1)?.min(0)?.to_scalar::<f64>()?;
        assert!(sure > 0.5, "{name}: {sure}");
    }
    Ok(())
}

#[test]
fn an_offset_of_a_hundred_deviations_changes_nothing_in_f32() -> TestResult {
    let phi = phi::SquaredEuclidean;
    let x = rows(&phi, 51, 50, 4)?;
    let fit =
        |x: Tensor| KMeans::new(4).fit(&phi, &x.to_dtype(DType::F32)?, &mut ChaCha8Rng::seed_from_u64(52));
    let (near, far) = (fit(x.clone())?, fit((x + 100.0)?)?);
    assert!((near.objective - far.objective).abs() < 1e-3 * near.objective);
    Ok(())
}

#[test]
fn seeds_differ_and_are_better_than_chance() -> TestResult {
    let phi = phi::SquaredEuclidean;
    let x = rows(&phi, 61, 40, 3)?;
    let mut rng = ChaCha8Rng::seed_from_u64(62);
    let cost = |seeds: &[usize]| -> Result<f64, Box<dyn std::error::Error>> {
        let index: Vec<u32> = seeds.iter().map(|i| *i as u32).collect();
        let c = x.index_select(&Tensor::new(index, &Device::Cpu)?, 0)?;
        Ok(all_pairs(&phi, &x, &c)?.min(1)?.sum_all()?.to_scalar::<f64>()?)
    };
    let mut wins = 0;
    for start in 0..10 {
        let seeds = plus_plus(&phi, &x, 6, &mut rng)?;
        let mut sorted = seeds.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 6);
        wins += usize::from(cost(&seeds)? <= cost(&(start..start + 6).collect::<Vec<_>>())?);
    }
    assert!(wins >= 8, "{wins} of 10");
    Ok(())
}
