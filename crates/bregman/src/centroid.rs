//! Centroids: the point at the smallest mean divergence from many, on either side.
//!
//! - right: argmin_c Σ w_i D(x_i ‖ c) is the mean, **for every generator**;
//! - left: argmin_c Σ w_i D(c ‖ x_i) is ∇φ* of the mean gradient.
//!
//! The smallest value on the right is the Bregman information, the divergence's own variance.

use candle_core::{DType, Device, Tensor};
use phi::Generator;

use crate::{
    Error, Result,
    dual::Dual,
    error::{check_float, check_partner, check_points},
    paired,
    pivot::into_domain,
};

/// The right centroid argmin_c Σ w_i D(x_i ‖ c): the weighted mean, whatever φ is.
///
/// `x` `[n, d]`, `weights` `[n]` (non-negative, of any positive sum; equal when `None`) → `[1, d]`, with gradients.
///
/// # Errors
/// [`Error::Shape`] when the tensors do not fit, [`Error::Entry`] names a negative weight.
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], Proposition 1.
/// # Examples
/// ```
/// # use {bregman::right_centroid, candle_core::{Device, Tensor}};
/// let x = Tensor::new(&[[0f32, 0.], [4., 8.]], &Device::Cpu)?;
/// let weights = Tensor::new(&[3f32, 1.], &Device::Cpu)?;
/// assert_eq!(right_centroid(&x, Some(&weights))?.to_vec2::<f32>()?, [[1., 2.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn right_centroid(x: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let op = "right_centroid";
    check_float(op, "x", x)?;
    phi::Domain::Reals.check(op, "x", x)?;
    Ok(shares(op, x, weights)?.matmul(&x.contiguous()?)?)
}

/// The left centroid argmin_c Σ w_i D(c ‖ x_i) = ∇φ*(Σ w_i ∇φ(x_i) / Σ w_i).
///
/// `x` `[n, d]`, `weights` `[n]` as in [`right_centroid`] → `[1, d]`. Where φ has no closed ∇φ* it is solved for
/// with [`Dual::default`] and carries no gradient.
///
/// # Errors
/// As [`right_centroid`]; [`phi::Error::Domain`] for points outside the domain;
/// [`Error::NotConverged`] when the solver does not get there.
/// # Source
/// Nielsen and Nock 2009 \[nielsen2009\].
/// # Examples
/// ```
/// # use {bregman::left_centroid, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.], [4., 8.]], &Device::Cpu)?;
/// assert_eq!(left_centroid(&SquaredEuclidean, &x, None)?.to_vec2::<f32>()?, [[2., 4.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn left_centroid(phi: &dyn Generator, x: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let op = "left_centroid";
    check_points(op, "x", phi, x)?;
    let shares = shares(op, x, weights)?; // [1, n]
    let grad = shares.matmul(&phi.value_and_grad(x)?.1.contiguous()?)?; // [1, d]
    let start = into_domain(phi.domain(), &shares.detach().matmul(&x.detach().contiguous()?)?)?;
    Ok(Dual { start: Some(start), ..Dual::default() }.solve(phi, &grad)?.point)
}

/// The Bregman information Σ w_i D(x_i ‖ μ) / Σ w_i at the weighted mean μ: the variance for ‖x‖², the mutual
/// information for the negative entropy.
///
/// `x` `[n, d]`, `weights` `[n]` as in [`right_centroid`] → a scalar with gradients, non-negative, in units of φ.
///
/// # Errors
/// As [`left_centroid`], without the solver's.
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], Definition 2.
/// # Examples
/// ```
/// # use {bregman::bregman_information, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.], [6., 8.]], &Device::Cpu)?;
/// assert_eq!(bregman_information(&SquaredEuclidean, &x, None)?.to_scalar::<f32>()?, 25.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn bregman_information(phi: &dyn Generator, x: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let op = "bregman_information";
    check_points(op, "x", phi, x)?;
    let shares = shares(op, x, weights)?; // [1, n]
    // The mean carries no gradient and need not: it is where the sum is least.
    let mean = into_domain(phi.domain(), &shares.matmul(&x.contiguous()?)?.detach())?;
    let value = paired(phi, x, &mean.broadcast_as(x.shape())?.contiguous()?)?; // [n]
    Ok(shares.matmul(&value.unsqueeze(1)?)?.reshape(())?)
}

/// The weights as a row of shares that sum to 1: `[1, n]`.
fn shares(op: &'static str, x: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    let n = x.dims2()?.0;
    let Some(weights) = weights else {
        let even = Tensor::full(1.0f64 / n as f64, (1, n), &Device::Cpu)?;
        return Ok(even.to_dtype(x.dtype())?.to_device(x.device())?);
    };
    if weights.dims() != [n] {
        let expected = format!("[{n}], a weight per row of `x`");
        return Err(Error::Shape { op, arg: "weights", got: weights.dims().to_vec(), expected });
    }
    let row = weights.unsqueeze(0)?; // [1, n]
    check_partner(op, "weights", &x.detach().t()?, &row, false)?;
    let values = weights.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if let Some(index) = values.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        let (got, expected) = (values[index].to_string(), "finite and ≥ 0".to_owned());
        return Err(Error::Entry { op, arg: "weights", index, got, expected });
    }
    if values.iter().sum::<f64>() <= 0.0 {
        let (got, expected) = ("0, as all others".to_owned(), "one weight above 0 at least".to_owned());
        return Err(Error::Entry { op, arg: "weights", index: 0, got, expected });
    }
    // By the largest first: the sum of weights next to the largest number overflows.
    let row = row.broadcast_div(&row.detach().max_keepdim(1)?)?;
    Ok(row.broadcast_div(&row.sum_keepdim(1)?)?)
}
