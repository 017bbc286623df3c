//! Distances of embeddings under a generator's divergence.

use std::ops::Range;

use bregman::{Lift, Side};
use candle_core::Tensor;
use dml_kernels::matmul;
use phi::Generator;

use super::Scorer;
use crate::{Error, Result};

/// D_φ between queries and items, the queries on a side of the caller's choice.
///
/// The gallery passes through φ once; a block of queries is then one matrix product, as [`bregman::Lift`] has it.
#[derive(Debug, Clone)]
pub struct Divergence<'a> {
    lift: Lift<'a>,
    queries: &'a Tensor, // [n, d]
    lifted: Tensor,      // [d+1, m]
}

impl<'a> Divergence<'a> {
    /// `queries` `[n, d]` against `gallery` `[m, d]`; with [`Side::First`] the score is D(query ‖ item), with
    /// [`Side::Second`] D(item ‖ query).
    ///
    /// # Errors
    /// [`Error::Shape`] when the two do not fit each other; [`phi::Error::Domain`], inside [`Error::Bregman`],
    /// names the first row of either outside the domain.
    /// # Examples
    /// ```
    /// # use {bregman::Side, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
    /// use dml_retrieval::{Divergence, Gallery, k_nearest};
    /// let gallery = Tensor::new(&[[0f32, 0.], [3., 4.], [6., 8.]], &Device::Cpu)?;
    /// let scorer = Divergence::new(&SquaredEuclidean, Side::First, &gallery, &gallery)?;
    /// assert_eq!(k_nearest(&scorer, 1, Gallery::IncludesQueries)?.indices(0), [1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(
        phi: &'a dyn Generator,
        query: Side,
        queries: &'a Tensor,
        gallery: &'a Tensor,
    ) -> Result<Self> {
        let op = "Divergence::new";
        for (arg, x) in [("queries", queries), ("gallery", gallery)] {
            if x.rank() != 2 || x.elem_count() == 0 {
                let expected = "[n, d] with at least one row and one column".to_owned();
                return Err(Error::Shape { op, arg, got: x.dims().to_vec(), expected });
            }
        }
        let d = queries.dims()[1];
        if gallery.dims()[1] != d {
            let (got, expected) = (gallery.dims().to_vec(), format!("[m, {d}]"));
            return Err(Error::Shape { op, arg: "gallery", got, expected });
        }
        phi.check(op, "queries", queries).map_err(bregman::Error::from)?;
        phi.check(op, "gallery", gallery).map_err(bregman::Error::from)?;
        let lift = Lift::around(phi, gallery, query)?;
        let lifted = lift.gallery(gallery)?.detach().t()?;
        Ok(Self { lift, queries, lifted })
    }
}

impl Scorer for Divergence<'_> {
    fn dims(&self) -> (usize, usize) {
        (self.queries.dims()[0], self.lifted.dims()[1])
    }

    fn block(&self, rows: Range<usize>) -> Result<Tensor> {
        let queries = self.queries.detach().narrow(0, rows.start, rows.len())?;
        let lifted = self.lift.queries_and_offset(&queries);
        let (lifted, offset) = lifted.map_err(|error| in_whole(error, rows.start))?; // [rows, d+1], [rows]
        let scores = matmul(&lifted, &self.lifted)?; // [rows, m]
        // What rounding left below zero stays: clamped to 0 it would tie.
        Ok(offset.unsqueeze(1)?.broadcast_sub(&scores)?)
    }
}

/// An error of a block of queries that begins at row `start`, told of all queries.
fn in_whole(error: bregman::Error, start: usize) -> bregman::Error {
    match error {
        bregman::Error::NotFinite { op, what, row, .. } => {
            bregman::Error::NotFinite { op, arg: "queries", what, row: start + row }
        }
        other => other,
    }
}
