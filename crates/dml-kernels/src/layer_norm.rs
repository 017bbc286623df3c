//! Layer normalization: y = γ·(x − μ)/√(σ² + ε) + β, mean and biased variance over each row's own entries.
//!
//! With x̂ = (x − μ)/√(σ² + ε) and h = g·γ for the output's gradient g:
//! ∂x = (h − mean(h) − x̂·mean(h·x̂))/√(σ² + ε), and over the rows ∂γ = Σ g·x̂, ∂β = Σ g.
//! candle 0.11's own fused `layer_norm` cuts the graph: it has no gradient at all.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{contiguous, lane_sum, share, threads, vectorized, with_slices};
use crate::real::{Real, on_cpu, with_real};

/// Normalizes the rows of a matrix: `x` `[n, d]`, `gamma` `[d]`, `beta` `[d]` → `[n, d]`; `epsilon` is positive.
///
/// # Errors
/// When shapes disagree, d is 0 or ε is not positive.
/// # Source
/// Ba et al. 2016 \[ba2016\].
/// # Examples
/// ```
/// use candle_core::{Device, Tensor};
/// use dml_kernels::layer_norm;
///
/// let x = Tensor::new(&[[1f64, 3.]], &Device::Cpu)?;
/// let (gamma, beta) = (Tensor::new(&[1f64, 1.], &Device::Cpu)?, Tensor::new(&[0f64, 5.], &Device::Cpu)?);
/// let y = layer_norm(&x, &gamma, &beta, 1e-12)?.to_vec2::<f64>()?;
/// assert!((y[0][0] + 1.).abs() < 1e-9 && (y[0][1] - 6.).abs() < 1e-9);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, epsilon: f64) -> Result<Tensor> {
    let d = match x.dims2() {
        Ok((_, d)) if d > 0 => d,
        _ => bail!("layer_norm: `x` has shape {:?}, expected [n, d] with d at least 1", x.dims()),
    };
    for (name, tensor) in [("gamma", gamma), ("beta", beta)] {
        if tensor.dims() != [d] || tensor.dtype() != x.dtype() {
            bail!(
                "layer_norm: `{name}` is {:?} of shape {:?}, expected {:?} of shape [{d}]",
                tensor.dtype(),
                tensor.dims(),
                x.dtype()
            );
        }
    }
    if !(epsilon > 0.0 && epsilon.is_finite()) {
        bail!("layer_norm: `epsilon` is {epsilon}, expected a positive number");
    }
    if on_cpu(x) {
        let kernel = LayerNorm { d, epsilon };
        return x.contiguous()?.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, kernel);
    }
    native(x, gamma, beta, epsilon)
}

/// The same out of candle's operations.
fn native(x: &Tensor, gamma: &Tensor, beta: &Tensor, epsilon: f64) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centered.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
    centered.broadcast_div(&deviation)?.broadcast_mul(gamma)?.broadcast_add(beta)
}

struct LayerNorm {
    d: usize,
    epsilon: f64,
}

/// μ and 1/√(σ² + ε) of a row, the variance about the mean.
#[inline(always)]
fn moments<T: Real>(row: &[T], epsilon: T) -> (T, T) {
    let d = T::from_f64(row.len() as f64);
    let mean = lane_sum(row) / d;
    let mut lanes = [T::ZERO; 8];
    let chunks = row.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += (v - mean) * (v - mean);
        }
    }
    let mut square = lane_sum(&lanes);
    for &v in rest {
        square += (v - mean) * (v - mean);
    }
    (mean, T::ONE / (square / d + epsilon).sqrt())
}

vectorized! {
    fn forward_rows<T: Real>(out: &mut [T], x: &[T], gamma: &[T], beta: &[T], epsilon: T) {
        let d = gamma.len();
        for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let (mean, inverse) = moments(x, epsilon);
            for (((o, &v), &gamma), &beta) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
                *o = (v - mean) * inverse * gamma + beta;
            }
        }
    }
}

vectorized! {
    /// Sets the rows' gradient and adds theirs to (∂γ, ∂β).
    fn backward_rows<T: Real>(
        to_x: &mut [T],
        sums: &mut (Vec<T>, Vec<T>),
        x: &[T],
        grad: &[T],
        gamma: &[T],
        epsilon: T,
    ) {
        let d = gamma.len();
        let part = T::ONE / T::from_f64(d as f64);
        let mut scaled = vec![T::ZERO; d]; // h·x̂
        for ((to_x, x), grad) in to_x.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(grad.chunks_exact(d)) {
            let (mean, inverse) = moments(x, epsilon);
            let (to_gamma, to_beta) = (&mut sums.0[..d], &mut sums.1[..d]);
            for i in 0..d {
                let (unit, h) = ((x[i] - mean) * inverse, grad[i] * gamma[i]);
                to_gamma[i] += grad[i] * unit;
                to_beta[i] += grad[i];
                to_x[i] = h;
                scaled[i] = h * unit;
            }
            let (plain, along) = (lane_sum(to_x) * part, lane_sum(&scaled) * part);
            for (o, &v) in to_x.iter_mut().zip(x) {
                *o = (*o - plain - (v - mean) * inverse * along) * inverse;
            }
        }
    }
}

impl LayerNorm {
    fn forward<T: Real>(&self, x: &[T], gamma: &[T], beta: &[T]) -> Vec<T> {
        let mut out = vec![T::ZERO; x.len()];
        let epsilon = T::from_f64(self.epsilon);
        share(&mut out, self.d, |start, out| forward_rows(out, &x[start..], gamma, beta, epsilon));
        out
    }

    /// Gradients of input, γ and β; the latter two are added piece by piece in the order of the rows.
    fn backward<T: Real>(&self, x: &[T], gamma: &[T], grad: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
        let mut to_x = vec![T::ZERO; x.len()];
        let epsilon = T::from_f64(self.epsilon);
        let piece = (x.len() / self.d).div_ceil(threads()).max(1) * self.d;
        let none = || (vec![T::ZERO; self.d], vec![T::ZERO; self.d]);
        let sums: Vec<(Vec<T>, Vec<T>)> = to_x
            .par_chunks_mut(piece)
            .zip(x.par_chunks(piece))
            .zip(grad.par_chunks(piece))
            .map(|((to_x, x), grad)| {
                let mut sums = none();
                backward_rows(to_x, &mut sums, x, grad, gamma, epsilon);
                sums
            })
            .collect();
        let (mut to_gamma, mut to_beta) = none();
        for (gamma, beta) in sums {
            to_gamma.iter_mut().zip(gamma).for_each(|(o, v)| *o += v);
            to_beta.iter_mut().zip(beta).for_each(|(o, v)| *o += v);
        }
        (to_x, to_gamma, to_beta)
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        let op = self.name();
        with_real!(x.dtype(), op, T => {
            let x = contiguous(op, <T as Real>::slice(x)?, x_layout)?;
            let gamma = contiguous(op, <T as Real>::slice(gamma)?, gamma_layout)?;
            let beta = contiguous(op, <T as Real>::slice(beta)?, beta_layout)?;
            Ok((T::storage(self.forward(x, gamma, beta)), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let op = self.name();
        with_real!(x.dtype(), op, T => {
            let found = with_slices::<T, 3, _>(op, [x, gamma, grad], |[x, gamma, grad]| {
                Ok(self.backward(x, gamma, grad))
            });
            let (to_x, to_gamma, to_beta) = found?;
            Ok((
                Some(T::tensor(to_x, x.shape())?),
                Some(T::tensor(to_gamma, gamma.shape())?),
                Some(T::tensor(to_beta, beta.shape())?),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// What other devices run agrees with the kernel, gradients too.
    #[test]
    fn the_way_of_other_devices_agrees() -> Result<()> {
        let wave = |shape: (usize, usize), phase: f64| {
            let values: Vec<f64> = (0..shape.0 * shape.1).map(|i| (i as f64 * 1.7 + phase).sin()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        let x = Var::from_tensor(&wave((5, 19), 0.0)?)?;
        let (gamma, beta) = (
            Var::from_tensor(&wave((1, 19), 1.0)?.squeeze(0)?)?,
            Var::from_tensor(&wave((1, 19), 2.0)?.squeeze(0)?)?,
        );
        let ours = layer_norm(&x, &gamma, &beta, 1e-3)?;
        let theirs = native(&x, &gamma, &beta, 1e-3)?;
        let largest = |t: &Tensor| t.abs()?.max_all()?.to_scalar::<f64>();
        assert!(largest(&(&ours - &theirs)?)? < 1e-12);
        let (ours, theirs) = ((ours.sqr()?).sum_all()?.backward()?, (theirs.sqr()?).sum_all()?.backward()?);
        for var in [&x, &gamma, &beta] {
            let (Some(ours), Some(theirs)) = (ours.get(var), theirs.get(var)) else {
                bail!("a gradient is missing");
            };
            assert!(largest(&(ours - theirs)?)? < 1e-11);
        }
        Ok(())
    }
}
