//! Losses of triplets with swap (Balntas et al. 2016): the negative is compared with whichever of anchor and positive
//! it is closer to. Visited anchor by anchor for what belongs to the anchor's row, then positive by positive for what
//! belongs to the positive's, so none is ever listed.

use candle_core::Tensor;
use dml_kernels::{Band, PairMatrix, Real, Tally, TupleLoss};

use crate::{
    Batch, Distance, Reduced, Reducer, Result,
    loss::triplet_rows::TripletForm,
    rows,
    tuples::{ByPositive, PairTable, TripletTable},
};

/// The value of the triplets by a reducer; [`Reduced::Unknown`] where that is no weighted sum.
pub(crate) fn reduced<F: TripletForm>(
    batch: &Batch,
    distance: &std::sync::Arc<dyn Distance>,
    triplets: &TripletTable,
    form: &F,
    reducer: &dyn Reducer,
) -> Result<Reduced> {
    let Some(weighing) = reducer.weighing("loss")? else { return Ok(Reduced::Unknown) };
    let matrix = batch.pairs(distance)?; // [n, m]
    let own = match batch.has_reference() {
        true => Some(distance.pairs(batch.columns(), batch.columns())?), // [m, m]
        false => None,
    };
    let across = own.as_ref().unwrap_or(&matrix);
    if across.dtype() != matrix.dtype() {
        return Ok(Reduced::Unknown);
    }
    let by_positive = triplets.by_positive(matrix.rows(), matrix.columns());
    let larger = distance.larger_is_closer();
    let walk = |side, weights| SwappedRows {
        side,
        triplets,
        by_positive: &by_positive,
        matrix: &matrix,
        across,
        form,
        larger,
        weights,
    };
    let (low, high) = weighing.band();
    let tallies = matrix.tally(&walk(Side::Anchor, &[]), low, high)?;
    if tallies.iter().all(|t| t.count == 0.0) {
        return Ok(Reduced::Nothing);
    }
    let weights = weighing.weights("loss", None, &tallies, batch.labels())?;
    let mut slopes = matrix.slopes()?;
    let value = matrix.weigh(&walk(Side::Anchor, &[]), &weights, low, high, &mut slopes)?;
    let (positive, ones) = (walk(Side::Positive, &weights), vec![1.0; across.rows()]);
    let total: Tensor = match &own {
        None => {
            matrix.weigh(&positive, &ones, low, high, &mut slopes)?;
            matrix.attach_value(value, slopes, None)?
        }
        Some(own) => {
            let mut others = own.slopes()?;
            own.weigh(&positive, &ones, low, high, &mut others)?;
            (matrix.attach_value(value, slopes, None)? + own.attach_value(0.0, others, None)?)?
        }
    };
    Ok(Reduced::Value(total))
}

/// Whose row the derivatives of a pass belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The anchor's, with the value.
    Anchor,
    /// The positive's, derivatives alone.
    Positive,
}

struct SwappedRows<'a, F> {
    side: Side,
    triplets: &'a TripletTable,
    by_positive: &'a ByPositive,
    /// Anchors with all others.
    matrix: &'a PairMatrix,
    /// Positives with all others.
    across: &'a PairMatrix,
    form: &'a F,
    /// Whether larger is closer.
    larger: bool,
    /// Of each anchor, where the rows are those of positives.
    weights: &'a [f64],
}

/// A row of a matrix.
#[inline(always)]
fn row_of<T: Real>(matrix: &PairMatrix, i: usize) -> &[T] {
    let m = matrix.columns();
    &matrix.entries::<T>()[i * m..(i + 1) * m]
}

impl<F: TripletForm> SwappedRows<'_, F> {
    /// Whether the negative is closer to the positive, and how far the closer of the two is from it.
    #[inline(always)]
    fn closer<T: Real>(&self, to_anchor: T, to_positive: T) -> (bool, T) {
        let closer = if self.larger { to_positive > to_anchor } else { to_positive < to_anchor };
        let swapped = closer | to_positive.is_nan(); // which is then seen
        (swapped, if swapped { to_positive } else { to_anchor })
    }

    /// Calls `f(positive, negative)` for each triplet that is named one by one.
    fn listed(&self, a: usize, mut f: impl FnMut(usize, usize)) {
        if let TripletTable::Listed { positive, negative } = self.triplets {
            positive.of(a).iter().zip(negative.of(a)).for_each(|(&p, &n)| f(p as usize, n as usize));
        }
    }

    /// One triplet: its loss, whether it is swapped, and the derivatives by its two distances.
    #[inline(always)]
    fn one<T: Real>(&self, a: usize, p: usize, n: usize) -> (T, bool, (T, T)) {
        let row = row_of::<T>(self.matrix, a);
        let at = self.form.positive(a, row[p]);
        let (swapped, value) = self.closer(row[n], row_of::<T>(self.across, p)[n]);
        (self.form.loss(at, a, value), swapped, self.form.slopes(at, a, value))
    }

    /// Of the triplets of anchor `a` with positive `p` and each negative as often as `counts` says: the sum of the
    /// losses in the band and of their derivatives by the distance to the positive; the derivatives by that to each
    /// negative are added to `slopes` where it is the row of `side`.
    #[inline(always)]
    fn add<T: Real>(
        &self,
        (a, p): (usize, usize),
        weight: T,
        band: Band<T>,
        slopes: &mut [T],
        (counts, losses, by_positive): (&[T], &mut [T], &mut [T]),
    ) -> (T, T) {
        let (row, across) = (row_of::<T>(self.matrix, a), row_of::<T>(self.across, p));
        let at = self.form.positive(a, row[p]);
        let of_swapped = self.side == Side::Positive;
        let each = losses.iter_mut().zip(by_positive.iter_mut()).zip(slopes).zip(counts);
        for ((((loss, by_p), slope), &count), (&to_a, &to_p)) in each.zip(row.iter().zip(across)) {
            let (swapped, v) = self.closer(to_a, to_p);
            let value = self.form.loss(at, a, v);
            let (by_positive, by_negative) = self.form.slopes(at, a, v);
            let counted = band.holds(value) & (count > T::ZERO);
            *loss = if counted { weight * count * value } else { T::ZERO };
            *by_p = if counted { weight * count * by_positive } else { T::ZERO };
            let here = counted & (swapped == of_swapped);
            *slope += if here { weight * count * by_negative } else { T::ZERO };
        }
        (rows::sum(losses), rows::sum(by_positive))
    }
}

impl<F: TripletForm> TupleLoss for SwappedRows<'_, F> {
    fn scratch(&self, columns: usize) -> usize {
        4 * columns
    }

    #[inline(always)]
    fn tally<T: Real>(&self, a: usize, row: &[T], band: Band<T>, scratch: &mut [T]) -> Tally {
        let mut tally = Tally::default();
        let TripletTable::Products(pairs) = self.triplets else {
            self.listed(a, |p, n| tally.add(self.one::<T>(a, p, n).0, band));
            return tally;
        };
        let [positive, counts, losses, insides] = rows::parts(scratch, row.len());
        pairs.fill(a, positive, counts);
        let negatives = rows::sum(counts).to_f64();
        pairs.each_positive(a, |p| {
            let at = self.form.positive(a, row[p]);
            let across = row_of::<T>(self.across, p);
            let each = losses.iter_mut().zip(&mut *insides).zip(&*counts).zip(row.iter().zip(across));
            for (((loss, inside), &count), (&to_a, &to_p)) in each {
                let value = self.form.loss(at, a, self.closer(to_a, to_p).1);
                *loss = if count > T::ZERO { count * value } else { T::ZERO };
                *inside = if band.holds(value) { count } else { T::ZERO };
            }
            tally.count += negatives;
            tally.sum += rows::sum(losses).to_f64();
            tally.inside += rows::sum(insides).to_f64();
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
        let mut total = T::ZERO;
        let TripletTable::Products(pairs) = self.triplets else {
            let mut add = |a: usize, p: usize, n: usize, weight: T, slopes: &mut [T]| {
                let (loss, swapped, (by_positive, by_negative)) = self.one::<T>(a, p, n);
                if !band.holds(loss) {
                    return;
                }
                total += weight * loss;
                if self.side == Side::Anchor {
                    slopes[p] += weight * by_positive;
                }
                if swapped == (self.side == Side::Positive) {
                    slopes[n] += weight * by_negative;
                }
            };
            match self.side {
                Side::Anchor => self.listed(i, |p, n| add(i, p, n, weight, slopes)),
                Side::Positive => self.by_positive.each(i, |a, n| {
                    add(a, i, n, T::from_f64(self.weights[a]), slopes);
                }),
            }
            return total;
        };
        let [positive, counts, losses, by_positive] = rows::parts(scratch, row.len());
        if self.side == Side::Anchor {
            pairs.fill(i, positive, counts);
            pairs.each_positive(i, |p| {
                let (sum, by) = self.add((i, p), weight, band, slopes, (counts, losses, by_positive));
                total += sum;
                slopes[p] += by;
            });
            return total;
        }
        let mut filled = None;
        for &a in self.by_positive.anchors(i) {
            let a = a as usize;
            let weight = T::from_f64(self.weights[a]);
            if weight != T::ZERO {
                if !filled.is_some_and(|b| same_negatives(pairs, a, b)) {
                    pairs.fill(a, positive, counts);
                    filled = Some(a);
                }
                self.add((a, i), weight, band, slopes, (counts, losses, by_positive));
            }
        }
        total
    }
}

/// Whether two anchors are known to have the same negatives.
#[inline(always)]
fn same_negatives(pairs: &PairTable, a: usize, b: usize) -> bool {
    match pairs {
        PairTable::All(classes) => classes.row[a] == classes.row[b],
        PairTable::Listed { .. } => a == b,
    }
}
