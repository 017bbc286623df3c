//! Smooth-AP: average precision with sigmoids for the steps of the ranks (Brown et al. 2020).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Index, Loss, Part, Result, Tuples,
    loss::{class_table::weighted, far::Far, ranks::closer},
    tensor::rows,
};

/// Knobs of [`SmoothAp`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmoothApConfig {
    /// τ, the width of the sigmoid, in units of the distance; 0.01, for cosines.
    pub temperature: f64,
}

impl Default for SmoothApConfig {
    fn default() -> Self {
        Self { temperature: 0.01 }
    }
}

/// 1 − AP_i for each query i, with AP_i = (1/|P|) Σ_{p ∈ P} (1 + R(p, P)) / (1 + R(p, all)) and R(p, S) = Σ_{j ∈ S∖p}
/// σ((closeness_ij − closeness_ip)/τ), the soft number of S that rank before p.
///
/// P holds the rows of the query's class, the query itself among them where it is a column, as in the authors' code; so
/// classes of any size, also of one sample, are taken as the definition says. (pytorch-metric-learning groups rows
/// wrongly unless there are as many classes as samples of each.) A batch without any positive pair has loss 0. Given
/// tuples become weights of the rows (with a separate reference set those of the anchors). Part `loss`, a loss a row.
///
/// # Distances
/// Cosine is usual; any distance with τ in its units: for a divergence about a hundredth of its median.
/// # Cost
/// O(n·|P|·m) time and O(nm) memory: sums and their derivatives are closed forms.
/// # Source
/// Brown et al. 2020 \[brown2020\], equation 7.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = Objective::new(Arc::new(SmoothAp::new(Arc::new(Cosine), SmoothApConfig::default())?));
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// // Ties rank half before each other: average precisions 2/3, 2/3 and 9/10.
/// let value = loss.forward(&Batch::new(&x, &[0, 1, 0])?)?.to_scalar::<f64>()?;
/// assert!((value - (1.0 / 3.0 + 1.0 / 3.0 + 0.1) / 3.0).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SmoothAp {
    distance: Arc<dyn Distance>,
    config: SmoothApConfig,
}

impl SmoothAp {
    /// With the given temperature.
    ///
    /// # Errors
    /// [`Error::Config`] unless it is positive.
    pub fn new(distance: Arc<dyn Distance>, config: SmoothApConfig) -> Result<Self> {
        if config.temperature > 0.0 && config.temperature.is_finite() {
            return Ok(Self { distance, config });
        }
        Err(Error::config("SmoothAp", "temperature", config.temperature, "a positive number"))
    }
}

/// The columns of row i's class and of all others, itself among the first where it is a column.
pub(crate) fn columns_with_self(batch: &Batch, i: usize) -> [Vec<usize>; 2] {
    let labels = batch.column_labels();
    let (own, other) = (0..labels.len()).partition(|&j| labels[j] == batch.labels()[i]);
    [own, other]
}

/// The rows whose class has any column.
fn with_class(batch: &Batch) -> Vec<u32> {
    let classes = batch.classes();
    (0..batch.len() as u32).filter(|&i| !classes.with_self(i as usize).is_empty()).collect()
}

/// Whether any row has a positive beside itself.
fn any_positive(batch: &Batch) -> bool {
    (0..batch.len()).any(|i| batch.classes().counts(i).0 > 0)
}

impl Loss for SmoothAp {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if !any_positive(batch) {
            return Ok(Vec::new());
        }
        let Some(far) = Far::new(batch, &self.distance)? else { return Ok(Vec::new()) };
        let kept = with_class(batch);
        let t = self.config.temperature;
        let losses = far.row_losses(|i, row, out| {
            let [positive, negative] = columns_with_self(batch, i);
            // Of one positive: derivatives of its rank among the positives, and among all.
            let (mut by_own, mut by_all) = (vec![0.0; row.len()], vec![0.0; row.len()]);
            let share = 1.0 / positive.len().max(1) as f64;
            let mut precision = 0.0;
            for &p in &positive {
                let before = closer(row, p, &positive, t, |j, s| by_own[j] = s);
                let all = before + closer(row, p, &negative, t, |j, s| by_all[j] = s);
                precision += share * (1.0 + before) / (1.0 + all);
                // d (1 + b)/(1 + a) with a = b + (the negatives' share).
                let by_before = share * (all - before) / ((1.0 + all) * (1.0 + all));
                let by_after = -share * (1.0 + before) / ((1.0 + all) * (1.0 + all));
                for (kind, slope, factor) in [(&positive, &by_own, by_before), (&negative, &by_all, by_after)]
                {
                    for &j in kind.iter().filter(|&&j| j != p) {
                        out[p] -= factor * slope[j];
                        out[j] += factor * slope[j];
                    }
                }
            }
            1.0 - precision
        })?; // [n]
        let losses = weighted(&losses, tuples, batch.has_reference())?;
        Ok(vec![Part::new("loss", rows(&losses, &kept)?, Index::Rows(kept))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
