//! Lifted structure loss (Song et al. 2016) and its generalization (Hermans et al. 2017).

use std::sync::Arc;

use dml_kernels::{Band, Real, RowLoss, RowMap, Tally, TupleLoss, softplus};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, PairCounts, Pairs, Part, Reduced, Reducer, Result, Tuples,
    error::finite,
    rows,
    tensor::{entries, fill_unless, hinge, masked_log_sum_exp, rows as rows_of, upload},
    tuples::{PairTable, Repeats},
};

/// Below every logit in f32 and f64, so that an anchor without negatives adds nothing.
const NOTHING: f64 = -1e30;

/// Margins of [`LiftedStructure`] and [`GeneralizedLiftedStructure`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LiftedStructureConfig {
    /// m₋: negatives closer than this weigh most. 1 (the default), for distances of normalized rows.
    pub neg_margin: f64,
    /// m₊, taken off the positive distance; 0.
    pub pos_margin: f64,
}

impl Default for LiftedStructureConfig {
    fn default() -> Self {
        Self { neg_margin: 1.0, pos_margin: 0.0 }
    }
}

impl LiftedStructureConfig {
    pub(crate) fn check(&self) -> Result<()> {
        finite("LiftedStructure", &[("neg_margin", self.neg_margin), ("pos_margin", self.pos_margin)])
    }
}

/// ½[D_ap − m₊ + log(Σ_n exp(m₋ − D_an) + Σ_n exp(m₋ − D_pn))]₊² for each ordered positive pair; for similarities D −
/// m₊ becomes m₊ − s, and m₋ − D becomes s − m₋.
///
/// Part `loss`, a loss a positive pair; a pair without negatives on either side has the hinge of its distance alone. A
/// pair that tuples name twice counts twice. With a separate reference set the positives have no negatives of their own
/// and the second sum is left out. (pytorch-metric-learning compares their row numbers with those of the batch there,
/// which are of another table.)
///
/// # Distances
/// Any. Under a divergence D_pn is that of the row p as anchor, so both sums have the anchor on the same side.
/// # Cost
/// O(nm) time and memory; sums over negatives are taken once for each row.
/// # Source
/// Song et al. 2016 \[song2016\], equation 4.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = LiftedStructureConfig::default();
/// let loss = Objective::new(Arc::new(LiftedStructure { distance: Arc::new(Lp::raw(2.0)), config }));
/// let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // 1 + log(e⁻² + e⁻¹) = log(1 + e⁻¹), squared and halved.
/// assert!((value - 0.5 * (-1f64).exp().ln_1p().powi(2)).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LiftedStructure {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The margins.
    pub config: LiftedStructureConfig,
}

/// What the rows of negatives and the positive pairs of one batch have in common.
struct Lifted<'a> {
    pairs: &'a PairTable,
    config: LiftedStructureConfig,
    /// 1 for distances and −1 for similarities.
    sign: f64,
    /// Whether a positive's own negatives count.
    both: bool,
    /// Losses that count.
    band: (Option<f64>, Option<f64>),
}

impl Lifted<'_> {
    /// log Σ_n exp(m₋ − v_in), `NOTHING` without negatives; `soft` becomes its derivatives by the exponents.
    #[inline(always)]
    fn norm<T: Real>(&self, i: usize, row: &[T], counts: &mut [T], soft: &mut [T]) -> T {
        self.pairs.fill(i, soft, counts);
        let some = rows::sum(counts) > T::ZERO;
        let (sign, margin) = (T::from_f64(self.sign), T::from_f64(self.config.neg_margin));
        soft.iter_mut().zip(row).for_each(|(soft, &v)| *soft = sign * (margin - v));
        let norm = rows::log_sum_exp(soft, counts, false);
        if some { norm } else { T::from_f64(NOTHING) }
    }

    /// The loss of a positive pair at the value v, its derivative by v, and those by the norms of anchor and positive.
    #[inline(always)]
    fn of<T: Real>(&self, norms: &[f64], a: usize, p: usize, v: T) -> (T, T, [T; 2]) {
        let of_a = T::from_f64(norms[a]);
        let of_p = T::from_f64(if self.both { norms[p] } else { NOTHING });
        // Not `max`, which would pass over a NaN.
        let (high, low) = if of_a > of_p { (of_a, of_p) } else { (of_p, of_a) };
        let (log, of_low) = rows::softplus(low - high);
        let none = (of_a <= T::from_f64(NOTHING / 2.0)) & (of_p <= T::from_f64(NOTHING / 2.0));
        let (negatives, share) = if none { (T::ZERO, T::ZERO) } else { (high + log, T::ONE) };
        let sign = T::from_f64(self.sign);
        let z = rows::hinge(sign * (v - T::from_f64(self.config.pos_margin)) + negatives).0;
        let (to_low, to_high) = (z * share * of_low, z * share * (T::ONE - of_low));
        let to_norms = if of_a > of_p { [to_high, to_low] } else { [to_low, to_high] };
        (T::from_f64(0.5) * z * z, sign * z, to_norms)
    }
}

impl RowMap for Lifted<'_> {
    type Found = f64;

    /// The norm of each row.
    fn find<T: Real>(&self, i: usize, row: &[T], found: &mut Vec<f64>) {
        let (mut counts, mut soft) = (vec![T::ZERO; row.len()], vec![T::ZERO; row.len()]);
        found.push(self.norm(i, row, &mut counts, &mut soft).to_f64());
    }
}

/// The positive pairs of one row, given the norms of all.
struct OfPairs<'a> {
    of: &'a Lifted<'a>,
    norms: &'a [f64],
}

impl TupleLoss for OfPairs<'_> {
    #[inline(always)]
    fn tally<T: Real>(&self, a: usize, row: &[T], band: Band<T>, _: &mut [T]) -> Tally {
        let mut tally = Tally::default();
        self.of.pairs.each_positive(a, |p| tally.add(self.of.of(self.norms, a, p, row[p]).0, band));
        tally
    }

    #[inline(always)]
    fn weigh<T: Real>(
        &self,
        a: usize,
        row: &[T],
        weight: T,
        band: Band<T>,
        slopes: &mut [T],
        _: &mut [T],
    ) -> T {
        let mut value = T::ZERO;
        self.of.pairs.each_positive(a, |p| {
            let (loss, slope, _) = self.of.of(self.norms, a, p, row[p]);
            if band.holds(loss) {
                value += weight * loss;
                slopes[p] += weight * slope;
            }
        });
        value
    }
}

impl RowMap for OfPairs<'_> {
    type Found = (usize, usize, [f64; 2]);

    /// The derivatives of each positive pair by the norms of its two rows.
    fn find<T: Real>(&self, a: usize, row: &[T], found: &mut Vec<Self::Found>) {
        let (low, high) = self.of.band;
        let band = Band::<T>::new(low, high);
        self.of.pairs.each_positive(a, |p| {
            let (loss, _, to_norms) = self.of.of(self.norms, a, p, row[p]);
            if band.holds(loss) {
                found.push((a, p, to_norms.map(Real::to_f64)));
            }
        });
    }
}

/// The norms themselves, as losses whose derivatives alone are asked for.
struct OfNegatives<'a>(&'a Lifted<'a>);

impl TupleLoss for OfNegatives<'_> {
    fn scratch(&self, columns: usize) -> usize {
        2 * columns
    }

    fn tally<T: Real>(&self, _: usize, _: &[T], _: Band<T>, _: &mut [T]) -> Tally {
        Tally::default()
    }

    #[inline(always)]
    fn weigh<T: Real>(
        &self,
        i: usize,
        row: &[T],
        weight: T,
        _: Band<T>,
        slopes: &mut [T],
        scratch: &mut [T],
    ) -> T {
        let [counts, soft] = rows::parts(scratch, row.len());
        self.0.norm(i, row, counts, soft);
        let weight = weight * T::from_f64(self.0.sign);
        slopes.iter_mut().zip(&*soft).for_each(|(slope, &p)| *slope = *slope - weight * p);
        T::ZERO
    }
}

impl Loss for LiftedStructure {
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        self.config.check()?;
        let Some(weighing) = reducer.weighing("loss")? else { return Ok(Reduced::Unknown) };
        let pairs = &PairTable::new(batch, tuples, Repeats::Each);
        if pairs.one_sided() {
            return Ok(Reduced::Nothing);
        }
        let (sign, band) = (if self.distance.larger_is_closer() { -1.0 } else { 1.0 }, weighing.band());
        let matrix = batch.pairs(&self.distance)?; // [n, m]
        let of = Lifted { pairs, config: self.config, sign, both: !batch.has_reference(), band };
        let norms = matrix.map_rows(&of)?; // n
        let losses = OfPairs { of: &of, norms: &norms };
        let (low, high) = band;
        let weights = weighing.weights("loss", None, &matrix.tally(&losses, low, high)?, batch.labels())?;
        let mut slopes = matrix.slopes()?;
        let value = matrix.weigh(&losses, &weights, low, high, &mut slopes)?;
        let mut to_norms = vec![0.0; batch.len()];
        for (a, p, [to_a, to_p]) in matrix.map_rows(&losses)? {
            to_norms[a] += weights[a] * to_a;
            if of.both {
                to_norms[p] += weights[a] * to_p;
            }
        }
        matrix.weigh(&OfNegatives(&of), &to_norms, None, None, &mut slopes)?;
        Ok(Reduced::Value(matrix.attach_value(value, slopes, None)?))
    }

    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        let counts = PairCounts::new(batch, tuples);
        if counts.one_sided() {
            return Ok(Vec::new());
        }
        let values = batch.all_pairs(&*self.distance)?; // [n, m]
        let near = self.distance.margin_over(&values, self.config.neg_margin)?.neg()?; // [n, m]
        let log_counts = counts.negative.iter().map(|&c| c.max(1.0).ln()).collect();
        let logits = (&near + upload(log_counts, (counts.n, counts.m), &near)?)?;
        let keep = counts.keep(&counts.negative, &near)?;
        let norm = masked_log_sum_exp(&logits, &keep, false)?.squeeze(1)?; // [n]
        let some = keep.max(1)?; // [n]
        let norm = fill_unless(&norm, &some, NOTHING)?;
        let positive = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs).positive;
        let mut negatives = rows_of(&norm, &positive.anchor)?; // [k]
        if !batch.has_reference() {
            let of_positive = rows_of(&norm, &positive.other)?;
            // Not `maximum` and `minimum`, which would pass over a NaN.
            let first = negatives.detach().gt(&of_positive.detach())?;
            let high = first.where_cond(&negatives, &of_positive)?;
            let low = first.where_cond(&of_positive, &negatives)?;
            negatives = (softplus(&(low - &high)?)? + high)?;
        }
        let none = negatives.detach().le(NOTHING / 2.0)?;
        let negatives = fill_unless(&negatives, &none.eq(0u8)?, 0.0)?;
        let own = entries(&values, &positive.anchor, &positive.other)?; // [k]
        let own = self.distance.margin_over(&own, self.config.pos_margin)?;
        let losses = (hinge(&(negatives + own)?)?.sqr()? * 0.5)?;
        Ok(vec![Part::new("loss", losses, Index::Pairs(positive))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}

/// [log Σ_p exp(D_ap − m₊) + log Σ_n exp(m₋ − D_an)]₊ for each row a; an empty sum's logarithm counts as 0. For
/// similarities D − m₊ becomes m₊ − s, and m₋ − D becomes s − m₋.
///
/// Part `loss`, a loss a row. A pair that tuples name twice counts once.
///
/// # Distances
/// Any, margins in its units.
/// # Cost
/// O(nm) time and memory.
/// # Source
/// Hermans et al. 2017 \[hermans2017\], the generalized lifted structure of section 2.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = LiftedStructureConfig { neg_margin: 2.0, pos_margin: 0.0 };
/// let loss = Objective::new(Arc::new(GeneralizedLiftedStructure { distance: Arc::new(Lp::raw(2.0)), config }));
/// let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Rows 0 and 1: 1 + (2 − 3) and 1 + (2 − 2); row 2 has negatives alone, at 3 and 2.
/// assert!((value - (0.0 + 1.0 + (-1f64).exp().ln_1p()) / 3.0).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct GeneralizedLiftedStructure {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The margins.
    pub config: LiftedStructureConfig,
}

/// Of one row; `sign` is 1 for distances and −1 for similarities.
struct Rows<'a> {
    pairs: &'a PairTable,
    config: LiftedStructureConfig,
    sign: f64,
}

impl RowLoss for Rows<'_> {
    fn scratch(&self, columns: usize) -> usize {
        4 * columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let [positive, negative, p, n] = rows::parts(scratch, row.len());
        self.pairs.fill(i, positive, negative);
        let sign = T::from_f64(self.sign);
        let (pos, neg) = (T::from_f64(self.config.pos_margin), T::from_f64(self.config.neg_margin));
        for ((p, n), &v) in p.iter_mut().zip(&mut *n).zip(row) {
            *p = sign * (v - pos);
            *n = sign * (neg - v);
        }
        let loss = rows::log_sum_exp(p, positive, false) + rows::log_sum_exp(n, negative, false);
        if loss <= T::ZERO {
            return T::ZERO;
        }
        for ((out, &p), &n) in slopes.iter_mut().zip(&*p).zip(&*n) {
            *out = sign * (p - n);
        }
        loss
    }
}

impl Loss for GeneralizedLiftedStructure {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        if batch.nothing() {
            return Ok(Vec::new());
        }
        let pairs = PairTable::new(batch, tuples, Repeats::Once);
        let sign = if self.distance.larger_is_closer() { -1.0 } else { 1.0 };
        let of = Rows { pairs: &pairs, config: self.config, sign };
        Ok(vec![Part::of_rows(batch.pairs(&self.distance)?.row_losses(&of, None)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
