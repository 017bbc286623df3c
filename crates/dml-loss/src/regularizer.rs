//! Regularizers: what is added to a loss to keep embeddings, class tables and generators in good shape.

use std::{fmt::Debug, sync::Arc};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Mean, Parameter, Part, Reducer, Result};

mod center_invariant;
mod curvature;
mod lp_norm;
mod regular_face;
mod scale;
mod sparse_centers;
mod spec;
mod zero_mean;

pub use center_invariant::CenterInvariant;
pub use curvature::{Curvature, CurvatureConfig};
pub use lp_norm::{LpNorm, LpNormConfig};
pub use regular_face::RegularFace;
pub use scale::{Scale, ScaleConfig};
pub use sparse_centers::{SparseCenters, SparseCentersConfig};
pub(crate) use spec::one;
pub use spec::{RegularizationSpec, RegularizerSpec};
pub use zero_mean::ZeroMean;

/// A penalty on rows: embeddings, or the class table of a loss; those of generators look at φ among the embeddings.
///
/// An [`Objective`](crate::Objective) adds weight·penalty to its value
/// ([`with_regularization`](crate::Objective::with_regularization)). In the documentation of the members k is the
/// number of rows and d their width; each penalty is the mean over rows unless another is named.
pub trait Regularizer: Debug + Send + Sync {
    /// The penalties of `rows` `[k, d]`, one each or one for all; `None` where there is nothing to penalize.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when the number of rows does not fit; what a generator returns.
    fn unreduced(&self, rows: &Tensor) -> Result<Option<Part>>;

    /// The reducer it is finished with.
    fn reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(Mean)
    }

    /// The learned parameters it looks at beside the rows.
    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    /// The penalty of `rows`, a scalar; `None` where there is nothing to penalize.
    ///
    /// # Errors
    /// As [`unreduced`](Self::unreduced).
    fn penalty(&self, rows: &Tensor) -> Result<Option<Tensor>> {
        let Some(part) = self.unreduced(rows)? else { return Ok(None) };
        Ok(Some(match part.index {
            crate::Index::Whole => part.losses.sum_all()?,
            // No reducer of a regularizer asks for labels.
            _ => self.reducer().reduce(&part, &[])?,
        }))
    }
}

/// What a regularizer of an [`Objective`](crate::Objective) sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegularizedRows {
    /// The embeddings of the batch.
    #[default]
    Embeddings,
    /// The class table of the loss: proxies, centers or weight columns.
    Weights,
}

/// A regularizer with its weight, as an [`Objective`](crate::Objective) holds it.
#[derive(Debug, Clone)]
pub struct Regularization {
    /// The penalty.
    pub regularizer: Arc<dyn Regularizer>,
    /// What it sees.
    pub on: RegularizedRows,
    /// Multiplies it.
    pub weight: f64,
}
