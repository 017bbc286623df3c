//! Pairs and triplets of rows: what a miner hands to a loss, and how one form becomes the other.

use candle_core::Tensor;

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

    /// Every valid triplet of the batch with its reference set.
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

    /// As triplets: pairs are combined as [`Triplets::from_pairs`] says.
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
