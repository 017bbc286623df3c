//! Circle loss (Sun et al. 2020).

use std::sync::Arc;

use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Loss, Part, Reducer, Result, Tuples,
    error::{finite, positive},
    rows,
    tuples::{PairTable, Repeats},
};

/// Knobs of [`Circle`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CircleConfig {
    /// m, the relaxation: 0.4 (the default) for fine-grained retrieval, 0.25 for faces and persons.
    pub m: f64,
    /// γ, the scale: 80 (the default) for retrieval, 256 for faces.
    pub gamma: f64,
}

impl Default for CircleConfig {
    fn default() -> Self {
        Self { m: 0.4, gamma: 80.0 }
    }
}

impl CircleConfig {
    pub(crate) fn check(&self) -> Result<()> {
        finite("Circle", &[("m", self.m)])?;
        positive("Circle", &[("gamma", self.gamma)])
    }
}

/// softplus( LSE_n γ·[s_n + m]₊(s_n − m) + LSE_p −γ·[1 + m − s_p]₊(s_p − 1 + m) ) for each row with pairs of both
/// kinds, 0 for others; LSE is the logarithm of a sum of exponentials, and the weights [·]₊ are constants for the
/// gradient, as the paper has them.
///
/// Part `loss`, a loss a row; usually averaged over the nonzero ones ([`AvgNonZero`](crate::AvgNonZero)). A pair that
/// tuples name twice counts once.
///
/// # Distances
/// Cosine is usual. Of a distance s = 1 − D, so D should lie in about \[0, 2\]: the exponents grow with its square.
/// Under a divergence normalize the rows and hold φ's scale ([`Scale`](crate::Scale) with target 1 makes D about 1 −
/// cos), or take [`MultiSimilarity`](crate::MultiSimilarity).
/// # Cost
/// O(nm) time and memory.
/// # Source
/// Sun et al. 2020 \[sun2020\], equations 5 and 6 with O_p = 1 + m, O_n = −m, Δ_p = 1 − m, Δ_n = m.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = Circle { distance: Arc::new(Cosine), config: CircleConfig { m: 0.4, gamma: 1.0 } };
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// let value = Objective::new(Arc::new(loss)).forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Cosines 1 and 0 give −0.4·0.4 each; the row without a positive has loss 0 and is left out.
/// assert!((value - (-0.32f64).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
            (gamma * rows::hinge(T::ONE + m - s).0, s)
        };
        let of_negative = |v: T| {
            let s = offset + sign * v;
            (gamma * rows::hinge(s + m).0, s)
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
        self.config.check()?;
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
