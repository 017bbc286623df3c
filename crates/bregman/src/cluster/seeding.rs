//! Seeding by k-means++: each next seed is drawn with probability proportional to its divergence D(x ‖ c) from the
//! nearest seed so far. For ‖x‖² that is the squared distance of Arthur and Vassilvitskii 2007; the guarantee
//! carries over to Bregman divergences (Nock, Luosto and Kivinen 2008).

use candle_core::Tensor;
use phi::Generator;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Points, to_host};
use crate::Result;

/// The rows of `x` `[n, d]` that become the `k` first centroids, all different.
///
/// Of 2 + ln k candidates per seed the one that lowers the sum of divergences most is taken, as Arthur and
/// Vassilvitskii suggest. Where all points left coincide with seeds, the first of them are taken.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) unless 1 ≤ k ≤ n, and as [`all_pairs`](crate::all_pairs).
/// # Source
/// Arthur and Vassilvitskii 2007 \[arthur2007\]; Nock et al. 2008 \[nock2008\].
/// # Examples
/// ```
/// # use {bregman::cluster::seeding::plus_plus, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// # use {rand_chacha::ChaCha8Rng, rand_chacha::rand_core::SeedableRng};
/// let x = Tensor::new(&[[0f32], [0.], [9.]], &Device::Cpu)?;
/// let mut seeds = plus_plus(&SquaredEuclidean, &x, 2, &mut ChaCha8Rng::seed_from_u64(1))?;
/// seeds.sort();
/// assert_eq!(seeds[1], 2); // the two points at 0 are never both drawn
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn plus_plus(phi: &dyn Generator, x: &Tensor, k: usize, rng: &mut ChaCha8Rng) -> Result<Vec<usize>> {
    seeds(&Points::new("plus_plus", phi, x, k)?, k, rng)
}

pub(super) fn seeds(points: &Points<'_>, k: usize, rng: &mut ChaCha8Rng) -> Result<Vec<usize>> {
    let n = points.len();
    let candidates = 2 + (k as f64).ln() as usize;
    let first = rng.random_range(0..n);
    let mut chosen = vec![first];
    let mut nearest = to_host(&points.divergences(&points.rows(&[first])?)?)?; // D to the nearest seed, [n]
    nearest[first] = 0.0;
    while chosen.len() < k {
        let weights = weights(&nearest);
        let total: f64 = weights.iter().sum();
        if total <= 0.0 {
            chosen.extend((0..n).find(|i| !chosen.contains(i)));
            continue;
        }
        let drawn: Vec<usize> =
            (0..candidates).map(|_| draw(&weights, total * rng.random::<f64>())).collect();
        let columns = to_host(&points.divergences(&points.rows(&drawn)?)?)?; // [c, n]
        let mut best: Option<(f64, usize, Vec<f64>)> = None;
        for (column, &seed) in columns.chunks(n).zip(&drawn) {
            let mut lowered: Vec<f64> = nearest.iter().zip(column).map(|(a, b)| a.min(*b)).collect();
            lowered[seed] = 0.0;
            let sum = lowered.iter().sum();
            if best.as_ref().is_none_or(|(least, ..)| sum < *least) {
                best = Some((sum, seed, lowered));
            }
        }
        if let Some((_, seed, lowered)) = best {
            chosen.push(seed);
            nearest = lowered;
        }
    }
    Ok(chosen)
}

/// What points are drawn by: their divergences, or, while some lie infinitely far, those alone and alike.
fn weights(nearest: &[f64]) -> Vec<f64> {
    match nearest.contains(&f64::INFINITY) {
        true => nearest.iter().map(|&d| f64::from(u8::from(d == f64::INFINITY))).collect(),
        false => nearest.to_vec(),
    }
}

/// The index at which the running sum of `weights` passes `at`; never one of weight 0.
fn draw(weights: &[f64], mut at: f64) -> usize {
    let mut last = 0;
    for (i, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        last = i;
        at -= weight;
        if at < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use phi::SquaredEuclidean;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn never_draws_weight_zero() {
        for at in [0.0, 0.5, 0.999, 1.0, 2.0] {
            assert!([1, 3].contains(&draw(&[0.0, 0.5, 0.0, 0.5, 0.0], at)));
        }
    }

    #[test]
    fn identical_points_are_still_k_different_rows() -> Result<()> {
        let x = Tensor::ones((5, 3), candle_core::DType::F64, &Device::Cpu)?;
        let mut seeds = plus_plus(&SquaredEuclidean, &x, 5, &mut ChaCha8Rng::seed_from_u64(3))?;
        seeds.sort_unstable();
        assert_eq!(seeds, [0, 1, 2, 3, 4]);
        Ok(())
    }

    #[test]
    fn k_out_of_range_is_an_error() -> Result<()> {
        let x = Tensor::ones((2, 3), candle_core::DType::F64, &Device::Cpu)?;
        for k in [0, 3] {
            let error = plus_plus(&SquaredEuclidean, &x, k, &mut ChaCha8Rng::seed_from_u64(3)).unwrap_err();
            let expected = format!("plus_plus: `k` is {k}, expected between 1 and the number of points, 2");
            assert_eq!(error.to_string(), expected);
        }
        Ok(())
    }
}
