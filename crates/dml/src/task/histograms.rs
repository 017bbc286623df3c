//! Histograms of ink, and pairs of an item and a sample of it.

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use dml_data::ImageSet;
use dml_retrieval::{Closer, Divergence, Matrix, match_items};
use phi::Generator;
use rand::{Rng, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Cells along each side of the pooled image.
const CELLS: usize = 7;

/// Histograms over cells, each row of mean 1: n rows of d cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Histograms {
    values: Vec<f32>,
    cells: usize,
}

impl Histograms {
    /// The ink of grey images pooled over 7×7 cells and scaled to mean 1.
    ///
    /// # Errors
    /// [`Error::Config`] when the images are not grey with sides divisible by 7, or one has no ink.
    pub fn of_ink(images: &ImageSet, indices: &[usize]) -> Result<Self> {
        let [c, h, w] = images.shape();
        let wrong = |field, got: String, expected| Error::Config { what: "Histograms", field, got, expected };
        if c != 1 || h % CELLS != 0 || w % CELLS != 0 {
            let got = format!("of shape {:?}", images.shape());
            return Err(wrong("images", got, "grey images with sides divisible by 7"));
        }
        let (rows, cols) = (h / CELLS, w / CELLS);
        let cells = CELLS * CELLS;
        let mut values = Vec::with_capacity(indices.len() * cells);
        for &index in indices {
            let image = images
                .image(index)
                .ok_or_else(|| wrong("indices", index.to_string(), "indices below the number of images"))?;
            let mut sums = vec![0u32; cells];
            for (at, &ink) in image.iter().enumerate() {
                sums[at / w / rows * CELLS + at % w / cols] += u32::from(ink);
            }
            let total: u32 = sums.iter().sum();
            if total == 0 {
                return Err(wrong("images", format!("blank at index {index}"), "images with some ink"));
            }
            values.extend(sums.iter().map(|&s| s as f32 * cells as f32 / total as f32));
        }
        Ok(Self { values, cells })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.cells
    }

    /// The number of cells.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// The root of the mean square of all values.
    pub(super) fn scale(&self) -> f64 {
        let squares: f32 = self.values.iter().map(|v| v * v).sum();
        f64::from(squares / self.values.len() as f32).sqrt()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// `n` rows spread evenly over all, or all where there are fewer.
    pub fn spread(&self, n: usize) -> Self {
        let (len, n) = (self.len(), n.min(self.len()));
        let values = (0..n).flat_map(|i| self.row(i * len / n).iter().copied()).collect();
        Self { values, cells: self.cells }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.cells..(i + 1) * self.cells]
    }

    /// The rows at `indices` as a tensor `[n, cells]`.
    pub(super) fn tensor(&self, indices: impl Iterator<Item = usize>, device: &Device) -> Result<Tensor> {
        let values: Vec<f32> = indices.flat_map(|i| self.row(i).iter().copied()).collect();
        Ok(Tensor::from_vec(values.clone(), (values.len() / self.cells, self.cells), device)?)
    }

    /// For each row at `indices` the histogram, of mean 1 before cells are hidden, of points drawn from it, and a 1 for
    /// each cell that is hidden: both `[n, cells]`.
    pub(super) fn drawn(
        &self,
        indices: impl Iterator<Item = usize>,
        sample: Sample,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<(Tensor, Tensor)> {
        let (mut out, mut masks): (Vec<f32>, Vec<f32>) = (Vec::new(), Vec::new());
        let Sample { points, hidden } = sample;
        let weight = self.cells as f32 / points as f32;
        let same = match hidden {
            Hidden::Same { cells, seed } => {
                index::sample(&mut ChaCha8Rng::seed_from_u64(seed), self.cells, cells).into_vec()
            }
            Hidden::Nothing | Hidden::Anew { .. } => Vec::new(),
        };
        for i in indices {
            let mut sum = 0.0;
            let cumulative: Vec<f32> = self
                .row(i)
                .iter()
                .map(|v| {
                    sum += v;
                    sum
                })
                .collect();
            let start = out.len();
            out.resize(start + self.cells, 0.0);
            for _ in 0..points {
                let at = rng.random::<f32>() * sum;
                // The first cell whose cumulative weight passes the draw; cells without ink never do.
                let cell = cumulative.partition_point(|&c| c <= at).min(self.cells - 1);
                out[start + cell] += weight;
            }
            masks.resize(start + self.cells, 0.0);
            let mut hide = |cell: usize| (out[start + cell], masks[start + cell]) = (0.0, 1.0);
            match hidden {
                Hidden::Nothing => {}
                Hidden::Anew { cells } => index::sample(rng, self.cells, cells).iter().for_each(&mut hide),
                Hidden::Same { .. } => same.iter().copied().for_each(&mut hide),
            }
        }
        let shape = (out.len() / self.cells, self.cells);
        Ok((Tensor::from_vec(out, shape, device)?, Tensor::from_vec(masks, shape, device)?))
    }
}

/// How a query comes from its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The ink points drawn.
    pub points: usize,
    /// The cells whose points are then taken away.
    pub hidden: Hidden,
}

impl Sample {
    /// Whether such queries can be drawn from `items`.
    pub(super) fn check(self, items: &Histograms) -> Result<()> {
        let (points, hidden) = (self.points, self.hidden.cells());
        if points == 0 || hidden >= items.cells {
            let got = format!("{points} points with {hidden} of {} cells hidden", items.cells);
            let expected = "at least one point a query and one cell not hidden";
            return Err(Error::Config { what: "Pairs::draw", field: "sample", got, expected });
        }
        Ok(())
    }
}

/// The cells of which a query shows nothing. No divergence is told which they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Hidden {
    /// None.
    #[default]
    Nothing,
    /// So many, drawn anew for each query.
    Anew {
        /// How many.
        cells: usize,
    },
    /// So many, the same in every query, as of a sensor with blind spots.
    Same {
        /// How many.
        cells: usize,
        /// Which.
        seed: u64,
    },
}

impl Hidden {
    /// How many cells are hidden in a query.
    pub fn cells(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Anew { cells } | Self::Same { cells, .. } => cells,
        }
    }
}

/// Items, and the queries drawn from them.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Row i is drawn from item i, `[n, d]`.
    pub queries: Tensor,
    /// `[n, d]`.
    pub items: Tensor,
    /// 1 where a cell is hidden from query i, else 0, `[n, d]`.
    hidden: Tensor,
    sample: Sample,
}

impl Pairs {
    /// All rows as items, each with a query drawn with `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] for a query without points or with every cell hidden.
    pub fn draw(items: &Histograms, sample: Sample, seed: u64, device: &Device) -> Result<Self> {
        sample.check(items)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (queries, hidden) = items.drawn(0..items.len(), sample, &mut rng, device)?;
        Ok(Self { queries, items: items.tensor(0..items.len(), device)?, hidden, sample })
    }

    /// The mean reciprocal rank of the right item under D_φ with the query on `side`.
    ///
    /// # Errors
    /// What the retrieval returns, e.g. for points outside the domain.
    pub fn mean_reciprocal_rank(&self, phi: &dyn Generator, side: Side) -> Result<f64> {
        let scorer = Divergence::new(phi, side, &self.queries, &self.items)?;
        Ok(match_items(&scorer)?.mean_reciprocal_rank())
    }

    /// The mean reciprocal rank under the law that the queries were drawn by: the likelihood of the points, each
    /// with the probability of its cell, and an item without ink under one of them last. Where cells were hidden the
    /// law is told which: of their points it knows only the number, so they count with the probability of all of them.
    ///
    /// With every item equally probable no ranking does better on average.
    ///
    /// # Errors
    /// What the retrieval returns.
    pub fn mean_reciprocal_rank_of_the_law(&self) -> Result<f64> {
        const IMPOSSIBLE: f64 = -1e30; // below any sum of logarithms, and finite, so that 0 points of it are 0
        let wide = |t: &Tensor| t.to_dtype(DType::F64);
        let cells = self.items.dim(1)?;
        let log = |p: &Tensor| -> Result<Tensor> {
            let none = p.le(0.0)?;
            let log = (p + none.to_dtype(DType::F64)?)?.log()?;
            Ok(none.where_cond(&Tensor::full(IMPOSSIBLE, p.shape(), p.device())?, &log)?)
        };
        let points = self.sample.points as f64;
        let shares = (wide(&self.items)? / cells as f64)?; // [n, d], each row a distribution
        let counts = (wide(&self.queries)? * (points / cells as f64))?; // [n, d]
        let missing = (counts.sum_keepdim(1)?.neg()? + points)?; // [n, 1]: the points in hidden cells
        let missing = missing.round()?; // counts are whole, the histogram's f32 is not quite
        let under_mask = wide(&self.hidden)?.matmul(&shares.t()?)?; // [n, n]: what each item has in the hidden cells
        let scores = counts.matmul(&log(&shares)?.t()?)?;
        let scores = (scores + log(&under_mask)?.broadcast_mul(&missing)?)?;
        Ok(match_items(&Matrix::new(&scores, Closer::Larger)?)?.mean_reciprocal_rank())
    }

    /// Others in their place, row by row.
    pub(super) fn replaced(&self, queries: Tensor, items: Tensor) -> Self {
        Self { queries, items, hidden: self.hidden.clone(), sample: self.sample }
    }

    /// Both mapped, row by row.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn map(&self, f: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> Result<Self> {
        self.map_each(&f, &f)
    }

    /// Queries and items mapped by functions of their own.
    ///
    /// # Errors
    /// What the functions return.
    pub fn map_each(
        &self,
        of_query: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        of_item: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Self> {
        Ok(self.replaced(of_query(&self.queries)?, of_item(&self.items)?))
    }
}
