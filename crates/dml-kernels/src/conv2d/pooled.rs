//! Convolution, activation and 2×2 maximum pooling in one pass over memory.
//!
//! Only the maxima are written, with a byte each that says which of four pixels it was. Three quarters of the gradient
//! before the pooling are zeros, and those of pixels that the ReLU cut too: backward visits what is left
//! ([`sparse`](super::sparse)) where the channels fill vectors, and else spreads it and goes the way of any convolution.

use std::sync::OnceLock;

use super::sparse::{Entry, Sparse};
use super::tile::SLACK;
use super::*;
use crate::linear::relu as rectified;
use crate::pool2d::max_pool2d;

/// `max_pool2d(conv2d(x, weight, bias, config), 2, 2, 0)`: `x` `[n, c, h, w]`, `weight` `[o, c/groups, kh, kw]`,
/// `bias` `[o]` → `[n, o, ⌊h′/2⌋, ⌊w′/2⌋]`, without the `[n, o, h′, w′]` between. The gradient goes to the first maximum
/// of a window.
///
/// # Errors
/// Those of [`conv2d`], and when h′ or w′ is 1.
/// # Examples
/// ```
/// use candle_core::{Device, Tensor};
/// use dml_kernels::{Conv2dConfig, conv2d_max_pool2d};
///
/// let x = Tensor::arange(0f32, 16., &Device::Cpu)?.reshape((1, 1, 4, 4))?;
/// let weight = Tensor::full(-1f32, (1, 1, 1, 1), &Device::Cpu)?;
/// let y = conv2d_max_pool2d(&x, &weight, None, Conv2dConfig::default())?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [0., -2., -8., -10.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn conv2d_max_pool2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    config: Conv2dConfig,
) -> Result<Tensor> {
    if !on_cpu(x) {
        return max_pool2d(&conv2d(x, weight, bias, config)?, 2, 2, 0);
    }
    let geometry = Geometry::new(x, weight, config)?;
    if geometry.out_height < 2 || geometry.out_width < 2 {
        let size = (geometry.out_height, geometry.out_width);
        bail!(
            "conv2d_max_pool2d: a window of 2 pixels every 2 does not fit into {}×{} pixels",
            size.0,
            size.1
        );
    }
    let bias = geometry.bias(bias, x)?;
    let op = Pooled { geometry, choices: OnceLock::new() };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

struct Pooled {
    geometry: Geometry,
    /// Which pixel of its window each maximum was: 2·row + column.
    choices: OnceLock<Vec<u8>>,
}

/// Keeps the maxima, and which they were.
struct Maxima<'a, T> {
    bias: &'a [T],
    activation: Activation,
    width: usize,
}

impl<T: Real> Finish<T> for Maxima<'_, T> {
    fn put(&self, channel: usize, results: &[T], row: usize, maxima: &mut [T], choices: &mut [u8]) {
        let relu = self.activation == Activation::Relu;
        maxima_of_windows(results, row, self.bias[channel], relu, self.width, maxima, choices);
    }
}

/// Windows that are worked on at once. A row is rounded up to whole turns, reading into what follows it: a remainder
/// would go one by one, with branches that no processor can predict, and rows of few windows have little else.
const WINDOWS: usize = 16;
const _: () = assert!(2 * WINDOWS <= SLACK);

vectorized! {
    fn maxima_of_windows<T: Real>(
        results: &[T],
        row: usize,
        bias: T,
        relu: bool,
        width: usize,
        maxima: &mut [T],
        choices: &mut [u8],
    ) {
        let (one, two) = (T::ONE, T::ONE + T::ONE);
        let (mut larger, mut places) = ([T::ZERO; 2 * WINDOWS], [T::ZERO; 2 * WINDOWS]);
        let (mut values, mut at) = ([T::ZERO; WINDOWS], [0u8; WINDOWS]);
        for (y, (maxima, choices)) in maxima.chunks_exact_mut(width).zip(choices.chunks_exact_mut(width)).enumerate() {
            for (part, (maxima, choices)) in maxima.chunks_mut(WINDOWS).zip(choices.chunks_mut(WINDOWS)).enumerate() {
                let top = &results[2 * y * row + 2 * WINDOWS * part..][..2 * WINDOWS];
                let bottom = &results[(2 * y + 1) * row + 2 * WINDOWS * part..][..2 * WINDOWS];
                // The lower pixel of each column where it is larger or NaN.
                for x in 0..2 * WINDOWS {
                    let (t, b) = (top[x], bottom[x]);
                    let takes = (b > t) | b.is_nan();
                    larger[x] = if takes { b } else { t };
                    places[x] = if takes { two } else { T::ZERO };
                }
                // The right column where it is larger or NaN, or has as much in an earlier row.
                for x in 0..WINDOWS {
                    let (l, r, l_at, r_at) = (larger[2 * x], larger[2 * x + 1], places[2 * x], places[2 * x + 1]);
                    let takes = (r > l) | r.is_nan() | ((r == l) & (r_at < l_at));
                    values[x] = (if takes { r } else { l }) + bias;
                    at[x] = (if takes { r_at + one } else { l_at }).to_byte();
                }
                if relu {
                    values.iter_mut().for_each(|v| *v = rectified(*v));
                }
                let count = maxima.len();
                maxima.copy_from_slice(&values[..count]);
                choices.copy_from_slice(&at[..count]);
            }
        }
    }
}

impl Geometry {
    fn pooled_size(&self) -> (usize, usize) {
        (self.out_height / 2, self.out_width / 2)
    }

    /// Elements of one channel of one pooled image.
    pub(super) fn pooled_plane(&self) -> usize {
        self.pooled_size().0 * self.pooled_size().1
    }

    /// Maxima and choices.
    fn forward_pooled<T: Vectors>(&self, x: &[T], weight: &[T], bias: &[T]) -> (Vec<T>, Vec<u8>) {
        let count = self.batch * self.outputs * self.pooled_plane();
        let (mut maxima, mut choices) = (vec![T::ZERO; count], vec![0; count]);
        let finish = Maxima { bias, activation: self.config.activation, width: self.pooled_size().1 };
        self.forward(x, weight, &mut maxima, Some(&mut choices), finish);
        (maxima, choices)
    }

    fn backward_pooled<T: Vectors>(
        &self,
        (x, weight): (&[T], &[T]),
        (res, choices, grad): (&[T], &[u8], &[T]),
        wants_input: bool,
    ) -> Gradients<T> {
        let pooled = self.outputs * self.pooled_plane();
        let of_image = |image: usize| {
            let part = image * pooled..(image + 1) * pooled;
            Pixels {
                geometry: self,
                res: &res[part.clone()],
                choices: &choices[part.clone()],
                grad: &grad[part],
            }
        };
        if let Some(sparse) = Sparse::new::<T>(self) {
            return sparse.backward(self, x, weight, wants_input, of_image);
        }
        self.backward(x, weight, wants_input, |image, out| {
            out.fill(T::ZERO);
            let mut entries = Vec::with_capacity(self.pooled_plane());
            for (channel, out) in out.chunks_exact_mut(self.plane()).enumerate() {
                of_image(image).entries(channel, self.out_width, 1, &mut entries);
                for &Entry { at, gradient } in &entries {
                    out[at as usize] = gradient;
                }
            }
        })
    }
}

/// One image's pooled results with their gradient.
pub(super) struct Pixels<'a, T> {
    geometry: &'a Geometry,
    res: &'a [T],
    choices: &'a [u8],
    grad: &'a [T],
}

impl<T: Real> Pixels<'_, T> {
    /// The pixels of an output channel that receive a gradient other than 0, at (row·`row` + column)·`unit`.
    pub(super) fn entries(&self, channel: usize, row: usize, unit: usize, entries: &mut Vec<Entry<T>>) {
        let (height, width) = self.geometry.pooled_size();
        let part = channel * height * width..(channel + 1) * height * width;
        let (res, choices, grad) = (&self.res[part.clone()], &self.choices[part.clone()], &self.grad[part]);
        let relu = self.geometry.config.activation == Activation::Relu;
        entries.clear();
        entries.resize(height * width, Entry { at: 0, gradient: T::ZERO });
        let mut kept = 0;
        for y in 0..height {
            let of_row = y * width..(y + 1) * width;
            let values = res[of_row.clone()].iter().zip(&grad[of_row.clone()]).zip(&choices[of_row]);
            for (x, ((&value, &gradient), &choice)) in values.enumerate() {
                let (down, right) = (usize::from(choice >> 1), usize::from(choice & 1));
                let at = ((2 * y + down) * row + 2 * x + right) * unit;
                entries[kept] = Entry { at: at as u32, gradient };
                // Without a branch, which no processor could predict.
                kept += usize::from((gradient != T::ZERO) & (!relu | (value > T::ZERO)));
            }
        }
        entries.truncate(kept);
    }

    /// The sum of an output channel's gradient.
    pub(super) fn sum(entries: &[Entry<T>]) -> T {
        entries.iter().fold(T::ZERO, |sum, entry| sum + entry.gradient)
    }
}

impl CustomOp3 for Pooled {
    fn name(&self) -> &'static str {
        "conv2d_max_pool2d"
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
        let g = &self.geometry;
        let size = g.pooled_size();
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, x_layout)?;
            let weight = contiguous(self.name(), <T as Real>::slice(weight)?, weight_layout)?;
            let bias = contiguous(self.name(), <T as Real>::slice(bias)?, bias_layout)?;
            let (maxima, choices) = g.forward_pooled(x, weight, bias);
            // An operation runs forward once; were it run again, the choices would be the same.
            let _ = self.choices.set(choices);
            Ok((T::storage(maxima), Shape::from((g.batch, g.outputs, size.0, size.1))))
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
        let (op, g) = (self.name(), &self.geometry);
        let Some(choices) = self.choices.get() else { bail!("{op}: backward without forward") };
        with_real!(x.dtype(), op, T => {
            let gradients = with_slices::<T, 4, _>(op, [x, weight, res, grad], |[xs, weight, res, grad]| {
                Ok(g.backward_pooled((xs, weight), (res, choices, grad), x.track_op()))
            })?;
            gradients.tensors(x, weight, bias)
        })
    }
}
