//! Pairs and triplets of rows: what a miner hands to a loss, and how one form becomes the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::Tensor;
use dml_kernels::Real;

use crate::{Batch, Error, Result};

/// Pairs (anchor, other): anchors index the batch, others the reference set (the batch itself where there is none).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairList {
    /// Rows of the batch.
    pub anchor: Vec<u32>,
    /// Rows of the reference set, as many.
    pub other: Vec<u32>,
}

impl PairList {
    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.anchor.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.anchor.is_empty()
    }

    /// Adds a pair.
    pub fn push(&mut self, anchor: usize, other: usize) {
        self.anchor.push(anchor as u32);
        self.other.push(other as u32);
    }

    /// How often each pair is listed; `None` where none is listed twice.
    pub(crate) fn times_listed(&self) -> Option<Vec<f64>> {
        times_listed(self.len(), |at| (self.anchor[at], self.other[at], 0))
    }
}

/// How often the tuple at each position occurs; `None` where none occurs twice.
pub(crate) fn times_listed(len: usize, tuple: impl Fn(usize) -> (u32, u32, u32)) -> Option<Vec<f64>> {
    // The usual lists are sorted.
    if (1..len).all(|at| tuple(at - 1) < tuple(at)) {
        return None;
    }
    let mut times = HashMap::with_capacity(len);
    (0..len).for_each(|at| *times.entry(tuple(at)).or_insert(0.0) += 1.0);
    (times.len() < len).then(|| (0..len).map(|at| times[&tuple(at)]).collect())
}

/// Positive pairs (same class) and negative pairs (different classes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Pairs of one class.
    pub positive: PairList,
    /// Pairs of two classes.
    pub negative: PairList,
}

impl Pairs {
    /// Every pair of the batch with its reference set, a row with itself left out.
    ///
    /// ```
    /// # use {candle_core::{DType, Device, Tensor}, dml_loss::{Batch, Pairs}};
    /// let batch = Batch::new(&Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?, &[0, 0, 1])?;
    /// let pairs = Pairs::all(&batch);
    /// assert_eq!((pairs.positive.len(), pairs.negative.len()), (2, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn all(batch: &Batch) -> Self {
        let mut pairs = Self::default();
        for (i, label) in batch.labels().iter().enumerate() {
            for (j, other) in batch.column_labels().iter().enumerate() {
                if label != other {
                    pairs.negative.push(i, j);
                } else if !batch.is_self(i, j) {
                    pairs.positive.push(i, j);
                }
            }
        }
        pairs
    }
}

/// Triplets (anchor, positive, negative): anchors index the batch, the others the reference set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Triplets {
    /// Rows of the batch.
    pub anchor: Vec<u32>,
    /// Rows of the anchor's class.
    pub positive: Vec<u32>,
    /// Rows of another class.
    pub negative: Vec<u32>,
}

impl Triplets {
    /// The number of triplets.
    pub fn len(&self) -> usize {
        self.anchor.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.anchor.is_empty()
    }

    /// Adds a triplet.
    pub fn push(&mut self, anchor: usize, positive: usize, negative: usize) {
        self.anchor.push(anchor as u32);
        self.positive.push(positive as u32);
        self.negative.push(negative as u32);
    }

    /// Every valid triplet of the batch with its reference set, each positive of an anchor with each of its negatives:
    /// of order n³ where classes are large.
    pub fn all(batch: &Batch) -> Self {
        let mut triplets = Self::default();
        let mut rows = ClassRows::default();
        for anchor in 0..batch.len() {
            rows.fill(batch, anchor);
            for &p in &rows.positive {
                for &n in &rows.negative {
                    triplets.push(anchor, p, n);
                }
            }
        }
        triplets
    }

    /// Every (a, p) with every (a, n) of the same anchor, in the order of the positive pairs.
    pub fn from_pairs(pairs: &Pairs) -> Self {
        let anchors = pairs.negative.anchor.iter().map(|&a| a as usize + 1).max().unwrap_or(0);
        let mut negatives = vec![Vec::new(); anchors];
        for (&a, &n) in pairs.negative.anchor.iter().zip(&pairs.negative.other) {
            negatives[a as usize].push(n);
        }
        let mut triplets = Self::default();
        for (&a, &p) in pairs.positive.anchor.iter().zip(&pairs.positive.other) {
            for &n in negatives.get(a as usize).into_iter().flatten() {
                triplets.push(a as usize, p as usize, n as usize);
            }
        }
        triplets
    }
}

/// The columns of one anchor's class and of all others, itself left out.
#[derive(Debug, Default)]
pub(crate) struct ClassRows {
    pub positive: Vec<usize>,
    pub negative: Vec<usize>,
}

impl ClassRows {
    pub fn fill(&mut self, batch: &Batch, anchor: usize) {
        self.positive.clear();
        self.negative.clear();
        for (j, other) in batch.column_labels().iter().enumerate() {
            if *other != batch.labels()[anchor] {
                self.negative.push(j);
            } else if !batch.is_self(anchor, j) {
                self.positive.push(j);
            }
        }
    }
}

/// What a miner selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tuples {
    /// Pairs.
    Pairs(Pairs),
    /// Triplets.
    Triplets(Triplets),
}

impl Tuples {
    /// As pairs: triplets give (a, p) and (a, n) each, duplicates kept.
    pub fn to_pairs(&self) -> Pairs {
        match self {
            Self::Pairs(pairs) => pairs.clone(),
            Self::Triplets(t) => Pairs {
                positive: PairList { anchor: t.anchor.clone(), other: t.positive.clone() },
                negative: PairList { anchor: t.anchor.clone(), other: t.negative.clone() },
            },
        }
    }

    /// As triplets: pairs are combined as [`Triplets::from_pairs`] says, which of all pairs makes all triplets.
    pub fn to_triplets(&self) -> Triplets {
        match self {
            Self::Triplets(triplets) => triplets.clone(),
            Self::Pairs(pairs) => Triplets::from_pairs(pairs),
        }
    }

    /// The number of pairs (of both kinds) or triplets.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(pairs) => pairs.positive.len() + pairs.negative.len(),
            Self::Triplets(triplets) => triplets.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a pair, of a triplet too, is listed more than once.
    pub(crate) fn repeats_pairs(&self) -> bool {
        let Pairs { positive, negative } = self.to_pairs();
        positive.times_listed().is_some() || negative.times_listed().is_some()
    }

    /// Weights of single rows for losses without pairs: how often a row occurs in all index columns together
    /// (only as anchor if `anchors_only`), divided by the largest such count. Rows that do not occur get 0.
    pub fn row_weights(&self, rows: usize, anchors_only: bool) -> Vec<f64> {
        let columns: Vec<&[u32]> = match (self, anchors_only) {
            (Self::Pairs(p), true) => vec![&p.positive.anchor, &p.negative.anchor],
            (Self::Pairs(p), false) => {
                vec![&p.positive.anchor, &p.positive.other, &p.negative.anchor, &p.negative.other]
            }
            (Self::Triplets(t), true) => vec![&t.anchor],
            (Self::Triplets(t), false) => vec![&t.anchor, &t.positive, &t.negative],
        };
        let mut counts = vec![0.0; rows];
        for &row in columns.into_iter().flatten() {
            if let Some(count) = counts.get_mut(row as usize) {
                *count += 1.0;
            }
        }
        let most = counts.iter().copied().fold(1.0, f64::max);
        counts.iter().map(|count| count / most).collect()
    }

    /// Checks that each index is a row of the batch or of its reference set and that columns are equally long.
    ///
    /// # Errors
    /// [`Error::Index`] names column, entry and index; [`Error::Config`] columns of different lengths.
    pub fn check(&self, batch: &Batch) -> Result<()> {
        let (n, m) = (batch.len(), batch.column_labels().len());
        let columns: Vec<(&'static str, &[u32], usize, usize)> = match self {
            Self::Pairs(Pairs { positive: p, negative: q }) => vec![
                ("positive.anchor", &p.anchor, n, p.len()),
                ("positive.other", &p.other, m, p.len()),
                ("negative.anchor", &q.anchor, n, q.len()),
                ("negative.other", &q.other, m, q.len()),
            ],
            Self::Triplets(t) => vec![
                ("anchor", &t.anchor, n, t.len()),
                ("positive", &t.positive, m, t.len()),
                ("negative", &t.negative, m, t.len()),
            ],
        };
        for (arg, column, rows, len) in columns {
            if column.len() != len {
                let got = format!("a column of {} indices", column.len());
                return Err(Error::config("Tuples", arg, got, format!("{len}, as many as anchors")));
            }
            if let Some(position) = column.iter().position(|&i| i as usize >= rows) {
                let index = column[position];
                return Err(Error::Index { op: "Tuples", arg, position, index, rows });
            }
        }
        Ok(())
    }
}

/// The classes of a batch, numbered: which columns are of which, and which column is a row itself.
#[derive(Debug)]
pub(crate) struct Classes {
    /// The class of each row; of no column where its label is not among theirs.
    pub row: Vec<u32>,
    /// The class of each column.
    pub column: Vec<u32>,
    /// The columns of each class, ascending.
    members: Vec<Vec<u32>>,
    /// The column that is the row itself, or `u32::MAX`.
    own: Vec<u32>,
}

impl Classes {
    pub fn new(batch: &Batch) -> Self {
        let mut ids: BTreeMap<i64, u32> = batch.column_labels().iter().map(|&label| (label, 0)).collect();
        ids.values_mut().zip(0..).for_each(|(id, at)| *id = at);
        let id = |label: &i64| ids.get(label).copied().unwrap_or(u32::MAX);
        let column: Vec<u32> = batch.column_labels().iter().map(id).collect();
        let mut members = vec![Vec::new(); ids.len()];
        for (j, &class) in column.iter().enumerate() {
            members[class as usize].push(j as u32);
        }
        let row = batch.labels().iter().map(id).collect();
        let own = (0..batch.len()).map(|i| batch.own_column(i).map_or(u32::MAX, |j| j as u32)).collect();
        Self { row, column, members, own }
    }

    /// The columns of row i's class, itself left out.
    #[inline(always)]
    pub fn positives(&self, i: usize) -> impl Iterator<Item = usize> + '_ {
        let own = self.own[i];
        self.with_self(i).iter().filter(move |&&j| j != own).map(|&j| j as usize)
    }

    /// The columns of row i's class, itself among them where it is a column.
    pub fn with_self(&self, i: usize) -> &[u32] {
        self.members.get(self.row[i] as usize).map_or(&[], Vec::as_slice)
    }

    /// How many positives and negatives row i has.
    pub fn counts(&self, i: usize) -> (usize, usize) {
        let members = self.with_self(i);
        let own = usize::from(members.contains(&self.own[i]));
        (members.len() - own, self.column.len() - members.len())
    }

    /// Whether column j is of another class than row i.
    #[inline(always)]
    pub fn is_negative(&self, i: usize, j: usize) -> bool {
        self.column[j] != self.row[i]
    }
}

/// Whether a pair that tuples name more than once counts so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    Once,
    Each,
}

/// The positive and negative pairs of each row: all of the batch, or those of given tuples.
#[derive(Debug)]
pub(crate) enum PairTable {
    All(Arc<Classes>),
    Listed { positive: ByAnchor, negative: ByAnchor, repeats: Repeats },
}

/// Pairs in the order of their anchors.
#[derive(Debug, Default)]
pub(crate) struct ByAnchor {
    start: Vec<usize>,
    other: Vec<u32>,
}

impl ByAnchor {
    fn new(rows: usize, list: &PairList) -> Self {
        let mut start = vec![0; rows + 1];
        list.anchor.iter().for_each(|&a| start[a as usize + 1] += 1);
        (0..rows).for_each(|i| start[i + 1] += start[i]);
        let (mut next, mut other) = (start.clone(), vec![0; list.len()]);
        for (&a, &o) in list.anchor.iter().zip(&list.other) {
            other[next[a as usize]] = o;
            next[a as usize] += 1;
        }
        Self { start, other }
    }

    /// The others of row i.
    #[inline(always)]
    pub fn of(&self, i: usize) -> &[u32] {
        &self.other[self.start[i]..self.start[i + 1]]
    }
}

impl PairTable {
    pub fn new(batch: &Batch, tuples: Option<&Tuples>, repeats: Repeats) -> Self {
        let Some(tuples) = tuples else { return Self::All(batch.classes().clone()) };
        let Pairs { positive, negative } = tuples.to_pairs();
        let by = |list| ByAnchor::new(batch.len(), list);
        Self::Listed { positive: by(&positive), negative: by(&negative), repeats }
    }

    /// Whether there is no positive or no negative pair at all.
    pub fn one_sided(&self) -> bool {
        match self {
            Self::Listed { positive, negative, .. } => positive.other.is_empty() || negative.other.is_empty(),
            Self::All(classes) => {
                let rows = || (0..classes.row.len()).map(|i| classes.counts(i));
                !rows().any(|(p, _)| p > 0) || !rows().any(|(_, n)| n > 0)
            }
        }
    }

    /// How often each column is a positive and a negative pair of row i.
    #[inline(always)]
    pub fn fill<T: Real>(&self, i: usize, positive: &mut [T], negative: &mut [T]) {
        positive.fill(T::ZERO);
        match self {
            Self::All(classes) => {
                classes.positives(i).for_each(|j| positive[j] = T::ONE);
                let own = classes.row[i];
                for (count, &class) in negative.iter_mut().zip(&classes.column) {
                    *count = if class == own { T::ZERO } else { T::ONE };
                }
            }
            Self::Listed { positive: p, negative: n, repeats } => {
                negative.fill(T::ZERO);
                for (counts, list) in [(positive, p), (negative, n)] {
                    for &j in list.of(i) {
                        let count = &mut counts[j as usize];
                        *count = if *repeats == Repeats::Once { T::ONE } else { *count + T::ONE };
                    }
                }
            }
        }
    }

    /// Calls `f` with each column that is a positive pair of row i, as often as it is one.
    #[inline(always)]
    pub fn each_positive(&self, i: usize, mut f: impl FnMut(usize)) {
        match self {
            Self::All(classes) => classes.positives(i).for_each(f),
            Self::Listed { positive, .. } => positive.of(i).iter().for_each(|&j| f(j as usize)),
        }
    }

    /// As [`each_positive`](Self::each_positive) for negative pairs.
    #[inline(always)]
    pub fn each_negative(&self, i: usize, mut f: impl FnMut(usize)) {
        match self {
            Self::All(classes) => {
                let own = classes.row[i];
                for (j, &class) in classes.column.iter().enumerate() {
                    if class != own {
                        f(j);
                    }
                }
            }
            Self::Listed { negative, .. } => negative.of(i).iter().for_each(|&j| f(j as usize)),
        }
    }
}

/// The triplets of each row.
#[derive(Debug)]
pub(crate) enum TripletTable {
    /// Each positive with each negative of the same row.
    Products(PairTable),
    /// Positive and negative of each, in the order of the anchors.
    Listed { positive: ByAnchor, negative: ByAnchor },
}

impl TripletTable {
    /// From given tuples, or all triplets of the batch.
    pub fn new(batch: &Batch, tuples: Option<&Tuples>) -> Self {
        let Some(Tuples::Triplets(Triplets { anchor, positive, negative })) = tuples else {
            return Self::Products(PairTable::new(batch, tuples, Repeats::Each));
        };
        let by = |other: &[u32]| {
            ByAnchor::new(batch.len(), &PairList { anchor: anchor.clone(), other: other.to_vec() })
        };
        Self::Listed { positive: by(positive), negative: by(negative) }
    }

    /// The same in the order of the positives, of `n` anchors and `m` columns.
    pub fn by_positive(&self, n: usize, m: usize) -> ByPositive {
        let (mut anchors, mut negatives) = (PairList::default(), PairList::default());
        for a in 0..n {
            match self {
                Self::Products(pairs) => pairs.each_positive(a, |p| anchors.push(p, a)),
                Self::Listed { positive, negative } => {
                    for (&p, &n) in positive.of(a).iter().zip(negative.of(a)) {
                        anchors.push(p as usize, a);
                        negatives.push(p as usize, n as usize);
                    }
                }
            }
        }
        ByPositive { anchors: ByAnchor::new(m, &anchors), negatives: ByAnchor::new(m, &negatives) }
    }
}

/// Triplets by their positive.
#[derive(Debug)]
pub(crate) struct ByPositive {
    anchors: ByAnchor,
    /// As many as anchors where triplets are listed, none where they are products.
    negatives: ByAnchor,
}

impl ByPositive {
    /// The anchors of a positive, as often as it is theirs.
    pub fn anchors(&self, p: usize) -> &[u32] {
        self.anchors.of(p)
    }

    /// Calls `f(anchor, negative)` for each triplet that is named one by one.
    pub fn each(&self, p: usize, mut f: impl FnMut(usize, usize)) {
        let both = self.anchors.of(p).iter().zip(self.negatives.of(p));
        both.for_each(|(&a, &n)| f(a as usize, n as usize));
    }
}

/// How often each entry of the matrix `[n, m]` is a positive and a negative pair, kept on the host.
#[derive(Debug, Clone)]
pub(crate) struct PairCounts {
    pub n: usize,
    pub m: usize,
    pub positive: Vec<f64>,
    pub negative: Vec<f64>,
}

impl PairCounts {
    /// From given tuples, or all pairs of the batch.
    pub fn new(batch: &Batch, tuples: Option<&Tuples>) -> Self {
        let (n, m) = (batch.len(), batch.column_labels().len());
        let mut counts = Self { n, m, positive: vec![0.0; n * m], negative: vec![0.0; n * m] };
        match tuples {
            None => {
                for (i, label) in batch.labels().iter().enumerate() {
                    for (j, other) in batch.column_labels().iter().enumerate() {
                        if label != other {
                            counts.negative[i * m + j] = 1.0;
                        } else if !batch.is_self(i, j) {
                            counts.positive[i * m + j] = 1.0;
                        }
                    }
                }
            }
            Some(tuples) => {
                let pairs = tuples.to_pairs();
                let add = |table: &mut [f64], list: &PairList| {
                    for (&i, &j) in list.anchor.iter().zip(&list.other) {
                        table[i as usize * m + j as usize] += 1.0;
                    }
                };
                add(&mut counts.positive, &pairs.positive);
                add(&mut counts.negative, &pairs.negative);
            }
        }
        counts
    }

    /// Whether there is no positive or no negative pair at all.
    pub fn one_sided(&self) -> bool {
        let none = |table: &[f64]| table.iter().all(|&c| c == 0.0);
        none(&self.positive) || none(&self.negative)
    }

    /// How many pairs each row has in a table, a pair counted once.
    pub fn row_sums(&self, table: &[f64]) -> Vec<f64> {
        table.chunks(self.m.max(1)).map(|row| row.iter().filter(|&&c| c > 0.0).count() as f64).collect()
    }

    /// A table as a u8 mask for `where_cond`, on the device of `like`: `[n, m]`.
    pub fn keep(&self, table: &[f64], like: &Tensor) -> Result<Tensor> {
        let bits: Vec<u8> = table.iter().map(|&c| u8::from(c > 0.0)).collect();
        Ok(Tensor::from_vec(bits, (self.n, self.m), like.device())?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn batch(labels: &[i64]) -> Batch {
        let x = Tensor::zeros((labels.len(), 2), DType::F64, &Device::Cpu).unwrap();
        Batch::new(&x, labels).unwrap()
    }

    #[test]
    fn pairs_become_triplets_by_anchor() {
        let pairs = Pairs {
            positive: PairList { anchor: vec![0, 2, 0], other: vec![1, 3, 4] },
            negative: PairList { anchor: vec![0, 0, 1], other: vec![5, 6, 7] },
        };
        let triplets = Triplets::from_pairs(&pairs);
        assert_eq!(triplets.anchor, [0, 0, 0, 0]);
        assert_eq!(triplets.positive, [1, 1, 4, 4]);
        assert_eq!(triplets.negative, [5, 6, 5, 6]);
        let back = Tuples::Triplets(triplets).to_pairs();
        assert_eq!(back.positive.other, [1, 1, 4, 4]);
        assert_eq!(back.negative.other, [5, 6, 5, 6]);
    }

    #[test]
    fn all_triplets_are_all_pairs_combined() {
        for labels in [vec![0, 0, 1, 1, 1], vec![0, 1, 2], vec![3, 3], vec![7]] {
            let batch = batch(&labels);
            assert_eq!(Triplets::all(&batch), Triplets::from_pairs(&Pairs::all(&batch)));
        }
    }

    #[test]
    fn row_weights_are_relative_counts() {
        let tuples =
            Tuples::Triplets(Triplets { anchor: vec![0, 0], positive: vec![1, 1], negative: vec![2, 3] });
        assert_eq!(tuples.row_weights(5, false), [1.0, 1.0, 0.5, 0.5, 0.0]);
        assert_eq!(tuples.row_weights(5, true), [1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn an_index_out_of_range_is_named() {
        let tuples =
            Tuples::Triplets(Triplets { anchor: vec![0, 1], positive: vec![1, 0], negative: vec![2, 9] });
        assert_eq!(
            tuples.check(&batch(&[0, 0, 1])).unwrap_err().to_string(),
            "Tuples: entry 1 of `negative` is row 9, but there are 3 rows"
        );
    }
}
