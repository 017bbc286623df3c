//! Dynamic soft margin: triplets weighted by their rank in a running distribution (Zhang & Rusinkiewicz 2019).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Part, Result, State, Tuples, error::count, loss::far::Far,
    tensor::download, tuples::TripletTable,
};

/// How far a share that was saved may lie outside 0 to 1.
const ROUNDING: f64 = 1e-6;

/// Knobs of [`DynamicSoftMargin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicSoftMarginConfig {
    /// The least difference the histogram knows; it reaches up to −`min_val`. −2, for Euclid of normalized rows.
    pub min_val: f64,
    /// Bins of the histogram; 10.
    pub num_bins: usize,
    /// The weight of each triplet of the batch beside 1 − momentum for the histogram so far; 0.01.
    pub momentum: f64,
}

impl Default for DynamicSoftMarginConfig {
    fn default() -> Self {
        Self { min_val: -2.0, num_bins: 10, momentum: 0.01 }
    }
}

/// The mean over triplets of F(t)·t, t = D(a, p) − D(a, n), F the running distribution function of t.
///
/// Each batch enters a histogram: (1 − momentum)·old + momentum·(this batch's soft counts), then normalized, so
/// the triplets of a batch weigh momentum each; the first batch has it to itself. The gradient flows through this
/// batch's counts too; the histogram carried over is a constant. Each call of [`unreduced`](Loss::unreduced) is a step;
/// [`state`](Loss::state) holds the `histogram` `[num_bins]`, which a step that fails or gives NaN leaves as it was. Differences outside its range stay in the outermost bins.
/// Part `loss`, one for the batch; its value may be negative.
///
/// # Distances
/// Euclid of normalized rows is usual; any distance with `min_val` in its units. A learned divergence drifts in scale
/// and leaves the range of the histogram: hold it ([`Scale`](crate::Scale)).
/// # Cost
/// With p positives and q negatives an anchor: O(n·p·q) time and O(nm) memory, as triplets are visited.
/// # Source
/// Zhang & Rusinkiewicz 2019 \[zhang2019dsm\], section 3.2.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let loss = DynamicSoftMargin::new(Arc::new(Lp::default()), DynamicSoftMarginConfig::default())?;
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// let value = Objective::new(Arc::new(loss)).forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // Both triplets have t = −√2, in bin 1 of width 0.4 from −2; F is their share of that bin.
/// let share = 1.0 - ((2.0 - 2f64.sqrt()) / 0.4 - 1.0);
/// assert!((value + share * 2f64.sqrt()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DynamicSoftMargin {
    distance: Arc<dyn Distance>,
    config: DynamicSoftMarginConfig,
    /// Sums to 1, or to 0 before the first batch.
    histogram: Mutex<Vec<f64>>,
}

impl DynamicSoftMargin {
    /// With an empty histogram.
    ///
    /// # Errors
    /// [`Error::Config`] for no bins, a `min_val` that is not negative, or a momentum outside (0, 1\].
    pub fn new(distance: Arc<dyn Distance>, config: DynamicSoftMarginConfig) -> Result<Self> {
        let DynamicSoftMarginConfig { min_val, num_bins, momentum } = config;
        let owner = "DynamicSoftMargin";
        count(owner, "num_bins", num_bins)?;
        if !(min_val < 0.0 && min_val.is_finite()) {
            return Err(Error::config(owner, "min_val", min_val, "a negative number"));
        }
        if !(momentum > 0.0 && momentum <= 1.0) {
            return Err(Error::config(owner, "momentum", momentum, "a share in (0, 1]"));
        }
        Ok(Self { distance, config, histogram: Mutex::new(vec![0.0; num_bins]) })
    }

    fn histogram(&self) -> MutexGuard<'_, Vec<f64>> {
        self.histogram.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bin and share of the next bin, and whether it moves with t.
    fn place(&self, t: f64) -> (usize, f64, bool) {
        let DynamicSoftMarginConfig { min_val, num_bins, .. } = self.config;
        let x = (t - min_val) / self.width();
        let bin = x.floor().clamp(0.0, (num_bins - 1) as f64) as usize;
        if x < 0.0 || bin + 1 == num_bins {
            return (bin, 0.0, false);
        }
        (bin, x.fract(), true)
    }

    fn width(&self) -> f64 {
        -2.0 * self.config.min_val / self.config.num_bins as f64
    }
}

/// Calls `f(p, n)` for each triplet of an anchor.
fn for_each(triplets: &TripletTable, anchor: usize, mut f: impl FnMut(usize, usize)) {
    match triplets {
        TripletTable::Listed { positive, negative } => {
            let both = positive.of(anchor).iter().zip(negative.of(anchor));
            both.for_each(|(&p, &n)| f(p as usize, n as usize));
        }
        TripletTable::Products(pairs) => {
            pairs.each_positive(anchor, |p| pairs.each_negative(anchor, |n| f(p, n)));
        }
    }
}

/// Of the triplets of one anchor, by bin: their soft number, and the sum of their differences.
struct Counts {
    soft: Vec<f64>,
    sums: Vec<f64>,
    triplets: f64,
}

impl Counts {
    fn new(bins: usize) -> Self {
        Self { soft: vec![0.0; bins], sums: vec![0.0; bins], triplets: 0.0 }
    }

    fn add(&mut self, other: &Self) {
        self.soft.iter_mut().zip(&other.soft).for_each(|(sum, v)| *sum += v);
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, v)| *sum += v);
        self.triplets += other.triplets;
    }
}

impl Loss for DynamicSoftMargin {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let Some(far) = Far::new(batch, &self.distance)? else { return Ok(Vec::new()) };
        let triplets = TripletTable::new(batch, tuples);
        let bins = self.config.num_bins;
        let of_rows = far.map_rows(|a, far| {
            let mut counts = Counts::new(bins);
            for_each(&triplets, a, |p, n| {
                let t = far[p] - far[n];
                let (bin, share, _) = self.place(t);
                counts.soft[bin] += 1.0 - share;
                if let Some(next) = counts.soft.get_mut(bin + 1) {
                    *next += share;
                }
                counts.sums[bin] += t;
                counts.triplets += 1.0;
            });
            counts
        })?;
        let mut all = Counts::new(bins);
        of_rows.iter().for_each(|row| all.add(row));
        let Counts { soft, sums, triplets: number } = all;
        if number == 0.0 {
            return Ok(Vec::new());
        }
        let histogram = self.histogram().clone();
        let fresh = histogram.iter().all(|&h| h == 0.0);
        let momentum = if fresh { 1.0 } else { self.config.momentum };
        let mut next: Vec<f64> =
            histogram.iter().zip(&soft).map(|(h, c)| (1.0 - momentum) * h + momentum * c).collect();
        let total: f64 = next.iter().sum();
        next.iter_mut().for_each(|h| *h /= total);
        let below: Vec<f64> = next
            .iter()
            .scan(0.0, |sum, h| {
                *sum += h;
                Some(*sum)
            })
            .collect();

        // Moving t within its bin takes mass from that bin's F, which weighs all triplets of the bin.
        let taken = momentum / (total * self.width());
        let losses = far.row_losses(|a, far, slopes| {
            for_each(&triplets, a, |p, n| {
                let (bin, _, moves) = self.place(far[p] - far[n]);
                let slope = (below[bin] - if moves { taken * sums[bin] } else { 0.0 }) / number;
                slopes[p] += slope;
                slopes[n] -= slope;
            });
            below.iter().zip(&of_rows[a].sums).map(|(f, s)| f * s).sum::<f64>() / number
        })?; // [n]
        let loss = losses.sum_all()?.reshape(1)?;
        // What is NaN shows in the value, and is not remembered.
        if !total.is_nan() {
            *self.histogram() = next;
        }
        Ok(vec![Part::whole("loss", loss)])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn state(&self) -> Result<State> {
        let histogram = Tensor::new(self.histogram().as_slice(), &Device::Cpu)?;
        Ok(State::from([("histogram".to_owned(), histogram)]))
    }

    fn load_state(&self, state: &State) -> Result<()> {
        let owner = "DynamicSoftMargin::load_state";
        let expected = format!("of {} bins", self.config.num_bins);
        let Some(tensor) = state.get("histogram") else {
            return Err(Error::config(owner, "histogram", "missing", expected));
        };
        let values = download(tensor)?;
        if tensor.rank() != 1 || values.len() != self.config.num_bins {
            return Err(Error::config(owner, "histogram", format!("of {:?} bins", tensor.dims()), expected));
        }
        if let Some(share) = values.iter().find(|share| !(-ROUNDING..=1.0 + ROUNDING).contains(*share)) {
            return Err(Error::config(owner, "histogram", share, "shares from 0 to 1"));
        }
        *self.histogram() = values;
        Ok(())
    }
}
