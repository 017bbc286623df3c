//! Each positive pair against the negatives of its anchor: softplus(log Σ_n exp(l_an) − l_ap), visited row by row.

use dml_kernels::{Band, Real, Tally, TupleLoss};

use crate::{
    rows::{self, log_sum_exp},
    tuples::PairTable,
};

/// The logit of a positive pair, where it is another function of its value than that of a negative.
pub(crate) trait OwnLogit: Sync {
    /// From the value: the logit and its derivative.
    fn own<T: Real>(&self, value: T) -> (T, T);
}

/// factor·value, as for negatives.
pub(crate) struct Scaled(pub f64);

impl OwnLogit for Scaled {
    #[inline(always)]
    fn own<T: Real>(&self, value: T) -> (T, T) {
        (T::from_f64(self.0) * value, T::from_f64(self.0))
    }
}

/// Of the positive pairs of one row: each softplus(log Σ_n exp(factor·v_an) − l_ap), 0 where there are no negatives.
pub(crate) struct OfPositives<'a, O> {
    pub pairs: &'a PairTable,
    pub factor: f64,
    pub own: O,
}

impl<O: OwnLogit> OfPositives<'_, O> {
    /// log Σ_n exp(l_an), `logits` becoming the softmax; `None` without negatives.
    #[inline(always)]
    fn norm<T: Real>(&self, i: usize, row: &[T], counts: &mut [T], logits: &mut [T]) -> Option<T> {
        let factor = T::from_f64(self.factor);
        self.pairs.fill(i, logits, counts);
        let some = rows::sum(counts) > T::ZERO;
        logits.iter_mut().zip(row).for_each(|(logit, &v)| *logit = factor * v);
        let norm = log_sum_exp(logits, counts, false);
        some.then_some(norm)
    }
}

impl<O: OwnLogit> TupleLoss for OfPositives<'_, O> {
    fn scratch(&self, columns: usize) -> usize {
        2 * columns
    }

    #[inline(always)]
    fn tally<T: Real>(&self, i: usize, row: &[T], band: Band<T>, scratch: &mut [T]) -> Tally {
        let [counts, logits] = rows::parts(scratch, row.len());
        let norm = self.norm(i, row, counts, logits);
        let mut tally = Tally::default();
        self.pairs.each_positive(i, |p| {
            let loss = norm.map_or(T::ZERO, |norm| rows::softplus(norm - self.own.own(row[p]).0).0);
            tally.add(loss, band);
        });
        tally
    }

    #[inline(always)]
    fn weigh<T: Real>(
        &self,
        i: usize,
        row: &[T],
        weight: T,
        band: Band<T>,
        slopes: &mut [T],
        scratch: &mut [T],
    ) -> T {
        let [counts, logits] = rows::parts(scratch, row.len());
        let Some(norm) = self.norm(i, row, counts, logits) else { return T::ZERO };
        let (mut value, mut by_norm) = (T::ZERO, T::ZERO);
        self.pairs.each_positive(i, |p| {
            let (own, by_own) = self.own.own(row[p]);
            let (loss, slope) = rows::softplus(norm - own);
            if band.holds(loss) {
                value += weight * loss;
                by_norm += weight * slope;
                slopes[p] = slopes[p] - weight * slope * by_own;
            }
        });
        let by_norm = by_norm * T::from_f64(self.factor);
        slopes.iter_mut().zip(&*logits).for_each(|(slope, &p)| *slope += by_norm * p);
        value
    }
}
