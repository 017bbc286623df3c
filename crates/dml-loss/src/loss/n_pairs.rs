//! Multi-class N-pair loss (Sohn 2016): one pair a class, each against the positives of all other classes.

use std::{collections::HashSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, Part, Result, Tuples,
    loss::info_nce::OfOwnColumn,
    tensor::rows,
    tuples::{PairTable, Repeats},
};

/// [`NPairs`] has no knobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NPairsConfig {}

/// −log softmax_j(s(a_i, p_j)) at j = i, over one (anchor, positive) pair of each class, s the closeness.
///
/// The pair of a class is its first in row-major order, as in pytorch-metric-learning; classes without a positive pair
/// are left out, and a single class has loss 0. Part `loss`, a loss a class, belonging to its anchor.
///
/// # Distances
/// The inner product, of raw rows with a regularizer [`LpNorm`](crate::LpNorm) as in the paper or of normalized rows;
/// any distance goes. Under a divergence the logits are −D_φ(a_i ‖ p_j) (`Side::First`), without a temperature: scale
/// φ, or take [`InfoNce`](crate::InfoNce).
/// # Cost
/// With c classes and p positives an anchor: O(n·p + c²) time and O(c²) memory, as the matrix is `[c, c]`.
/// # Source
/// Sohn 2016 \[sohn2016\], section 3.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = Objective::new(Arc::new(NPairs { distance: Arc::new(DotProduct::raw()) }));
/// let x = Tensor::new(&[[1f64, 0.], [2., 0.], [0., 1.], [0., 3.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1, 1])?)?.to_scalar::<f64>()?;
/// // Anchor 0 has the products 2 and 0, anchor 2 has 0 and 3.
/// assert!((value - 0.5 * ((-2f64).exp().ln_1p() + (-3f64).exp().ln_1p())).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct NPairs {
    /// The distance.
    pub distance: Arc<dyn Distance>,
}

impl Loss for NPairs {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let pairs = PairTable::new(batch, tuples, Repeats::Once);
        let (mut anchors, mut positives, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for (i, label) in batch.labels().iter().enumerate() {
            let mut first: Option<usize> = None;
            pairs.each_positive(i, |j| first = Some(first.map_or(j, |k| k.min(j))));
            if let Some(j) = first
                && seen.insert(label)
            {
                anchors.push(i as u32);
                positives.push(j as u32);
            }
        }
        if anchors.is_empty() {
            return Ok(Vec::new());
        }
        let a = rows(batch.embeddings(), &anchors)?; // [c, d]
        let p = rows(batch.columns(), &positives)?; // [c, d]
        let factor = if self.distance.larger_is_closer() { 1.0 } else { -1.0 };
        let losses = self.distance.pairs(&a, &p)?.row_losses(&OfOwnColumn { factor }, None)?; // [c]
        Ok(vec![Part::new("loss", losses, Index::Rows(anchors))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
