//! FastAP loss: average precision through soft histograms of the distances (Cakir et al. 2019).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Index, Loss, Part, Result, Tuples,
    loss::{
        class_table::weighted,
        far::{Far, check_range},
    },
    tensor::{attach_rows, rows},
    tuples::ClassRows,
};

/// Knobs of [`FastAp`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FastApConfig {
    /// Bins between the least and the largest distance; their edges are one more.
    pub num_bins: usize,
    /// The least and the largest value the bins cover, in units of the distance; its own bounds if not given.
    pub range: Option<(f64, f64)>,
}

impl Default for FastApConfig {
    fn default() -> Self {
        Self { num_bins: 10, range: None }
    }
}

/// 1 − (1/N⁺) Σ_b h⁺_b·H⁺_b / H_b for each anchor: h⁺ the histogram of its positives, H⁺ and H the running counts of
/// positives and of all others.
///
/// Each distance is shared linearly between the two nearest of `num_bins + 1` edges on the distance's range, \[0, 2ᵉ\]
/// for an Lp distance of normalized rows to the power e; a distance without bounds, such as a divergence, has those
/// of the batch, as constants, unless `range` is given. Given tuples become weights of the rows; rows without a positive are left out. Part
/// `loss`, a loss a row. Squared Euclid of normalized rows is usual; any distance.
///
/// O(n² + n·bins) time and O(n²) memory: histograms and their derivatives are closed forms.
///
/// # Source
/// Cakir et al. 2019 \[cakir2019\], equations 5 and 8.
#[derive(Debug, Clone)]
pub struct FastAp {
    distance: Arc<dyn Distance>,
    config: FastApConfig,
}

impl FastAp {
    /// With the given number of bins.
    ///
    /// # Errors
    /// [`Error::Config`] for no bins.
    pub fn new(distance: Arc<dyn Distance>, config: FastApConfig) -> Result<Self> {
        check_range("FastAp", config.range)?;
        match config.num_bins {
            0 => Err(Error::config("FastAp", "num_bins", 0, "at least 1")),
            _ => Ok(Self { distance, config }),
        }
    }
}

/// The soft histograms of one row, kept between rows.
#[derive(Debug)]
struct Histograms {
    /// Of positives, then of negatives.
    counts: [Vec<f64>; 2],
    /// Derivatives of the average precision by them.
    slopes: [Vec<f64>; 2],
}

impl Histograms {
    fn new(edges: usize) -> Self {
        let zeros = || [vec![0.0; edges], vec![0.0; edges]];
        Self { counts: zeros(), slopes: zeros() }
    }

    /// The average precision of `positives` rows, leaving its slopes behind.
    fn average_precision(&mut self, positives: f64) -> f64 {
        let edges = self.counts[0].len();
        let (mut found, mut seen) = (vec![0.0; edges], vec![0.0; edges]);
        let (mut f, mut s, mut sum) = (0.0, 0.0, 0.0);
        for b in 0..edges {
            f += self.counts[0][b];
            s += self.counts[0][b] + self.counts[1][b];
            (found[b], seen[b]) = (f, s);
            if self.counts[0][b] > 0.0 {
                sum += self.counts[0][b] * f / s;
            }
        }
        // An entry in bin k raises the running counts of k and all later bins.
        let (mut later_found, mut later_seen) = (0.0, 0.0);
        for b in (0..edges).rev() {
            let h = self.counts[0][b];
            let mut own = 0.0;
            if h > 0.0 {
                later_found += h / seen[b];
                later_seen += h * found[b] / (seen[b] * seen[b]);
                own = found[b] / seen[b];
            }
            self.slopes[0][b] = (own + later_found - later_seen) / positives;
            self.slopes[1][b] = -later_seen / positives;
        }
        sum / positives
    }
}

impl Loss for FastAp {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let Some(far) = Far::new(batch, &*self.distance)? else { return Ok(Vec::new()) };
        let far = far.within(self.config.range);
        let (n, edges) = (batch.len(), self.config.num_bins + 1);
        let (low, width) = far.bins(self.config.num_bins);
        let (mut values, mut slopes) = (vec![0.0; n], vec![0.0; n * far.m]);
        let mut kept = Vec::new();
        let (mut columns, mut histograms) = (ClassRows::default(), Histograms::new(edges));
        for i in 0..n {
            columns.fill(batch, i);
            if columns.positive.is_empty() {
                continue;
            }
            kept.push(i as u32);
            let row = far.row(i);
            let place = |j: usize| {
                let at = ((row[j] - low) / width).max(0.0);
                (at.floor() as usize, at.fract())
            };
            let kinds = [&columns.positive, &columns.negative];
            for (kind, counts) in kinds.iter().zip(&mut histograms.counts) {
                counts.fill(0.0);
                for &j in *kind {
                    let (b, share) = place(j);
                    if let Some(count) = counts.get_mut(b) {
                        *count += 1.0 - share;
                    }
                    if let Some(count) = counts.get_mut(b + 1) {
                        *count += share;
                    }
                }
            }
            values[i] = 1.0 - histograms.average_precision(columns.positive.len() as f64);
            for (kind, slope) in kinds.iter().zip(&histograms.slopes) {
                let slope_at = |b: usize| slope.get(b).copied().unwrap_or(0.0);
                for &j in *kind {
                    let (b, _) = place(j);
                    slopes[i * far.m + j] = (slope_at(b) - slope_at(b + 1)) / width;
                }
            }
        }
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let losses = attach_rows(&far.matrix, values, far.turned(slopes))?; // [n]
        let losses = weighted(&losses, tuples, batch.has_reference())?;
        Ok(vec![Part::new("loss", rows(&losses, &kept)?, Index::Rows(kept))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
