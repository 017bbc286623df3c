//! Symmetric divergences: Jeffreys and Jensen–Bregman.
//!
//! Both are symmetric by their formula and keep a row per query and a column per item.

use candle_core::{D, Tensor};
use dml_kernels::matmul;
use phi::Generator;

use crate::{
    Result,
    clamp::clamp,
    error::{check_partner, check_points},
    factored::Pair,
    pivot::{Evaluated, check_finite, mean_of},
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
    check("jeffreys", phi, x, y, true)?;
    if let Some(pair) = Pair::new("jeffreys", phi, x, y)? {
        return finite("jeffreys", pair.jeffreys()?.to_dtype(x.dtype())?, false);
    }
    let (first, second) = evaluate("jeffreys", phi, x, y)?;
    let slope = (first.grad - second.grad)?; // [n, d]
    finite("jeffreys", (slope * (x - y)?)?.sum(D::Minus1)?, false)
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
    check("jeffreys_all_pairs", phi, x, y, false)?;
    if let Some(pair) = Pair::new("jeffreys_all_pairs", phi, x, y)? {
        let divergences = pair.jeffreys_all_pairs()?.to_dtype(x.dtype())?;
        return finite("jeffreys_all_pairs", divergences, x.id() == y.id());
    }
    let (first, second) = evaluate("jeffreys_all_pairs", phi, x, y)?;
    let ones = |e: &Evaluated| e.value.ones_like().map(|t| t.detach().unsqueeze(1));
    let left = Tensor::cat(
        &[
            &first.grad.contiguous()?,
            &first.shifted.contiguous()?,
            &first.tangent()?.unsqueeze(1)?,
            &ones(&first)??,
        ],
        1,
    )?; // [n, 2d+2]
    let right = Tensor::cat(
        &[
            &second.shifted.neg()?.contiguous()?,
            &second.grad.neg()?.contiguous()?,
            &ones(&second)??,
            &second.tangent()?.unsqueeze(1)?,
        ],
        1,
    )?; // [m, 2d+2]
    finite("jeffreys_all_pairs", matmul(&left, &right.t()?)?, x.id() == y.id())
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
    check("jensen_bregman", phi, x, y, true)?;
    let pivot = mean_of(phi, &[x, y])?;
    let value = |arg, points: &Tensor| value_at("jensen_bregman", arg, phi, points, &pivot);
    let ends = ((value("x", x)? + value("y", y)?)? * 0.5)?; // [n]
    clamp(&(ends - value("midpoint", &((x + y)? * 0.5)?)?)?, false)
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
    let pivot = mean_of(phi, &[x, y])?;
    let value_x = value_at(op, "x", phi, x, &pivot)?.unsqueeze(1)?; // [n, 1]
    let value_y = value_at(op, "y", phi, y, &pivot)?.unsqueeze(0)?; // [1, m]
    let ends = (value_x.broadcast_add(&value_y)? * 0.5)?; // [n, m]
    let columns = (y * 0.5)?.unsqueeze(0)?; // [1, m, d]
    let step = (MIDPOINT_BLOCK / (m * d)).clamp(1, n);
    let mut blocks = Vec::with_capacity(n.div_ceil(step));
    for start in (0..n).step_by(step) {
        let rows = step.min(n - start);
        let midpoints = (x.narrow(0, start, rows)? * 0.5)?.unsqueeze(1)?.broadcast_add(&columns)?;
        let midpoints = midpoints.reshape((rows * m, d))?;
        blocks.push(value_at(op, "midpoint", phi, &midpoints, &pivot)?.reshape((rows, m))?);
    }
    clamp(&(ends - Tensor::cat(&blocks, 0)?)?, x.id() == y.id())
}

fn check(op: &'static str, phi: &dyn Generator, x: &Tensor, y: &Tensor, same_rows: bool) -> Result<()> {
    check_points(op, "x", phi, x)?;
    check_partner(op, "y", x, y, same_rows)?;
    check_points(op, "y", phi, y)
}

/// The clamped divergences, or an error that names the first row where one overflowed.
fn finite(op: &'static str, divergences: Tensor, zero_diagonal: bool) -> Result<Tensor> {
    check_finite(op, "x", "D", &divergences)?;
    clamp(&divergences, zero_diagonal)
}

fn value_at(
    op: &'static str,
    arg: &'static str,
    phi: &dyn Generator,
    x: &Tensor,
    pivot: &Tensor,
) -> Result<Tensor> {
    let value = phi.centered(x, pivot)?.0;
    check_finite(op, arg, "φ", &value)?;
    Ok(value)
}

fn evaluate(op: &'static str, phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<(Evaluated, Evaluated)> {
    let pivot = mean_of(phi, &[x, y])?;
    let first = Evaluated::new(op, "x", phi, x, &pivot)?;
    let second = if x.id() == y.id() { first.clone() } else { Evaluated::new(op, "y", phi, y, &pivot)? };
    Ok((first, second))
}
