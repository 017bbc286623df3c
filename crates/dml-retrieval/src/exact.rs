//! Exact k nearest neighbours: all distances, a block of queries at a time, and a partial selection a query.
//!
//! Equal distances are ordered by the smaller index, so that a result is a function of its input.

use crate::{
    Closer, Error, Gallery, Result, Scorer,
    scorer::{PerQuery, Real, candidates, for_each_query},
};

/// The k nearest items of each of n queries, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbors {
    k: usize,
    indices: Vec<u32>, // n·k
    scores: Vec<f64>,  // n·k
}

impl Neighbors {
    /// k.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The number of queries.
    pub fn n_queries(&self) -> usize {
        self.indices.len() / self.k
    }

    /// The items nearest to `query`, nearest first; empty when there is no such query.
    pub fn indices(&self, query: usize) -> &[u32] {
        self.indices.chunks_exact(self.k).nth(query).unwrap_or_default()
    }

    /// The scores of [`indices`](Self::indices), as the scorer gave them.
    pub fn scores(&self, query: usize) -> &[f64] {
        self.scores.chunks_exact(self.k).nth(query).unwrap_or_default()
    }
}

/// The `k` nearest items of each query, exactly.
///
/// O(nm) distances, of which a bounded block is held at a time; O(m + k log k) per query to select, queries in
/// parallel. Equal scores are ordered by the smaller index.
///
/// # Errors
/// [`Error::K`] unless 1 ≤ `k` ≤ the items each query is ranked against; [`Error::NotANumber`] names the query and
/// item of the first NaN; [`Error::Shape`] when one side is empty.
/// # Examples
/// ```
/// use {bregman::Side, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// use dml_retrieval::{Divergence, Gallery, k_nearest};
///
/// let gallery = Tensor::new(&[[0f32, 0.], [3., 4.], [6., 8.]], &Device::Cpu)?;
/// let query = Tensor::new(&[[5f32, 7.]], &Device::Cpu)?;
/// let found = k_nearest(&Divergence::new(&SquaredEuclidean, Side::First, &query, &gallery)?, 2, Gallery::Separate)?;
/// assert_eq!(found.indices(0), [2, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn k_nearest(scorer: &dyn Scorer, k: usize, gallery: Gallery) -> Result<Neighbors> {
    let op = "k_nearest";
    let available = candidates(op, scorer, gallery)?;
    if k == 0 || k > available {
        return Err(Error::K { op, k, available });
    }
    let rows = for_each_query(op, scorer, &Nearest { k, gallery })?;
    let sign = if scorer.closer() == Closer::Larger { -1.0 } else { 1.0 };
    let (mut indices, mut scores) = (Vec::with_capacity(rows.len() * k), Vec::with_capacity(rows.len() * k));
    for (index, distance) in rows.into_iter().flatten() {
        indices.push(index);
        scores.push(sign * distance);
    }
    Ok(Neighbors { k, indices, scores })
}

struct Nearest {
    k: usize,
    gallery: Gallery,
}

impl PerQuery for Nearest {
    type Scratch = Vec<(u32, f64)>;
    type Output = Vec<(u32, f64)>;

    fn query<T: Real>(&self, scratch: &mut Self::Scratch, query: usize, distances: &[T]) -> Self::Output {
        let own = (self.gallery == Gallery::IncludesQueries).then_some(query);
        scratch.clear();
        let items = distances.iter().enumerate().filter(|&(j, _)| Some(j) != own);
        scratch.extend(items.map(|(j, &d)| (j as u32, d.into())));
        let order = |a: &(u32, f64), b: &(u32, f64)| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0));
        // `total_cmp` tells −0 from 0, which are the same distance.
        scratch.iter_mut().for_each(|(_, d)| *d += 0.0);
        if self.k < scratch.len() {
            scratch.select_nth_unstable_by(self.k - 1, order);
            scratch.truncate(self.k);
        }
        scratch.sort_unstable_by(order);
        scratch.clone()
    }
}

#[cfg(test)]
mod tests {
    use bregman::Side;
    use candle_core::{Device, Tensor};
    use phi::SquaredEuclidean;

    use super::*;
    use crate::{Divergence, Matrix};

    fn matrix(rows: &[&[f64]]) -> Matrix {
        let data = rows.concat();
        let t = Tensor::from_vec(data, (rows.len(), rows[0].len()), &Device::Cpu).unwrap();
        Matrix::new(&t, Closer::Smaller).unwrap()
    }

    #[test]
    fn ties_go_to_the_smaller_index_and_the_query_is_left_out() {
        let m = matrix(&[&[0.0, 1.0, 1.0, -0.0], &[5.0, 0.0, 5.0, 5.0]]);
        let found = k_nearest(&m, 3, Gallery::IncludesQueries).unwrap();
        assert_eq!(found.indices(0), [3, 1, 2]);
        assert_eq!(found.indices(1), [0, 2, 3]);
        assert_eq!(found.scores(1), [5.0, 5.0, 5.0]);
        assert_eq!((found.n_queries(), found.indices(2)), (2, &[][..]));
        let found = k_nearest(&m, 2, Gallery::Separate).unwrap();
        assert_eq!(found.indices(0), [0, 3]); // −0 and 0 tie
    }

    #[test]
    fn k_beyond_the_gallery_is_an_error() {
        let m = matrix(&[&[0.0, 1.0], &[1.0, 0.0]]);
        assert_eq!(
            k_nearest(&m, 2, Gallery::IncludesQueries).unwrap_err().to_string(),
            "k_nearest: `k` is 2, expected 1 to 1, the items each query is ranked against; ask for fewer \
             neighbours or give a larger gallery"
        );
        assert!(k_nearest(&m, 0, Gallery::Separate).is_err());
        assert!(k_nearest(&m, 2, Gallery::Separate).is_ok());
        let single = matrix(&[&[0.0]]);
        assert!(matches!(
            k_nearest(&single, 1, Gallery::IncludesQueries),
            Err(Error::K { available: 0, .. })
        ));
    }

    #[test]
    fn nan_names_query_and_item() {
        let m = matrix(&[&[0.0, 1.0], &[1.0, f64::NAN]]);
        assert_eq!(
            k_nearest(&m, 1, Gallery::Separate).unwrap_err().to_string(),
            "k_nearest: the distance of query 1 to item 1 is NaN; look for NaN or overflow in embeddings and \
             parameters"
        );
    }

    #[test]
    fn a_gallery_that_cannot_include_the_queries_is_an_error() {
        let m = matrix(&[&[0.0], &[1.0]]);
        assert_eq!(
            k_nearest(&m, 1, Gallery::IncludesQueries).unwrap_err().to_string(),
            "k_nearest: `scorer` has shape [2, 1], expected [2, m] with 2 ≤ m, since the gallery includes the \
             queries"
        );
    }

    #[test]
    fn empty_sides_are_errors() {
        let empty = Tensor::zeros((0, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let m = Matrix::new(&empty, Closer::Smaller).unwrap();
        assert_eq!(
            k_nearest(&m, 1, Gallery::Separate).unwrap_err().to_string(),
            "k_nearest: `scorer` has shape [0, 3], expected [n, m] with at least one query and one item"
        );
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(
            Divergence::new(&SquaredEuclidean, Side::First, &x, &empty).unwrap_err().to_string(),
            "Divergence::new: `gallery` has shape [0, 3], expected [n, d] with at least one row and one column"
        );
        let wide = Tensor::zeros((2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(
            Divergence::new(&SquaredEuclidean, Side::First, &x, &wide).unwrap_err().to_string(),
            "Divergence::new: `gallery` has shape [2, 4], expected [m, 3]"
        );
    }

    #[test]
    fn whole_numbers_are_no_distances() {
        let t = Tensor::new(&[[1u32, 2]], &Device::Cpu).unwrap();
        assert_eq!(
            Matrix::new(&t, Closer::Smaller).unwrap_err().to_string(),
            "Matrix::new: `scores` holds U32, expected F32 or F64; convert it with `to_dtype`"
        );
    }
}
