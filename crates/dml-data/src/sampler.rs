//! Which images make up a batch: the trait, and the endless, resumable sequence of batches.

mod class_balanced;
mod class_decks;
mod deck;
mod fixed_triplets;
mod hierarchical;
mod m_per_class;
mod p_by_k;
mod sequential;
mod shard;
mod shuffled;

pub use class_balanced::ClassBalanced;
pub use fixed_triplets::FixedTriplets;
pub use hierarchical::{Hierarchical, HierarchicalConfig};
pub use m_per_class::{MPerClass, MPerClassConfig};
pub use p_by_k::PByK;
pub use sequential::Sequential;
pub use shard::{Shard, ShardOf};
pub use shuffled::{Shuffled, Tail};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// A plan of batches: a pure function of the epoch, so that training resumes from two numbers.
pub trait Sampler: std::fmt::Debug + Send + Sync {
    /// The number of batches in each epoch, at least 1.
    fn batches_per_epoch(&self) -> usize;

    /// The batches of epoch `epoch`: indices into the set, [`batches_per_epoch`](Self::batches_per_epoch) lists.
    /// The same epoch always gives the same batches.
    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>>;
}

/// Where a sequence of batches stands: the batch that comes next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SamplerState {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The next batch within it, from 0; below the number of batches per epoch.
    pub batch: usize,
}

/// The batches of one epoch after the other, without end.
///
/// # Examples
/// ```
/// use dml_data::{Batches, Shuffled, Tail};
/// let sampler = || Shuffled::new(&[0, 1, 2, 3, 4, 5], 2, Tail::Drop, 42);
/// let mut batches = Batches::new(sampler()?);
/// batches.by_ref().take(4).for_each(drop); // one whole epoch of three, and one batch of the next
/// let state = batches.state();
/// assert_eq!((state.epoch, state.batch), (1, 1));
/// let mut resumed = Batches::resume(sampler()?, state)?;
/// assert_eq!(resumed.next(), batches.next());
/// # Ok::<(), dml_data::Error>(())
/// ```
#[derive(Debug)]
pub struct Batches<S> {
    sampler: S,
    state: SamplerState,
    /// The batches of `state.epoch`, once one of them was asked for.
    current: Option<Vec<Vec<usize>>>,
}

impl<S: Sampler> Batches<S> {
    /// From the first batch of epoch 0.
    pub fn new(sampler: S) -> Self {
        Self { sampler, state: SamplerState::default(), current: None }
    }

    /// From `state`, in mid-epoch too.
    ///
    /// # Errors
    /// [`Error::Argument`] when the epoch has no such batch: the state belongs to another sampler.
    pub fn resume(sampler: S, state: SamplerState) -> Result<Self> {
        let n = sampler.batches_per_epoch();
        if state.batch >= n {
            return Err(Error::Argument {
                op: "Batches::resume",
                arg: "state.batch",
                got: state.batch.to_string(),
                expected: format!("below {n}, the batches per epoch; resume with the sampler that was saved"),
            });
        }
        Ok(Self { sampler, state, current: None })
    }

    /// The batch that comes next. Save it after a step to resume with the following one.
    pub fn state(&self) -> SamplerState {
        self.state
    }

    /// The plan.
    pub fn sampler(&self) -> &S {
        &self.sampler
    }

    /// The same sequence, whatever its sampler.
    pub fn boxed(self) -> Batches<Box<dyn Sampler>>
    where
        S: 'static,
    {
        Batches { sampler: Box::new(self.sampler), state: self.state, current: self.current }
    }
}

impl<S: Sampler> Iterator for Batches<S> {
    type Item = Vec<usize>;

    /// Never `None` from the samplers of this crate.
    fn next(&mut self) -> Option<Vec<usize>> {
        let SamplerState { epoch, batch } = self.state;
        let batches = self.current.get_or_insert_with(|| self.sampler.epoch(epoch));
        let next = batches.get_mut(batch).map(std::mem::take)?;
        self.state.batch += 1;
        if self.state.batch >= batches.len() {
            self.state = SamplerState { epoch: epoch + 1, batch: 0 };
            self.current = None;
        }
        Some(next)
    }
}

impl<S: Sampler + ?Sized> Sampler for std::sync::Arc<S> {
    fn batches_per_epoch(&self) -> usize {
        (**self).batches_per_epoch()
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        (**self).epoch(epoch)
    }
}

impl<S: Sampler + ?Sized> Sampler for Box<S> {
    fn batches_per_epoch(&self) -> usize {
        (**self).batches_per_epoch()
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        (**self).epoch(epoch)
    }
}

/// There is at least one index, and each is one of a label.
fn check_indices(op: &'static str, labels: &[i64], indices: &[usize]) -> Result<()> {
    if indices.is_empty() {
        let (got, expected) = ("empty".to_owned(), "at least one index".to_owned());
        return Err(Error::Argument { op, arg: "indices", got, expected });
    }
    match indices.iter().position(|&i| i >= labels.len()) {
        Some(position) => Err(Error::Index { op, position, index: indices[position], len: labels.len() }),
        None => Ok(()),
    }
}

/// The generator of an epoch: one seed, a stream of its own for each epoch.
fn epoch_rng(seed: u64, epoch: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    rng
}
