//! Arithmetic within one row, written so that it fills the vector registers: sums and maxima in lanes, selections in
//! place of branches.

use std::marker::PhantomData;

use dml_kernels::{Real, RowLoss, RowMap};

const LANES: usize = 16;

/// The scratch of a row as so many pieces of `m` numbers, which it must hold.
#[inline(always)]
pub(crate) fn parts<T, const K: usize>(scratch: &mut [T], m: usize) -> [&mut [T]; K] {
    let mut pieces = scratch.chunks_exact_mut(m.max(1));
    std::array::from_fn(|_| pieces.next().unwrap_or_default())
}

/// Σ x_j in a fixed order.
#[inline(always)]
pub(crate) fn sum<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += v;
        }
    }
    let mut sum = T::ZERO;
    for v in lanes.into_iter().chain(rest.iter().copied()) {
        sum += v;
    }
    sum
}

/// The largest x_j whose weight is above 0; −∞ where there is none.
#[inline(always)]
pub(crate) fn largest<T: Real>(x: &[T], weight: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let (xs, ws) = (x.chunks_exact(LANES), weight.chunks_exact(LANES));
    let rest = xs.remainder().iter().zip(ws.remainder());
    for (x, w) in xs.zip(ws) {
        for ((lane, &v), &w) in lanes.iter_mut().zip(x).zip(w) {
            let v = if w > T::ZERO { v } else { T::NEG_INFINITY };
            *lane = if v > *lane { v } else { *lane };
        }
    }
    let mut most = T::NEG_INFINITY;
    for v in lanes.into_iter().chain(rest.map(|(&v, &w)| if w > T::ZERO { v } else { T::NEG_INFINITY })) {
        most = if v > most { v } else { most };
    }
    most
}

/// A logarithm of a sum as two terms, so that what is near the larger one can be taken from it first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogSum<T> {
    shift: T,
    log: T,
}

impl<T: Real> LogSum<T> {
    /// The logarithm.
    #[inline(always)]
    pub(crate) fn value(self) -> T {
        self.shift + self.log
    }

    /// The logarithm less x.
    #[inline(always)]
    pub(crate) fn less(self, x: T) -> T {
        (self.shift - x) + self.log
    }
}

/// log Σ_j w_j exp(x_j), with a term e⁰ more where `one`; `x` becomes the derivatives by x_j. A sum over nothing counts
/// as logarithm 0 with derivatives 0.
#[inline(always)]
pub(crate) fn log_sum_exp<T: Real>(x: &mut [T], weight: &[T], one: bool) -> T {
    log_sum_exp_terms(x, weight, one).value()
}

/// The same as two terms.
#[inline(always)]
pub(crate) fn log_sum_exp_terms<T: Real>(x: &mut [T], weight: &[T], one: bool) -> LogSum<T> {
    let mut shift = largest(x, weight);
    if one && shift < T::ZERO {
        shift = T::ZERO;
    }
    if shift == T::NEG_INFINITY {
        // Nothing, or nothing but e^−∞, or NaN, which is neither larger nor smaller.
        let mut shift = T::ZERO;
        for (&x, _) in x.iter().zip(weight).filter(|(_, w)| **w > T::ZERO) {
            shift = if x.is_nan() { x } else { shift + T::NEG_INFINITY };
            if shift.is_nan() {
                break;
            }
        }
        x.fill(if shift.is_nan() { shift } else { T::ZERO });
        return LogSum { shift, log: T::ZERO };
    }
    for (x, &w) in x.iter_mut().zip(weight) {
        let e = (*x - shift).exp_fast() * w;
        *x = if w > T::ZERO { e } else { T::ZERO };
    }
    let mut total = sum(x);
    if one {
        if shift == T::ZERO && total <= T::ONE {
            // Few and far from 1: the logarithm keeps what 1 + total would round away.
            let inverse = T::ONE / (T::ONE + total);
            x.iter_mut().for_each(|x| *x = *x * inverse);
            return LogSum { shift, log: total.ln_1p_unit() };
        }
        total += (-shift).exp_fast();
    }
    let inverse = T::ONE / total;
    x.iter_mut().for_each(|x| *x = *x * inverse);
    LogSum { shift, log: total.ln() }
}

/// max(z, 0) and its derivative, 0 at 0; NaN stays NaN, so that a loss shows it.
#[inline(always)]
pub(crate) fn hinge<T: Real>(z: T) -> (T, T) {
    let off = z <= T::ZERO;
    (if off { T::ZERO } else { z }, if off { T::ZERO } else { T::ONE })
}

/// log(1 + eᶻ) and its derivative.
#[inline(always)]
pub(crate) fn softplus<T: Real>(z: T) -> (T, T) {
    let e = (-z.abs()).exp_fast();
    let value = hinge(z).0 + e.ln_1p_unit();
    let slope = if z < T::ZERO { e } else { T::ONE } / (T::ONE + e);
    (value, slope)
}

/// A row loss worked out in f64: `f(i, row, slopes)` gives the loss of row i, `row` turned by `sign`.
pub(crate) struct InF64<F> {
    pub sign: f64,
    pub f: F,
}

impl<F: Fn(usize, &[f64], &mut [f64]) -> f64 + Sync> RowLoss for InF64<F> {
    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], _: &mut [T]) -> T {
        let far: Vec<f64> = row.iter().map(|v| self.sign * v.to_f64()).collect();
        let mut by = vec![0.0; far.len()];
        let value = (self.f)(i, &far, &mut by);
        slopes.iter_mut().zip(&by).for_each(|(slope, by)| *slope = T::from_f64(self.sign * by));
        T::from_f64(value)
    }
}

/// What a function of each row in f64 gives: `f(i, row, found)`.
pub(crate) struct EachRow<F, O> {
    f: F,
    found: PhantomData<fn() -> O>,
}

impl<O: Send, F: Fn(usize, &[f64], &mut Vec<O>) + Sync> EachRow<F, O> {
    pub fn new(f: F) -> Self {
        Self { f, found: PhantomData }
    }
}

impl<O: Send, F: Fn(usize, &[f64], &mut Vec<O>) + Sync> RowMap for EachRow<F, O> {
    type Found = O;

    fn find<T: Real>(&self, i: usize, row: &[T], found: &mut Vec<O>) {
        let row: Vec<f64> = row.iter().map(|v| v.to_f64()).collect();
        (self.f)(i, &row, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_take_every_entry() {
        for n in 0..40 {
            let x: Vec<f64> = (0..n).map(|i| f64::from((i * 7) % 11) - 5.0).collect();
            assert_eq!(sum(&x), x.iter().sum::<f64>());
            let w: Vec<f64> = (0..n).map(|i| f64::from(i % 3)).collect();
            let kept = x.iter().zip(&w).filter(|(_, w)| **w > 0.0).map(|(x, _)| *x);
            assert_eq!(largest(&x, &w), kept.fold(f64::NEG_INFINITY, f64::max));
        }
    }

    #[test]
    fn a_logarithm_of_nothing_is_zero() {
        let mut x = [1e30f32, -3.0];
        assert_eq!(log_sum_exp(&mut x, &[0.0, 0.0], false), 0.0);
        assert_eq!(x, [0.0, 0.0]);
        let mut x = [1e30f32, -3.0];
        assert_eq!(log_sum_exp(&mut x, &[0.0, 0.0], true), 0.0);
        assert_eq!(x, [0.0, 0.0]);
    }

    #[test]
    fn nan_is_not_nothing() {
        for one in [false, true] {
            for mut x in [[f64::NAN, f64::NAN], [f64::NAN, 1.0], [1.0, f64::NAN]] {
                assert!(log_sum_exp(&mut x, &[1.0, 1.0], one).is_nan());
                assert!(x.iter().any(|x| x.is_nan()));
            }
        }
        let mut x = [f64::NAN, 1.0];
        assert_eq!(log_sum_exp(&mut x, &[0.0, 1.0], false), 1.0);
        let mut x = [f64::NEG_INFINITY; 2];
        assert_eq!(log_sum_exp(&mut x, &[1.0, 0.0], false), f64::NEG_INFINITY);
        assert_eq!(x, [0.0; 2]);
        assert!(hinge(f64::NAN).0.is_nan() && softplus(f64::NAN).0.is_nan());
        assert_eq!((hinge(0.0), hinge(-1.0), hinge(2.0)), ((0.0, 0.0), (0.0, 0.0), (2.0, 1.0)));
    }

    #[test]
    fn a_logarithm_keeps_what_is_left_of_its_largest_term() {
        let mut x = [10000f32, 9992.0];
        let less = log_sum_exp_terms(&mut x, &[1.0, 1.0], false).less(10000.0);
        assert!((less - (-8f32).exp().ln_1p()).abs() < 1e-6, "{less}");
    }

    #[test]
    fn left_out_entries_may_be_anything() {
        let mut x = [f64::INFINITY, 1.0, 2.0];
        let log = log_sum_exp(&mut x, &[0.0, 1.0, 2.0], false);
        assert!((log - (1f64.exp() + 2.0 * 2f64.exp()).ln()).abs() < 1e-14);
        assert!(x[0] == 0.0 && (x[1] + x[2] - 1.0).abs() < 1e-14);
    }
}
