//! All-pairs divergences.

use candle_core::Tensor;
use phi::Generator;

use crate::{
    Result,
    pairs::{Form, Pairs, Points},
};

/// All-pairs divergences, `out[i][j]` = D_φ(x_i ‖ y_j).
///
/// `x` `[n, d]`, `y` `[m, d]` → `[n, m]`, same dtype (f32 or f64) and device; non-negative, in units of φ, each entry and
/// its gradient to four digits in f32 and nine in f64, however small it is beside the others.
/// One GEMM, φ evaluated once per row: O(nmd) time, O(nm) memory, and the backward pass is products too. Entries that
/// are next to nothing beside what the product adds up, such as those of close points in two clusters far apart, are
/// computed anew pair by pair.
/// When `x` and `y` are the same tensor φ is evaluated once for both, and the diagonal is exactly 0, also in the
/// gradient.
///
/// Rows of either argument may lie on the border of the domain where D is finite there, as Kullback–Leibler's is where
/// y_j > 0 wherever x_j > 0.
///
/// For queries against items use [`Side::all_pairs`](crate::Side::all_pairs), which keeps a row per query on
/// either side. Adding the transpose of a query × item matrix mixes other queries in: for a symmetric score use
/// [`jeffreys_all_pairs`](crate::jeffreys_all_pairs).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) and kin when the tensors do not fit each other;
/// [`phi::Error::Domain`] names the first row outside the domain;
/// [`Error::NotFinite`](crate::Error::NotFinite) the first where D overflows, [`Error::Infinite`](crate::Error::Infinite)
/// the first two rows whose D is infinite.
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
    let pairs = Pairs { op: "all_pairs", phi, form: Form::First, scale: 1.0, infinite: false };
    Ok(pairs.matrix(Points { arg: "x", rows: x }, Points { arg: "y", rows: y })?.tensor()?)
}
