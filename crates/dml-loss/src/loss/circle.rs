//! Circle loss (Sun et al. 2020).

use std::sync::Arc;

use dml_kernels::softplus;
use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Loss, PairCounts, Part, Reducer, Result, Tuples,
    tensor::{hinge, masked_log_sum_exp, upload},
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

impl Loss for Circle {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let counts = PairCounts::new(batch, tuples);
        if counts.one_sided() {
            return Ok(Vec::new());
        }
        let CircleConfig { m, gamma } = self.config;
        let values = batch.all_pairs(&*self.distance)?; // [n, m]
        let s = if self.distance.larger_is_closer() { values } else { values.affine(-1.0, 1.0)? };
        let weight_p = hinge(&s.detach().affine(-1.0, 1.0 + m)?)?;
        let weight_n = hinge(&(s.detach() + m)?)?;
        let logit_p = ((weight_p * (&s - (1.0 - m))?)? * -gamma)?;
        let logit_n = ((weight_n * (&s - m)?)? * gamma)?;
        let norm_p = masked_log_sum_exp(&logit_p, &counts.keep(&counts.positive, &s)?, false)?;
        let norm_n = masked_log_sum_exp(&logit_n, &counts.keep(&counts.negative, &s)?, false)?;
        let losses = softplus(&(norm_p + norm_n)?)?.squeeze(1)?; // [n]
        let (p, n) = (counts.row_sums(&counts.positive), counts.row_sums(&counts.negative));
        let both = p.iter().zip(&n).map(|(p, n)| p.min(*n).min(1.0)).collect();
        Ok(vec![Part::of_rows((&losses * upload(both, counts.n, &losses)?)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(AvgNonZero)
    }
}
