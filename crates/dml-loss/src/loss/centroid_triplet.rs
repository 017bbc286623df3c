//! Centroid triplet loss: classes stand for their samples (Wieczorek et al. 2021).

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    AvgNonZero, Batch, Distance, Index, Loss, PairList, Part, Reducer, Result, Tuples,
    error::finite,
    tensor::{entries, hinge, rows, upload},
};

/// Knobs of [`CentroidTriplet`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CentroidTripletConfig {
    /// m: how much closer the own class's centroid must be than another's; 0.2.
    pub margin: f64,
}

impl Default for CentroidTripletConfig {
    fn default() -> Self {
        Self { margin: 0.2 }
    }
}

impl CentroidTripletConfig {
    pub(crate) fn check(&self) -> Result<()> {
        finite("CentroidTriplet", &[("margin", self.margin)])
    }
}

/// [D(a, c⁺) − D(a, c⁻) + m]₊ for each anchor a and each other class, c⁻ the mean of that class's rows and c⁺ the mean
/// of the own class's rows without a; the signs turned for similarities.
///
/// Anchors without a positive are left out. Given tuples become weights of the rows (with a separate reference set
/// those of the anchors). Part `loss`, a loss for each anchor and other class, the `other` of its pairs the position of
/// the class among the sorted labels; usually averaged over the nonzero ones ([`AvgNonZero`](crate::AvgNonZero)).
///
/// # Distances
/// Any. The mean is the right centroid of every Bregman divergence: with the anchor on the first side the loss compares
/// D_φ(a ‖ c) with the minimizers c of Σ D_φ(x ‖ c) over the classes, whatever φ has learned. On the second side, and
/// for cosines, the mean is a prototype like any other.
/// # Cost
/// O(n·m·d) time; O(n·classes) memory beside two averaging matrices, `[n, m]` and `[classes, m]`.
/// # Source
/// Wieczorek et al. 2021 \[wieczorek2021\], equation 3; the mean as centroid: Banerjee et al. 2005 \[banerjee2005\].
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {bregman::Side, candle_core::{Device, Tensor}, dml_loss::*};
/// let distance = Arc::new(BregmanDistance::new(Arc::new(phi::SquaredEuclidean), Side::First));
/// let loss = CentroidTriplet { distance, config: CentroidTripletConfig { margin: 100.0 } };
/// let x = Tensor::new(&[[0f64], [2.], [10.]], &Device::Cpu)?;
/// let value = Objective::new(Arc::new(loss)).forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f64>()?;
/// // 4 − 100 + 100 and 4 − 64 + 100; the row alone in its class is left out.
/// assert!((value - 22.0).abs() < 1e-9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct CentroidTriplet {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The margin.
    pub config: CentroidTripletConfig,
}

impl Loss for CentroidTriplet {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        let (n, m) = (batch.len(), batch.column_labels().len());
        let mut classes: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (j, &label) in batch.column_labels().iter().enumerate() {
            classes.entry(label).or_default().push(j);
        }
        let mut means = vec![0.0; classes.len() * m];
        for (c, members) in classes.values().enumerate() {
            members.iter().for_each(|&j| means[c * m + j] = 1.0 / members.len() as f64);
        }
        // The rows with a positive, and how each averages its class without itself.
        let (mut kept, mut own_means) = (Vec::new(), Vec::new());
        for (i, label) in batch.labels().iter().enumerate() {
            let members = classes.get(label).into_iter().flatten().copied();
            let members: Vec<usize> = members.filter(|&j| !batch.is_self(i, j)).collect();
            if !members.is_empty() {
                kept.push(i as u32);
                let mut row = vec![0.0; m];
                members.iter().for_each(|&j| row[j] = 1.0 / members.len() as f64);
                own_means.extend(row);
            }
        }
        let weights = tuples.map(|t| t.row_weights(n, batch.has_reference()));
        let mut pairs = PairList::default();
        let (mut at, mut scale) = (Vec::new(), Vec::new());
        for (position, &i) in kept.iter().enumerate() {
            for (c, &label) in classes.keys().enumerate() {
                if label != batch.labels()[i as usize] {
                    pairs.push(i as usize, c);
                    at.push(position as u32);
                    scale.push(weights.as_ref().map_or(1.0, |w| w[i as usize]));
                }
            }
        }
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let columns = batch.columns();
        let anchors = rows(batch.embeddings(), &kept)?; // [k, d]
        let centroids = upload(means, (classes.len(), m), columns)?.matmul(columns)?; // [classes, d]
        let own = upload(own_means, (kept.len(), m), columns)?.matmul(columns)?; // [k, d]
        let to_own = rows(&self.distance.paired(&anchors, &own)?, &at)?;
        let to_other = entries(&self.distance.all_pairs(&anchors, &centroids)?, &at, &pairs.other)?;
        let losses = hinge(&(self.distance.margin(&to_own, &to_other)? + self.config.margin)?)?;
        let losses = (&losses * upload(scale, losses.dims1()?, &losses)?)?;
        Ok(vec![Part::new("loss", losses, Index::Pairs(pairs))])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(AvgNonZero)
    }
}
