//! A queue of the newest embeddings and their labels, constants all, shared by the losses with a memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::{Batch, Error, Loss, Miner, Result, State, Tuples};

/// The newest rows, oldest first, at most `capacity` of them.
#[derive(Debug)]
pub(crate) struct Memory {
    owner: &'static str,
    capacity: usize,
    rows: Mutex<Option<(Tensor, Vec<i64>)>>,
}

impl Memory {
    pub fn new(owner: &'static str, capacity: usize) -> Result<Self> {
        match capacity {
            0 => Err(Error::config(owner, "memory_size", 0, "at least 1")),
            _ => Ok(Self { owner, capacity, rows: Mutex::new(None) }),
        }
    }

    fn rows(&self) -> MutexGuard<'_, Option<(Tensor, Vec<i64>)>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the rows, cut from the graph, and gives back all that is kept; the new rows are the last.
    pub fn enter(&self, x: &Tensor, labels: &[i64]) -> Result<(Tensor, Vec<i64>)> {
        let (n, d) = x.dims2()?;
        if n > self.capacity {
            let expected = format!("at least the {n} rows of a batch");
            return Err(Error::config(self.owner, "memory_size", self.capacity, expected));
        }
        let mut rows = self.rows();
        let next = match rows.as_ref() {
            None => (x.detach().copy()?, labels.to_vec()),
            Some((old, old_labels)) => {
                let (kept, width) = old.dims2()?;
                if width != d {
                    return Err(Error::shape(self.owner, "embeddings", x, format!("[n, {width}]")));
                }
                let skip = (kept + n).saturating_sub(self.capacity);
                let old = old.to_dtype(x.dtype())?.to_device(x.device())?.narrow(0, skip, kept - skip)?;
                let labels = [&old_labels[skip..], labels].concat();
                let all =
                    if skip == kept { x.detach().copy()? } else { Tensor::cat(&[&old, &x.detach()], 0)? };
                (all, labels)
            }
        };
        *rows = Some(next.clone());
        Ok(next)
    }

    pub fn state(&self) -> Result<State> {
        let rows = self.rows();
        let Some((x, labels)) = rows.as_ref() else { return Ok(State::new()) };
        let labels = Tensor::from_slice(labels, labels.len(), &Device::Cpu)?;
        Ok(State::from([("memory".to_owned(), x.copy()?), ("memory_labels".to_owned(), labels)]))
    }

    pub fn load_state(&self, state: &State) -> Result<()> {
        let next = match (state.get("memory"), state.get("memory_labels")) {
            (None, None) => None,
            (Some(x), Some(labels)) => {
                let labels = labels.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
                if x.rank() != 2 || x.dims()[0] != labels.len() || labels.len() > self.capacity {
                    let expected = format!("[{}, d], at most {} rows", labels.len(), self.capacity);
                    return Err(Error::shape(self.owner, "memory", x, expected));
                }
                Some((x.clone(), labels))
            }
            _ => {
                let expected = "`memory` and `memory_labels`, or neither before the first batch";
                return Err(Error::config(self.owner, "state", "one of the two", expected));
            }
        };
        *self.rows() = next;
        Ok(())
    }
}

/// A loss, its miner and the memory that its batches are compared with: what a cross-batch memory and a momentum queue
/// share. They differ in what enters the memory.
#[derive(Debug)]
pub(crate) struct Remembering {
    pub loss: Arc<dyn Loss>,
    pub miner: Option<Arc<dyn Miner>>,
    pub memory: Memory,
}

impl Remembering {
    pub fn new(
        owner: &'static str,
        loss: Arc<dyn Loss>,
        miner: Option<Arc<dyn Miner>>,
        memory_size: usize,
    ) -> Result<Self> {
        Ok(Self { loss, miner, memory: Memory::new(owner, memory_size)? })
    }

    /// What the miner selects from a batch against the memory.
    pub fn mine(&self, batch: &Batch) -> Result<Option<Tuples>> {
        self.miner.as_ref().map(|miner| miner.mine(batch)).transpose()
    }

    /// State of the memory and of the loss.
    pub fn state(&self) -> Result<State> {
        let mut state = self.memory.state()?;
        state.extend(self.loss.state()?);
        Ok(state)
    }

    pub fn load_state(&self, state: &State) -> Result<()> {
        self.memory.load_state(state)?;
        self.loss.load_state(state)
    }
}

/// The parts of [`Loss`] that are those of the inner loss, for a type with a field `inner` of [`Remembering`] and a
/// function `enter(batch, tuples)` that gives the batch against the memory with its tuples, `None` for an empty batch.
macro_rules! loss_of_memory {
    () => {
        fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
            match self.enter(batch, tuples)? {
                Some((batch, tuples)) => self.inner.loss.unreduced(&batch, tuples.as_ref()),
                None => Ok(Vec::new()),
            }
        }

        fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
            match self.enter(batch, tuples)? {
                Some((batch, tuples)) => {
                    Ok(Reduced::of(reduce(&*self.inner.loss, &batch, tuples.as_ref(), reducer)?))
                }
                None => Ok(Reduced::Nothing),
            }
        }

        fn distance(&self) -> Option<&Arc<dyn Distance>> {
            self.inner.loss.distance()
        }

        fn default_reducer(&self) -> Arc<dyn Reducer> {
            self.inner.loss.default_reducer()
        }

        fn own_parameters(&self) -> Vec<Parameter> {
            self.inner.loss.own_parameters()
        }

        fn calibrate(&self, batch: &Batch) -> Result<()> {
            self.inner.loss.calibrate(batch)
        }

        fn class_rows(&self) -> Result<Option<candle_core::Tensor>> {
            self.inner.loss.class_rows()
        }
    };
}
pub(crate) use loss_of_memory;
