//! The k largest or smallest entries of each row.

use std::cmp::Ordering;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{contiguous, with_slice};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};
use crate::rows::{for_rows, matrix, scatter};

/// The `k` largest entries of each row, or the smallest, in order, and their columns: `[n, m]` → (`[n, k]`
/// differentiable, `[n, k]` of u32).
///
/// Equal entries come in the order of their columns. The order is that of `total_cmp`, where a positive NaN is above
/// everything. A row costs O(m + k log k).
///
/// # Errors
/// When `x` is no matrix or has fewer than `k` columns.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::row_top_k};
/// let x = Tensor::new(&[[1f32, 5., 3., 5.]], &Device::Cpu)?;
/// let (values, columns) = row_top_k(&x, 3, true)?;
/// assert_eq!(values.to_vec2::<f32>()?, [[5., 5., 3.]]);
/// assert_eq!(columns.to_vec2::<u32>()?, [[1, 3, 2]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn row_top_k(x: &Tensor, k: usize, largest: bool) -> Result<(Tensor, Tensor)> {
    const OP: &str = "row_top_k";
    let (n, m) = matrix(OP, "x", x)?;
    if k > m {
        bail!("{OP}: `k` is {k}, expected at most the {m} columns of `x`");
    }
    if on_cpu(x) {
        let x = x.contiguous()?;
        let mut found = vec![Vec::new(); n];
        with_real!(x.dtype(), OP, T => with_slice::<T, _>(OP, &x, |x| {
            for_rows(&mut found, m, |i, found| *found = best(&x[i * m..][..m], k, largest));
            Ok(())
        }))?;
        let found = found.concat();
        let columns = Tensor::from_slice(&found, (n, k), x.device())?;
        return Ok((x.apply_op1(Pick { found, k })?, columns));
    }
    if n == 0 || k == 0 {
        let columns = Tensor::zeros((n, k), candle_core::DType::U32, x.device())?;
        return Ok((Tensor::zeros((n, k), x.dtype(), x.device())?, columns));
    }
    let x = x.contiguous()?;
    let columns = x.detach().arg_sort_last_dim(!largest)?.narrow(1, 0, k)?.contiguous()?;
    Ok((x.gather(&columns, 1)?, columns))
}

/// The columns of the k best entries, best first.
fn best<T: Real + Ordered>(row: &[T], k: usize, largest: bool) -> Vec<u32> {
    let mut columns: Vec<u32> = (0..row.len() as u32).collect();
    let order = |&a: &u32, &b: &u32| {
        let order = row[a as usize].order(row[b as usize]);
        (if largest { order.reverse() } else { order }).then(a.cmp(&b))
    };
    if k == 0 {
        return Vec::new();
    }
    if k < columns.len() {
        columns.select_nth_unstable_by(k - 1, order);
        columns.truncate(k);
    }
    columns.sort_unstable_by(order);
    columns
}

/// The order of all values, NaN included.
trait Ordered {
    fn order(self, other: Self) -> Ordering;
}

impl Ordered for f32 {
    fn order(self, other: Self) -> Ordering {
        self.total_cmp(&other)
    }
}

impl Ordered for f64 {
    fn order(self, other: Self) -> Ordering {
        self.total_cmp(&other)
    }
}

/// `[n, m]` → `[n, k]`, the entries at the columns found, row-major.
struct Pick {
    found: Vec<u32>,
    k: usize,
}

impl CustomOp1 for Pick {
    fn name(&self) -> &'static str {
        "row_top_k"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, m) = (layout.dims()[0], layout.dims()[1]);
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, layout)?;
            let entries = self.found.iter().enumerate();
            let values = entries.map(|(e, &j)| x[e / self.k * m + j as usize]).collect();
            Ok((T::storage(values), Shape::from((n, self.k))))
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let m = x.dim(1)?;
        with_real!(x.dtype(), self.name(), T => {
            let values = with_slice::<T, _>(self.name(), grad, |grad| {
                let entries = self.found.iter().zip(grad).enumerate();
                let entries = entries.map(|(e, (&j, &g))| (e / self.k * m + j as usize, g));
                Ok(scatter(x.elem_count(), entries))
            })?;
            T::tensor(values, x.shape()).map(Some)
        })
    }
}
