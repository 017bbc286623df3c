//! Convolution, activation and 2×2 maximum pooling in one pass over memory.
//!
//! Only the maxima are written, with a byte each that says which of four pixels it was. Three quarters of the gradient
//! before the pooling are zeros, and those of pixels that the ReLU cut too: backward visits what is left
//! ([`sparse`](super::sparse)) where the channels fill vectors, and else spreads it and goes the way of any convolution.

use std::sync::OnceLock;

use super::sparse::{Entry, Sparse};
use super::*;
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
        maxima_of_windows(results, row, self.bias[channel], self.width, maxima, choices);
        if self.activation == Activation::Relu {
            rectify(maxima);
        }
    }
}

/// Columns of windows that are worked on at once: a few vectors, which stay in registers or close by.
const COLUMNS: usize = 32;

vectorized! {
    fn maxima_of_windows<T: Real>(
        results: &[T],
        row: usize,
        bias: T,
        width: usize,
        maxima: &mut [T],
        choices: &mut [u8],
    ) {
        let (one, two) = (T::ONE, T::ONE + T::ONE);
        let mut larger = [T::ZERO; 2 * COLUMNS];
        let mut places = [T::ZERO; 2 * COLUMNS];
        for (y, (maxima, choices)) in maxima.chunks_exact_mut(width).zip(choices.chunks_exact_mut(width)).enumerate() {
            let parts = maxima.chunks_mut(COLUMNS).zip(choices.chunks_mut(COLUMNS)).enumerate();
            for (part, (maxima, choices)) in parts {
                let count = 2 * maxima.len();
                let top = &results[2 * y * row + 2 * COLUMNS * part..][..count];
                let bottom = &results[(2 * y + 1) * row + 2 * COLUMNS * part..][..count];
                // The lower pixel of each column where it is larger or NaN.
                let columns = larger.iter_mut().zip(&mut places).zip(top.iter().zip(bottom));
                for ((larger, place), (&t, &b)) in columns {
                    let takes = (b > t) | b.is_nan();
                    *larger = if takes { b } else { t };
                    *place = if takes { two } else { T::ZERO };
                }
                // The right column where it is larger or NaN, or has as much in an earlier row.
                let pairs = larger[..count].chunks_exact(2).zip(places[..count].chunks_exact(2));
                for (((max, choice), v), at) in maxima.iter_mut().zip(choices).zip(pairs.clone().map(|p| p.0)).zip(pairs.map(|p| p.1)) {
                    let takes = (v[1] > v[0]) | v[1].is_nan() | ((v[1] == v[0]) & (at[1] < at[0]));
                    *max = (if takes { v[1] } else { v[0] }) + bias;
                    *choice = (if takes { at[1] + one } else { at[0] }).to_byte();
                }
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
            let gradients = with_slice::<T, _>(op, x, |xs| {
                with_slice::<T, _>(op, weight, |weight| {
                    with_slice::<T, _>(op, res, |res| {
                        with_slice::<T, _>(op, grad, |grad| {
                            Ok(g.backward_pooled((xs, weight), (res, choices, grad), x.track_op()))
                        })
                    })
                })
            })?;
            gradients.tensors(x, weight, bias)
        })
    }
}
