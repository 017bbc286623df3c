//! Retrieval metrics: precision@1, recall@K, R-precision, MAP@R, mean average precision, mean reciprocal rank.
//!
//! An item is relevant to a query when it carries the same label. Let R be the number of relevant items and
//! r_1 < r_2 < … < r_R their ranks. Every metric is a function of these ranks:
//!
//! - precision@1 = \[r_1 = 1\], recall@K = \[r_1 ≤ K\], reciprocal rank = 1/r_1
//! - R-precision = |{j : r_j ≤ R}| / R
//! - average precision = Σ_j (j / r_j) / R, and at R the same over r_j ≤ R (Musgrave et al. 2020)
//!
//! so no ranking is ever sorted: each irrelevant item is counted between the relevant ones it lies between,
//! O(m log R) a query.

use std::collections::BTreeMap;

use crate::{
    Error, Gallery, Result, Scorer,
    scorer::{PerQuery, Real, candidates, for_each_query},
};

/// How many neighbours of a query count for [`Metric::MeanAveragePrecision`] and
/// [`Metric::MeanReciprocalRank`]; the other metrics state their own depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// The whole gallery.
    #[default]
    All,
    /// The first k, at least 1: hits beyond are not seen, though R stays the number of all relevant items. A k beyond the
    /// gallery is all of it.
    First(usize),
    /// The largest R of any query.
    MaxRelevant,
}

/// A retrieval metric, between 0 and 1, larger being better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Share of queries whose nearest item is relevant.
    PrecisionAt1,
    /// Share of queries with a relevant item among the first K, at least 1, of the whole ranking. A K beyond the gallery
    /// is all of it: 1 for every query that counts.
    RecallAt(usize),
    /// Share of relevant items among the first R.
    RPrecision,
    /// Average precision within the [`Depth`], divided by R.
    MeanAveragePrecision,
    /// Average precision within the first R, divided by R (MAP@R).
    MeanAveragePrecisionAtR,
    /// 1 / rank of the first relevant item, 0 where it lies beyond the [`Depth`].
    MeanReciprocalRank,
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PrecisionAt1 => f.write_str("P@1"),
            Self::RecallAt(k) => write!(f, "R@{k}"),
            Self::RPrecision => f.write_str("R-precision"),
            Self::MeanAveragePrecision => f.write_str("MAP"),
            Self::MeanAveragePrecisionAtR => f.write_str("MAP@R"),
            Self::MeanReciprocalRank => f.write_str("MRR"),
        }
    }
}

/// What one counted query achieved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryRanking {
    /// The row of the query.
    pub query: usize,
    /// Its label.
    pub label: i64,
    /// R, the number of relevant items, at least 1.
    pub relevant: usize,
    /// r_1, the rank of the first relevant item, from 1.
    pub first_hit: usize,
    /// R-precision.
    pub r_precision: f64,
    /// Average precision within the depth.
    pub average_precision: f64,
    /// Average precision within the first R.
    pub average_precision_at_r: f64,
    /// Reciprocal rank within the depth.
    pub reciprocal_rank: f64,
}

impl QueryRanking {
    /// The value of `metric` for this query.
    pub fn value(&self, metric: Metric) -> f64 {
        let share = |hit: bool| if hit { 1.0 } else { 0.0 };
        match metric {
            Metric::PrecisionAt1 => share(self.first_hit == 1),
            Metric::RecallAt(k) => share(self.first_hit <= k),
            Metric::RPrecision => self.r_precision,
            Metric::MeanAveragePrecision => self.average_precision,
            Metric::MeanAveragePrecisionAtR => self.average_precision_at_r,
            Metric::MeanReciprocalRank => self.reciprocal_rank,
        }
    }
}

/// The evaluation of a set of queries.
///
/// Queries without a relevant item are dropped from every mean, and counted: [`n_queries`](Self::n_queries)
/// less the number of [`queries`](Self::queries).
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    queries: Vec<QueryRanking>,
    n_queries: usize,
    candidates: usize,
}

impl Ranking {
    /// The counted queries, in order: per-query values for intervals and paired comparisons.
    pub fn queries(&self) -> &[QueryRanking] {
        &self.queries
    }

    /// All queries, counted or not.
    pub fn n_queries(&self) -> usize {
        self.n_queries
    }

    /// How many items each query was ranked against.
    pub fn n_candidates(&self) -> usize {
        self.candidates
    }

    /// The value of `metric` for each counted query.
    ///
    /// # Errors
    /// [`Error::Config`] when the K of a recall is 0, [`Error::NothingRelevant`] when no query counts.
    pub fn values(&self, metric: Metric) -> Result<Vec<f64>> {
        let op = "Ranking::values";
        if metric == Metric::RecallAt(0) {
            return Err(zero(op, "K"));
        }
        if self.queries.is_empty() {
            return Err(Error::NothingRelevant { op, queries: self.n_queries });
        }
        Ok(self.queries.iter().map(|query| query.value(metric)).collect())
    }

    /// The mean of `metric` over the counted queries.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn mean(&self, metric: Metric) -> Result<f64> {
        let values = self.values(metric)?;
        Ok(values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The mean of `metric` over all queries, those without a relevant item counting 0.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn mean_over_all(&self, metric: Metric) -> Result<f64> {
        Ok(self.values(metric)?.iter().sum::<f64>() / self.n_queries as f64)
    }

    /// The mean of `metric` over the counted queries of each class: (label, mean), by label.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn per_class(&self, metric: Metric) -> Result<Vec<(i64, f64)>> {
        let mut classes: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
        for (query, value) in self.queries.iter().zip(self.values(metric)?) {
            let (sum, count) = classes.entry(query.label).or_default();
            (*sum, *count) = (*sum + value, *count + 1.0);
        }
        Ok(classes.into_iter().map(|(label, (sum, count))| (label, sum / count)).collect())
    }

    /// The mean over classes of [`per_class`](Self::per_class): every class weighs the same.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn class_mean(&self, metric: Metric) -> Result<f64> {
        let classes = self.per_class(metric)?;
        Ok(classes.iter().map(|(_, mean)| mean).sum::<f64>() / classes.len() as f64)
    }
}

/// A cut-off of 0. One beyond the gallery is none, as in pytorch-metric-learning and torchmetrics.
pub(crate) fn zero(op: &'static str, arg: &'static str) -> Error {
    Error::Config { op, arg, got: "0".to_owned(), expected: "at least 1" }
}

/// Ranks the gallery for every query and measures where the items of its class stand.
///
/// `query_labels` has n entries, `gallery_labels` m. Equal scores are ordered by the smaller index. Queries without
/// a relevant item are dropped, and counted.
///
/// # Errors
/// [`Error::Length`] when labels and scores disagree; [`Error::Config`] for a depth of 0;
/// [`Error::NotANumber`] names the query and item of the first NaN; [`Error::Shape`] when one side is empty.
/// # Source
/// Musgrave et al. 2020 \[musgrave2020\], section 3.2, for R-precision and MAP@R.
/// # Examples
/// ```
/// use {bregman::Side, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// use dml_retrieval::{Depth, Divergence, Gallery, Metric, rank};
///
/// let x = Tensor::new(&[[0f32], [1.], [3.], [4.5]], &Device::Cpu)?;
/// let labels = [0, 0, 1, 0];
/// let scorer = Divergence::new(&SquaredEuclidean, Side::First, &x, &x)?;
/// let ranking = rank(&scorer, &labels, &labels, Gallery::IncludesQueries, Depth::All)?;
/// assert_eq!(ranking.queries().len(), 3); // the only item of class 1 has nothing to find
/// assert_eq!(ranking.mean(Metric::PrecisionAt1)?, 2.0 / 3.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn rank(
    scorer: &dyn Scorer,
    query_labels: &[i64],
    gallery_labels: &[i64],
    gallery: Gallery,
    depth: Depth,
) -> Result<Ranking> {
    let op = "rank";
    let (n, m) = scorer.dims();
    let candidates = candidates(op, scorer, gallery)?;
    let length = |arg, got, expected| Err(Error::Length { op, arg, got, expected });
    if query_labels.len() != n {
        return length("query_labels", query_labels.len(), format!("{n}, one for each query"));
    }
    if gallery_labels.len() != m {
        return length("gallery_labels", gallery_labels.len(), format!("{m}, one for each item"));
    }
    let mut members: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    for (j, &label) in gallery_labels.iter().enumerate() {
        members.entry(label).or_default().push(j as u32);
    }
    let own = |i: usize| gallery == Gallery::IncludesQueries && gallery_labels[i] == query_labels[i];
    let relevant =
        |i: usize| members.get(&query_labels[i]).map_or(0, |items| items.len() - usize::from(own(i)));
    let depth = match depth {
        Depth::All => candidates,
        Depth::First(0) => return Err(zero(op, "depth")),
        Depth::First(k) => k.min(candidates),
        Depth::MaxRelevant => (0..n).map(relevant).max().unwrap_or(0),
    };
    let work = Measure { query_labels, gallery_labels, members: &members, gallery, depth };
    let queries = for_each_query(op, scorer, &work)?.into_iter().flatten().collect();
    Ok(Ranking { queries, n_queries: n, candidates })
}

struct Measure<'a> {
    query_labels: &'a [i64],
    gallery_labels: &'a [i64],
    members: &'a BTreeMap<i64, Vec<u32>>,
    gallery: Gallery,
    depth: usize,
}

/// Of one query: the relevant items (distance and index), nearest first, and how many irrelevant ones lie right before
/// each.
#[derive(Default)]
struct Scratch {
    relevant: Vec<(f64, u32)>,
    before: Vec<usize>,
}

impl PerQuery for Measure<'_> {
    type Scratch = Scratch;
    type Output = Option<QueryRanking>;

    fn query<T: Real>(&self, scratch: &mut Scratch, query: usize, distances: &[T]) -> Self::Output {
        let label = self.query_labels[query];
        let own = (self.gallery == Gallery::IncludesQueries).then_some(query);
        let Scratch { relevant, before } = scratch;
        relevant.clear();
        let others = self.members.get(&label)?.iter().filter(|&&j| Some(j as usize) != own);
        relevant.extend(others.map(|&j| (distances[j as usize].into(), j)));
        let nearer = |a: (f64, u32), b: (f64, u32)| a.0 < b.0 || (a.0 == b.0 && a.1 < b.1);
        // No distance is NaN, and pairs compare by the index last.
        relevant.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        let farthest = *relevant.last()?;

        before.clear();
        before.resize(relevant.len(), 0);
        for (j, (&distance, &item_label)) in distances.iter().zip(self.gallery_labels).enumerate() {
            let item = (distance.into(), j as u32);
            if nearer(item, farthest) && item_label != label && Some(j) != own {
                let mut place = relevant.partition_point(|r| r.0 < item.0);
                if relevant[place].0 == item.0 {
                    place = relevant.partition_point(|&r| nearer(r, item));
                }
                before[place] += 1;
            }
        }

        let r = relevant.len();
        let (mut irrelevant, mut first_hit, mut within_r) = (0, 0, 0usize);
        let (mut precisions, mut precisions_at_r) = (0.0, 0.0);
        for (j, count) in before.iter().enumerate() {
            irrelevant += count;
            let rank = irrelevant + j + 1;
            let precision = (j + 1) as f64 / rank as f64;
            if j == 0 {
                first_hit = rank;
            }
            if rank <= self.depth {
                precisions += precision;
            }
            if rank <= r {
                within_r += 1;
                precisions_at_r += precision;
            }
        }
        Some(QueryRanking {
            query,
            label,
            relevant: r,
            first_hit,
            r_precision: within_r as f64 / r as f64,
            average_precision: precisions / r as f64,
            average_precision_at_r: precisions_at_r / r as f64,
            reciprocal_rank: if first_hit <= self.depth { 1.0 / first_hit as f64 } else { 0.0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::{Closer, Matrix};

    fn matrix(rows: &[&[f32]], closer: Closer) -> Matrix {
        let t = Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap();
        Matrix::new(&t, closer).unwrap()
    }

    #[test]
    fn one_query_by_hand() -> Result<()> {
        // Ranks of the relevant items: 1, 3, 5 of 5; R = 3.
        let row: &[f32] = &[0.1, 0.2, 0.3, 0.4, 0.5];
        let (labels, gallery) = ([7], [7, 1, 7, 2, 7]);
        let all = rank(&matrix(&[row], Closer::Smaller), &labels, &gallery, Gallery::Separate, Depth::All)?;
        let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-15, "{got} {expected}");
        close(all.mean(Metric::PrecisionAt1)?, 1.0);
        close(all.mean(Metric::RPrecision)?, 2.0 / 3.0);
        close(all.mean(Metric::MeanAveragePrecision)?, (1.0 + 2.0 / 3.0 + 3.0 / 5.0) / 3.0);
        close(all.mean(Metric::MeanAveragePrecisionAtR)?, (1.0 + 2.0 / 3.0) / 3.0);
        let far = matrix(&[row], Closer::Larger);
        let far = rank(&far, &labels, &[1, 7, 1, 1, 1], Gallery::Separate, Depth::First(3))?;
        close(far.mean(Metric::MeanReciprocalRank)?, 0.0);
        close(far.mean(Metric::RecallAt(3))?, 0.0);
        close(far.mean(Metric::RecallAt(4))?, 1.0);
        Ok(())
    }

    #[test]
    fn one_sample_classes_are_dropped_and_counted() -> Result<()> {
        let m = matrix(&[&[0.0, 1.0, 2.0], &[1.0, 0.0, 3.0], &[2.0, 3.0, 0.0]], Closer::Smaller);
        let labels = [4, 4, 9];
        let ranking = rank(&m, &labels, &labels, Gallery::IncludesQueries, Depth::All)?;
        assert_eq!((ranking.queries().len(), ranking.n_queries(), ranking.n_candidates()), (2, 3, 2));
        assert_eq!(ranking.mean(Metric::RecallAt(1))?, 1.0);
        assert_eq!(ranking.mean_over_all(Metric::RecallAt(1))?, 2.0 / 3.0);
        assert_eq!(ranking.per_class(Metric::PrecisionAt1)?, [(4, 1.0)]);
        let alone = rank(&m, &[1, 2, 3], &[1, 2, 3], Gallery::IncludesQueries, Depth::MaxRelevant)?;
        assert_eq!(
            alone.mean(Metric::PrecisionAt1).unwrap_err().to_string(),
            "Ranking::values: none of the 3 queries has a relevant item in the gallery, so the metric is \
             undefined; check that the labels of both sides belong together"
        );
        Ok(())
    }

    #[test]
    fn a_cut_off_beyond_the_gallery_is_all_of_it() -> Result<()> {
        let m = matrix(&[&[0.1, 0.2, 0.3, 0.4, 0.5], &[0.5, 0.4, 0.3, 0.2, 0.1]], Closer::Smaller);
        let ranked = |depth| rank(&m, &[7, 8], &[7, 1, 1, 2, 7], Gallery::Separate, depth);
        let ranking = ranked(Depth::First(10))?;
        assert_eq!(ranking, ranked(Depth::All)?);
        assert_eq!(ranking.mean(Metric::RecallAt(10))?, 1.0);
        assert_eq!(ranking.mean(Metric::RecallAt(usize::MAX))?, 1.0);
        assert_eq!(ranking.mean_over_all(Metric::RecallAt(10))?, 0.5, "query 1 has nothing to find");
        assert_eq!(
            ranking.mean(Metric::RecallAt(0)).unwrap_err().to_string(),
            "Ranking::values: `K` is 0, expected at least 1"
        );
        Ok(())
    }

    #[test]
    fn labels_are_any_whole_numbers() -> Result<()> {
        let m = matrix(&[&[0.1, 0.2, 0.3]], Closer::Smaller);
        let ranking = rank(&m, &[-1], &[i64::MAX, -1, i64::MIN], Gallery::Separate, Depth::All)?;
        assert_eq!((ranking.queries()[0].label, ranking.queries()[0].first_hit), (-1, 2));
        Ok(())
    }

    #[test]
    fn the_own_row_is_left_out_whatever_its_label() -> Result<()> {
        // Row 0 of the gallery is query 0 but carries another label: it is neither a hit nor a miss.
        let m = matrix(&[&[0.0, 1.0, 2.0]], Closer::Smaller);
        let ranking = rank(&m, &[1], &[5, 1, 1], Gallery::IncludesQueries, Depth::All)?;
        assert_eq!(ranking.queries()[0].first_hit, 1);
        Ok(())
    }

    #[test]
    fn labels_that_do_not_fit_are_errors() {
        let m = matrix(&[&[0.0, 1.0, 2.0]], Closer::Smaller);
        let message =
            |q: &[i64], g: &[i64], depth| rank(&m, q, g, Gallery::Separate, depth).unwrap_err().to_string();
        assert_eq!(
            message(&[], &[0, 1, 2], Depth::All),
            "rank: `query_labels` has 0 entries, expected 1, one for each query"
        );
        assert_eq!(
            message(&[0], &[0, 1], Depth::All),
            "rank: `gallery_labels` has 2 entries, expected 3, one for each item"
        );
        assert_eq!(message(&[0], &[0, 1, 2], Depth::First(0)), "rank: `depth` is 0, expected at least 1");
    }
}
