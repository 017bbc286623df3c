//! A queue of keys around any loss, as in momentum contrast (He et al. 2020).

use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Miner, Parameter, Part, Reduced, Reducer, Result, State, Tuples,
    loss::memory::{Entered, Remembering, loss_of_memory, whole_numbers},
};

/// Which keys are a query's positives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueLabels {
    /// Key i of this step for query i, and no other: self-supervision. Labels play no part.
    #[default]
    Instance,
    /// All keys with the query's label.
    Given,
}

/// A loss whose queries are compared with the newest `memory_size` keys, those of this step among them.
///
/// The batch holds the queries, its reference set as many keys, row i matching row i, usually of an encoder whose
/// weights follow the trained one's slowly. The inner miner and loss compare the queries with the queue that the keys
/// have entered; keys are constants. With [`QueueLabels::Instance`] labels play no part. Each call of
/// [`unreduced`](Loss::unreduced) is a step, at whose end the keys are remembered: not where miner or loss fail, and not
/// where their loss is no number. [`state`](Loss::state) holds `memory` `[k, d]`, `memory_labels` `[k]` and how many
/// keys were `seen`. Tuples cannot be given; an inner miner may be.
///
/// # Distances
/// Those of the inner loss, usually [`NtXent`](crate::NtXent) over cosines; the query is the anchor.
/// # Cost
/// That of the inner loss with m = `memory_size`, and `[memory_size, d]` remembered.
/// # Source
/// He et al. 2020 \[he2020\], algorithm 1.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let nt_xent = NtXent { distance: Arc::new(Cosine), temperature: Temperature::fixed(1.0)? };
/// let queue = MomentumQueue::new(Arc::new(nt_xent), None, QueueLabels::Instance, 4)?;
/// let loss = Objective::new(Arc::new(queue));
/// let views = Tensor::eye(2, DType::F64, &Device::Cpu)?;
/// let batch = Batch::new(&views, &[0, 0])?.with_reference(&views, &[0, 0])?;
/// // One negative, the other key; a step later the old keys are negatives too, at cosines 1 and 0.
/// assert!((loss.forward(&batch)?.to_scalar::<f64>()? - (1.0 + (-1f64).exp()).ln()).abs() < 1e-12);
/// assert!((loss.forward(&batch)?.to_scalar::<f64>()? - (2.0 + 2.0 * (-1f64).exp()).ln()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MomentumQueue {
    inner: Remembering,
    labels: QueueLabels,
}

impl MomentumQueue {
    /// An empty queue around a loss and its miner.
    ///
    /// # Errors
    /// [`Error::Config`] for a queue of no rows.
    pub fn new(
        loss: Arc<dyn Loss>,
        miner: Option<Arc<dyn Miner>>,
        labels: QueueLabels,
        memory_size: usize,
    ) -> Result<Self> {
        let inner = Remembering::new("MomentumQueue", loss, miner, memory_size)?;
        Ok(Self { inner, labels })
    }

    /// The queries against the queue that the keys enter, and their tuples.
    fn enter(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Option<Entered>> {
        let owner = "MomentumQueue";
        if !batch.has_reference() {
            let expected = "the keys, as many as queries (Batch::with_reference)";
            return Err(Error::config(owner, "reference", "missing", expected));
        }
        if tuples.is_some() {
            return Err(Error::config(owner, "tuples", "given", "none; hand the miner to the queue"));
        }
        let (queries, keys) = (batch.embeddings(), batch.columns());
        if queries.dims() != keys.dims() {
            let expected = format!("{:?}, a key for each query", queries.dims());
            return Err(Error::shape(owner, "reference", keys, expected));
        }
        if batch.is_empty() {
            return Ok(None);
        }
        let (query_labels, key_labels) = match self.labels {
            QueueLabels::Given => (batch.labels().to_vec(), batch.column_labels().to_vec()),
            QueueLabels::Instance => {
                let first = self.inner.memory.seen();
                let labels: Vec<i64> = (first..first + batch.len() as u64).map(|l| l as i64).collect();
                (labels.clone(), labels)
            }
        };
        let rows = self.inner.memory.with(keys, &key_labels)?;
        let batch = Batch::new(queries, &query_labels)?.with_reference(&rows.0, &rows.1)?.sharing_as(batch);
        let tuples = self.inner.mine(&batch)?;
        Ok(Some(Entered { batch, tuples, rows }))
    }
}

impl Loss for MomentumQueue {
    loss_of_memory!();

    fn state(&self) -> Result<State> {
        let mut state = self.inner.state()?;
        state.insert("seen".to_owned(), Tensor::new(&[self.inner.memory.seen() as i64], &Device::Cpu)?);
        Ok(state)
    }

    fn load_state(&self, state: &State) -> Result<()> {
        let (owner, expected) = ("MomentumQueue::load_state", "how many keys there were");
        let Some(seen) = state.get("seen") else {
            return Err(Error::config(owner, "seen", "missing", expected));
        };
        let seen = whole_numbers(owner, "seen", seen)?;
        match seen[..] {
            [seen] if seen >= 0 => self.inner.load_state(state, seen as u64),
            _ => Err(Error::config(owner, "seen", format!("{seen:?}"), expected)),
        }
    }
}
