//! A queue of keys around any loss, as in momentum contrast (He et al. 2020).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Error, Loss, Miner, Parameter, Part, Reducer, Result, State, Tuples,
    loss::memory::Memory, tensor::download,
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
/// The batch holds the queries, its reference set as many keys, row i matching row i, usually of an encoder whose weights
/// follow the trained one's slowly. The keys enter the queue, then the inner miner and loss compare queries with it;
/// keys are constants. Each call of [`unreduced`](Loss::unreduced) is a step; [`state`](Loss::state) holds the queue.
/// Tuples cannot be given; an inner miner may be.
///
/// # Source
/// He et al. 2020 \[he2020\], algorithm 1.
#[derive(Debug)]
pub struct MomentumQueue {
    loss: Arc<dyn Loss>,
    miner: Option<Arc<dyn Miner>>,
    labels: QueueLabels,
    memory: Memory,
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
        let memory = Memory::new("MomentumQueue", memory_size)?;
        Ok(Self { loss, miner, labels, memory, seen: AtomicU64::new(0) })
    }
}

impl Loss for MomentumQueue {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
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
            return Ok(Vec::new());
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
        let (memory, labels) = self.memory.enter(keys, &key_labels)?;
        let batch = Batch::new(queries, &query_labels)?.with_reference(&memory, &labels)?;
        let mined = self.miner.as_ref().map(|miner| miner.mine(&batch)).transpose()?;
        self.loss.unreduced(&batch, mined.as_ref())
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        self.loss.distance()
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        self.loss.default_reducer()
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        self.loss.own_parameters()
    }

    fn calibrate(&self, batch: &Batch) -> Result<()> {
        self.loss.calibrate(batch)
    }

    fn state(&self) -> Result<State> {
        let mut state = self.memory.state()?;
        let seen = self.seen.load(Ordering::SeqCst) as i64;
        state.insert("seen".to_owned(), Tensor::new(&[seen], &Device::Cpu)?);
        state.extend(self.loss.state()?);
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
        self.memory.load_state(state)?;
        self.loss.load_state(state)?;
        self.seen.store(download(seen)?.first().map_or(0, |&s| s as u64), Ordering::SeqCst);
        Ok(())
    }
}
