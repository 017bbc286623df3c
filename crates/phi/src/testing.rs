//! For tests here and in other crates: every generator with parameters far from their start, points in its
//! domain, and finite differences. In f64 on the CPU.

use candle_core::{D, DType, Device, Tensor, Var};

use crate::tensor::{Draw, host};
use crate::{
    Activation, DeepDivergenceConfig, Domain, EmpiricalBregmanConfig, Factor, Generator, IcnnConfig,
    MahalanobisConfig, MaxAffineConfig, Result, SeparableConfig, Spec,
};

/// A generator with a name for messages.
#[derive(Debug)]
pub struct Named {
    /// What a failing test prints.
    pub name: &'static str,
    /// What it is made from.
    pub spec: Spec,
    /// Whether ∇φ is continuous, so that finite differences of it mean something everywhere.
    pub smooth: bool,
    /// The generator, parameters pushed far from their initial values.
    pub phi: Box<dyn Generator>,
}

/// The specs of [`every_generator`], with their names and whether they are smooth.
fn specs(d: usize) -> Vec<(&'static str, bool, Spec)> {
    let icnn = IcnnConfig { widths: vec![6, 5], ..Default::default() };
    let separable = SeparableConfig { units: 4, ..Default::default() };
    let low_rank = MahalanobisConfig { factor: Factor::Dense { rank: d.div_ceil(2) }, epsilon: 0.2 };
    let affine = MaxAffineConfig { pieces: 5, temperature: None };
    let deep = DeepDivergenceConfig { subnetworks: 3, widths: vec![4], ..Default::default() };
    let both = EmpiricalBregmanConfig {
        separable: Some(SeparableConfig { curvature: 0.0, ..separable.clone() }),
        icnn: Some(IcnnConfig { curvature: 0.0, ..icnn.clone() }),
        curvature: 0.1,
    };
    let boxed = |spec: &Spec| Box::new(spec.clone());
    let (icnn_spec, lse) = (Spec::Icnn(icnn.clone()), Spec::LogSumExp);
    vec![
        ("squared_euclidean", true, Spec::SquaredEuclidean),
        ("mahalanobis", true, Spec::Mahalanobis(MahalanobisConfig::default())),
        ("mahalanobis_low_rank", true, Spec::Mahalanobis(low_rank)),
        ("negative_entropy_orthant", true, Spec::NegativeEntropyOrthant),
        ("negative_entropy_simplex", true, Spec::NegativeEntropySimplex),
        ("itakura_saito", true, Spec::ItakuraSaito),
        ("log_sum_exp", true, Spec::LogSumExp),
        ("p_norm", true, Spec::PNorm { p: 1.5 }),
        ("max_affine", false, Spec::MaxAffine(affine)),
        ("max_affine_smooth", true, Spec::MaxAffine(MaxAffineConfig { temperature: Some(0.5), ..affine })),
        ("deep_divergence", false, Spec::DeepDivergence(deep)),
        ("separable", true, Spec::Separable(separable)),
        ("icnn", true, icnn_spec.clone()),
        ("icnn_one_layer", true, Spec::Icnn(IcnnConfig { widths: vec![7], ..icnn.clone() })),
        (
            "icnn_squareplus",
            true,
            Spec::Icnn(IcnnConfig { widths: vec![4, 3, 4], activation: Activation::Squareplus, ..icnn }),
        ),
        ("empirical_bregman", true, Spec::EmpiricalBregman(both)),
        ("sum", true, Spec::Sum { parts: vec![icnn_spec.clone(), Spec::SquaredEuclidean] }),
        ("sum_on_the_orthant", true, Spec::Sum { parts: vec![Spec::ItakuraSaito, icnn_spec.clone()] }),
        ("scaled", true, Spec::Scaled { scale: 0.3, inner: boxed(&Spec::SquaredEuclidean) }),
        ("affine_input", true, Spec::AffineInput { inner_dim: d + 1, inner: boxed(&lse) }),
        ("even", true, Spec::Even { inner: boxed(&icnn_spec) }),
    ]
}

/// Every generator of this crate on ℝᵈ, parameters pushed far from their initial values: the same for the same
/// seed.
///
/// # Errors
/// When a generator cannot be built, which is what the test then reports.
/// # Examples
/// ```
/// for phi::testing::Named { name, phi, .. } in phi::testing::every_generator(3, 1)? {
///     let x = phi::testing::points(&*phi, 2, 5, 3)?;
///     assert_eq!(phi.value(&x)?.dims(), [5], "{name}");
/// }
/// # Ok::<(), phi::Error>(())
/// ```
pub fn every_generator(d: usize, seed: u64) -> Result<Vec<Named>> {
    let all = (0u64..).zip(specs(d)).map(|(i, (name, smooth, spec))| {
        let phi = spec.build(d, seed.wrapping_add(i), DType::F64, &Device::Cpu)?;
        push_far(&*phi, !seed ^ i)?;
        Ok(Named { name, spec, smooth, phi })
    });
    all.collect()
}

/// Adds 0.7 times a standard normal number to every entry of every parameter.
///
/// # Errors
/// When the tensor operation fails.
pub fn push_far(phi: &dyn Generator, seed: u64) -> Result<()> {
    let mut draw = Draw::new(seed);
    for p in phi.parameters() {
        let push =
            draw.var(p.var.dims(), (p.var.dtype(), p.var.device()), |r| 0.7 * r.normal())?.into_inner();
        p.var.set(&(p.var.as_tensor() + push)?.detach())?;
    }
    Ok(())
}

/// `n` random points in the domain of `phi`, `[n, d]` in f64: normal on ℝᵈ, log-normal on the orthant, their
/// shares on the simplex.
///
/// # Errors
/// When the tensor operation fails.
pub fn points(phi: &dyn Generator, seed: u64, n: usize, d: usize) -> Result<Tensor> {
    let free = Draw::new(seed).var(&[n, d], (DType::F64, &Device::Cpu), Draw::normal)?;
    into_domain(phi.domain(), free.as_tensor())
}

/// A differentiable map of ℝᵈ onto a domain, row by row: x itself, eˣ, or the softmax of x.
///
/// # Errors
/// When the tensor operation fails.
pub fn into_domain(domain: Domain, free: &Tensor) -> Result<Tensor> {
    Ok(match domain {
        Domain::Reals => free.clone(),
        Domain::PositiveOrthant | Domain::NonNegativeOrthant => (free * 0.6)?.exp()?,
        Domain::Simplex | Domain::ClosedSimplex => {
            let e = free.exp()?;
            e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?
        }
    })
}

/// The gradient of `f` at `x` by central differences of step `h`, the shape of `x`.
///
/// # Errors
/// What `f` returns.
/// # Examples
/// ```
/// # use candle_core::{Device, Error, Tensor};
/// let x = Tensor::new(&[1.0, 2.0], &Device::Cpu)?;
/// let g = phi::testing::numeric_gradient(&x, 1e-5, |x| x.sqr()?.sum_all()?.to_scalar::<f64>())?;
/// assert!((g.to_vec1::<f64>()?[1] - 4.0).abs() < 1e-9);
/// # Ok::<(), Error>(())
/// ```
pub fn numeric_gradient<E: From<candle_core::Error>>(
    x: &Tensor,
    h: f64,
    mut f: impl FnMut(&Tensor) -> std::result::Result<f64, E>,
) -> std::result::Result<Tensor, E> {
    let start = x.flatten_all()?.to_vec1::<f64>()?;
    let mut gradient = Vec::with_capacity(start.len());
    for i in 0..start.len() {
        let mut at = |offset: f64| -> std::result::Result<f64, E> {
            let mut moved = start.clone();
            moved[i] += offset;
            f(&Tensor::from_vec(moved, x.shape(), x.device())?)
        };
        gradient.push((at(h)? - at(-h)?) / (2.0 * h));
    }
    Ok(Tensor::from_vec(gradient, x.shape(), x.device())?)
}

/// The gradient of `f` with respect to a variable it reads, by central differences of step `h`; the variable
/// ends as it was.
///
/// # Errors
/// What `f` returns; the variable is then left wherever the failing evaluation put it.
pub fn numeric_parameter_gradient<E: From<candle_core::Error>>(
    var: &Var,
    h: f64,
    mut f: impl FnMut() -> std::result::Result<f64, E>,
) -> std::result::Result<Tensor, E> {
    let start = var.as_tensor().detach().copy()?;
    let gradient = numeric_gradient(&start, h, |moved| {
        var.set(moved)?;
        f()
    })?;
    var.set(&start)?;
    Ok(gradient)
}

/// The largest |a − b| as a share of the larger of max|b| and `floor`.
///
/// # Errors
/// When the tensor operation fails, say because shapes disagree.
pub fn relative_error(a: &Tensor, b: &Tensor, floor: f64) -> Result<f64> {
    let largest = |t: &Tensor| -> Result<f64> { Ok(host(t)?.into_iter().map(f64::abs).fold(0.0, nan_max)) };
    Ok(largest(&(a - b)?)? / largest(b)?.max(floor))
}

/// The maximum, NaN if either is.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}
