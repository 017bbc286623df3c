//! Manifold similarity to proxies by random walks (Aziere & Todorovic 2019).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Parameter, Part, Result, Role, Tuples,
    error::{count, finite},
    loss::class_table::{ClassTable, check_rows, class_ids, one_hot},
    sampling::{choose, draws},
    tensor::{download, fill_unless, hinge, masked_log_sum_exp, normalize_rows, rows, upload},
};

/// Where the proxy of each row comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetaClasses {
    /// Drawn, each proxy at least once where there are rows enough: labels play no part. A function of `seed` and of
    /// the batch.
    #[default]
    Random,
    /// The labels are proxies' rows.
    Labels,
}

/// Knobs of [`Manifold`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManifoldConfig {
    /// The width of the embeddings; must be given.
    #[serde(alias = "l")]
    pub embedding_size: usize,
    /// K, the number of proxies; 50.
    #[serde(alias = "K")]
    pub num_proxies: usize,
    /// λ, the weight of the context loss; 1. Infinite for that loss alone.
    #[serde(alias = "lambdaC")]
    pub lambda_c: f64,
    /// α, the share a random walk passes on to neighbors, in (0, 1); 0.8.
    pub alpha: f64,
    /// m, added to each violation; 5·10⁻⁴.
    pub margin: f64,
    /// Where the proxy of each row comes from; drawn by default.
    pub meta_classes: MetaClasses,
    /// Seeds the initial proxies and the random meta-classes; 0.
    pub seed: u64,
}

impl Default for ManifoldConfig {
    fn default() -> Self {
        Self {
            embedding_size: 0,
            num_proxies: 50,
            lambda_c: 1.0,
            alpha: 0.8,
            margin: 5e-4,
            meta_classes: MetaClasses::Random,
            seed: 0,
        }
    }
}

/// log(1 + Σ_k exp(F_ik − F_iy + m)) over the proxies k ≠ y that violate F_ik − F_iy + m ≥ 0, plus λ times the same of
/// contexts: F = (1 − α)(I − αS̄)⁻¹ over rows and proxies together, S̄ the symmetrically normalized exp(2·closeness₊)
/// without its diagonal, y the proxy (meta-class) of row i; a context is the cosine of row i of F with row k.
///
/// Own parameter `proxies` `[K, d]`, at first standard normal. Part `loss`, a loss a row. Tuples and a reference set
/// play no part. Rows should lie around the origin, as after batch normalization: while all have one direction, all
/// walks are alike, and training makes them more so. With λ = ∞ pytorch-metric-learning returns ∞; here that is the
/// loss of contexts alone.
///
/// # Distances
/// Cosine is usual; any similarity. A distance is an error, since S̄ must be symmetric, and so is a divergence.
/// # Cost
/// O((n + K)³) time, a factorization, and O((n + K)²) memory. With F° the value, the graph holds F° + α/(1 − α)·F°(S̄ −
/// S̄°)F°, whose first derivatives are those of the inverse.
/// # Source
/// Aziere & Todorovic 2019 \[aziere2019\], equations 2 to 8.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = ManifoldConfig {
///     embedding_size: 2,
///     num_proxies: 2,
///     meta_classes: MetaClasses::Labels,
///     ..Default::default()
/// };
/// let loss = Objective::new(Arc::new(Manifold::new(Arc::new(Cosine), config, DType::F64, &Device::Cpu)?));
/// let proxies = Tensor::eye(2, DType::F64, &Device::Cpu)?;
/// loss.parameters()[0].var.set(&proxies)?;
/// // Rows at their own proxies violate nothing; at each other's they do.
/// let value = |labels| -> Result<f64> { Ok(loss.forward(&Batch::new(&proxies, labels)?)?.to_scalar()?) };
/// assert_eq!(value(&[0, 1])?, 0.0);
/// assert!(value(&[1, 0])? > 1.0);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Manifold {
    distance: Arc<dyn Distance>,
    config: ManifoldConfig,
    proxies: Var,
}

impl Manifold {
    /// With seeded normal proxies.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0, α lies outside (0, 1), λ is negative or the distance is no similarity.
    pub fn new(
        distance: Arc<dyn Distance>,
        config: ManifoldConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let owner = "Manifold";
        if !distance.larger_is_closer() {
            return Err(Error::config(owner, "distance", distance.name(), "a similarity"));
        }
        if !(config.alpha > 0.0 && config.alpha < 1.0) {
            return Err(Error::config(owner, "alpha", config.alpha, "a share in (0, 1)"));
        }
        if config.lambda_c.is_nan() || config.lambda_c < 0.0 {
            return Err(Error::config(owner, "lambda_c", config.lambda_c, "a number ≥ 0"));
        }
        finite(owner, &[("margin", config.margin)])?;
        count(owner, "num_proxies", config.num_proxies)?;
        let ManifoldConfig { embedding_size: width, num_proxies: classes, seed, .. } = config;
        Ok(Self {
            distance,
            config,
            proxies: ClassTable { owner, classes, width, seed }.rows(dtype, device)?,
        })
    }

    fn meta_classes(&self, batch: &Batch) -> Result<Vec<u32>> {
        let k = self.config.num_proxies;
        if self.config.meta_classes == MetaClasses::Labels {
            return class_ids("Manifold", batch, k);
        }
        let bits = download(batch.embeddings())?.into_iter().map(f64::to_bits);
        let mut rng = draws(self.config.seed, bits);
        let n = batch.len();
        let mut meta = choose(&mut rng, k, n);
        while meta.len() < n {
            meta.push(rng.random_range(0..k));
        }
        let order = choose(&mut rng, n, n);
        Ok(order.into_iter().map(|i| meta[i] as u32).collect())
    }

    /// F over rows and proxies, `[s, s]`.
    fn diffusion(&self, points: &Tensor) -> Result<Tensor> {
        let alpha = self.config.alpha;
        let s = points.dim(0)?;
        let closeness = hinge(&self.distance.all_pairs(points, points)?)?;
        // The largest exponent is taken off: it cancels in the normalization.
        let exponent = (closeness * 2.0)?;
        let largest = exponent.detach().max_all()?;
        let off = (0..s * s).map(|at| f64::from(u8::from(at / s != at % s))).collect();
        let weights = (exponent.broadcast_sub(&largest)?.exp()? * upload(off, (s, s), points)?)?;
        let degree = weights.sum_keepdim(1)?; // [s, 1]
        let some = degree.detach().gt(0.0)?;
        let scale = fill_unless(&degree, &some, 1.0)?.sqrt()?.recip()?; // [s, 1]
        let walk = weights.broadcast_mul(&scale)?.broadcast_mul(&scale.t()?)?; // [s, s]
        let inverse = inverse_of_shifted(&download(&walk)?, s, alpha);
        let f = upload(inverse.iter().map(|v| v * (1.0 - alpha)).collect(), (s, s), points)?;
        let step = f.matmul(&(&walk - walk.detach())?)?.matmul(&f)?;
        Ok((&f + (step * (alpha / (1.0 - alpha)))?)?)
    }
}

/// (I − α·W)⁻¹ of a symmetric W with eigenvalues in [−1, 1], row-major s × s: the matrix is positive definite, so
/// Gauss–Jordan elimination needs no pivoting.
fn inverse_of_shifted(walk: &[f64], s: usize, alpha: f64) -> Vec<f64> {
    let mut a: Vec<f64> = walk.iter().map(|w| -alpha * w).collect();
    let mut inverse = vec![0.0; s * s];
    for i in 0..s {
        a[i * s + i] += 1.0;
        inverse[i * s + i] = 1.0;
    }
    for k in 0..s {
        let pivot = 1.0 / a[k * s + k];
        a[k * s..(k + 1) * s].iter_mut().for_each(|v| *v *= pivot);
        inverse[k * s..(k + 1) * s].iter_mut().for_each(|v| *v *= pivot);
        let (row_a, row_inverse) = (a[k * s..(k + 1) * s].to_vec(), inverse[k * s..(k + 1) * s].to_vec());
        for i in (0..s).filter(|&i| i != k) {
            let factor = a[i * s + k];
            if factor != 0.0 {
                a[i * s..(i + 1) * s].iter_mut().zip(&row_a).for_each(|(v, r)| *v -= factor * r);
                inverse[i * s..(i + 1) * s].iter_mut().zip(&row_inverse).for_each(|(v, r)| *v -= factor * r);
            }
        }
    }
    inverse
}

/// log(1 + Σ_k exp(v_k − v_y + m)) over the k ≠ y with v_k − v_y + m ≥ 0: `[n, K]` → `[n]`.
fn violations(values: &Tensor, meta: &[u32], margin: f64) -> Result<Tensor> {
    let own = one_hot(meta, values)?; // [n, K]
    let at_own = (values * &own)?.sum_keepdim(1)?; // [n, 1]
    let gap = (values.broadcast_sub(&at_own)? + margin)?;
    let keep = (gap.detach().lt(0.0)?.eq(0u8)? * own.lt(0.5)?)?; // a NaN counts, and is seen
    Ok(masked_log_sum_exp(&gap, &keep, true)?.squeeze(1)?)
}

impl Loss for Manifold {
    fn unreduced(&self, batch: &Batch, _: Option<&Tuples>) -> Result<Vec<Part>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let n = batch.len();
        check_rows("Manifold", batch, ("proxies", &self.proxies), self.config.embedding_size)?;
        let meta = self.meta_classes(batch)?;
        let points = Tensor::cat(&[batch.embeddings(), self.proxies.as_tensor()], 0)?; // [n+K, d]
        let f = self.diffusion(&points)?; // [n+K, n+K]
        let index = |from: usize, to: usize| (from as u32..to as u32).collect::<Vec<u32>>();
        let total = n + self.config.num_proxies;
        let (of_rows, of_proxies) = (rows(&f, &index(0, n))?, rows(&f, &index(n, total))?);
        let ManifoldConfig { lambda_c, margin, .. } = self.config;
        let context = normalize_rows(&of_rows, 2.0)?.matmul(&normalize_rows(&of_proxies, 2.0)?.t()?)?;
        let context = violations(&context, &meta, margin)?; // [n]
        if lambda_c.is_infinite() {
            return Ok(vec![Part::of_rows(context)?]);
        }
        let to_proxies = rows(&of_rows.t()?.contiguous()?, &index(n, total))?.t()?.contiguous()?; // [n, K]
        let intrinsic = violations(&to_proxies, &meta, margin)?;
        Ok(vec![Part::of_rows((intrinsic + (context * lambda_c)?)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("proxies", &self.proxies, Role::Proxy)]
    }

    fn class_rows(&self) -> Result<Option<Tensor>> {
        Ok(Some(self.proxies.as_tensor().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cosine;

    #[test]
    fn the_inverse_inverts() {
        let walk = [0.0, 0.7, 0.3, 0.7, 0.0, 0.2, 0.3, 0.2, 0.0];
        let inverse = inverse_of_shifted(&walk, 3, 0.8);
        for i in 0..3 {
            for j in 0..3 {
                let entry: f64 = (0..3)
                    .map(|k| (f64::from(u8::from(i == k)) - 0.8 * walk[i * 3 + k]) * inverse[k * 3 + j])
                    .sum();
                assert!((entry - f64::from(u8::from(i == j))).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn random_meta_classes_use_every_proxy_and_repeat_for_the_same_batch() -> Result<()> {
        let config = ManifoldConfig { embedding_size: 2, num_proxies: 4, ..Default::default() };
        let loss = Manifold::new(Arc::new(Cosine), config, DType::F64, &Device::Cpu)?;
        let x = Tensor::arange(0f64, 12.0, &Device::Cpu)?.reshape((6, 2))?;
        let batch = Batch::new(&x, &[9; 6])?;
        let meta = loss.meta_classes(&batch)?;
        assert!((0..4).all(|k| meta.contains(&k)), "{meta:?}");
        assert_eq!(meta, loss.meta_classes(&batch)?);
        Ok(())
    }
}
