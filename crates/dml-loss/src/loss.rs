//! The loss: from a batch and its tuples to unreduced values, which a reducer finishes.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use candle_core::Tensor;

use crate::{
    Batch, Distance, Error, Mean, PairList, Parameter, Reducer, Result, Triplets, Tuples,
    tuples::times_listed,
};

mod angle;
mod angular;
mod centroid_triplet;
mod circle;
mod class_rows;
mod class_table;
mod contrastive;
mod cross_batch_memory;
mod dynamic_soft_margin;
mod far;
mod fast_ap;
mod histogram;
mod info_nce;
mod instance;
mod intra_pair_variance;
mod large_margin_softmax;
mod lifted_structure;
mod logits;
mod manifold;
mod margin;
mod margin_softmax;
mod memory;
mod momentum_queue;
mod multi_similarity;
mod n_pairs;
mod nca;
mod nt_xent;
mod p2s_grad;
mod pair_hinge;
mod pnp;
mod positive_rows;
mod proxy_anchor;
mod ranked_list;
mod ranks;
mod smooth_ap;
mod soft_triple;
mod sup_con;
mod swapped_rows;
mod threshold_consistent_margin;
mod triplet_margin;
mod triplet_rows;
mod tuple_sum;
mod tuplet_margin;
mod two_views;
mod vic_reg;
mod weighted_sum;

pub use angular::{Angular, AngularConfig};
pub use centroid_triplet::{CentroidTriplet, CentroidTripletConfig};
pub use circle::{Circle, CircleConfig};
pub use contrastive::{Contrastive, ContrastiveConfig};
pub use cross_batch_memory::CrossBatchMemory;
pub use dynamic_soft_margin::{DynamicSoftMargin, DynamicSoftMarginConfig};
pub use fast_ap::{FastAp, FastApConfig};
pub use histogram::{Histogram, HistogramConfig};
pub use info_nce::{Direction, InfoNce, InfoNceConfig};
pub use instance::{Instance, InstanceConfig, InstanceTarget};
pub use intra_pair_variance::{IntraPairVariance, IntraPairVarianceConfig};
pub use large_margin_softmax::{LargeMarginSoftmax, LargeMarginSoftmaxConfig};
pub use lifted_structure::{GeneralizedLiftedStructure, LiftedStructure, LiftedStructureConfig};
pub use manifold::{Manifold, ManifoldConfig, MetaClasses};
pub use margin::{Margin, MarginConfig};
pub use margin_softmax::{ArcFaceConfig, CosFaceConfig, MarginSoftmax, NormalizedSoftmaxConfig};
pub use momentum_queue::{MomentumQueue, QueueLabels};
pub use multi_similarity::{MultiSimilarity, MultiSimilarityConfig};
pub use n_pairs::{NPairs, NPairsConfig};
pub use nca::{Nca, NcaConfig, ProxyNca, ProxyNcaConfig};
pub use nt_xent::{NtXent, NtXentConfig};
pub use p2s_grad::{P2sGrad, P2sGradConfig};
pub use pnp::{Pnp, PnpConfig, PnpVariant};
pub use proxy_anchor::{ProxyAnchor, ProxyAnchorConfig};
pub use ranked_list::{RankedList, RankedListConfig};
pub use smooth_ap::{SmoothAp, SmoothApConfig};
pub use soft_triple::{SoftTriple, SoftTripleConfig};
pub use sup_con::{SupCon, SupConConfig};
pub use threshold_consistent_margin::{ThresholdConsistentMargin, ThresholdConsistentMarginConfig};
pub use triplet_margin::{TripletMargin, TripletMarginConfig};
pub use tuplet_margin::{TupletMargin, TupletMarginConfig};
pub use two_views::TwoViews;
pub use vic_reg::{VicReg, VicRegConfig};
pub use weighted_sum::WeightedSum;

/// What each unreduced loss belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// A row of the batch each.
    Rows(Vec<u32>),
    /// A pair each.
    Pairs(PairList),
    /// A triplet each.
    Triplets(Triplets),
    /// A class each, as losses of proxies have, or a coordinate each.
    Classes(Vec<u32>),
    /// The batch as a whole, one loss: it is reduced already, and an [`Objective`](crate::Objective) takes it as it is,
    /// whatever its reducer.
    Whole,
}

impl Index {
    /// The row of the batch that each loss belongs to; for classes, the class.
    pub fn anchors(&self) -> &[u32] {
        match self {
            Self::Rows(rows) | Self::Classes(rows) => rows,
            Self::Pairs(pairs) => &pairs.anchor,
            Self::Triplets(triplets) => &triplets.anchor,
            Self::Whole => &[],
        }
    }

    /// How often each pair or triplet is listed; `None` where none is listed twice.
    pub(crate) fn times_listed(&self) -> Option<Vec<f64>> {
        match self {
            Self::Pairs(pairs) => pairs.times_listed(),
            Self::Triplets(Triplets { anchor, positive, negative }) => {
                times_listed(anchor.len(), |at| (anchor[at], positive[at], negative[at]))
            }
            Self::Rows(_) | Self::Classes(_) | Self::Whole => None,
        }
    }
}

/// Unreduced losses of one kind, such as those of the positive pairs.
#[derive(Debug, Clone)]
pub struct Part {
    /// The name by which a [`ByPart`](crate::ByPart) reducer finds it.
    pub name: &'static str,
    /// The losses, `[k]` with k ≥ 1.
    pub losses: Tensor,
    /// What they belong to, k of them.
    pub index: Index,
    /// A scalar that a [`Divisor`](crate::Divisor) reducer divides by.
    pub divisor: Option<Tensor>,
}

impl Part {
    /// A part without divisor.
    pub fn new(name: &'static str, losses: Tensor, index: Index) -> Self {
        Self { name, losses, index, divisor: None }
    }

    /// One loss of the whole batch, `[1]`.
    pub(crate) fn whole(name: &'static str, loss: Tensor) -> Self {
        Self::new(name, loss, Index::Whole)
    }

    /// A part with one loss for each row of the batch.
    pub(crate) fn of_rows(losses: Tensor) -> Result<Self> {
        let n = losses.dim(0)?;
        Ok(Self::new("loss", losses, Index::Rows((0..n as u32).collect())))
    }
}

/// What a loss says when it is asked for its reduced value.
#[derive(Debug, Clone)]
pub enum Reduced {
    /// It knows no short way.
    Unknown,
    /// The batch leaves no tuple.
    Nothing,
    /// A scalar.
    Value(Tensor),
}

impl Reduced {
    pub(crate) fn of(value: Option<Tensor>) -> Self {
        value.map_or(Self::Nothing, Self::Value)
    }
}

/// The value of a loss by a reducer, the short way where there is one; `None` where no tuple is left.
pub(crate) fn reduce(
    loss: &dyn Loss,
    batch: &Batch,
    tuples: Option<&Tuples>,
    reducer: &dyn Reducer,
) -> Result<Option<Tensor>> {
    // The short ways count a pair as often as it is listed.
    if !(reducer.counts_once() && tuples.is_some_and(Tuples::repeats_pairs)) {
        match loss.reduced(batch, tuples, reducer)? {
            Reduced::Value(value) => return Ok(Some(value)),
            Reduced::Nothing => return Ok(None),
            Reduced::Unknown => {}
        }
    }
    let mut total: Option<Tensor> = None;
    for part in loss.unreduced(batch, tuples)? {
        let value = match part.index {
            Index::Whole => part.losses.sum_all()?,
            _ => reducer.reduce(&part, batch.labels())?,
        };
        if value.rank() != 0 {
            let got = format!("of shape {:?}", value.dims());
            let expected = "a scalar; call `Objective::unreduced` for unreduced losses";
            return Err(Error::config("Objective", "reducer", got, expected));
        }
        total = Some(match total {
            Some(total) => (total + value)?,
            None => value,
        });
    }
    Ok(total)
}

/// What a loss remembers between batches, by name.
pub type State = BTreeMap<String, Tensor>;

/// What a step of a loss gives; where it fails, what the loss remembers is put back to what it was before.
///
/// For steps of several parts, of which a later one may fail after an earlier one has been taken.
pub(crate) fn undone_on_error<T>(loss: &dyn Loss, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = loss.state()?;
    let outcome = step();
    if outcome.is_err() {
        loss.load_state(&before)?;
    }
    outcome
}

/// A loss of metric learning.
///
/// Members differ in [`unreduced`](Self::unreduced); [`Objective`](crate::Objective) puts miner, loss and reducer
/// together. In the documentation of the members n is the number of rows of the batch, m that of the columns they are
/// compared with (the reference set, or the batch itself), d the width of both; "closeness" is −D for a distance and
/// the value itself for a similarity.
///
/// # Tuples
/// Without tuples every valid pair or triplet counts, and a row is never compared with itself. Given ones are turned
/// into what the loss is made of: a triplet into the pairs (a, p) and (a, n), pairs into every triplet of one anchor.
/// Losses of single rows take them as [weights of the rows](crate::Tuples::row_weights).
///
/// # Steps
/// A loss that remembers computes first and remembers last: where [`unreduced`](Self::unreduced) or
/// [`reduced`](Self::reduced) return an error, it is as it was before the call, with all losses within it. A loss of
/// several steps, as a sum of objectives, puts back the [`state`](Self::state) of those that were taken. So does an
/// [`Objective`](crate::Objective) where what comes after the loss fails, its reducer or a regularizer; state must
/// therefore be all that a later step depends on, and cheap to ask for: tensors are shared, not copied. What shows as
/// NaN or infinite in the value is not remembered either. Steps are taken one after the other.
///
/// # Under a Bregman divergence
/// Over a [`BregmanDistance`](crate::BregmanDistance) the entry of anchor i and column j is D_φ(x_i ‖ y_j) with
/// `Side::First`, D_φ(y_j ‖ x_i) with `Side::Second`, and the mean of the two where it is symmetrized. Proxies, class
/// columns and centroids are columns. As D_φ is not symmetric, the pairs (i, j) and (j, i) have values of their own,
/// and both count unless the member says otherwise. Margins, bounds and sharpness are in units of φ, so a loss that has
/// them wants φ's scale held ([`Scale`](crate::Scale)); a softmax wants a learned [`Temperature`](crate::Temperature).
/// Gradients reach the parameters of φ through φ and ∇φ alike.
///
/// # Cost
/// A loss of pairs or triplets holds the matrix `[n, m]`, which a miner over the same `Arc` of the distance shares, and
/// one of its size with the derivatives: O(nm) memory. Tuples are visited row by row, not listed, where the reducer is
/// a weighted sum, as all are but [`DoNothing`](crate::DoNothing). Where a member lists them it says so. The time named
/// by a member comes on top of the matrix's O(nmd).
pub trait Loss: Debug + Send + Sync {
    /// The unreduced losses by part; a part without tuples is left out. Without `tuples`, all valid ones count.
    ///
    /// Where a part has a loss for each triplet, that is what it takes: all triplets of n rows are of the order of n³
    /// numbers and as many indices. [`reduced`](Self::reduced) needs no list of them.
    ///
    /// # Errors
    /// What the distance returns, [`Error::Config`](crate::Error::Config) for a batch the loss has no use for, and
    /// [`Error::Shape`](crate::Error::Shape), [`Error::DType`](crate::Error::DType) or
    /// [`Error::Device`](crate::Error::Device) for rows that do not fit what the loss has learned. Nothing of the batch
    /// is remembered then.
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>>;

    /// The value of the batch by a reducer, where the loss knows a way to it that lists no tuples. `None` where it
    /// knows none: then [`unreduced`](Self::unreduced) and the reducer give it, and must give the same. A loss that
    /// remembers takes a step in this call or in that one, never in both.
    ///
    /// # Errors
    /// As [`unreduced`](Self::unreduced), and what the reducer returns.
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        let _ = (batch, tuples, reducer);
        Ok(Reduced::Unknown)
    }

    /// The distance, `None` where the loss uses none.
    fn distance(&self) -> Option<&Arc<dyn Distance>>;

    /// The reducer it is usually finished with.
    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(Mean)
    }

    /// The loss's own learned parameters, without those of its distance.
    fn own_parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    /// All learned parameters: its own, then those of its distance.
    fn parameters(&self) -> Vec<Parameter> {
        let mut parameters = self.own_parameters();
        parameters.extend(self.distance().into_iter().flat_map(|d| d.parameters()));
        parameters
    }

    /// Sets what is learned but best begins where the first batch lies: learned temperatures. Call it once, before
    /// the first step; elsewhere it does nothing.
    ///
    /// # Errors
    /// What the distance returns; nothing is set then.
    fn calibrate(&self, batch: &Batch) -> Result<()> {
        let _ = batch;
        Ok(())
    }

    /// All that the loss remembers between batches and no optimizer sees, such as a memory of embeddings, by name; a
    /// checkpoint keeps it, and a step that fails is undone by it. Most losses remember nothing.
    ///
    /// # Errors
    /// When candle fails.
    fn state(&self) -> Result<State> {
        Ok(State::new())
    }

    /// Puts a remembered [`state`](Self::state) back: all of it, or with an error nothing.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config), [`Error::Shape`](crate::Error::Shape) or another that names the entry,
    /// when one is missing or of another form.
    fn load_state(&self, state: &State) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// The table of classes as rows `[classes·k, d]` within the graph, the k rows of a class side by side, for
    /// regularizers of weights; `None` where the loss has none.
    ///
    /// # Errors
    /// When candle fails.
    fn class_rows(&self) -> Result<Option<Tensor>> {
        Ok(None)
    }
}
