//! Clustering under a Bregman divergence: the algorithms of k-means and of Gaussian mixtures, word for word, with
//! D_φ in place of the squared distance, because the mean is the best representative for every D_φ
//! (Banerjee et al. 2005).

pub mod hard;
pub mod seeding;
pub mod soft;

use candle_core::{DType, Device, Tensor};
use phi::{Domain, Generator};

use crate::{
    Error, Gallery, Result,
    pairs::{self, Form, Pairs},
    pivot::into_domain,
};

/// The points of one clustering, evaluated once: only the centroids move. On the CPU in f64, so that no round-off
/// raises an objective that the algorithm lowers.
#[derive(Debug)]
pub(crate) struct Points<'a> {
    gallery: Gallery<'a>,
    domain: Domain,
    center: Tensor,  // [1, d]
    shifted: Tensor, // [n, d]
}

impl<'a> Points<'a> {
    /// Checks `x` `[n, d]` and that `1 ≤ k ≤ n`.
    pub fn new(op: &'static str, phi: &'a dyn Generator, x: &Tensor, k: usize) -> Result<Self> {
        // Points are first arguments. Infinitely far from a centroid on the border of the domain is farthest.
        let pairs = Pairs { op, phi, form: Form::Second, scale: 1.0, infinite: true };
        let gallery = Gallery::of(pairs, pairs::Points { arg: "x", rows: x })?;
        let n = gallery.len();
        if k == 0 || n < k {
            let expected = format!("between 1 and the number of points, {n}");
            return Err(Error::Config { op, field: "k", got: k.to_string(), expected });
        }
        let center = dml_kernels::center(&[gallery.items()])?;
        let shifted = gallery.items().broadcast_sub(&center)?;
        Ok(Self { gallery, domain: phi.domain(), center, shifted })
    }

    pub fn len(&self) -> usize {
        self.gallery.len()
    }

    /// Rows of `x` as centroids, `[k, d]`.
    pub fn rows(&self, index: &[usize]) -> Result<Tensor> {
        let index: Vec<u32> = index.iter().map(|&i| i as u32).collect();
        let x = self.gallery.items();
        Ok(x.index_select(&Tensor::new(index, x.device())?, 0)?)
    }

    /// D(x_i ‖ c_h), `[k, n]`.
    pub fn divergences(&self, centroids: &Tensor) -> Result<Tensor> {
        self.gallery.divergences(centroids)
    }

    /// x less a point amid them, `[n, d]`: what centroids are averaged from, so that a common offset costs no digit.
    pub fn shifted(&self) -> &Tensor {
        &self.shifted
    }

    /// Averages of [`shifted`](Self::shifted), `[k, d]`, as centroids.
    pub fn centroids(&self, averages: &Tensor) -> Result<Tensor> {
        let means = averages.broadcast_add(&self.center)?;
        // A mean of coordinates that are not negative is none either, whatever rounding says.
        let means = if self.domain == Domain::Reals { means } else { means.relu()? };
        into_domain(self.domain, &means)
    }

    /// A column of numbers beside the points, in their dtype and on their device: `[k, 1]`.
    pub fn column(&self, values: Vec<f64>) -> Result<Tensor> {
        let (k, x) = (values.len(), self.gallery.items());
        let column = Tensor::from_vec(values, (k, 1), &Device::Cpu)?;
        Ok(column.to_dtype(x.dtype())?.to_device(x.device())?)
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
    let points = Points::new("assign", phi, x, 1)?;
    nearest(&points.divergences(centroids)?)
}

/// The smallest entry of each column of `[k, n]` and where it stands, the first of equals.
fn nearest(divergences: &Tensor) -> Result<(Vec<u32>, Vec<f64>)> {
    let n = divergences.dims()[1];
    let (mut labels, mut least) = (vec![0; n], vec![f64::INFINITY; n]);
    for (h, row) in (0u32..).zip(to_host(divergences)?.chunks(n)) {
        for ((label, least), &d) in labels.iter_mut().zip(&mut least).zip(row) {
            if d < *least {
                (*label, *least) = (h, d);
            }
        }
    }
    Ok((labels, least))
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
