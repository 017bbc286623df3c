//! Losses of triplets, visited anchor by anchor: none is ever listed, so n³ of them take the memory of one row.

use dml_kernels::{Band, Real, Tally, TupleLoss};

use crate::{rows, tuples::TripletTable};

/// The loss of one triplet: a function of the distances to its positive and its negative.
pub(crate) trait TripletForm: Sync {
    /// What depends on the anchor and its positive alone.
    type Positive<T: Real>: Copy;

    /// From the anchor and the distance to the positive.
    fn positive<T: Real>(&self, anchor: usize, value: T) -> Self::Positive<T>;

    /// The loss with a negative at this distance.
    fn loss<T: Real>(&self, positive: Self::Positive<T>, anchor: usize, value: T) -> T;

    /// The derivatives by the distances to positive and negative.
    fn slopes<T: Real>(&self, positive: Self::Positive<T>, anchor: usize, value: T) -> (T, T);
}

/// The triplets of each row under a form.
pub(crate) struct TripletRows<'a, F> {
    pub triplets: &'a TripletTable,
    pub form: F,
}

impl<F: TripletForm> TupleLoss for TripletRows<'_, F> {
    fn scratch(&self, columns: usize) -> usize {
        4 * columns
    }

    #[inline(always)]
    fn tally<T: Real>(&self, i: usize, row: &[T], band: Band<T>, scratch: &mut [T]) -> Tally {
        let mut tally = Tally::default();
        match self.triplets {
            TripletTable::Listed { positive, negative } => {
                for (&p, &n) in positive.of(i).iter().zip(negative.of(i)) {
                    let at = self.form.positive(i, row[p as usize]);
                    tally.add(self.form.loss(at, i, row[n as usize]), band);
                }
            }
            TripletTable::Products(pairs) => {
                let [values, losses, insides] = rows::parts(scratch, row.len());
                let mut k = 0;
                pairs.each_negative(i, |n| {
                    // Given pairs may be named more often than there are columns.
                    if k < values.len() {
                        values[k] = row[n];
                    }
                    k += 1;
                });
                if k > values.len() {
                    pairs.each_positive(i, |p| {
                        let at = self.form.positive(i, row[p]);
                        pairs.each_negative(i, |n| tally.add(self.form.loss(at, i, row[n]), band));
                    });
                    return tally;
                }
                pairs.each_positive(i, |p| {
                    let at = self.form.positive(i, row[p]);
                    for ((loss, inside), &v) in losses.iter_mut().zip(&mut *insides).zip(&values[..k]) {
                        let value = self.form.loss(at, i, v);
                        *loss = value;
                        *inside = if band.holds(value) { T::ONE } else { T::ZERO };
                    }
                    tally.count += k as f64;
                    tally.sum += rows::sum(&losses[..k]).to_f64();
                    tally.inside += rows::sum(&insides[..k]).to_f64();
                });
            }
        }
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
        let mut total = T::ZERO;
        let mut single = |slopes: &mut [T], p: usize, n: usize| {
            let at = self.form.positive(i, row[p]);
            let loss = self.form.loss(at, i, row[n]);
            if band.holds(loss) {
                let (to_p, to_n) = self.form.slopes(at, i, row[n]);
                slopes[p] += weight * to_p;
                slopes[n] += weight * to_n;
                total += weight * loss;
            }
        };
        match self.triplets {
            TripletTable::Listed { positive, negative } => {
                for (&p, &n) in positive.of(i).iter().zip(negative.of(i)) {
                    single(slopes, p as usize, n as usize);
                }
            }
            TripletTable::Products(pairs) => {
                let [values, losses, by_positive, by_negative] = rows::parts(scratch, row.len());
                let mut k = 0;
                pairs.each_negative(i, |n| {
                    if k < values.len() {
                        values[k] = row[n];
                    }
                    k += 1;
                });
                if k > values.len() {
                    pairs.each_positive(i, |p| pairs.each_negative(i, |n| single(slopes, p, n)));
                    return total;
                }
                by_negative.fill(T::ZERO);
                pairs.each_positive(i, |p| {
                    let at = self.form.positive(i, row[p]);
                    let each = losses.iter_mut().zip(&mut *by_positive).zip(&mut *by_negative);
                    for (((out, by_p), by_n), &v) in each.zip(&values[..k]) {
                        let loss = self.form.loss(at, i, v);
                        let (to_p, to_n) = self.form.slopes(at, i, v);
                        let counts = band.holds(loss);
                        *out = if counts { loss } else { T::ZERO };
                        *by_p = if counts { to_p } else { T::ZERO };
                        *by_n += if counts { to_n } else { T::ZERO };
                    }
                    total += weight * rows::sum(&losses[..k]);
                    slopes[p] += weight * rows::sum(&by_positive[..k]);
                });
                let mut k = 0;
                pairs.each_negative(i, |n| {
                    slopes[n] += weight * by_negative[k];
                    k += 1;
                });
            }
        }
        total
    }
}
