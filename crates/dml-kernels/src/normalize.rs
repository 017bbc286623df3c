//! Projection of rows onto the unit sphere.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{contiguous, share, vectorized, with_slices};
use crate::real::{Real, on_cpu, with_real};

/// Rows shorter than this are divided by it instead of by their length, so that a zero row stays zero.
const SHORTEST: f64 = 1e-12;

/// y = x / ‖x‖₂ row by row, `[n, d]` → `[n, d]`; a row of zeros stays zero.
///
/// # Errors
/// When `x` has another rank.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let Ok((_, d)) = x.dims2() else {
        bail!("l2_normalize: `x` has shape {:?}, expected [n, d]", x.dims());
    };
    if on_cpu(x) {
        return x.contiguous()?.apply_op1(Normalize { d: d.max(1) });
    }
    let length = (x.sqr()?.sum_keepdim(D::Minus1)? + SHORTEST * SHORTEST)?.sqrt()?;
    x.broadcast_div(&length)
}

struct Normalize {
    d: usize,
}

#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::ZERO; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let mut sum = T::ZERO;
    for v in lanes.into_iter().chain(rest.map(|(&a, &b)| a * b)) {
        sum += v;
    }
    sum
}

/// Whether a row of this inverse length was divided by SHORTEST, which does not depend on the row.
#[inline(always)]
pub(crate) fn is_shortest<T: Real>(inverse: T) -> bool {
    inverse >= T::ONE / T::from_f64(SHORTEST)
}

/// 1 / max(‖row‖, SHORTEST). The row is scaled by its largest entry first where its square would leave the range.
#[inline(always)]
pub(crate) fn inverse_length<T: Real>(row: &[T]) -> T {
    let square = dot(row, row);
    let fine = square > T::from_f64(1e-30) && square < T::from_f64(1e30);
    let length = if fine {
        square.sqrt()
    } else {
        let largest = row.iter().fold(T::ZERO, |m, v| m.max(v.abs()));
        let scale = largest.max(T::from_f64(1e-37));
        let sum = row.iter().fold(T::ZERO, |s, &v| s + (v / scale) * (v / scale));
        scale * sum.sqrt()
    };
    T::ONE / if length < T::from_f64(SHORTEST) { T::from_f64(SHORTEST) } else { length }
}

vectorized! {
    fn forward_rows<T: Real>(out: &mut [T], x: &[T], d: usize) {
        for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let inverse = inverse_length(x);
            out.iter_mut().zip(x).for_each(|(o, &v)| *o = v * inverse);
        }
    }
}

vectorized! {
    /// (g − y⟨g, y⟩) / ‖x‖, the part of the gradient along the sphere.
    fn backward_rows<T: Real>(out: &mut [T], x: &[T], y: &[T], grad: &[T], d: usize) {
        let rows = x.chunks_exact(d).zip(y.chunks_exact(d)).zip(grad.chunks_exact(d));
        for (out, ((x, y), g)) in out.chunks_exact_mut(d).zip(rows) {
            let inverse = inverse_length(x);
            let along = if is_shortest(inverse) { T::ZERO } else { dot(g, y) };
            for ((o, &g), &y) in out.iter_mut().zip(g).zip(y) {
                *o = (g - y * along) * inverse;
            }
        }
    }
}

impl Normalize {
    fn forward<T: Real>(&self, x: &[T]) -> Vec<T> {
        let mut out = vec![T::ZERO; x.len()];
        share(&mut out, self.d, |start, out| forward_rows(out, &x[start..], self.d));
        out
    }

    fn backward<T: Real>(&self, x: &[T], y: &[T], grad: &[T]) -> Vec<T> {
        let mut out = vec![T::ZERO; x.len()];
        share(&mut out, self.d, |start, out| {
            backward_rows(out, &x[start..], &y[start..], &grad[start..], self.d);
        });
        out
    }
}

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        "l2_normalize"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(storage.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(storage)?, layout)?;
            Ok((T::storage(self.forward(x)), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let op = self.name();
        with_real!(x.dtype(), op, T => {
            let values = with_slices::<T, 3, _>(op, [x, res, grad], |[x, res, grad]| {
                Ok(self.backward(x, res, grad))
            })?;
            T::tensor(values, x.shape()).map(Some)
        })
    }
}
