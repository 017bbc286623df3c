//! The transforms of F(2×2, 3×3) between pixels and the sixteen products of a tile, and their adjoints.
//!
//! With channels side by side a transform is the same few additions for every channel of a block: no lane waits for
//! another. A block is two vectors of channels.

use crate::simd::{Simd, Vectors, with_widest};

/// Products of a tile.
pub(super) const PRODUCTS: usize = 16;

/// Panics unless tiles of `size` rows and columns of pixels at `starts` lie in `len` elements.
fn assert_inside(starts: &[usize], row: usize, block: usize, size: usize, len: usize) {
    let furthest = starts.iter().max().copied().unwrap_or(0);
    assert!(furthest + (size - 1) * row + size * block <= len, "pixels of the tiles");
}

/// Panics unless `PRODUCTS` blocks of `count` tiles every `stride` elements lie in `len` elements.
fn assert_products(stride: usize, count: usize, block: usize, len: usize) {
    assert!(
        count * block <= stride && (PRODUCTS - 1) * stride + count * block <= len,
        "products of the tiles"
    );
}

/// Bᵀ·d, for one column.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn input<T: Vectors, S: Simd<T>>(d: [S::V; 4]) -> [S::V; 4] {
    // SAFETY: the caller's promise.
    unsafe { [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[1], d[3])] }
}

/// B·v, its adjoint.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn to_input<T: Vectors, S: Simd<T>>(v: [S::V; 4]) -> [S::V; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let negative = S::sub(S::splat(T::ZERO), v[3]);
        [v[0], S::add(S::sub(v[1], v[2]), v[3]), S::sub(S::add(v[1], v[2]), v[0]), negative]
    }
}

/// Aᵀ·m, for one column.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn output<T: Vectors, S: Simd<T>>(m: [S::V; 4]) -> [S::V; 2] {
    // SAFETY: the caller's promise.
    unsafe { [S::add(S::add(m[0], m[1]), m[2]), S::sub(S::sub(m[1], m[2]), m[3])] }
}

/// A·g, its adjoint.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn to_output<T: Vectors, S: Simd<T>>(g: [S::V; 2]) -> [S::V; 4] {
    // SAFETY: the caller's promise.
    unsafe { [g[0], S::add(g[0], g[1]), S::sub(g[0], g[1]), S::sub(S::splat(T::ZERO), g[1])] }
}

/// The transpose.
#[inline(always)]
fn turned<V: Copy, const M: usize, const N: usize>(of: [[V; N]; M]) -> [[V; M]; N] {
    std::array::from_fn(|j| std::array::from_fn(|i| of[i][j]))
}

with_widest! {
    /// Bᵀ·d·B of the 4×4 pixels at each of `starts`, in rows `row` elements long, into product k of tile t at
    /// `out[k·stride + t·block]`.
    fn transform_input<T, S>(image: &[T], starts: &[usize], row: usize, out: &mut [T], stride: usize) {
        let block = 2 * S::LANES;
        assert_inside(starts, row, block, 4, image.len());
        assert_products(stride, starts.len(), block, out.len());
        for (t, &start) in starts.iter().enumerate() {
            for lane in [0, S::LANES] {
                // SAFETY: the instruction set is the one this is compiled for; pixels and products lie inside, as
                // asserted.
                unsafe {
                    let pixel = image.as_ptr().add(start + lane);
                    let d: [[S::V; 4]; 4] =
                        std::array::from_fn(|x| std::array::from_fn(|y| S::load(pixel.add(y * row + x * block))));
                    let columns: [[S::V; 4]; 4] = std::array::from_fn(|x| input::<T, S>(d[x]));
                    let v = turned(columns);
                    let out = out.as_mut_ptr().add(t * block + lane);
                    for (y, v) in v.into_iter().enumerate() {
                        for (x, v) in input::<T, S>(v).into_iter().enumerate() {
                            S::store(out.add((4 * y + x) * stride), v);
                        }
                    }
                }
            }
        }
    }
}

with_widest! {
    /// The adjoint of [`transform_input`]: adds B·v·Bᵀ to the pixels.
    fn add_to_input<T, S>(products: &[T], stride: usize, starts: &[usize], row: usize, image: &mut [T]) {
        let block = 2 * S::LANES;
        assert_inside(starts, row, block, 4, image.len());
        assert_products(stride, starts.len(), block, products.len());
        for (t, &start) in starts.iter().enumerate() {
            for lane in [0, S::LANES] {
                // SAFETY: the instruction set is the one this is compiled for; pixels and products lie inside, as
                // asserted.
                unsafe {
                    let products = products.as_ptr().add(t * block + lane);
                    let v: [[S::V; 4]; 4] = std::array::from_fn(|y| {
                        std::array::from_fn(|x| S::load(products.add((4 * y + x) * stride)))
                    });
                    let rows: [[S::V; 4]; 4] = std::array::from_fn(|y| to_input::<T, S>(v[y]));
                    let columns = turned(rows);
                    let pixel = image.as_mut_ptr().add(start + lane);
                    for (x, column) in columns.into_iter().enumerate() {
                        for (y, d) in to_input::<T, S>(column).into_iter().enumerate() {
                            let to = pixel.add(y * row + x * block);
                            S::store(to, S::add(S::load(to), d));
                        }
                    }
                }
            }
        }
    }
}

with_widest! {
    /// Aᵀ·m·A of each tile's products to the 2×2 pixels at `starts`.
    fn transform_output<T, S>(products: &[T], stride: usize, starts: &[usize], row: usize, image: &mut [T]) {
        let block = 2 * S::LANES;
        assert_inside(starts, row, block, 2, image.len());
        assert_products(stride, starts.len(), block, products.len());
        for (t, &start) in starts.iter().enumerate() {
            for lane in [0, S::LANES] {
                // SAFETY: the instruction set is the one this is compiled for; pixels and products lie inside, as
                // asserted.
                unsafe {
                    let products = products.as_ptr().add(t * block + lane);
                    let m: [[S::V; 4]; 4] = std::array::from_fn(|y| {
                        std::array::from_fn(|x| S::load(products.add((4 * y + x) * stride)))
                    });
                    let rows: [[S::V; 2]; 4] = std::array::from_fn(|y| output::<T, S>(m[y]));
                    let columns = turned(rows);
                    let pixel = image.as_mut_ptr().add(start + lane);
                    for (x, column) in columns.into_iter().enumerate() {
                        for (y, v) in output::<T, S>(column).into_iter().enumerate() {
                            S::store(pixel.add(y * row + x * block), v);
                        }
                    }
                }
            }
        }
    }
}

with_widest! {
    /// The adjoint of [`transform_output`]: A·g·Aᵀ of the 2×2 pixels at each of `starts`.
    fn transform_gradient<T, S>(image: &[T], starts: &[usize], row: usize, out: &mut [T], stride: usize) {
        let block = 2 * S::LANES;
        assert_inside(starts, row, block, 2, image.len());
        assert_products(stride, starts.len(), block, out.len());
        for (t, &start) in starts.iter().enumerate() {
            for lane in [0, S::LANES] {
                // SAFETY: the instruction set is the one this is compiled for; pixels and products lie inside, as
                // asserted.
                unsafe {
                    let pixel = image.as_ptr().add(start + lane);
                    let g: [[S::V; 2]; 2] =
                        std::array::from_fn(|x| std::array::from_fn(|y| S::load(pixel.add(y * row + x * block))));
                    let columns: [[S::V; 4]; 2] = std::array::from_fn(|x| to_output::<T, S>(g[x]));
                    let rows = turned(columns);
                    let out = out.as_mut_ptr().add(t * block + lane);
                    for (y, row) in rows.into_iter().enumerate() {
                        for (x, v) in to_output::<T, S>(row).into_iter().enumerate() {
                            S::store(out.add((4 * y + x) * stride), v);
                        }
                    }
                }
            }
        }
    }
}

/// G·w·Gᵀ of a 3×3 kernel.
pub(super) fn transform_kernel<T: Vectors>(w: &[T]) -> [[T; 4]; 4] {
    let half = T::from_f64(0.5);
    let once = |w: [T; 3]| {
        let (outer, middle) = ((w[0] + w[2]) * half, w[1] * half);
        [w[0], outer + middle, outer - middle, w[2]]
    };
    let columns: [[T; 4]; 3] = std::array::from_fn(|x| once([w[x], w[3 + x], w[6 + x]]));
    turned(columns).map(once)
}

with_widest! {
    /// The adjoint of [`transform_kernel`] for a block of input and a block of output channels: Gᵀ·u·G of `products`
    /// `[16, block, block]` (product, input, output) into `out` `[block, block, 9]` (input, kernel element, output).
    fn to_kernel<T, S>(products: &[T], out: &mut [T]) {
        let block = 2 * S::LANES;
        let plane = block * block;
        assert!(products.len() == PRODUCTS * plane && out.len() == 9 * plane, "products of a block of kernels");
        for input in 0..block {
            for lane in [0, S::LANES] {
                // SAFETY: the instruction set is the one this is compiled for; `input` and lanes are below `block`.
                unsafe {
                    let half = S::splat(T::from_f64(0.5));
                    let zero = S::splat(T::ZERO);
                    let once = |u: [S::V; 4]| {
                        let sum = S::mul_add(half, S::add(u[1], u[2]), zero);
                        let difference = S::mul_add(half, S::sub(u[1], u[2]), zero);
                        [S::add(u[0], sum), difference, S::add(sum, u[3])]
                    };
                    let from = products.as_ptr().add(input * block + lane);
                    let u: [[S::V; 4]; 4] =
                        std::array::from_fn(|y| std::array::from_fn(|x| S::load(from.add((4 * y + x) * plane))));
                    let rows: [[S::V; 3]; 4] = std::array::from_fn(|y| once(u[y]));
                    let columns = turned(rows);
                    let to = out.as_mut_ptr().add(input * 9 * block + lane);
                    for (x, column) in columns.into_iter().enumerate() {
                        for (y, w) in once(column).into_iter().enumerate() {
                            S::store(to.add((3 * y + x) * block), w);
                        }
                    }
                }
            }
        }
    }
}
