//! Circle loss (Sun et al. 2020).

use std::sync::Arc;

use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Loss, Part, Reducer, Result, Tuples, rows,
    tuples::{PairTable, Repeats},
};

/// Knobs of [`Circle`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CircleConfig {
    /// Relaxation: 0.25 for faces and persons, 0.4 for fine-grained retrieval.
    pub m: f64,
    /// Scale: 256 for faces, 80 for retrieval.
    pub gamma: f64,
}

impl Default for CircleConfig {
    fn default() -> Self {
        Self { m: 0.4, gamma: 80.0 }
    }
}

/// softplus( LSE_n γ·[s_n + m]₊(s_n − m) + LSE_p −γ·[1 + m − s_p]₊(s_p − 1 + m) ) for each row with both kinds of
/// pair, 0 for others; the weights [·]₊ are constants for the gradient.
///
/// Part `loss`, a loss a row; usually averaged over the nonzero ones. Cosine is usual; of a distance s = 1 − D.
///
/// # Source
/// Sun et al. 2020 \[sun2020\], equations 8 and 9.
#[derive(Debug, Clone)]
pub struct Circle {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// m and γ.
    pub config: CircleConfig,
}

/// Of one row, s = offset + sign·v.
struct Rows<'a> {
    pairs: &'a PairTable,
    config: CircleConfig,
    offset: f64,
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
        if rows::sum(positive) == T::ZERO || rows::sum(negative) == T::ZERO {
            return T::ZERO;
        }
        let (m, gamma) = (T::from_f64(self.config.m), T::from_f64(self.config.gamma));
        let (offset, sign) = (T::from_f64(self.offset), T::from_f64(self.sign));
        let of_positive = |v: T| {
            let s = offset + sign * v;
            (gamma * (T::ONE + m - s).max(T::ZERO), s)
        };
        let of_negative = |v: T| {
            let s = offset + sign * v;
            (gamma * (s + m).max(T::ZERO), s)
        };
        for ((p, n), &v) in p.iter_mut().zip(&mut *n).zip(row) {
            let ((weight_p, s), (weight_n, _)) = (of_positive(v), of_negative(v));
            *p = weight_p * (T::ONE - m - s);
            *n = weight_n * (s - m);
        }
        let norm = rows::log_sum_exp(p, positive, false) + rows::log_sum_exp(n, negative, false);
        let (loss, slope) = rows::softplus(norm);
        let slope = slope * sign;
        for (((out, &p), &n), &v) in slopes.iter_mut().zip(&*p).zip(&*n).zip(row) {
            *out = slope * (n * of_negative(v).0 - p * of_positive(v).0);
        }
        loss
    }
}

impl Loss for Circle {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let pairs = PairTable::new(batch, tuples, Repeats::Once);
        if pairs.one_sided() {
            return Ok(Vec::new());
        }
        let (offset, sign) = if self.distance.larger_is_closer() { (0.0, 1.0) } else { (1.0, -1.0) };
        let of = Rows { pairs: &pairs, config: self.config, offset, sign };
        Ok(vec![Part::of_rows(batch.pairs(&self.distance)?.row_losses(&of, None)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(AvgNonZero)
    }
}
