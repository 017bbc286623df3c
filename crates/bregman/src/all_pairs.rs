//! All-pairs divergences as one matrix product, evaluated around the batch mean.
//!
//! With x̃ = x − μ and φ_μ as in [`mean_pivot`](crate::mean_pivot),
//! D(x_i ‖ y_j) = ⟨[x̃_i, φ_μ(x_i), 1], [−∇φ_μ(y_j), 1, ⟨∇φ_μ(y_j), ỹ_j⟩ − φ_μ(y_j)]⟩.
//! A generator that is [`phi::Factored`] brings factors of its own in their place.

use candle_core::Tensor;
use phi::Generator;

use crate::{
    Result,
    clamp::clamp,
    error::{check_partner, check_points},
    factored::Pair,
    pivot::{Evaluated, check_finite, mean_of},
};

/// All-pairs divergences, `out[i][j]` = D_φ(x_i ‖ y_j).
///
/// `x` `[n, d]`, `y` `[m, d]` → `[n, m]`, same dtype (f32 or f64) and device; non-negative, in units of φ.
/// One GEMM, φ evaluated once per row: O(nmd) time, O(nm) memory, and the backward pass is products too.
/// The pivot is the detached mean of all rows. Entries that rounding left below zero are 0 with gradient 0.
/// When `x` and `y` are the same tensor φ is evaluated once for both, and the diagonal is exactly 0, also in the
/// gradient.
///
/// For queries against items use [`Side::all_pairs`](crate::Side::all_pairs), which keeps a row per query on
/// either side. Adding the transpose of a query × item matrix mixes other queries in: for a symmetric score use
/// [`jeffreys_all_pairs`](crate::jeffreys_all_pairs).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) and kin when the tensors do not fit each other;
/// [`phi::Error::Domain`] names the first row outside the domain;
/// [`Error::NotFinite`](crate::Error::NotFinite) the first where φ or D overflows.
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], Definition 1.
/// # Examples
/// ```
/// # use {bregman::all_pairs, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
/// assert_eq!(all_pairs(&SquaredEuclidean, &x, &x)?.to_vec2::<f32>()?, [[0., 25.], [25., 0.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn all_pairs(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    check_points("all_pairs", "x", phi, x)?;
    if x.id() == y.id() {
        if let Some(pair) = Pair::new("all_pairs", phi, x, x)? {
            let divergences = pair.all_pairs()?.to_dtype(x.dtype())?;
            check_finite("all_pairs", "x", "D", &divergences)?;
            return clamp(&divergences, true);
        }
        let pivot = mean_of(phi, &[x])?;
        let points = Evaluated::new("all_pairs", "x", phi, x, &pivot)?;
        return points.divergences_within();
    }
    check_partner("all_pairs", "y", x, y, false)?;
    check_points("all_pairs", "y", phi, y)?;
    if let Some(pair) = Pair::new("all_pairs", phi, x, y)? {
        let divergences = pair.all_pairs()?.to_dtype(x.dtype())?;
        check_finite("all_pairs", "x", "D", &divergences)?;
        return clamp(&divergences, false);
    }
    let pivot = mean_of(phi, &[x, y])?;
    let first = Evaluated::new("all_pairs", "x", phi, x, &pivot)?;
    let second = Evaluated::new("all_pairs", "y", phi, y, &pivot)?;
    first.divergences(&second)
}
