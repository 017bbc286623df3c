//! Evaluation around a pivot μ, so that the terms of a divergence are of the size of divergences.
//!
//! D_φ is unchanged when an affine function is added to φ, so everywhere in this crate
//! φ_μ(x) = φ(x) − φ(μ) − ⟨∇φ(μ), x − μ⟩ takes the place of φ and x − μ that of x. Then
//! D(x ‖ y) = φ_μ(x) − ⟨∇φ_μ(y), x − μ⟩ + (⟨∇φ_μ(y), y − μ⟩ − φ_μ(y)), and each term has the size of the divergences
//! from μ, however far from the origin the points lie. The pivot is a point amid the rows that no outlier moves.

use candle_core::{D, DType, Device, Tensor};
use dml_kernels::{add_row, center, first_not_finite, row_dot};
use phi::{Domain, Generator};

use crate::{Error, Result, error::check_float};

/// A point amid the rows: `[n, d]` → `[1, d]`, without gradient, for [`Lift::new`](crate::Lift::new).
///
/// In every coordinate a median, so that rows far off do not move it, and differences to it are exact where the rows
/// are whole numbers.
///
/// # Errors
/// When `x` is empty, of the wrong shape or dtype, or holds a row outside the domain.
/// # Examples
/// ```
/// # use {bregman::pivot, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.], [3., 4.], [1e6, 1e6]], &Device::Cpu)?;
/// assert_eq!(pivot(&SquaredEuclidean, &x)?.to_vec2::<f32>()?, [[3., 4.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pivot(phi: &dyn Generator, x: &Tensor) -> Result<Tensor> {
    check_float("pivot", "x", x)?;
    phi.check_in(phi.closure(), "pivot", "x", x)?;
    center_of(phi, &[x])
}

/// A point amid the rows of all `parts` together where φ has a gradient, detached: `[1, d]`.
pub(crate) fn center_of(phi: &dyn Generator, parts: &[&Tensor]) -> Result<Tensor> {
    let middle = center(parts)?; // [1, d]
    if phi.domain() == Domain::Reals {
        return Ok(middle);
    }
    // A coordinate that is 0 in most rows: any number of the size of the others will do.
    let values = middle.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let positive = |v: f64| v > 0.0;
    if values.iter().all(|&v| positive(v)) {
        return into_domain(phi.domain(), &middle);
    }
    let count = values.iter().filter(|&&v| positive(v)).count();
    let sum: f64 = values.iter().filter(|&&v| positive(v)).sum();
    let instead = if count > 0 { sum / count as f64 } else { 1.0 / values.len() as f64 };
    let values: Vec<f64> = values.into_iter().map(|v| if positive(v) { v } else { instead }).collect();
    let moved = Tensor::from_vec(values, middle.shape(), &Device::Cpu)?;
    into_domain(phi.domain(), &moved.to_dtype(middle.dtype())?.to_device(middle.device())?)
}

/// Undoes what rounding did to a convex combination of points: on the simplex the sum is made 1 again.
pub(crate) fn into_domain(domain: Domain, mean: &Tensor) -> Result<Tensor> {
    match domain.sums_to_one() {
        true => Ok(mean.broadcast_div(&mean.sum_keepdim(D::Minus1)?)?),
        false => Ok(mean.clone()),
    }
}

/// Points evaluated once around a pivot; the product of two of these is an all-pairs matrix.
#[derive(Debug, Clone)]
pub(crate) struct Evaluated {
    /// x − μ, `[n, d]`.
    pub shifted: Tensor,
    /// φ_μ(x), `[n]`.
    pub value: Tensor,
    /// ∇φ_μ(x), `[n, d]`.
    pub grad: Tensor,
}

impl Evaluated {
    /// φ_μ and ∇φ_μ at each row of `x`.
    pub fn new(phi: &dyn Generator, x: &Tensor, pivot: &Tensor) -> Result<Self> {
        let (value, grad) = phi.centered(x, pivot)?; // [n], [n, d]
        Ok(Self { shifted: add_row(x, &pivot.squeeze(0)?.neg()?)?, value, grad })
    }

    /// ⟨∇φ_μ(x), x − μ⟩, `[n]`.
    pub fn tangent(&self) -> Result<Tensor> {
        Ok(row_dot(&self.grad, &self.shifted)?)
    }
}

/// An error that names the first row where `values` (`[n]` or `[n, d]`) overflowed.
pub(crate) fn check_finite(
    op: &'static str,
    arg: &'static str,
    what: &'static str,
    values: &Tensor,
) -> Result<()> {
    match first_not_finite(values)? {
        None => Ok(()),
        Some((at, _)) => {
            let width: usize = values.dims().iter().skip(1).product();
            Err(Error::NotFinite { op, arg, what, row: at / width.max(1) })
        }
    }
}
