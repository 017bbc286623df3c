//! Centers of equal length (Wu et al. 2017b).

use candle_core::Tensor;

use crate::{Part, Regularizer, Result};

/// ¼(‖w‖² − m)² of each row w, m the mean of the squared lengths: no class is favored by a longer center. For class
/// tables; O(kd).
///
/// # Source
/// Wu et al. 2017 \[wu2017center\], equation 6.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let rows = Tensor::new(&[[1f32, 0.], [0., 3.]], &Device::Cpu)?;
/// let penalty = CenterInvariant.penalty(&rows)?;
/// assert_eq!(penalty.map(|p| p.to_scalar::<f32>()).transpose()?, Some(0.25 * 16.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct CenterInvariant;

impl Regularizer for CenterInvariant {
    fn unreduced(&self, rows: &Tensor) -> Result<Option<Part>> {
        if rows.elem_count() == 0 {
            return Ok(None);
        }
        let lengths = rows.sqr()?.sum(1)?; // [k]
        let gap = lengths.broadcast_sub(&lengths.mean_keepdim(0)?)?;
        Ok(Some(Part::of_rows((gap.sqr()? * 0.25)?)?))
    }
}
