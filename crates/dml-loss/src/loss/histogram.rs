//! Histogram loss: the chance that a negative pair is closer than a positive one (Ustinova & Lempitsky 2016).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, PairList, Pairs, Part, Result, Tuples,
    error::count,
    loss::far::{Far, bins, check_range},
};

/// Knobs of [`Histogram`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistogramConfig {
    /// Bins on the range of the distance; 100 if neither this nor `delta` is given.
    pub n_bins: Option<usize>,
    /// The width of a bin of cosines, 2/`n_bins`; either may be given.
    pub delta: Option<f64>,
    /// The least and the largest value the bins cover, in units of the distance; by default its own bounds.
    pub range: Option<(f64, f64)>,
}

impl HistogramConfig {
    fn bins(self) -> Result<usize> {
        let bins = match (self.n_bins, self.delta) {
            (None, None) => 100,
            (Some(bins), None) => bins,
            (bins, Some(delta)) => {
                let fits = (2.0 / delta).round();
                if !(delta > 0.0 && (1.0..1e6).contains(&fits) && (delta * fits - 2.0).abs() < 1e-6) {
                    return Err(Error::config("Histogram", "delta", delta, "2/n_bins for a whole n_bins"));
                }
                match bins {
                    Some(bins) if bins != fits as usize => {
                        return Err(Error::config("Histogram", "delta", delta, format!("2/{bins}")));
                    }
                    _ => fits as usize,
                }
            }
        };
        count("Histogram", "n_bins", bins)?;
        Ok(bins)
    }
}

/// Σ_r p⁻_r Φ⁺_r over the edges r of the bins, from far to close: p⁻ the soft histogram of the negative pairs, Φ⁺ the
/// running sum of that of the positive ones, both summing to 1.
///
/// It estimates the probability that a random negative pair is closer than a random positive pair. A value is shared
/// linearly between the two nearest edges. Pairs are unordered and each counts once, whatever the number of tuples that
/// name it; only anchors with pairs of both kinds give any. Part `loss`, one for the batch.
///
/// # Distances
/// Cosine is usual. A distance without bounds has those of the batch, as constants, unless `range` is given; a value
/// beyond it counts at the nearest edge, with gradient 0. Row min(i, j) is the anchor of a pair, so its value under a
/// divergence depends on the order of the rows: symmetrize
/// ([`BregmanDistance::symmetrized`](crate::BregmanDistance::symmetrized)), or compare with a separate reference set,
/// where every pair (row, column) counts.
/// # Cost
/// O(nm) time and memory; pairs are listed.
/// # Source
/// Ustinova & Lempitsky 2016 \[ustinova2016\], equations 1 to 4.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = Objective::new(Arc::new(Histogram::new(Arc::new(Cosine), HistogramConfig::default())?));
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// let value = |labels| -> Result<f64> { Ok(loss.forward(&Batch::new(&x, labels)?)?.to_scalar()?) };
/// // No negative pair is as close as the positive one; then both are.
/// assert!(value(&[0, 0, 1])?.abs() < 1e-12);
/// assert!((value(&[0, 1, 0])? - 1.0).abs() < 1e-12);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Histogram {
    distance: Arc<dyn Distance>,
    bins: usize,
    range: Option<(f64, f64)>,
}

impl Histogram {
    /// With the given bins.
    ///
    /// # Errors
    /// [`Error::Config`] for no bins, or a `delta` that does not fit.
    pub fn new(distance: Arc<dyn Distance>, config: HistogramConfig) -> Result<Self> {
        check_range("Histogram", config.range)?;
        Ok(Self { distance, bins: config.bins()?, range: config.range })
    }
}

/// Flat entries of the matrix, each once, in order.
fn unordered(list: &PairList, keep: &[bool], m: usize, fold: bool, seen: &mut [bool]) -> Vec<usize> {
    let mut flat = Vec::new();
    for (&a, &o) in list.anchor.iter().zip(&list.other) {
        if !keep[a as usize] {
            continue;
        }
        let (a, o) = if fold { (a.min(o), a.max(o)) } else { (a, o) };
        let at = a as usize * m + o as usize;
        if !std::mem::replace(&mut seen[at], true) {
            flat.push(at);
        }
    }
    flat
}

impl Loss for Histogram {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let Pairs { positive, negative } = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs);
        let (n, m) = (batch.len(), batch.column_labels().len());
        let mut has = [vec![false; n], vec![false; n]];
        for (list, has) in [&positive, &negative].into_iter().zip(&mut has) {
            list.anchor.iter().for_each(|&a| has[a as usize] = true);
        }
        let both: Vec<bool> = has[0].iter().zip(&has[1]).map(|(p, n)| *p && *n).collect();
        if !both.contains(&true) {
            return Ok(Vec::new());
        }
        let Some(far) = Far::new(batch, &self.distance)? else { return Ok(Vec::new()) };
        let (least, most) = far.range("Histogram", self.range)?;
        let values = far.values();
        let mut seen = vec![false; n * m];
        let fold = !batch.has_reference();
        let positive = unordered(&positive, &both, m, fold, &mut seen);
        let negative = unordered(&negative, &both, m, fold, &mut seen);

        let (low, width) = bins((least, most), self.bins);
        let place = |at: usize| {
            let x = ((values[at] - low) / width).clamp(0.0, self.bins as f64);
            let bin = (x.floor() as usize).min(self.bins - 1);
            (bin, x - bin as f64)
        };
        // What lies beyond the range counts at its edge, and does not move there.
        let scale = |at: usize, pairs: &[usize]| {
            let inside = (least..=most).contains(&values[at]);
            if inside { 1.0 / (width * pairs.len() as f64) } else { 0.0 }
        };
        let density = |pairs: &[usize]| {
            let (mut p, share) = (vec![0.0; self.bins + 1], 1.0 / pairs.len() as f64);
            for &at in pairs {
                let (bin, upper) = place(at);
                p[bin] += (1.0 - upper) * share;
                p[bin + 1] += upper * share;
            }
            p
        };
        // Far values ascend while closeness descends: Φ⁺ sums from the far end.
        let (p_pos, p_neg) = (density(&positive), density(&negative));
        let mut farther = p_pos.clone();
        for r in (0..self.bins).rev() {
            farther[r] += farther[r + 1];
        }
        let value = p_neg.iter().zip(&farther).map(|(p, f)| p * f).sum();
        let mut slopes = vec![0.0; n * m];
        for &at in &negative {
            slopes[at] = -p_pos[place(at).0] * scale(at, &negative);
        }
        for &at in &positive {
            slopes[at] = p_neg[place(at).0 + 1] * scale(at, &positive);
        }
        Ok(vec![Part::whole("loss", far.whole(value, slopes)?)])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
