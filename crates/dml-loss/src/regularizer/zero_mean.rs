//! Rows whose coordinates sum to zero.

use candle_core::{D, Tensor};

use crate::{Part, Regularizer, Result, tensor::abs_pow};

/// |Σ_j x_j| of each row x, with gradient 0 at 0: as the signal-to-noise distance wants, which takes rows to have mean 0.
/// O(kd).
///
/// # Source
/// Yuan et al. 2019 \[yuan2019\], equation 11.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let rows = Tensor::new(&[[1f32, -1.], [2., 1.]], &Device::Cpu)?;
/// assert_eq!(ZeroMean.penalty(&rows)?.map(|p| p.to_scalar::<f32>()).transpose()?, Some(1.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct ZeroMean;

impl Regularizer for ZeroMean {
    fn unreduced(&self, rows: &Tensor) -> Result<Option<Part>> {
        if rows.elem_count() == 0 {
            return Ok(None);
        }
        Ok(Some(Part::of_rows(abs_pow(&rows.sum(D::Minus1)?, 1.0)?)?))
    }
}
