//! Triplet margin loss (Weinberger & Saul 2009, Schroff et al. 2015): plain, with swap, smooth.

use std::sync::Arc;

use dml_kernels::{Real, softplus};
use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Index, Loss, Part, Reduced, Reducer, Result, Triplets, TripletsPerAnchor,
    Tuples,
    error::finite,
    loss::{
        swapped_rows,
        triplet_rows::{TripletForm, TripletRows},
        tuple_sum::{Added, TupleSum},
    },
    rows,
    tensor::{entries, hinge},
    tuples::TripletTable,
};

/// Knobs of [`TripletMargin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TripletMarginConfig {
    /// m: how much closer the positive must be than the negative. 0.05 (the default) to 0.2 for distances of normalized
    /// rows.
    pub margin: f64,
    /// Whether D(a, n) gives way to D(p, n) where the negative is closer to the positive (Balntas et al. 2016). Off by
    /// default.
    pub swap: bool,
    /// log(1 + exp(·)) in place of the hinge (Hermans et al. 2017). Off by default; the margin may then be 0.
    pub smooth_loss: bool,
    /// How many triplets of each anchor count where none are given: all (the default), or a number drawn at random.
    pub triplets_per_anchor: TripletsPerAnchor,
    /// Seeds the draws; 0.
    pub seed: u64,
}

impl Default for TripletMarginConfig {
    fn default() -> Self {
        Self {
            margin: 0.05,
            swap: false,
            smooth_loss: false,
            triplets_per_anchor: TripletsPerAnchor::default(),
            seed: 0,
        }
    }
}

impl TripletMarginConfig {
    pub(crate) fn check(&self) -> Result<()> {
        finite("TripletMargin", &[("margin", self.margin)])?;
        self.triplets_per_anchor.check("TripletMargin")
    }
}

/// [D(a, p) − D(a, n) + m]₊ for each triplet, [s(a, n) − s(a, p) + m]₊ for similarities; log(1 + exp(·)) in place of
/// the hinge if smooth. With swap, D(p, n) takes the place of D(a, n) where n is closer to p than to a.
///
/// Part `loss`, a loss a triplet, usually averaged over the nonzero ones ([`AvgNonZero`](crate::AvgNonZero)). Without a
/// miner all valid triplets count.
///
/// # Distances
/// Any. Under a divergence both terms of a triplet have the anchor on the same side. With swap the positive takes the
/// place of the anchor: D_φ(p ‖ n) with `Side::First`, D_φ(n ‖ p) with `Side::Second`. With a separate reference set
/// swap compares rows of that set with one another (O(m²) memory more), where pytorch-metric-learning takes the wrong
/// rows.
/// # Cost
/// With p positives and q negatives an anchor: O(n·p·q) time and O(nm) memory, as triplets are visited, with swap too;
/// a number of `triplets_per_anchor` lists that many an anchor; unreduced losses are as many numbers as there are
/// triplets.
/// # Source
/// Weinberger & Saul 2009 \[weinberger2009\]; Schroff et al. 2015 \[schroff2015\], equation 3; Balntas et al. 2016
/// \[balntas2016\] (swap); Hermans et al. 2017 \[hermans2017\] (smooth).
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let value = |swap| -> Result<f64> {
///     let config = TripletMarginConfig { margin: 2.5, swap, ..Default::default() };
///     let loss = Objective::new(Arc::new(TripletMargin { distance: Arc::new(Lp::raw(2.0)), config }));
///     let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
///     Ok(loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar()?)
/// };
/// // (0, 1, 2): 1 − 3 + 2.5, and (1, 0, 2): 1 − 2 + 2.5; with swap 1 − 2 + 2.5 for both.
/// assert!((value(false)? - 1.0).abs() < 1e-12 && (value(true)? - 1.5).abs() < 1e-12);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TripletMargin {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// Margin, swap, smoothness.
    pub config: TripletMarginConfig,
}

/// max(0, D(a, p) − D(a, n) + m), or its softplus; `sign` is 1 for distances and −1 for similarities. Which of the two
/// is known when the loops over triplets are compiled: a choice within them would keep them from being vectorized.
struct Violation<const SMOOTH: bool> {
    sign: f64,
    margin: f64,
}

impl<const SMOOTH: bool> Violation<SMOOTH> {
    #[inline(always)]
    fn at<T: Real>(&self, positive: T, value: T) -> T {
        positive - T::from_f64(self.sign) * value
    }
}

impl<const SMOOTH: bool> TripletForm for Violation<SMOOTH> {
    type Positive<T: Real> = T;

    #[inline(always)]
    fn positive<T: Real>(&self, _: usize, value: T) -> T {
        T::from_f64(self.sign) * value + T::from_f64(self.margin)
    }

    #[inline(always)]
    fn loss<T: Real>(&self, positive: T, _: usize, value: T) -> T {
        let violation = self.at(positive, value);
        if SMOOTH { rows::softplus(violation).0 } else { rows::hinge(violation).0 }
    }

    #[inline(always)]
    fn slopes<T: Real>(&self, positive: T, _: usize, value: T) -> (T, T) {
        let violation = self.at(positive, value);
        let slope = if SMOOTH { rows::softplus(violation).1 } else { rows::hinge(violation).1 };
        let slope = slope * T::from_f64(self.sign);
        (slope, -slope)
    }
}

impl TripletMargin {
    fn reduced_by(
        &self,
        batch: &Batch,
        tuples: Option<&Tuples>,
        reducer: &dyn Reducer,
        form: impl TripletForm,
    ) -> Result<Reduced> {
        let triplets = TripletTable::new(batch, tuples);
        if self.config.swap {
            return swapped_rows::reduced(batch, &self.distance, &triplets, &form, reducer);
        }
        let matrix = batch.pairs(&self.distance)?;
        let mut sum = TupleSum::new(&matrix, reducer, batch.labels())?;
        match sum.add("loss", &TripletRows { triplets: &triplets, form }, |_| Ok(None))? {
            Added::Yes => Ok(Reduced::of(sum.finish(None)?)),
            Added::No => Ok(Reduced::Unknown),
        }
    }
}

impl Loss for TripletMargin {
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        self.config.check()?;
        // Drawn triplets are few.
        if tuples.is_none() && !self.config.triplets_per_anchor.is_all() {
            return Ok(Reduced::Unknown);
        }
        if batch.nothing() {
            return Ok(Reduced::Nothing);
        }
        let sign = if self.distance.larger_is_closer() { -1.0 } else { 1.0 };
        let margin = self.config.margin;
        match self.config.smooth_loss {
            false => self.reduced_by(batch, tuples, reducer, Violation::<false> { sign, margin }),
            true => self.reduced_by(batch, tuples, reducer, Violation::<true> { sign, margin }),
        }
    }

    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        let triplets = match tuples {
            Some(tuples) => tuples.to_triplets(),
            None => self.config.triplets_per_anchor.triplets(batch, self.config.seed)?,
        };
        if triplets.is_empty() {
            return Ok(Vec::new());
        }
        let Triplets { anchor, positive, negative } = &triplets;
        let distance = &*self.distance;
        let matrix = batch.all_pairs(distance)?; // [n, m]
        let to_positive = entries(&matrix, anchor, positive)?; // [k]
        let to_negative = entries(&matrix, anchor, negative)?; // [k]
        let mut violation = distance.margin(&to_positive, &to_negative)?; // [k]
        if self.config.swap {
            let columns = match batch.has_reference() {
                true => &distance.all_pairs(batch.columns(), batch.columns())?, // [m, m]
                false => &matrix,
            };
            let across = entries(columns, positive, negative)?; // [k]
            let swapped = distance.margin(&to_positive, &across)?;
            let seen = swapped.detach();
            let take = (seen.gt(&violation.detach())? + seen.ne(&seen)?)?; // NaN is neither, and stays
            violation = take.where_cond(&swapped, &violation)?;
        }
        let violation = (violation + self.config.margin)?;
        let losses = if self.config.smooth_loss { softplus(&violation)? } else { hinge(&violation)? };
        Ok(vec![Part::new("loss", losses, Index::Triplets(triplets))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(AvgNonZero)
    }
}
