//! The backward pass of a 3×3 convolution whose output gradient is mostly zeros.
//!
//! With channels last, an output pixel's nine inputs are nine vectors of channels. A gradient g of output channel o at
//! one pixel adds g·x to the nine vectors of ∂W\[o\], which stay in registers over a whole image, and g·W\[o\] to the
//! nine vectors of ∂x, with W\[o\] in registers. What is 0 costs nothing.

use super::channels_last::ChannelsLast;
use super::pooled::Pixels;
use super::*;
use crate::simd::{Simd, with_widest};

/// Elements of a 3×3 kernel.
const KERNEL: usize = 9;

/// An output gradient other than 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<T> {
    /// Where its inputs begin.
    pub(super) at: u32,
    pub(super) gradient: T,
}

/// How the channels are cut into blocks that fill vectors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sparse {
    /// Channels of a block.
    block: usize,
    blocks: usize,
    /// Rows and columns of a padded image.
    size: (usize, usize),
}

impl Sparse {
    /// `None` where the convolution is of another form.
    pub(super) fn new<T: Vectors>(g: &Geometry) -> Option<Self> {
        let Conv2dConfig { stride, dilation, groups, .. } = g.config;
        if (g.kernel_height, g.kernel_width, stride, dilation, groups) != (3, 3, 1, 1, 1) {
            return None;
        }
        let block = blocks::<T>().into_iter().find(|block| g.channels.is_multiple_of(*block))?;
        let size = (g.out_height + 2, g.out_width + 2);
        // Places in a padded image are kept in 32 bits.
        u32::try_from(size.0 * size.1 * block).ok()?;
        Some(Self { block, blocks: g.channels / block, size })
    }

    /// Elements of one block of a padded image.
    fn plane(&self) -> usize {
        self.size.0 * self.size.1 * self.block
    }

    /// As [`Geometry::backward`], from the pixels of each image.
    pub(super) fn backward<'a, T: Vectors>(
        &self,
        g: &Geometry,
        x: &[T],
        weight: &[T],
        wants_input: bool,
        pixels: impl Fn(usize) -> Pixels<'a, T> + Sync,
    ) -> Gradients<T> {
        let turned = self.turned(weight, g.outputs, |of, at| of[at]);
        let row = self.size.1 * self.block;
        let of_image = ChannelsLast {
            size: (g.height, g.width),
            full: self.size,
            border: g.config.padding,
            block: self.block,
        };
        let of_block = self.block * g.height * g.width;
        let weights = g.outputs * g.depth();
        let sums = g.backward_by_pieces(x, weights, wants_input, |first, x, mut to_x, to_weight, to_bias| {
            // Channels last, with a border: a block of the image and of its gradient at a time.
            let mut image = Scratch::<T>::zeros(self.blocks * self.plane());
            let mut to_image = Scratch::<T>::zeros(if wants_input { self.blocks * self.plane() } else { 0 });
            let mut entries = Vec::with_capacity(g.pooled_plane());
            for (i, x) in x.chunks_exact(g.image()).enumerate() {
                let blocks = x.chunks_exact(of_block).zip(image.chunks_exact_mut(self.plane()));
                blocks.for_each(|(x, image)| of_image.put(x, image));
                to_image.fill(T::ZERO);
                for (channel, to_bias) in to_bias.iter_mut().enumerate() {
                    pixels(first + i).entries(channel, self.size.1, self.block, &mut entries);
                    *to_bias += Pixels::sum(&entries);
                    let of = |block: usize| (channel * self.blocks + block) * KERNEL * self.block;
                    for (block, image) in image.chunks_exact(self.plane()).enumerate() {
                        let sums = &mut to_weight[of(block)..][..KERNEL * self.block];
                        add_to_weight(&entries, image, row, self.block, sums);
                    }
                    for (block, to_image) in to_image.chunks_exact_mut(self.plane()).enumerate() {
                        let weight = &turned[of(block)..][..KERNEL * self.block];
                        add_to_image(&entries, weight, row, self.block, to_image);
                    }
                }
                if let Some(to_x) = to_x.as_deref_mut() {
                    let to_x = &mut to_x[i * g.image()..][..g.image()];
                    let blocks = to_x.chunks_exact_mut(of_block).zip(to_image.chunks_exact(self.plane()));
                    blocks.for_each(|(to_x, to_image)| of_image.take(to_image, to_x));
                }
            }
        });
        let to_weight = self.turned_back(&sums.1, g.outputs);
        Gradients { to_x: sums.0, to_weight, to_bias: sums.2 }
    }

    /// `[o, c, 9]` as `[o, blocks, 9, block]`.
    fn turned<T: Real>(&self, weight: &[T], outputs: usize, of: impl Fn(&[T], usize) -> T) -> Vec<T> {
        let channels = self.blocks * self.block;
        let mut turned = Vec::with_capacity(weight.len());
        for o in 0..outputs {
            for block in 0..self.blocks {
                for element in 0..KERNEL {
                    let channels =
                        (block * self.block..(block + 1) * self.block).map(|c| (o * channels + c) * KERNEL);
                    turned.extend(channels.map(|at| of(weight, at + element)));
                }
            }
        }
        turned
    }

    /// `[o, blocks, 9, block]` as `[o, c, 9]`.
    fn turned_back<T: Real>(&self, turned: &[T], outputs: usize) -> Vec<T> {
        let mut weight = Vec::with_capacity(turned.len());
        for block in 0..outputs * self.blocks {
            let turned = &turned[block * KERNEL * self.block..];
            for channel in 0..self.block {
                weight.extend((0..KERNEL).map(|element| turned[element * self.block + channel]));
            }
        }
        weight
    }
}

/// Sizes of a block in order of preference: as many vectors as leave all nine inputs in registers.
fn blocks<T: Vectors>() -> Vec<usize> {
    let (lanes, most) = shape_of_block::<T>();
    (1..=most).rev().map(|vectors| vectors * lanes).collect()
}

with_widest! {
    fn shape_of_block<T, S>() -> (usize, usize) {
        (S::LANES, vectors_of_block(S::ROWS))
    }
}

/// Two vectors a pixel where there are 32 registers, one where there are 16.
const fn vectors_of_block(rows: usize) -> usize {
    if rows == 8 { 2 } else { 1 }
}

/// Panics unless the nine inputs of each entry lie in an image of `len` elements.
fn assert_inside<T>(entries: &[Entry<T>], row: usize, block: usize, len: usize) {
    let furthest = entries.iter().map(|entry| entry.at as usize).max().unwrap_or(0);
    assert!(furthest + 2 * row + 3 * block <= len, "entries of an image");
}

with_widest! {
    /// `sums[e] += Σ gradient·image[at + offset(e)]` for the nine kernel elements e.
    fn add_to_weight<T, S>(entries: &[Entry<T>], image: &[T], row: usize, block: usize, sums: &mut [T]) {
        assert_inside(entries, row, block, image.len());
        assert!(sums.len() == KERNEL * block, "sums of a block");
        // SAFETY: the instruction set is the one this is compiled for; entries and sums lie inside, as asserted.
        unsafe {
            if block == S::LANES {
                weight_sums::<T, S, 1>(entries, image, row, sums);
            } else {
                assert!(block == 2 * S::LANES, "vectors of a block");
                weight_sums::<T, S, 2>(entries, image, row, sums);
            }
        }
    }
}

/// The sums of one block of N vectors.
///
/// # Safety
/// The processor has `S`; the slices hold what [`add_to_weight`] asserts.
#[inline(always)]
unsafe fn weight_sums<T: Vectors, S: Simd<T>, const N: usize>(
    entries: &[Entry<T>],
    image: &[T],
    row: usize,
    sums: &mut [T],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let at = |e: usize, v: usize| (e * N + v) * S::LANES;
        let mut kept: [[S::V; N]; KERNEL] =
            std::array::from_fn(|e| std::array::from_fn(|v| S::load(sums.as_ptr().add(at(e, v)))));
        for &Entry { at: first, gradient } in entries {
            let g = S::splat(gradient);
            let pixel = image.as_ptr().add(first as usize);
            for (e, kept) in kept.iter_mut().enumerate() {
                for (v, kept) in kept.iter_mut().enumerate() {
                    let x = S::load(pixel.add(e / 3 * row + at(e % 3, v)));
                    *kept = S::mul_add(g, x, *kept);
                }
            }
        }
        for (e, kept) in kept.into_iter().enumerate() {
            for (v, kept) in kept.into_iter().enumerate() {
                S::store(sums.as_mut_ptr().add(at(e, v)), kept);
            }
        }
    }
}

with_widest! {
    /// `to_image[at + offset(e)] += gradient·weight[e]` for the nine kernel elements e.
    fn add_to_image<T, S>(entries: &[Entry<T>], weight: &[T], row: usize, block: usize, to_image: &mut [T]) {
        assert_inside(entries, row, block, to_image.len());
        assert!(weight.len() == KERNEL * block, "weights of a block");
        // SAFETY: the instruction set is the one this is compiled for; entries and weights lie inside, as asserted.
        unsafe {
            if block == S::LANES {
                image_sums::<T, S, 1>(entries, weight, row, to_image);
            } else {
                assert!(block == 2 * S::LANES, "vectors of a block");
                image_sums::<T, S, 2>(entries, weight, row, to_image);
            }
        }
    }
}

/// The sums of one block of N vectors.
///
/// # Safety
/// The processor has `S`; the slices hold what [`add_to_image`] asserts.
#[inline(always)]
unsafe fn image_sums<T: Vectors, S: Simd<T>, const N: usize>(
    entries: &[Entry<T>],
    weight: &[T],
    row: usize,
    to_image: &mut [T],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let at = |e: usize, v: usize| (e * N + v) * S::LANES;
        let weight: [[S::V; N]; KERNEL] =
            std::array::from_fn(|e| std::array::from_fn(|v| S::load(weight.as_ptr().add(at(e, v)))));
        for &Entry { at: first, gradient } in entries {
            let g = S::splat(gradient);
            let pixel = to_image.as_mut_ptr().add(first as usize);
            for (e, weight) in weight.iter().enumerate() {
                for (v, &weight) in weight.iter().enumerate() {
                    let to = pixel.add(e / 3 * row + at(e % 3, v));
                    S::store(to, S::mul_add(g, weight, S::load(to)));
                }
            }
        }
    }
}
