//! Row-wise divergences D_φ(x_i ‖ y_i) = φ(x_i) − φ(y_i) − ⟨∇φ(y_i), x_i − y_i⟩ (Banerjee et al. 2005).

use candle_core::{D, Tensor};
use phi::Generator;

use crate::{
    Result,
    clamp::clamp,
    error::{check_partner, check_points},
    factored::Pair,
    pivot::{Evaluated, check_finite, mean_of},
};

/// Row-wise divergences, `out[i]` = D_φ(x_i ‖ y_i).
///
/// `x` and `y` `[n, d]` → `[n]`, same dtype (f32 or f64) and device; non-negative, in units of φ.
/// φ is evaluated around the mean of all rows, so points far from the origin lose no digit.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) and kin when the tensors do not fit each other;
/// [`phi::Error::Domain`] names the first row outside the domain;
/// [`Error::NotFinite`](crate::Error::NotFinite) the first where φ overflows.
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], Definition 1.
/// # Examples
/// ```
/// # use {bregman::paired, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.], [1., 1.]], &Device::Cpu)?;
/// let y = Tensor::new(&[[3f32, 4.], [1., 1.]], &Device::Cpu)?;
/// assert_eq!(paired(&SquaredEuclidean, &x, &y)?.to_vec1::<f32>()?, [25., 0.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn paired(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    check_points("paired", "x", phi, x)?;
    check_partner("paired", "y", x, y, true)?;
    check_points("paired", "y", phi, y)?;
    if let Some(pair) = Pair::new("paired", phi, x, y)? {
        let divergences = pair.paired()?.to_dtype(x.dtype())?;
        check_finite("paired", "x", "D", &divergences)?;
        return clamp(&divergences, false);
    }
    let pivot = mean_of(phi, &[x, y])?;
    let first = Evaluated::new("paired", "x", phi, x, &pivot)?;
    let second = Evaluated::new("paired", "y", phi, y, &pivot)?;
    let slope = (second.grad * (x - y)?)?.sum(D::Minus1)?; // [n]
    let divergences = ((first.value - second.value)? - slope)?;
    check_finite("paired", "x", "D", &divergences)?;
    clamp(&divergences, false)
}
