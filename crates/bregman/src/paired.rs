//! Row-wise divergences D_φ(x_i ‖ y_i) = φ(x_i) − φ(y_i) − ⟨∇φ(y_i), x_i − y_i⟩ (Banerjee et al. 2005).

use candle_core::Tensor;
use dml_kernels::first_not_finite;
use phi::Generator;

use crate::{
    Result,
    error::check_partner,
    pairs::{Form, Pairs, Points},
};

/// Row-wise divergences, `out[i]` = D_φ(x_i ‖ y_i).
///
/// `x` and `y` `[n, d]` → `[n]`, same dtype (f32 or f64) and device; non-negative, in units of φ.
/// Each is computed from the difference of its two rows, to the relative precision of that
/// ([`Generator::divergence`]), in value and gradient; on the CPU in f64 and rounded once.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) and kin when the tensors do not fit each other;
/// [`phi::Error::Domain`] names the first row outside the domain;
/// [`Error::NotFinite`](crate::Error::NotFinite) the first where D overflows, [`Error::Infinite`](crate::Error::Infinite)
/// the first where it is infinite.
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
    rows("paired", Form::First, phi, x, y)
}

/// Row i with row i, in a form.
pub(crate) fn rows(
    op: &'static str,
    form: Form,
    phi: &dyn Generator,
    x: &Tensor,
    y: &Tensor,
) -> Result<Tensor> {
    let pairs = Pairs { op, phi, form, scale: 1.0, infinite: false };
    let (x, y) = (Points { arg: "x", rows: x }, Points { arg: "y", rows: y });
    pairs.check(x, y)?;
    check_partner(op, "y", x.rows, y.rows, true)?;
    let divergences = pairs.of_rows(x.rows, y.rows)?;
    match first_not_finite(&divergences)? {
        Some((row, value)) => Err(pairs.not_finite(value, (row as u32, row as u32), x, y)),
        None => Ok(divergences),
    }
}
