//! Intra-pair variance loss (Yu & Tao 2019): pairs of one kind should be equally far.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, PairList, Pairs, Part, Reduced, Reducer, Result, Tuples,
    error::finite,
    loss::{
        pair_hinge::{Form, Kind, PairHinge},
        tuple_sum::{Added, TupleSum},
    },
    tensor::{entries, hinge},
    tuples::{PairTable, Repeats},
};

/// Tolerances of [`IntraPairVariance`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntraPairVarianceConfig {
    /// ε₊: positive pairs may be worse than their mean by this share of it; 0.01.
    pub pos_eps: f64,
    /// ε₋: negative pairs likewise; 0.01.
    pub neg_eps: f64,
}

impl Default for IntraPairVarianceConfig {
    fn default() -> Self {
        Self { pos_eps: 0.01, neg_eps: 0.01 }
    }
}

impl IntraPairVarianceConfig {
    pub(crate) fn check(&self) -> Result<()> {
        finite("IntraPairVariance", &[("pos_eps", self.pos_eps), ("neg_eps", self.neg_eps)])
    }
}

/// [D − (1 + ε₊)μ₊]₊² for each positive pair, μ₊ the mean of the positive distances, and [(1 − ε₋)μ₋ − D]₊² for each
/// negative pair; for similarities [(1 − ε₊)μ₊ − s]₊² and [s − (1 + ε₋)μ₋]₊². The means are part of the graph.
///
/// Parts `pos_loss` and `neg_loss`, a loss a pair. A pair that tuples name twice counts twice, in the mean too. It is
/// added to another loss ([`WeightedSum`](crate::WeightedSum)) rather than used alone: it says nothing about where the
/// means lie.
///
/// # Distances
/// Any; cosine in the paper. Its unit is that of the distance squared.
/// # Cost
/// O(nm) time and memory; pairs are visited.
/// # Source
/// Yu & Tao 2019 \[yu2019\], section 3.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = IntraPairVarianceConfig { pos_eps: 0.0, neg_eps: 0.0 };
/// let loss = Objective::new(Arc::new(IntraPairVariance { distance: Arc::new(Lp::raw(2.0)), config }));
/// let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
/// // Distances 1, 2 and 3, their mean 2: one pair of three, taken both ways, is too far by 1.
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 0])?)?.to_scalar::<f64>()?;
/// assert!((value - 1.0 / 3.0).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct IntraPairVariance {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The tolerances.
    pub config: IntraPairVarianceConfig,
}

impl Loss for IntraPairVariance {
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        self.config.check()?;
        if batch.nothing() {
            return Ok(Reduced::Nothing);
        }
        let pairs = &PairTable::new(batch, tuples, Repeats::Each);
        let matrix = batch.pairs(&self.distance)?;
        let mut sum = TupleSum::new(&matrix, reducer, batch.labels())?;
        let similarity = self.distance.larger_is_closer();
        let sides = [
            ("pos_loss", Kind::Positive, self.config.pos_eps, similarity),
            ("neg_loss", Kind::Negative, self.config.neg_eps, !similarity),
        ];
        for (part, kind, eps, below) in sides {
            let value = PairHinge { pairs, kind, sign: 1.0, bound: 0.0, form: Form::Linear };
            let tallies = matrix.tally(&value, None, None)?;
            let (count, total) = tallies.iter().fold((0.0, 0.0), |(c, s), t| (c + t.count, s + t.sum));
            if count == 0.0 {
                continue;
            }
            let (sign, share) = if below { (-1.0, 1.0 - eps) } else { (1.0, 1.0 + eps) };
            let bound = share * total / count;
            let before: f64 = sum.row_sums().iter().sum();
            let losses = PairHinge { pairs, kind, sign, bound, form: Form::Squared };
            if let Added::No = sum.add(part, &losses, |_| Ok(None))? {
                return Ok(Reduced::Unknown);
            }
            // Each pair moves the mean too, which all losses of its kind see.
            let by_mean = -share * (sum.row_sums().iter().sum::<f64>() - before);
            sum.add_slopes(&value, by_mean / count)?;
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
        let similarity = self.distance.larger_is_closer();
        let side = |name, pairs: PairList, eps: f64, below: bool| -> Result<Option<Part>> {
            if pairs.is_empty() {
                return Ok(None);
            }
            let values = entries(&matrix, &pairs.anchor, &pairs.other)?; // [k]
            let mean = values.mean_keepdim(0)?; // [1]
            let gap = match below {
                true => (mean * (1.0 - eps))?.broadcast_sub(&values)?,
                false => values.broadcast_sub(&(mean * (1.0 + eps))?)?,
            };
            Ok(Some(Part::new(name, hinge(&gap)?.sqr()?, Index::Pairs(pairs))))
        };
        let positive = side("pos_loss", positive, self.config.pos_eps, similarity)?;
        let negative = side("neg_loss", negative, self.config.neg_eps, !similarity)?;
        Ok(positive.into_iter().chain(negative).collect())
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
