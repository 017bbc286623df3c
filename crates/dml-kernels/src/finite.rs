//! Where a tensor is not finite, in one pass without a copy.

use candle_core::{DType, Device, Result, Tensor};

use crate::cpu::{vectorized, with_slice};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};

/// The position of the first entry that is infinite or not a number, counted row-major; `None` where all are finite.
///
/// # Errors
/// When candle fails.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::first_not_finite};
/// let x = Tensor::new(&[[1f32, 2.], [f32::NAN, f32::INFINITY]], &Device::Cpu)?;
/// assert_eq!(first_not_finite(&x)?, Some(2));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn first_not_finite(x: &Tensor) -> Result<Option<usize>> {
    if on_cpu(x) {
        return with_real!(x.dtype(), "first_not_finite", T => {
            with_slice::<T, _>("first_not_finite", x, |x| Ok(find(x)))
        });
    }
    // 0·v is 0 where v is finite and NaN elsewhere, so the sum cannot overflow by itself.
    let probe = (x.detach() * 0.0)?.to_dtype(DType::F32)?;
    if probe.sum_all()?.to_device(&Device::Cpu)?.to_scalar::<f32>()? == 0.0 {
        return Ok(None);
    }
    let probe = probe.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(probe.iter().position(|v| *v != 0.0))
}

fn find<T: Real>(x: &[T]) -> Option<usize> {
    const BLOCK: usize = 4096;
    let block = x.chunks(BLOCK).position(|block| !all_finite(block))?;
    let at = x[block * BLOCK..].iter().position(|&v| v - v != T::ZERO)?;
    Some(block * BLOCK + at)
}

vectorized! {
    fn all_finite<T: Real>(x: &[T]) -> bool {
        let mut fine = true;
        for &v in x {
            fine &= v - v == T::ZERO;
        }
        fine
    }
}
