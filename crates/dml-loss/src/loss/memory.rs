//! A queue of the newest embeddings and their labels, constants all, shared by the losses with a memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result, State};

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
