//! A gallery that is evaluated once, for the divergences of many queries.

use candle_core::Tensor;
use dml_kernels::LiftedPairs;
use phi::Generator;

use crate::{
    Result, Side,
    pairs::{LiftedRows, Pairs, Points, widened},
    pivot::center_of,
};

/// Queries of a tile. All tiles are of one size, so that the bits of a divergence do not depend on what else is asked
/// for: a matrix product rounds according to the size of its matrices.
const QUERIES: usize = 16;
/// Items of a tile, which bound its memory.
const ITEMS: usize = 16_384;

/// Items `[m, d]` to which divergences of queries are asked for, block by block.
///
/// On the CPU all is computed in f64. A divergence has the same bits whether its query comes alone or among others.
///
/// # Examples
/// ```
/// # use {bregman::{Gallery, Side}, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let items = Tensor::new(&[[1e4f32, 0.], [1e4, 1e-3], [-1e4, 0.]], &Device::Cpu)?;
/// let gallery = Gallery::new(&SquaredEuclidean, Side::First, &items)?;
/// let d = gallery.divergences(&items.narrow(0, 0, 1)?)?.to_vec2::<f64>()?;
/// assert!(d[0][0] == 0.0 && (d[0][1] / 1e-6 - 1.0).abs() < 1e-6 && d[0][2] == 4e8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gallery<'a> {
    pairs: Pairs<'a>,
    items: Tensor, // [m, d], widened
    pivot: Tensor, // [1, d]
    lifted: LiftedRows,
}

impl<'a> Gallery<'a> {
    /// The items, for queries on the side `query`.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs), of which the items are one argument.
    pub fn new(phi: &'a dyn Generator, query: Side, items: &Tensor) -> Result<Self> {
        let pairs = Pairs { op: "Gallery", phi, form: query.into(), scale: 1.0, infinite: true };
        Self::of(pairs, Points { arg: "items", rows: items })
    }

    pub(crate) fn of(pairs: Pairs<'a>, items: Points<'_>) -> Result<Self> {
        pairs.check(items, items)?;
        let rows = widened(&items.rows.detach())?.contiguous()?;
        let pivot = center_of(pairs.phi, &[&rows])?;
        let lifted = pairs.others(Points { rows: &rows, ..items }, &pivot)?.detach();
        Ok(Self { pairs, items: rows, pivot, lifted })
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.dims()[0]
    }

    /// Never: a gallery without items is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items, `[m, d]`, in f64 on the CPU.
    pub(crate) fn items(&self) -> &Tensor {
        &self.items
    }

    /// The divergences of `queries` `[n, d]` from all items, `[n, m]`, without gradients, in f64 on the CPU; non-negative,
    /// 0 for a row with itself, each to its own digits. Infinite where a row on the border of the domain makes it so, or
    /// where it is beyond the largest number.
    ///
    /// # Errors
    /// As [`all_pairs`](crate::all_pairs), of which the queries are the other argument.
    pub fn divergences(&self, queries: &Tensor) -> Result<Tensor> {
        let queries = Points { arg: "queries", rows: &widened(&queries.detach())? };
        let items = Points { arg: "items", rows: &self.items };
        self.pairs.check(queries, items)?;
        let n = queries.rows.dims()[0];
        let mut blocks = Vec::with_capacity(n.div_ceil(QUERIES));
        for start in (0..n).step_by(QUERIES) {
            let rows: Vec<u32> = (start..start + QUERIES).map(|i| i.min(n - 1) as u32).collect();
            let tile = queries.rows.index_select(&Tensor::new(rows, queries.rows.device())?, 0)?;
            let block = self.tile(Points { rows: &tile, ..queries })?; // [QUERIES, m]
            blocks.push(block.narrow(0, 0, QUERIES.min(n - start))?);
        }
        Ok(Tensor::cat(&blocks, 0)?)
    }

    fn tile(&self, queries: Points<'_>) -> Result<Tensor> {
        let left = self.pairs.anchors(queries, &self.pivot)?;
        let mut parts = Vec::with_capacity(self.len().div_ceil(ITEMS));
        for start in (0..self.len()).step_by(ITEMS) {
            let m = ITEMS.min(self.len() - start);
            let right = self.lifted.narrow(start, m)?;
            let product = LiftedPairs::new(left.side(), right.side(), false)?;
            let items = self.items.narrow(0, start, m)?;
            let exact = self.pairs.exact(product.lost(), queries, Points { arg: "items", rows: &items })?;
            parts.push(product.complete(exact.as_ref())?.tensor()?.detach());
        }
        Ok(Tensor::cat(&parts, 1)?)
    }
}
