//! Centers that keep apart (Zhao et al. 2019).

use candle_core::Tensor;

use crate::{
    Part, Regularizer, Result,
    tensor::{download, entries, normalize_rows},
};

/// The cosine of each row to the row nearest to it in angle, itself left out: pushes the closest centers apart. For
/// class tables; O(k²d) time, O(k²) memory.
///
/// # Source
/// Zhao et al. 2019 \[zhao2019\], equation 7.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let rows = Tensor::new(&[[1f64, 0.], [2., 0.], [0., 1.]], &Device::Cpu)?;
/// let penalty = RegularFace.penalty(&rows)?.map(|p| p.to_scalar::<f64>()).transpose()?;
/// assert!(penalty.is_some_and(|p| (p - 2.0 / 3.0).abs() < 1e-12));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct RegularFace;

impl Regularizer for RegularFace {
    fn unreduced(&self, rows: &Tensor) -> Result<Option<Part>> {
        let (k, _) = rows.dims2()?;
        if k < 2 || rows.elem_count() == 0 {
            return Ok(None);
        }
        let unit = normalize_rows(rows, 2.0)?;
        let cosine = unit.matmul(&unit.t()?)?; // [k, k]
        let values = download(&cosine)?;
        let nearest = |i: usize| {
            let others = (0..k).filter(|&j| j != i);
            others.fold(if i == 0 { 1 } else { 0 }, |best, j| {
                if values[i * k + j] > values[i * k + best] { j } else { best }
            }) as u32
        };
        let own: Vec<u32> = (0..k as u32).collect();
        let other: Vec<u32> = (0..k).map(nearest).collect();
        Ok(Some(Part::of_rows(entries(&cosine, &own, &other)?)?))
    }
}
