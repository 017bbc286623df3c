//! Which argument of D(· ‖ ·) the anchor or query takes: a choice the caller writes down.

use candle_core::Tensor;
use dml_kernels::PairMatrix;
use phi::Generator;

use crate::{
    Result, paired,
    pairs::{Pairs, Points},
};

/// The argument of D(x ‖ y) that the anchor (in a loss) or the query (in retrieval) takes.
///
/// The two sides are two different retrieval models: of directed pairs they differ by much, and averaging them
/// gives up what the direction is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// D(anchor ‖ other): the tangent is taken at the other point.
    First,
    /// D(other ‖ anchor): the tangent is taken at the anchor.
    Second,
}

impl Side {
    /// The other side.
    pub fn flip(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// Row by row with the anchors on this side: `anchors` `[n, d]`, `others` `[n, d]` → `[n]`.
    ///
    /// # Errors
    /// As [`paired`].
    pub fn paired(self, phi: &dyn Generator, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        match self {
            Self::First => paired(phi, anchors, others),
            Self::Second => paired(phi, others, anchors),
        }
    }

    /// Queries by items with the queries on this side: `queries` `[n, d]`, `items` `[m, d]` → `[n, m]`,
    /// row i belonging to query i on either side.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs).
    /// # Examples
    /// ```
    /// # use {bregman::Side, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
    /// let queries = Tensor::new(&[[0f32, 0.]], &Device::Cpu)?;
    /// let items = Tensor::new(&[[3f32, 4.], [1., 0.]], &Device::Cpu)?;
    /// let d = Side::Second.all_pairs(&SquaredEuclidean, &queries, &items)?;
    /// assert_eq!(d.dims(), [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn all_pairs(self, phi: &dyn Generator, queries: &Tensor, items: &Tensor) -> Result<Tensor> {
        Ok(self.pairs(phi, queries, items)?.tensor()?)
    }

    /// As [`all_pairs`](Self::all_pairs), with the way back from the gradient of the matrix to the rows: what losses of
    /// pairs work on.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs).
    pub fn pairs(self, phi: &dyn Generator, queries: &Tensor, items: &Tensor) -> Result<PairMatrix> {
        let [of_queries, of_items] = if self == Self::First { ["x", "y"] } else { ["y", "x"] };
        let pairs = Pairs { op: "all_pairs", phi, form: self.into(), scale: 1.0, infinite: false };
        pairs.matrix(Points { arg: of_queries, rows: queries }, Points { arg: of_items, rows: items })
    }
}
