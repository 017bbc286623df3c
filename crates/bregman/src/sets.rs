//! Divergences between sets of points, taken as empirical distributions: the functional Bregman divergence
//!
//! D_Φ(p ‖ q) = Φ(p) − Φ(q) − δΦ(q)\[p − q\]   (Frigyik, Srivastava and Gupta 2008)
//!
//! for three convex functionals Φ:
//!
//! - Φ(p) = φ(E_p x): the divergence of the means, [`mean_divergence`];
//! - E over independent pairs of D_φ, [`expected_divergence`]: the divergence of the means and the Bregman information
//!   of p on top, plus how the gradients scatter in q;
//! - Φ(p) = max_k E_p\[w_k\] for functions w_1 … w_K, learned as networks: [`functional_paired`] and
//!   [`functional_all_pairs`] over the sets' mean scores (deep divergence, Cilingir et al. 2020).

use candle_core::{D, Device, Tensor};
use phi::Generator;

use crate::{
    Error, Result,
    error::{check_float, check_partner, check_points},
    paired,
    pivot::{Evaluated, center_of, check_finite, into_domain},
    right_centroid,
};

/// The mean of each set: rows `[n, c]` of points or scores and the set of each row → `[sets, c]`, with gradients.
///
/// Row i belongs to set `membership[i]`; one matrix product, in the backward pass too.
///
/// # Errors
/// [`Error::Shape`] when `x` is not `[n, c]` or `membership` has another length; [`Error::Entry`] names a row of a
/// set that does not exist, or a set without rows.
/// # Examples
/// ```
/// # use {bregman::sets::set_means, candle_core::{Device, Tensor}};
/// let x = Tensor::new(&[[0f32, 2.], [5., 5.], [4., 6.]], &Device::Cpu)?;
/// assert_eq!(set_means(&x, &[0, 1, 0], 2)?.to_vec2::<f32>()?, [[2., 4.], [5., 5.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn set_means(x: &Tensor, membership: &[usize], sets: usize) -> Result<Tensor> {
    let op = "set_means";
    check_float(op, "x", x)?;
    phi::Domain::Reals.check(op, "x", x)?;
    let n = x.dims()[0];
    if membership.len() != n {
        let (got, expected) = (vec![membership.len()], format!("[{n}], a set per row of `x`"));
        return Err(Error::Shape { op, arg: "membership", got, expected });
    }
    if sets > n {
        let (got, expected) = (sets.to_string(), format!("at most {n}, a row of `x` for each set"));
        return Err(Error::Config { op, field: "sets", got, expected });
    }
    let mut counts = vec![0usize; sets];
    for (index, &set) in membership.iter().enumerate() {
        match counts.get_mut(set) {
            Some(count) => *count += 1,
            None => {
                let (got, expected) = (set.to_string(), format!("below the number of sets, {sets}"));
                return Err(Error::Entry { op, arg: "membership", index, got, expected });
            }
        }
    }
    if let Some(index) = counts.iter().position(|count| *count == 0) {
        let (got, expected) = ("empty".to_owned(), "one row at least".to_owned());
        return Err(Error::Entry { op, arg: "sets", index, got, expected });
    }
    let mut average = vec![0.0f64; sets * n];
    for (i, &set) in membership.iter().enumerate() {
        average[set * n + i] = 1.0 / counts[set] as f64;
    }
    let average = Tensor::from_vec(average, (sets, n), &Device::Cpu)?;
    let average = average.to_dtype(x.dtype())?.to_device(x.device())?;
    Ok(average.matmul(&x.contiguous()?)?)
}

/// D_φ(E_p x ‖ E_q x), the divergence of the means of two sets: `p` `[n, d]`, `q` `[m, d]` → a scalar.
///
/// Zero between different sets of equal mean; for many sets give [`set_means`] to
/// [`all_pairs`](crate::all_pairs).
///
/// # Errors
/// As [`all_pairs`](crate::all_pairs).
/// # Source
/// Frigyik et al. 2008 \[frigyik2008\], with Φ(p) = φ(E_p x).
/// # Examples
/// ```
/// # use {bregman::sets::mean_divergence, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let p = Tensor::new(&[[0f32, 0.], [2., 0.]], &Device::Cpu)?;
/// let q = Tensor::new(&[[4f32, 4.]], &Device::Cpu)?;
/// assert_eq!(mean_divergence(&SquaredEuclidean, &p, &q)?.to_scalar::<f32>()?, 25.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn mean_divergence(phi: &dyn Generator, p: &Tensor, q: &Tensor) -> Result<Tensor> {
    check("mean_divergence", phi, p, q)?;
    let mean = |x: &Tensor| into_domain(phi.domain(), &right_centroid(x, None)?);
    Ok(paired(phi, &mean(p)?, &mean(q)?)?.reshape(())?)
}

/// E D_φ(x ‖ y) over independent x ∈ p, y ∈ q: `p` `[n, d]`, `q` `[m, d]` → a scalar.
///
/// The mean of all n·m divergences, in O((n+m)·d): the sum over pairs separates. Not zero between a set and
/// itself, but its scatter (twice the variance for ‖x‖²).
///
/// # Errors
/// As [`all_pairs`](crate::all_pairs).
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], the decomposition of Theorem 1 taken over both arguments.
/// # Examples
/// ```
/// # use {bregman::sets::expected_divergence, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let p = Tensor::new(&[[0f32], [2.]], &Device::Cpu)?;
/// assert_eq!(expected_divergence(&SquaredEuclidean, &p, &p)?.to_scalar::<f32>()?, 2.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn expected_divergence(phi: &dyn Generator, p: &Tensor, q: &Tensor) -> Result<Tensor> {
    let op = "expected_divergence";
    check(op, phi, p, q)?;
    let pivot = center_of(phi, &[p, q])?;
    let (first, second) = (Evaluated::new(phi, p, &pivot)?, Evaluated::new(phi, q, &pivot)?);
    let constant = (second.tangent()? - &second.value)?.mean_all()?;
    let cross = right_centroid(&first.shifted, None)? * right_centroid(&second.grad, None)?; // [1, d]
    let expected = ((first.value.mean_all()? + constant)? - cross?.sum_all()?)?;
    let expected = expected.reshape(1)?;
    check_finite(op, "p", "D", &expected)?;
    Ok(expected.relu()?.reshape(())?)
}

/// Row by row the deep divergence of sets: `out[i]` = max_k P_ik − P_i,κ(Q_i) with κ(Q_i) = argmax_k Q_ik.
///
/// `p` and `q` `[s, K]`: row i holds E_{p_i}\[w_k\] and E_{q_i}\[w_k\], as [`set_means`] gives them (sets of one
/// point are points) → `[s]`, non-negative. How far the function that is largest on q falls short on p: with
/// Φ(p) = max_k E_p\[w_k\] the tangent at q is E\[w_κ(q)\]. Of equal scores the first counts as the largest.
///
/// # Errors
/// [`Error::Shape`] and kin when the scores do not fit each other; [`phi::Error::Domain`] names a row with NaN.
/// # Source
/// Cilingir et al. 2020 \[cilingir2020\], Section 3.
/// # Examples
/// ```
/// # use {bregman::sets::functional_paired, candle_core::{Device, Tensor}};
/// let p = Tensor::new(&[[5f32, 1.], [5., 1.]], &Device::Cpu)?;
/// let q = Tensor::new(&[[0f32, 9.], [3., 2.]], &Device::Cpu)?;
/// assert_eq!(functional_paired(&p, &q)?.to_vec1::<f32>()?, [4., 0.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn functional_paired(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    check_scores("functional_paired", p, q, true)?;
    let at_q = p.contiguous()?.gather(&largest(q)?.unsqueeze(1)?, 1)?; // [s, 1]
    Ok((largest_score(p)? - at_q)?.squeeze(1)?)
}

/// All pairs of sets under the deep divergence: `out[i][j]` = max_k P_ik − P_i,κ(Q_j) with κ(Q_j) = argmax_k Q_jk.
///
/// `p` `[s, K]`, `q` `[t, K]`, mean scores as in [`functional_paired`] → `[s, t]`, non-negative. No point is looked
/// at again: O(s·t) time and memory.
///
/// # Errors
/// As [`functional_paired`].
/// # Source
/// Cilingir et al. 2020 \[cilingir2020\], Section 3.
/// # Examples
/// ```
/// # use {bregman::sets::{functional_all_pairs, set_means}, candle_core::{Device, Tensor}};
/// let scores = Tensor::new(&[[5f32, 1.], [3., 3.], [0., 9.]], &Device::Cpu)?; // w_k at three points
/// let sets = set_means(&scores, &[0, 0, 1], 2)?; // two sets
/// assert_eq!(functional_all_pairs(&sets, &sets)?.to_vec2::<f32>()?, [[0., 2.], [9., 0.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn functional_all_pairs(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    check_scores("functional_all_pairs", p, q, false)?;
    let at_q = p.contiguous()?.index_select(&largest(q)?, 1)?; // [s, t]
    Ok(largest_score(p)?.broadcast_sub(&at_q)?)
}

/// The column of each row's largest score, the first of equals: `[s]`.
fn largest(scores: &Tensor) -> Result<Tensor> {
    Ok(scores.detach().contiguous()?.argmax(1)?)
}

/// Each row's largest score, whose gradient goes to the first of equals (`max` gives it to all): `[s, 1]`.
fn largest_score(scores: &Tensor) -> Result<Tensor> {
    Ok(scores.contiguous()?.gather(&largest(scores)?.unsqueeze(D::Minus1)?, 1)?)
}

fn check(op: &'static str, phi: &dyn Generator, p: &Tensor, q: &Tensor) -> Result<()> {
    check_points(op, "p", phi, p)?;
    check_partner(op, "q", p, q, false)?;
    check_points(op, "q", phi, q)
}

fn check_scores(op: &'static str, p: &Tensor, q: &Tensor, same_rows: bool) -> Result<()> {
    check_float(op, "p", p)?;
    phi::Domain::Reals.check(op, "p", p)?;
    check_partner(op, "q", p, q, same_rows)?;
    Ok(phi::Domain::Reals.check(op, "q", q)?)
}
