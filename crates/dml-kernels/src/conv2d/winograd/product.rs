//! Matrix products over blocks of channels, register tile by register tile.
//!
//! A matrix lies block by block, a block `[tiles, channels]` with its channels side by side, so that every row of a
//! register tile is near the next. A block is two vectors of channels.

use crate::simd::{Simd, Vectors, with_widest};

/// Tiles of images are padded to a multiple of this: no register tile has more rows.
pub(super) const ROWS: usize = 8;

/// Channels of a block: two vectors.
pub(super) fn block<T: Vectors>() -> usize {
    two_vectors::<T>()
}

with_widest! {
    fn two_vectors<T, S>() -> usize {
        2 * S::LANES
    }
}

with_widest! {
    /// `out[t, o] = Σ_c a[t, c]·b[c, o]` for t < `rows`, rounded up to whole register tiles: `a` in blocks `a_block`
    /// elements apart, `b` `[c, block]`, `out` `[rows, block]`.
    fn multiply<T, S>(a: &[T], a_block: usize, rows: usize, b: &[T], out: &mut [T]) {
        let block = 2 * S::LANES;
        let blocks = b.len() / (block * block);
        let rows = rows.next_multiple_of(S::ROWS);
        assert!(blocks > 0 && b.len() == blocks * block * block, "second factor of a product");
        assert!((blocks - 1) * a_block + rows * block <= a.len(), "first factor of a product");
        assert!(rows * block <= out.len(), "result of a product");
        for t in (0..rows).step_by(S::ROWS) {
            // SAFETY: the instruction set is the one this is compiled for; rows t to t + ROWS lie in `a` and `out`, and
            // all of `b` in its slice, as asserted.
            unsafe {
                let a = a.as_ptr().add(t * block);
                let out = out.as_mut_ptr().add(t * block);
                if S::ROWS == 8 {
                    multiply_tile::<T, S, 8>(a, a_block, blocks, b.as_ptr(), out);
                } else {
                    multiply_tile::<T, S, 4>(a, a_block, blocks, b.as_ptr(), out);
                }
            }
        }
    }
}

/// One tile of M rows.
///
/// # Safety
/// The processor has `S`, and the pointers lead to what [`multiply`] asserts.
#[inline(always)]
unsafe fn multiply_tile<T: Vectors, S: Simd<T>, const M: usize>(
    a: *const T,
    a_block: usize,
    blocks: usize,
    b: *const T,
    out: *mut T,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let block = 2 * S::LANES;
        let mut sums = [[S::splat(T::ZERO); 2]; M];
        for p in 0..blocks {
            let (a, b) = (a.add(p * a_block), b.add(p * block * block));
            for c in 0..block {
                let row = [S::load(b.add(c * block)), S::load(b.add(c * block + S::LANES))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let v = S::splat(*a.add(r * block + c));
                    sums[0] = S::mul_add(v, row[0], sums[0]);
                    sums[1] = S::mul_add(v, row[1], sums[1]);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            S::store(out.add(r * block), sums[0]);
            S::store(out.add(r * block + S::LANES), sums[1]);
        }
    }
}

with_widest! {
    /// `out[c, o] += Σ_t a[t, c]·b[t, o]` for t < `rows`: one block each, `out` `[block, block]`.
    fn add_products<T, S>(a: &[T], b: &[T], rows: usize, out: &mut [T]) {
        let block = 2 * S::LANES;
        assert!(rows * block <= a.len() && rows * block <= b.len() && block * block <= out.len(), "factors of a sum");
        for c in (0..block).step_by(S::ROWS) {
            // SAFETY: the instruction set is the one this is compiled for; ROWS divides `block`, and `rows` rows lie in
            // both factors, as asserted.
            unsafe {
                let a = a.as_ptr().add(c);
                let out = out.as_mut_ptr().add(c * block);
                if S::ROWS == 8 {
                    add_tile::<T, S, 8>(a, b.as_ptr(), rows, out);
                } else {
                    add_tile::<T, S, 4>(a, b.as_ptr(), rows, out);
                }
            }
        }
    }
}

/// One tile of M rows.
///
/// # Safety
/// The processor has `S`, and the pointers lead to what [`add_products`] asserts.
#[inline(always)]
unsafe fn add_tile<T: Vectors, S: Simd<T>, const M: usize>(
    a: *const T,
    b: *const T,
    rows: usize,
    out: *mut T,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let block = 2 * S::LANES;
        let mut sums: [[S::V; 2]; M] =
            std::array::from_fn(|r| [S::load(out.add(r * block)), S::load(out.add(r * block + S::LANES))]);
        for t in 0..rows {
            let row = [S::load(b.add(t * block)), S::load(b.add(t * block + S::LANES))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let v = S::splat(*a.add(t * block + r));
                sums[0] = S::mul_add(v, row[0], sums[0]);
                sums[1] = S::mul_add(v, row[1], sums[1]);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            S::store(out.add(r * block), sums[0]);
            S::store(out.add(r * block + S::LANES), sums[1]);
        }
    }
}
