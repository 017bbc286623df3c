//! Two-dimensional convolution: each image is laid out as columns that stay in cache, and multiplied.
//!
//! out[o, p] = Σ_k W[o, k]·col[k, p] + b[o], with k over (channel, row, column) of the kernel and p over output
//! pixels. Backward, with g the output gradient: ∂W += g·colᵀ, ∂b += Σ_p g, ∂col = Wᵀ·g scattered back. The
//! batch is cut into one contiguous piece per thread; columns are rebuilt in backward, because building them
//! costs less than reading them from memory.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{Matrix, contiguous, gemm, lane_sum, map2_into, threads, vectorized, with_slice};
use crate::linear::{Activation, relu, relu_mask};
use crate::real::{Real, on_cpu, with_real};

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
    let bias = match bias {
        Some(bias) if bias.dims() == [geometry.outputs] => bias.clone(),
        Some(bias) => bail!("conv2d: `bias` has shape {:?}, expected [{}]", bias.dims(), geometry.outputs),
        None => Tensor::zeros(geometry.outputs, x.dtype(), x.device())?,
    };
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

    /// Whether columns are the image itself: a 1×1 kernel that visits each pixel once.
    fn is_pointwise(&self) -> bool {
        self.kernel_height == 1
            && self.kernel_width == 1
            && self.config.stride == 1
            && self.config.padding == 0
    }

    /// Calls `f(kernel row, output row, input row)` for each row of one channel's columns, the input row being
    /// `None` in the padding, and the column range that lies inside the image through `span`.
    fn input_row(&self, ky: usize, oy: usize) -> Option<usize> {
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        (oy * stride + ky * dilation).checked_sub(padding).filter(|&iy| iy < self.height)
    }

    /// The output columns `lo..hi` whose input column under kernel column `kx` lies inside the image, and the
    /// input column of `lo`.
    fn span(&self, kx: usize) -> (usize, usize, usize) {
        let Conv2dConfig { stride, padding, dilation, .. } = self.config;
        let shift = kx * dilation;
        let lo = padding.saturating_sub(shift).div_ceil(stride).min(self.out_width);
        let hi = (self.width + padding).saturating_sub(shift).div_ceil(stride).min(self.out_width).max(lo);
        (lo, hi, (lo * stride + shift).saturating_sub(padding))
    }

    /// One group of one image as columns `[depth, plane]`.
    fn columns<T: Real>(&self, image: &[T], col: &mut [T]) {
        let stride = self.config.stride;
        let (plane, ow) = (self.plane(), self.out_width);
        let kernel = self.kernel_height * self.kernel_width;
        for (k, col) in col.chunks_exact_mut(plane).enumerate() {
            let (channel, ky, kx) = (k / kernel, k % kernel / self.kernel_width, k % self.kernel_width);
            let image = &image[channel * self.height * self.width..][..self.height * self.width];
            let (lo, hi, start) = self.span(kx);
            for (oy, row) in col.chunks_exact_mut(ow).enumerate() {
                let Some(iy) = self.input_row(ky, oy).filter(|_| lo < hi) else {
                    row.fill(T::ZERO);
                    continue;
                };
                row[..lo].fill(T::ZERO);
                row[hi..].fill(T::ZERO);
                let input = &image[iy * self.width + start..(iy + 1) * self.width];
                if stride == 1 {
                    row[lo..hi].copy_from_slice(&input[..hi - lo]);
                } else {
                    for (o, &v) in row[lo..hi].iter_mut().zip(input.iter().step_by(stride)) {
                        *o = v;
                    }
                }
            }
        }
    }

    fn forward<T: Real>(&self, x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
        let mut out = vec![T::ZERO; self.batch * self.result()];
        if out.is_empty() {
            return out;
        }
        let piece = self.piece();
        out.par_chunks_mut(piece * self.result()).enumerate().for_each(|(i, out)| {
            let mut col = vec![T::ZERO; if self.is_pointwise() { 0 } else { self.depth() * self.plane() }];
            let images = x[i * piece * self.image()..].chunks_exact(self.image());
            for (out, image) in out.chunks_exact_mut(self.result()).zip(images) {
                self.forward_image(image, weight, bias, &mut col, out);
            }
        });
        out
    }

    fn forward_image<T: Real>(&self, image: &[T], weight: &[T], bias: &[T], col: &mut [T], out: &mut [T]) {
        let groups = self.config.groups;
        let (depth, plane, group_outputs) = (self.depth(), self.plane(), self.outputs / groups);
        let images = image.chunks_exact(self.image() / groups);
        let weights = weight.chunks_exact(group_outputs * depth);
        for ((out, image), weight) in out.chunks_exact_mut(group_outputs * plane).zip(images).zip(weights) {
            let col = if self.is_pointwise() {
                image
            } else {
                self.columns(image, col);
                &*col
            };
            let weight = Matrix::new(weight, group_outputs, depth);
            gemm(out, weight, Matrix::new(col, depth, plane), false, false);
        }
        finish(out, bias, self.config.activation);
    }

    /// Gradients of input (where wanted), weight and bias.
    fn backward<T: Real>(
        &self,
        x: &[T],
        weight: &[T],
        res: &[T],
        grad: &[T],
        wants_input: bool,
    ) -> (Option<Vec<T>>, Vec<T>, Vec<T>) {
        let mut to_x = vec![T::ZERO; if wants_input { x.len() } else { 0 }];
        let mut sums = vec![(vec![T::ZERO; weight.len()], vec![T::ZERO; self.outputs]); threads()];
        let piece = self.piece();
        if !x.is_empty() && !res.is_empty() {
            let input_pieces: Vec<Option<&mut [T]>> = if wants_input {
                to_x.chunks_mut(piece * self.image()).map(Some).collect()
            } else {
                (0..self.batch.div_ceil(piece)).map(|_| None).collect()
            };
            sums.par_iter_mut().zip(input_pieces).enumerate().for_each(
                |(i, ((to_weight, to_bias), to_x))| {
                    let first = i * piece;
                    let count = piece.min(self.batch - first);
                    let part = Piece {
                        x: &x[first * self.image()..][..count * self.image()],
                        res: &res[first * self.result()..][..count * self.result()],
                        grad: &grad[first * self.result()..][..count * self.result()],
                    };
                    self.backward_piece(part, weight, to_x, to_weight, to_bias);
                },
            );
        }
        let mut sums = sums.into_iter();
        let (mut to_weight, mut to_bias) = sums.next().unwrap_or_default();
        for (weight, bias) in sums {
            to_weight.iter_mut().zip(weight).for_each(|(o, v)| *o += v);
            to_bias.iter_mut().zip(bias).for_each(|(o, v)| *o += v);
        }
        (wants_input.then_some(to_x), to_weight, to_bias)
    }

    fn backward_piece<T: Real>(
        &self,
        part: Piece<'_, T>,
        weight: &[T],
        mut to_x: Option<&mut [T]>,
        to_weight: &mut [T],
        to_bias: &mut [T],
    ) {
        let groups = self.config.groups;
        let (depth, plane, group_outputs) = (self.depth(), self.plane(), self.outputs / groups);
        let mut col = vec![T::ZERO; depth * plane];
        let mut masked = vec![T::ZERO; self.result()];
        for i in 0..part.x.len() / self.image() {
            let grad = &part.grad[i * self.result()..][..self.result()];
            let grad = match self.config.activation {
                Activation::Identity => grad,
                Activation::Relu => {
                    let res = &part.res[i * self.result()..][..self.result()];
                    map2_into(&mut masked, grad, res, relu_mask);
                    &masked
                }
            };
            add_plane_sums(to_bias, grad);
            let image = &part.x[i * self.image()..][..self.image()];
            for g in 0..groups {
                let group_image = self.image() / groups;
                let image = &image[g * group_image..][..group_image];
                let grad = Matrix::new(&grad[g * group_outputs * plane..], group_outputs, plane);
                let to_weight = &mut to_weight[g * group_outputs * depth..][..group_outputs * depth];
                if self.is_pointwise() {
                    gemm(to_weight, grad, Matrix::new(image, depth, plane).t(), true, false);
                } else {
                    self.columns(image, &mut col);
                    gemm(to_weight, grad, Matrix::new(&col, depth, plane).t(), true, false);
                }
                if let Some(to_x) = to_x.as_deref_mut() {
                    let to_image = &mut to_x[i * self.image() + g * group_image..][..group_image];
                    let weight = Matrix::new(&weight[g * group_outputs * depth..], group_outputs, depth).t();
                    if self.is_pointwise() {
                        gemm(to_image, weight, grad, false, false);
                    } else {
                        gemm(&mut col, weight, grad, false, false);
                        add_columns(self, &col, to_image);
                    }
                }
            }
        }
    }
}

vectorized! {
    /// Adds columns back onto the image they came from, the transpose of [`Geometry::columns`].
    fn add_columns<T: Real>(geometry: &Geometry, col: &[T], image: &mut [T]) {
        let stride = geometry.config.stride;
        let (plane, ow) = (geometry.plane(), geometry.out_width);
        let kernel = geometry.kernel_height * geometry.kernel_width;
        for (k, col) in col.chunks_exact(plane).enumerate() {
            let (channel, ky, kx) = (k / kernel, k % kernel / geometry.kernel_width, k % geometry.kernel_width);
            let image = &mut image[channel * geometry.height * geometry.width..][..geometry.height * geometry.width];
            let (lo, hi, start) = geometry.span(kx);
            for (oy, row) in col.chunks_exact(ow).enumerate() {
                let Some(iy) = geometry.input_row(ky, oy).filter(|_| lo < hi) else { continue };
                let input = &mut image[iy * geometry.width + start..(iy + 1) * geometry.width];
                if stride == 1 {
                    for (o, &v) in input[..hi - lo].iter_mut().zip(&row[lo..hi]) {
                        *o += v;
                    }
                } else {
                    for (o, &v) in input.iter_mut().step_by(stride).zip(&row[lo..hi]) {
                        *o += v;
                    }
                }
            }
        }
    }
}

vectorized! {
    /// Adds each channel's bias and applies the activation.
    fn finish<T: Real>(out: &mut [T], bias: &[T], activation: Activation) {
        let plane = out.len() / bias.len();
        for (out, &b) in out.chunks_exact_mut(plane).zip(bias) {
            match activation {
                Activation::Identity => out.iter_mut().for_each(|v| *v += b),
                Activation::Relu => out.iter_mut().for_each(|v| *v = relu(*v + b)),
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

/// One thread's part of the batch.
struct Piece<'a, T> {
    x: &'a [T],
    res: &'a [T],
    grad: &'a [T],
}

struct Conv2d(Geometry);

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = &self.0;
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, x_layout)?;
            let weight = contiguous(self.name(), <T as Real>::slice(weight)?, weight_layout)?;
            let bias = contiguous(self.name(), <T as Real>::slice(bias)?, bias_layout)?;
            let shape = Shape::from((g.batch, g.outputs, g.out_height, g.out_width));
            Ok((T::storage(g.forward(x, weight, bias)), shape))
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
        let op = self.name();
        with_real!(x.dtype(), op, T => {
            let (to_x, to_weight, to_bias) = with_slice::<T, _>(op, x, |xs| {
                with_slice::<T, _>(op, weight, |weight| {
                    with_slice::<T, _>(op, res, |res| {
                        with_slice::<T, _>(op, grad, |grad| {
                            Ok(self.0.backward(xs, weight, res, grad, x.track_op()))
                        })
                    })
                })
            })?;
            let to_x = to_x.map(|values| T::tensor(values, x.shape())).transpose()?;
            Ok((to_x, Some(T::tensor(to_weight, weight.shape())?), Some(T::tensor(to_bias, bias.shape())?)))
        })
    }
}
