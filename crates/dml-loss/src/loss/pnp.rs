//! PNP: penalizing negatives before positives (Li et al. 2021).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Index, Loss, Part, Result, Tuples,
    loss::{class_table::weighted, far::Far, ranks::closer, smooth_ap::columns_with_self},
    tensor::rows,
};

/// What the number r of negatives before a positive costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PnpVariant {
    /// r.
    #[default]
    O,
    /// log(1 + r): the derivative decreases slowly.
    Ds,
    /// 1 − (1 + r)^−α: it decreases quickly.
    Dq,
    /// (1 + r)·log(1 + r): it increases without bound.
    Iu,
    /// (b·r − log(1 + b·r))/b²: it increases up to a bound.
    Ib,
}

impl PnpVariant {
    /// The cost of r and its derivative.
    fn cost(self, r: f64, alpha: f64, b: f64) -> (f64, f64) {
        match self {
            Self::O => (r, 1.0),
            Self::Ds => (r.ln_1p(), 1.0 / (1.0 + r)),
            Self::Dq => (1.0 - (1.0 + r).powf(-alpha), alpha * (1.0 + r).powf(-alpha - 1.0)),
            Self::Iu => ((1.0 + r) * r.ln_1p(), r.ln_1p() + 1.0),
            Self::Ib => ((b * r - (b * r).ln_1p()) / (b * b), r / (1.0 + b * r)),
        }
    }
}

/// Knobs of [`Pnp`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PnpConfig {
    /// b of [`PnpVariant::Ib`].
    pub b: f64,
    /// α of [`PnpVariant::Dq`].
    pub alpha: f64,
    /// The width of the sigmoid, in units of the distance.
    pub anneal: f64,
    /// The cost; `Dq` does best in the paper.
    pub variant: PnpVariant,
}

impl Default for PnpConfig {
    fn default() -> Self {
        Self { b: 2.0, alpha: 1.0, anneal: 0.01, variant: PnpVariant::O }
    }
}

/// The mean over the positives p of query i of cost(r_p), r_p = Σ_{n negative} σ((closeness_in − closeness_ip)/τ) being,
/// softly, how many negatives rank before p.
///
/// The query itself counts among its positives where it is a column, as in [`SmoothAp`](crate::SmoothAp). A batch
/// without any positive pair has loss 0. Given tuples become weights of the rows. Part `loss`, a loss a row. Cosine is
/// usual; any distance with τ in its units. O(n²) memory.
///
/// # Source
/// Li et al. 2021 \[li2021pnp\], equations 5 to 12.
#[derive(Debug, Clone)]
pub struct Pnp {
    distance: Arc<dyn Distance>,
    config: PnpConfig,
}

impl Pnp {
    /// With the given knobs.
    ///
    /// # Errors
    /// [`Error::Config`] unless `anneal`, `alpha` and `b` are positive.
    pub fn new(distance: Arc<dyn Distance>, config: PnpConfig) -> Result<Self> {
        for (field, value) in [("anneal", config.anneal), ("alpha", config.alpha), ("b", config.b)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::config("Pnp", field, value, "a positive number"));
            }
        }
        Ok(Self { distance, config })
    }
}

impl Loss for Pnp {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let classes = batch.classes();
        let kept: Vec<u32> = (0..batch.len() as u32).filter(|&i| classes.counts(i as usize).0 > 0).collect();
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let Some(far) = Far::new(batch, &self.distance)? else { return Ok(Vec::new()) };
        let PnpConfig { b, alpha, anneal, variant } = self.config;
        let losses = far.row_losses(|i, row, out| {
            let [positive, negative] = columns_with_self(batch, i);
            let share = 1.0 / positive.len().max(1) as f64;
            let (mut value, mut by) = (0.0, vec![0.0; row.len()]);
            for &p in &positive {
                let rank = closer(row, p, &negative, anneal, |j, s| by[j] = s);
                let (cost, slope) = variant.cost(rank, alpha, b);
                value += share * cost;
                for &j in &negative {
                    out[p] += share * slope * by[j];
                    out[j] -= share * slope * by[j];
                }
            }
            value
        })?; // [n]
        let losses = weighted(&losses, tuples, batch.has_reference())?;
        Ok(vec![Part::new("loss", rows(&losses, &kept)?, Index::Rows(kept))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
