//! Where distances of queries to items come from: a divergence between embeddings, or a ready matrix.

mod divergence;
mod matrix;

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::{Error, Result};

pub use divergence::Divergence;
pub use matrix::Matrix;

/// The most distances held at once: 32 MiB of f64, or those of sixteen queries. Results do not depend on it.
const BLOCK_ENTRIES: usize = 1 << 22;
const LEAST_QUERIES: usize = 16;

/// Which of two scores belongs to the nearer item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Closer {
    /// Distances and divergences: the smaller is the nearer.
    Smaller,
    /// Similarities, such as the cosine: the larger is the nearer.
    Larger,
}

/// What the gallery is to the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gallery {
    /// A set of its own: every item may be found.
    Separate,
    /// Row i of the gallery is query i, and is left out of the ranking for query i. Further rows may follow, so
    /// the gallery has at least as many rows as there are queries; often it is the query set itself.
    IncludesQueries,
}

/// A source of scores of n queries against m items.
pub trait Scorer: std::fmt::Debug {
    /// (n, m).
    fn dims(&self) -> (usize, usize);

    /// Which scores are nearer.
    fn closer(&self) -> Closer {
        Closer::Smaller
    }

    /// The scores of queries `rows` against all items, `[rows.len(), m]`, f32 or f64.
    ///
    /// # Errors
    /// When they cannot be computed; `rows` lies within 0..n.
    fn block(&self, rows: Range<usize>) -> Result<Tensor>;
}

/// A number that distances are stored in.
pub(crate) trait Real:
    Copy + PartialOrd + Send + Sync + Into<f64> + std::ops::Neg<Output = Self>
{
}
impl Real for f32 {}
impl Real for f64 {}

/// What is done with the distances of one query, smaller being nearer.
pub(crate) trait PerQuery: Sync {
    /// Memory that a thread keeps from query to query.
    type Scratch: Default;
    /// What comes out.
    type Output: Send;
    /// Query `query` has `distances` `[m]`, none of them NaN; ties are broken by the smaller index.
    fn query<T: Real>(&self, scratch: &mut Self::Scratch, query: usize, distances: &[T]) -> Self::Output;
}

/// Runs `work` over all queries, in parallel and in order.
pub(crate) fn for_each_query<W: PerQuery>(
    op: &'static str,
    scorer: &dyn Scorer,
    work: &W,
) -> Result<Vec<W::Output>> {
    let (n, m) = scorer.dims();
    let step = (BLOCK_ENTRIES / m.max(1) / LEAST_QUERIES * LEAST_QUERIES).max(LEAST_QUERIES);
    let mut out = Vec::with_capacity(n);
    for start in (0..n).step_by(step) {
        let rows = start..n.min(start + step);
        let block = scorer.block(rows.clone())?; // [rows, m]
        if block.dims() != [rows.len(), m] {
            let expected = format!("[{}, {m}]", rows.len());
            return Err(Error::Shape { op, arg: "block", got: block.dims().to_vec(), expected });
        }
        let block = block.detach().to_device(&Device::Cpu)?.contiguous()?.flatten_all()?;
        match block.dtype() {
            DType::F32 => run(op, block.to_vec1::<f32>()?, scorer.closer(), start, m, work, &mut out)?,
            DType::F64 => run(op, block.to_vec1::<f64>()?, scorer.closer(), start, m, work, &mut out)?,
            got => return Err(Error::DType { op, arg: "block", got }),
        }
    }
    Ok(out)
}

fn run<T: Real, W: PerQuery>(
    op: &'static str,
    mut scores: Vec<T>,
    closer: Closer,
    start: usize,
    m: usize,
    work: &W,
    out: &mut Vec<W::Output>,
) -> Result<()> {
    // One pass without branches decides in the usual case; the search only finds the culprit.
    let nan = |s: T| s.partial_cmp(&s).is_none();
    if scores.iter().fold(false, |any, &s| any | nan(s))
        && let Some(at) = scores.iter().position(|&s| nan(s))
    {
        return Err(Error::NotANumber { op, row: start + at / m, column: at % m });
    }
    if closer == Closer::Larger {
        scores.iter_mut().for_each(|s| *s = -*s);
    }
    let rows = scores.par_chunks(m).enumerate();
    let results: Vec<_> =
        rows.map_init(W::Scratch::default, |scratch, (i, row)| work.query(scratch, start + i, row)).collect();
    out.extend(results);
    Ok(())
}

/// Checks that both sides are there and that a gallery said to include the queries can, and returns how many items
/// each query is ranked against.
pub(crate) fn candidates(op: &'static str, scorer: &dyn Scorer, gallery: Gallery) -> Result<usize> {
    let (n, m) = scorer.dims();
    if n == 0 || m == 0 {
        let expected = "[n, m] with at least one query and one item".to_owned();
        return Err(Error::Shape { op, arg: "scorer", got: vec![n, m], expected });
    }
    match gallery {
        Gallery::Separate => Ok(m),
        Gallery::IncludesQueries if m < n => {
            let expected = format!("[{n}, m] with {n} ≤ m, since the gallery includes the queries");
            Err(Error::Shape { op, arg: "scorer", got: vec![n, m], expected })
        }
        Gallery::IncludesQueries => Ok(m - 1),
    }
}
