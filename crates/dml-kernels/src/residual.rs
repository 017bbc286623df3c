//! The end of a residual block: max(a + b, 0) in one pass.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{contiguous, map2, with_slices};
use crate::linear::relu_mask;
use crate::real::{Real, on_cpu, with_real};

/// max(a + b, 0) entry by entry, gradient 0 where the sum is 0 or less; NaN stays NaN.
///
/// `a` and `b` of one shape and element type → the same. On other devices than the CPU the gradient at exactly 0
/// is 1, as that of candle's ReLU.
///
/// # Errors
/// When the shapes disagree.
/// # Source
/// He et al. 2016 \[he2016\].
/// # Examples
/// ```
/// use candle_core::{Device, Tensor};
/// use dml_kernels::add_relu;
///
/// let (a, b) = (Tensor::new(&[1f32, -3.], &Device::Cpu)?, Tensor::new(&[2f32, 1.], &Device::Cpu)?);
/// assert_eq!(add_relu(&a, &b)?.to_vec1::<f32>()?, [3., 0.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        bail!("add_relu: `a` has shape {:?} and `b` {:?}, expected the same", a.dims(), b.dims());
    }
    if on_cpu(a) {
        return a.contiguous()?.apply_op2(&b.contiguous()?, AddRelu);
    }
    (a + b)?.relu()
}

struct AddRelu;

/// Not `max`, which would turn NaN into 0.
#[inline(always)]
fn rectified_sum<T: Real>(a: T, b: T) -> T {
    let sum = a + b;
    if sum < T::ZERO { T::ZERO } else { sum }
}

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "add_relu"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_real!(a.dtype(), self.name(), T => {
            let a = contiguous(self.name(), <T as Real>::slice(a)?, a_layout)?;
            let b = contiguous(self.name(), <T as Real>::slice(b)?, b_layout)?;
            Ok((T::storage(map2(a, b, rectified_sum)), a_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        a: &Tensor,
        _: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let op = self.name();
        let to_both = with_real!(a.dtype(), op, T => with_slices::<T, 2, _>(op, [grad, res], |[grad, res]| {
            T::tensor(map2(grad, res, relu_mask), a.shape())
        }))?;
        Ok((Some(to_both.clone()), Some(to_both)))
    }
}
