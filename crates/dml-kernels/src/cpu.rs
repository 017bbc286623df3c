//! How the CPU kernels reach a tensor's memory, share work among threads and call the matrix product.
//!
//! Work is cut into one contiguous piece per thread and partial sums are added in the order of the pieces, so a
//! result depends on the number of threads and on nothing else.

use candle_core::{Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::real::Real;

/// Below this many elements a loop is faster on one thread than shared.
const SHARE_FROM: usize = 16_384;

/// The number of threads that kernels use.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads().max(1)
}

/// The elements of a contiguous operand, in order.
pub(crate) fn contiguous<'a, T>(op: &str, values: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("{op}: operand of shape {:?} is not contiguous", layout.shape()),
    }
}

/// Calls `f` with the elements of a CPU tensor, copied first where it is not contiguous.
pub(crate) fn with_slice<T: Real, R>(op: &str, x: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    with_slices(op, [x], |[x]| f(x))
}

/// Calls `f` with the elements of CPU tensors, copied first where they are not contiguous.
pub(crate) fn with_slices<T: Real, const N: usize, R>(
    op: &str,
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    let tensors = tensors.iter().map(|x| x.contiguous()).collect::<Result<Vec<_>>>()?;
    let held: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[T]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&held) {
        match &**storage {
            Storage::Cpu(cpu) => *slice = contiguous(op, T::slice(cpu)?, layout)?,
            _ => bail!("{op}: tensor is not on the CPU"),
        }
    }
    f(slices)
}

/// Defines a function whose body is compiled twice, for the processor's wide vector registers and for any.
///
/// The body is inlined into both, which a closure handed to a dispatcher is not once it has grown.
macro_rules! vectorized {
    ($(#[$meta:meta])* fn $name:ident<$($generic:ident: $bound:path),*>($($arg:ident: $type:ty),* $(,)?)
        $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name<$($generic: $bound),*>($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body<$($generic: $bound),*>($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn widest<$($generic: $bound),*>($($arg: $type),*) $(-> $result)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn wide<$($generic: $bound),*>($($arg: $type),*) $(-> $result)? {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has the features that the function is compiled for.
                    return unsafe { widest($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has the features that the function is compiled for.
                    return unsafe { wide($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorized;

vectorized! {
    fn map_into<T: Real, F: Fn(T) -> T>(out: &mut [T], x: &[T], f: F) {
        for (o, &v) in out.iter_mut().zip(x) {
            *o = f(v);
        }
    }
}

vectorized! {
    fn map2_into<T: Real, F: Fn(T, T) -> T>(out: &mut [T], x: &[T], y: &[T], f: F) {
        for ((o, &a), &b) in out.iter_mut().zip(x).zip(y) {
            *o = f(a, b);
        }
    }
}

/// `out[i] = f(x[i])`.
pub(crate) fn map<T: Real>(x: &[T], f: impl Fn(T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    share(&mut out, 1, |start, out| map_into(out, &x[start..], &f));
    out
}

/// `out[i] = f(x[i], y[i])`.
pub(crate) fn map2<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    share(&mut out, 1, |start, out| map2_into(out, &x[start..], &y[start..], &f));
    out
}

/// Cuts `out` into one piece per thread at multiples of `unit` elements and calls `f(first element, piece)`.
pub(crate) fn share<T: Send>(out: &mut [T], unit: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let units = out.len() / unit.max(1);
    if out.len() < SHARE_FROM || units < 2 || threads() == 1 {
        return f(0, out);
    }
    let piece = units.div_ceil(threads()) * unit;
    out.par_chunks_mut(piece).enumerate().for_each(|(i, out)| f(i * piece, out));
}

/// A matrix view over a slice: element (i, j) is `data[i·row_stride + j·col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `rows`×`cols` in row-major order.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "matrix {rows}×{cols} over {} elements", data.len());
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The matrix that a layout of rank 2 describes.
    pub(crate) fn of(data: &'a [T], layout: &Layout) -> Self {
        let (dims, stride) = (layout.dims(), layout.stride());
        let data = &data[layout.start_offset()..];
        let matrix =
            Self { data, rows: dims[0], cols: dims[1], row_stride: stride[0], col_stride: stride[1] };
        let last = matrix.rows.saturating_sub(1) * stride[0] + matrix.cols.saturating_sub(1) * stride[1];
        assert!(dims.contains(&0) || last < data.len(), "{layout:?} over {} elements", data.len());
        matrix
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = a·b`, or `out += a·b` where `accumulate`; `out` is row-major. On one thread, or on all.
pub(crate) fn gemm<T: Real>(
    out: &mut [T],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
    parallel: bool,
) {
    assert_eq!(a.cols, b.rows, "gemm: inner sizes");
    assert_eq!(out.len(), a.rows * b.cols, "gemm: size of the result");
    if a.cols == 0 && !accumulate {
        out.fill(T::ZERO);
    }
    if out.is_empty() || a.cols == 0 {
        return;
    }
    let parallelism =
        if parallel && threads() > 1 { gemm::Parallelism::Rayon(threads()) } else { gemm::Parallelism::None };
    // SAFETY: `Matrix::new` and `Matrix::of` checked that the last element lies in the slice, and `t` only swaps the
    // strides, so every (i, j) of `a` and `b` lies in its slice; `out` holds rows·cols elements, is exclusive, and
    // cannot overlap the shared slices.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

vectorized! {
    fn add_rows<T: Real>(out: &mut [T], x: &[T]) {
        for row in x.chunks_exact(out.len().max(1)) {
            for (o, &v) in out.iter_mut().zip(row) {
                *o += v;
            }
        }
    }
}

/// Sums over the rows of a row-major `[rows, cols]` matrix, in the order of the rows.
pub(crate) fn column_sums<T: Real>(x: &[T], cols: usize) -> Vec<T> {
    let mut out = vec![T::ZERO; cols];
    add_rows(&mut out, x);
    out
}

/// A sum in a fixed order that fills the vector registers: eight partial sums, then those.
#[inline(always)]
pub(crate) fn lane_sum<T: Real>(values: &[T]) -> T {
    let mut lanes = [T::ZERO; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += v;
        }
    }
    let mut sum = T::ZERO;
    for v in lanes.into_iter().chain(rest.iter().copied()) {
        sum += v;
    }
    sum
}
