//! Tuplet margin loss (Yu & Tao 2019).

use std::sync::Arc;

use dml_kernels::{Real, softplus};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Index, Loss, PairCounts, Pairs, Part, Reduced, Reducer, Result, Tuples,
    error::{finite, positive},
    loss::{
        angle::cos_of_sum,
        positive_rows::{OfPositives, OwnLogit},
        tuple_sum::{Added, TupleSum},
    },
    tensor::{entries, fill_unless, masked_log_sum_exp, rows, upload},
    tuples::{PairTable, Repeats},
};

/// Knobs of [`TupletMargin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TupletMarginConfig {
    /// β, the slack of the positive's angle, in degrees; 5.73, which is 0.1 in radians.
    pub margin: f64,
    /// s, which multiplies the cosines; 64.
    pub scale: f64,
}

impl Default for TupletMarginConfig {
    fn default() -> Self {
        Self { margin: 5.73, scale: 64.0 }
    }
}

impl TupletMarginConfig {
    pub(crate) fn check(&self) -> Result<()> {
        finite("TupletMargin", &[("margin", self.margin)])?;
        positive("TupletMargin", &[("scale", self.scale)])
    }
}

/// log(1 + Σ_n exp(s·(cos θ_an − cos(θ_ap − β)))) for each positive pair, n over the negatives of a.
///
/// The best angle of a positive pair is thus β, not 0. Part `loss`, a loss a positive pair, 0 for an anchor without
/// negatives. A pair that tuples name twice counts twice, a negative in the sum too.
///
/// # Distances
/// Cosine only, since β is an angle: a distance, and so a divergence, is an error.
/// # Cost
/// O(nm) time and memory: pairs are visited, and the sum over negatives is taken once for each anchor.
/// # Source
/// Yu & Tao 2019 \[yu2019\], equation 5.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let config = TupletMarginConfig { margin: 60.0, scale: 1.0 };
/// let loss = Objective::new(Arc::new(TupletMargin { distance: Arc::new(Cosine), config }));
/// let x = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], &Device::Cpu)?;
/// // cos(0° − 60°) = 0.5 against a negative at cosine 0.
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// assert!((value - (-0.5f64).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct TupletMargin {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// Margin and scale.
    pub config: TupletMarginConfig,
}

impl TupletMargin {
    fn check(&self) -> Result<()> {
        self.config.check()?;
        if self.distance.larger_is_closer() {
            return Ok(());
        }
        Err(Error::config(
            "TupletMargin",
            "distance",
            self.distance.name(),
            "a cosine, as the margin is an angle",
        ))
    }
}

/// scale·cos(θ − β) of c = cos θ; where |c| ≥ 1 the derivative is that of the first term of c·cos β + √(1 − c²)·sin β.
struct Slackened {
    scale: f64,
    cos: f64,
    sin: f64,
}

impl OwnLogit for Slackened {
    #[inline(always)]
    fn own<T: Real>(&self, c: T) -> (T, T) {
        let [scale, cos, sin] = [self.scale, self.cos, self.sin].map(T::from_f64);
        let square = T::ONE - c * c;
        let inside = square > T::ZERO;
        let sine = if inside { square } else { T::ONE }.sqrt();
        let (value, slope) = if inside { (sine, c / sine) } else { (T::ZERO, T::ZERO) };
        (scale * (c * cos + value * sin), scale * (cos - slope * sin))
    }
}

impl Loss for TupletMargin {
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        self.check()?;
        let pairs = PairTable::new(batch, tuples, Repeats::Each);
        if pairs.one_sided() {
            return Ok(Reduced::Nothing);
        }
        let TupletMarginConfig { margin, scale } = self.config;
        let (sin, cos) = margin.to_radians().sin_cos();
        let matrix = batch.pairs(&self.distance)?;
        let losses = OfPositives { pairs: &pairs, factor: scale, own: Slackened { scale, cos, sin } };
        let mut sum = TupleSum::new(&matrix, reducer, batch.labels())?;
        match sum.add("loss", &losses, |_| Ok(None))? {
            Added::Yes => Ok(Reduced::of(sum.finish(None)?)),
            Added::No => Ok(Reduced::Unknown),
        }
    }

    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.check()?;
        let counts = PairCounts::new(batch, tuples);
        if counts.one_sided() {
            return Ok(Vec::new());
        }
        let TupletMarginConfig { margin, scale } = self.config;
        let cosine = batch.all_pairs(&*self.distance)?; // [n, m]
        let log_counts = counts.negative.iter().map(|&c| c.max(1.0).ln()).collect();
        let logits = ((&cosine * scale)? + upload(log_counts, (counts.n, counts.m), &cosine)?)?;
        let keep = counts.keep(&counts.negative, &cosine)?;
        let norm = masked_log_sum_exp(&logits, &keep, false)?.squeeze(1)?; // [n]
        let positive = tuples.map_or_else(|| Pairs::all(batch), Tuples::to_pairs).positive;
        let own = cos_of_sum(&entries(&cosine, &positive.anchor, &positive.other)?, -margin.to_radians())?;
        let losses = softplus(&(rows(&norm, &positive.anchor)? - (own * scale)?)?)?;
        // An anchor without negatives has nothing to be told from.
        let some = rows(&keep.max(1)?, &positive.anchor)?;
        let losses = fill_unless(&losses, &some, 0.0)?;
        Ok(vec![Part::new("loss", losses, Index::Pairs(positive))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
