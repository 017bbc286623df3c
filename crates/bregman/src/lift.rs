//! Retrieval form: the ranking of a gallery by D(q ‖ ·) or D(· ‖ q) is a ranking by inner products.
//!
//! With x̃ = x − μ and φ_μ as in [`mean_pivot`](crate::mean_pivot), for a fixed query q
//!
//! - D(q ‖ g) = φ_μ(q) − ⟨[q̃, 1], [∇φ_μ(g), φ_μ(g) − ⟨∇φ_μ(g), g̃⟩]⟩
//! - D(g ‖ q) = ⟨∇φ_μ(q), q̃⟩ − φ_μ(q) − ⟨[∇φ_μ(q), 1], [g̃, −φ_μ(g)]⟩
//!
//! so any engine for maximum inner products serves a learned divergence without knowing it
//! (Cayton 2008, for the geometry of such searches). A generator that is [`phi::Factored`] brings vectors of its own.

use candle_core::Tensor;
use dml_kernels::matmul;
use phi::Generator;

use crate::{
    Error, Result, Side,
    clamp::clamp,
    error::{check_partner, check_points},
    factored::factors,
    mean_pivot,
    pivot::{Evaluated, check_finite},
};

/// Vectors of d+1 numbers whose inner products rank as the divergence does.
///
/// For a generator that is [`phi::Factored`], such as a maximum of affine functions, they are its factors: r numbers,
/// on the CPU in f64.
///
/// Queries and gallery must be lifted around the same pivot and with the same side. A larger inner product is a
/// nearer item: D(query i, item j) = offset_i − ⟨q̂_i, ĝ_j⟩.
///
/// # Examples
/// ```
/// # use {bregman::{Lift, Side, mean_pivot}, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let gallery = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
/// let query = Tensor::new(&[[3f32, 3.]], &Device::Cpu)?;
/// let lift = Lift::new(&SquaredEuclidean, &mean_pivot(&SquaredEuclidean, &gallery)?, Side::First)?;
/// let scores = lift.queries(&query)?.matmul(&lift.gallery(&gallery)?.t()?)?; // [1, 2], larger is nearer
/// assert_eq!(scores.argmax(1)?.to_vec1::<u32>()?, [1]);
/// assert_eq!(lift.divergences(&query, &gallery)?.to_vec2::<f32>()?, [[18., 1.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lift<'a> {
    phi: &'a dyn Generator,
    pivot: Tensor, // [1, d], in the domain
    query: Side,
}

impl<'a> Lift<'a> {
    /// A lift around `pivot` `[1, d]` (best the [`mean_pivot`] of the gallery) with the query on side `query`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `pivot` is not one row, [`phi::Error::Domain`] when it lies outside the domain.
    pub fn new(phi: &'a dyn Generator, pivot: &Tensor, query: Side) -> Result<Self> {
        if pivot.rank() != 2 || pivot.dims()[0] != 1 {
            let expected = "[1, d]".to_owned();
            return Err(Error::Shape { op: "Lift::new", arg: "pivot", got: pivot.dims().to_vec(), expected });
        }
        check_points("Lift::new", "pivot", phi, pivot)?;
        Ok(Self { phi, pivot: pivot.detach(), query })
    }

    /// A lift around the mean of `gallery` `[m, d]`.
    ///
    /// # Errors
    /// As [`mean_pivot`].
    pub fn around(phi: &'a dyn Generator, gallery: &Tensor, query: Side) -> Result<Self> {
        Ok(Self { phi, pivot: mean_pivot(phi, gallery)?, query })
    }

    /// The side the queries take.
    pub fn query_side(&self) -> Side {
        self.query
    }

    /// The pivot μ, `[1, d]`: store it with a gallery that outlives the process.
    pub fn pivot(&self) -> &Tensor {
        &self.pivot
    }

    /// q̂: `[n, d]` → `[n, d+1]`.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs).
    pub fn queries(&self, q: &Tensor) -> Result<Tensor> {
        Ok(self.lift("Lift::queries", "q", q)?.0)
    }

    /// ĝ: `[m, d]` → `[m, d+1]`.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs).
    pub fn gallery(&self, g: &Tensor) -> Result<Tensor> {
        let (op, arg) = ("Lift::gallery", "g");
        match self.factors(op, arg, g, self.query.flip())? {
            Some(items) => Ok(items),
            None => self.lift_gallery(&self.evaluate(op, arg, g)?),
        }
    }

    /// What turns scores back into divergences: `[n, d]` → `[n]`.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs).
    pub fn offset(&self, q: &Tensor) -> Result<Tensor> {
        Ok(self.lift("Lift::offset", "q", q)?.1)
    }

    /// q̂ and its offset with φ evaluated once: `[n, d]` → (`[n, d+1]`, `[n]`).
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs).
    pub fn queries_and_offset(&self, q: &Tensor) -> Result<(Tensor, Tensor)> {
        self.lift("Lift::queries_and_offset", "q", q)
    }

    /// max(0, offset_i − ⟨q̂_i, ĝ_j⟩): `q` `[n, d]`, `g` `[m, d]` → `[n, m]`.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs).
    pub fn divergences(&self, q: &Tensor, g: &Tensor) -> Result<Tensor> {
        let (q, offset) = self.queries_and_offset(q)?; // [n, d+1], [n]
        let scores = matmul(&q, &self.gallery(g)?.t()?)?; // [n, m]
        let divergences = offset.unsqueeze(1)?.broadcast_sub(&scores)?.to_dtype(g.dtype())?;
        check_finite("Lift::divergences", "q", "D", &divergences)?;
        clamp(&divergences, false)
    }

    /// The generator's own factors for points on `side`, where it has some.
    fn factors(&self, op: &'static str, arg: &'static str, x: &Tensor, side: Side) -> Result<Option<Tensor>> {
        let Some(phi) = self.phi.factored() else { return Ok(None) };
        self.check(op, arg, x)?;
        let factors = factors(op, arg, phi, x, &self.pivot)?;
        Ok(Some(match side {
            Side::First => factors.first,
            Side::Second => factors.second,
        }))
    }

    fn check(&self, op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
        check_points(op, arg, self.phi, x)?;
        check_partner(op, arg, &self.pivot, x, false)
    }

    fn evaluate(&self, op: &'static str, arg: &'static str, x: &Tensor) -> Result<Evaluated> {
        self.check(op, arg, x)?;
        Evaluated::new(op, arg, self.phi, x, &self.pivot)
    }

    /// q̂ and its offset.
    fn lift(&self, op: &'static str, arg: &'static str, q: &Tensor) -> Result<(Tensor, Tensor)> {
        if let Some(factors) = self.factors(op, arg, q, self.query)? {
            let offset = Tensor::zeros(factors.dims()[0], factors.dtype(), factors.device())?;
            return Ok((factors.neg()?, offset));
        }
        let q = self.evaluate(op, arg, q)?;
        Ok((self.lift_queries(&q)?, self.lift_offset(&q)?))
    }

    fn lift_queries(&self, q: &Evaluated) -> Result<Tensor> {
        let head = match self.query {
            Side::First => &q.shifted,
            Side::Second => &q.grad,
        };
        let ones = q.value.ones_like()?.detach().unsqueeze(1)?;
        Ok(Tensor::cat(&[&head.contiguous()?, &ones], 1)?)
    }

    fn lift_gallery(&self, g: &Evaluated) -> Result<Tensor> {
        let (head, last) = match self.query {
            Side::First => (&g.grad, (&g.value - g.tangent()?)?),
            Side::Second => (&g.shifted, g.value.neg()?),
        };
        Ok(Tensor::cat(&[&head.contiguous()?, &last.unsqueeze(1)?], 1)?)
    }

    fn lift_offset(&self, q: &Evaluated) -> Result<Tensor> {
        match self.query {
            Side::First => Ok(q.value.clone()),
            Side::Second => Ok((q.tangent()? - &q.value)?),
        }
    }
}
