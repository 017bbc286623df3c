//! Where a tensor is not finite, in one pass without a copy.

use candle_core::{DType, Device, Result, Tensor};

use crate::cpu::{vectorized, with_slice};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};

/// Position (row-major) and value of the first entry that is infinite or not a number; `None` where all are finite.
///
/// # Errors
/// When candle fails.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::first_not_finite};
/// let x = Tensor::new(&[[1f32, 2.], [f32::INFINITY, f32::NAN]], &Device::Cpu)?;
/// assert_eq!(first_not_finite(&x)?, Some((2, f64::INFINITY)));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn first_not_finite(x: &Tensor) -> Result<Option<(usize, f64)>> {
    if !on_cpu(x) {
        // 0·v is 0 where v is finite and NaN elsewhere, so the sum cannot overflow by itself.
        let probe = (x.detach() * 0.0)?.to_dtype(DType::F32)?.sum_all()?;
        if probe.to_device(&Device::Cpu)?.to_scalar::<f32>()? == 0.0 {
            return Ok(None);
        }
    }
    let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let x = x.detach().to_device(&Device::Cpu)?.to_dtype(dtype)?;
    with_real!(dtype, "first_not_finite", T => {
        with_slice::<T, _>("first_not_finite", &x, |x| {
            #[allow(clippy::useless_conversion, reason = "of f64 it is none")]
            Ok(find(x).map(|at| (at, f64::from(x[at]))))
        })
    })
}

/// The largest |entry|; `None` where an entry is infinite or not a number, 0 where there is none.
///
/// # Errors
/// When candle fails.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::largest_magnitude};
/// assert_eq!(largest_magnitude(&Tensor::new(&[1f32, -2.], &Device::Cpu)?)?, Some(2.0));
/// assert_eq!(largest_magnitude(&Tensor::new(&[1f32, f32::NAN], &Device::Cpu)?)?, None);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn largest_magnitude(x: &Tensor) -> Result<Option<f64>> {
    if !on_cpu(x) {
        if first_not_finite(x)?.is_some() {
            return Ok(None);
        }
        let largest = x.detach().abs()?.max_all()?.to_dtype(DType::F64)?;
        return Ok(Some(largest.to_device(&Device::Cpu)?.to_scalar::<f64>()?));
    }
    with_real!(x.dtype(), "largest_magnitude", T => {
        with_slice::<T, _>("largest_magnitude", &x.detach(), |x| Ok(largest(x).map(Real::to_f64)))
    })
}

vectorized! {
    fn largest<T: Real>(x: &[T]) -> Option<T> {
        const LANES: usize = 16;
        // Beside the largest a sum that stays 0 unless an entry is NaN or infinite.
        let (mut most, mut zeros) = ([T::ZERO; LANES], [T::ZERO; LANES]);
        let chunks = x.chunks_exact(LANES);
        let (mut largest, mut zero) = (T::ZERO, T::ZERO);
        for &v in chunks.remainder() {
            largest = largest.max(v.abs());
            zero += v * T::ZERO;
        }
        for chunk in chunks {
            for l in 0..LANES {
                most[l] = most[l].max(chunk[l].abs());
                zeros[l] += chunk[l] * T::ZERO;
            }
        }
        for l in 0..LANES {
            largest = largest.max(most[l]);
            zero += zeros[l];
        }
        (zero == T::ZERO).then_some(largest)
    }
}

fn find<T: Real>(x: &[T]) -> Option<usize> {
    const BLOCK: usize = 4096;
    let block = x.chunks(BLOCK).position(|block| !all_finite(block))?;
    let at = x[block * BLOCK..].iter().position(|&v| v * T::ZERO != T::ZERO)?;
    Some(block * BLOCK + at)
}

vectorized! {
    fn all_finite<T: Real>(x: &[T]) -> bool {
        let mut fine = true;
        for &v in x {
            fine &= v * T::ZERO == T::ZERO; // not of NaN and infinity
        }
        fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_any_number_of_entries() -> Result<()> {
        for n in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..n).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
            let of = |values: &[f32]| largest_magnitude(&Tensor::new(values, &Device::Cpu)?);
            assert_eq!(of(&values)?, Some((n as f64 - 1.0).max(0.0)), "{n}");
            for i in 0..n {
                for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut values = values.clone();
                    values[i] = broken;
                    assert_eq!(of(&values)?, None, "{broken} at {i} of {n}");
                }
            }
        }
        Ok(())
    }
}
