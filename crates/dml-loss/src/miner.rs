//! Miners: which pairs or triplets of a batch a loss is to see.

use std::{fmt::Debug, sync::Arc};

use dml_kernels::{PairMatrix, Real, RowMap};

use crate::{Batch, Distance, Error, Pairs, Result, Tuples, rows::EachRow};

mod angular;
mod batch_easy_hard;
mod distance_weighted;
mod hard_aware;
mod maximum_loss;
mod multi_similarity;
mod pair_margin;
mod random_triplets;
mod spec;
mod triplet_margin;
mod uniform_histogram;

pub use angular::{AngularMiner, AngularMinerConfig};
pub use batch_easy_hard::{BatchEasyHard, BatchEasyHardConfig, BatchHard, BatchHardConfig, Strategy};
pub use distance_weighted::{DistanceWeighted, DistanceWeightedConfig};
pub use hard_aware::{HardAware, HardAwareConfig};
pub use maximum_loss::MaximumLoss;
pub use multi_similarity::{MultiSimilarityMiner, MultiSimilarityMinerConfig};
pub use pair_margin::{PairMargin, PairMarginConfig};
pub use random_triplets::{All, RandomTriplets, RandomTripletsConfig, TripletsPerAnchor};
pub use spec::{MaximumLossSpec, MinerSpec};
pub use triplet_margin::{TripletKind, TripletMarginMiner, TripletMarginMinerConfig};
pub use uniform_histogram::{UniformHistogram, UniformHistogramConfig};

/// Selects tuples of a batch. No gradient passes through the selection.
///
/// What is NaN or infinite can be neither nearer nor farther, and a selection has no value that would show it, so a
/// distance that is no finite number is an error.
///
/// A miner compares by its own distance, usually the loss's: with the same `Arc` an [`Objective`](crate::Objective)
/// computes their matrix once. "Farther" is a larger distance or a smaller similarity. Over a
/// [`BregmanDistance`](crate::BregmanDistance) the selection follows φ as it is at this step, the anchor on the side
/// that the distance names, so (i, j) may be kept where (j, i) is not. With a reference set anchors are rows of the
/// batch and the others columns. The cost named by a member comes on top of the matrix `[n, m]`.
pub trait Miner: Debug + Send + Sync {
    /// The selected pairs or triplets, in row-major order.
    ///
    /// # Errors
    /// What the distance returns; [`Error::Diverged`] names the row and column whose distance is no finite number.
    fn mine(&self, batch: &Batch) -> Result<Tuples>;

    /// The distance by which it selects.
    fn distance(&self) -> Option<&Arc<dyn Distance>>;
}

/// The matrix of a batch, each entry a finite number.
pub(crate) fn finite_pairs(
    owner: &'static str,
    batch: &Batch,
    distance: &Arc<dyn Distance>,
) -> Result<PairMatrix> {
    let matrix = batch.pairs(distance)?;
    match matrix.map_rows(&NotFinite)?.first() {
        None => Ok(matrix),
        Some(&(row, column, value)) => {
            let what = format!("the distance of row {row} to column {column}");
            Err(Error::Diverged { op: owner, what, value })
        }
    }
}

/// The first entry of a row that is no finite number.
struct NotFinite;

impl RowMap for NotFinite {
    type Found = (usize, usize, f64);

    #[inline(always)]
    fn find<T: Real>(&self, i: usize, row: &[T], found: &mut Vec<Self::Found>) {
        let mut fine = true;
        for &v in row {
            fine &= v * T::ZERO == T::ZERO;
        }
        if !fine {
            let mut entries = row.iter().map(|v| v.to_f64()).enumerate();
            found.extend(entries.find(|(_, v)| !v.is_finite()).map(|(j, v)| (i, j, v)));
        }
    }
}

/// The distances of a batch, turned so that larger is farther.
#[derive(Debug)]
pub(crate) struct Farness {
    matrix: PairMatrix,
    /// 1 for distances, −1 for similarities: the sign that turns a bound in the same way.
    pub sign: f64,
}

impl Farness {
    /// `None` where there is nothing to compare.
    pub fn new(owner: &'static str, batch: &Batch, distance: &Arc<dyn Distance>) -> Result<Option<Self>> {
        if batch.nothing() {
            return Ok(None);
        }
        let sign = if distance.larger_is_closer() { -1.0 } else { 1.0 };
        Ok(Some(Self { matrix: finite_pairs(owner, batch, distance)?, sign }))
    }

    /// What `f(anchor, far, found)` finds for each anchor, in their order.
    pub fn each_anchor<O: Send>(&self, f: impl Fn(usize, &[f64], &mut Vec<O>) + Sync) -> Result<Vec<O>> {
        let turned = |i: usize, row: &[f64], found: &mut Vec<O>| {
            if self.sign > 0.0 {
                return f(i, row, found);
            }
            let far: Vec<f64> = row.iter().map(|v| -v).collect();
            f(i, &far, found);
        };
        Ok(self.matrix.map_rows(&EachRow::new(turned))?)
    }

    /// All values, row-major.
    pub fn values(&self) -> Vec<f64> {
        let mut values = self.matrix.values();
        values.iter_mut().for_each(|v| *v *= self.sign);
        values
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.matrix.columns()
    }
}

/// A pair that a miner found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found {
    /// Anchor and positive.
    Positive(usize, usize),
    /// Anchor and negative.
    Negative(usize, usize),
}

impl Pairs {
    pub(crate) fn of(found: Vec<Found>) -> Self {
        let mut pairs = Self::default();
        for pair in found {
            match pair {
                Found::Positive(a, p) => pairs.positive.push(a, p),
                Found::Negative(a, n) => pairs.negative.push(a, n),
            }
        }
        pairs
    }
}
