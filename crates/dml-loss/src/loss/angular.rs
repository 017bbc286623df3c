//! Angular loss (Wang et al. 2017).

use std::sync::Arc;

use candle_core::Tensor;
use dml_kernels::{Band, PairMatrix, Real, Tally, TupleLoss};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Index, Loss, Pairs, Part, Reduced, Reducer, Result, Tuples,
    rows::{self, log_sum_exp},
    tensor::{masked_log_sum_exp, normalize_rows, rows as rows_of},
    tuples::{Classes, PairTable, Repeats},
};

/// Knobs of [`Angular`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AngularConfig {
    /// α, the largest angle at the negative, in degrees: 36 to 55 in the paper, 40 by default.
    pub alpha: f64,
}

impl Default for AngularConfig {
    fn default() -> Self {
        Self { alpha: 40.0 }
    }
}

impl AngularConfig {
    pub(crate) fn check(&self) -> Result<()> {
        match (0.0..90.0).contains(&self.alpha) {
            true => Ok(()),
            false => Err(Error::config("Angular", "alpha", self.alpha, "degrees from 0 to below 90")),
        }
    }
}

/// log(1 + Σ_n exp(4t·⟨a + p, n⟩ − 2(1 + t)·⟨a, p⟩)) for each positive pair, t = tan²α, n over all rows of another
/// class.
///
/// Anchors and positives are L2-normalized; the rows they are compared with enter as they are, as in
/// pytorch-metric-learning. So let the encoder end in rows of length 1: else the loss falls fastest by shrinking them
/// to nothing. Of given tuples only the positive pairs count. Part `loss`, a loss a positive pair.
///
/// # Distances
/// It measures angles itself. Its distance plays no part in the value and is there for a miner to share; there is no
/// form under a divergence.
/// # Cost
/// With p positives an anchor: O(n·p·m) time and O(nm + m²) memory. Where unreduced losses are asked for, a table
/// `[n·p, m]` of positive pairs by rows is made.
/// # Source
/// Wang et al. 2017 \[wang2017\], equation 8.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = AngularConfig { alpha: 45.0 };
/// let loss = Objective::new(Arc::new(Angular { distance: Arc::new(Lp::default()), config }));
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// // t = 1, ⟨a + p, n⟩ = 0 and ⟨a, p⟩ = 1.
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// assert!((value - (-4f64).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Angular {
    /// Not used by the loss.
    pub distance: Arc<dyn Distance>,
    /// The angle.
    pub config: AngularConfig,
}

/// What the derivatives of a pass belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// ⟨a, n⟩, row a.
    Anchor,
    /// ⟨p, n⟩, row p.
    Positive,
    /// ⟨a, p⟩, row a.
    Own,
}

/// The positive pairs of one row, each with all its negatives: the pairs are walked once for each side, so that no
/// table of pairs by negatives is needed.
struct Walk<'a> {
    side: Side,
    classes: &'a Classes,
    pairs: &'a PairTable,
    /// The anchors of each positive, with repetitions.
    anchors: &'a [Vec<usize>],
    /// ⟨a, n⟩, ⟨p, n⟩ and ⟨a, p⟩.
    products: [&'a [f64]; 3],
    /// tan²α.
    t: f64,
    /// Of each anchor.
    weights: &'a [f64],
}

impl Walk<'_> {
    /// The loss of a pair; `soft` becomes the derivatives by its logits.
    #[inline(always)]
    fn loss_of<T: Real>(&self, a: usize, p: usize, soft: &mut [T], counts: &mut [T]) -> T {
        let m = soft.len();
        let [to_anchor, to_positive, own] = self.products;
        let own = 2.0 * (1.0 + self.t) * own[a * m + p];
        let rows = to_anchor[a * m..(a + 1) * m].iter().zip(&to_positive[p * m..(p + 1) * m]);
        for ((logit, (u, v)), count) in soft.iter_mut().zip(rows).zip(&mut *counts) {
            *logit = T::from_f64(4.0 * self.t * (u + v) - own);
            *count = T::ONE;
        }
        let class = self.classes.row[a];
        for (count, &other) in counts.iter_mut().zip(&self.classes.column) {
            *count = if other == class { T::ZERO } else { *count };
        }
        log_sum_exp(soft, counts, true)
    }
}

impl TupleLoss for Walk<'_> {
    fn scratch(&self, columns: usize) -> usize {
        2 * columns
    }

    #[inline(always)]
    fn tally<T: Real>(&self, a: usize, row: &[T], band: Band<T>, scratch: &mut [T]) -> Tally {
        let [soft, counts] = rows::parts(scratch, row.len());
        let mut tally = Tally::default();
        self.pairs.each_positive(a, |p| tally.add(self.loss_of(a, p, soft, counts), band));
        tally
    }

    #[inline(always)]
    fn weigh<T: Real>(
        &self,
        i: usize,
        row: &[T],
        _: T,
        band: Band<T>,
        slopes: &mut [T],
        scratch: &mut [T],
    ) -> T {
        let [soft, counts] = rows::parts(scratch, row.len());
        let mut value = T::ZERO;
        let mut add = |a: usize, p: usize| {
            let weight = T::from_f64(self.weights[a]);
            if weight == T::ZERO {
                return;
            }
            let loss = self.loss_of(a, p, soft, counts);
            if !band.holds(loss) {
                return;
            }
            value += weight * loss;
            if self.side == Side::Own {
                slopes[p] += weight * T::from_f64(-2.0 * (1.0 + self.t)) * rows::sum(soft);
            } else {
                let factor = weight * T::from_f64(4.0 * self.t);
                slopes.iter_mut().zip(&*soft).for_each(|(slope, &s)| *slope += factor * s);
            }
        };
        match self.side {
            Side::Positive => self.anchors[i].iter().for_each(|&a| add(a, i)),
            _ => self.pairs.each_positive(i, |p| add(i, p)),
        }
        value
    }
}

impl Loss for Angular {
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        self.config.check()?;
        let Some(weighing) = reducer.weighing("loss")? else { return Ok(Reduced::Unknown) };
        if batch.nothing() {
            return Ok(Reduced::Nothing);
        }
        let pairs = &PairTable::new(batch, tuples, Repeats::Each);
        let (n, m) = (batch.len(), batch.column_labels().len());
        let mut anchors = vec![Vec::new(); m];
        (0..n).for_each(|a| pairs.each_positive(a, |p| anchors[p].push(a)));
        if anchors.iter().all(Vec::is_empty) {
            return Ok(Reduced::Nothing);
        }
        let columns = batch.columns(); // [m, d]
        let unit = normalize_rows(batch.embeddings(), 2.0)?; // [n, d]
        let unit_columns = if batch.has_reference() { normalize_rows(columns, 2.0)? } else { unit.clone() };
        let product = |x: &Tensor, y: &Tensor| -> Result<PairMatrix> {
            Ok(PairMatrix::of_graph(&dml_kernels::matmul(x, &y.t()?)?)?)
        };
        let to_anchor = product(&unit, columns)?; // [n, m]
        let to_positive =
            if batch.has_reference() { product(&unit_columns, columns)? } else { to_anchor.clone() };
        let own = product(&unit, &unit_columns)?; // [n, m]
        let products = [&to_anchor, &to_positive, &own];
        let values = products.map(PairMatrix::values);
        let walk = |side, weights| Walk {
            side,
            classes: batch.classes(),
            pairs,
            anchors: &anchors,
            products: [&values[0], &values[1], &values[2]],
            t: self.config.alpha.to_radians().tan().powi(2),
            weights,
        };
        let (low, high) = weighing.band();
        let tallies = to_anchor.tally(&walk(Side::Anchor, &[]), low, high)?;
        let weights = weighing.weights("loss", None, &tallies, batch.labels())?;
        let mut total: Option<Tensor> = None;
        for (side, matrix) in [Side::Anchor, Side::Positive, Side::Own].into_iter().zip(products) {
            let mut slopes = matrix.slopes()?;
            let ones = vec![1.0; matrix.rows()];
            let value = matrix.weigh(&walk(side, &weights), &ones, low, high, &mut slopes)?;
            // The first side brings the value, the others derivatives alone.
            let value = if total.is_none() { value } else { 0.0 };
            let attached = matrix.attach_value(value, slopes, None)?;
            total = Some(match total {
                Some(total) => (total + attached)?,
                None => attached,
            });
        }
        Ok(Reduced::of(total))
    }

    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        let pairs = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs).positive;
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let columns = batch.columns(); // [m, d]
        let anchors = normalize_rows(&rows_of(batch.embeddings(), &pairs.anchor)?, 2.0)?; // [k, d]
        let positives = normalize_rows(&rows_of(columns, &pairs.other)?, 2.0)?; // [k, d]
        let t = self.config.alpha.to_radians().tan().powi(2);
        let own = (&anchors * &positives)?.sum_keepdim(1)?; // [k, 1]
        let across = (anchors + positives)?.matmul(&columns.t()?)?; // [k, m]
        let logits = (across * (4.0 * t))?.broadcast_sub(&(own * (2.0 * (1.0 + t)))?)?;
        let mut negative = Vec::with_capacity(pairs.len() * batch.column_labels().len());
        for &a in &pairs.anchor {
            let label = batch.labels()[a as usize];
            negative.extend(batch.column_labels().iter().map(|&other| u8::from(other != label)));
        }
        let negative = candle_core::Tensor::from_vec(negative, logits.shape(), logits.device())?;
        let losses = masked_log_sum_exp(&logits, &negative, true)?.squeeze(1)?; // [k]
        Ok(vec![Part::new("loss", losses, Index::Pairs(pairs))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
