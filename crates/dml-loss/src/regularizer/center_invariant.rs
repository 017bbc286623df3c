//! Centers of equal length (Wu et al. 2017b).

use candle_core::Tensor;

use crate::{Part, Regularizer, Result};

/// ¼(‖w‖² − m)² of each row w, m the mean of the squared lengths: no class is favored by a longer center.
///
/// # Source
/// Wu et al. 2017 \[wu2017center\], equation 6.
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
