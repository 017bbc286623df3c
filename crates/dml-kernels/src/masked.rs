//! Row-wise maximum, minimum and log-sum-exp over the entries that a mask keeps.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{contiguous, vectorized, with_slice, with_slices};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};
use crate::rows::{for_rows, matrix, scatter};

/// The largest kept entry of each row and its column: `x` `[n, m]`, `mask` `[n, m]` of u8, not 0 where kept → `[n]`.
///
/// −∞ and `None` in a row that keeps none; the first of equal entries; not a number where a kept entry is not one.
/// The gradient goes to that entry.
///
/// # Errors
/// When the shapes disagree or the mask is not of u8.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::masked_row_max};
/// let x = Tensor::new(&[[1f32, 5., 3.], [2., 0., 4.]], &Device::Cpu)?;
/// let mask = Tensor::new(&[[1u8, 0, 1], [0, 0, 0]], &Device::Cpu)?;
/// let (values, columns) = masked_row_max(&x, &mask)?;
/// assert_eq!(values.to_vec1::<f32>()?, [3., f32::NEG_INFINITY]);
/// assert_eq!(columns, [Some(2), None]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn masked_row_max(x: &Tensor, mask: &Tensor) -> Result<(Tensor, Vec<Option<u32>>)> {
    extreme("masked_row_max", x, mask, true)
}

/// The smallest kept entry of each row and its column, as [`masked_row_max`]; +∞ in a row that keeps none.
///
/// # Errors
/// As [`masked_row_max`].
pub fn masked_row_min(x: &Tensor, mask: &Tensor) -> Result<(Tensor, Vec<Option<u32>>)> {
    extreme("masked_row_min", x, mask, false)
}

/// log Σ exp over the kept entries of each row, `[n, m]`, `[n, m]` → `[n]`, without overflow; −∞, with gradient 0,
/// in a row that keeps none.
///
/// # Errors
/// As [`masked_row_max`].
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::masked_row_log_sum_exp};
/// let x = Tensor::new(&[[1000f64, 7., 1000.]], &Device::Cpu)?;
/// let mask = Tensor::new(&[[1u8, 0, 1]], &Device::Cpu)?;
/// let y = masked_row_log_sum_exp(&x, &mask)?.to_vec1::<f64>()?[0];
/// assert!((y - (1000.0 + 2f64.ln())).abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn masked_row_log_sum_exp(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    const OP: &str = "masked_row_log_sum_exp";
    let mask = read_mask(OP, x, mask)?;
    if on_cpu(x) {
        return x.contiguous()?.apply_op1(LogSumExp { mask });
    }
    let (n, m) = x.dims2()?;
    if m == 0 {
        return Tensor::full(f64::NEG_INFINITY, n, x.device())?.to_dtype(x.dtype());
    }
    let keep = Tensor::from_vec(mask, (n, m), x.device())?;
    let filled = fill(x, &keep, f64::NEG_INFINITY)?;
    let top = filled.detach().max_keepdim(D::Minus1)?;
    // Where nothing is kept, any finite number in place of the maximum keeps −∞ − (−∞) out of the graph.
    let top = top.gt(f64::NEG_INFINITY)?.where_cond(&top, &top.zeros_like()?)?;
    let shifted = keep.where_cond(&x.broadcast_sub(&top)?, &x.zeros_like()?.detach())?;
    let terms = (shifted.exp()? * keep.to_dtype(x.dtype())?)?;
    let sum = terms.sum_keepdim(D::Minus1)?;
    let some = sum.detach().gt(0.0)?;
    let log = some.where_cond(&sum, &sum.ones_like()?.detach())?.log()?;
    let value = (log + top)?;
    some.where_cond(&value, &Tensor::full(f64::NEG_INFINITY, (n, 1), x.device())?.to_dtype(x.dtype())?)?
        .squeeze(1)
}

/// The mask on the host, row-major.
fn read_mask(op: &str, x: &Tensor, mask: &Tensor) -> Result<Vec<u8>> {
    matrix(op, "x", x)?;
    if mask.dims() != x.dims() || mask.dtype() != DType::U8 {
        bail!("{op}: `mask` is {:?} {:?}, expected U8 {:?} as `x`", mask.dtype(), mask.dims(), x.dims());
    }
    mask.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u8>()
}

/// `x` where kept, else `value`.
fn fill(x: &Tensor, keep: &Tensor, value: f64) -> Result<Tensor> {
    let value = Tensor::full(value, x.shape(), x.device())?.to_dtype(x.dtype())?;
    keep.where_cond(&x.contiguous()?, &value)
}

fn extreme(op: &'static str, x: &Tensor, mask: &Tensor, largest: bool) -> Result<(Tensor, Vec<Option<u32>>)> {
    let mask = read_mask(op, x, mask)?;
    let (n, m) = x.dims2()?;
    if on_cpu(x) {
        let x = x.contiguous()?;
        let found = with_real!(x.dtype(), op, T => with_slice::<T, _>(op, &x, |x| {
            let mut found = vec![None; n];
            for_rows(&mut found, m, |i, found| {
                *found = extreme_of(&x[i * m..][..m], &mask[i * m..][..m], largest);
            });
            Ok(found)
        }))?;
        let values = x.apply_op1(Pick { found: found.clone(), largest })?;
        return Ok((values, found));
    }
    let absent = if largest { f64::NEG_INFINITY } else { f64::INFINITY };
    if n == 0 || m == 0 {
        return Ok((Tensor::full(absent, n, x.device())?.to_dtype(x.dtype())?, vec![None; n]));
    }
    let filled = fill(x, &Tensor::from_slice(&mask, (n, m), x.device())?, absent)?;
    let seen = filled.detach();
    let at = if largest { seen.argmax_keepdim(D::Minus1)? } else { seen.argmin_keepdim(D::Minus1)? };
    let values = filled.gather(&at, 1)?.squeeze(1)?;
    let at = at.squeeze(1)?.to_vec1::<u32>()?.into_iter().enumerate();
    let found = at.map(|(i, j)| mask[i * m..][..m].iter().any(|&keep| keep != 0).then_some(j));
    Ok((values, found.collect()))
}

/// The first kept entry that is not a number, else the first largest or smallest kept one.
fn extreme_of<T: Real>(row: &[T], mask: &[u8], largest: bool) -> Option<u32> {
    let sign = if largest { T::ONE } else { -T::ONE };
    let (top, numbers) = masked_top(row, mask, sign);
    let wanted = |v: T| if numbers { v * sign == top } else { v.is_nan() };
    let mut entries = row.iter().zip(mask);
    entries.position(|(&v, &keep)| keep != 0 && wanted(v)).map(|j| j as u32)
}

const LANES: usize = 16;

vectorized! {
    /// The largest kept sign·v, and whether all kept entries are numbers.
    fn masked_top<T: Real>(row: &[T], mask: &[u8], sign: T) -> (T, bool) {
        let mut lanes = [T::NEG_INFINITY; LANES];
        let mut numbers = true;
        let (rows, masks) = (row.chunks_exact(LANES), mask.chunks_exact(LANES));
        let mut top = T::NEG_INFINITY;
        for (&v, &keep) in rows.remainder().iter().zip(masks.remainder()) {
            numbers &= keep == 0 || !v.is_nan();
            top = top.max(if keep != 0 { v * sign } else { T::NEG_INFINITY });
        }
        for (row, mask) in rows.zip(masks) {
            let mut fine = true;
            for l in 0..LANES {
                let v = if mask[l] != 0 { row[l] * sign } else { T::NEG_INFINITY };
                fine &= !v.is_nan();
                lanes[l] = if v > lanes[l] { v } else { lanes[l] };
            }
            numbers &= fine;
        }
        for lane in lanes {
            top = top.max(lane);
        }
        (top, numbers)
    }
}

vectorized! {
    /// Σ exp(v − top) over the kept entries.
    fn masked_exponentials<T: Real>(row: &[T], mask: &[u8], top: T) -> T {
        let mut lanes = [T::ZERO; LANES];
        let (rows, masks) = (row.chunks_exact(LANES), mask.chunks_exact(LANES));
        let mut sum = T::ZERO;
        for (&v, &keep) in rows.remainder().iter().zip(masks.remainder()) {
            sum += if keep != 0 { (v - top).exp_fast() } else { T::ZERO };
        }
        for (row, mask) in rows.zip(masks) {
            for l in 0..LANES {
                let term = (row[l] - top).exp_fast();
                lanes[l] += if mask[l] != 0 { term } else { T::ZERO };
            }
        }
        for lane in lanes {
            sum += lane;
        }
        sum
    }
}

vectorized! {
    /// g·exp(v − value) where kept, 0 elsewhere.
    fn masked_softmax<T: Real>(out: &mut [T], row: &[T], mask: &[u8], value: T, g: T) {
        for ((o, &v), &keep) in out.iter_mut().zip(row).zip(mask) {
            let term = g * (v - value).exp_fast();
            *o = if keep != 0 { term } else { T::ZERO };
        }
    }
}

/// The entries at the columns found, `[n, m]` → `[n]`.
struct Pick {
    found: Vec<Option<u32>>,
    largest: bool,
}

impl CustomOp1 for Pick {
    fn name(&self) -> &'static str {
        "masked_row_extreme"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let m = layout.dims()[1];
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, layout)?;
            let absent = if self.largest { <T as Real>::NEG_INFINITY } else { -<T as Real>::NEG_INFINITY };
            let entries = self.found.iter().enumerate();
            let values = entries.map(|(i, at)| at.map_or(absent, |j| x[i * m + j as usize])).collect();
            Ok((T::storage(values), Shape::from(self.found.len())))
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let m = x.dim(1)?;
        with_real!(x.dtype(), self.name(), T => {
            let values = with_slice::<T, _>(self.name(), grad, |grad| {
                let entries = self.found.iter().zip(grad).enumerate();
                let entries = entries.filter_map(|(i, (at, &g))| Some((i * m + (*at)? as usize, g)));
                Ok(scatter(x.elem_count(), entries))
            })?;
            T::tensor(values, x.shape()).map(Some)
        })
    }
}

struct LogSumExp {
    mask: Vec<u8>,
}

impl LogSumExp {
    fn forward<T: Real + Logarithm>(&self, x: &[T], n: usize, m: usize) -> Vec<T> {
        let mut out = vec![T::NEG_INFINITY; n];
        for_rows(&mut out, m, |i, out| {
            let row = &x[i * m..][..m];
            let mask = &self.mask[i * m..][..m];
            let (top, numbers) = masked_top(row, mask, T::ONE);
            if !numbers || top == -T::NEG_INFINITY {
                // Not a number, or +∞ among the entries: then the result is that as well.
                let kept = row.iter().zip(mask).filter(|(_, keep)| **keep != 0);
                *out = kept.fold(top, |sum, (&v, _)| if v.is_nan() { v } else { sum });
            } else if top > T::NEG_INFINITY {
                *out = top + masked_exponentials(row, mask, top).logarithm();
            }
        });
        out
    }

    /// g·exp(x − value) where kept.
    fn backward<T: Real>(&self, x: &[T], values: &[T], grad: &[T], m: usize) -> Vec<T> {
        let mut out = vec![T::ZERO; x.len()];
        for (i, (&value, &g)) in values.iter().zip(grad).enumerate() {
            if value > T::NEG_INFINITY {
                let (row, mask) = (&x[i * m..][..m], &self.mask[i * m..][..m]);
                masked_softmax(&mut out[i * m..][..m], row, mask, value, g);
            }
        }
        out
    }
}

/// log, which the kernels otherwise do without.
trait Logarithm {
    fn logarithm(self) -> Self;
}

impl Logarithm for f32 {
    fn logarithm(self) -> Self {
        self.ln()
    }
}

impl Logarithm for f64 {
    fn logarithm(self) -> Self {
        self.ln()
    }
}

impl CustomOp1 for LogSumExp {
    fn name(&self) -> &'static str {
        "masked_row_log_sum_exp"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, m) = (layout.dims()[0], layout.dims()[1]);
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, layout)?;
            Ok((T::storage(self.forward(x, n, m)), Shape::from(n)))
        })
    }

    fn bwd(&self, x: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (op, m) = (self.name(), x.dim(1)?);
        with_real!(x.dtype(), op, T => {
            let values = with_slices::<T, 3, _>(op, [x, res, grad], |[x, res, grad]| {
                Ok(self.backward(x, res, grad, m))
            })?;
            T::tensor(values, x.shape()).map(Some)
        })
    }
}
