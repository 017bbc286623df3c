//! Symmetric divergences: Jeffreys and Jensen–Bregman.
//!
//! Both are symmetric by their formula and keep a row per query and a column per item.

use candle_core::Tensor;
use dml_kernels::PairMatrix;
use phi::Generator;

use crate::{
    Result,
    error::{check_float, check_partner},
    paired::rows,
    pairs::{Form, Pairs, Points, widened},
    pivot::check_finite,
};

/// How many coordinates of midpoints [`jensen_bregman_all_pairs`] hands to φ at a time: 16 MiB of f32.
const MIDPOINT_BLOCK: usize = 1 << 22;

/// Row-wise Jeffreys divergences, `out[i]` = D_φ(x_i ‖ y_i) + D_φ(y_i ‖ x_i) = ⟨∇φ(x_i) − ∇φ(y_i), x_i − y_i⟩.
///
/// `x` and `y` `[n, d]` → `[n]`, non-negative, in units of φ; the sum of both directions, not their mean.
///
/// # Errors
/// As [`paired`](crate::paired).
/// # Source
/// Jeffreys 1946 \[jeffreys1946\] for the Kullback–Leibler divergence.
/// # Examples
/// ```
/// # use {bregman::jeffreys, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.]], &Device::Cpu)?;
/// let y = Tensor::new(&[[3f32, 4.]], &Device::Cpu)?;
/// assert_eq!(jeffreys(&SquaredEuclidean, &x, &y)?.to_vec1::<f32>()?, [50.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn jeffreys(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    rows("jeffreys", Form::Jeffreys, phi, x, y)
}

/// All-pairs Jeffreys divergences, `out[i][j]` = D_φ(x_i ‖ y_j) + D_φ(y_j ‖ x_i).
///
/// `x` `[n, d]`, `y` `[m, d]` → `[n, m]`, non-negative; one GEMM of inner size 2d+2, φ evaluated once per row.
/// The second term is taken with the pair's own roles exchanged, so a query × item matrix mixes in no other
/// query. With the same tensor twice the diagonal is exactly 0.
///
/// # Errors
/// As [`all_pairs`](crate::all_pairs).
/// # Source
/// Jeffreys 1946 \[jeffreys1946\] for the Kullback–Leibler divergence.
/// # Examples
/// ```
/// # use {bregman::jeffreys_all_pairs, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let queries = Tensor::new(&[[0f32, 0.]], &Device::Cpu)?;
/// let items = Tensor::new(&[[4f32, 4.], [2., 2.], [-3., 0.]], &Device::Cpu)?;
/// let d = jeffreys_all_pairs(&SquaredEuclidean, &queries, &items)?;
/// assert_eq!(d.round()?.to_vec2::<f32>()?, [[64., 16., 18.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn jeffreys_all_pairs(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok(jeffreys_pairs(phi, x, y, 1.0)?.tensor()?)
}

/// `scale`·(D_φ(x_i ‖ y_j) + D_φ(y_j ‖ x_i)) with the way back from the gradient of the matrix to the rows; a scale of ½
/// makes the mean of both directions.
///
/// # Errors
/// As [`all_pairs`](crate::all_pairs).
pub fn jeffreys_pairs(phi: &dyn Generator, x: &Tensor, y: &Tensor, scale: f64) -> Result<PairMatrix> {
    let pairs = Pairs { op: "jeffreys_all_pairs", phi, form: Form::Jeffreys, scale, infinite: false };
    pairs.matrix(Points { arg: "x", rows: x }, Points { arg: "y", rows: y })
}

/// Row-wise Jensen–Bregman divergences, `out[i]` = ½φ(x_i) + ½φ(y_i) − φ(½x_i + ½y_i).
///
/// `x` and `y` `[n, d]` → `[n]`, non-negative, in units of φ. For the negative entropy this is the
/// Jensen–Shannon divergence; for ‖x‖² it is ‖x − y‖²/4.
///
/// # Errors
/// As [`paired`](crate::paired).
/// # Source
/// Nielsen and Boltz 2011 \[nielsen2011\], where it is the symmetric Burbea–Rao divergence.
/// # Examples
/// ```
/// # use {bregman::jensen_bregman, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.]], &Device::Cpu)?;
/// let y = Tensor::new(&[[6f32, 8.]], &Device::Cpu)?;
/// assert_eq!(jensen_bregman(&SquaredEuclidean, &x, &y)?.to_vec1::<f32>()?, [25.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn jensen_bregman(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let op = "jensen_bregman";
    check(op, phi, x, y, true)?;
    let divergences = to_midpoint(phi, x, y)?;
    check_finite(op, "x", "D", &divergences)?;
    Ok(divergences)
}

/// All-pairs Jensen–Bregman divergences, `out[i][j]` = ½φ(x_i) + ½φ(y_j) − φ(½x_i + ½y_j).
///
/// `x` `[n, d]`, `y` `[m, d]` → `[n, m]`, non-negative; with the same tensor twice the diagonal is exactly 0.
/// There is no matrix product for this one: **φ is evaluated at all n·m midpoints**, O(nmd) numbers, in blocks of
/// rows that bound the memory of a forward pass; where gradients are tracked the graph keeps every block.
/// [`jeffreys_all_pairs`] is the cheap symmetric choice.
///
/// # Errors
/// As [`all_pairs`](crate::all_pairs).
/// # Source
/// Nielsen and Boltz 2011 \[nielsen2011\].
/// # Examples
/// ```
/// # use {bregman::jensen_bregman_all_pairs, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let x = Tensor::new(&[[0f32, 0.], [6., 8.]], &Device::Cpu)?;
/// let d = jensen_bregman_all_pairs(&SquaredEuclidean, &x, &x)?;
/// assert_eq!(d.to_vec2::<f32>()?, [[0., 25.], [25., 0.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn jensen_bregman_all_pairs(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let op = "jensen_bregman_all_pairs";
    check(op, phi, x, y, false)?;
    let ((n, d), m) = (x.dims2()?, y.dims()[0]);
    let step = (MIDPOINT_BLOCK / (m * d)).clamp(1, n);
    let mut blocks = Vec::with_capacity(n.div_ceil(step));
    for start in (0..n).step_by(step) {
        let rows = step.min(n - start);
        let first =
            x.narrow(0, start, rows)?.unsqueeze(1)?.broadcast_as((rows, m, d))?.reshape((rows * m, d))?;
        let second = y.unsqueeze(0)?.broadcast_as((rows, m, d))?.reshape((rows * m, d))?;
        blocks.push(to_midpoint(phi, &first, &second)?.reshape((rows, m))?);
    }
    let divergences = Tensor::cat(&blocks, 0)?;
    check_finite(op, "x", "D", &divergences)?;
    Ok(divergences)
}

/// ½φ(x) + ½φ(y) − φ(z) at the midpoint z is ½D(x ‖ z) + ½D(y ‖ z), in which nothing cancels.
fn to_midpoint(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (x, y, dtype) = (widened(x)?, widened(y)?, x.dtype());
    let half = ((&x - &y)? * 0.5)?;
    let middle = ((&x * 0.5)? + (&y * 0.5)?)?;
    let sum = (phi.divergence(&x, &middle, &half)? + phi.divergence(&y, &middle, &half.neg()?)?)?;
    Ok((sum * 0.5)?.to_dtype(dtype)?)
}

/// The border of the domain will do: there the midpoint is inside, or all three are the same.
fn check(op: &'static str, phi: &dyn Generator, x: &Tensor, y: &Tensor, same_rows: bool) -> Result<()> {
    check_float(op, "x", x)?;
    phi.check_in(phi.closure(), op, "x", x)?;
    check_partner(op, "y", x, y, same_rows)?;
    Ok(phi.check_in(phi.closure(), op, "y", y)?)
}
