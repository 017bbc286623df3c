//! Triplets by the angle at the negative (Wang et al. 2017).

use std::sync::Arc;

use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Miner, Result, Triplets, Tuples,
    tensor::{download, squared_distances},
    tuples::ClassRows,
};

/// Knobs of [`AngularMiner`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AngularMinerConfig {
    /// The least angle, in degrees, from 0 to below 90; 20.
    pub angle: f64,
}

impl Default for AngularMinerConfig {
    fn default() -> Self {
        Self { angle: 20.0 }
    }
}

/// Triplets with atan(‖a − p‖ / (2‖n − c‖)) above the angle, c the midpoint of a and p: the angle under which the
/// negative sees the circle around the two.
///
/// Euclidean by definition, between the rows as they are, as in pytorch-metric-learning; no distance is asked, and
/// there is no form under a divergence. With p positives and q negatives an anchor: O(n·p·q) time, O(nm + m²) memory
/// and the triplets found.
///
/// # Source
/// Wang et al. 2017 \[wang2017\], section 3.2.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[-1f32, 0.], [1., 0.], [0., 1.], [0., 9.]], &Device::Cpu)?;
/// let miner = AngularMiner::new(AngularMinerConfig { angle: 40.0 })?;
/// // Row 2 sees the circle through rows 0 and 1 under 45°, row 3 under 6°; to rows 2 and 3 the others are close.
/// let triplets = miner.mine(&Batch::new(&x, &[0, 0, 1, 2])?)?.to_triplets();
/// assert_eq!((triplets.anchor, triplets.positive, triplets.negative), (vec![0, 1], vec![1, 0], vec![2, 2]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct AngularMiner {
    tangent: f64,
}

impl AngularMiner {
    /// A miner of triplets.
    ///
    /// # Errors
    /// [`Error::Config`] for an angle outside \[0°, 90°).
    pub fn new(config: AngularMinerConfig) -> Result<Self> {
        match (0.0..90.0).contains(&config.angle) {
            true => Ok(Self { tangent: config.angle.to_radians().tan() }),
            false => Err(Error::config("AngularMiner", "angle", config.angle, "degrees from 0 to below 90")),
        }
    }
}

impl Miner for AngularMiner {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let mut triplets = Triplets::default();
        if batch.nothing() {
            return Ok(Tuples::Triplets(triplets));
        }
        let x = batch.embeddings().detach().to_dtype(DType::F64)?;
        let y =
            if batch.has_reference() { batch.columns().detach().to_dtype(DType::F64)? } else { x.clone() };
        let m = y.dim(0)?;
        let across = download(&squared_distances(&x, &y)?)?; // [n, m]
        let among = download(&squared_distances(&y, &y)?)?; // [m, m]
        let mut rows = ClassRows::default();
        for a in 0..batch.len() {
            rows.fill(batch, a);
            let from_a = &across[a * m..(a + 1) * m];
            for &p in &rows.positive {
                let from_p = &among[p * m..(p + 1) * m];
                for &n in &rows.negative {
                    // The median of the triangle: 4‖n − c‖² = 2‖n − a‖² + 2‖n − p‖² − ‖a − p‖².
                    let twice = (2.0 * (from_a[n] + from_p[n]) - from_a[p]).max(0.0).sqrt();
                    if from_a[p].sqrt() > twice * self.tangent {
                        triplets.push(a, p, n);
                    }
                }
            }
        }
        Ok(Tuples::Triplets(triplets))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        None
    }
}
