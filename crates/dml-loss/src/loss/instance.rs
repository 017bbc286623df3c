//! Instance loss: each row is to be told from all others (Zheng et al. 2020).

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Part, Result, Tuples,
    error::positive,
    loss::{
        class_rows::{ClassRows, OwnClass},
        class_table::weighted,
    },
};

/// Which column is a row's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceTarget {
    /// The rank of its label among the sorted distinct labels, taken as a column, as pytorch-metric-learning does.
    #[default]
    LabelRank,
    /// Column i for row i, each row a class of its own: the definition, for a batch and its second view.
    OwnRow,
}

/// Knobs of [`Instance`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceConfig {
    /// γ, which multiplies the closeness; 64, for cosines.
    pub gamma: f64,
    /// Which column is a row's own: the rank of its label by default.
    pub target: InstanceTarget,
}

impl Default for InstanceConfig {
    fn default() -> Self {
        Self { gamma: 64.0, target: InstanceTarget::LabelRank }
    }
}

impl InstanceConfig {
    pub(crate) fn check(&self) -> Result<()> {
        positive("Instance", &[("gamma", self.gamma)])
    }
}

/// −log softmax_j(γ·closeness_ij) at j = t(i), over all columns j, the row itself included.
///
/// With [`InstanceTarget::OwnRow`] t(i) = i, which says something when the columns are a second view of the rows (a
/// reference set). The default is pytorch-metric-learning's: t(i) is the rank of i's label among the sorted distinct
/// labels, used as a column index; prefer `own-row` where no numbers are to be reproduced. Given tuples become weights
/// of the rows (with a separate reference set those of the anchors). Part `loss`, a loss a row.
///
/// # Distances
/// Cosine is usual; any distance with 1/γ in its units, of a divergence a tenth of the median or less.
/// # Cost
/// O(nm) time and memory.
/// # Source
/// Zheng et al. 2020 \[zheng2020\], equation 4.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = InstanceConfig { gamma: 1.0, target: InstanceTarget::OwnRow };
/// let loss = Objective::new(Arc::new(Instance { distance: Arc::new(Cosine), config }));
/// let views = Tensor::eye(2, DType::F64, &Device::Cpu)?;
/// let batch = Batch::new(&views, &[0, 0])?.with_reference(&views, &[0, 0])?;
/// assert!((loss.forward(&batch)?.to_scalar::<f64>()? - (-1f64).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Instance {
    /// The distance.
    pub distance: Arc<dyn Distance>,
    /// The knobs.
    pub config: InstanceConfig,
}

impl Loss for Instance {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        self.config.check()?;
        if batch.nothing() {
            return Ok(Vec::new());
        }
        let columns = batch.column_labels().len();
        let targets: Vec<u32> = match self.config.target {
            InstanceTarget::OwnRow => (0..batch.len() as u32).collect(),
            InstanceTarget::LabelRank => {
                let mut ranks: BTreeMap<i64, u32> = batch.labels().iter().map(|&l| (l, 0)).collect();
                ranks.values_mut().zip(0..).for_each(|(rank, r)| *rank = r);
                batch.labels().iter().filter_map(|l| ranks.get(l).copied()).collect()
            }
        };
        if let Some(&most) = targets.iter().max().filter(|&&most| most as usize >= columns) {
            let got = format!("of {columns} rows");
            let expected = format!("at least {} rows, one for each target", most + 1);
            return Err(Error::config("Instance", "reference", got, expected));
        }
        let sign = if self.distance.larger_is_closer() { 1.0 } else { -1.0 };
        let factor = sign * self.config.gamma;
        let rows = ClassRows { own: &targets, per_class: 1, factor, margin: OwnClass::AsItIs };
        let losses = batch.pairs(&self.distance)?.row_losses(&rows, None)?; // [n]
        Ok(vec![Part::of_rows(weighted(&losses, tuples, batch.has_reference())?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }
}
