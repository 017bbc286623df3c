//! Batch normalization: y = γ·(x − μ)/√(σ² + ε) + β per channel, with an optional ReLU.
//!
//! In training μ and σ² are the batch's own mean and biased variance, and the gradient runs through both. With
//! x̂ = (x − μ)/√(σ² + ε), g the output's gradient and N values per channel:
//! ∂β = Σ g, ∂γ = Σ g·x̂, ∂x = γ/√(σ² + ε) · (g − ∂β/N − x̂·∂γ/N).
//! In evaluation μ and σ² are constants: ∂x = γ/√(σ² + ε) · g.
//!
//! Moments are taken plane by plane about the plane's own mean and merged in the order of the images (Chan et al.
//! 1983 \[chan1983\]), so a mean far from zero costs no digits. A channel belongs to one thread: the result does
//! not depend on their number.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, Var, bail};
use rayon::prelude::*;

use crate::cpu::{contiguous, lane_sum, share, threads, vectorized, with_slice, with_slices};
use crate::linear::{Activation, relu_mask};
use crate::real::{Real, on_cpu, with_real};

/// Below this many elements one thread is faster than all.
const SHARE_FROM: usize = 16_384;

/// The statistics that training gathers and evaluation uses, `[c]` each. Clones share them.
#[derive(Debug, Clone)]
pub struct Running {
    /// The mean of each channel.
    pub mean: Var,
    /// The unbiased variance of each channel.
    pub var: Var,
}

impl Running {
    /// Mean 0 and variance 1 for `channels` channels.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(channels: usize, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self { mean: Var::zeros(channels, dtype, device)?, var: Var::ones(channels, dtype, device)? })
    }
}

/// Whose statistics normalize.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BatchNormMode {
    /// The batch's; running statistics become (1 − momentum)·old + momentum·the batch's, as in PyTorch.
    Train {
        /// The weight of the newest batch, in `[0, 1]`.
        momentum: f64,
    },
    /// The running ones, which stay as they are.
    Eval,
}

/// How a batch is normalized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    /// Training or evaluation.
    pub mode: BatchNormMode,
    /// ε, added to the variance: positive.
    pub epsilon: f64,
    /// What follows.
    pub activation: Activation,
}

impl Default for BatchNormConfig {
    /// Training with PyTorch's momentum 0.1 and ε = 10⁻⁵, nothing following.
    fn default() -> Self {
        Self { mode: BatchNormMode::Train { momentum: 0.1 }, epsilon: 1e-5, activation: Activation::Identity }
    }
}

/// Normalizes the channels of images: `x` `[n, c, h, w]`, `gamma` `[c]`, `beta` `[c]` → `[n, c, h, w]`.
///
/// In training `running`, where given, is updated in place, with the unbiased variance; in evaluation it is
/// needed. Gradients reach `x`, `gamma` and `beta`.
///
/// # Errors
/// When shapes disagree, ε or the momentum is out of range, training has only one value per channel, or
/// evaluation has no running statistics.
/// # Source
/// Ioffe and Szegedy 2015 \[ioffe2015\].
/// # Examples
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use dml_kernels::{BatchNormConfig, BatchNormMode, Running, batch_norm2d};
///
/// let x = Tensor::new(&[1f64, 3., 5., 7.], &Device::Cpu)?.reshape((2, 1, 1, 2))?;
/// let (gamma, beta) = (Tensor::new(&[1f64], &Device::Cpu)?, Tensor::new(&[0f64], &Device::Cpu)?);
/// let running = Running::new(1, DType::F64, &Device::Cpu)?;
/// let y = batch_norm2d(&x, &gamma, &beta, Some(&running), BatchNormConfig::default())?;
/// assert!(y.mean_all()?.to_scalar::<f64>()?.abs() < 1e-12);
/// assert!((running.mean.to_vec1::<f64>()?[0] - 0.4).abs() < 1e-12); // a tenth of the way from 0 to 4
/// let eval = BatchNormConfig { mode: BatchNormMode::Eval, ..Default::default() };
/// assert_eq!(batch_norm2d(&x, &gamma, &beta, Some(&running), eval)?.dims(), [2, 1, 1, 2]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn batch_norm2d(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: Option<&Running>,
    config: BatchNormConfig,
) -> Result<Tensor> {
    let op = "batch_norm2d";
    let Ok((batch, channels, height, width)) = x.dims4() else {
        bail!("{op}: `x` has shape {:?}, expected [n, c, h, w]", x.dims());
    };
    batch_norm(op, x, gamma, beta, running, config, Sizes { batch, channels, plane: height * width })
}

/// Normalizes the columns of a matrix: `x` `[n, c]`, `gamma` `[c]`, `beta` `[c]` → `[n, c]`.
///
/// All else, errors too, as [`batch_norm2d`].
///
/// # Errors
/// As [`batch_norm2d`].
pub fn batch_norm1d(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: Option<&Running>,
    config: BatchNormConfig,
) -> Result<Tensor> {
    let op = "batch_norm1d";
    let Ok((batch, channels)) = x.dims2() else {
        bail!("{op}: `x` has shape {:?}, expected [n, c]", x.dims());
    };
    batch_norm(op, x, gamma, beta, running, config, Sizes { batch, channels, plane: 1 })
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    batch: usize,
    channels: usize,
    /// Pixels of one channel of one image.
    plane: usize,
}

impl Sizes {
    /// N, the values of one channel.
    fn count(&self) -> usize {
        self.batch * self.plane
    }

    /// The first element of a channel in an image.
    fn start(&self, image: usize, channel: usize) -> usize {
        (image * self.channels + channel) * self.plane
    }
}

fn batch_norm(
    op: &'static str,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: Option<&Running>,
    config: BatchNormConfig,
    sizes: Sizes,
) -> Result<Tensor> {
    check(op, x, gamma, beta, running, config, sizes)?;
    let (mean, variance) = match (config.mode, running) {
        (BatchNormMode::Eval, Some(running)) => {
            // Copies, because a later step may move the running ones before this one's backward pass.
            (running.mean.copy()?.detach(), running.var.copy()?.detach())
        }
        (BatchNormMode::Eval, None) => {
            bail!("{op}: evaluation needs running statistics and `running` is None; train with some")
        }
        (BatchNormMode::Train { .. }, _) => moments(op, x, sizes)?,
    };
    if let (BatchNormMode::Train { momentum }, Some(running)) = (config.mode, running) {
        let unbiased = (&variance * (sizes.count() as f64 / (sizes.count() - 1) as f64))?;
        for (var, new) in [(&running.mean, &mean), (&running.var, &unbiased)] {
            var.set(&((var.as_detached_tensor() * (1.0 - momentum))? + (new * momentum)?)?)?;
        }
    }
    if !on_cpu(x) {
        let statistics = (config.mode == BatchNormMode::Eval).then_some((&mean, &variance));
        return native(x, gamma, beta, statistics, config, sizes);
    }
    let inverse = (variance + config.epsilon)?.sqrt()?.recip()?;
    let learns = config.mode != BatchNormMode::Eval;
    let kernel = BatchNorm { op, sizes, mean, inverse, learns, activation: config.activation };
    x.contiguous()?.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, kernel)
}

fn check(
    op: &str,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: Option<&Running>,
    config: BatchNormConfig,
    sizes: Sizes,
) -> Result<()> {
    let channels = sizes.channels;
    let mut of_channels = vec![("gamma", gamma), ("beta", beta)];
    if let Some(running) = running {
        of_channels
            .extend([("running.mean", running.mean.as_tensor()), ("running.var", running.var.as_tensor())]);
    }
    for (name, tensor) in of_channels {
        if tensor.dims() != [channels] || tensor.dtype() != x.dtype() {
            bail!(
                "{op}: `{name}` is {:?} of shape {:?}, expected {:?} of shape [{channels}]",
                tensor.dtype(),
                tensor.dims(),
                x.dtype()
            );
        }
    }
    if !(config.epsilon > 0.0 && config.epsilon.is_finite()) {
        bail!("{op}: `epsilon` is {}, expected a positive number", config.epsilon);
    }
    if let BatchNormMode::Train { momentum } = config.mode {
        if !(0.0..=1.0).contains(&momentum) {
            bail!("{op}: `momentum` is {momentum}, expected a number from 0 to 1");
        }
        if sizes.count() < 2 {
            bail!(
                "{op}: training needs at least 2 values per channel, `x` of shape {:?} has {}; enlarge the batch \
                 or use evaluation mode",
                x.dims(),
                sizes.count()
            );
        }
    }
    Ok(())
}

/// Mean and biased variance of each channel, `[c]` each, cut from the graph.
fn moments(op: &'static str, x: &Tensor, sizes: Sizes) -> Result<(Tensor, Tensor)> {
    if !on_cpu(x) {
        let x = x.detach().reshape((sizes.batch, sizes.channels, sizes.plane))?;
        let mean = x.mean_keepdim((0, 2))?; // [1, c, 1]
        let variance = x.broadcast_sub(&mean)?.sqr()?.mean((0, 2))?;
        return Ok((mean.flatten_all()?, variance));
    }
    with_real!(x.dtype(), op, T => with_slice::<T, _>(op, x, |x| {
        let mut pairs = vec![[<T as Real>::ZERO; 2]; sizes.channels];
        by_channels(&mut pairs, x.len(), |first, pairs| channel_moments(pairs, x, first, &sizes));
        let (mean, variance): (Vec<T>, Vec<T>) = pairs.into_iter().map(|[mean, var]| (mean, var)).unzip();
        let shape = Shape::from(sizes.channels);
        Ok((T::tensor(mean, &shape)?, T::tensor(variance, &shape)?))
    }))
}

/// Calls `f(first channel, piece)` for one piece of channels per thread.
fn by_channels<P: Send>(out: &mut [P], work: usize, f: impl Fn(usize, &mut [P]) + Sync) {
    if work < SHARE_FROM || out.len() < 2 || threads() == 1 {
        return f(0, out);
    }
    let piece = out.len().div_ceil(threads());
    out.par_chunks_mut(piece).enumerate().for_each(|(i, out)| f(i * piece, out));
}

vectorized! {
    /// Mean and biased variance of the channels from `first` on.
    fn channel_moments<T: Real>(out: &mut [[T; 2]], x: &[T], first: usize, sizes: &Sizes) {
        let plane = T::from_f64(sizes.plane as f64);
        for (i, out) in out.iter_mut().enumerate() {
            let (mut mean, mut square) = (T::ZERO, T::ZERO); // of the images so far; Σ(x − mean)²
            for image in 0..sizes.batch {
                let x = &x[sizes.start(image, first + i)..][..sizes.plane];
                let own_mean = lane_sum(x) / plane;
                let share = T::ONE / T::from_f64((image + 1) as f64);
                let delta = own_mean - mean;
                mean += delta * share;
                square += centered_square(x, own_mean) + delta * delta * plane * (T::ONE - share);
            }
            *out = [mean, square / T::from_f64(sizes.count() as f64)];
        }
    }
}

/// Σ(v − mean)².
#[inline(always)]
fn centered_square<T: Real>(values: &[T], mean: T) -> T {
    let mut lanes = [T::ZERO; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += (v - mean) * (v - mean);
        }
    }
    let mut sum = lane_sum(&lanes);
    for &v in rest {
        sum += (v - mean) * (v - mean);
    }
    sum
}

vectorized! {
    /// y = (x − μ)·scale + β plane by plane, from plane `first` on; coefficients are (μ, scale, β).
    fn normalize_planes<T: Real>(
        out: &mut [T],
        x: &[T],
        first: usize,
        coefficients: &[[T; 3]],
        sizes: &Sizes,
        activation: Activation,
    ) {
        let planes = out.chunks_exact_mut(sizes.plane).zip(x.chunks_exact(sizes.plane));
        for (i, (out, x)) in planes.enumerate() {
            let [mean, scale, beta] = coefficients[(first + i) % sizes.channels];
            for (o, &v) in out.iter_mut().zip(x) {
                *o = (v - mean) * scale + beta;
            }
            if activation == Activation::Relu {
                // Not `max`, which would turn NaN into 0.
                out.iter_mut().for_each(|o| *o = if *o < T::ZERO { T::ZERO } else { *o });
            }
        }
    }
}

/// The planes of one channel's image that backward reads.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a, T> {
    x: &'a [T],
    res: &'a [T],
    grad: &'a [T],
}

impl<'a, T> Seen<'a, T> {
    #[inline(always)]
    fn plane(&self, start: usize, plane: usize) -> Self {
        let cut = |values: &'a [T]| &values[start..][..plane];
        Self { x: cut(self.x), res: cut(self.res), grad: cut(self.grad) }
    }
}

/// Σ g and Σ g·(x − mean) over one plane, g behind the activation.
#[inline(always)]
fn plane_sums<T: Real>(seen: Seen<'_, T>, mean: T, mask: &impl Fn(T, T) -> T) -> (T, T) {
    let (mut plain, mut weighted) = ([T::ZERO; 8], [T::ZERO; 8]);
    let (x, res, grad) = (seen.x.chunks_exact(8), seen.res.chunks_exact(8), seen.grad.chunks_exact(8));
    let rest = x.remainder().iter().zip(res.remainder()).zip(grad.remainder());
    for ((x, res), grad) in x.zip(res).zip(grad) {
        for lane in 0..8 {
            let g = mask(grad[lane], res[lane]);
            plain[lane] += g;
            weighted[lane] += g * (x[lane] - mean);
        }
    }
    let (mut to_beta, mut along) = (lane_sum(&plain), lane_sum(&weighted));
    for ((&x, &res), &grad) in rest {
        let g = mask(grad, res);
        to_beta += g;
        along += g * (x - mean);
    }
    (to_beta, along)
}

vectorized! {
    /// (Σ g, Σ g·(x − μ)) of the channels from `first` on.
    fn channel_sums<T: Real, F: Fn(T, T) -> T>(
        out: &mut [[T; 2]],
        seen: Seen<'_, T>,
        mean: &[T],
        first: usize,
        sizes: &Sizes,
        mask: F,
    ) {
        for (i, out) in out.iter_mut().enumerate() {
            for image in 0..sizes.batch {
                let plane = seen.plane(sizes.start(image, first + i), sizes.plane);
                let (plain, along) = plane_sums(plane, mean[first + i], &mask);
                out[0] += plain;
                out[1] += along;
            }
        }
    }
}

vectorized! {
    /// ∂x = scale·(g − a − (x − μ)·b) plane by plane, from plane `first` on; coefficients are (μ, scale, a, b).
    fn input_gradient<T: Real, F: Fn(T, T) -> T>(
        out: &mut [T],
        seen: Seen<'_, T>,
        first: usize,
        coefficients: &[[T; 4]],
        sizes: &Sizes,
        mask: F,
    ) {
        for (i, out) in out.chunks_exact_mut(sizes.plane).enumerate() {
            let [mean, scale, a, b] = coefficients[(first + i) % sizes.channels];
            let Seen { x, res, grad } = seen.plane((first + i) * sizes.plane, sizes.plane);
            for (((o, &x), &res), &g) in out.iter_mut().zip(x).zip(res).zip(grad) {
                *o = scale * (mask(g, res) - a - (x - mean) * b);
            }
        }
    }
}

/// The gradient as it is.
#[inline(always)]
fn no_mask<T: Real>(grad: T, _: T) -> T {
    grad
}

struct BatchNorm {
    op: &'static str,
    sizes: Sizes,
    /// μ, `[c]`.
    mean: Tensor,
    /// 1/√(σ² + ε), `[c]`.
    inverse: Tensor,
    /// Whether μ and σ² depend on the input.
    learns: bool,
    activation: Activation,
}

/// Gradients of input (where wanted), γ and β.
type Gradients<T> = (Option<Vec<T>>, Vec<T>, Vec<T>);

impl BatchNorm {
    fn forward<T: Real>(&self, x: &[T], gamma: &[T], beta: &[T], mean: &[T], inverse: &[T]) -> Vec<T> {
        let mut out = vec![T::ZERO; x.len()];
        if out.is_empty() {
            return out;
        }
        let channels = 0..self.sizes.channels;
        let coefficients: Vec<[T; 3]> = channels.map(|c| [mean[c], gamma[c] * inverse[c], beta[c]]).collect();
        share(&mut out, self.sizes.plane, |start, out| {
            let first = start / self.sizes.plane;
            normalize_planes(out, &x[start..], first, &coefficients, &self.sizes, self.activation);
        });
        out
    }

    fn backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        gamma: &[T],
        mean: &[T],
        inverse: &[T],
        mask: impl Fn(T, T) -> T + Sync,
        wants_input: bool,
    ) -> Gradients<T> {
        let sizes = &self.sizes;
        let mut sums = vec![[T::ZERO; 2]; sizes.channels];
        by_channels(&mut sums, seen.x.len(), |first, sums| {
            channel_sums(sums, seen, mean, first, sizes, &mask);
        });
        let to_gamma = sums.iter().zip(inverse).map(|(&[_, along], &inverse)| along * inverse).collect();
        let to_beta = sums.iter().map(|&[plain, _]| plain).collect();
        let to_x = wants_input.then(|| {
            let part = if self.learns { T::ONE / T::from_f64(sizes.count() as f64) } else { T::ZERO };
            let coefficients: Vec<[T; 4]> = (0..sizes.channels)
                .map(|c| {
                    let ([plain, along], inverse) = (sums[c], inverse[c]);
                    [mean[c], gamma[c] * inverse, plain * part, along * inverse * inverse * part]
                })
                .collect();
            let mut to_x = vec![T::ZERO; seen.x.len()];
            if !to_x.is_empty() {
                share(&mut to_x, sizes.plane, |start, to_x| {
                    input_gradient(to_x, seen, start / sizes.plane, &coefficients, sizes, &mask);
                });
            }
            to_x
        });
        (to_x, to_gamma, to_beta)
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let op = self.op;
        with_real!(x.dtype(), op, T => {
            let x = contiguous(op, <T as Real>::slice(x)?, x_layout)?;
            let gamma = contiguous(op, <T as Real>::slice(gamma)?, gamma_layout)?;
            let beta = contiguous(op, <T as Real>::slice(beta)?, beta_layout)?;
            let out = with_slices::<T, 2, _>(op, [&self.mean, &self.inverse], |[mean, inverse]| {
                Ok(self.forward(x, gamma, beta, mean, inverse))
            })?;
            Ok((T::storage(out), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let op = self.op;
        let wants = x.track_op();
        with_real!(x.dtype(), op, T => {
            let tensors = [x, res, grad, gamma, &self.mean, &self.inverse];
            let found = with_slices::<T, 6, _>(op, tensors, |[x, res, grad, gamma, mean, inverse]| {
                let seen = Seen { x, res, grad };
                Ok(match self.activation {
                    Activation::Identity => self.backward(seen, gamma, mean, inverse, no_mask, wants),
                    Activation::Relu => self.backward(seen, gamma, mean, inverse, relu_mask, wants),
                })
            });
            let (to_x, to_gamma, to_beta) = found?;
            let to_x = to_x.map(|values| T::tensor(values, x.shape())).transpose()?;
            Ok((to_x, Some(T::tensor(to_gamma, gamma.shape())?), Some(T::tensor(to_beta, beta.shape())?)))
        })
    }
}

/// The same out of candle's operations; the statistics are the batch's where none are given.
fn native(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    statistics: Option<(&Tensor, &Tensor)>,
    config: BatchNormConfig,
    sizes: Sizes,
) -> Result<Tensor> {
    let per_channel = |t: &Tensor| t.reshape((1, sizes.channels, 1));
    let planes = x.reshape((sizes.batch, sizes.channels, sizes.plane))?; // [n, c, p]
    let (mean, variance) = match statistics {
        Some((mean, variance)) => (per_channel(mean)?, per_channel(variance)?),
        None => {
            let mean = planes.mean_keepdim((0, 2))?;
            let variance = planes.broadcast_sub(&mean)?.sqr()?.mean_keepdim((0, 2))?;
            (mean, variance)
        }
    };
    let deviation = (variance + config.epsilon)?.sqrt()?;
    let normalized = planes.broadcast_sub(&mean)?.broadcast_div(&deviation)?;
    let y = normalized.broadcast_mul(&per_channel(gamma)?)?.broadcast_add(&per_channel(beta)?)?;
    let y = y.reshape(x.shape())?;
    match config.activation {
        Activation::Identity => Ok(y),
        Activation::Relu => y.relu(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_OFF: f64 = 1e-10;

    fn wave(shape: (usize, usize, usize, usize), phase: f64) -> Result<Tensor> {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f64> = (0..count).map(|i| (i as f64 * 1.7 + phase).sin() + 0.3).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    /// What other devices run agrees with the kernel, gradients too.
    #[test]
    fn the_way_of_other_devices_agrees() -> Result<()> {
        let sizes = Sizes { batch: 3, channels: 4, plane: 35 };
        let x = Var::from_tensor(&wave((3, 4, 5, 7), 0.0)?)?;
        let gamma = Var::from_tensor(&wave((1, 1, 1, 4), 1.0)?.flatten_all()?)?;
        let beta = Var::from_tensor(&wave((1, 1, 1, 4), 2.0)?.flatten_all()?)?;
        let running = Running {
            mean: Var::from_tensor(&wave((1, 1, 1, 4), 3.0)?.flatten_all()?)?,
            var: Var::from_tensor(&wave((1, 1, 1, 4), 4.0)?.abs()?.flatten_all()?)?,
        };
        let weight = wave((3, 4, 5, 7), 5.0)?;
        for activation in [Activation::Identity, Activation::Relu] {
            for mode in [BatchNormMode::Eval, BatchNormMode::Train { momentum: 0.0 }] {
                let config = BatchNormConfig { mode, epsilon: 1e-3, activation };
                let statistics = (mode == BatchNormMode::Eval)
                    .then_some((running.mean.as_tensor(), running.var.as_tensor()));
                let ours = batch_norm2d(&x, &gamma, &beta, Some(&running), config)?;
                let theirs = native(&x, &gamma, &beta, statistics, config, sizes)?;
                let largest = |t: &Tensor| t.abs()?.max_all()?.to_scalar::<f64>();
                assert!(largest(&(&ours - &theirs)?)? < ROUND_OFF);
                let ours = (ours * &weight)?.sum_all()?.backward()?;
                let theirs = (theirs * &weight)?.sum_all()?.backward()?;
                for var in [&x, &gamma, &beta] {
                    let (Some(ours), Some(theirs)) = (ours.get(var), theirs.get(var)) else {
                        bail!("{mode:?}: a gradient is missing");
                    };
                    assert!(largest(&(ours - theirs)?)? < ROUND_OFF, "{mode:?} {activation:?}");
                }
            }
        }
        Ok(())
    }
}
