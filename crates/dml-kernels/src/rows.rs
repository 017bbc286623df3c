//! What kernels over the rows of a matrix share: the threads' pieces, and gradients that touch few entries.

use candle_core::Result;
use rayon::prelude::*;

use crate::cpu::threads;
use crate::real::Real;

/// Below this many elements a pass over a matrix is faster on one thread than shared.
const SHARE_FROM: usize = 32_768;

/// Calls `f(i, &mut out[i])` for each row i of a matrix of `cols` columns, in one contiguous piece a thread.
pub(crate) fn for_rows<R: Send>(out: &mut [R], cols: usize, f: impl Fn(usize, &mut R) + Sync) {
    let rows = out.len();
    if rows.saturating_mul(cols) < SHARE_FROM || threads() == 1 {
        out.iter_mut().enumerate().for_each(|(i, out)| f(i, out));
        return;
    }
    let piece = rows.div_ceil(threads()).max(1);
    out.par_chunks_mut(piece).enumerate().for_each(|(p, out)| {
        out.iter_mut().enumerate().for_each(|(i, out)| f(p * piece + i, out));
    });
}

/// A gradient that is 0 but for `entries`, each a flat index into it and what is added there, in order.
pub(crate) fn scatter<T: Real>(len: usize, entries: impl Iterator<Item = (usize, T)>) -> Vec<T> {
    let mut out = vec![T::ZERO; len];
    for (at, v) in entries {
        out[at] += v;
    }
    out
}

/// Rows and columns of a matrix, else an error that names `op` and `arg`.
pub(crate) fn matrix(op: &str, arg: &str, x: &candle_core::Tensor) -> Result<(usize, usize)> {
    match x.dims2() {
        Ok(dims) => Ok(dims),
        Err(_) => candle_core::bail!("{op}: `{arg}` has shape {:?}, expected [n, m]", x.dims()),
    }
}
