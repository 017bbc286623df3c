//! Bregman soft clustering (Banerjee et al. 2005, Algorithm 3): expectation maximisation for the mixture
//! p(x) = Σ_h π_h b(x) exp(−s·D_φ(x ‖ μ_h)) of the exponential family whose divergence D_φ is: Gaussian for ‖x‖²,
//! Poisson for the negative entropy, exponential for Itakura–Saito.

use candle_core::{Device, Tensor};
use phi::Generator;
use rand_chacha::ChaCha8Rng;

use super::{Points, at_least_one, hard::KMeans, not_negative, to_host};
use crate::{Error, Result};

/// A mixture model under D_φ.
///
/// # Examples
/// ```
/// # use {bregman::cluster::soft::Mixture, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// # use {rand_chacha::ChaCha8Rng, rand_chacha::rand_core::SeedableRng};
/// let x = Tensor::new(&[[0f32], [1.], [10.], [11.]], &Device::Cpu)?;
/// let fit = Mixture::new(2).fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(1))?;
/// assert!((fit.shares[0] - 0.5).abs() < 1e-6);
/// assert_eq!(fit.responsibilities.dims(), [4, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// How many components.
    pub k: usize,
    /// The scale s > 0 of the divergence, 1 over the dispersion of the family: 1. Larger is harder.
    pub scale: f64,
    /// Rounds before the fit stops unconverged: 200.
    pub max_iterations: usize,
    /// Converged when a round raises the mean log-likelihood by no more than this, in nats: 1e-9.
    pub tolerance: f64,
    /// Runs of [`KMeans`] of which the best is the starting point: 10.
    pub restarts: usize,
}

/// What [`Mixture::fit`] found.
#[derive(Debug, Clone)]
pub struct MixtureFit {
    /// The components' means μ, `[k, d]`.
    pub centroids: Tensor,
    /// The components' shares π, `[k]`, which sum to 1.
    pub shares: Vec<f64>,
    /// p(h | x_i), `[n, k]`; rows sum to 1.
    pub responsibilities: Tensor,
    /// The mean over the points of log Σ_h π_h exp(−s·D(x ‖ μ_h)), in nats: the log-likelihood up to the family's
    /// base measure b, which no parameter changes.
    pub log_likelihood: f64,
    /// That after each round; it never falls, also in f32 beside outliers, since it is computed in f64.
    pub history: Vec<f64>,
    /// Whether the fit converged before `max_iterations`.
    pub converged: bool,
}

impl Mixture {
    /// `k` components, the other options at their defaults.
    pub fn new(k: usize) -> Self {
        Self { k, scale: 1.0, max_iterations: 200, tolerance: 1e-9, restarts: 10 }
    }

    /// Fits the mixture to the rows of `x` `[n, d]`, from a [`KMeans`] clustering.
    ///
    /// # Errors
    /// [`Error::Config`] for options out of range, and as [`all_pairs`](crate::all_pairs).
    /// # Source
    /// Banerjee et al. 2005 \[banerjee2005\], Algorithm 3.
    pub fn fit(&self, phi: &dyn Generator, x: &Tensor, rng: &mut ChaCha8Rng) -> Result<MixtureFit> {
        let op = "Mixture::fit";
        at_least_one(op, "max_iterations", self.max_iterations)?;
        at_least_one(op, "restarts", self.restarts)?;
        not_negative(op, "tolerance", self.tolerance)?;
        if !(self.scale.is_finite() && self.scale > 0.0) {
            let (got, expected) = (self.scale.to_string(), "finite and > 0".to_owned());
            return Err(Error::Config { op, field: "scale", got, expected });
        }
        let points = Points::new(op, phi, x, self.k)?;
        let start = KMeans { restarts: self.restarts, ..KMeans::new(self.k) }.fit(phi, x, rng)?;
        let n = points.len() as f64;
        let mut centroids = start.centroids.to_dtype(points.shifted().dtype())?;
        let mut shares = vec![0.0; self.k];
        start.labels.iter().for_each(|&h| shares[h as usize] += 1.0 / n);
        let narrow = |t: &Tensor| t.to_dtype(x.dtype());
        let mut best: Option<MixtureFit> = None;
        loop {
            let (responsibilities, log_likelihood) = self.expect(&points, &centroids, &shares)?;
            if !log_likelihood.is_finite() {
                let expected = "so small that no scale·D(x ‖ μ) overflows".to_owned();
                return Err(Error::Config { op, field: "scale", got: self.scale.to_string(), expected });
            }
            let mut history = Vec::new();
            if let Some(best) = best {
                if log_likelihood < best.log_likelihood {
                    // Means are rounded, and what the likelihood falls by that is no step forward.
                    return Ok(MixtureFit { converged: true, ..best });
                }
                history = best.history;
            }
            let settled = history.last().is_some_and(|last| log_likelihood - last <= self.tolerance);
            history.push(log_likelihood);
            let done = settled || history.len() == self.max_iterations;
            let fit = MixtureFit {
                centroids: narrow(&centroids)?,
                shares,
                responsibilities: narrow(&responsibilities)?,
                log_likelihood,
                history,
                converged: settled,
            };
            if done {
                return Ok(fit);
            }
            (centroids, shares) = maximize(&points, &responsibilities, &centroids)?;
            best = Some(fit);
        }
    }

    /// p(h | x), `[n, k]`, and the mean log-likelihood.
    ///
    /// In f64 on the host, from how much farther than the nearest each mean is: what all have in common may be
    /// larger than any exponent.
    fn expect(&self, points: &Points<'_>, centroids: &Tensor, shares: &[f64]) -> Result<(Tensor, f64)> {
        let divergences = points.divergences(centroids)?.t()?.contiguous()?; // [n, k]
        let (mut p, mut sum) = (to_host(&divergences)?, 0.0);
        for row in p.chunks_mut(self.k) {
            let alive = row.iter().zip(shares).filter(|(_, share)| **share > 0.0);
            let nearest = alive.map(|(d, _)| *d).fold(f64::INFINITY, f64::min);
            for (p, share) in row.iter_mut().zip(shares) {
                // A component without a share has no part in any point, however near it is.
                *p = if *share > 0.0 { share.ln() - self.scale * (*p - nearest) } else { f64::NEG_INFINITY };
            }
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|p| *p = (*p - top).exp());
            let total: f64 = row.iter().sum();
            row.iter_mut().for_each(|p| *p /= total);
            sum += top + total.ln() - self.scale * nearest;
        }
        let p = Tensor::from_vec(p, divergences.shape(), &Device::Cpu)?;
        let p = p.to_dtype(divergences.dtype())?.to_device(divergences.device())?;
        Ok((p, sum / points.len() as f64))
    }
}

/// The components' means and shares, given the responsibilities; one that no point answers for keeps its mean.
fn maximize(points: &Points<'_>, responsibilities: &Tensor, old: &Tensor) -> Result<(Tensor, Vec<f64>)> {
    let by_component = responsibilities.t()?.contiguous()?; // [k, n]
    let mass = to_host(&by_component.sum(1)?)?; // [k]
    let sums = by_component.matmul(points.shifted())?; // [k, d]
    let alive = |m: &f64| *m > f64::from(f32::MIN_POSITIVE);
    let inverse = points.column(mass.iter().map(|m| if alive(m) { 1.0 / m } else { 0.0 }).collect())?;
    let mut new = points.centroids(&sums.broadcast_mul(&inverse)?)?;
    if !mass.iter().all(alive) {
        let keep = points.column(mass.iter().map(|m| f64::from(u8::from(alive(m)))).collect())?;
        new = keep.broadcast_as(old.shape())?.ne(0.0)?.where_cond(&new, old)?;
    }
    let total: f64 = mass.iter().filter(|m| alive(m)).sum();
    Ok((new, mass.iter().map(|m| if alive(m) { m / total } else { 0.0 }).collect()))
}

#[cfg(test)]
mod tests {
    use candle_core::D;
    use phi::SquaredEuclidean;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn rows_sum_to_one_far_from_every_centroid() -> Result<()> {
        let x = Tensor::new(&[[0f32, 0.0], [1.0, 0.0], [1e4, 0.0], [-1e4, 3.0]], &Device::Cpu)?;
        let fit = Mixture::new(2).fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(5))?;
        for sum in fit.responsibilities.sum(D::Minus1)?.to_vec1::<f32>()? {
            assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }
        assert!(fit.log_likelihood.is_finite());
        Ok(())
    }

    #[test]
    fn a_component_without_points_keeps_its_mean_and_has_no_share() -> Result<()> {
        let x = Tensor::new(&[[1f64, 2.0], [1.0, 2.0], [1.0, 2.0]], &Device::Cpu)?;
        let fit = Mixture::new(2).fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(5))?;
        assert!((fit.shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(fit.centroids.to_vec2::<f64>()?, [[1.0, 2.0], [1.0, 2.0]]);
        assert!(fit.log_likelihood.abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn scale_out_of_range_is_an_error() -> Result<()> {
        let x = Tensor::new(&[[1f64], [2.0]], &Device::Cpu)?;
        let mixture = Mixture { scale: 0.0, ..Mixture::new(1) };
        let error = mixture.fit(&SquaredEuclidean, &x, &mut ChaCha8Rng::seed_from_u64(0)).unwrap_err();
        assert_eq!(error.to_string(), "Mixture::fit: `scale` is 0, expected finite and > 0");
        Ok(())
    }
}
