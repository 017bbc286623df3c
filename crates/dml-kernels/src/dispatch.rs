//! Where an operation runs: on this crate's kernels, or on candle's own operations.
//!
//! Every function of the crate asks [`on_cpu`] and nothing else, so this module alone decides.

use std::cell::Cell;

use candle_core::{DType, Tensor};

thread_local! {
    static NATIVE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the kernels apply to a tensor: on the CPU, f32 or f64.
pub(crate) fn on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64) && !NATIVE.get()
}

/// Calls `f` with all operations of this thread on candle's own, as on a device that has no kernels.
///
/// For tests and benchmarks, which compare the two; a graph built inside keeps its way when it is differentiated
/// outside.
///
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::{natively, softplus}};
/// let z = Tensor::new(&[-1f64, 0., 1.], &Device::Cpu)?;
/// let (ours, theirs) = (softplus(&z)?, natively(|| softplus(&z))?);
/// assert!((ours - theirs)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-15);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn natively<R>(f: impl FnOnce() -> R) -> R {
    /// Restores what was, also when `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            NATIVE.set(self.0);
        }
    }
    let _restore = Restore(NATIVE.replace(true));
    f()
}
