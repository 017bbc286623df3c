//! Tensor helpers with the gradients that losses want at kinks: 0 at a hinge's corner, at a root's zero and at a
//! row of zeros, and no NaN from an entry that a mask leaves out.

use candle_core::{D, DType, Device, Tensor};
use dml_kernels::{LiftedPairs, LiftedSide, PairMatrix, Pairing};

use crate::Result;

/// Rows whose norm is below this are left as they are instead of being blown up to length 1.
const LEAST_NORM: f64 = 1e-12;

/// max(x, 0) with gradient 0 at 0 (candle's `relu` gives 1 there); NaN stays NaN, so that a loss shows it.
pub(crate) fn hinge(x: &Tensor) -> Result<Tensor> {
    Ok(x.detach().le(0.0)?.where_cond(&zeros_like(x)?, x)?)
}

/// Zeros that are no part of any graph.
pub(crate) fn zeros_like(x: &Tensor) -> Result<Tensor> {
    Ok(Tensor::zeros(x.shape(), x.dtype(), x.device())?)
}

/// Ones that are no part of any graph.
pub(crate) fn ones_like(x: &Tensor) -> Result<Tensor> {
    Ok(Tensor::ones(x.shape(), x.dtype(), x.device())?)
}

/// `x` where `keep` (u8) is set, `fill` elsewhere, with gradient 0 there.
pub(crate) fn fill_unless(x: &Tensor, keep: &Tensor, fill: f64) -> Result<Tensor> {
    let fill = Tensor::full(fill, (), x.device())?.to_dtype(x.dtype())?.broadcast_as(x.shape())?;
    Ok(keep.broadcast_as(x.shape())?.contiguous()?.where_cond(x, &fill.contiguous()?)?)
}

/// |x|ᵉ elementwise for e ≥ 1, with gradient 0 at 0.
pub(crate) fn abs_pow(x: &Tensor, exponent: f64) -> Result<Tensor> {
    if exponent == 2.0 {
        return Ok(x.sqr()?);
    }
    let abs = (x * x.detach().sign()?)?;
    Ok(if exponent == 1.0 { abs } else { abs.powf(exponent)? })
}

/// xᵉ elementwise for x ≥ 0; for e < 1 with gradient 0 at 0, where it is infinite.
pub(crate) fn root(x: &Tensor, exponent: f64) -> Result<Tensor> {
    if exponent == 1.0 {
        return Ok(x.clone());
    }
    if exponent > 1.0 {
        return Ok(if exponent == 2.0 { x.sqr()? } else { x.powf(exponent)? });
    }
    let some = x.detach().le(0.0)?.eq(0u8)?; // NaN too, which stays NaN
    let safe = fill_unless(x, &some, 1.0)?;
    let power = if exponent == 0.5 { safe.sqrt()? } else { safe.powf(exponent)? };
    fill_unless(&power, &some, 0.0)
}

/// xᵉ elementwise for x of either sign, as a similarity has; even and odd powers keep their algebraic sign.
pub(crate) fn signed_power(x: &Tensor, exponent: f64) -> Result<Tensor> {
    if exponent == 1.0 {
        return Ok(x.clone());
    }
    if exponent == 2.0 {
        return Ok(x.sqr()?);
    }
    let size = root(&abs_pow(x, 1.0)?, exponent)?;
    Ok(if exponent % 2.0 == 1.0 { (size * x.detach().sign()?)? } else { size })
}

/// The p-norm of each row: `[n, d]` → `[n, 1]`, with gradient 0 at a row of zeros.
pub(crate) fn row_norm(x: &Tensor, p: f64) -> Result<Tensor> {
    root(&abs_pow(x, p)?.sum_keepdim(D::Minus1)?, 1.0 / p)
}

/// Rows divided by their p-norm. A row shorter than 1e-12 stays as it is: its direction means nothing.
pub(crate) fn normalize_rows(x: &Tensor, p: f64) -> Result<Tensor> {
    let norm = row_norm(x, p)?;
    let long = norm.detach().gt(LEAST_NORM)?;
    Ok(x.broadcast_div(&fill_unless(&norm, &long, 1.0)?)?)
}

/// Squared Euclidean distances as one matrix product around a point amid the rows: `[n, d]`, `[m, d]` → `[n, m]`, those of
/// close rows from their difference.
pub(crate) fn squared_distances(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let same = x.id() == y.id();
    let other = if same { None } else { Some(y) };
    if let Some(matrix) = PairMatrix::of_rows(x, other, Pairing::Euclidean { power: 2.0 }, false)? {
        return Ok(matrix.tensor()?);
    }
    // ‖x − y‖² = ‖x̃‖² + ‖ỹ‖² − ⟨x̃, 2ỹ⟩ around a point amid the rows.
    let pivot = dml_kernels::center(&[y])?; // [1, d]
    let lifted = |t: &Tensor| -> Result<(Tensor, Tensor)> {
        let shift = t.broadcast_sub(&pivot)?;
        let square = shift.sqr()?.sum(D::Minus1)?;
        Ok((shift, square))
    };
    let (shift, square) = lifted(x)?; // [n, d], [n]
    let (other, other_square) = if same { (shift.clone(), square.clone()) } else { lifted(y)? };
    let doubled = (other * 2.0)?;
    let left = LiftedSide { vectors: &shift, constants: &square, sizes: &square };
    let right = LiftedSide { vectors: &doubled, constants: &other_square, sizes: &other_square };
    let pairs = LiftedPairs::new(left, right, same)?;
    if pairs.lost().is_empty() {
        return Ok(pairs.complete(None)?.tensor()?);
    }
    let (rows, columns): (Vec<u32>, Vec<u32>) = pairs.lost().iter().copied().unzip();
    let of = |t: &Tensor, index: Vec<u32>| t.index_select(&Tensor::new(index, t.device())?, 0);
    let exact = (of(x, rows)? - of(y, columns)?)?.sqr()?.sum(D::Minus1)?;
    Ok(pairs.complete(Some(&exact))?.tensor()?)
}

/// Entries `(row, col)` of a matrix: `[n, m]` and k index pairs → `[k]`.
pub(crate) fn entries(matrix: &Tensor, rows: &[u32], cols: &[u32]) -> Result<Tensor> {
    let m = matrix.dim(1)?;
    let flat: Vec<u32> = rows.iter().zip(cols).map(|(&r, &c)| r * m as u32 + c).collect();
    let flat = Tensor::from_vec(flat, rows.len(), matrix.device())?;
    Ok(matrix.flatten_all()?.index_select(&flat, 0)?)
}

/// Rows of a table by index: `[n, …]` and k indices → `[k, …]`.
pub(crate) fn rows(table: &Tensor, index: &[u32]) -> Result<Tensor> {
    let index = Tensor::from_slice(index, index.len(), table.device())?;
    Ok(table.contiguous()?.index_select(&index, 0)?) // which takes no view
}

/// log Σ_j exp(x_ij) over the entries that `keep` (u8) sets: `[n, m]` → `[n, 1]`. Without `one`, a row that keeps
/// nothing gives 0 (and gradient 0); with `one`, a term e⁰ is added, which makes such a row 0 by itself. A row that
/// keeps nothing but e^−∞ gives −∞, one that keeps a NaN gives NaN.
pub(crate) fn masked_log_sum_exp(x: &Tensor, keep: &Tensor, one: bool) -> Result<Tensor> {
    let lowest = if x.dtype() == DType::F64 { f64::MIN } else { f64::from(f32::MIN) };
    let kept = fill_unless(x, keep, lowest)?; // [n, m]
    let mut shift = kept.detach().max_keepdim(D::Minus1)?.maximum(lowest)?; // [n, 1], finite or +∞
    if one {
        shift = hinge(&shift)?;
    }
    let nothing = shift.le(lowest)?;
    let mut sum = kept.broadcast_sub(&shift)?.exp()?.sum_keepdim(D::Minus1)?; // [n, 1]
    if one {
        sum = (sum + shift.neg()?.exp()?)?;
    }
    let log = (sum.log()? + shift)?;
    if one {
        return Ok(log);
    }
    let some = keep.broadcast_as(x.shape())?.contiguous()?.max_keepdim(D::Minus1)?; // [n, 1]
    let instead = fill_unless(&(log.detach() + f64::NEG_INFINITY)?, &some, 0.0)?;
    Ok(nothing.where_cond(&instead, &log)?)
}

/// A host table as a tensor of the dtype and device of `like`.
pub(crate) fn upload(
    values: Vec<f64>,
    shape: impl Into<candle_core::Shape>,
    like: &Tensor,
) -> Result<Tensor> {
    let shape = shape.into();
    Ok(match like.dtype() {
        DType::F64 => Tensor::from_vec(values, shape, like.device())?,
        dtype => {
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            Tensor::from_vec(values, shape, like.device())?.to_dtype(dtype)?
        }
    })
}

/// A detached tensor's values on the host, row-major.
pub(crate) fn download(x: &Tensor) -> Result<Vec<f64>> {
    let x = x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    Ok(x.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_neither_nothing_nor_left_out() -> Result<()> {
        let (nan, low) = (f64::NAN, f64::NEG_INFINITY);
        let rows = [[nan, 1.0], [1.0, nan], [low, 2.0], [low, low], [1.0, 2.0]];
        let keep = [[1u8, 0], [0, 1], [1, 0], [1, 1], [0, 0]];
        for dtype in [DType::F32, DType::F64] {
            let x = Tensor::new(&rows, &Device::Cpu)?.to_dtype(dtype)?;
            let keep = Tensor::new(&keep, &Device::Cpu)?;
            let plain = download(&masked_log_sum_exp(&x, &keep, false)?)?;
            assert!(plain[0].is_nan() && plain[1].is_nan(), "{plain:?}");
            assert_eq!(plain[2..], [low, low, 0.0]);
            let one = download(&masked_log_sum_exp(&x, &keep, true)?)?;
            assert!(one[0].is_nan() && one[1].is_nan(), "{one:?}");
            assert_eq!(one[2..], [0.0; 3]);
        }
        let roots = download(&root(&Tensor::new(&[nan, 0.0, 4.0], &Device::Cpu)?, 0.5)?)?;
        assert!(roots[0].is_nan() && roots[1..] == [0.0, 2.0], "{roots:?}");
        Ok(())
    }
}
