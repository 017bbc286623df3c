//! Maximum and average pooling with the right gradient.
//!
//! candle 0.11's own `max_pool2d` gives a window's maximum a quarter of its gradient, and both of its poolings
//! are wrong where the size is not divisible by the kernel. Elsewhere than on the CPU the same pooling is built
//! out of reshapes and maxima, whose gradients are right.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{contiguous, share, vectorized, with_slices};
use crate::real::{Real, on_cpu, with_real};

/// Maximum over windows of `kernel`×`kernel` pixels every `stride` pixels, with `padding` pixels of −∞ on each
/// side, which never win: `[n, c, h, w]` → `[n, c, h′, w′]`, h′ = ⌊(h + 2·padding − kernel)/stride⌋ + 1.
///
/// The gradient goes to the first maximum of a window in row-major order, as in PyTorch; on other devices than
/// the CPU, equal maxima share it.
///
/// # Errors
/// When `x` has another rank, kernel or stride is 0, the window does not fit, or the padding is more than half
/// of it, so that a window could hold nothing else.
/// # Examples
/// ```
/// use candle_core::{Device, Tensor};
/// use dml_kernels::max_pool2d;
///
/// let x = Tensor::new(&[[-1f32, -2.], [-3., -4.]], &Device::Cpu)?.reshape((1, 1, 2, 2))?;
/// let y = max_pool2d(&x, 3, 2, 1)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [-1.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    pool(x, kernel, stride, padding, Kind::Max)
}

/// Mean over windows of `kernel`×`kernel` pixels every `stride` pixels, no padding; shapes as [`max_pool2d`].
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    pool(x, kernel, stride, 0, Kind::Average)
}

/// Mean over all pixels: `[n, c, h, w]` → `[n, c]`.
///
/// # Errors
/// When `x` has another rank or no pixel.
pub fn global_avg_pool2d(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if h * w == 0 {
        bail!("global_avg_pool2d: `x` has shape {:?}, expected at least one pixel", x.dims());
    }
    x.flatten_from(2)?.mean(D::Minus1)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Max,
    Average,
}

fn pool(x: &Tensor, kernel: usize, stride: usize, padding: usize, kind: Kind) -> Result<Tensor> {
    let op = if kind == Kind::Max { "max_pool2d" } else { "avg_pool2d" };
    let Ok((images, channels, height, width)) = x.dims4() else {
        bail!("{op}: `x` has shape {:?}, expected [n, c, h, w]", x.dims());
    };
    if padding > kernel / 2 {
        bail!("{op}: `padding` is {padding}, expected at most half of the window of {kernel} pixels");
    }
    // No image is so large that its padded size overflows; 0 fits no window.
    let padded = |size: usize| size.checked_add(2 * padding).unwrap_or(0);
    let (padded_height, padded_width) = (padded(height), padded(width));
    if kernel == 0 || stride == 0 || height * width == 0 || padded_height < kernel || padded_width < kernel {
        bail!("{op}: a window of {kernel} pixels every {stride} does not fit into {height}×{width} pixels");
    }
    let pool = Pool {
        kind,
        planes: images * channels,
        height,
        width,
        kernel,
        stride,
        padding,
        out_height: (padded_height - kernel) / stride + 1,
        out_width: (padded_width - kernel) / stride + 1,
    };
    if on_cpu(x) {
        return x.contiguous()?.apply_op1(pool);
    }
    if kernel == stride && padding == 0 { pool.by_reshaping(x) } else { pool.by_shifting(x) }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    kind: Kind,
    planes: usize,
    height: usize,
    width: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    out_height: usize,
    out_width: usize,
}

vectorized! {
    fn forward_planes<T: Real>(pool: &Pool, x: &[T], out: &mut [T]) {
        let planes = x.chunks_exact(pool.height * pool.width);
        for (x, out) in planes.zip(out.chunks_exact_mut(pool.out_height * pool.out_width)) {
            for (oy, out) in out.chunks_exact_mut(pool.out_width).enumerate() {
                pool.forward_row(x, oy, out);
            }
        }
    }
}

vectorized! {
    fn backward_planes<T: Real>(pool: &Pool, x: &[T], results: (&[T], &[T]), to_x: &mut [T]) {
        let mut open = vec![T::ZERO; pool.out_width];
        let plane = pool.height * pool.width;
        for (p, (x, to_x)) in x.chunks_exact(plane).zip(to_x.chunks_exact_mut(plane)).enumerate() {
            for oy in 0..pool.out_height {
                let at = (p * pool.out_height + oy) * pool.out_width;
                let row = (&results.0[at..][..pool.out_width], &results.1[at..][..pool.out_width]);
                pool.backward_row(x, row, oy, &mut open, to_x);
            }
        }
    }
}

impl Pool {
    /// Windows that tile the image, out of candle's operations.
    fn by_reshaping(&self, x: &Tensor) -> Result<Tensor> {
        let Self { kernel, out_height, out_width, .. } = *self;
        let (images, channels, _, _) = x.dims4()?;
        let windows = x
            .narrow(2, 0, out_height * kernel)?
            .narrow(3, 0, out_width * kernel)?
            .contiguous()?
            .reshape((images, channels, out_height, kernel, out_width, kernel))?;
        match self.kind {
            Kind::Max => windows.max(5)?.max(3),
            Kind::Average => windows.mean(5)?.mean(3),
        }
    }

    /// Any windows, out of candle's operations: the pixels under each element of the window, combined.
    fn by_shifting(&self, x: &Tensor) -> Result<Tensor> {
        let mut padded = x.clone();
        for dim in [2, 3] {
            let mut shape = padded.dims().to_vec();
            shape[dim] = self.padding;
            if self.padding > 0 {
                let lowest = Tensor::full(f64::NEG_INFINITY, shape, x.device())?.to_dtype(x.dtype())?;
                padded = Tensor::cat(&[&lowest, &padded, &lowest], dim)?;
            }
        }
        let picks = |out: usize| -> Result<Vec<Tensor>> {
            (0..self.kernel)
                .map(|shift| {
                    let picks: Vec<u32> = (0..out).map(|i| (i * self.stride + shift) as u32).collect();
                    Tensor::from_vec(picks, out, x.device())
                })
                .collect()
        };
        let (rows, cols) = (picks(self.out_height)?, picks(self.out_width)?);
        let mut combined: Option<Tensor> = None;
        for rows in &rows {
            let band = padded.index_select(rows, 2)?;
            for cols in &cols {
                let pixels = band.index_select(cols, 3)?;
                combined = Some(match (combined, self.kind) {
                    (None, _) => pixels,
                    (Some(so_far), Kind::Max) => so_far.maximum(&pixels)?,
                    (Some(so_far), Kind::Average) => (so_far + pixels)?,
                });
            }
        }
        match (combined, self.kind) {
            (Some(largest), Kind::Max) => Ok(largest),
            (Some(sum), Kind::Average) => sum / (self.kernel * self.kernel) as f64,
            (None, _) => bail!("pooling: the window has no pixels"),
        }
    }

    /// Offsets within a plane of the rows of pixels that the windows of one output row cover, in order.
    fn window_rows(&self, oy: usize) -> impl Iterator<Item = usize> {
        let (width, first) = (self.width, oy * self.stride);
        let last = (first + self.kernel).saturating_sub(self.padding).min(self.height);
        (first.saturating_sub(self.padding)..last).map(move |iy| iy * width)
    }

    /// The output columns `lo..hi` whose pixel under column `kx` of the window lies inside the image, and the
    /// pixel's column for `lo`.
    fn span(&self, kx: usize) -> (usize, usize, usize) {
        let lo = self.padding.saturating_sub(kx).div_ceil(self.stride).min(self.out_width);
        let inside = (self.width + self.padding).saturating_sub(kx);
        let hi = inside.div_ceil(self.stride).min(self.out_width).max(lo);
        (lo, hi, (lo * self.stride + kx).saturating_sub(self.padding).min(self.width))
    }

    /// The usual case, which has a faster way: the maximum of 2×2 pixels, none of them shared.
    fn is_max_of_pairs(&self) -> bool {
        self.kind == Kind::Max && self.kernel == 2 && self.stride == 2 && self.padding == 0
    }

    fn forward<T: Real>(&self, x: &[T]) -> Vec<T> {
        let plane = self.out_height * self.out_width;
        let mut out = vec![T::ZERO; self.planes * plane];
        share(&mut out, plane, |start, out| {
            forward_planes(self, &x[start / plane * self.height * self.width..], out);
        });
        out
    }

    #[inline(always)]
    fn forward_row<T: Real>(&self, x: &[T], oy: usize, out: &mut [T]) {
        if self.is_max_of_pairs() {
            return max_of_pairs(&x[2 * oy * self.width..][..2 * self.width], out);
        }
        let scale = T::ONE / T::from_f64((self.kernel * self.kernel) as f64);
        out.fill(if self.kind == Kind::Max { T::NEG_INFINITY } else { T::ZERO });
        for row in self.window_rows(oy) {
            for kx in 0..self.kernel {
                let (lo, hi, start) = self.span(kx);
                let (out, inputs) = (&mut out[lo..hi], &x[row + start..row + self.width]);
                let inputs = inputs.iter().step_by(self.stride);
                match self.kind {
                    Kind::Max => out.iter_mut().zip(inputs).for_each(|(o, &v)| *o = larger(*o, v)),
                    Kind::Average => out.iter_mut().zip(inputs).for_each(|(o, &v)| *o += v * scale),
                }
            }
        }
    }

    fn backward<T: Real>(&self, x: &[T], res: &[T], grad: &[T]) -> Vec<T> {
        let (plane, out_plane) = (self.height * self.width, self.out_height * self.out_width);
        let mut to_x = vec![T::ZERO; x.len()];
        share(&mut to_x, plane, |start, to_x| {
            let out_start = start / plane * out_plane;
            backward_planes(self, &x[start..], (&res[out_start..], &grad[out_start..]), to_x);
        });
        to_x
    }

    /// Each window's gradient is handed to its first maximum and then taken from `open`.
    #[inline(always)]
    fn backward_row<T: Real>(
        &self,
        x: &[T],
        (res, grad): (&[T], &[T]),
        oy: usize,
        open: &mut [T],
        to_x: &mut [T],
    ) {
        if self.is_max_of_pairs() {
            let at = 2 * oy * self.width;
            return max_of_pairs_backward(
                &x[at..][..2 * self.width],
                (res, grad),
                &mut to_x[at..][..2 * self.width],
            );
        }
        let scale = T::ONE / T::from_f64((self.kernel * self.kernel) as f64);
        open.copy_from_slice(grad);
        for row in self.window_rows(oy) {
            for kx in 0..self.kernel {
                let (lo, hi, start) = self.span(kx);
                let outputs = to_x[row + start..row + self.width].iter_mut().step_by(self.stride);
                match self.kind {
                    Kind::Average => outputs.zip(&grad[lo..hi]).for_each(|(o, &g)| *o += g * scale),
                    Kind::Max => {
                        let inputs = x[row + start..row + self.width].iter().step_by(self.stride);
                        let windows = res[lo..hi].iter().zip(&mut open[lo..hi]);
                        for ((o, &v), (&m, open)) in outputs.zip(inputs).zip(windows) {
                            let takes = v == m;
                            *o += if takes { *open } else { T::ZERO };
                            *open = if takes { T::ZERO } else { *open };
                        }
                    }
                }
            }
        }
    }
}

/// The larger, or NaN where either is.
#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if (a >= b) | a.is_nan() { a } else { b }
}

/// One output row of maxima over two input rows, `x` holding both.
#[inline(always)]
fn max_of_pairs<T: Real>(x: &[T], out: &mut [T]) {
    let (top, bottom) = x.split_at(x.len() / 2);
    for ((o, t), b) in out.iter_mut().zip(top.chunks_exact(2)).zip(bottom.chunks_exact(2)) {
        *o = larger(larger(t[0], t[1]), larger(b[0], b[1]));
    }
}

/// Hands each gradient to the first of its four pixels that equals the maximum.
#[inline(always)]
fn max_of_pairs_backward<T: Real>(x: &[T], (res, grad): (&[T], &[T]), to_x: &mut [T]) {
    let (top, bottom) = x.split_at(x.len() / 2);
    let (to_top, to_bottom) = to_x.split_at_mut(x.len() / 2);
    let inputs = top.chunks_exact(2).zip(bottom.chunks_exact(2));
    let outputs = to_top.chunks_exact_mut(2).zip(to_bottom.chunks_exact_mut(2));
    for (((t, b), (to_t, to_b)), (&m, &g)) in inputs.zip(outputs).zip(res.iter().zip(grad)) {
        let hit = [t[0] == m, t[1] == m, b[0] == m, b[1] == m];
        to_t[0] = if hit[0] { g } else { T::ZERO };
        to_t[1] = if hit[1] & !hit[0] { g } else { T::ZERO };
        to_b[0] = if hit[2] & !(hit[0] | hit[1]) { g } else { T::ZERO };
        to_b[1] = if hit[3] & !(hit[0] | hit[1] | hit[2]) { g } else { T::ZERO };
    }
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Max => "max_pool2d",
            Kind::Average => "avg_pool2d",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, _, _) = layout.shape().dims4()?;
        with_real!(storage.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(storage)?, layout)?;
            Ok((T::storage(self.forward(x)), Shape::from((n, c, self.out_height, self.out_width))))
        })
    }

    fn bwd(&self, x: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let op = self.name();
        with_real!(x.dtype(), op, T => {
            let values = with_slices::<T, 3, _>(op, [x, res, grad], |[x, res, grad]| {
                Ok(self.backward(x, res, grad))
            })?;
            T::tensor(values, x.shape()).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// What other devices run agrees with the kernel, gradients too.
    #[test]
    fn the_ways_of_other_devices_agree() -> Result<()> {
        let values: Vec<f64> = (0..2 * 3 * 7 * 8).map(|i| (f64::from(i) * 1.7).sin()).collect();
        let x = Var::from_vec(values, (2, 3, 7, 8), &Device::Cpu)?;
        for (kernel, stride, padding) in [(3, 2, 1), (2, 1, 1), (3, 1, 0), (2, 3, 1), (2, 2, 0)] {
            for kind in [Kind::Max, Kind::Average] {
                let padding = if kind == Kind::Max { padding } else { 0 };
                let ours = pool(&x, kernel, stride, padding, kind)?;
                let shape = Pool {
                    kind,
                    planes: 6,
                    height: 7,
                    width: 8,
                    kernel,
                    stride,
                    padding,
                    out_height: ours.dim(2)?,
                    out_width: ours.dim(3)?,
                };
                let mut ways = vec![shape.by_shifting(&x)?];
                if kernel == stride && padding == 0 {
                    ways.push(shape.by_reshaping(&x)?);
                }
                let gradient = |y: &Tensor| {
                    y.sqr()?.sum_all()?.backward()?.get(&x).cloned().map_or_else(|| bail!("no gradient"), Ok)
                };
                for theirs in ways {
                    let largest = |t: Tensor| t.abs()?.max_all()?.to_scalar::<f64>();
                    assert!(largest((&ours - &theirs)?)? < 1e-14, "{kind:?} {kernel} {stride} {padding}");
                    let difference = (gradient(&ours)? - gradient(&theirs)?)?;
                    assert!(largest(difference)? < 1e-13, "{kind:?} {kernel} {stride} {padding}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn padding_beyond_half_a_window_and_absurd_settings_are_errors() -> Result<()> {
        let x = Tensor::zeros((1, 1, 9, 9), candle_core::DType::F32, &Device::Cpu)?;
        let message = |kernel, stride, padding| match max_pool2d(&x, kernel, stride, padding) {
            Ok(y) => format!("{y:?}"),
            Err(e) => e.to_string(),
        };
        let half = "max_pool2d: `padding` is 2, expected at most half of the window of 3 pixels";
        assert!(message(3, 2, 2).starts_with(half), "{}", message(3, 2, 2));
        let most = usize::MAX;
        for (kernel, stride, padding) in [(3, 2, most / 2 + 1), (most, 2, most / 2), (most, 1, 0), (3, 0, 1)]
        {
            assert!(message(kernel, stride, padding).starts_with("max_pool2d: "));
        }
        assert_eq!(max_pool2d(&x, 3, most, 1)?.dims(), [1, 1, 1, 1]);
        Ok(())
    }
}
