//! The generator contract: a convex function φ with its gradient in closed form.
//!
//! **∇φ is built from ordinary differentiable tensor operations**, for networks the hand-derived reverse pass
//! written as forward operations. A loss that contains ∇φ then needs one first-order `backward()`, and its
//! gradients with respect to inputs and parameters are exact. Differentiating a gradient through a second
//! `backward()` is never done: candle detaches gradients and would return wrong numbers without an error.

use candle_core::{D, DType, Tensor, Var};
use dml_kernels::matmul;

use crate::tensor::{check_pivot, widened};
use crate::{Domain, Error, Result};

/// A learned parameter: its name, unique within the generator, and the variable the optimizer updates.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The name, as it appears in a parameter file, e.g. `W0` or `icnn.W0` inside a composite.
    pub name: String,
    /// The variable. Clones share storage, so an update is seen by the generator.
    pub var: Var,
}

impl Parameter {
    /// A parameter named `name`.
    pub fn new(name: impl Into<String>, var: &Var) -> Self {
        Self { name: name.into(), var: var.clone() }
    }
}

/// A convex generator φ on a convex set C ⊆ ℝᵈ.
///
/// Members differ in [`domain`](Self::domain), [`value_and_grad`](Self::value_and_grad) and, where numbers
/// would cancel, [`centered`](Self::centered) and [`divergence`](Self::divergence); everything else has a default.
///
/// Points may be f64 where the parameters are f32: all is then computed in f64.
pub trait Generator: std::fmt::Debug + Send + Sync {
    /// C, where ∇φ exists: what the second argument of a divergence takes. Rows outside it are an error that names row
    /// and value, never NaN.
    fn domain(&self) -> Domain;

    /// Where φ is finite: what the first argument of a divergence takes. That of the entropies includes the border of
    /// C, since 0·log 0 = 0. C itself by default.
    fn closure(&self) -> Domain {
        self.domain()
    }

    /// φ and ∇φ row by row: `[n, d]` → (`[n]`, `[n, d]`), ∇φ in closed form out of differentiable operations.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Domain`] as [`check`](Self::check) gives them.
    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)>;

    /// φ row by row: `[n, d]` → `[n]`.
    ///
    /// # Errors
    /// As [`value_and_grad`](Self::value_and_grad).
    fn value(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.value_and_grad(x)?.0)
    }

    /// φ less its tangent plane at the pivot μ: φ_μ(x) = D_φ(x ‖ μ) and ∇φ_μ(x) = ∇φ(x) − ∇φ(μ),
    /// `x` `[n, d]`, `pivot` `[1, d]` → (`[n]`, `[n, d]`).
    ///
    /// φ_μ differs from φ by an affine function and so generates the same divergence, but its numbers are of
    /// the size of the divergences among points near μ. Generators whose φ grows with the distance from the
    /// origin override this so that no digit is lost, however far the points lie from it.
    ///
    /// The divergence does not depend on μ, so `pivot` should carry no gradient (detach it).
    ///
    /// # Errors
    /// As [`value_and_grad`](Self::value_and_grad).
    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("centered", x, pivot)?;
        let (value_x, grad_x) = self.value_and_grad(x)?; // [n], [n, d]
        let (value_p, grad_p) = self.value_and_grad(pivot)?; // [1], [1, d]
        let shift = x.broadcast_sub(pivot)?; // [n, d]
        let tangent = matmul(&shift, &grad_p.t()?)?.squeeze(1)?; // [n]
        let value = (value_x.broadcast_sub(&value_p)? - tangent)?;
        Ok((value, grad_x.broadcast_sub(&grad_p)?))
    }

    /// D_φ(x ‖ y) row by row, given the difference `step` = x − y too: `x`, `y` and `step` `[n, d]` → `[n]`, in their dtype;
    /// non-negative, and to the relative precision of `step`, in value and gradient, however small the step is beside
    /// the points and D beside φ.
    ///
    /// For that it is a sum of non-negative terms that are functions of differences. The chain rule of Bregman
    /// divergences makes one of what φ is composed of: for g convex and non-decreasing in each argument and w_k convex,
    /// D_{g∘w}(x ‖ y) = D_g(w(x) ‖ w(y)) + Σ_k ∂_k g(w(y))·D_{w_k}(x ‖ y). The default is the definition in f64, which
    /// keeps half of the digits where D is 1e-8 of φ: override it.
    ///
    /// `x` lies in [`closure`](Self::closure) and `y` in [`domain`](Self::domain); rows of `y` on the border of it give
    /// ∞ or, where D has a limit, that. `step` is a node of the graph made of `x` and `y`: an implementation may use
    /// any two of the three.
    ///
    /// # Errors
    /// As [`value_and_grad`](Self::value_and_grad).
    /// # Examples
    /// ```
    /// # use {candle_core::{Device, Tensor}, phi::{Generator, LogSumExp}};
    /// let y = Tensor::new(&[[0f32, 0.]], &Device::Cpu)?;
    /// let x = Tensor::new(&[[1e-6f32, -1e-6]], &Device::Cpu)?;
    /// let d = LogSumExp.divergence(&x, &y, &(&x - &y)?)?.to_vec1::<f32>()?[0]; // half the variance of the step
    /// assert!((d / 5e-13 - 1.0).abs() < 1e-5);
    /// # Ok::<(), phi::Error>(())
    /// ```
    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let (value_x, (value_y, grad_y)) = (self.value(&widened(x)?)?, self.value_and_grad(&widened(y)?)?);
        let tangent = (grad_y * widened(step)?)?.sum(D::Minus1)?;
        Ok(((value_x - value_y)? - tangent)?.relu()?.to_dtype(x.dtype())?)
    }

    /// The dimension d, or `None` where any will do.
    fn dim(&self) -> Option<usize> {
        None
    }

    /// The modulus of strong convexity in the Euclidean norm: the largest known m with
    /// D_φ(x ‖ y) ≥ m/2·‖x − y‖² on all of C. Zero where there is none.
    ///
    /// # Errors
    /// When the parameters it is computed from cannot be read.
    fn strong_convexity(&self) -> Result<f64> {
        Ok(0.0)
    }

    /// ∇φ*(g) = (∇φ)⁻¹(g) row by row, `[n, d]` → `[n, d]`, where it has a closed form; `None` elsewhere
    /// (`bregman::dual` then solves for it).
    ///
    /// # Errors
    /// [`Error::Domain`] when a row of `g` is no gradient of φ.
    fn grad_conjugate(&self, g: &Tensor) -> Result<Option<Tensor>> {
        let _ = g;
        Ok(None)
    }

    /// The learned parameters, in a fixed order.
    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    /// Checks at the public door: `x` is `[n, d]`, not empty, of the right dimension, each row in C.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`] or [`Error::Domain`].
    fn check(&self, op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
        self.check_in(self.domain(), op, arg, x)
    }

    /// As [`check`](Self::check) for a set other than C, such as the [`closure`](Self::closure).
    ///
    /// # Errors
    /// As [`check`](Self::check).
    fn check_in(&self, domain: Domain, op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
        if let Some(dim) = self.dim()
            && (x.rank() != 2 || x.dims()[1] != dim)
        {
            let expected = format!("[n, {dim}]");
            return Err(Error::Shape { op, arg, got: x.dims().to_vec(), expected });
        }
        if let Some(parameter) = self.parameters().first()
            && parameter.var.dtype() != x.dtype()
            && x.dtype() != DType::F64
        {
            return Err(Error::DType { op, arg, got: x.dtype(), expected: parameter.var.dtype() });
        }
        domain.check(op, arg, x)
    }
}
