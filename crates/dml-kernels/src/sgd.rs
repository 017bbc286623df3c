//! One step of gradient descent with momentum (Sutskever et al. 2013, as `torch.optim.SGD` defines it) in place.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

use crate::adamw::piece;
use crate::cpu::{contiguous, vectorized};
use crate::dispatch::on_cpu;
use crate::gradient::{Gradient, Taken};
use crate::real::{Real, with_real};

/// The numbers of one step of gradient descent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The decay μ of the velocity; 0 for none, and then no velocity is kept.
    pub momentum: f64,
    /// The share τ of the gradient that the velocity leaves out, from the second step on.
    pub dampening: f64,
    /// Whether the step looks ahead along the velocity (Nesterov).
    pub nesterov: bool,
    /// Weight decay λ, added to the gradient.
    pub weight_decay: f64,
}

/// Updates `param` by its gradient, and `velocity` of the same shape (`None` without momentum), which holds nothing
/// before the `first` step: g ← g + λp, then b ← g in the first step and b ← μb + (1 − τ)g after it, and p ← p − ηb,
/// or p ← p − η(g + μb) with Nesterov's step.
///
/// # Errors
/// When the shapes disagree, or a velocity is missing or superfluous.
/// # Source
/// Sutskever et al. 2013 \[sutskever2013\].
/// # Examples
/// ```
/// # use {candle_core::{Device, Var}, dml_kernels::{Sgd, sgd_step}};
/// let (p, g) = (Var::new(&[1f32], &Device::Cpu)?, Var::new(&[2f32], &Device::Cpu)?);
/// let plain = Sgd { learning_rate: 0.25, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
/// sgd_step(&p, g.as_tensor(), None, true, plain)?;
/// assert_eq!(p.to_vec1::<f32>()?, [0.5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn sgd_step<'a>(
    param: &Var,
    gradient: impl Into<Gradient<'a>>,
    velocity: Option<&Var>,
    first: bool,
    config: Sgd,
) -> Result<()> {
    let gradient = gradient.into();
    let grad = gradient.values;
    if grad.shape() != param.shape() || velocity.is_some_and(|v| v.shape() != param.shape()) {
        bail!(
            "sgd_step: `param` has shape {:?}, `grad` {:?}, `velocity` {:?}; expected equal shapes",
            param.dims(),
            grad.dims(),
            velocity.map(|v| v.dims().to_vec())
        );
    }
    if (config.momentum == 0.0) != velocity.is_none() {
        let got = if velocity.is_some() { "given" } else { "missing" };
        bail!(
            "sgd_step: `velocity` is {got} with momentum {}, expected one where it is not 0",
            config.momentum
        );
    }
    let contiguous = param.is_contiguous() && velocity.is_none_or(|v| v.is_contiguous());
    if on_cpu(param) && contiguous && grad.dtype() == param.dtype() {
        let grad = grad.detach().contiguous()?;
        return match velocity {
            None => param.inplace_op2(&grad, &Plain { config, gradient }),
            Some(velocity) => {
                velocity.inplace_op3(&grad, param, &Velocity { config, gradient, first })?;
                param.inplace_op3(velocity, &grad, &Along { config, gradient })
            }
        };
    }
    let mut g = gradient.native()?.detach();
    if config.weight_decay != 0.0 {
        g = (g + (param.as_tensor() * config.weight_decay)?)?;
    }
    if let Some(velocity) = velocity {
        if first {
            velocity.set(&g.detach())?;
        } else {
            let kept = (velocity.as_tensor() * config.momentum)?;
            velocity.set(&(kept + (&g * (1.0 - config.dampening))?)?.detach())?;
        }
        g = if config.nesterov {
            (g + (velocity.as_tensor() * config.momentum)?)?
        } else {
            velocity.as_tensor().clone()
        };
    }
    let moved: Tensor = (param.as_tensor() - (g * config.learning_rate)?)?;
    param.set(&moved.detach())
}

/// The numbers of a step in an element type.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<T> {
    rate: T,
    momentum: T,
    share: T, // 1 − τ
    decay: T,
    taken: Taken<T>,
}

impl<T: Real> Numbers<T> {
    fn new(config: &Sgd, gradient: &Gradient<'_>) -> Self {
        Self {
            rate: T::from_f64(config.learning_rate),
            momentum: T::from_f64(config.momentum),
            share: T::from_f64(1.0 - config.dampening),
            decay: T::from_f64(config.weight_decay),
            taken: gradient.taken(),
        }
    }
}

vectorized! {
    fn plain<T: Real>(param: &mut [T], grad: &[T], by: Numbers<T>) {
        for (p, &g) in param.iter_mut().zip(grad) {
            *p = *p - by.rate * (by.taken.of(g) + by.decay * *p);
        }
    }
}

vectorized! {
    fn begin<T: Real>(velocity: &mut [T], grad: &[T], param: &[T], by: Numbers<T>) {
        for ((b, &g), &p) in velocity.iter_mut().zip(grad).zip(param) {
            *b = by.taken.of(g) + by.decay * p;
        }
    }
}

vectorized! {
    fn carry_on<T: Real>(velocity: &mut [T], grad: &[T], param: &[T], by: Numbers<T>) {
        for ((b, &g), &p) in velocity.iter_mut().zip(grad).zip(param) {
            *b = by.momentum * *b + by.share * (by.taken.of(g) + by.decay * p);
        }
    }
}

vectorized! {
    fn along<T: Real>(param: &mut [T], velocity: &[T], by: Numbers<T>) {
        for (p, &b) in param.iter_mut().zip(velocity) {
            *p = *p - by.rate * b;
        }
    }
}

vectorized! {
    fn ahead<T: Real>(param: &mut [T], velocity: &[T], grad: &[T], by: Numbers<T>) {
        for ((p, &b), &g) in param.iter_mut().zip(velocity).zip(grad) {
            *p = *p - by.rate * (by.taken.of(g) + by.decay * *p + by.momentum * b);
        }
    }
}

/// The elements of a contiguous tensor, to write.
fn elements<'a, T: Real>(storage: &'a mut CpuStorage, at: &Layout) -> Result<&'a mut [T]> {
    let start = at.start_offset();
    Ok(&mut T::slice_mut(storage)?[start..start + at.shape().elem_count()])
}

/// A step without momentum.
struct Plain<'a> {
    config: Sgd,
    gradient: Gradient<'a>,
}

impl InplaceOp2 for Plain<'_> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        at: &Layout,
        grad: &CpuStorage,
        grad_at: &Layout,
    ) -> Result<()> {
        with_real!(param.dtype(), self.name(), T => {
            let grad = contiguous(self.name(), <T as Real>::slice(grad)?, grad_at)?;
            let (param, by) = (elements::<T>(param, at)?, Numbers::new(&self.config, &self.gradient));
            let piece = piece(grad.len());
            let pieces = param.par_chunks_mut(piece).zip(grad.par_chunks(piece));
            if piece >= grad.len() { plain(param, grad, by) } else { pieces.for_each(|(p, g)| plain(p, g, by)) }
            Ok(())
        })
    }
}

/// b ← μb + (1 − τ)(g + λp).
struct Velocity<'a> {
    config: Sgd,
    gradient: Gradient<'a>,
    first: bool,
}

impl InplaceOp3 for Velocity<'_> {
    fn name(&self) -> &'static str {
        "sgd_velocity"
    }

    fn cpu_fwd(
        &self,
        velocity: &mut CpuStorage,
        at: &Layout,
        grad: &CpuStorage,
        grad_at: &Layout,
        param: &CpuStorage,
        param_at: &Layout,
    ) -> Result<()> {
        with_real!(velocity.dtype(), self.name(), T => {
            let grad = contiguous(self.name(), <T as Real>::slice(grad)?, grad_at)?;
            let param = contiguous(self.name(), <T as Real>::slice(param)?, param_at)?;
            let (velocity, by) = (elements::<T>(velocity, at)?, Numbers::new(&self.config, &self.gradient));
            let run = |velocity: &mut [T], grad: &[T], param: &[T]| match self.first {
                true => begin(velocity, grad, param, by),
                false => carry_on(velocity, grad, param, by),
            };
            let piece = piece(grad.len());
            if piece >= grad.len() {
                run(velocity, grad, param);
            } else {
                let pieces = velocity.par_chunks_mut(piece).zip(grad.par_chunks(piece));
                pieces.zip(param.par_chunks(piece)).for_each(|((velocity, grad), param)| run(velocity, grad, param));
            }
            Ok(())
        })
    }
}

/// p ← p − ηb, or p − η(g + λp + μb).
struct Along<'a> {
    config: Sgd,
    gradient: Gradient<'a>,
}

impl InplaceOp3 for Along<'_> {
    fn name(&self) -> &'static str {
        "sgd_along"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        at: &Layout,
        velocity: &CpuStorage,
        velocity_at: &Layout,
        grad: &CpuStorage,
        grad_at: &Layout,
    ) -> Result<()> {
        with_real!(param.dtype(), self.name(), T => {
            let velocity = contiguous(self.name(), <T as Real>::slice(velocity)?, velocity_at)?;
            let grad = contiguous(self.name(), <T as Real>::slice(grad)?, grad_at)?;
            let (param, by) = (elements::<T>(param, at)?, Numbers::new(&self.config, &self.gradient));
            let run = |param: &mut [T], velocity: &[T], grad: &[T]| match self.config.nesterov {
                true => ahead(param, velocity, grad, by),
                false => along(param, velocity, by),
            };
            let piece = piece(grad.len());
            if piece >= grad.len() {
                run(param, velocity, grad);
            } else {
                let pieces = param.par_chunks_mut(piece).zip(velocity.par_chunks(piece));
                pieces.zip(grad.par_chunks(piece)).for_each(|((param, velocity), grad)| run(param, velocity, grad));
            }
            Ok(())
        })
    }
}
