//! New generators from old: sums, positive multiples, affine precomposition φ(Ax + b), and the even part.

use candle_core::{DType, Device, Tensor, Var};
use dml_kernels::matmul;

use crate::tensor::{Draw, affine, check_pivot, constant_var, parameter, require, rounded_once, shift};
use crate::{Domain, Error, Generator, Parameter, Result};

fn prefixed(prefix: &str, phi: &dyn Generator) -> Vec<Parameter> {
    let named = |p: Parameter| Parameter::new(format!("{prefix}.{}", p.name), &p.var);
    phi.parameters().into_iter().map(named).collect()
}

/// φ(x) = Σ_i φ_i(x) on the smallest of the parts' domains; parameters carry the prefixes `0.`, `1.`, ….
///
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Generator, Scaled, SquaredEuclidean, Sum}};
/// let half = Scaled::new(0.5, Box::new(SquaredEuclidean))?;
/// let phi = Sum::new(vec![Box::new(half), Box::new(SquaredEuclidean)])?;
/// assert_eq!(phi.value(&Tensor::new(&[[2.0]], &Device::Cpu)?)?.to_vec1::<f64>()?, [6.0]);
/// assert_eq!(phi.strong_convexity()?, 3.0);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug)]
pub struct Sum {
    parts: Vec<Box<dyn Generator>>, // never empty
    domain: Domain,
    closure: Domain,
    dim: Option<usize>,
}

impl Sum {
    /// The sum of the given parts.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none, or two of them have different dimensions.
    pub fn new(parts: Vec<Box<dyn Generator>>) -> Result<Self> {
        require(!parts.is_empty(), "Sum", "parts", 0, "at least one generator")?;
        let dims: Vec<usize> = parts.iter().filter_map(|p| p.dim()).collect();
        let agree = dims.windows(2).all(|w| w[0] == w[1]);
        require(agree, "Sum", "parts", format_args!("of dimensions {dims:?}"), "parts of one dimension")?;
        let common = |domain: fn(&dyn Generator) -> Domain| {
            parts.iter().map(|p| domain(&**p)).fold(Domain::Reals, Domain::intersection)
        };
        let (domain, closure) = (common(|p| p.domain()), common(|p| p.closure()));
        Ok(Self { domain, closure, dim: dims.first().copied(), parts })
    }

    fn add(&self, part: impl Fn(&dyn Generator) -> Result<(Tensor, Tensor)>) -> Result<(Tensor, Tensor)> {
        let (mut value, mut grad) = part(&*self.parts[0])?;
        for phi in &self.parts[1..] {
            let (v, g) = part(&**phi)?;
            (value, grad) = ((value + v)?, (grad + g)?);
        }
        Ok((value, grad))
    }
}

impl Generator for Sum {
    fn domain(&self) -> Domain {
        self.domain
    }

    fn closure(&self) -> Domain {
        self.closure
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        self.check("Sum", "x", x)?;
        let mut value = self.parts[0].value(x)?;
        for phi in &self.parts[1..] {
            value = (value + phi.value(x)?)?;
        }
        Ok(value)
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check("Sum", "x", x)?;
        self.add(|phi| phi.value_and_grad(x))
    }

    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("Sum::centered", x, pivot)?;
        self.check_in(self.closure, "Sum::centered", "x", x)?;
        self.add(|phi| phi.centered(x, pivot))
    }

    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let first = self.parts[0].divergence(x, y, step)?;
        self.parts[1..].iter().try_fold(first, |sum, phi| Ok((sum + phi.divergence(x, y, step)?)?))
    }

    fn dim(&self) -> Option<usize> {
        self.dim
    }

    fn strong_convexity(&self) -> Result<f64> {
        self.parts.iter().try_fold(0.0, |sum, phi| Ok(sum + phi.strong_convexity()?))
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.parts.iter().enumerate().flat_map(|(i, phi)| prefixed(&i.to_string(), &**phi)).collect()
    }
}

/// φ(x) = t·ψ(x), t > 0; parameters are those of ψ.
///
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Generator, Scaled, SquaredEuclidean}};
/// let phi = Scaled::new(0.5, Box::new(SquaredEuclidean))?;
/// assert_eq!(phi.value(&Tensor::new(&[[2.0]], &Device::Cpu)?)?.to_vec1::<f64>()?, [2.0]);
/// let error = Scaled::new(-1.0, Box::new(SquaredEuclidean)).unwrap_err();
/// assert_eq!(error.to_string(), "Scaled: `scale` is -1.0, expected a finite number > 0");
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug)]
pub struct Scaled {
    scale: f64,
    inner: Box<dyn Generator>,
}

impl Scaled {
    /// `scale` times the generator.
    ///
    /// # Errors
    /// [`Error::Config`] unless `scale` is finite and positive.
    pub fn new(scale: f64, inner: Box<dyn Generator>) -> Result<Self> {
        require(scale.is_finite() && scale > 0.0, "Scaled", "scale", scale, "a finite number > 0")?;
        Ok(Self { scale, inner })
    }

    fn times(&self, (value, grad): (Tensor, Tensor)) -> Result<(Tensor, Tensor)> {
        Ok(((value * self.scale)?, (grad * self.scale)?))
    }
}

impl Generator for Scaled {
    fn domain(&self) -> Domain {
        self.inner.domain()
    }

    fn closure(&self) -> Domain {
        self.inner.closure()
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        Ok((self.inner.value(x)? * self.scale)?)
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.times(self.inner.value_and_grad(x)?)
    }

    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        self.times(self.inner.centered(x, pivot)?)
    }

    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        Ok((self.inner.divergence(x, y, step)? * self.scale)?)
    }

    fn dim(&self) -> Option<usize> {
        self.inner.dim()
    }

    fn strong_convexity(&self) -> Result<f64> {
        Ok(self.inner.strong_convexity()? * self.scale)
    }

    fn grad_conjugate(&self, g: &Tensor) -> Result<Option<Tensor>> {
        self.inner.grad_conjugate(&(g * (1.0 / self.scale))?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.inner.parameters()
    }
}

/// φ(x) = ψ(Ax + b) with ψ on all of ℝᵐ; A and b are learned.
///
/// Parameters `A` `[m, d]`, `b` `[m]`, and those of ψ with the prefix `inner.`.
///
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{AffineInput, Generator, SquaredEuclidean}};
/// let (a, b) = (Tensor::new(&[[1.0, 1.0]], &Device::Cpu)?, Tensor::new(&[-3.0], &Device::Cpu)?);
/// let phi = AffineInput::from_parameters(&a, &b, Box::new(SquaredEuclidean))?;
/// let (value, grad) = phi.value_and_grad(&Tensor::new(&[[2.0, 3.0]], &Device::Cpu)?)?;
/// assert_eq!(value.to_vec1::<f64>()?, [4.0]); // (2 + 3 − 3)²
/// assert_eq!(grad.to_vec2::<f64>()?, [[4.0, 4.0]]);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug)]
pub struct AffineInput {
    weight: Var, // A, [m, d]
    bias: Var,   // b, [m]
    inner: Box<dyn Generator>,
}

const AFFINE: &str = "AffineInput";

impl AffineInput {
    /// A random map from `dim` to `inner_dim` dimensions that keeps squared lengths on average (entries of
    /// variance 1/m, b = 0; the identity where m = d).
    ///
    /// # Errors
    /// As [`from_parameters`](Self::from_parameters).
    pub fn new(
        dim: usize,
        inner_dim: usize,
        inner: Box<dyn Generator>,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        require(dim > 0, AFFINE, "dim", dim, "at least 1")?;
        require(inner_dim > 0, AFFINE, "inner_dim", inner_dim, "at least 1")?;
        let at = (dtype, device);
        let std = 1.0 / (inner_dim as f64).sqrt();
        let weight = if dim == inner_dim {
            Tensor::eye(dim, dtype, device)?
        } else {
            Draw::new(seed).var(&[inner_dim, dim], at, |r| r.normal() * std)?.into_inner()
        };
        let bias = constant_var(vec![0.0; inner_dim], &[inner_dim], at)?;
        Self::from_parameters(&weight, &bias, inner)
    }

    /// The map with given `A` `[m, d]` and `b` `[m]`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DType`] when the two do not fit each other or the inner generator,
    /// [`Error::Domain`] when they are not finite, [`Error::Config`] when ψ lives on a smaller domain than ℝᵐ.
    pub fn from_parameters(a: &Tensor, b: &Tensor, inner: Box<dyn Generator>) -> Result<Self> {
        const OP: &str = "AffineInput::from_parameters";
        let everywhere = inner.domain() == Domain::Reals;
        require(everywhere, AFFINE, "inner", &inner, "a generator on all of the finite reals")?;
        let shape = |expected: String| Error::Shape { op: OP, arg: "A", got: a.dims().to_vec(), expected };
        let (m, d) = a.dims2().map_err(|_| shape("[m, d]".to_owned()))?;
        if let Some(inner_dim) = inner.dim().filter(|&dim| dim != m) {
            return Err(shape(format!("[{inner_dim}, d], the rows the inner generator takes")));
        }
        let others = inner.parameters();
        let expected = others.first().map_or(a.dtype(), |p| p.var.dtype());
        for (arg, tensor) in [("A", a), ("b", b)] {
            if tensor.dtype() != expected {
                return Err(Error::DType { op: OP, arg, got: tensor.dtype(), expected });
            }
        }
        Ok(Self { weight: parameter(OP, "A", a, &[m, d])?, bias: parameter(OP, "b", b, &[m])?, inner })
    }
}

impl Generator for AffineInput {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        self.check(AFFINE, "x", x)?;
        self.inner.value(&affine(x, &self.weight, &self.bias)?)
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(AFFINE, "x", x)?;
        let (value, grad) = self.inner.value_and_grad(&affine(x, &self.weight, &self.bias)?)?;
        Ok((value, matmul(&grad, &self.weight.to_dtype(grad.dtype())?)?))
    }

    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        check_pivot("AffineInput::centered", x, pivot)?;
        self.check("AffineInput::centered", "x", x)?;
        // What the inner generator takes as a difference is A(x − μ), which rounding of the images would cover.
        rounded_once(x, pivot, |x, pivot| {
            let weight = self.weight.to_dtype(x.dtype())?;
            let image = affine(pivot, &self.weight, &self.bias)?; // of the pivot, [1, m]
            let moved = matmul(&shift(x, pivot)?, &weight.t()?)?; // [n, m]
            let (value, grad) = self.inner.centered(&moved.broadcast_add(&image)?, &image)?;
            Ok((value, matmul(&grad, &weight)?))
        })
    }

    /// D_ψ(Ay + b + A(x − y) ‖ Ay + b).
    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let moved = matmul(step, &self.weight.to_dtype(step.dtype())?.t()?)?; // [n, m]
        let image = |t: &Tensor| affine(t, &self.weight, &self.bias);
        self.inner.divergence(&image(x)?, &image(y)?, &moved)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.weight.dims()[1])
    }

    /// The inner modulus times the smallest eigenvalue of AᵀA.
    fn strong_convexity(&self) -> Result<f64> {
        let a = self.weight.detach().to_dtype(DType::F64)?;
        let gram = crate::tensor::host(&a.t()?.matmul(&a)?)?;
        let values = crate::linalg::eigenvalues(gram, a.dim(1)?);
        let smallest = values.into_iter().fold(f64::INFINITY, f64::min).max(0.0);
        Ok(self.inner.strong_convexity()? * smallest)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let own = [Parameter::new("A", &self.weight), Parameter::new("b", &self.bias)];
        own.into_iter().chain(prefixed("inner", &*self.inner)).collect()
    }
}

/// φ(x) = (ψ(x) + ψ(−x))/2, the even part of ψ: D(x ‖ y) = D(−x ‖ −y). Parameters are those of ψ.
///
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, phi::{Even, Generator, LogSumExp}};
/// let phi = Even::new(Box::new(LogSumExp))?;
/// let value = phi.value(&Tensor::new(&[[1.0, 2.0], [-1.0, -2.0]], &Device::Cpu)?)?.to_vec1::<f64>()?;
/// assert_eq!(value[0], value[1]);
/// # Ok::<(), phi::Error>(())
/// ```
#[derive(Debug)]
pub struct Even {
    inner: Box<dyn Generator>,
}

impl Even {
    /// The even part of a generator on all of ℝᵈ.
    ///
    /// # Errors
    /// [`Error::Config`] when ψ lives on a smaller domain.
    pub fn new(inner: Box<dyn Generator>) -> Result<Self> {
        let everywhere = inner.domain() == Domain::Reals;
        require(everywhere, "Even", "inner", &inner, "a generator on all of the finite reals")?;
        Ok(Self { inner })
    }

    fn halves(here: (Tensor, Tensor), there: (Tensor, Tensor)) -> Result<(Tensor, Tensor)> {
        Ok((((here.0 + there.0)? * 0.5)?, ((here.1 - there.1)? * 0.5)?))
    }
}

impl Generator for Even {
    fn domain(&self) -> Domain {
        Domain::Reals
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        Ok(((self.inner.value(x)? + self.inner.value(&x.neg()?)?)? * 0.5)?)
    }

    fn value_and_grad(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        Self::halves(self.inner.value_and_grad(x)?, self.inner.value_and_grad(&x.neg()?)?)
    }

    fn centered(&self, x: &Tensor, pivot: &Tensor) -> Result<(Tensor, Tensor)> {
        Self::halves(self.inner.centered(x, pivot)?, self.inner.centered(&x.neg()?, &pivot.neg()?)?)
    }

    fn divergence(&self, x: &Tensor, y: &Tensor, step: &Tensor) -> Result<Tensor> {
        let here = self.inner.divergence(x, y, step)?;
        let there = self.inner.divergence(&x.neg()?, &y.neg()?, &step.neg()?)?;
        Ok(((here + there)? * 0.5)?)
    }

    fn dim(&self) -> Option<usize> {
        self.inner.dim()
    }

    fn strong_convexity(&self) -> Result<f64> {
        self.inner.strong_convexity()
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.inner.parameters()
    }
}
