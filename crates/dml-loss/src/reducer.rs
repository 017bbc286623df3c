//! Reducers: from the unreduced losses of one part to its value.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Index, Part, Result,
    tensor::{fill_unless, ones_like, upload, zeros_like},
};

/// From unreduced losses to a value.
pub trait Reducer: Debug + Send + Sync {
    /// Reduces one part, `part.losses` `[k]` → a scalar (or `[k]` for [`DoNothing`]); `labels` are those of the
    /// batch, whose rows the anchors of the part index.
    ///
    /// # Errors
    /// [`Error::Class`] when a label has no weight, [`Error::Config`] when a divisor is missing.
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor>;
}

/// The mean.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean;

impl Reducer for Mean {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        Ok(part.losses.mean_all()?)
    }
}

/// The sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum;

impl Reducer for Sum {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        Ok(part.losses.sum_all()?)
    }
}

/// The losses as they are, `[k]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct DoNothing;

impl Reducer for DoNothing {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        Ok(part.losses.clone())
    }
}

/// The mean of the losses above `low` and below `high`; 0 with gradient 0 where none is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Threshold {
    /// Losses must exceed this.
    pub low: Option<f64>,
    /// Losses must stay below this.
    pub high: Option<f64>,
}

impl Reducer for Threshold {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        let losses = part.losses.detach();
        let mut keep = ones_like(&losses)?.ge(0.5)?; // [k], u8
        if let Some(low) = self.low {
            keep = losses.gt(low)?;
        }
        if let Some(high) = self.high {
            keep = (keep * losses.lt(high)?)?;
        }
        let count = keep.to_dtype(losses.dtype())?.sum_all()?.maximum(1.0)?;
        Ok((fill_unless(&part.losses, &keep, 0.0)?.sum_all()? / count)?)
    }
}

/// The mean of the losses above 0: [`Threshold`] with `low` = 0, so that satisfied tuples do not dilute the rest.
#[derive(Debug, Clone, Copy, Default)]
pub struct AvgNonZero;

impl Reducer for AvgNonZero {
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor> {
        Threshold { low: Some(0.0), high: None }.reduce(part, labels)
    }
}

/// The mean of the losses, each times the weight of its anchor's class.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassWeighted {
    /// A weight for each class 0 … classes − 1.
    pub weights: Vec<f64>,
}

impl Reducer for ClassWeighted {
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor> {
        let weight = |&anchor: &u32| {
            let (row, classes) = (anchor as usize, self.weights.len());
            let label = match part.index {
                Index::Classes(_) => i64::from(anchor),
                _ => labels.get(row).copied().unwrap_or(-1),
            };
            let weight = usize::try_from(label).ok().and_then(|class| self.weights.get(class));
            weight.copied().ok_or(Error::Class { op: "ClassWeighted", row, label, classes })
        };
        let weights: Vec<f64> = part.index.anchors().iter().map(weight).collect::<Result<_>>()?;
        let weights = upload(weights, part.losses.shape().clone(), &part.losses)?;
        Ok((&part.losses * weights)?.mean_all()?)
    }
}

/// First the mean over each anchor's pairs or triplets, 0 for an anchor without any, then another reducer over the
/// anchors, one loss for each row of the batch. Losses of single rows or classes go to that reducer as they are.
#[derive(Debug, Clone)]
pub struct PerAnchor {
    /// The reducer over anchors.
    pub reducer: Arc<dyn Reducer>,
}

impl Reducer for PerAnchor {
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor> {
        if matches!(part.index, Index::Rows(_) | Index::Classes(_)) {
            return self.reducer.reduce(part, labels);
        }
        let n = labels.len();
        let anchors = part.index.anchors();
        let mut counts = vec![0.0f64; n];
        for (position, &index) in anchors.iter().enumerate() {
            let outside = Error::Index { op: "PerAnchor", arg: "anchor", position, index, rows: n };
            *counts.get_mut(index as usize).ok_or(outside)? += 1.0;
        }
        let share = counts.iter().map(|&c| 1.0 / c.max(1.0)).collect();
        let share = upload(share, n, &part.losses)?; // [n]
        let index = Tensor::from_slice(anchors, anchors.len(), part.losses.device())?;
        let sums = zeros_like(&share)?.index_add(&index, &part.losses, 0)?; // [n]
        let per_anchor = Part {
            name: part.name,
            losses: (sums * share)?,
            index: Index::Rows((0..n as u32).collect()),
            divisor: part.divisor.clone(),
        };
        self.reducer.reduce(&per_anchor, labels)
    }
}

/// The sum of the losses over a divisor: its own, or the one the loss gives; 0 where the divisor is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Divisor {
    /// The divisor; without it, the one that the part carries.
    pub divisor: Option<f64>,
}

impl Reducer for Divisor {
    fn reduce(&self, part: &Part, _: &[i64]) -> Result<Tensor> {
        let sum = part.losses.sum_all()?;
        let divisor = match (self.divisor, &part.divisor) {
            (Some(divisor), _) => Tensor::full(divisor, (), sum.device())?.to_dtype(sum.dtype())?,
            (None, Some(divisor)) => divisor.detach(),
            (None, None) => {
                let got = format!("missing for part `{}`", part.name);
                return Err(Error::config("Divisor", "divisor", got, "a number, as this loss gives none"));
            }
        };
        let some = divisor.ne(0.0)?;
        fill_unless(&(sum / fill_unless(&divisor, &some, 1.0)?)?, &some, 0.0)
    }
}

/// A reducer for each part of a loss, by the part's name.
#[derive(Debug, Clone, Default)]
pub struct ByPart {
    /// Part name → reducer.
    pub reducers: BTreeMap<String, Arc<dyn Reducer>>,
}

impl Reducer for ByPart {
    fn reduce(&self, part: &Part, labels: &[i64]) -> Result<Tensor> {
        let Some(reducer) = self.reducers.get(part.name) else {
            let known: Vec<&str> = self.reducers.keys().map(String::as_str).collect();
            let expected = format!("a reducer for each part of the loss; given: {}", known.join(", "));
            return Err(Error::config("ByPart", part.name, "missing", expected));
        };
        reducer.reduce(part, labels)
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
