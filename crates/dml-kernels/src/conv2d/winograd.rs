//! 3×3 convolution with 2.25 times fewer multiplications: Winograd's minimal filtering F(2×2, 3×3).
//!
//! Four output pixels are Aᵀ·\[(G·w·Gᵀ) ⊙ (Bᵀ·d·B)\]·A of the 4×4 input pixels d around them: sixteen products
//! instead of thirty-six, and summed over channels these are sixteen matrix products, tiles × input channels ×
//! output channels. Backward is the adjoint step by step: with m̄ = A·ḡ·Aᵀ the gradient of the products, weights
//! receive Gᵀ·(Σ d̂·m̄)·G and pixels B·(Σ ŵ·m̄)·Bᵀ, so both need the multiplications of one forward pass each.
//!
//! The transforms are additions and halvings: results are as accurate as direct sums but for a small factor. A pixel
//! that is infinite or NaN makes all four outputs of its tiles NaN, where a direct sum would leave some as they are.
//!
//! Source: Lavin and Gray 2016 \[lavin2016\].

use super::channels_last::ChannelsLast;
use super::tile::SLACK;
use super::*;
use product::{ROWS, add_products, block, multiply};
use transform::{
    PRODUCTS, add_to_input, to_kernel, transform_gradient, transform_input, transform_kernel,
    transform_output,
};

mod product;
mod transform;

/// Channels, input and output, from which on the saved multiplications outweigh the transforms.
const CHANNELS: usize = 16;
/// Tiles that go through the products at once: enough that kernels are read seldom, few enough for the cache.
const TILES: usize = 64;
/// The same where there are so many channels that reading kernels and their gradients takes the time.
const TILES_OF_MANY: usize = 128;
/// Channels, input and output together, that are many.
const MANY: usize = 512;

/// A convolution of that form, cut into tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Winograd<'a> {
    of: &'a Geometry,
    /// Tiles of an image: rows and columns.
    tiles: (usize, usize),
    /// Blocks of input channels.
    inputs: usize,
    /// Blocks of output channels.
    outputs: usize,
    /// A block of an image with its padding.
    image: ChannelsLast,
    /// A block of results, rounded up to whole tiles.
    result: ChannelsLast,
    /// Images worked on at once.
    images: usize,
    /// Tiles that go through the products at once.
    at_once: usize,
}

impl<'a> Winograd<'a> {
    /// `None` where the convolution is of another form.
    pub(super) fn new<T: Vectors>(of: &'a Geometry) -> Option<Self> {
        let Conv2dConfig { stride, padding, dilation, groups, .. } = of.config;
        if (of.kernel_height, of.kernel_width, stride, dilation, groups) != (3, 3, 1, 1, 1)
            || of.channels.min(of.outputs) < CHANNELS
        {
            return None;
        }
        let block = block::<T>();
        let tiles = (of.out_height.div_ceil(2), of.out_width.div_ceil(2));
        let full = (2 * tiles.0, 2 * tiles.1);
        let at_once = if of.channels + of.outputs < MANY { TILES } else { TILES_OF_MANY };
        let size = (of.height, of.width);
        Some(Self {
            of,
            tiles,
            inputs: of.channels.div_ceil(block),
            outputs: of.outputs.div_ceil(block),
            image: ChannelsLast { size, full: (full.0 + 2, full.1 + 2), border: padding, block },
            result: ChannelsLast { size: (of.out_height, of.out_width), full, border: 0, block },
            images: (at_once / (tiles.0 * tiles.1)).clamp(1, of.piece()),
            at_once,
        })
    }

    fn block(&self) -> usize {
        self.image.block
    }

    /// Elements of one product of one block of the tiles at once.
    fn product(&self) -> usize {
        self.at_once.next_multiple_of(ROWS) * self.block()
    }

    /// Elements of all products of one block of the tiles at once.
    fn products(&self) -> usize {
        PRODUCTS * self.product()
    }

    /// Where the tiles of `count` images begin, in blocks of images and of results.
    fn starts(&self, count: usize) -> (Vec<usize>, Vec<usize>) {
        let (rows, columns) = self.tiles;
        let tile = |at: usize| {
            let (i, y, x) = (at / (rows * columns), at / columns % rows, at % columns);
            let at = |of: &ChannelsLast, blocks: usize| {
                i * blocks * of.len() + 2 * y * of.row() + 2 * x * self.block()
            };
            (at(&self.image, self.inputs), at(&self.result, self.outputs))
        };
        (0..count * rows * columns).map(tile).unzip()
    }

    /// As [`Geometry::forward`].
    pub(super) fn forward<T: Vectors>(
        &self,
        x: &[T],
        weight: &[T],
        out: &mut [T],
        notes: Option<&mut [u8]>,
        finish: impl Finish<T>,
    ) {
        let g = self.of;
        let kernels = self.kernels(weight, Side::Input);
        let plane = self.result.full.0 * self.result.full.1;
        let (from, to) = self.starts(self.images);
        g.forward_by_pieces(x, out, notes, |x, out, mut notes| {
            let mut image = Scratch::<T>::zeros(self.images * self.inputs * self.image.len());
            let mut result = Scratch::<T>::stale(self.images * self.outputs * self.result.len());
            let mut inputs = Scratch::<T>::stale(self.inputs * self.products());
            let mut outputs = Scratch::<T>::stale(self.products());
            let mut planes = Scratch::<T>::zeros(self.block() * plane + SLACK);
            let out_image = out.len() / (x.len() / g.image());
            let out_channel = out_image / g.outputs;
            for (batch, x) in x.chunks(self.images * g.image()).enumerate() {
                let count = x.len() / g.image();
                self.put_images(x, &mut image);
                let tiles = count * self.tiles.0 * self.tiles.1;
                for (from, to) in from[..tiles].chunks(self.at_once).zip(to[..tiles].chunks(self.at_once)) {
                    self.transform_images(from, &image, &mut inputs);
                    for (o, kernel) in kernels.chunks_exact(self.kernel(self.inputs)).enumerate() {
                        self.multiply(&inputs, from.len(), kernel, &mut outputs);
                        let result = &mut result[o * self.result.len()..];
                        transform_output(&outputs, self.product(), to, self.result.row(), result);
                    }
                }
                for (b, result) in
                    result.chunks_exact(self.result.len()).take(count * self.outputs).enumerate()
                {
                    let (i, o) = (batch * self.images + b / self.outputs, b % self.outputs);
                    let first = o * self.block();
                    let whole = ChannelsLast { size: self.result.full, ..self.result };
                    whole.take(result, &mut planes[..self.block() * plane]);
                    for channel in first..g.outputs.min(first + self.block()) {
                        let part = i * out_image + channel * out_channel
                            ..i * out_image + (channel + 1) * out_channel;
                        let notes = notes.as_deref_mut().map(|notes| &mut notes[part.clone()]);
                        let results = &planes[(channel - first) * plane..];
                        finish.put(
                            channel,
                            results,
                            self.result.full.1,
                            &mut out[part],
                            notes.unwrap_or_default(),
                        );
                    }
                }
            }
        });
    }

    /// As [`Geometry::backward`].
    pub(super) fn backward<T: Vectors>(
        &self,
        x: &[T],
        weight: &[T],
        wants_input: bool,
        gradient: impl Fn(usize, &mut [T]) + Sync,
    ) -> Gradients<T> {
        let g = self.of;
        let kernels = if wants_input { self.kernels(weight, Side::Output) } else { Vec::new() };
        let (from, to) = self.starts(self.images);
        let sums = self.inputs * self.outputs * PRODUCTS * self.block() * self.block();
        let (to_x, to_products, to_bias) =
            g.backward_by_pieces(x, sums, wants_input, |first, x, mut to_x, to_products, to_bias| {
                let mut image = Scratch::<T>::zeros(self.images * self.inputs * self.image.len());
                let mut result = Scratch::<T>::zeros(self.images * self.outputs * self.result.len());
                let mut plain = Scratch::<T>::stale(g.result());
                let mut inputs = Scratch::<T>::stale(self.inputs * self.products());
                let mut outputs = Scratch::<T>::stale(self.outputs * self.products());
                let wanted = if to_x.is_some() { 1 } else { 0 };
                let mut to_inputs = Scratch::<T>::stale(wanted * self.products());
                let mut to_image = Scratch::<T>::stale(wanted * image.len());
                for (batch, x) in x.chunks(self.images * g.image()).enumerate() {
                    let count = x.len() / g.image();
                    self.put_images(x, &mut image);
                    for i in 0..count {
                        gradient(first + batch * self.images + i, &mut plain);
                        add_plane_sums(to_bias, &plain);
                        let result = &mut result[i * self.outputs * self.result.len()..];
                        put_blocks(&self.result, &plain, self.outputs, result);
                    }
                    to_image.fill(T::ZERO);
                    let tiles = count * self.tiles.0 * self.tiles.1;
                    for (from, to) in from[..tiles].chunks(self.at_once).zip(to[..tiles].chunks(self.at_once))
                    {
                        self.transform_images(from, &image, &mut inputs);
                        for (o, outputs) in outputs.chunks_exact_mut(self.products()).enumerate() {
                            let result = &result[o * self.result.len()..];
                            transform_gradient(result, to, self.result.row(), outputs, self.product());
                        }
                        self.add_products(&inputs, &outputs, from.len(), to_products);
                        for (c, kernel) in kernels.chunks_exact(self.kernel(self.outputs)).enumerate() {
                            self.multiply(&outputs, from.len(), kernel, &mut to_inputs);
                            let to_image = &mut to_image[c * self.image.len()..];
                            add_to_input(&to_inputs, self.product(), from, self.image.row(), to_image);
                        }
                    }
                    if let Some(to_x) = to_x.as_deref_mut() {
                        let to_x = &mut to_x[batch * self.images * g.image()..][..x.len()];
                        let to_image = to_image.chunks_exact(self.inputs * self.image.len());
                        for (to_x, to_image) in to_x.chunks_exact_mut(g.image()).zip(to_image) {
                            let of_block = self.block() * g.height * g.width;
                            let blocks =
                                to_x.chunks_mut(of_block).zip(to_image.chunks_exact(self.image.len()));
                            blocks.for_each(|(to_x, to_image)| self.image.take(to_image, to_x));
                        }
                    }
                }
            });
        Gradients { to_x, to_weight: self.kernel_gradient(&to_products), to_bias }
    }

    /// Puts images, channels side by side.
    fn put_images<T: Real>(&self, x: &[T], image: &mut [T]) {
        let images = image.chunks_exact_mut(self.inputs * self.image.len());
        for (x, image) in x.chunks_exact(self.of.image()).zip(images) {
            put_blocks(&self.image, x, self.inputs, image);
        }
    }

    /// All products' inputs of the tiles, block by block.
    fn transform_images<T: Vectors>(&self, from: &[usize], image: &[T], inputs: &mut [T]) {
        for (c, inputs) in inputs.chunks_exact_mut(self.products()).enumerate() {
            let image = &image[c * self.image.len()..];
            transform_input(image, from, self.image.row(), inputs, self.product());
        }
    }

    /// Sixteen matrix products: `count` tiles, all blocks of channels of one side, with a `kernel` that leads to one block
    /// of the other side.
    fn multiply<T: Vectors>(&self, from: &[T], count: usize, kernel: &[T], to: &mut [T]) {
        let of_kernel = kernel.len() / PRODUCTS;
        let products = kernel.chunks_exact(of_kernel).zip(to.chunks_exact_mut(self.product()));
        for (k, (kernel, to)) in products.enumerate() {
            multiply(&from[k * self.product()..], self.products(), count, kernel, to);
        }
    }

    /// Adds the sixteen products of inputs and output gradients, block pair by block pair.
    fn add_products<T: Vectors>(&self, inputs: &[T], outputs: &[T], count: usize, sums: &mut [T]) {
        let plane = self.block() * self.block();
        let mut sums = sums.chunks_exact_mut(plane);
        for outputs in outputs.chunks_exact(self.products()) {
            for inputs in inputs.chunks_exact(self.products()) {
                let products = inputs.chunks_exact(self.product()).zip(outputs.chunks_exact(self.product()));
                for ((inputs, outputs), sums) in products.zip(&mut sums) {
                    add_products(inputs, outputs, count, sums);
                }
            }
        }
    }

    /// Elements of the kernels that lead from `blocks` blocks of one side to one of the other.
    fn kernel(&self, blocks: usize) -> usize {
        PRODUCTS * blocks * self.block() * self.block()
    }

    /// The transformed kernels, to be summed over the channels of a side: for each block of the other side
    /// `[product, channel, block]`, 0 where channels were added to fill a block.
    fn kernels<T: Vectors>(&self, weight: &[T], summed: Side) -> Vec<T> {
        let (block, g) = (self.block(), self.of);
        let (blocks, others) = match summed {
            Side::Input => (self.inputs, self.outputs),
            Side::Output => (self.outputs, self.inputs),
        };
        let mut kernels = vec![T::ZERO; others * self.kernel(blocks)];
        kernels.par_chunks_exact_mut(self.kernel(blocks)).enumerate().for_each(|(other, kernels)| {
            let of_product = kernels.len() / PRODUCTS;
            let mut put = |o: usize, c: usize, at: usize| {
                let transformed = transform_kernel(&weight[(o * g.channels + c) * 9..][..9]);
                for (k, &v) in transformed.as_flattened().iter().enumerate() {
                    kernels[k * of_product + at] = v;
                }
            };
            let lanes = |most: usize| other * block..most.min((other + 1) * block);
            match summed {
                Side::Input => {
                    for o in lanes(g.outputs) {
                        (0..g.channels).for_each(|c| put(o, c, c * block + o % block));
                    }
                }
                Side::Output => {
                    for o in 0..g.outputs {
                        lanes(g.channels).for_each(|c| put(o, c, o * block + c % block));
                    }
                }
            }
        });
        kernels
    }

    /// The gradient of the kernels from that of the transformed ones.
    fn kernel_gradient<T: Vectors>(&self, to_products: &[T]) -> Vec<T> {
        let (block, g) = (self.block(), self.of);
        let plane = block * block;
        let mut to_weight = vec![T::ZERO; g.outputs * g.channels * 9];
        to_weight.par_chunks_mut(block * g.channels * 9).enumerate().for_each(|(outputs, to_weight)| {
            let mut kernels = Scratch::<T>::stale(9 * plane);
            for inputs in 0..self.inputs {
                let at = (outputs * self.inputs + inputs) * PRODUCTS * plane;
                to_kernel(&to_products[at..][..PRODUCTS * plane], &mut kernels);
                for (o, to_weight) in to_weight.chunks_exact_mut(g.channels * 9).enumerate() {
                    let to_weight = to_weight[inputs * block * 9..].iter_mut().take(block * 9);
                    let kernels = kernels[o..].iter().step_by(block);
                    to_weight.zip(kernels).for_each(|(to, &v)| *to = v);
                }
            }
        });
        to_weight
    }
}

/// The channels of a convolution.
#[derive(Debug, Clone, Copy)]
enum Side {
    Input,
    Output,
}

/// Puts all channels of an image, block by block.
fn put_blocks<T: Real>(of: &ChannelsLast, planes: &[T], blocks: usize, here: &mut [T]) {
    let of_block = of.block * of.size.0 * of.size.1;
    let here = here.chunks_exact_mut(of.len()).take(blocks);
    planes.chunks(of_block).zip(here).for_each(|(planes, here)| of.put(planes, here));
}
