//! Similarities ⟨x, y⟩ and cos(x, y).

use candle_core::{D, Tensor};
use dml_kernels::{PairMatrix, Pairing, matmul};

use crate::{
    Distance, Result,
    distance::{both, by_kernel, check, check_powers},
    tensor::{normalize_rows, signed_power},
};

/// ⟨x, y⟩ᵉ, e the power, larger is closer, of rows that are first divided by their p-norm unless told otherwise.
///
/// p = 2, e = 1 and normalized rows by default, which is [`Cosine`]. Raw rows can make it as large as they like: add a
/// regularizer [`LpNorm`](crate::LpNorm).
///
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::{Distance, DotProduct}};
/// let x = Tensor::new(&[[1f32, 2.]], &Device::Cpu)?;
/// assert_eq!(DotProduct::raw().paired(&x, &x)?.to_vec1::<f32>()?, [5.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DotProduct {
    p: f64,
    power: f64,
    normalize_embeddings: bool,
}

impl Default for DotProduct {
    /// The inner product of L2-normalized rows.
    fn default() -> Self {
        Self { p: 2.0, power: 1.0, normalize_embeddings: true }
    }
}

impl DotProduct {
    /// ⟨x, y⟩ to the given power, of rows normalized in the p-norm or not.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) unless 1 ≤ p < ∞ and power > 0.
    pub fn new(p: f64, power: f64, normalize_embeddings: bool) -> Result<Self> {
        check_powers("DotProduct", p, power)?;
        Ok(Self { p, power, normalize_embeddings })
    }

    /// The inner product of the rows as they are.
    pub fn raw() -> Self {
        Self { normalize_embeddings: false, ..Self::default() }
    }

    fn prepare(&self, anchors: &Tensor, others: &Tensor) -> Result<(Tensor, Tensor)> {
        if !self.normalize_embeddings {
            return Ok((anchors.clone(), others.clone()));
        }
        both(anchors, others, |x| normalize_rows(x, self.p))
    }

    fn by_kernel(&self, anchors: &Tensor, others: &Tensor) -> Result<Option<PairMatrix>> {
        check("DotProduct::all_pairs", anchors, others, false)?;
        if self.power != 1.0 || self.normalize_embeddings && self.p != 2.0 {
            return Ok(None);
        }
        by_kernel(anchors, others, Pairing::InnerProduct, self.normalize_embeddings)
    }
}

impl Distance for DotProduct {
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        if let Some(matrix) = self.by_kernel(anchors, others)? {
            return Ok(matrix.tensor()?);
        }
        let (a, b) = self.prepare(anchors, others)?;
        signed_power(&matmul(&a, &b.t()?)?, self.power)
    }

    fn pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<PairMatrix> {
        match self.by_kernel(anchors, others)? {
            Some(matrix) => Ok(matrix),
            None => Ok(PairMatrix::of_graph(&self.all_pairs(anchors, others)?)?),
        }
    }

    fn paired(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        check("DotProduct::paired", anchors, others, true)?;
        let (a, b) = self.prepare(anchors, others)?;
        signed_power(&(a * b)?.sum(D::Minus1)?, self.power)
    }

    fn larger_is_closer(&self) -> bool {
        true
    }

    fn range(&self) -> Option<(f64, f64)> {
        (self.normalize_embeddings && self.p == 2.0).then_some((-1.0, 1.0))
    }
}

/// The cosine of the angle between x and y, larger is closer: [`DotProduct`] of L2-normalized rows, and 1 − D of the
/// Bregman divergence of ½‖x‖² between them.
///
/// A row shorter than 10⁻¹² has no direction and is left as it is.
///
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::{Cosine, Distance}};
/// let x = Tensor::new(&[[0f32, 2.], [3., 0.]], &Device::Cpu)?;
/// assert_eq!(Cosine.all_pairs(&x, &x)?.to_vec2::<f32>()?, [[1., 0.], [0., 1.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cosine;

impl Distance for Cosine {
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        check("Cosine::all_pairs", anchors, others, false)?;
        DotProduct::default().all_pairs(anchors, others)
    }

    fn pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<PairMatrix> {
        check("Cosine::all_pairs", anchors, others, false)?;
        DotProduct::default().pairs(anchors, others)
    }

    fn paired(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        check("Cosine::paired", anchors, others, true)?;
        DotProduct::default().paired(anchors, others)
    }

    fn larger_is_closer(&self) -> bool {
        true
    }

    fn range(&self) -> Option<(f64, f64)> {
        Some((-1.0, 1.0))
    }
}
