//! The matrix product on the threads of the current pool.
//!
//! candle's own product asks the operating system for the number of cores in every call where `RAYON_NUM_THREADS` is
//! not set (on Linux by reading `/proc/cpuinfo`), which takes longer than the products of a small convex network.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{Matrix, gemm};
use crate::real::{Real, on_cpu, with_real};

/// a·b: `[m, k]`, `[k, n]` → `[m, n]`. Transposed and other strided operands are read where they are.
///
/// # Errors
/// When the shapes disagree.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (Ok((_, k)), Ok((rows, _))) = (a.dims2(), b.dims2()) else {
        bail!("matmul: `a` has shape {:?} and `b` {:?}, expected [m, k] and [k, n]", a.dims(), b.dims());
    };
    if k != rows {
        bail!("matmul: `a` has {k} columns and `b` {rows} rows, expected as many");
    }
    if on_cpu(a) { a.apply_op2(b, MatMul) } else { a.contiguous()?.matmul(&b.contiguous()?) }
}

struct MatMul;

impl CustomOp2 for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (m, n) = (a_layout.dims()[0], b_layout.dims()[1]);
        with_real!(a.dtype(), self.name(), T => {
            let a = Matrix::of(<T as Real>::slice(a)?, a_layout);
            let b = Matrix::of(<T as Real>::slice(b)?, b_layout);
            let mut out = vec![<T as Real>::ZERO; m * n];
            gemm(&mut out, a, b, false, true);
            Ok((T::storage(out), Shape::from((m, n))))
        })
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_a = a.track_op().then(|| matmul(grad, &b.detach().t()?)).transpose()?;
        let to_b = b.track_op().then(|| matmul(&a.detach().t()?, grad)).transpose()?;
        Ok((to_a, to_b))
    }
}
