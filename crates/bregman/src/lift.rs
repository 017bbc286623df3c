//! Retrieval form: the ranking of a gallery by D(q ‖ ·) or D(· ‖ q) is a ranking by inner products.
//!
//! With x̃ = x − μ and φ_μ as in [`pivot`](crate::pivot()), for a fixed query q
//!
//! - D(q ‖ g) = φ_μ(q) − ⟨[q̃, 1], [∇φ_μ(g), φ_μ(g) − ⟨∇φ_μ(g), g̃⟩]⟩
//! - D(g ‖ q) = ⟨∇φ_μ(q), q̃⟩ − φ_μ(q) − ⟨[∇φ_μ(q), 1], [g̃, −φ_μ(g)]⟩
//!
//! so any engine for maximum inner products serves a learned divergence without knowing it
//! (Cayton 2008, for the geometry of such searches).

use candle_core::Tensor;
use phi::Generator;

use crate::{
    Error, Result, Side,
    error::{check_partner, check_points},
    pivot::{self, Evaluated, check_finite},
};

/// Vectors of d+1 numbers whose inner products rank as the divergence does.
///
/// An inner product is rounded like any other, and of two items that are much nearer to each other than to the pivot an
/// engine may take the wrong one: ask it for a few more and order them by [`Side::paired`], or keep f64.
///
/// Queries and gallery must be lifted around the same pivot and with the same side. A larger inner product is a
/// nearer item: D(query i, item j) = offset_i − ⟨q̂_i, ĝ_j⟩.
///
/// # Examples
/// ```
/// # use {bregman::{Lift, Side, pivot}, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let gallery = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
/// let query = Tensor::new(&[[3f32, 3.]], &Device::Cpu)?;
/// let lift = Lift::new(&SquaredEuclidean, &pivot(&SquaredEuclidean, &gallery)?, Side::First)?;
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
    /// A lift around `pivot` `[1, d]` (best the [`pivot`](crate::pivot()) of the gallery) with the query on side `query`.
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

    /// A lift around a point amid `gallery` `[m, d]`.
    ///
    /// # Errors
    /// As [`pivot`](crate::pivot()).
    pub fn around(phi: &'a dyn Generator, gallery: &Tensor, query: Side) -> Result<Self> {
        Ok(Self { phi, pivot: pivot::pivot(phi, gallery)?, query })
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
        self.lift_gallery(&self.evaluate("Lift::gallery", "g", g)?)
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

    /// What offset_i − ⟨q̂_i, ĝ_j⟩ would be without rounding, as [`Side::all_pairs`] has it: `q` `[n, d]`, `g` `[m, d]` →
    /// `[n, m]`.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs).
    pub fn divergences(&self, q: &Tensor, g: &Tensor) -> Result<Tensor> {
        self.query.all_pairs(self.phi, q, g)
    }

    fn evaluate(&self, op: &'static str, arg: &'static str, x: &Tensor) -> Result<Evaluated> {
        check_points(op, arg, self.phi, x)?;
        check_partner(op, arg, &self.pivot, x, false)?;
        let points = Evaluated::new(self.phi, x, &self.pivot)?;
        check_finite(op, arg, "φ", &points.value)?;
        check_finite(op, arg, "∇φ", &points.grad)?;
        Ok(points)
    }

    /// q̂ and its offset.
    fn lift(&self, op: &'static str, arg: &'static str, q: &Tensor) -> Result<(Tensor, Tensor)> {
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
