//! Evaluation around a pivot μ, so that no digit is lost when φ is large and D small.
//!
//! D_φ is unchanged when an affine function is added to φ, so everywhere in this crate
//! φ_μ(x) = φ(x) − φ(μ) − ⟨∇φ(μ), x − μ⟩ takes the place of φ and x − μ that of x, with μ the mean of the points.
//! Then D(x ‖ y) = φ_μ(x) − ⟨∇φ_μ(y), x − μ⟩ + (⟨∇φ_μ(y), y − μ⟩ − φ_μ(y)), and each term has the size of the
//! divergences themselves, however far from the origin the points lie. Where divergences are of very different sizes
//! that is not enough, and the generator brings factors of its own: see `factored.rs`.

use candle_core::{D, DType, Tensor};
use dml_kernels::{
    add_row, cross_divergences, first_not_finite, largest_magnitude, row_dot, self_divergences, sum_leading,
};
use phi::{Domain, Generator};

use crate::{Error, Result, error::check_points};

/// The mean of the rows as a pivot: `[n, d]` → `[1, d]`, without gradient, inside the domain of `phi`.
///
/// # Errors
/// When `x` is empty, of the wrong shape or dtype, or holds a row outside the domain.
/// # Examples
/// ```
/// # use {bregman::mean_pivot, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
/// assert_eq!(mean_pivot(&SquaredEuclidean, &x)?.to_vec2::<f32>()?, [[1.5, 2.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn mean_pivot(phi: &dyn Generator, x: &Tensor) -> Result<Tensor> {
    check_points("mean_pivot", "x", phi, x)?;
    mean_of(phi, &[x])
}

/// The mean of the rows of all `parts` together, inside the domain, detached: `[1, d]`.
pub(crate) fn mean_of(phi: &dyn Generator, parts: &[&Tensor]) -> Result<Tensor> {
    let rows = parts.iter().map(|x| x.dims()[0]).sum::<usize>();
    let mut sum: Option<Tensor> = None;
    for x in parts {
        let part = sum_leading(&x.detach())?; // [d]
        sum = Some(match sum {
            None => part,
            Some(sum) => (sum + part)?,
        });
    }
    let sum = sum.ok_or_else(|| candle_core::Error::Msg("mean of no points".to_owned()))?;
    let mean = into_domain(phi.domain(), &(sum * (1.0 / rows as f64))?.unsqueeze(0)?)?; // [1, d]
    // Any point of the domain will do. The mean of coordinates next to the smallest positive number can round to 0,
    // and the sum of those next to the largest overflows.
    match phi.domain().check("mean_pivot", "mean", &mean) {
        Ok(()) => Ok(mean),
        Err(_) => Ok(parts[0].detach().narrow(0, 0, 1)?.contiguous()?),
    }
}

/// Undoes what rounding did to a convex combination of points: on the simplex the sum is made 1 again.
pub(crate) fn into_domain(domain: Domain, mean: &Tensor) -> Result<Tensor> {
    match domain {
        Domain::Simplex => Ok(mean.broadcast_div(&mean.sum_keepdim(D::Minus1)?)?),
        _ => Ok(mean.clone()),
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
    /// The largest |entry| of each of them.
    largest: [f64; 3],
    /// The function called and its argument, for errors.
    source: (&'static str, &'static str),
}

impl Evaluated {
    /// φ_μ and ∇φ_μ at each row of `x`.
    pub fn new(
        op: &'static str,
        arg: &'static str,
        phi: &dyn Generator,
        x: &Tensor,
        pivot: &Tensor,
    ) -> Result<Self> {
        let (value, grad) = phi.centered(x, pivot)?; // [n], [n, d]
        let of_value = largest_of(op, arg, "φ", &value)?;
        let of_grad = largest_of(op, arg, "∇φ", &grad)?;
        let shifted = add_row(x, &pivot.squeeze(0)?.neg()?)?;
        let of_shift = largest_of(op, arg, "x − μ", &shifted)?;
        Ok(Self { shifted, value, grad, largest: [of_shift, of_value, of_grad], source: (op, arg) })
    }

    /// ⟨∇φ_μ(x), x − μ⟩, `[n]`.
    pub fn tangent(&self) -> Result<Tensor> {
        Ok(row_dot(&self.grad, &self.shifted)?)
    }

    /// D(self_i ‖ other_j), `[n, m]`, no entry below 0.
    pub fn divergences(&self, other: &Self) -> Result<Tensor> {
        let offset = (other.tangent()? - &other.value)?; // [m]
        let divergences = cross_divergences(&self.shifted, &self.value, &other.grad, &offset)?;
        self.check_sums(other, &divergences)?;
        Ok(divergences)
    }

    /// D(self_i ‖ self_j), `[n, n]`, no entry below 0 and a diagonal of zeros.
    pub fn divergences_within(&self) -> Result<Tensor> {
        let divergences = self_divergences(&self.shifted, &self.value, &self.grad)?;
        self.check_sums(self, &divergences)?;
        Ok(divergences)
    }

    /// An error where sums of finite terms overflowed. The matrix is looked at only where they can.
    fn check_sums(&self, other: &Self, divergences: &Tensor) -> Result<()> {
        let ([shift, value, _], [at, offset, slope]) = (self.largest, other.largest);
        let d = self.shifted.dims()[1] as f64;
        let range = if divergences.dtype() == DType::F32 { f64::from(f32::MAX) } else { f64::MAX };
        // Each term on its own scale, so that the bound does not overflow in its turn.
        let bound = value / range + offset / range + (slope / range) * d * (shift + at);
        if bound < 0.125 {
            return Ok(());
        }
        let (op, arg) = self.source;
        check_finite(op, arg, "D", divergences)
    }
}

/// The largest |entry| of `values`, or the error of [`check_finite`].
fn largest_of(op: &'static str, arg: &'static str, what: &'static str, values: &Tensor) -> Result<f64> {
    if let Some(largest) = largest_magnitude(values)? {
        return Ok(largest);
    }
    check_finite(op, arg, what, values)?;
    Ok(f64::INFINITY)
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
