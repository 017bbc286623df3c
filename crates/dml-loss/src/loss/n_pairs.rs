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

/// −log softmax_j(s(a_i, p_j)) at j = i over one (anchor, positive) of each class, s the closeness.
///
/// The pair of a class is its first in row-major order. Part `loss`, a loss a class, belonging to the anchor.
/// The inner product of raw or normalized rows is usual; any distance goes.
///
/// # Source
/// Sohn 2016 \[sohn2016\], equation 8.
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
