//! Directed matching: query i is to find item i, its own, among all items.
//!
//! The query may be a part or a noisy sample of the item, and then D(query ‖ item) and D(item ‖ query) are two
//! different searches.

use crate::{
    Error, Gallery, Result, Scorer,
    ranking::zero,
    scorer::{PerQuery, Real, candidates, for_each_query},
};

/// The rank of each query's own item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matching {
    ranks: Vec<usize>,
}

impl Matching {
    /// The rank of item i for query i, from 1.
    pub fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// 1 / rank, query by query.
    pub fn reciprocal_ranks(&self) -> Vec<f64> {
        self.ranks.iter().map(|&rank| 1.0 / rank as f64).collect()
    }

    /// MRR, the mean of the reciprocal ranks.
    pub fn mean_reciprocal_rank(&self) -> f64 {
        self.reciprocal_ranks().iter().sum::<f64>() / self.ranks.len() as f64
    }

    /// The share of queries whose item is among the first `k`: 1 where that is all of them or more.
    ///
    /// # Errors
    /// [`Error::Config`] for a `k` of 0.
    pub fn recall_at(&self, k: usize) -> Result<f64> {
        if k == 0 {
            return Err(zero("Matching::recall_at", "k"));
        }
        Ok(self.ranks.iter().filter(|&&rank| rank <= k).count() as f64 / self.ranks.len() as f64)
    }
}

/// Ranks all m items for each of n ≤ m queries and finds where item i stands for query i.
///
/// Equal scores are ordered by the smaller index.
///
/// # Errors
/// [`Error::Shape`] when there are more queries than items, or no query; [`Error::NotANumber`] names the query and
/// item of the first NaN.
/// # Examples
/// ```
/// use candle_core::{Device, Tensor};
/// use dml_retrieval::{Closer, Matrix, match_items};
/// let distances = Tensor::new(&[[0.1f32, 0.5, 0.9], [0.2, 0.3, 0.4]], &Device::Cpu)?;
/// let matching = match_items(&Matrix::new(&distances, Closer::Smaller)?)?;
/// assert_eq!(matching.ranks(), [1, 2]);
/// assert_eq!(matching.mean_reciprocal_rank(), 0.75);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn match_items(scorer: &dyn Scorer) -> Result<Matching> {
    let op = "match_items";
    candidates(op, scorer, Gallery::Separate)?;
    let (n, n_items) = scorer.dims();
    if n_items < n {
        let expected = format!("[{n}, m] with {n} ≤ m, since item i belongs to query i");
        return Err(Error::Shape { op, arg: "scorer", got: vec![n, n_items], expected });
    }
    Ok(Matching { ranks: for_each_query(op, scorer, &OwnRank)? })
}

struct OwnRank;

impl PerQuery for OwnRank {
    type Scratch = ();
    type Output = usize;

    fn query<T: Real>(&self, _: &mut (), query: usize, distances: &[T]) -> usize {
        let own = distances[query];
        let (before, after) = distances.split_at(query);
        1 + before.iter().filter(|&&d| d <= own).count() + after.iter().filter(|&&d| d < own).count()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::{Closer, Matrix};

    #[test]
    fn ties_count_against_the_larger_index() -> Result<()> {
        let same = Tensor::ones((3, 4), candle_core::DType::F64, &Device::Cpu)?;
        let matching = match_items(&Matrix::new(&same, Closer::Larger)?)?;
        assert_eq!(matching.ranks(), [1, 2, 3]);
        assert_eq!(matching.recall_at(2)?, 2.0 / 3.0);
        assert_eq!((matching.recall_at(4)?, matching.recall_at(10)?), (1.0, 1.0));
        assert_eq!(
            matching.recall_at(0).unwrap_err().to_string(),
            "Matching::recall_at: `k` is 0, expected at least 1"
        );
        Ok(())
    }

    #[test]
    fn more_queries_than_items_is_an_error() {
        let tall = Tensor::ones((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(
            match_items(&Matrix::new(&tall, Closer::Smaller).unwrap()).unwrap_err().to_string(),
            "match_items: `scorer` has shape [3, 2], expected [3, m] with 3 ≤ m, since item i belongs to query i"
        );
    }
}
