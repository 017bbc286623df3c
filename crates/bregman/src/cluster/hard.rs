//! Bregman hard clustering (Banerjee et al. 2005, Algorithm 1): minimise Σ_i D(x_i ‖ c_{h(i)}) by assigning each
//! point to its nearest centroid and moving each centroid to the mean of its points, which never raises the sum.

use candle_core::Tensor;
use phi::Generator;
use rand_chacha::ChaCha8Rng;

use super::{Points, at_least_one, nearest, not_negative, seeding};
use crate::Result;

/// k-means under D_φ.
///
/// # Examples
/// ```
/// # use {bregman::cluster::hard::KMeans, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// # use {rand_chacha::ChaCha8Rng, rand_chacha::rand_core::SeedableRng};
/// let x = Tensor::new(&[[0f32], [1.], [10.], [11.]], &Device::Cpu)?;
/// let found = KMeans::new(2).fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(1))?;
/// assert_eq!(found.objective, 1.0); // four points, each 0.5² from the mean of its pair
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct KMeans {
    /// How many clusters.
    pub k: usize,
    /// Rounds of assigning and averaging before a run stops unconverged: 100.
    pub max_iterations: usize,
    /// A run has converged when a round lowers the objective by no more than this share of it: 1e-9.
    pub tolerance: f64,
    /// Runs from different seeds, of which the best is kept: 10, since k-means stops at local minima.
    pub restarts: usize,
}

/// What [`KMeans::fit`] found.
#[derive(Debug, Clone)]
pub struct Partition {
    /// The centroids, `[k, d]`.
    pub centroids: Tensor,
    /// The nearest centroid of each point, `[n]`.
    pub labels: Vec<u32>,
    /// Σ_i D(x_i ‖ c_{h(i)}), in units of φ.
    pub objective: f64,
    /// The objective after each assignment of the run that was kept; it never rises, also in f32 beside outliers, since
    /// it is computed in f64. Infinite where a point lies infinitely far from every centroid.
    pub history: Vec<f64>,
    /// Whether that run converged before `max_iterations`.
    pub converged: bool,
}

impl KMeans {
    /// `k` clusters, the other options at their defaults.
    pub fn new(k: usize) -> Self {
        Self { k, max_iterations: 100, tolerance: 1e-9, restarts: 10 }
    }

    /// Clusters the rows of `x` `[n, d]`, seeded by [`plus_plus`](seeding::plus_plus).
    ///
    /// A cluster that loses all its points is given the point farthest from its own centroid. With fewer
    /// different points than clusters some stay empty.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for options out of range, and as
    /// [`all_pairs`](crate::all_pairs).
    /// # Source
    /// Banerjee et al. 2005 \[banerjee2005\], Algorithm 1.
    pub fn fit(&self, phi: &dyn Generator, x: &Tensor, rng: &mut ChaCha8Rng) -> Result<Partition> {
        let op = "KMeans::fit";
        at_least_one(op, "max_iterations", self.max_iterations)?;
        at_least_one(op, "restarts", self.restarts)?;
        not_negative(op, "tolerance", self.tolerance)?;
        let points = Points::new(op, phi, x, self.k)?;
        let mut best = self.run(&points, rng)?;
        for _ in 1..self.restarts {
            let run = self.run(&points, rng)?;
            if run.objective < best.objective {
                best = run;
            }
        }
        best.centroids = best.centroids.to_dtype(x.dtype())?;
        Ok(best)
    }

    fn run(&self, points: &Points<'_>, rng: &mut ChaCha8Rng) -> Result<Partition> {
        let mut centroids = points.rows(&seeding::seeds(points, self.k, rng)?)?;
        let mut history: Vec<f64> = Vec::new();
        let mut before: Option<(Tensor, Vec<u32>)> = None; // centroids and labels of the round before
        loop {
            let (mut labels, mut divergences) = nearest(&points.divergences(&centroids)?)?;
            let objective: f64 = divergences.iter().sum();
            if let Some(&least) = history.last()
                && let Some((centroids, labels)) = before.take_if(|_| objective > least)
            {
                // Means are rounded, and what the objective rises by that is no step forward.
                return Ok(Partition { centroids, labels, objective: least, history, converged: true });
            }
            let settled = history.last().is_some_and(|last| last - objective <= self.tolerance * last);
            history.push(objective);
            let assigned = labels.clone();
            let last_round = history.len() == self.max_iterations;
            if last_round || !refill(&mut labels, &mut divergences, self.k) && settled {
                return Ok(Partition { centroids, labels: assigned, objective, history, converged: settled });
            }
            let next = means(points, &labels, &centroids)?;
            before = Some((std::mem::replace(&mut centroids, next), assigned));
        }
    }
}

/// Gives each empty cluster the point farthest from its centroid; false when there was nothing to do.
fn refill(labels: &mut [u32], divergences: &mut [f64], k: usize) -> bool {
    let mut counts = vec![0usize; k];
    labels.iter().for_each(|&h| counts[h as usize] += 1);
    let mut refilled = false;
    for empty in 0..k {
        if counts[empty] > 0 {
            continue;
        }
        let spare = (0..labels.len()).filter(|&i| divergences[i] > 0.0 && counts[labels[i] as usize] > 1);
        let Some(far) = spare.max_by(|&a, &b| divergences[a].total_cmp(&divergences[b])) else { continue };
        counts[labels[far] as usize] -= 1;
        counts[empty] = 1;
        labels[far] = empty as u32;
        divergences[far] = 0.0;
        refilled = true;
    }
    refilled
}

/// The mean of each cluster, `[k, d]`; an empty one keeps its centroid.
fn means(points: &Points<'_>, labels: &[u32], old: &Tensor) -> Result<Tensor> {
    let k = old.dims()[0];
    let mut counts = vec![0.0f64; k];
    labels.iter().for_each(|&h| counts[h as usize] += 1.0);
    let index = Tensor::new(labels, old.device())?;
    let sums = old.zeros_like()?.index_add(&index, points.shifted(), 0)?; // [k, d]
    let shares = points.column(counts.iter().map(|c| 1.0 / c.max(1.0)).collect())?; // [k, 1]
    let new = points.centroids(&sums.broadcast_mul(&shares)?)?;
    if counts.iter().all(|c| *c > 0.0) {
        return Ok(new);
    }
    let filled = points.column(counts.iter().map(|c| c.min(1.0)).collect())?;
    Ok(filled.broadcast_as(old.shape())?.ne(0.0)?.where_cond(&new, old)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use phi::SquaredEuclidean;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn an_empty_cluster_takes_the_farthest_point() {
        let (mut labels, mut divergences) = (vec![0, 0, 0, 2], vec![1.0, 5.0, 2.0, 9.0]);
        assert!(refill(&mut labels, &mut divergences, 3));
        assert_eq!(labels, [0, 1, 0, 2], "point 3 is farther, but its cluster's only one");
        assert!(!refill(&mut labels, &mut divergences, 3));
    }

    #[test]
    fn fewer_different_points_than_clusters() -> Result<()> {
        let x = Tensor::new(&[[1f64, 2.0], [1.0, 2.0], [5.0, 5.0], [5.0, 5.0]], &Device::Cpu)?;
        let found = KMeans::new(3).fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(0))?;
        assert_eq!(found.objective, 0.0);
        assert!(found.converged);
        assert_eq!(found.labels[0], found.labels[1]);
        assert_ne!(found.labels[1], found.labels[2]);
        Ok(())
    }

    #[test]
    fn as_many_clusters_as_points() -> Result<()> {
        let x = Tensor::new(&[[1f64], [2.0], [4.0]], &Device::Cpu)?;
        let found = KMeans::new(3).fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(0))?;
        assert_eq!(found.objective, 0.0);
        Ok(())
    }

    #[test]
    fn options_out_of_range_are_errors() -> Result<()> {
        let x = Tensor::new(&[[1f64], [2.0], [4.0]], &Device::Cpu)?;
        let good = KMeans::new(2);
        let cases = [
            (KMeans { restarts: 0, ..good.clone() }, "`restarts` is 0, expected at least 1"),
            (KMeans { max_iterations: 0, ..good.clone() }, "`max_iterations` is 0, expected at least 1"),
            (KMeans { tolerance: f64::NAN, ..good.clone() }, "`tolerance` is NaN, expected finite and ≥ 0"),
            (KMeans { k: 4, ..good }, "`k` is 4, expected between 1 and the number of points, 3"),
        ];
        for (kmeans, message) in cases {
            let error = kmeans.fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(0)).unwrap_err();
            assert_eq!(error.to_string(), format!("KMeans::fit: {message}"));
        }
        Ok(())
    }
}
