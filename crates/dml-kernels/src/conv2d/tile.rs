//! Register tiles: the two inner loops in which a convolution spends its time.
//!
//! Both read rows of one buffer at given offsets, each shifted against the next by a kernel element, so no column
//! matrix is ever built. Sums stay in registers over the whole inner loop.

use crate::simd::{Simd, Vectors, sum_of_lanes, with_widest};

/// Vectors across in a tile of [`correlate`].
const ACROSS: usize = 3;
/// Rows of the second factor in a tile of [`dot_rows`].
const SHIFTS: usize = 3;
/// Elements that may be read or written beyond the last position: a tile rounds up to whole vectors.
pub(crate) const SLACK: usize = ACROSS * 16;

/// Rows of weights that a tile takes at once, on this processor.
pub(crate) fn tile_rows<T: Vectors>() -> usize {
    rows::<T>()
}

with_widest! {
    fn rows<T, S>() -> usize {
        S::ROWS
    }
}

with_widest! {
    /// `out[r·out_row + p] = Σ_k a[k·m + r]·b[offsets[k] + p]` for r < m ≤ `tile_rows` and p < `positions`.
    ///
    /// Up to [`SLACK`] elements behind the last position are read and written too: `b` has them behind its furthest
    /// offset, `out` behind each row.
    fn correlate<T, S>(a: &[T], m: usize, b: &[T], offsets: &[usize], out: &mut [T], out_row: usize, positions: usize) {
        let furthest = offsets.iter().max().copied().unwrap_or(0);
        assert!(a.len() >= m * offsets.len() && m <= S::ROWS, "weights of a tile");
        assert!(b.len() >= furthest + positions + SLACK, "positions of a tile");
        assert!(out_row >= positions + SLACK && out.len() >= m * out_row, "results of a tile");
        let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
        let step = ACROSS * S::LANES;
        let mut p = 0;
        while p < positions {
            // SAFETY: the instruction set is the one this is compiled for. Reads end before furthest + p + step ≤
            // furthest + positions + SLACK, writes before (m − 1)·out_row + positions + SLACK ≤ m·out_row, both
            // asserted to lie in their slices; a tile is narrower where fewer positions are left.
            unsafe {
                let (b, out) = (b.add(p), out.add(p));
                match positions.saturating_sub(p).div_ceil(S::LANES).min(ACROSS) {
                    1 => correlate_rows::<T, S, 1>(a, m, b, offsets, out, out_row),
                    2 => correlate_rows::<T, S, 2>(a, m, b, offsets, out, out_row),
                    _ => correlate_rows::<T, S, ACROSS>(a, m, b, offsets, out, out_row),
                }
            }
            p += step;
        }
    }
}

/// Picks the number of rows.
///
/// # Safety
/// The processor has `S`; the slices behind the pointers hold what [`correlate`] asserts.
#[inline(always)]
unsafe fn correlate_rows<T: Vectors, S: Simd<T>, const N: usize>(
    a: *const T,
    m: usize,
    b: *const T,
    offsets: &[usize],
    out: *mut T,
    out_row: usize,
) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match m {
            1 => correlate_tile::<T, S, 1, N>(a, b, offsets, out, out_row),
            2 => correlate_tile::<T, S, 2, N>(a, b, offsets, out, out_row),
            3 => correlate_tile::<T, S, 3, N>(a, b, offsets, out, out_row),
            4 => correlate_tile::<T, S, 4, N>(a, b, offsets, out, out_row),
            5 => correlate_tile::<T, S, 5, N>(a, b, offsets, out, out_row),
            6 => correlate_tile::<T, S, 6, N>(a, b, offsets, out, out_row),
            7 => correlate_tile::<T, S, 7, N>(a, b, offsets, out, out_row),
            _ => correlate_tile::<T, S, 8, N>(a, b, offsets, out, out_row),
        }
    }
}

/// One tile of M rows and N vectors.
///
/// # Safety
/// As [`correlate_rows`].
#[inline(always)]
unsafe fn correlate_tile<T: Vectors, S: Simd<T>, const M: usize, const N: usize>(
    a: *const T,
    b: *const T,
    offsets: &[usize],
    out: *mut T,
    out_row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[S::splat(T::ZERO); N]; M];
        for (k, &offset) in offsets.iter().enumerate() {
            let row: [S::V; N] = std::array::from_fn(|j| S::load(b.add(offset + j * S::LANES)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = S::splat(*a.add(k * M + r));
                for (sum, v) in sums.iter_mut().zip(row) {
                    *sum = S::mul_add(weight, v, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                S::store(out.add(r * out_row + j * S::LANES), sum);
            }
        }
    }
}

with_widest! {
    /// `out[r·out_row + k] += Σ_p a[r·a_row + p]·b[offsets[k] + p]` for r < m ≤ `tile_rows`, k < `offsets.len()`, over
    /// p < `positions`, rounded up to whole vectors: `a` is 0 there.
    #[expect(clippy::too_many_arguments, reason = "two operands and a result, each with its stride")]
    fn dot_rows<T, S>(a: &[T], a_row: usize, m: usize, b: &[T], offsets: &[usize], out: &mut [T], out_row: usize, positions: usize) {
        let furthest = offsets.iter().max().copied().unwrap_or(0);
        assert!(m <= S::ROWS && a_row >= positions + SLACK && a.len() >= m * a_row, "first rows of a tile");
        assert!(b.len() >= furthest + positions + SLACK, "second rows of a tile");
        assert!(out_row >= offsets.len() && out.len() >= (m - 1) * out_row + offsets.len(), "results of a tile");
        for (k, offsets) in offsets.chunks(SHIFTS).enumerate() {
            let out = &mut out[k * SHIFTS..];
            // SAFETY: the instruction set is the one this is compiled for; reads end before positions + SLACK in
            // each row, which the slices were asserted to hold.
            unsafe {
                match *offsets {
                    [x] => dot_some::<T, S, 1>(a, a_row, m, b, [x], out, out_row, positions),
                    [x, y] => dot_some::<T, S, 2>(a, a_row, m, b, [x, y], out, out_row, positions),
                    [x, y, z] => dot_some::<T, S, 3>(a, a_row, m, b, [x, y, z], out, out_row, positions),
                    _ => {}
                }
            }
        }
    }
}

/// Picks the number of rows.
///
/// # Safety
/// The processor has `S`; the slices hold what [`dot_rows`] asserts.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two operands and a result, each with its stride")]
unsafe fn dot_some<T: Vectors, S: Simd<T>, const N: usize>(
    a: &[T],
    a_row: usize,
    m: usize,
    b: &[T],
    offsets: [usize; N],
    out: &mut [T],
    out_row: usize,
    positions: usize,
) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match m {
            1 => dot_tile::<T, S, 1, N>(a, a_row, b, offsets, out, out_row, positions),
            2 => dot_tile::<T, S, 2, N>(a, a_row, b, offsets, out, out_row, positions),
            3 => dot_tile::<T, S, 3, N>(a, a_row, b, offsets, out, out_row, positions),
            4 => dot_tile::<T, S, 4, N>(a, a_row, b, offsets, out, out_row, positions),
            5 => dot_tile::<T, S, 5, N>(a, a_row, b, offsets, out, out_row, positions),
            6 => dot_tile::<T, S, 6, N>(a, a_row, b, offsets, out, out_row, positions),
            7 => dot_tile::<T, S, 7, N>(a, a_row, b, offsets, out, out_row, positions),
            _ => dot_tile::<T, S, 8, N>(a, a_row, b, offsets, out, out_row, positions),
        }
    }
}

/// One tile of M×N sums.
///
/// # Safety
/// As [`dot_some`].
#[inline(always)]
unsafe fn dot_tile<T: Vectors, S: Simd<T>, const M: usize, const N: usize>(
    a: &[T],
    a_row: usize,
    b: &[T],
    offsets: [usize; N],
    out: &mut [T],
    out_row: usize,
    positions: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[S::splat(T::ZERO); N]; M];
        let (a, b) = (a.as_ptr(), b.as_ptr());
        let mut p = 0;
        while p < positions {
            let shifted: [S::V; N] = std::array::from_fn(|k| S::load(b.add(offsets[k] + p)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let row = S::load(a.add(r * a_row + p));
                for (sum, v) in sums.iter_mut().zip(shifted) {
                    *sum = S::mul_add(row, v, *sum);
                }
            }
            p += S::LANES;
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (k, sum) in sums.into_iter().enumerate() {
                out[r * out_row + k] += sum_of_lanes::<T, S>(sum);
            }
        }
    }
}
