//! In-batch InfoNCE of queries against items: row i belongs to column i.

use std::sync::Arc;

use dml_kernels::{Real, RowLoss};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Parameter, Part, Result, Temperature, TemperatureSpec, Tuples,
    loss::logits::{Logits, calibrate, check_temperature},
    rows::log_sum_exp_terms,
    tensor::{entries, masked_log_sum_exp, ones_like},
};

/// Which softmax: over the items of a query, over the queries of an item, or the mean of both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Each query against all items: retrieval as it is used.
    #[default]
    Rows,
    /// Each item against all queries.
    Columns,
    /// ½ rows + ½ columns.
    Both,
}

/// Knobs of [`InfoNce`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InfoNceConfig {
    /// Learned by default: no fixed one suits a divergence whose scale is learned too.
    pub temperature: TemperatureSpec,
    /// Which softmax; over the items of each query by default.
    pub direction: Direction,
}

impl Default for InfoNceConfig {
    fn default() -> Self {
        Self { temperature: TemperatureSpec::LEARNED, direction: Direction::Rows }
    }
}

/// −log softmax_j(−exp(s)·D(q_i, x_j)) at j = i: the multi-class N-pair loss over any distance, for pairs of a query
/// and its item.
///
/// The batch holds the queries, its reference set as many items, row i matching column i; labels play no part, and
/// neither do tuples. Two queries with the same item push it away from each other, so a batch should hold an item once.
/// Part `loss`, a loss a query.
///
/// # Distances
/// Any. Under a divergence the query is the anchor: D_φ(query ‖ item) with `Side::First`, D_φ(item ‖ query) with
/// `Side::Second`; take the side that retrieval will use. Symmetrizing gives up the direction.
/// # Cost
/// O(n²) time and memory.
/// # Source
/// Sohn 2016 \[sohn2016\]; van den Oord et al. 2018 \[oord2018\], equation 4.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let queries = Tensor::new(&[[1f64, 0.], [0., 1.]], &Device::Cpu)?;
/// let batch = Batch::new(&queries, &[0, 1])?.with_reference(&queries, &[0, 1])?;
/// let loss = InfoNce::new(Arc::new(Lp::squared()), Temperature::fixed(0.1)?);
/// let value = Objective::new(Arc::new(loss)).forward(&batch)?.to_scalar::<f64>()?;
/// assert!((value - (-20f64).exp().ln_1p()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct InfoNce {
    /// The distance of queries to items.
    pub distance: Arc<dyn Distance>,
    /// The temperature.
    pub temperature: Temperature,
    /// Which softmax.
    pub direction: Direction,
}

impl InfoNce {
    /// Each query against all items.
    pub fn new(distance: Arc<dyn Distance>, temperature: Temperature) -> Self {
        Self { distance, temperature, direction: Direction::Rows }
    }

    fn check(batch: &Batch) -> Result<()> {
        if !batch.has_reference() {
            let expected = "the items, as many as queries (Batch::with_reference)";
            return Err(Error::config("InfoNce", "reference", "missing", expected));
        }
        if batch.columns().dims() != batch.embeddings().dims() {
            let expected = format!("{:?}, an item for each query", batch.embeddings().dims());
            return Err(Error::shape("InfoNce", "reference", batch.columns(), expected));
        }
        Ok(())
    }
}

/// Of row i: log Σ_j exp(l_j) − l_i, l = factor·entry.
pub(crate) struct OfOwnColumn {
    pub factor: f64,
}

impl RowLoss for OfOwnColumn {
    fn scratch(&self, columns: usize) -> usize {
        columns
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        let factor = T::from_f64(self.factor);
        scratch.fill(T::ONE);
        slopes.iter_mut().zip(row).for_each(|(logit, &v)| *logit = factor * v);
        let norm = log_sum_exp_terms(slopes, scratch, false);
        slopes.iter_mut().for_each(|slope| *slope = *slope * factor);
        slopes[i] = slopes[i] - factor;
        norm.less(factor * row[i])
    }
}

impl Loss for InfoNce {
    fn unreduced(&self, batch: &Batch, _: Option<&Tuples>) -> Result<Vec<Part>> {
        Self::check(batch)?;
        if batch.nothing() {
            return Ok(Vec::new());
        }
        if self.direction == Direction::Rows {
            let Logits { matrix, factor, log_scale } =
                Logits::new("InfoNce", batch, &self.distance, &self.temperature)?;
            return Ok(vec![Part::of_rows(matrix.row_losses(&OfOwnColumn { factor }, log_scale.as_ref())?)?]);
        }
        check_temperature("InfoNce", batch, &self.temperature)?;
        let values = batch.all_pairs(&*self.distance)?; // [n, n]
        let logits = self.temperature.logits(&self.distance.closeness(&values)?)?; // [n, n]
        let all = ones_like(&logits)?.ge(0.5)?;
        let norm = |logits| -> Result<_> { Ok(masked_log_sum_exp(logits, &all, false)?.squeeze(1)?) };
        let norm = match self.direction {
            Direction::Columns => norm(&logits.t()?.contiguous()?)?,
            _ => ((norm(&logits)? + norm(&logits.t()?.contiguous()?)?)? * 0.5)?,
        }; // [n]
        let own: Vec<u32> = (0..batch.len() as u32).collect();
        Ok(vec![Part::of_rows((norm - entries(&logits, &own, &own)?)?)?])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        self.temperature.parameters()
    }

    fn calibrate(&self, batch: &Batch) -> Result<()> {
        calibrate(batch, &*self.distance, &self.temperature)
    }
}
