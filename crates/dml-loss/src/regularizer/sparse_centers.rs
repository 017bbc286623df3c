//! Few distinct centers a class (Qian et al. 2019).

use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    Divisor, Error, Index, PairList, Part, Reducer, Regularizer, Result,
    tensor::{entries, hinge, normalize_rows, root},
};

/// Keeps the root differentiable where two centers are one.
const SMALL: f64 = 1e-7;

/// Knobs of [`SparseCenters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseCentersConfig {
    /// Rows of each class, at least 2, side by side.
    pub centers_per_class: usize,
}

/// √(2 − 2·cos(w, w′) + ε), the distance of directions, over the pairs of centers of one class; summed and divided by
/// twice their number. It merges centers that a class has no use for.
///
/// ε = 10⁻⁷ keeps the gradient finite where centers have merged. For the class tables of
/// [`SoftTriple`](crate::SoftTriple) and of sub-centers; O(k²d) time, O(k²) memory. The paper's weight is 0.2.
///
/// # Source
/// Qian et al. 2019 \[qian2019\], equation 9.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let rows = Tensor::new(&[[1f64, 0.], [0., 1.]], &Device::Cpu)?;
/// let penalty = SparseCenters::new(SparseCentersConfig { centers_per_class: 2 })?.penalty(&rows)?;
/// let penalty = penalty.map(|p| p.to_scalar::<f64>()).transpose()?;
/// assert!(penalty.is_some_and(|p| (p - 0.5 * 2f64.sqrt()).abs() < 1e-7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct SparseCenters {
    config: SparseCentersConfig,
}

impl SparseCenters {
    /// With the given number of centers.
    ///
    /// # Errors
    /// [`Error::Config`] for fewer than two.
    pub fn new(config: SparseCentersConfig) -> Result<Self> {
        match config.centers_per_class {
            centers @ (0 | 1) => {
                Err(Error::config("SparseCenters", "centers_per_class", centers, "at least 2"))
            }
            _ => Ok(Self { config }),
        }
    }
}

impl Regularizer for SparseCenters {
    fn unreduced(&self, rows: &Tensor) -> Result<Option<Part>> {
        let (k, _) = rows.dims2()?;
        let per_class = self.config.centers_per_class;
        if k % per_class != 0 {
            let expected = format!("[classes·{per_class}, d]");
            return Err(Error::shape("SparseCenters", "rows", rows, expected));
        }
        if rows.elem_count() == 0 {
            return Ok(None);
        }
        let mut pairs = PairList::default();
        for first in (0..k).step_by(per_class) {
            for i in first..first + per_class {
                (i + 1..first + per_class).for_each(|j| pairs.push(i, j));
            }
        }
        let unit = normalize_rows(rows, 2.0)?;
        let cosine = entries(&unit.matmul(&unit.t()?)?, &pairs.anchor, &pairs.other)?; // [pairs]
        let gap = (hinge(&cosine.affine(-2.0, 2.0)?)? + SMALL)?;
        let mut part = Part::new("loss", root(&gap, 0.5)?, Index::Pairs(pairs));
        let divisor = 2.0 * part.losses.dims1()? as f64;
        part.divisor = Some(Tensor::full(divisor, (), rows.device())?.to_dtype(rows.dtype())?);
        Ok(Some(part))
    }

    fn reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(Divisor::default())
    }
}
