//! Contrastive loss (Hadsell et al. 2006), the hinge form without squares.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Index, Loss, PairList, Pairs, Part, Reduced, Reducer, Result, Tuples,
    error::finite,
    loss::{
        pair_hinge::{Form, Kind, PairHinge},
        tuple_sum::{Added, TupleSum},
    },
    tensor::{entries, hinge},
    tuples::{PairTable, Repeats},
};

/// Margins of [`Contrastive`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastiveConfig {
    /// m₊: positive pairs farther than this cost. 0 (the default) for distances, 1 for cosines.
    pub pos_margin: f64,
    /// m₋: negative pairs closer than this cost. 1 (the default) for distances of normalized rows, 0 for cosines.
    pub neg_margin: f64,
}

impl Default for ContrastiveConfig {
    fn default() -> Self {
        Self { pos_margin: 0.0, neg_margin: 1.0 }
    }
}

impl ContrastiveConfig {
    pub(crate) fn check(&self) -> Result<()> {
        finite("Contrastive", &[("pos_margin", self.pos_margin), ("neg_margin", self.neg_margin)])
    }
}

/// [D − m₊]₊ for each positive pair and [m₋ − D]₊ for each negative one; for similarities [m₊ − s]₊ and [s − m₋]₊.
///
/// Parts `pos_loss` and `neg_loss`, a loss a pair; each is usually averaged over its nonzero losses
/// ([`AvgNonZero`](crate::AvgNonZero)). A pair that tuples name twice counts twice.
///
/// # Distances
/// Any. Over [`SignalToNoise`](crate::SignalToNoise) it is the signal-to-noise contrastive loss \[yuan2019\]. Under a
/// divergence each ordered pair counts, the anchor on the side of the distance; m₋ about the median divergence of a
/// first batch.
/// # Cost
/// O(nm) time and memory; pairs are visited.
/// # Source
/// Hadsell et al. 2006 \[hadsell2006\], equations 2 to 4, with the hinges themselves in place of their squares, as in
/// pytorch-metric-learning.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = ContrastiveConfig { pos_margin: 0.0, neg_margin: 2.5 };
/// let loss = Objective::new(Arc::new(Contrastive { distance: Arc::new(Lp::raw(2.0)), config }));
/// let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
/// // The positive pair is at distance 1; of the negative ones, at 3 and 2, the closer costs 0.5.
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// assert!((value - 1.5).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Contrastive {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The margins.
    pub config: ContrastiveConfig,
}

impl Loss for Contrastive {
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        self.config.check()?;
        if batch.nothing() {
            return Ok(Reduced::Nothing);
        }
        let pairs = &PairTable::new(batch, tuples, Repeats::Each);
        let matrix = batch.pairs(&self.distance)?;
        let mut sum = TupleSum::new(&matrix, reducer, batch.labels())?;
        let sign = if self.distance.larger_is_closer() { -1.0 } else { 1.0 };
        let ContrastiveConfig { pos_margin, neg_margin } = self.config;
        let sides =
            [("pos_loss", Kind::Positive, sign, pos_margin), ("neg_loss", Kind::Negative, -sign, neg_margin)];
        for (part, kind, sign, bound) in sides {
            let losses = PairHinge { pairs, kind, sign, bound, form: Form::Hinge };
            if let Added::No = sum.add(part, &losses, |_| Ok(None))? {
                return Ok(Reduced::Unknown);
            }
        }
        Ok(Reduced::of(sum.finish(None)?))
    }

    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        let Pairs { positive, negative } = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs);
        if positive.is_empty() && negative.is_empty() {
            return Ok(Vec::new());
        }
        let matrix = batch.all_pairs(&*self.distance)?; // [n, m]
        let side = |name, pairs: PairList, bound, sign| -> Result<Option<Part>> {
            if pairs.is_empty() {
                return Ok(None);
            }
            let values = entries(&matrix, &pairs.anchor, &pairs.other)?; // [k]
            let excess = (self.distance.margin_over(&values, bound)? * sign)?;
            Ok(Some(Part::new(name, hinge(&excess)?, Index::Pairs(pairs))))
        };
        let ContrastiveConfig { pos_margin, neg_margin } = self.config;
        let positive = side("pos_loss", positive, pos_margin, 1.0)?;
        let negative = side("neg_loss", negative, neg_margin, -1.0)?;
        Ok(positive.into_iter().chain(negative).collect())
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(AvgNonZero)
    }
}
