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

/// f64 on the CPU, so that differences of what is made of f32 keep its digits; elsewhere the tensor as it is.
pub(crate) fn widened(x: &Tensor) -> Result<Tensor> {
    Ok(if x.device().is_cpu() { x.to_dtype(DType::F64)? } else { x.clone() })
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

/// Rows divided by their largest |entry|, a constant of the graph, and that entry `[n, 1]`: powers of what is left
/// neither overflow nor vanish. A row of zeros is divided by 1.
fn scaled(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let largest = x.detach().abs()?.max_keepdim(D::Minus1)?; // [n, 1]
    let some = largest.gt(0.0)?;
    let largest = fill_unless(&largest, &some, 1.0)?;
    Ok((x.broadcast_div(&largest)?, largest))
}

/// The p-norm of rows with entries of at most 1: `[n, d]` → `[n, 1]`.
fn norm_of_scaled(x: &Tensor, p: f64) -> Result<Tensor> {
    root(&abs_pow(x, p)?.sum_keepdim(D::Minus1)?, 1.0 / p)
}

/// The p-norm of each row: `[n, d]` → `[n, 1]`, with gradient 0 at a row of zeros. It overflows where the norm does.
pub(crate) fn row_norm(x: &Tensor, p: f64) -> Result<Tensor> {
    let (x, largest) = scaled(x)?;
    Ok((norm_of_scaled(&x, p)? * largest)?)
}

/// Rows divided by their p-norm, of whatever length, as [`PairMatrix`] does it for p = 2. A row no longer than 1e-12
/// stays as it is: its direction means nothing.
pub(crate) fn normalize_rows(x: &Tensor, p: f64) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    // The direction of a row is that of the scaled one, and so is its derivative.
    let (unit, largest) = scaled(x)?;
    let norm = norm_of_scaled(&unit, p)?;
    let some = norm.detach().gt(0.0)?;
    let unit = unit.broadcast_div(&fill_unless(&norm, &some, 1.0)?)?;
    let short = (norm.detach() * largest)?.le(LEAST_NORM)?;
    Ok(short.broadcast_as(x.shape())?.contiguous()?.where_cond(x, &unit)?)
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
    use candle_core::Var;

    use super::*;

    /// Rows of any length, entries next to the largest number of the type among them: norms and directions with their
    /// gradients are those of the row at length 1.
    #[test]
    fn rows_of_any_length_have_a_norm_and_a_direction() -> Result<()> {
        let base = [[1.0f64, -0.5, 0.25, 0.0], [-0.3, 0.9, 0.9, -0.9], [0.0, 0.0, -1.0, 0.0]];
        let weights = Tensor::new(
            &[[0.7f64, -0.2, 0.4, 0.9], [0.1, 0.8, -0.5, 0.3], [0.6, 0.2, 0.3, -0.4]],
            &Device::Cpu,
        )?;
        let run = |x: &Tensor, p: f64| -> Result<[Vec<f64>; 4]> {
            let x = Var::from_tensor(x)?;
            let weights = weights.to_dtype(x.dtype())?;
            let (norm, unit) = (row_norm(&x, p)?, normalize_rows(&x, p)?);
            let slopes = |y: &Tensor| -> Result<Vec<f64>> {
                y.sum_all()?.backward()?.get(&x).map_or(Ok(Vec::new()), download)
            };
            let of_norm = slopes(&(&norm * weights.narrow(1, 0, 1)?)?)?;
            Ok([download(&norm)?, download(&unit)?, of_norm, slopes(&(&unit * weights)?)?])
        };
        for p in [1.0, 1.5, 2.0, 3.0, 40.0] {
            let want = run(&Tensor::new(&base, &Device::Cpu)?, p)?;
            // By hand, at length 1.
            for (row, norm) in base.iter().zip(&want[0]) {
                let sum: f64 = row.iter().map(|v| v.abs().powf(p)).sum();
                assert!((sum.powf(1.0 / p) - norm).abs() < 1e-12, "p = {p}: {norm}");
            }
            for (dtype, least, most, tolerance) in
                [(DType::F32, 2e-12, 3e38, 2e-6), (DType::F64, 2e-12, 1.7e308, 1e-13)]
            {
                for size in [least, 1e-6, 1e6, 5e25, most / 8.0, most] {
                    let x = (Tensor::new(&base, &Device::Cpu)? * size)?.to_dtype(dtype)?;
                    let [norm, unit, of_norm, of_unit] = run(&x, p)?;
                    let case = format!("p = {p}, {dtype:?} at {size:e}");
                    let near = |got: &[f64], want: &[f64], scale: f64| {
                        got.len() == want.len()
                            && got.iter().zip(want).all(|(g, w)| (g * scale - w).abs() <= tolerance * p)
                    };
                    assert!(near(&unit, &want[1], 1.0), "{case}: {unit:?}, not {:?}", want[1]);
                    assert!(near(&of_norm, &want[2], 1.0), "{case}: {of_norm:?}, not {:?}", want[2]);
                    assert!(near(&of_unit, &want[3], size), "{case}: {of_unit:?}, not {:?}", want[3]);
                    // At the end of the range only a norm of one entry is a number.
                    if size < most {
                        assert!(near(&norm, &want[0], 1.0 / size), "{case}: {norm:?}, not {:?}", want[0]);
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn short_rows_stay_as_they_are() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let x = Tensor::new(&[[0f64, 0.], [3e-13, 4e-13], [1e-30, 0.]], &Device::Cpu)?.to_dtype(dtype)?;
            let x = Var::from_tensor(&x)?;
            for p in [1.0, 2.0, 3.0] {
                let unit = normalize_rows(&x, p)?;
                assert_eq!(download(&unit)?, download(&x)?, "{dtype:?} p = {p}");
                let slopes = unit.sum_all()?.backward()?.get(&x).map(download).transpose()?;
                assert_eq!(slopes, Some(vec![1.0; 6]), "{dtype:?} p = {p}");
                let slopes = row_norm(&x, p)?.sum_all()?.backward()?.get(&x).map(download).transpose()?;
                let slopes = slopes.unwrap_or_default();
                assert!(slopes[..2] == [0.0; 2] && slopes.iter().all(|g| g.is_finite()), "{slopes:?}");
            }
        }
        Ok(())
    }

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
