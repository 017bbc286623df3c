//! Reducers: from the unreduced losses of one part to its value.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use candle_core::Tensor;
use dml_kernels::{Band, Tally};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Index, Part, Result,
    error::{finite, name_of},
    tensor::{fill_unless, ones_like, upload, zeros_like},
};

/// From unreduced losses to a value.
///
/// Every member but [`DoNothing`] is a weighted sum of the losses, so tuples need not be listed for it; they nest
/// freely. In the formulas l_1 … l_k are the losses of a part.
pub trait Reducer: Debug + Send + Sync {
    /// Reduces one part, `part.losses` `[k]` → a scalar (or `[k]` for [`DoNothing`]); `labels` are those of the
    /// batch, whose rows the anchors of the part index.
    ///
    /// # Errors
    /// [`Error::Class`] when a label has no weight, [`Error::Config`] when a divisor is missing.
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor>;

    /// The same for the part of this name as a weighted sum, for losses whose tuples are too many to list; `None` where
    /// it is none.
    ///
    /// # Errors
    /// As [`reduce`](Self::reduce).
    fn weighing(&self, part: &'static str) -> Result<Option<&dyn Weighing>> {
        let _ = part;
        Ok(None)
    }

    /// As [`weighing`](Self::weighing) for a part whose losses belong to single rows, [`Index::Rows`], however many a
    /// row has: some reducers treat these differently.
    ///
    /// # Errors
    /// As [`reduce`](Self::reduce).
    fn weighing_of_rows(&self, part: &'static str) -> Result<Option<&dyn Weighing>> {
        self.weighing(part)
    }

    /// Whether a tuple that occurs several times counts once. Losses then take no short way over such tuples.
    fn counts_once(&self) -> bool {
        false
    }
}

/// A reducer as the sum of the losses within bounds, each times a weight of its anchor.
pub trait Weighing {
    /// Losses at or below the first bound or at or above the second do not count.
    fn band(&self) -> (Option<f64>, Option<f64>) {
        (None, None)
    }

    /// The weight of each row's losses, from the tallies of the rows; `part` and its divisor are those of the losses.
    ///
    /// # Errors
    /// As [`Reducer::reduce`].
    fn weights(
        &self,
        part: &'static str,
        divisor: Option<f64>,
        tallies: &[Tally],
        labels: &[i64],
    ) -> Result<Vec<f64>>;
}

/// One weight for all rows.
fn evenly(tallies: &[Tally], weight: f64) -> Vec<f64> {
    vec![weight; tallies.len()]
}

fn total(tallies: &[Tally], of: impl Fn(&Tally) -> f64) -> f64 {
    tallies.iter().map(of).sum::<f64>().max(1.0)
}

/// The mean, Σ l / k.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean;

impl Reducer for Mean {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        Ok(part.losses.mean_all()?)
    }

    fn weighing(&self, _: &'static str) -> Result<Option<&dyn Weighing>> {
        Ok(Some(self))
    }
}

impl Weighing for Mean {
    fn weights(&self, _: &'static str, _: Option<f64>, tallies: &[Tally], _: &[i64]) -> Result<Vec<f64>> {
        Ok(evenly(tallies, 1.0 / total(tallies, |t| t.count)))
    }
}

/// The sum, Σ l.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum;

impl Reducer for Sum {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        Ok(part.losses.sum_all()?)
    }

    fn weighing(&self, _: &'static str) -> Result<Option<&dyn Weighing>> {
        Ok(Some(self))
    }
}

impl Weighing for Sum {
    fn weights(&self, _: &'static str, _: Option<f64>, tallies: &[Tally], _: &[i64]) -> Result<Vec<f64>> {
        Ok(evenly(tallies, 1.0))
    }
}

/// The losses as they are, `[k]`. An [`Objective`](crate::Objective) refuses it: use
/// [`Objective::unreduced`](crate::Objective::unreduced).
#[derive(Debug, Clone, Copy, Default)]
pub struct DoNothing;

impl Reducer for DoNothing {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        Ok(part.losses.clone())
    }
}

/// The mean of the losses above `low` and below `high`; 0 with gradient 0 where none is.
///
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let losses = Tensor::new(&[0f32, 1., 3., 9.], &Device::Cpu)?;
/// let part = Part::new("loss", losses, Index::Rows(vec![0, 1, 2, 3]));
/// let reducer = Threshold { low: Some(0.5), high: Some(5.0) };
/// assert_eq!(reducer.reduce(&part, &[0; 4])?.to_scalar::<f32>()?, 2.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Threshold {
    /// Losses must exceed this.
    pub low: Option<f64>,
    /// Losses must stay below this.
    pub high: Option<f64>,
}

impl Reducer for Threshold {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        self.check()?;
        let losses = part.losses.detach();
        let mut keep = ones_like(&losses)?.ge(0.5)?; // [k], u8
        if let Some(low) = self.low {
            keep = losses.le(low)?.eq(0u8)?; // a NaN counts, and is seen
        }
        if let Some(high) = self.high {
            keep = (keep * losses.ge(high)?.eq(0u8)?)?;
        }
        let count = keep.to_dtype(losses.dtype())?.sum_all()?.maximum(1.0)?;
        Ok((fill_unless(&part.losses, &keep, 0.0)?.sum_all()? / count)?)
    }

    fn weighing(&self, _: &'static str) -> Result<Option<&dyn Weighing>> {
        self.check()?;
        Ok(Some(self))
    }
}

impl Threshold {
    fn check(self) -> Result<()> {
        let bounds = [("low", self.low), ("high", self.high)];
        match bounds.iter().find(|(_, bound)| bound.is_some_and(f64::is_nan)) {
            None => Ok(()),
            Some((field, _)) => Err(Error::config("Threshold", field, f64::NAN, "a number, or none")),
        }
    }
}

impl Weighing for Threshold {
    fn band(&self) -> (Option<f64>, Option<f64>) {
        (self.low, self.high)
    }

    fn weights(&self, _: &'static str, _: Option<f64>, tallies: &[Tally], _: &[i64]) -> Result<Vec<f64>> {
        Ok(evenly(tallies, 1.0 / total(tallies, |t| t.inside)))
    }
}

/// The mean of the losses above 0, [`Threshold`] with `low` = 0, so that satisfied tuples do not dilute the rest; 0
/// with gradient 0 where none is.
#[derive(Debug, Clone, Copy, Default)]
pub struct AvgNonZero;

impl Reducer for AvgNonZero {
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor> {
        Threshold { low: Some(0.0), high: None }.reduce(part, labels)
    }

    fn weighing(&self, _: &'static str) -> Result<Option<&dyn Weighing>> {
        Ok(Some(self))
    }
}

impl Weighing for AvgNonZero {
    fn band(&self) -> (Option<f64>, Option<f64>) {
        (Some(0.0), None)
    }

    fn weights(&self, _: &'static str, _: Option<f64>, tallies: &[Tally], _: &[i64]) -> Result<Vec<f64>> {
        Ok(evenly(tallies, 1.0 / total(tallies, |t| t.inside)))
    }
}

/// The mean of the losses, each times the weight of its anchor's class: Σ w_c(j)·l_j / k.
///
/// The class of a pair or triplet is that of its anchor. Losses of rows are weighted in the same way for every loss
/// (pytorch-metric-learning spreads those of multi-similarity, circle and generalized lifted structure over a table).
///
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let losses = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
/// let part = Part::new("loss", losses, Index::Rows(vec![0, 1]));
/// let reducer = ClassWeighted { weights: vec![1.0, 0.5] };
/// assert_eq!(reducer.reduce(&part, &[1, 0])?.to_scalar::<f32>()?, 0.5 * (0.5 * 1.0 + 1.0 * 2.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassWeighted {
    /// A weight for each class 0 … classes − 1.
    pub weights: Vec<f64>,
}

impl Reducer for ClassWeighted {
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor> {
        let weight = |&anchor: &u32| {
            let row = anchor as usize;
            let label = match part.index {
                Index::Classes(_) => i64::from(anchor),
                _ => labels.get(row).copied().unwrap_or(-1),
            };
            self.weight(row, label)
        };
        let weights: Vec<f64> = part.index.anchors().iter().map(weight).collect::<Result<_>>()?;
        let weights = upload(weights, part.losses.shape().clone(), &part.losses)?;
        Ok((&part.losses * weights)?.mean_all()?)
    }

    fn weighing(&self, _: &'static str) -> Result<Option<&dyn Weighing>> {
        Ok(Some(self))
    }
}

impl ClassWeighted {
    fn weight(&self, row: usize, label: i64) -> Result<f64> {
        let weight = usize::try_from(label).ok().and_then(|class| self.weights.get(class));
        let classes = self.weights.len();
        let weight = *weight.ok_or(Error::Class { op: "ClassWeighted", row, label, classes })?;
        finite("ClassWeighted", &[("weights", weight)])?;
        Ok(weight)
    }
}

impl Weighing for ClassWeighted {
    fn weights(
        &self,
        _: &'static str,
        _: Option<f64>,
        tallies: &[Tally],
        labels: &[i64],
    ) -> Result<Vec<f64>> {
        let share = 1.0 / total(tallies, |t| t.count);
        let rows = tallies.iter().zip(labels).enumerate();
        rows.map(|(row, (tally, &label))| match tally.count {
            0.0 => Ok(0.0),
            _ => Ok(share * self.weight(row, label)?),
        })
        .collect()
    }
}

/// First the mean over each anchor's pairs or triplets, 0 for an anchor without any, then another reducer over the
/// anchors, one loss for each row of the batch. Losses of single rows or classes go to that reducer as they are.
///
/// Pairs and triplets are a set: one that is listed several times, as (a, p) is by all triplets that share it, counts
/// once, in value and gradient. (pytorch-metric-learning counts it once in the value, but once for each listing in
/// the gradient, which is then not that of the value.)
///
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let losses = Tensor::new(&[1f32, 3., 6.], &Device::Cpu)?;
/// let pairs = PairList { anchor: vec![0, 0, 1], other: vec![1, 2, 0] };
/// let part = Part::new("loss", losses, Index::Pairs(pairs));
/// let reducer = PerAnchor { reducer: Arc::new(Mean) };
/// // Anchors 0, 1 and 2 have the means 2, 6 and 0.
/// assert!((reducer.reduce(&part, &[0, 0, 1])?.to_scalar::<f32>()? - 8.0 / 3.0).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PerAnchor {
    /// The reducer over anchors.
    pub reducer: Arc<dyn Reducer>,
}

impl Reducer for PerAnchor {
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor> {
        if matches!(part.index, Index::Rows(_) | Index::Classes(_) | Index::Whole) {
            return self.reducer.reduce(part, labels);
        }
        let n = labels.len();
        let anchors = part.index.anchors();
        let times = part.index.times_listed();
        let mut counts = vec![0.0f64; n];
        for (position, &index) in anchors.iter().enumerate() {
            let outside = Error::Index { op: "PerAnchor", arg: "anchor", position, index, rows: n };
            *counts.get_mut(index as usize).ok_or(outside)? +=
                times.as_ref().map_or(1.0, |t| 1.0 / t[position]);
        }
        let share = counts.iter().map(|&c| 1.0 / c.round().max(1.0)).collect();
        let share = upload(share, n, &part.losses)?; // [n]
        let losses = match times {
            None => part.losses.clone(),
            Some(times) => {
                let once = times.iter().map(|t| 1.0 / t).collect();
                (&part.losses * upload(once, anchors.len(), &part.losses)?)?
            }
        };
        let index = Tensor::from_slice(anchors, anchors.len(), part.losses.device())?;
        let sums = zeros_like(&share)?.index_add(&index, &losses, 0)?; // [n]
        let per_anchor = Part {
            name: part.name,
            losses: (sums * share)?,
            index: Index::Rows((0..n as u32).collect()),
            divisor: part.divisor.clone(),
        };
        self.reducer.reduce(&per_anchor, labels)
    }

    fn counts_once(&self) -> bool {
        true
    }

    fn weighing(&self, part: &'static str) -> Result<Option<&dyn Weighing>> {
        Ok(self.reducer.weighing(part)?.map(|_| self as &dyn Weighing))
    }

    fn weighing_of_rows(&self, part: &'static str) -> Result<Option<&dyn Weighing>> {
        self.reducer.weighing_of_rows(part)
    }
}

impl Weighing for PerAnchor {
    fn weights(
        &self,
        part: &'static str,
        divisor: Option<f64>,
        tallies: &[Tally],
        labels: &[i64],
    ) -> Result<Vec<f64>> {
        let Some(inner) = self.reducer.weighing(part)? else {
            let expected = "a weighted sum, as `weighing` said";
            return Err(Error::config("PerAnchor", "reducer", name_of(&*self.reducer), expected));
        };
        let (low, high) = inner.band();
        let band = Band::<f64>::new(low, high);
        let mean = |tally: &Tally| {
            let mean = tally.sum / tally.count.max(1.0);
            Tally { count: 1.0, sum: mean, inside: f64::from(u8::from(band.holds(mean))) }
        };
        let means: Vec<Tally> = tallies.iter().map(mean).collect();
        let mut weights = inner.weights(part, divisor, &means, labels)?;
        for ((weight, mean), tally) in weights.iter_mut().zip(&means).zip(tallies) {
            *weight *= mean.inside / tally.count.max(1.0);
        }
        Ok(weights)
    }
}

/// The sum of the losses over a divisor: its own, or the one the loss gives; 0 where the divisor is 0.
///
/// [`Margin`](crate::Margin), [`ProxyAnchor`](crate::ProxyAnchor) and [`SparseCenters`](crate::SparseCenters) give one;
/// for other losses name a number.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Divisor {
    /// The divisor; without it, the one that the part carries.
    pub divisor: Option<f64>,
}

impl Reducer for Divisor {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        self.check()?;
        let sum = part.losses.sum_all()?;
        let divisor = match (self.divisor, &part.divisor) {
            (Some(divisor), _) => Tensor::full(divisor, (), sum.device())?.to_dtype(sum.dtype())?,
            (None, Some(divisor)) => divisor.detach(),
            (None, None) => return Err(Self::missing(part.name)),
        };
        let some = divisor.ne(0.0)?;
        fill_unless(&(sum / fill_unless(&divisor, &some, 1.0)?)?, &some, 0.0)
    }

    fn weighing(&self, _: &'static str) -> Result<Option<&dyn Weighing>> {
        self.check()?;
        Ok(Some(self))
    }
}

impl Divisor {
    fn check(self) -> Result<()> {
        self.divisor.map_or(Ok(()), |divisor| finite("Divisor", &[("divisor", divisor)]))
    }

    fn missing(part: &str) -> Error {
        let got = format!("missing for part `{part}`");
        Error::config("Divisor", "divisor", got, "a number, as this loss gives none")
    }
}

impl Weighing for Divisor {
    fn weights(
        &self,
        part: &'static str,
        divisor: Option<f64>,
        tallies: &[Tally],
        _: &[i64],
    ) -> Result<Vec<f64>> {
        let Some(divisor) = self.divisor.or(divisor) else {
            return Err(Self::missing(part));
        };
        Ok(evenly(tallies, if divisor == 0.0 { 0.0 } else { 1.0 / divisor }))
    }
}

/// A reducer for each part of a loss, by the part's name; a part without one is an error. Their values are added.
///
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let reducer: ReducerSpec = toml::from_str(
///     r#"
///     name = "by-part"
///     reducers = { pos_loss = { name = "sum" }, neg_loss = { name = "mean" } }
///     "#,
/// )?;
/// let loss = Contrastive { distance: Arc::new(Lp::raw(2.0)), config: ContrastiveConfig::default() };
/// let objective = Objective::new(Arc::new(loss)).with_reducer(reducer.build());
/// let x = Tensor::new(&[[0f32], [1.], [3.]], &Device::Cpu)?;
/// // The positive pair, at distance 1, taken both ways.
/// assert_eq!(objective.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f32>()?, 2.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ByPart {
    /// Part name → reducer.
    pub reducers: BTreeMap<String, Arc<dyn Reducer>>,
}

impl ByPart {
    fn of(&self, part: &'static str) -> Result<&dyn Reducer> {
        self.reducers.get(part).map(|reducer| &**reducer).ok_or_else(|| {
            let known: Vec<&str> = self.reducers.keys().map(String::as_str).collect();
            let expected = format!("a reducer for each part of the loss; given: {}", known.join(", "));
            Error::config("ByPart", part, "missing", expected)
        })
    }
}

impl Reducer for ByPart {
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor> {
        self.of(part.name)?.reduce(part, labels)
    }

    fn weighing(&self, part: &'static str) -> Result<Option<&dyn Weighing>> {
        self.of(part)?.weighing(part)
    }

    fn weighing_of_rows(&self, part: &'static str) -> Result<Option<&dyn Weighing>> {
        self.of(part)?.weighing_of_rows(part)
    }

    fn counts_once(&self) -> bool {
        self.reducers.values().any(|reducer| reducer.counts_once())
    }
}

/// A reducer by name. The class names of pytorch-metric-learning are accepted as well. Reducers nest.
///
/// ```
/// # use dml_loss::ReducerSpec;
/// let text = "name = \"per-anchor\"\nreducer = { name = \"threshold\", low = 0.1 }";
/// toml::from_str::<ReducerSpec>(text)?.build();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ReducerSpec {
    /// [`Mean`].
    #[serde(alias = "MeanReducer")]
    Mean {},
    /// [`Sum`].
    #[serde(alias = "SumReducer")]
    Sum {},
    /// [`AvgNonZero`].
    #[serde(alias = "AvgNonZeroReducer")]
    AvgNonZero {},
    /// [`Threshold`].
    #[serde(alias = "ThresholdReducer")]
    Threshold {
        /// Losses must exceed this.
        #[serde(default)]
        low: Option<f64>,
        /// Losses must stay below this.
        #[serde(default)]
        high: Option<f64>,
    },
    /// [`ClassWeighted`].
    #[serde(alias = "ClassWeightedReducer")]
    ClassWeighted {
        /// A weight for each class.
        weights: Vec<f64>,
    },
    /// [`PerAnchor`].
    #[serde(alias = "PerAnchorReducer")]
    PerAnchor {
        /// The reducer over anchors.
        reducer: Box<ReducerSpec>,
    },
    /// [`Divisor`].
    #[serde(alias = "DivisorReducer")]
    Divisor {
        /// The divisor; without it, the loss's.
        #[serde(default)]
        divisor: Option<f64>,
    },
    /// [`DoNothing`].
    #[serde(alias = "DoNothingReducer")]
    DoNothing {},
    /// [`ByPart`].
    #[serde(alias = "MultipleReducers")]
    ByPart {
        /// Part name → reducer.
        reducers: BTreeMap<String, ReducerSpec>,
    },
}

impl ReducerSpec {
    /// The reducer.
    pub fn build(&self) -> Arc<dyn Reducer> {
        match self {
            Self::Mean {} => Arc::new(Mean),
            Self::Sum {} => Arc::new(Sum),
            Self::AvgNonZero {} => Arc::new(AvgNonZero),
            Self::Threshold { low, high } => Arc::new(Threshold { low: *low, high: *high }),
            Self::ClassWeighted { weights } => Arc::new(ClassWeighted { weights: weights.clone() }),
            Self::PerAnchor { reducer } => Arc::new(PerAnchor { reducer: reducer.build() }),
            Self::Divisor { divisor } => Arc::new(Divisor { divisor: *divisor }),
            Self::DoNothing {} => Arc::new(DoNothing),
            Self::ByPart { reducers } => {
                let reducers = reducers.iter().map(|(part, spec)| (part.clone(), spec.build())).collect();
                Arc::new(ByPart { reducers })
            }
        }
    }
}
