//! One step of AdamW (Loshchilov & Hutter 2019) in place: no temporaries, two passes over memory.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

use crate::cpu::{threads, vectorized};
use crate::dispatch::on_cpu;
use crate::gradient::{Gradient, Taken};
use crate::real::{Real, with_real};

/// The numbers of one step of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The decay of the mean of gradients.
    pub beta1: f64,
    /// The decay of the mean of squared gradients.
    pub beta2: f64,
    /// Keeps the quotient finite where gradients vanish.
    pub epsilon: f64,
    /// Decoupled weight decay: the parameter shrinks by `learning_rate·weight_decay` of itself.
    pub weight_decay: f64,
}

/// Updates `param` by its gradient in step `step` (from 1), and `moments`, which begins as zeros of shape
/// `[2, number of elements]`: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²,
/// p ← (1 − ηλ)p − η·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
///
/// # Errors
/// When the shapes disagree or `step` is 0.
/// # Source
/// Loshchilov & Hutter 2019 \[loshchilov2019\], Algorithm 2.
pub fn adamw_step<'a>(
    param: &Var,
    gradient: impl Into<Gradient<'a>>,
    moments: &Var,
    step: u64,
    config: AdamW,
) -> Result<()> {
    let n = param.elem_count();
    let gradient = gradient.into();
    let grad = gradient.values;
    if grad.shape() != param.shape() || moments.dims() != [2, n] || step == 0 {
        bail!(
            "adamw_step: `param` has shape {:?}, `grad` {:?}, `moments` {:?}, step {step}; expected equal shapes, \
             [2, {n}] and a step from 1",
            param.dims(),
            grad.dims(),
            moments.dims()
        );
    }
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    let update =
        Update { config, correction1: correction(config.beta1), correction2: correction(config.beta2) };
    if on_cpu(param) && param.is_contiguous() && grad.dtype() == param.dtype() {
        moments.inplace_op2(&grad.detach().contiguous()?, &Moments { config, gradient })?;
        return param.inplace_op2(moments, &update);
    }
    let g = gradient.native()?.detach().contiguous()?.flatten_all()?;
    let m = ((moments.get(0)? * config.beta1)? + (&g * (1.0 - config.beta1))?)?;
    let v = ((moments.get(1)? * config.beta2)? + (g.sqr()? * (1.0 - config.beta2))?)?;
    moments.set(&Tensor::stack(&[&m, &v], 0)?.detach())?;
    let denominator = ((v / update.correction2)?.sqrt()? + config.epsilon)?;
    let step = ((m / update.correction1)? / denominator)?.reshape(param.shape())?;
    let kept = (param.as_tensor() * (1.0 - config.learning_rate * config.weight_decay))?;
    param.set(&(kept - (step * config.learning_rate)?)?.detach())
}

/// Elements of a thread's piece of a parameter of `n`; entries are independent, so the pieces change no bit.
pub(crate) fn piece(n: usize) -> usize {
    const SHARE_FROM: usize = 1 << 17;
    if n < SHARE_FROM { n.max(1) } else { n.div_ceil(threads()).max(1) }
}

vectorized! {
    fn update_moments<T: Real>(m: &mut [T], v: &mut [T], grad: &[T], taken: Taken<T>, beta1: T, beta2: T) {
        for ((m, v), &g) in m.iter_mut().zip(v).zip(grad) {
            let g = taken.of(g);
            *m = *m * beta1 + g * (T::ONE - beta1);
            *v = *v * beta2 + g * g * (T::ONE - beta2);
        }
    }
}

/// p ← kept·p − rate·m / (√(scale·v) + ε).
#[derive(Clone, Copy)]
pub(crate) struct Numbers<T> {
    kept: T,
    rate: T,
    scale: T,
    epsilon: T,
}

vectorized! {
    fn update_param<T: Real>(param: &mut [T], m: &[T], v: &[T], numbers: Numbers<T>) {
        let Numbers { kept, rate, scale, epsilon } = numbers;
        for ((p, &m), &v) in param.iter_mut().zip(m).zip(v) {
            *p = *p * kept - rate * m / ((v * scale).sqrt() + epsilon);
        }
    }
}

struct Moments<'a> {
    config: AdamW,
    gradient: Gradient<'a>,
}

impl InplaceOp2 for Moments<'_> {
    fn name(&self) -> &'static str {
        "adamw_moments"
    }

    fn cpu_fwd(&self, moments: &mut CpuStorage, _: &Layout, grad: &CpuStorage, at: &Layout) -> Result<()> {
        with_real!(moments.dtype(), self.name(), T => {
            let grad = crate::cpu::contiguous(self.name(), <T as Real>::slice(grad)?, at)?;
            let of = <T as Real>::from_f64;
            let (beta1, beta2, taken) = (of(self.config.beta1), of(self.config.beta2), self.gradient.taken::<T>());
            let (m, v) = <T as Real>::slice_mut(moments)?.split_at_mut(grad.len());
            let piece = piece(grad.len());
            if piece >= grad.len() {
                update_moments(m, v, grad, taken, beta1, beta2);
            } else {
                let pieces = m.par_chunks_mut(piece).zip(v.par_chunks_mut(piece)).zip(grad.par_chunks(piece));
                pieces.for_each(|((m, v), grad)| update_moments(m, v, grad, taken, beta1, beta2));
            }
            Ok(())
        })
    }
}

struct Update {
    config: AdamW,
    correction1: f64,
    correction2: f64,
}

impl InplaceOp2 for Update {
    fn name(&self) -> &'static str {
        "adamw_update"
    }

    fn cpu_fwd(&self, param: &mut CpuStorage, at: &Layout, moments: &CpuStorage, _: &Layout) -> Result<()> {
        let config = &self.config;
        with_real!(param.dtype(), self.name(), T => {
            let n = at.shape().elem_count();
            let param = &mut <T as Real>::slice_mut(param)?[at.start_offset()..at.start_offset() + n];
            let (m, v) = <T as Real>::slice(moments)?.split_at(n);
            let of = <T as Real>::from_f64;
            let kept = of(1.0 - config.learning_rate * config.weight_decay);
            let rate = of(config.learning_rate / self.correction1);
            let (scale, epsilon) = (of(1.0 / self.correction2), of(config.epsilon));
            let numbers = Numbers { kept, rate, scale, epsilon };
            let piece = piece(n);
            if piece >= n {
                update_param(param, m, v, numbers);
            } else {
                let pieces = param.par_chunks_mut(piece).zip(m.par_chunks(piece)).zip(v.par_chunks(piece));
                pieces.for_each(|((param, m), v)| update_param(param, m, v, numbers));
            }
            Ok(())
        })
    }
}
