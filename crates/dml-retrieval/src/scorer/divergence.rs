//! Distances of embeddings under a generator's divergence.

use std::ops::Range;

use bregman::{Gallery, Side};
use candle_core::Tensor;
use phi::Generator;

use super::Scorer;
use crate::{Error, Result};

/// D_φ between queries and items, the queries on a side of the caller's choice.
///
/// The gallery passes through φ once; a block of queries is then one matrix product, in f64 on the CPU, as
/// [`bregman::Gallery`] has it: each score to nine digits, 0 for a row with itself, never negative, and the same bits
/// whether a query comes alone or among others. An item infinitely far, as under Kullback–Leibler one that is 0 where
/// the query is not, ranks last.
#[derive(Debug, Clone)]
pub struct Divergence<'a> {
    gallery: Gallery<'a>,
    queries: &'a Tensor, // [n, d]
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
        let names = |error| in_whole(error, 0);
        if queries.dtype() != gallery.dtype() {
            let expected = format!("{:?} as the queries", queries.dtype());
            let (got, arg) = (gallery.dtype(), "gallery");
            return Err(bregman::Error::DType { op, arg, got, expected }.into());
        }
        let own = Gallery::new(phi, query, gallery).map_err(names)?;
        phi.check_in(phi.closure(), op, "queries", queries).map_err(bregman::Error::from)?;
        Ok(Self { gallery: own, queries })
    }
}

impl Scorer for Divergence<'_> {
    fn dims(&self) -> (usize, usize) {
        (self.queries.dims()[0], self.gallery.len())
    }

    fn block(&self, rows: Range<usize>) -> Result<Tensor> {
        let queries = self.queries.detach().narrow(0, rows.start, rows.len())?;
        let block = self.gallery.divergences(&queries);
        Ok(block.map_err(|error| in_whole(error, rows.start))?) // [rows, m]
    }
}

/// An error of a block of queries that begins at row `start`, told of all queries and of the gallery.
fn in_whole(error: bregman::Error, start: usize) -> bregman::Error {
    const OP: &str = "Divergence::new";
    let name = |arg| if arg == "items" { "gallery" } else { arg };
    match error {
        bregman::Error::NotFinite { op, what, row, arg } => {
            let row = if arg == "queries" { start + row } else { row };
            bregman::Error::NotFinite { op, arg: name(arg), what, row }
        }
        bregman::Error::Phi(phi::Error::Domain { arg, row, value, domain, .. }) => {
            phi::Error::Domain { op: OP, arg: name(arg), row, value, domain }.into()
        }
        bregman::Error::Phi(phi::Error::DType { arg, got, expected, .. }) => {
            phi::Error::DType { op: OP, arg: name(arg), got, expected }.into()
        }
        other => other,
    }
}
