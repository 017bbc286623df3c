//! A queue of the newest embeddings and their labels, constants all, shared by the losses with a memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use dml_kernels::first_not_finite;

use crate::{
    Batch, Error, Loss, Miner, Part, Reducer, Result, State, Tuples,
    distance::check_dtype,
    loss::{reduce, undone_on_error},
    miner::finite_pairs,
    tensor::download,
};

/// Rows with their labels, oldest first.
type Rows = (Tensor, Vec<i64>);

/// What is remembered.
#[derive(Debug, Clone, Default)]
struct Kept {
    /// None before the first batch.
    rows: Option<Rows>,
    /// How many rows have ever entered.
    seen: u64,
}

/// The newest rows, at most `capacity` of them.
#[derive(Debug)]
pub(crate) struct Memory {
    owner: &'static str,
    capacity: usize,
    kept: Mutex<Kept>,
}

impl Memory {
    pub fn new(owner: &'static str, capacity: usize) -> Result<Self> {
        match capacity {
            0 => Err(Error::config(owner, "memory_size", 0, "at least 1")),
            _ => Ok(Self { owner, capacity, kept: Mutex::default() }),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many rows have ever entered.
    pub fn seen(&self) -> u64 {
        self.kept().seen
    }

    /// What the memory will hold once the rows, cut from the graph, have entered; they are the last.
    pub fn with(&self, x: &Tensor, labels: &[i64]) -> Result<Rows> {
        let (n, d) = x.dims2()?;
        if n > self.capacity {
            let expected = format!("at least the {n} rows of a batch");
            return Err(Error::config(self.owner, "memory_size", self.capacity, expected));
        }
        let Some((old, old_labels)) = self.kept().rows.clone() else {
            return Ok((x.detach().copy()?, labels.to_vec()));
        };
        let (kept, width) = old.dims2()?;
        if width != d {
            return Err(Error::shape(self.owner, "embeddings", x, format!("[n, {width}]")));
        }
        let skip = (kept + n).saturating_sub(self.capacity);
        if skip == kept {
            return Ok((x.detach().copy()?, labels.to_vec()));
        }
        let old = old.to_dtype(x.dtype())?.to_device(x.device())?.narrow(0, skip, kept - skip)?;
        Ok((Tensor::cat(&[&old, &x.detach()], 0)?, [&old_labels[skip..], labels].concat()))
    }

    /// Remembers what [`with`](Self::with) gave for `entered` rows.
    fn remember(&self, rows: Rows, entered: usize) {
        let mut kept = self.kept();
        kept.rows = Some(rows);
        kept.seen += entered as u64;
    }

    fn state(&self) -> Result<State> {
        let Some((x, labels)) = self.kept().rows.clone() else { return Ok(State::new()) };
        let labels = Tensor::from_vec(labels, x.dims()[0], &Device::Cpu)?;
        Ok(State::from([("memory".to_owned(), x), ("memory_labels".to_owned(), labels)]))
    }

    /// What a state says is remembered.
    fn rows_of(&self, state: &State) -> Result<Option<Rows>> {
        let (x, labels) = match (state.get("memory"), state.get("memory_labels")) {
            (None, None) => return Ok(None),
            (Some(x), Some(labels)) => (x, labels),
            _ => {
                let expected = "`memory` and `memory_labels`, or neither before the first batch";
                return Err(Error::config(self.owner, "state", "one of the two", expected));
            }
        };
        let labels = whole_numbers(self.owner, "memory_labels", labels)?;
        let expected = format!("[{}, d], at most {} rows", labels.len(), self.capacity);
        match *x.dims() {
            [n, d] if n == labels.len() && (1..=self.capacity).contains(&n) && d > 0 => {}
            _ => return Err(Error::shape(self.owner, "memory", x, expected)),
        }
        check_dtype(self.owner, "memory", x)?;
        // What is no number would be an error of every later batch.
        if let Some((at, value)) = first_not_finite(x)? {
            let row = at / x.dim(1)?;
            return Err(Error::NotFinite { op: self.owner, arg: "memory", row, value });
        }
        Ok(Some((x.detach(), labels)))
    }
}

/// The whole numbers of a list in a state.
pub(crate) fn whole_numbers(owner: &'static str, entry: &'static str, list: &Tensor) -> Result<Vec<i64>> {
    if list.rank() != 1 {
        return Err(Error::shape(owner, entry, list, "a list"));
    }
    if list.dtype() == DType::I64 {
        return Ok(list.to_device(&Device::Cpu)?.to_vec1()?);
    }
    let whole = |v: f64| match v.fract() == 0.0 {
        true => Ok(v as i64),
        false => Err(Error::config(owner, entry, v, "whole numbers")),
    };
    download(list)?.into_iter().map(whole).collect()
}

/// A loss, its miner and the memory that its batches are compared with: what a cross-batch memory and a momentum queue
/// share. They differ in what enters the memory.
#[derive(Debug)]
pub(crate) struct Remembering {
    pub loss: Arc<dyn Loss>,
    pub miner: Option<Arc<dyn Miner>>,
    pub memory: Memory,
}

/// A batch against the memory that it is part of, not yet remembered.
pub(crate) struct Entered {
    /// The batch, its reference set what the memory will hold.
    pub batch: Batch,
    /// The tuples of the inner loss.
    pub tuples: Option<Tuples>,
    /// What the memory will hold.
    pub rows: Rows,
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

    /// The parts of the inner loss over an entered batch, which is then remembered.
    pub fn unreduced(&self, entered: Entered) -> Result<Vec<Part>> {
        let step = |batch: &Batch, tuples: Option<&Tuples>| self.loss.unreduced(batch, tuples);
        self.remembering(entered, step, |parts| parts.iter().map(|part| &part.losses).collect())
    }

    /// The value of the inner loss over an entered batch, which is then remembered.
    pub fn reduced(&self, entered: Entered, reducer: &dyn Reducer) -> Result<Option<Tensor>> {
        let step = |batch: &Batch, tuples: Option<&Tuples>| reduce(&*self.loss, batch, tuples, reducer);
        self.remembering(entered, step, |value| value.iter().collect())
    }

    /// A step of the inner loss, after which the batch is remembered unless its rows are to blame for the `values`.
    fn remembering<T>(
        &self,
        Entered { batch, tuples, rows }: Entered,
        step: impl FnOnce(&Batch, Option<&Tuples>) -> Result<T>,
        values: impl FnOnce(&T) -> Vec<&Tensor>,
    ) -> Result<T> {
        let (result, sound) = undone_on_error(&*self.loss, || {
            let result = step(&batch, tuples.as_ref())?;
            let sound = self.sound(&batch, &values(&result))?;
            Ok((result, sound))
        })?;
        if sound {
            self.memory.remember(rows, batch.len());
        }
        Ok(result)
    }

    /// Whether the values are numbers. A loss to which nothing is left may not have looked at the rows, but a later
    /// one will: then it is their distances that must be numbers.
    fn sound(&self, batch: &Batch, values: &[&Tensor]) -> Result<bool> {
        for value in values {
            if first_not_finite(value)?.is_some() {
                return Ok(false);
            }
        }
        let Some(distance) = self.loss.distance().filter(|_| values.is_empty()) else { return Ok(true) };
        match finite_pairs(self.memory.owner, batch, distance) {
            Ok(_) => Ok(true),
            Err(Error::Diverged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// State of the memory and of the loss.
    pub fn state(&self) -> Result<State> {
        let mut state = self.memory.state()?;
        state.extend(self.loss.state()?);
        Ok(state)
    }

    /// Puts back the state of the memory, into which so many rows have entered, and of the loss.
    pub fn load_state(&self, state: &State, seen: u64) -> Result<()> {
        let rows = self.memory.rows_of(state)?;
        self.loss.load_state(state)?;
        *self.memory.kept() = Kept { rows, seen };
        Ok(())
    }
}

/// The parts of [`Loss`] that are those of the inner loss, for a type with a field `inner` of [`Remembering`] and a
/// function `enter(batch, tuples)` that gives the batch as [`Entered`], `None` for an empty batch.
macro_rules! loss_of_memory {
    () => {
        fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
            match self.enter(batch, tuples)? {
                Some(entered) => self.inner.unreduced(entered),
                None => Ok(Vec::new()),
            }
        }

        fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
            match self.enter(batch, tuples)? {
                Some(entered) => Ok(Reduced::of(self.inner.reduced(entered, reducer)?)),
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
