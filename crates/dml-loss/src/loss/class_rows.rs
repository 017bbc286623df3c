//! Softmax over classes row by row: −log softmax at each row's own class, which a margin may lower first.

use dml_kernels::{Real, RowLoss};

use crate::rows::{self, log_sum_exp_terms};

/// What a margin does to the closeness of the own class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum OwnClass {
    AsItIs,
    /// cos θ − m.
    Subtract(f64),
    /// cos(θ + m), m in radians; cos θ − m·sin m where θ > π − m.
    Add(f64),
}

impl OwnClass {
    /// The lowered closeness and its derivative.
    fn of(self, c: f64) -> (f64, f64) {
        match self {
            Self::AsItIs => (c, 1.0),
            Self::Subtract(m) => (c - m, 1.0),
            Self::Add(m) if c < -m.cos() => (c - m * m.sin(), 1.0),
            Self::Add(m) => {
                // sin θ has no derivative at its zeros; there the angle is left alone.
                let square = 1.0 - c * c;
                let sine = square.max(0.0).sqrt();
                let slope = if square > 0.0 { c / sine } else { 0.0 };
                (c * m.cos() - sine * m.sin(), m.cos() + slope * m.sin())
            }
        }
    }
}

/// Of one row: classes of `per_class` columns each, of which the closest counts; logit = factor·entry, factor above 0
/// for similarities.
pub(crate) struct ClassRows<'a> {
    /// The own class of each row.
    pub own: &'a [u32],
    pub per_class: usize,
    pub factor: f64,
    pub margin: OwnClass,
}

impl RowLoss for ClassRows<'_> {
    fn scratch(&self, columns: usize) -> usize {
        2 * columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let classes = row.len() / self.per_class.max(1);
        let [logits, ones] = rows::parts(scratch, row.len());
        let (logits, ones) = (&mut logits[..classes], &mut ones[..classes]);
        let (factor, own) = (T::from_f64(self.factor), self.own[i] as usize);
        ones.fill(T::ONE);
        if self.per_class == 1 {
            logits.iter_mut().zip(row).for_each(|(logit, &v)| *logit = factor * v);
        } else {
            for (logit, centers) in logits.iter_mut().zip(row.chunks_exact(self.per_class)) {
                *logit = factor * centers[closest(centers, self.factor)];
            }
        }
        let mut own_slope = T::ONE;
        if self.margin != OwnClass::AsItIs {
            let (value, slope) = self.margin.of(logits[own].to_f64() / self.factor);
            logits[own] = T::from_f64(value * self.factor);
            own_slope = T::from_f64(slope);
        }
        let at_own = logits[own];
        let norm = log_sum_exp_terms(logits, ones, false);
        logits[own] = (logits[own] - T::ONE) * own_slope;
        if self.per_class == 1 {
            slopes.iter_mut().zip(&*logits).for_each(|(slope, &p)| *slope = factor * p);
        } else {
            let each = slopes.chunks_exact_mut(self.per_class).zip(row.chunks_exact(self.per_class));
            for ((slopes, centers), &p) in each.zip(&*logits) {
                slopes[closest(centers, self.factor)] = factor * p;
            }
        }
        norm.less(at_own)
    }
}

/// The first of the closest centers.
#[inline(always)]
fn closest<T: Real>(centers: &[T], factor: f64) -> usize {
    let mut best = 0;
    for (k, &v) in centers.iter().enumerate() {
        let closer = (factor > 0.0 && v > centers[best]) || (factor < 0.0 && v < centers[best]);
        if closer || v.is_nan() {
            best = k;
        }
    }
    best
}
