//! The signal-to-noise distance: variance of the difference over variance of the anchor (Yuan et al. 2019).

use candle_core::{D, Tensor};

use crate::{
    Distance, Result,
    distance::{both, check, check_powers},
    tensor::{normalize_rows, root, squared_distances, widened},
};

/// A constant row carries no signal; this variance in its place keeps its distances finite.
const LEAST_VARIANCE: f64 = 1e-12;

/// D(x ‖ y) = (var(x − y) / var(x))ᵉ, the variance over the d coordinates, x the anchor, e the power; not symmetric.
///
/// The inverse of the signal-to-noise ratio of an anchor x and its noisy copy y. A row without variance has one of
/// 10⁻¹², so that its distances stay finite. It takes rows to have mean 0: add the regularizer
/// [`ZeroMean`](crate::ZeroMean).
///
/// # Source
/// Yuan et al. 2019 \[yuan2019\], equation 5.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::{Distance, SignalToNoise}};
/// let x = Tensor::new(&[[0f32, 2., 4.]], &Device::Cpu)?;
/// let y = Tensor::new(&[[0f32, 1., 2.]], &Device::Cpu)?;
/// assert_eq!(SignalToNoise::raw().paired(&x, &y)?.to_vec1::<f32>()?, [0.25]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignalToNoise {
    /// The p of the norm by which rows are divided first; 2.
    pub p: f64,
    /// e, the power the ratio is raised to; 1.
    pub power: f64,
    /// Whether rows are normalized first; they are by default.
    pub normalize_embeddings: bool,
}

impl Default for SignalToNoise {
    /// Of L2-normalized rows.
    fn default() -> Self {
        Self { p: 2.0, power: 1.0, normalize_embeddings: true }
    }
}

impl SignalToNoise {
    /// Of the rows as they are.
    pub fn raw() -> Self {
        Self { normalize_embeddings: false, ..Self::default() }
    }

    /// Rows less their own mean over the coordinates: Σ of squares is then (d − 1)·variance.
    fn prepare(&self, anchors: &Tensor, others: &Tensor) -> Result<(Tensor, Tensor)> {
        both(anchors, others, |x| {
            // Rows less their mean differ by less than their rounding: those of f32 are compared in f64.
            let x = widened(x)?;
            let x = if self.normalize_embeddings { normalize_rows(&x, self.p)? } else { x };
            Ok(x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?)
        })
    }

    fn signal(&self, centered: &Tensor) -> Result<Tensor> {
        let sum = centered.sqr()?.sum_keepdim(D::Minus1)?; // [n, 1]
        let enough = sum.detach().gt(LEAST_VARIANCE)?;
        crate::tensor::fill_unless(&sum, &enough, LEAST_VARIANCE)
    }
}

impl Distance for SignalToNoise {
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        check("SignalToNoise::all_pairs", anchors, others, false)?;
        check_powers("SignalToNoise", self.p, self.power)?;
        let (a, b) = self.prepare(anchors, others)?;
        let ratio = squared_distances(&a, &b)?.broadcast_div(&self.signal(&a)?)?;
        Ok(root(&ratio, self.power)?.to_dtype(anchors.dtype())?)
    }

    fn paired(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        check("SignalToNoise::paired", anchors, others, true)?;
        check_powers("SignalToNoise", self.p, self.power)?;
        let (a, b) = self.prepare(anchors, others)?;
        let signal = self.signal(&a)?.squeeze(1)?; // [n]
        let ratio = ((a - b)?.sqr()?.sum(D::Minus1)? / signal)?;
        Ok(root(&ratio, self.power)?.to_dtype(anchors.dtype())?)
    }
}
