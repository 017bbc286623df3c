//! The fully connected layer y = x·Wᵀ + b with an optional ReLU, as one matrix product.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{Matrix, column_sums, contiguous, gemm, map2, share, vectorized, with_slice, with_slices};
use crate::real::{Real, on_cpu, with_real};

/// What follows the affine part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// max(z, 0), gradient 0 at 0.
    Relu,
}

/// y = activation(x·Wᵀ + b): `x` `[n, i]`, `weight` `[o, i]`, `bias` `[o]` → `[n, o]`.
///
/// # Errors
/// When the shapes disagree.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    let (Ok((_, inputs)), Ok((outputs, weight_inputs))) = (x.dims2(), weight.dims2()) else {
        bail!(
            "linear: `x` has shape {:?} and `weight` {:?}, expected [n, i] and [o, i]",
            x.dims(),
            weight.dims()
        );
    };
    if inputs != weight_inputs {
        bail!("linear: `x` has {inputs} columns, `weight` expects {weight_inputs}");
    }
    let bias = match bias {
        Some(bias) if bias.dims() == [outputs] => bias.clone(),
        Some(bias) => bail!("linear: `bias` has shape {:?}, expected [{outputs}]", bias.dims()),
        None => Tensor::zeros(outputs, x.dtype(), x.device())?,
    };
    if on_cpu(x) {
        return x.contiguous()?.apply_op3(
            &weight.contiguous()?,
            &bias.contiguous()?,
            Linear { inputs, outputs, activation },
        );
    }
    let y = x.matmul(&weight.t()?)?.broadcast_add(&bias)?;
    match activation {
        Activation::Identity => Ok(y),
        Activation::Relu => y.relu(),
    }
}

struct Linear {
    inputs: usize,
    outputs: usize,
    activation: Activation,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let n = x_layout.dims()[0];
        with_real!(x.dtype(), self.name(), T => {
            let x = contiguous(self.name(), <T as Real>::slice(x)?, x_layout)?;
            let weight = contiguous(self.name(), <T as Real>::slice(weight)?, weight_layout)?;
            let bias = contiguous(self.name(), <T as Real>::slice(bias)?, bias_layout)?;
            Ok((T::storage(self.forward(x, weight, bias, n)), Shape::from((n, self.outputs))))
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
        let n = x.dims()[0];
        let out_shape = res.shape();
        with_real!(x.dtype(), op, T => {
            let grad = match self.activation {
                Activation::Identity => grad.contiguous()?,
                Activation::Relu => with_slices::<T, 2, _>(op, [grad, res], |[grad, res]| {
                    T::tensor(map2(grad, res, relu_mask), out_shape)
                })?,
            };
            with_slice::<T, _>(op, &grad, |g| {
                let to_x = if x.track_op() {
                    Some(with_slice::<T, _>(op, weight, |weight| {
                        let mut out = vec![<T as Real>::ZERO; n * self.inputs];
                        let weight = Matrix::new(weight, self.outputs, self.inputs);
                        gemm(&mut out, Matrix::new(g, n, self.outputs), weight, false, true);
                        T::tensor(out, x.shape())
                    })?)
                } else {
                    None
                };
                let to_weight = if weight.track_op() {
                    Some(with_slice::<T, _>(op, x, |x| {
                        let mut out = vec![<T as Real>::ZERO; self.outputs * self.inputs];
                        let x = Matrix::new(x, n, self.inputs);
                        gemm(&mut out, Matrix::new(g, n, self.outputs).t(), x, false, true);
                        T::tensor(out, weight.shape())
                    })?)
                } else {
                    None
                };
                let to_bias =
                    if bias.track_op() { Some(T::tensor(column_sums(g, self.outputs), bias.shape())?) } else { None };
                Ok((to_x, to_weight, to_bias))
            })
        })
    }
}

/// max(z, 0), and NaN for NaN: a ReLU must not hide one.
#[inline(always)]
pub(crate) fn relu<T: Real>(z: T) -> T {
    if z < T::ZERO { T::ZERO } else { z }
}

vectorized! {
    fn rectify<T: Real>(out: &mut [T]) {
        out.iter_mut().for_each(|v| *v = relu(*v));
    }
}

/// The gradient where the output is positive, 0 elsewhere.
#[inline(always)]
pub(crate) fn relu_mask<T: Real>(grad: T, res: T) -> T {
    if res > T::ZERO { grad } else { T::ZERO }
}

impl Linear {
    fn forward<T: Real>(&self, x: &[T], weight: &[T], bias: &[T], n: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(n * self.outputs);
        for _ in 0..n {
            out.extend_from_slice(bias);
        }
        let weight = Matrix::new(weight, self.outputs, self.inputs).t();
        gemm(&mut out, Matrix::new(x, n, self.inputs), weight, true, true);
        if self.activation == Activation::Relu {
            share(&mut out, 1, |_, out| {
                rectify(out);
            });
        }
        out
    }
}
