//! Clustering under a Bregman divergence: the algorithms of k-means and of Gaussian mixtures, word for word, with
//! D_φ in place of the squared distance, because the mean is the best representative for every D_φ
//! (Banerjee et al. 2005).

pub mod hard;
pub mod seeding;
pub mod soft;

use candle_core::{DType, Device, Tensor};
use phi::Generator;

use crate::{
    Error, Result,
    error::check_points,
    pivot::{Evaluated, into_domain, mean_of},
};

/// The points of one clustering, evaluated once: only the centroids move.
#[derive(Debug)]
pub(crate) struct Points<'a> {
    op: &'static str,
    phi: &'a dyn Generator,
    x: Tensor,     // [n, d]
    pivot: Tensor, // [1, d]
    first: Evaluated,
}

impl<'a> Points<'a> {
    /// Checks `x` `[n, d]` and that `1 ≤ k ≤ n`.
    pub fn new(op: &'static str, phi: &'a dyn Generator, x: &Tensor, k: usize) -> Result<Self> {
        check_points(op, "x", phi, x)?;
        let n = x.dims()[0];
        if k == 0 || n < k {
            let expected = format!("between 1 and the number of points, {n}");
            return Err(Error::Config { op, field: "k", got: k.to_string(), expected });
        }
        let x = x.detach().contiguous()?;
        let pivot = mean_of(phi, &[&x])?;
        let first = Evaluated::new(op, "x", phi, &x, &pivot)?;
        Ok(Self { op, phi, x, pivot, first })
    }

    pub fn len(&self) -> usize {
        self.x.dims()[0]
    }

    /// Rows of `x` as centroids, `[k, d]`.
    pub fn rows(&self, index: &[usize]) -> Result<Tensor> {
        let index: Vec<u32> = index.iter().map(|&i| i as u32).collect();
        Ok(self.x.index_select(&Tensor::new(index, self.x.device())?, 0)?)
    }

    /// D(x_i ‖ c_h), `[n, k]`.
    pub fn divergences(&self, centroids: &Tensor) -> Result<Tensor> {
        let second = Evaluated::new(self.op, "centroids", self.phi, centroids, &self.pivot)?;
        self.first.divergences(&second)
    }

    /// x − μ, `[n, d]`: what centroids are averaged from, so that a common offset costs no digit.
    pub fn shifted(&self) -> &Tensor {
        &self.first.shifted
    }

    /// Averages of [`shifted`](Self::shifted), `[k, d]`, as centroids.
    pub fn centroids(&self, averages: &Tensor) -> Result<Tensor> {
        into_domain(self.phi.domain(), &averages.broadcast_add(&self.pivot)?)
    }

    /// A column of numbers beside the points, in their dtype and on their device: `[k, 1]`.
    pub fn column(&self, values: Vec<f64>) -> Result<Tensor> {
        let k = values.len();
        let column = Tensor::from_vec(values, (k, 1), &Device::Cpu)?;
        Ok(column.to_dtype(self.x.dtype())?.to_device(self.x.device())?)
    }
}

/// The numbers of a tensor in f64, in order.
pub(crate) fn to_host(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// The nearest centroid of each point and D(x ‖ c) to it: `x` `[n, d]`, `centroids` `[k, d]` → (`[n]`, `[n]`).
/// Of equally near centroids the first.
///
/// # Errors
/// As [`all_pairs`](crate::all_pairs).
/// # Examples
/// ```
/// # use {bregman::cluster::assign, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[1f32, 0.], [9., 0.]], &Device::Cpu)?;
/// let centroids = Tensor::new(&[[0f32, 0.], [10., 0.]], &Device::Cpu)?;
/// let (labels, divergences) = assign(&SquaredEuclidean, &x, &centroids)?;
/// assert_eq!((labels, divergences), (vec![0, 1], vec![1., 1.]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn assign(phi: &dyn Generator, x: &Tensor, centroids: &Tensor) -> Result<(Vec<u32>, Vec<f64>)> {
    nearest(&crate::all_pairs(phi, &x.detach(), &centroids.detach())?)
}

/// The smallest entry of each row and where it stands.
fn nearest(divergences: &Tensor) -> Result<(Vec<u32>, Vec<f64>)> {
    Ok((divergences.argmin(1)?.to_vec1()?, to_host(&divergences.min(1)?)?))
}

/// Checks an option that counts something.
fn at_least_one(op: &'static str, field: &'static str, count: usize) -> Result<()> {
    if count == 0 {
        return Err(Error::Config { op, field, got: "0".to_owned(), expected: "at least 1".to_owned() });
    }
    Ok(())
}

/// Checks an option that is a finite number ≥ 0.
fn not_negative(op: &'static str, field: &'static str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::Config { op, field, got: value.to_string(), expected: "finite and ≥ 0".to_owned() })
}
