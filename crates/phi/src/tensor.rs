//! Small tensor helpers whose backward pass is made of matrix products and last-dimension sums only.
//!
//! candle differentiates a broadcast by summing over the leading dimension, which is one to two orders of
//! magnitude slower than the same sum written as a product with a column of ones.

use candle_core::{D, DType, Device, Tensor, Var};
use dml_kernels::matmul;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, Uniform};

use crate::{Error, Result};

/// `v` `[k]` repeated in each of `n` rows: `[k]` → `[n, k]`.
pub(crate) fn rows(v: &Tensor, n: usize) -> Result<Tensor> {
    let ones = Tensor::ones((n, 1), v.dtype(), v.device())?; // [n, 1]
    Ok(matmul(&ones, &v.unsqueeze(0)?)?) // [n, k]
}

/// x·Wᵀ + b, row by row and in the dtype of `x`: `x` `[n, d]`, `weight` `[k, d]`, `bias` `[k]` → `[n, k]`.
pub(crate) fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (weight, bias) = (weight.to_dtype(x.dtype())?, bias.to_dtype(x.dtype())?);
    Ok((matmul(x, &weight.t()?)? + rows(&bias, x.dim(0)?)?)?)
}

/// ⟨h_i, a⟩ for each row of `h` `[n, k]`, `a` `[k]` → `[n]`.
pub(crate) fn dot(h: &Tensor, a: &Tensor) -> Result<Tensor> {
    Ok(matmul(h, &a.unsqueeze(1)?)?.squeeze(1)?)
}

/// ‖x_i‖² for each row: `[n, d]` → `[n]`.
pub(crate) fn squared_norm(x: &Tensor) -> Result<Tensor> {
    Ok(x.sqr()?.sum(D::Minus1)?)
}

/// x − μ for each row, `x` `[n, d]`, `pivot` `[1, d]` → `[n, d]`.
pub(crate) fn shift(x: &Tensor, pivot: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_sub(pivot)?)
}

/// f64 on the CPU, so that differences far from the origin keep their digits; elsewhere the tensor as it is.
pub(crate) fn widened(t: &Tensor) -> Result<Tensor> {
    Ok(if t.device().is_cpu() { t.to_dtype(DType::F64)? } else { t.clone() })
}

/// A centred form evaluated on [`widened`] points and rounded once: for functions that cost O(nd), where f64 is
/// cheaper than the digits it saves.
pub(crate) fn rounded_once(
    x: &Tensor,
    pivot: &Tensor,
    form: impl FnOnce(&Tensor, &Tensor) -> Result<(Tensor, Tensor)>,
) -> Result<(Tensor, Tensor)> {
    let (value, grad) = form(&widened(x)?, &widened(pivot)?)?;
    Ok((value.to_dtype(x.dtype())?, grad.to_dtype(x.dtype())?))
}

/// Checks that the pivot is one row, `[1, d]`, with the d of `x` `[n, d]`.
pub(crate) fn check_pivot(op: &'static str, x: &Tensor, pivot: &Tensor) -> Result<()> {
    let d = x.dims2().map_err(|_| Error::Shape {
        op,
        arg: "x",
        got: x.dims().to_vec(),
        expected: "[n, d]".to_owned(),
    })?;
    if pivot.dims() == [1, d.1] {
        return Ok(());
    }
    let expected = format!("[1, {}], one row as wide as `x`", d.1);
    Err(Error::Shape { op, arg: "pivot", got: pivot.dims().to_vec(), expected })
}

/// The winner of each row as a constant 0/1 mask, the first where several tie: `[n, k]` → `[n, k]`.
pub(crate) fn winner(scores: &Tensor) -> Result<Tensor> {
    let (n, k) = scores.dims2()?;
    let best = scores.detach().argmax_keepdim(D::Minus1)?; // [n, 1]
    let index = Tensor::arange(0u32, u32::try_from(k).unwrap_or(u32::MAX), scores.device())?; // [k]
    Ok(index.unsqueeze(0)?.broadcast_as((n, k))?.broadcast_eq(&best)?.to_dtype(scores.dtype())?)
}

/// log Σ_k exp(s_k) and the softmax, row by row: `[n, k]` → (`[n]`, `[n, k]`).
pub(crate) fn log_sum_exp(s: &Tensor) -> Result<(Tensor, Tensor)> {
    // The maximum is a constant here: it cancels from value and gradient exactly.
    let top = s.detach().max_keepdim(D::Minus1)?; // [n, 1]
    let e = s.broadcast_sub(&top)?.exp()?; // [n, k]
    let total = e.sum_keepdim(D::Minus1)?; // [n, 1]
    let value = (total.log()? + top)?.squeeze(1)?;
    Ok((value, e.broadcast_div(&total)?))
}

/// Where |v| < `bound` a 1, elsewhere a 0, as a constant of v's type.
fn near(v: &Tensor, bound: f64) -> Result<Tensor> {
    Ok(v.detach().abs()?.lt(bound)?.to_dtype(v.dtype())?)
}

/// log(1 + r) to full relative precision, r > −1, elementwise and differentiable.
pub(crate) fn ln_1p(r: &Tensor) -> Result<Tensor> {
    let small = near(r, 0.3)?;
    let big = small.affine(-1.0, 1.0)?;
    let direct = ((r * &big)? + 1.0)?.log()?; // log 1 = 0 where the other branch holds: no NaN in either
    Ok((ln_1p_series(&(r * small)?)? + direct)?)
}

/// log(x/μ) to full relative precision, also for x close to μ or far below it: x `[n, d]`, μ `[1, d]` → `[n, d]`.
pub(crate) fn ln_ratio(x: &Tensor, pivot: &Tensor) -> Result<Tensor> {
    let r = x.broadcast_sub(pivot)?.broadcast_div(pivot)?;
    let small = near(&r, 0.3)?;
    let big = small.affine(-1.0, 1.0)?;
    let direct = ((x.broadcast_div(pivot)? * big)? + &small)?.log()?;
    Ok((ln_1p_series(&(r * small)?)? + direct)?)
}

/// log(1 + r) for |r| < 0.3 as the series of 2·artanh(q), q = r/(2 + r): |q| < 0.18, twelve terms reach f64.
fn ln_1p_series(inner: &Tensor) -> Result<Tensor> {
    let q = (inner / (inner + 2.0)?)?;
    let q2 = q.sqr()?;
    let mut series = q2.affine(1.0 / 23.0, 1.0 / 21.0)?;
    for odd in [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = (series * &q2)?.affine(1.0, 1.0 / odd)?;
    }
    Ok(((series * q)? * 2.0)?)
}

/// eᵛ − 1 to full relative precision, elementwise and differentiable.
pub(crate) fn exp_m1(v: &Tensor) -> Result<Tensor> {
    let small = near(v, 0.5)?;
    let big = small.affine(-1.0, 1.0)?;
    let inner = (v * &small)?;
    // Σ_{k≥1} vᵏ/k!, fourteen terms: 0.5¹⁴/15! is below the round-off of f64.
    let mut series = inner.affine(1.0 / 14.0, 1.0)?;
    for k in (2..14).rev() {
        series = (series * &inner)?.affine(1.0 / f64::from(k), 1.0)?;
    }
    let direct = ((v * &big)?.exp()? - 1.0)?;
    Ok(((series * inner)? + direct)?)
}

/// Every random number of this crate: one ChaCha8 stream a seed, drawn in f64 on the host.
#[derive(Debug)]
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(crate) fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// Uniform on [lo, hi); `lo` where the interval is empty.
    pub(crate) fn uniform(&mut self, lo: f64, hi: f64) -> f64 {
        Uniform::new(lo, hi).map_or(lo, |u| u.sample(&mut self.0))
    }

    /// A variable whose entries are drawn in row-major order.
    pub(crate) fn var(
        &mut self,
        shape: &[usize],
        (dtype, device): (DType, &Device),
        mut entry: impl FnMut(&mut Self) -> f64,
    ) -> Result<Var> {
        let count = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|_| entry(self)).collect();
        constant_var(values, shape, (dtype, device))
    }
}

/// A variable with the given entries, row-major.
pub(crate) fn constant_var(
    values: Vec<f64>,
    shape: &[usize],
    (dtype, device): (DType, &Device),
) -> Result<Var> {
    let host = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?;
    Ok(Var::from_tensor(&host.to_device(device)?)?)
}

/// The entries of a tensor on the host, row-major, in f64.
pub(crate) fn host(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// The inverse of softplus, log(eᵃ − 1) for a > 0.
pub(crate) fn softplus_inverse(a: f64) -> f64 {
    a + (-(-a).exp_m1()).ln()
}

/// A given parameter tensor as a variable, checked: finite, of the expected shape.
pub(crate) fn parameter(
    op: &'static str,
    arg: &'static str,
    tensor: &Tensor,
    expected: &[usize],
) -> Result<Var> {
    if tensor.dims() != expected || expected.contains(&0) {
        let expected = format!("{expected:?}");
        return Err(Error::Shape { op, arg, got: tensor.dims().to_vec(), expected });
    }
    if let Some((row, value)) = host(tensor)?.into_iter().enumerate().find(|(_, v)| !v.is_finite()) {
        let row = row / expected.last().copied().unwrap_or(1);
        return Err(Error::Domain { op, arg, row, value, domain: crate::Domain::Reals.describe() });
    }
    Ok(Var::from_tensor(&tensor.detach())?)
}

/// An [`Error::Config`] unless `holds`.
pub(crate) fn require(
    holds: bool,
    generator: &'static str,
    field: &'static str,
    got: impl std::fmt::Debug,
    expected: &'static str,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Config { generator, field, got: format!("{got:?}"), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_1p_and_exp_m1_keep_every_digit() -> Result<()> {
        let v = [-0.9, -0.31, -0.29, -1e-3, -1e-12, 0.0, 1e-15, 1e-5, 0.2, 0.299, 0.301, 0.49, 0.51, 7.0];
        let t = Tensor::new(&v, &Device::Cpu)?;
        for ((got, want), v) in host(&ln_1p(&t)?)?.iter().zip(v.map(f64::ln_1p)).zip(v) {
            assert!((got - want).abs() <= 4e-16 * want.abs(), "ln_1p({v}): {got} for {want}");
        }
        for ((got, want), v) in host(&exp_m1(&t)?)?.iter().zip(v.map(f64::exp_m1)).zip(v) {
            assert!((got - want).abs() <= 4e-16 * want.abs(), "exp_m1({v}): {got} for {want}");
        }
        Ok(())
    }

    #[test]
    fn the_first_of_several_winners_wins() -> Result<()> {
        let mask = winner(&Tensor::new(&[[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]], &Device::Cpu)?)?;
        assert_eq!(mask.to_vec2::<f64>()?, [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]);
        Ok(())
    }

    #[test]
    fn softplus_inverse_inverts_small_and_large() {
        for a in [1e-9, 0.014, 1.0, 40.0] {
            let back = softplus_inverse(a).exp().ln_1p();
            assert!((back - a).abs() <= 1e-12 * a, "{a} came back as {back}");
        }
    }
}
