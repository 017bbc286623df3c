//! Two-dimensional convolution without a column matrix.
//!
//! out[o, p] = Σ_k W[o, k]·x[p + offset(k)] + b[o], with k over (channel, row, column) of the kernel and p over output
//! pixels: on a [canvas](canvas) the inputs of a kernel element are the pixels themselves, shifted, so the inner loop
//! reads them where they are. Backward, with g the output gradient: ∂W[o, k] = Σ_p g[o, p]·x[p + offset(k)],
//! ∂b[o] = Σ_p g[o, p], and ∂x is a convolution of g with the kernel turned round. The batch is cut into one
//! contiguous piece per thread, and a few images at a time are on the canvas, so that all stays in the cache.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout as TensorLayout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{contiguous, lane_sum, map2_into, share, threads, vectorized, with_slices};
use crate::linear::{Activation, relu, relu_mask};
use crate::real::{Real, on_cpu, with_real};
use crate::scratch::Scratch;
use crate::simd::Vectors;
use canvas::{Axis, Layout, Plan, Tap, pack};
use tile::{correlate, dot_rows, tile_rows};
use winograd::Winograd;

mod canvas;
mod channels_last;
mod pooled;
mod sparse;
mod tile;
mod winograd;

pub use pooled::conv2d_max_pool2d;

/// Elements of a canvas: with the results they make, they stay in a core's second-level cache.
const CANVAS: usize = 32 * 1024;
/// Output pixels of a canvas at least: with fewer, small images would spend their time at the ends of the inner loops.
const PIXELS: usize = 256;
/// Images on a canvas at most; more share their zeros no better.
const IMAGES: usize = 8;

/// How the kernel moves over the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Pixels between neighbouring windows.
    pub stride: usize,
    /// Zero pixels added on each side.
    pub padding: usize,
    /// Pixels between neighbouring kernel elements.
    pub dilation: usize,
    /// Groups of channels convolved apart; divides the input and output channels.
    pub groups: usize,
    /// What follows.
    pub activation: Activation,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1, groups: 1, activation: Activation::Identity }
    }
}

/// Convolution (cross-correlation, as everywhere in deep learning):
/// `x` `[n, c, h, w]`, `weight` `[o, c/groups, kh, kw]`, `bias` `[o]` → `[n, o, h′, w′]`.
///
/// # Errors
/// When the shapes disagree, a setting is 0, or the kernel does not fit into the padded image.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Tensor> {
    let geometry = Geometry::new(x, weight, config)?;
    let bias = geometry.bias(bias, x)?;
    if on_cpu(x) {
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Conv2d(geometry));
    }
    let y = x.conv2d(weight, config.padding, config.stride, config.dilation, config.groups)?;
    let y = y.broadcast_add(&bias.reshape((1, geometry.outputs, 1, 1))?)?;
    match config.activation {
        Activation::Identity => Ok(y),
        Activation::Relu => y.relu(),
    }
}

/// All sizes of one convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
    outputs: usize,
    kernel_height: usize,
    kernel_width: usize,
    out_height: usize,
    out_width: usize,
    config: Conv2dConfig,
}

impl Geometry {
    fn new(x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> Result<Self> {
        let (
            Ok((batch, channels, height, width)),
            Ok((outputs, group_channels, kernel_height, kernel_width)),
        ) = (x.dims4(), weight.dims4())
        else {
            bail!(
                "conv2d: `x` has shape {:?} and `weight` {:?}, expected [n, c, h, w] and [o, c/groups, kh, kw]",
                x.dims(),
                weight.dims()
            );
        };
        let Conv2dConfig { stride, padding, dilation, groups, .. } = config;
        if channels == 0 || height == 0 || width == 0 || outputs == 0 {
            bail!(
                "conv2d: `x` has shape {:?} and `weight` {:?}, expected channels and pixels",
                x.dims(),
                weight.dims()
            );
        }
        if stride == 0 || dilation == 0 || groups == 0 || kernel_height == 0 || kernel_width == 0 {
            bail!("conv2d: stride, dilation, groups and kernel must be at least 1, got {config:?}");
        }
        if channels != group_channels * groups || outputs % groups != 0 {
            bail!(
                "conv2d: {channels} input channels, {groups} groups and `weight` {:?} do not fit together",
                weight.dims()
            );
        }
        let extent = |size: usize, kernel: usize| {
            let reach = dilation.checked_mul(kernel - 1)?.checked_add(1)?;
            let padded = padding.checked_mul(2)?.checked_add(size)?;
            Some(padded.checked_sub(reach)? / stride + 1)
        };
        let (Some(out_height), Some(out_width)) =
            (extent(height, kernel_height), extent(width, kernel_width))
        else {
            bail!(
                "conv2d: a {kernel_height}×{kernel_width} kernel with dilation {dilation} does not fit into \
                 {height}×{width} pixels padded by {padding}"
            );
        };
        // Work buffers hold up to 16 times the elements of a padded image.
        let padded = |size: usize| padding.checked_mul(2)?.checked_add(size)?.checked_add(stride);
        let elements = |planes: usize, height: Option<usize>, width: Option<usize>| {
            batch
                .max(1)
                .checked_mul(planes)?
                .checked_mul(height?)?
                .checked_mul(width?)?
                .checked_mul(16 * size_of::<f64>())
        };
        let largest = elements(channels, padded(height), padded(width)).zip(elements(
            outputs,
            Some(out_height),
            Some(out_width),
        ));
        if largest.is_none_or(|(input, output)| input.max(output) > isize::MAX as usize) {
            bail!(
                "conv2d: `x` {:?} padded by {padding} makes {out_height}×{out_width} outputs of {outputs} channels, more \
                 than memory can address",
                x.dims()
            );
        }
        Ok(Self {
            batch,
            channels,
            height,
            width,
            outputs,
            kernel_height,
            kernel_width,
            out_height,
            out_width,
            config,
        })
    }

    /// The bias, 0 where there is none.
    fn bias(&self, bias: Option<&Tensor>, x: &Tensor) -> Result<Tensor> {
        match bias {
            Some(bias) if bias.dims() == [self.outputs] => Ok(bias.clone()),
            Some(bias) => bail!("conv2d: `bias` has shape {:?}, expected [{}]", bias.dims(), self.outputs),
            None => Tensor::zeros(self.outputs, x.dtype(), x.device()),
        }
    }

    /// Elements of one input image.
    fn image(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Elements of one output channel.
    fn plane(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Elements of one output image.
    fn result(&self) -> usize {
        self.outputs * self.plane()
    }

    /// Elements of one column: the kernel's inputs of one group.
    fn depth(&self) -> usize {
        self.channels / self.config.groups * self.kernel_height * self.kernel_width
    }

    /// Images in the piece of the batch that one thread works on.
    fn piece(&self) -> usize {
        self.batch.div_ceil(threads()).max(1)
    }

    /// Images on a canvas.
    fn images(&self, plan: &Plan) -> usize {
        let wanted = (CANVAS / plan.image().max(1)).max(PIXELS / self.plane().max(1));
        wanted.clamp(1, IMAGES).min(self.piece())
    }

    /// Elements of one group of an input image.
    fn group_image(&self) -> usize {
        self.image() / self.config.groups
    }

    /// Elements of one group of an output image.
    fn group_result(&self) -> usize {
        self.result() / self.config.groups
    }

    /// Output channels of one group.
    fn group_outputs(&self) -> usize {
        self.outputs / self.config.groups
    }

    /// Kernel elements as (row, column).
    fn elements(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let width = self.kernel_width;
        (0..self.kernel_height * width).map(move |e| (e / width, e % width))
    }

    /// A kernel row or column's plane among the `stride` ones, and its shift there.
    fn split(&self, element: usize) -> (usize, usize) {
        let shift = element * self.config.dilation;
        (shift % self.config.stride, shift / self.config.stride)
    }

    /// How the padded rows or columns with a remainder by the stride lie in an input of `size`.
    fn axis(&self, remainder: usize, size: usize) -> Axis {
        let first = remainder as isize - self.config.padding as isize;
        Axis { first, step: self.config.stride, size }
    }

    /// The remainders by the stride of the rows and columns that the kernel reads, each pair once.
    fn remainders(&self) -> Vec<(usize, usize)> {
        let mut remainders = Vec::new();
        for (ky, kx) in self.elements() {
            let pair = (self.split(ky).0, self.split(kx).0);
            if !remainders.contains(&pair) {
                remainders.push(pair);
            }
        }
        remainders
    }

    /// One group's outputs from its inputs.
    fn forward_plan(&self) -> Plan {
        let remainders = self.remainders();
        let tap = |(element, (ky, kx))| {
            let ((y, down), (x, right)) = (self.split(ky), self.split(kx));
            let plane = remainders.iter().position(|&pair| pair == (y, x)).unwrap_or_default();
            Tap { plane, down, right, element }
        };
        let axes = |&(y, x): &(usize, usize)| (self.axis(y, self.height), self.axis(x, self.width));
        Plan {
            channels: self.channels / self.config.groups,
            planes: remainders.iter().map(axes).collect(),
            taps: self.elements().enumerate().map(tap).collect(),
            outputs: (self.out_height, self.out_width),
        }
    }

    /// One group's input gradient from its output gradient: a plan for each remainder of rows and columns by the stride.
    fn input_plans(&self) -> Vec<InputPlan> {
        let mut plans = Vec::new();
        for (y, x) in self.remainders() {
            let elements =
                self.elements().enumerate().map(|(e, (ky, kx))| (e, self.split(ky), self.split(kx)));
            let elements: Vec<_> = elements
                .filter(|(_, ky, kx)| (ky.0, kx.0) == (y, x))
                .map(|(e, ky, kx)| (e, ky.1, kx.1))
                .collect();
            let (rows, columns) = (self.axis(y, self.height), self.axis(x, self.width));
            let (ys, xs) = (rows.inside(usize::MAX), columns.inside(usize::MAX));
            if ys.is_empty() || xs.is_empty() {
                continue; // they lie in the padding alone
            }
            let furthest =
                |shift: fn(&(usize, usize, usize)) -> usize| elements.iter().map(shift).max().unwrap_or(0);
            let (down, right) = (furthest(|e| e.1), furthest(|e| e.2));
            // Pixel Y of the plane receives from output Y − shift: the canvas begins at the furthest shift.
            let gradient = |start: usize, furthest: usize, size| Axis {
                first: start as isize - furthest as isize,
                step: 1,
                size,
            };
            let plan = Plan {
                channels: self.group_outputs(),
                planes: vec![(
                    gradient(ys.start, down, self.out_height),
                    gradient(xs.start, right, self.out_width),
                )],
                taps: elements
                    .iter()
                    .map(|&(element, d, r)| Tap { plane: 0, down: down - d, right: right - r, element })
                    .collect(),
                outputs: (ys.len(), xs.len()),
            };
            plans.push(InputPlan { plan, first: (rows.source(ys.start), columns.source(xs.start)) });
        }
        plans
    }

    /// Outputs, and a byte for each where `notes` is given; `finish` makes them of a channel's results.
    fn forward<T: Vectors>(
        &self,
        x: &[T],
        weight: &[T],
        out: &mut [T],
        notes: Option<&mut [u8]>,
        finish: impl Finish<T>,
    ) {
        if out.is_empty() {
            return;
        }
        if let Some(winograd) = Winograd::new::<T>(self) {
            return winograd.forward(x, weight, out, notes, finish);
        }
        let (plan, rows, outputs, depth) =
            (self.forward_plan(), tile_rows::<T>(), self.group_outputs(), self.depth());
        let packed: Vec<Vec<T>> = weight
            .chunks_exact(outputs * depth)
            .map(|weight| pack(rows, outputs, depth, |o, k| weight[o * depth + k]))
            .collect();
        let layout = plan.layout(self.images(&plan));
        let out_image = out.len() / self.batch;
        let out_channel = out_image / self.outputs;
        self.forward_by_pieces(x, out, notes, |x, out, mut notes| {
            let mut canvas = Scratch::<T>::zeros(layout.len(&plan));
            let mut results = Scratch::<T>::zeros(rows * layout.result_row());
            let x = x.chunks(layout.images * self.image());
            for (batch, (out, x)) in out.chunks_mut(layout.images * out_image).zip(x).enumerate() {
                let mut notes =
                    notes.as_deref_mut().map(|notes| &mut notes[batch * layout.images * out_image..]);
                for (g, packed) in packed.iter().enumerate() {
                    for (i, image) in x.chunks_exact(self.image()).take(out.len() / out_image).enumerate() {
                        plan.fill(&layout, i, &image[g * self.group_image()..], &mut canvas);
                    }
                    for (tile, weight) in packed.chunks(rows * depth).enumerate() {
                        let m = weight.len() / depth;
                        let row = layout.result_row();
                        correlate(weight, m, &canvas, &layout.offsets, &mut results, row, layout.positions);
                        for (r, results) in results.chunks_exact(row).take(m).enumerate() {
                            let channel = g * outputs + tile * rows + r;
                            for (i, out) in out.chunks_exact_mut(out_image).enumerate() {
                                let part = channel * out_channel..(channel + 1) * out_channel;
                                let notes = notes
                                    .as_deref_mut()
                                    .map(|notes| &mut notes[i * out_image..][part.clone()]);
                                let results = &results[layout.at(i, 0)..];
                                finish.put(
                                    channel,
                                    results,
                                    layout.row,
                                    &mut out[part],
                                    notes.unwrap_or_default(),
                                );
                            }
                        }
                    }
                }
            }
        });
    }

    /// Runs `work(inputs, outputs, notes)` on each thread's piece of the batch.
    fn forward_by_pieces<T: Vectors>(
        &self,
        x: &[T],
        out: &mut [T],
        notes: Option<&mut [u8]>,
        work: impl Fn(&[T], &mut [T], Option<&mut [u8]>) + Sync,
    ) {
        let piece = self.piece();
        let out_piece = piece * (out.len() / self.batch);
        let notes: Vec<Option<&mut [u8]>> = match notes {
            Some(notes) => notes.chunks_mut(out_piece).map(Some).collect(),
            None => (0..out.len().div_ceil(out_piece)).map(|_| None).collect(),
        };
        let x = x.par_chunks(piece * self.image());
        out.par_chunks_mut(out_piece).zip(notes).zip(x).for_each(|((out, notes), x)| work(x, out, notes));
    }

    /// Gradients of input (where wanted), weight and bias; `gradient(image, g)` writes an image's output gradient, with
    /// the activation undone, to g.
    fn backward<T: Vectors>(
        &self,
        x: &[T],
        weight: &[T],
        wants_input: bool,
        gradient: impl Fn(usize, &mut [T]) + Sync,
    ) -> Gradients<T> {
        if let Some(winograd) = Winograd::new::<T>(self) {
            return winograd.backward(x, weight, wants_input, gradient);
        }
        let plan = self.forward_plan();
        let layout = plan.layout(self.images(&plan));
        let weights = self.outputs * self.depth();
        let to_input = if wants_input { self.input_steps(weight, layout.images) } else { Vec::new() };
        let sums =
            self.backward_by_pieces(x, weights, wants_input, |first, x, mut to_x, to_weight, to_bias| {
                let mut canvas = Scratch::<T>::zeros(layout.len(&plan));
                let mut gradients = Scratch::<T>::zeros(self.group_outputs() * layout.result_row());
                let mut plain = Scratch::<T>::zeros(layout.images * self.result());
                let mut steps: Vec<InputCanvas<T>> = to_input.iter().map(InputCanvas::new).collect();
                for (batch, x) in x.chunks(layout.images * self.image()).enumerate() {
                    let count = x.len() / self.image();
                    for (i, plain) in plain.chunks_exact_mut(self.result()).take(count).enumerate() {
                        gradient(first + batch * layout.images + i, plain);
                        add_plane_sums(to_bias, plain);
                    }
                    let images =
                        || x.chunks_exact(self.image()).zip(plain.chunks_exact(self.result())).enumerate();
                    if count < layout.images {
                        gradients.fill(T::ZERO);
                    }
                    for g in 0..self.config.groups {
                        for (i, (image, plain)) in images() {
                            plan.fill(&layout, i, &image[g * self.group_image()..], &mut canvas);
                            let plain = &plain[g * self.group_result()..][..self.group_result()];
                            spread(&layout, i, plain, self.out_width, &mut gradients);
                        }
                        self.add_to_weight(g, &layout, &canvas, &gradients, to_weight);
                        let Some(to_x) = to_x.as_deref_mut() else { continue };
                        let to_x = &mut to_x[batch * layout.images * self.image()..][..x.len()];
                        for (step, state) in to_input.iter().zip(&mut steps) {
                            for (i, (_, plain)) in images() {
                                step.of.plan.fill(
                                    &step.layout,
                                    i,
                                    &plain[g * self.group_result()..],
                                    &mut state.canvas,
                                );
                            }
                            self.input_gradient(g, step, state, to_x);
                        }
                    }
                }
            });
        Gradients { to_x: sums.0, to_weight: sums.1, to_bias: sums.2 }
    }

    /// Runs `work(first image, inputs, their gradient, sums, sums for the bias)` on each thread's piece of the batch and
    /// adds the sums, of which there are `count` and one for each output channel, in the order of the pieces.
    fn backward_by_pieces<T: Vectors>(
        &self,
        x: &[T],
        count: usize,
        wants_input: bool,
        work: impl Fn(usize, &[T], Option<&mut [T]>, &mut [T], &mut [T]) + Sync,
    ) -> (Option<Vec<T>>, Vec<T>, Vec<T>) {
        let mut to_x = vec![T::ZERO; if wants_input { x.len() } else { 0 }];
        if x.is_empty() || self.result() == 0 {
            return (wants_input.then_some(to_x), vec![T::ZERO; count], vec![T::ZERO; self.outputs]);
        }
        let piece = self.piece() * self.image();
        let inputs: Vec<Option<&mut [T]>> = if wants_input {
            to_x.chunks_mut(piece).map(Some).collect()
        } else {
            x.chunks(piece).map(|_| None).collect()
        };
        let sums: Vec<(Vec<T>, Vec<T>)> = x
            .par_chunks(piece)
            .zip(inputs)
            .enumerate()
            .map(|(i, (x, to_x))| {
                let mut sums = (vec![T::ZERO; count], vec![T::ZERO; self.outputs]);
                work(i * self.piece(), x, to_x, &mut sums.0, &mut sums.1);
                sums
            })
            .collect();
        let mut sums = sums.into_iter();
        let (mut of_pieces, mut to_bias) = sums.next().unwrap_or_default();
        for (of_piece, bias) in sums {
            share(&mut of_pieces, 1, |start, sums| {
                sums.iter_mut().zip(&of_piece[start..]).for_each(|(o, &v)| *o += v);
            });
            to_bias.iter_mut().zip(bias).for_each(|(o, v)| *o += v);
        }
        (wants_input.then_some(to_x), of_pieces, to_bias)
    }

    /// Adds one group's ∂W, from inputs on the canvas and output gradients spread over its positions.
    fn add_to_weight<T: Vectors>(
        &self,
        g: usize,
        layout: &Layout,
        canvas: &[T],
        gradients: &[T],
        to_weight: &mut [T],
    ) {
        let (rows, row, depth) = (tile_rows::<T>(), layout.result_row(), self.depth());
        let to_weight = to_weight[g * self.group_outputs() * depth..].chunks_mut(rows * depth);
        for (gradients, to_weight) in gradients.chunks(rows * row).zip(to_weight) {
            let m = gradients.len() / row;
            dot_rows(gradients, row, m, canvas, &layout.offsets, to_weight, depth, layout.positions);
        }
    }

    /// Plans for the input gradient, each with its canvas and the kernel turned round.
    fn input_steps<T: Vectors>(&self, weight: &[T], images: usize) -> Vec<InputStep<T>> {
        let (depth, kernel, outputs) =
            (self.depth(), self.kernel_height * self.kernel_width, self.group_outputs());
        let turned = |of: &InputPlan, weight: &[T]| {
            let taps = &of.plan.taps;
            pack(tile_rows::<T>(), self.channels / self.config.groups, outputs * taps.len(), |c, k| {
                weight[k / taps.len() * depth + c * kernel + taps[k % taps.len()].element]
            })
        };
        let plans = self.input_plans().into_iter();
        plans
            .map(|of| InputStep {
                weights: weight.chunks_exact(outputs * depth).map(|weight| turned(&of, weight)).collect(),
                layout: of.plan.layout(images),
                of,
            })
            .collect()
    }

    /// Writes one group's input gradient for the pixels of one plan.
    fn input_gradient<T: Vectors>(
        &self,
        g: usize,
        step: &InputStep<T>,
        state: &mut InputCanvas<T>,
        to_x: &mut [T],
    ) {
        let (rows, row, depth) = (tile_rows::<T>(), step.layout.result_row(), step.layout.offsets.len());
        let (stride, plane) = (self.config.stride, self.height * self.width);
        for (tile, weight) in step.weights[g].chunks(rows * depth).enumerate() {
            let m = weight.len() / depth;
            let positions = step.layout.positions;
            correlate(weight, m, &state.canvas, &step.layout.offsets, &mut state.results, row, positions);
            for (r, results) in state.results.chunks_exact(row).take(m).enumerate() {
                for (i, to_x) in to_x.chunks_exact_mut(self.image()).enumerate() {
                    let to_x = &mut to_x[g * self.group_image() + (tile * rows + r) * plane..][..plane];
                    for y in 0..step.of.plan.outputs.0 {
                        let results = &results[step.layout.at(i, y)..][..step.of.plan.outputs.1];
                        let to_row = &mut to_x[(step.of.first.0 + y * stride) * self.width..][..self.width];
                        if stride == 1 {
                            to_row[step.of.first.1..][..results.len()].copy_from_slice(results);
                        } else {
                            let to_row = to_row[step.of.first.1..].iter_mut().step_by(stride);
                            to_row.zip(results).for_each(|(t, &v)| *t = v);
                        }
                    }
                }
            }
        }
    }
}

/// Gradients of input, weight and bias.
struct Gradients<T> {
    to_x: Option<Vec<T>>,
    to_weight: Vec<T>,
    to_bias: Vec<T>,
}

impl<T: Real> Gradients<T> {
    fn tensors(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let to_x = self.to_x.map(|values| T::tensor(values, x.shape())).transpose()?;
        Ok((
            to_x,
            Some(T::tensor(self.to_weight, weight.shape())?),
            Some(T::tensor(self.to_bias, bias.shape())?),
        ))
    }
}

/// The input gradient of the pixels whose padded row and column leave one remainder by the stride.
struct InputPlan {
    plan: Plan,
    /// The first such pixel: row and column.
    first: (usize, usize),
}

struct InputStep<T> {
    of: InputPlan,
    layout: Layout,
    /// Packed weights, group by group.
    weights: Vec<Vec<T>>,
}

/// What a thread keeps for an [`InputStep`].
struct InputCanvas<T: Real> {
    canvas: Scratch<T>,
    results: Scratch<T>,
}

impl<T: Vectors> InputCanvas<T> {
    fn new(step: &InputStep<T>) -> Self {
        let results = Scratch::zeros(tile_rows::<T>() * step.layout.result_row());
        Self { canvas: Scratch::zeros(step.layout.len(&step.of.plan)), results }
    }
}

/// Spreads image `i`'s output gradients over the positions of a canvas, which are 0 elsewhere.
fn spread<T: Real>(layout: &Layout, i: usize, plain: &[T], width: usize, gradients: &mut [T]) {
    let height = plain.len() / width / (gradients.len() / layout.result_row());
    for (o, plain) in plain.chunks_exact(height * width).enumerate() {
        for (y, row) in plain.chunks_exact(width).enumerate() {
            gradients[o * layout.result_row() + layout.at(i, y)..][..width].copy_from_slice(row);
        }
    }
}

/// What becomes of the results of one output channel of one image.
trait Finish<T>: Sync {
    /// Writes `out`, and `notes` where there are any, from the results, whose rows begin every `row` elements.
    fn put(&self, channel: usize, results: &[T], row: usize, out: &mut [T], notes: &mut [u8]);
}

/// Adds the bias and applies the activation.
struct Activate<'a, T> {
    bias: &'a [T],
    activation: Activation,
    width: usize,
}

impl<T: Real> Finish<T> for Activate<'_, T> {
    fn put(&self, channel: usize, results: &[T], row: usize, out: &mut [T], _: &mut [u8]) {
        activate(results, row, self.bias[channel], self.activation, self.width, out);
    }
}

vectorized! {
    fn activate<T: Real>(results: &[T], row: usize, bias: T, activation: Activation, width: usize, out: &mut [T]) {
        for (y, out) in out.chunks_exact_mut(width).enumerate() {
            let results = &results[y * row..][..width];
            match activation {
                Activation::Identity => out.iter_mut().zip(results).for_each(|(o, &v)| *o = v + bias),
                Activation::Relu => out.iter_mut().zip(results).for_each(|(o, &v)| *o = relu(v + bias)),
            }
        }
    }
}

vectorized! {
    fn add_plane_sums<T: Real>(sums: &mut [T], grad: &[T]) {
        let plane = grad.len() / sums.len();
        for (sum, grad) in sums.iter_mut().zip(grad.chunks_exact(plane)) {
            *sum += lane_sum(grad);
        }
    }
}

struct Conv2d(Geometry);

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &TensorLayout,
        weight: &CpuStorage,
        weight_layout: &TensorLayout,
        bias: &CpuStorage,
        bias_layout: &TensorLayout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = &self.0;
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, x_layout)?;
            let weight = contiguous(self.name(), <T as Real>::slice(weight)?, weight_layout)?;
            let bias = contiguous(self.name(), <T as Real>::slice(bias)?, bias_layout)?;
            let mut out = vec![<T as Real>::ZERO; g.batch * g.result()];
            let finish = Activate { bias, activation: g.config.activation, width: g.out_width };
            g.forward(x, weight, &mut out, None, finish);
            Ok((T::storage(out), Shape::from((g.batch, g.outputs, g.out_height, g.out_width))))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (op, g) = (self.name(), &self.0);
        with_real!(x.dtype(), op, T => {
            let gradients = with_slices::<T, 4, _>(op, [x, weight, res, grad], |[xs, weight, res, grad]| {
                Ok(g.backward(xs, weight, x.track_op(), |image, out| {
                    let at = image * g.result();
                    let grad = &grad[at..][..g.result()];
                    match g.config.activation {
                        Activation::Identity => out.copy_from_slice(grad),
                        Activation::Relu => map2_into(out, grad, &res[at..][..g.result()], relu_mask),
                    }
                }))
            })?;
            gradients.tensors(x, weight, bias)
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::simd::{Width, no_wider_than};

    fn wave(shape: &[usize], phase: f64, dtype: DType) -> Var {
        let values: Vec<f64> =
            (0..shape.iter().product()).map(|i: usize| (i as f64 * 1.37 + phase).sin()).collect();
        let values = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        Var::from_tensor(&values.to_dtype(dtype).unwrap()).unwrap()
    }

    /// Value and gradients of a convolution, of a convolution with pooling where that fits, in f64.
    fn results(
        x: &Var,
        weight: &Var,
        bias: &Var,
        run: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor,
    ) -> Vec<Tensor> {
        let y = run(x, weight, bias).to_dtype(DType::F64).unwrap();
        let cotangent = wave(y.dims(), 0.3, DType::F64);
        let gradients = (&y * cotangent.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let mut all = vec![y];
        for var in [x, weight, bias] {
            all.push(gradients.get(var).unwrap().to_dtype(DType::F64).unwrap());
        }
        all
    }

    /// Each instruction set's tiles against candle's convolution: odd sizes, one channel and many, strides.
    #[test]
    fn every_instruction_set_agrees() {
        let shapes = [
            (3, 5, 7, 3, 1, 1),
            (16, 17, 5, 3, 1, 1),
            (40, 33, 6, 3, 1, 2),
            (6, 8, 7, 3, 2, 1),
            (9, 4, 4, 1, 1, 0),
        ];
        for (c, o, size, kernel, stride, padding) in shapes {
            for dtype in [DType::F32, DType::F64] {
                let x = wave(&[3, c, size, size], 1.0, dtype);
                let (weight, bias) = (wave(&[o, c, kernel, kernel], 2.0, dtype), wave(&[o], 3.0, dtype));
                let config = Conv2dConfig { stride, padding, ..Default::default() };
                let native = results(&x, &weight, &bias, |x, weight, bias| {
                    let [x, weight, bias] = [x, weight, bias].map(|t| t.to_dtype(DType::F64).unwrap());
                    let y = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
                    y.broadcast_add(&bias.reshape((1, o, 1, 1)).unwrap()).unwrap()
                });
                let tolerance = if dtype == DType::F32 { 1e-5 } else { 1e-12 };
                for width in [Width::Any, Width::Wide, Width::Widest] {
                    let ours = no_wider_than(width, || {
                        results(&x, &weight, &bias, |x, weight, bias| {
                            conv2d(x, weight, Some(bias), config).unwrap()
                        })
                    });
                    for (ours, native) in ours.iter().zip(&native) {
                        let largest =
                            |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                        let error = largest(&(ours - native).unwrap());
                        assert!(
                            error <= tolerance * (1.0 + largest(native)),
                            "{width:?} {dtype:?} {c} {o} {size}: {error:e}"
                        );
                    }
                }
            }
        }
    }

    /// The same for pooled convolutions, whose backward pass has tiles of its own.
    #[test]
    fn every_instruction_set_pools_alike() {
        for (c, o) in [(8, 5), (16, 16), (32, 18), (3, 4)] {
            for dtype in [DType::F32, DType::F64] {
                let x = wave(&[2, c, 6, 7], 1.0, dtype);
                let (weight, bias) = (wave(&[o, c, 3, 3], 2.0, dtype), wave(&[o], 3.0, dtype));
                let config = Conv2dConfig { padding: 1, activation: Activation::Relu, ..Default::default() };
                let at = |width| {
                    no_wider_than(width, || {
                        results(&x, &weight, &bias, |x, weight, bias| {
                            conv2d_max_pool2d(x, weight, Some(bias), config).unwrap()
                        })
                    })
                };
                let widest = at(Width::Widest);
                let tolerance = if dtype == DType::F32 { 1e-5 } else { 1e-12 };
                for width in [Width::Any, Width::Wide] {
                    for (ours, widest) in at(width).iter().zip(&widest) {
                        let largest =
                            |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                        let error = largest(&(ours - widest).unwrap());
                        assert!(
                            error <= tolerance * (1.0 + largest(widest)),
                            "{width:?} {dtype:?} {c}: {error:e}"
                        );
                    }
                }
            }
        }
    }
}
