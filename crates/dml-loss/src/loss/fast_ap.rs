//! FastAP loss: average precision through soft histograms of the distances (Cakir et al. 2019).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Index, Loss, Part, Result, Tuples,
    error::count,
    loss::{
        class_table::weighted,
        far::{Far, bins, check_range},
    },
    tensor::rows,
};

/// Knobs of [`FastAp`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FastApConfig {
    /// Bins between the least and the largest distance; their edges are one more. 10.
    pub num_bins: usize,
    /// The least and the largest value the bins cover, in units of the distance; by default its own bounds.
    pub range: Option<(f64, f64)>,
}

impl Default for FastApConfig {
    fn default() -> Self {
        Self { num_bins: 10, range: None }
    }
}

/// 1 − (1/N⁺) Σ_b h⁺_b·H⁺_b / H_b for each anchor: h⁺ the histogram of its N⁺ positives, H⁺ and H the running counts of
/// positives and of all others.
///
/// Each distance is shared linearly between the two nearest of `num_bins + 1` edges. Given tuples become weights of the
/// rows (with a separate reference set those of the anchors); rows without a positive are left out. Part `loss`, a loss
/// a row.
///
/// # Distances
/// Squared Euclid of normalized rows is usual; any distance. The edges lie on its range, \[0, 2ᵉ\] for an Lp distance
/// of normalized rows to the power e. A distance without bounds, such as a divergence, has those of the batch, as
/// constants, unless `range` is given; then what lies below it counts at the first edge, and what lies a bin or more
/// above it is not found at all.
/// # Cost
/// O(n(m + bins)) time and O(nm) memory: histograms and their derivatives are closed forms.
/// # Source
/// Cakir et al. 2019 \[cakir2019\], equations 5 and 8.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let distance = Arc::new(Lp::new(2.0, 2.0, true)?);
/// let loss = Objective::new(Arc::new(FastAp::new(distance, FastApConfig::default())?));
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// let value = |labels| -> Result<f64> { Ok(loss.forward(&Batch::new(&x, labels)?)?.to_scalar()?) };
/// // Each positive before all negatives; then each positive second or level with a negative.
/// assert!(value(&[0, 0, 1])?.abs() < 1e-12);
/// assert!((value(&[0, 1, 0])? - 0.5).abs() < 1e-12);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FastAp {
    distance: Arc<dyn Distance>,
    config: FastApConfig,
}

impl FastAp {
    /// With the given number of bins.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for no bins.
    pub fn new(distance: Arc<dyn Distance>, config: FastApConfig) -> Result<Self> {
        check_range("FastAp", config.range)?;
        count("FastAp", "num_bins", config.num_bins)?;
        Ok(Self { distance, config })
    }
}

/// The soft histograms of one row.
#[derive(Debug)]
struct Histograms {
    /// Of positives, then of negatives; two entries more than edges, for what lies beyond the last.
    counts: [Vec<f64>; 2],
    /// Derivatives of the average precision by them.
    slopes: [Vec<f64>; 2],
}

impl Histograms {
    fn new(edges: usize) -> Self {
        let zeros = || [vec![0.0; edges + 2], vec![0.0; edges + 2]];
        Self { counts: zeros(), slopes: zeros() }
    }

    /// The average precision of `positives` rows, leaving its slopes behind.
    fn average_precision(&mut self, positives: f64) -> f64 {
        let edges = self.counts[0].len() - 2;
        let (mut found, mut seen) = (vec![0.0; edges], vec![0.0; edges]);
        let (mut f, mut s, mut sum) = (0.0, 0.0, 0.0);
        for b in 0..edges {
            f += self.counts[0][b];
            s += self.counts[0][b] + self.counts[1][b];
            (found[b], seen[b]) = (f, s);
            if self.counts[0][b] != 0.0 {
                sum += self.counts[0][b] * f / s;
            }
        }
        // An entry in bin k raises the running counts of k and all later bins.
        let (mut later_found, mut later_seen) = (0.0, 0.0);
        for b in (0..edges).rev() {
            let h = self.counts[0][b];
            let mut own = 0.0;
            if h != 0.0 {
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
        let Some(far) = Far::new(batch, &self.distance)? else { return Ok(Vec::new()) };
        let classes = batch.classes();
        let kept = (0..batch.len()).filter(|&i| classes.counts(i).0 > 0);
        let kept: Vec<u32> = kept.map(|i| i as u32).collect();
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let edges = self.config.num_bins + 1;
        let (low, width) = bins(far.range("FastAp", self.config.range)?, self.config.num_bins);
        let scale = 1.0 / width;
        // The last two edges beyond the range take what falls there.
        let place = |value: f64| {
            let at = (value - low) * scale;
            let at = if at < 0.0 { 0.0 } else { at }; // a NaN stays one
            let bin = at as usize;
            (bin.min(edges), at - bin as f64)
        };
        let losses = far.row_losses(|i, row, slopes| {
            let positives = classes.counts(i).0 as f64;
            if positives == 0.0 {
                return 0.0;
            }
            let mut histograms = Histograms::new(edges);
            let add = |counts: &mut [f64], value: f64, weight: f64| {
                let (bin, share) = place(value);
                counts[bin] += weight * (1.0 - share);
                counts[bin + 1] += weight * share;
            };
            // All columns as if they were negatives, then the own class's moved over.
            for &value in row {
                add(&mut histograms.counts[1], value, 1.0);
            }
            for &j in classes.with_self(i) {
                add(&mut histograms.counts[1], row[j as usize], -1.0);
            }
            classes.positives(i).for_each(|j| add(&mut histograms.counts[0], row[j], 1.0));
            let precision = histograms.average_precision(positives);
            let slope_of = |kind: usize, value: f64| {
                let (bin, _) = place(value);
                (histograms.slopes[kind][bin] - histograms.slopes[kind][bin + 1]) * scale
            };
            slopes.iter_mut().zip(row).for_each(|(slope, &value)| *slope = slope_of(1, value));
            classes.with_self(i).iter().for_each(|&j| slopes[j as usize] = 0.0);
            classes.positives(i).for_each(|j| slopes[j] = slope_of(0, row[j]));
            1.0 - precision
        })?; // [n]
        let losses = weighted(&losses, tuples, batch.has_reference())?;
        Ok(vec![Part::new("loss", rows(&losses, &kept)?, Index::Rows(kept))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
