//! Losses of single pairs, visited row by row.

use dml_kernels::{Band, Real, Tally, TupleLoss};

use crate::{rows, tuples::PairTable};

/// Which pairs of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of one class.
    Positive,
    /// Of two.
    Negative,
}

/// A function of sign·(v − bound) for the value v of each pair of one kind.
pub(crate) struct PairHinge<'a> {
    pub pairs: &'a PairTable,
    pub kind: Kind,
    pub sign: f64,
    pub bound: f64,
    pub form: Form,
}

/// What is taken of sign·(v − bound).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// What is above 0 of it.
    Hinge,
    /// The square of that.
    Squared,
    /// It as it is.
    Linear,
}

impl PairHinge<'_> {
    /// The loss of a value, and its derivative.
    #[inline(always)]
    fn of<T: Real>(&self, v: T) -> (T, T) {
        let sign = T::from_f64(self.sign);
        let signed = sign * (v - T::from_f64(self.bound));
        let (excess, slope) = rows::hinge(signed);
        let slope = slope * sign;
        match self.form {
            Form::Hinge => (excess, slope),
            Form::Squared => (excess * excess, (excess + excess) * slope),
            Form::Linear => (signed, sign),
        }
    }

    /// Calls `f` with each pair that the listed form of the table names.
    #[inline(always)]
    fn each(&self, i: usize, f: impl FnMut(usize)) {
        match self.kind {
            Kind::Positive => self.pairs.each_positive(i, f),
            Kind::Negative => self.pairs.each_negative(i, f),
        }
    }
}

impl TupleLoss for PairHinge<'_> {
    fn scratch(&self, columns: usize) -> usize {
        3 * columns
    }

    #[inline(always)]
    fn tally<T: Real>(&self, i: usize, row: &[T], band: Band<T>, scratch: &mut [T]) -> Tally {
        if let (PairTable::All(classes), Kind::Negative) = (self.pairs, self.kind) {
            // Nearly the whole row: without branches.
            let [losses, insides, counts] = rows::parts(scratch, row.len());
            let own = classes.row[i];
            let each = losses.iter_mut().zip(&mut *insides).zip(&mut *counts).zip(row).zip(&classes.column);
            for ((((loss, inside), count), &v), &class) in each {
                let one = if class == own { T::ZERO } else { T::ONE };
                let value = self.of(v).0;
                *inside = if band.holds(value) { one } else { T::ZERO };
                *loss = if class == own { T::ZERO } else { value };
                *count = one;
            }
            let sum = |x: &[T]| rows::sum(x).to_f64();
            return Tally { count: sum(counts), sum: sum(losses), inside: sum(insides) };
        }
        let mut tally = Tally::default();
        self.each(i, |j| tally.add(self.of(row[j]).0, band));
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
        if let (PairTable::All(classes), Kind::Negative) = (self.pairs, self.kind) {
            let (losses, own) = (&mut scratch[..row.len()], classes.row[i]);
            let each = losses.iter_mut().zip(&mut *slopes).zip(row).zip(&classes.column);
            for (((out, slope), &v), &class) in each {
                let (loss, by) = self.of(v);
                let counts = band.holds(loss) & (class != own);
                *out = if counts { weight * loss } else { T::ZERO };
                *slope += if counts { weight * by } else { T::ZERO };
            }
            return rows::sum(losses);
        }
        let mut value = T::ZERO;
        self.each(i, |j| {
            let (loss, by) = self.of(row[j]);
            if band.holds(loss) {
                value += weight * loss;
                slopes[j] += weight * by;
            }
        });
        value
    }
}
