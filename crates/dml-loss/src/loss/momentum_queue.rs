//! A queue of keys around any loss, as in momentum contrast (He et al. 2020).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Miner, Parameter, Part, Reduced, Reducer, Result, State, Tuples,
    loss::{
        memory::{Remembering, loss_of_memory},
        reduce,
    },
    tensor::download,
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
/// weights follow the trained one's slowly. The keys enter the queue, then the inner miner and loss compare queries
/// with it; keys are constants. With [`QueueLabels::Instance`] labels play no part. Each call of
/// [`unreduced`](Loss::unreduced) is a step; [`state`](Loss::state) holds `memory` `[k, d]`, `memory_labels` `[k]` and
/// how many keys were `seen`. Tuples cannot be given; an inner miner may be.
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
    seen: AtomicU64,
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
        Ok(Self { inner, labels, seen: AtomicU64::new(0) })
    }

    /// Lets the keys into the queue: the queries against it, and their tuples.
    fn enter(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Option<(Batch, Option<Tuples>)>> {
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
                let n = batch.len() as u64;
                let first = self.seen.fetch_add(n, Ordering::SeqCst);
                let labels: Vec<i64> = (first..first + n).map(|l| l as i64).collect();
                (labels.clone(), labels)
            }
        };
        let (memory, labels) = self.inner.memory.enter(keys, &key_labels)?;
        let queue = Batch::new(queries, &query_labels)?.with_reference(&memory, &labels)?.sharing_as(batch);
        let mined = self.inner.mine(&queue)?;
        Ok(Some((queue, mined)))
    }
}

impl Loss for MomentumQueue {
    loss_of_memory!();

    fn state(&self) -> Result<State> {
        let mut state = self.inner.state()?;
        let seen = self.seen.load(Ordering::SeqCst) as i64;
        state.insert("seen".to_owned(), Tensor::new(&[seen], &Device::Cpu)?);
        Ok(state)
    }

    fn load_state(&self, state: &State) -> Result<()> {
        let Some(seen) = state.get("seen") else {
            return Err(Error::config(
                "MomentumQueue::load_state",
                "seen",
                "missing",
                "how many keys there were",
            ));
        };
        self.inner.load_state(state)?;
        self.seen.store(download(seen)?.first().map_or(0, |&s| s as u64), Ordering::SeqCst);
        Ok(())
    }
}
