//! max(0, ·) for matrices of divergences, with a diagonal that is 0 by definition.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result as CandleResult, Shape, Tensor, WithDType,
};

use crate::Result;

/// Entries below zero, and with `zero_diagonal` the diagonal, become 0 with gradient 0.
///
/// Not a number stays not a number, so that it is never mistaken for the nearest point.
pub(crate) fn clamp(divergences: &Tensor, zero_diagonal: bool) -> Result<Tensor> {
    let x = divergences.contiguous()?;
    if x.device().is_cpu() {
        return Ok(x.apply_op1(Clamp { zero_diagonal })?);
    }
    let seen = x.detach();
    let mut mask = seen.lt(&seen.zeros_like()?)?;
    if zero_diagonal {
        mask = mask.maximum(&Tensor::eye(seen.dims()[0], DType::U8, seen.device())?)?;
    }
    Ok(mask.where_cond(&seen.zeros_like()?, &x)?)
}

/// The clamp in one pass over memory where the tensor operations take five and a gradient for the zeros.
struct Clamp {
    zero_diagonal: bool,
}

impl Clamp {
    fn forward<T: WithDType>(&self, x: &[T], columns: usize) -> Vec<T> {
        let zero = T::zero();
        let mut out: Vec<T> = x.iter().map(|&v| if v < zero { zero } else { v }).collect();
        if self.zero_diagonal {
            out.iter_mut().step_by(columns + 1).for_each(|v| *v = zero);
        }
        out
    }
}

impl CustomOp1 for Clamp {
    fn name(&self) -> &'static str {
        "bregman-clamp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let columns = layout.dims().last().copied().unwrap_or(1);
        let out = match storage {
            CpuStorage::F32(x) => CpuStorage::F32(self.forward(rows(x, layout, self.name())?, columns)),
            CpuStorage::F64(x) => CpuStorage::F64(self.forward(rows(x, layout, self.name())?, columns)),
            _ => candle_core::bail!("{}: neither f32 nor f64", self.name()),
        };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, res: &Tensor, grad_res: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(grad_res.contiguous()?.apply_op2_no_bwd(&res.detach(), &WhereNonzero)?))
    }
}

/// The gradient where the clamped entry is not 0, and 0 where it is.
///
/// An entry that is 0 without having been clamped sits at the minimum of D, where the gradient is 0 anyway.
struct WhereNonzero;

impl WhereNonzero {
    fn forward<T: WithDType>(grad: &[T], clamped: &[T]) -> Vec<T> {
        let zero = T::zero();
        grad.iter().zip(clamped).map(|(&g, &v)| if v == zero { zero } else { g }).collect()
    }
}

impl CustomOp2 for WhereNonzero {
    fn name(&self) -> &'static str {
        "bregman-clamp-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        clamped: &CpuStorage,
        clamped_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let name = self.name();
        let out = match (grad, clamped) {
            (CpuStorage::F32(g), CpuStorage::F32(v)) => {
                CpuStorage::F32(Self::forward(rows(g, grad_layout, name)?, rows(v, clamped_layout, name)?))
            }
            (CpuStorage::F64(g), CpuStorage::F64(v)) => {
                CpuStorage::F64(Self::forward(rows(g, grad_layout, name)?, rows(v, clamped_layout, name)?))
            }
            _ => candle_core::bail!("{name}: neither f32 nor f64"),
        };
        Ok((out, grad_layout.shape().clone()))
    }
}

/// The elements of a contiguous tensor.
fn rows<'a, T>(storage: &'a [T], layout: &Layout, name: &str) -> CandleResult<&'a [T]> {
    match layout.contiguous_offsets().and_then(|(start, end)| storage.get(start..end)) {
        Some(elements) => Ok(elements),
        None => candle_core::bail!("{name}: the tensor is not contiguous"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn clamps_values_and_gradients_and_keeps_nan() -> Result<()> {
        let x = Var::new(&[[3f64, -1e-9, 2.0], [1.0, 5.0, f64::NAN]], &Device::Cpu)?;
        let plain = clamp(&x, false)?;
        let flat = plain.flatten_all()?.to_vec1::<f64>()?;
        assert_eq!(flat[..5], [3.0, 0.0, 2.0, 1.0, 5.0]);
        assert!(flat[5].is_nan());

        let x = Var::new(&[[3f64, -1.0], [2.0, 4.0]], &Device::Cpu)?;
        let out = clamp(&x, true)?;
        assert_eq!(out.to_vec2::<f64>()?, [[0.0, 0.0], [2.0, 0.0]]);
        let grad = out.sum_all()?.backward()?;
        assert_eq!(grad.get(&x).unwrap().to_vec2::<f64>()?, [[0.0, 0.0], [1.0, 0.0]]);
        Ok(())
    }

    #[test]
    fn a_strided_view_is_clamped_too() -> Result<()> {
        let x = Tensor::new(&[[1f32, -2.0, 3.0], [-4.0, 5.0, 6.0]], &Device::Cpu)?.t()?;
        assert_eq!(clamp(&x, false)?.to_vec2::<f32>()?, [[1.0, 0.0], [0.0, 5.0], [3.0, 6.0]]);
        Ok(())
    }
}
