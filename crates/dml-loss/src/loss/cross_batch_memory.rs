//! Cross-batch memory around any loss (Wang et al. 2020).

use std::sync::Arc;

use crate::{
    Batch, Distance, Error, Loss, Miner, PairList, Pairs, Parameter, Part, Reduced, Reducer, Result, State,
    Triplets, Tuples,
    loss::memory::{Entered, Remembering, loss_of_memory},
};

/// A loss whose batches are compared with the newest `memory_size` embeddings, those of the batch among them.
///
/// The inner miner and loss compare the rows of a batch with the memory that the batch has entered. The miner sees
/// each row's comparison with itself, as in pytorch-metric-learning, and what it selects of that is left out; without a
/// miner all pairs but those count. A miner of easiest positives would select the row itself and leave the row without
/// a positive: mine hard or semi-hard ones. What is remembered is constant, the current batch too: the gradient reaches
/// the batch as anchors only. Each call of [`unreduced`](Loss::unreduced) is a step, at whose end the batch is
/// remembered: not where miner or loss fail, and not where its loss is no number. [`state`](Loss::state) holds
/// `memory` `[k, d]` and `memory_labels` `[k]`. Given tuples, which index the batch, are added to the miner's. A batch
/// with a reference set is an error.
///
/// # Distances
/// Those of the inner loss. Under a learned divergence the memory holds embeddings, not divergences, so all pairs are
/// compared by the φ of this step; embeddings of an encoder that moves fast are stale all the same, so begin after a
/// warm-up.
/// # Cost
/// That of the inner loss with m = `memory_size`, and `[memory_size, d]` remembered.
/// # Source
/// Wang et al. 2020 \[wang2020xbm\], algorithm 1.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let contrastive = Contrastive { distance: Arc::new(Lp::raw(2.0)), config: ContrastiveConfig::default() };
/// let loss = Objective::new(Arc::new(CrossBatchMemory::new(Arc::new(contrastive), None, 4)?));
/// let step = |rows: &[[f32; 1]; 2]| loss.forward(&Batch::new(&Tensor::new(rows, &Device::Cpu)?, &[0, 1])?);
/// step(&[[0.], [5.]])?;
/// // Each row's only positive is its class's row of the step before, at distance 0.5.
/// assert_eq!(step(&[[0.5], [5.5]])?.to_scalar::<f32>()?, 0.5);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct CrossBatchMemory {
    inner: Remembering,
}

impl CrossBatchMemory {
    /// An empty memory around a loss and its miner.
    ///
    /// # Errors
    /// [`Error::Config`] for a memory of no rows.
    pub fn new(loss: Arc<dyn Loss>, miner: Option<Arc<dyn Miner>>, memory_size: usize) -> Result<Self> {
        Ok(Self { inner: Remembering::new("CrossBatchMemory", loss, miner, memory_size)? })
    }

    /// The batch against the memory that it enters, and its tuples.
    fn enter(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Option<Entered>> {
        if batch.has_reference() {
            let expected = "none: the memory is the reference set";
            return Err(Error::config("CrossBatchMemory", "reference", "given", expected));
        }
        if batch.is_empty() {
            return Ok(None);
        }
        let rows = self.inner.memory.with(batch.embeddings(), batch.labels())?;
        let (memory, labels) = &rows;
        let first = (labels.len() - batch.len()) as u32;
        let own: Vec<u32> = (0..batch.len() as u32).map(|i| first + i).collect();
        let batch = batch.clone().with_reference(memory, labels)?;
        let mined = self.inner.mine(&batch)?.map(|tuples| without_own(tuples, first));
        let batch = batch.with_own_rows(&own)?;
        let tuples = match (mined, tuples.map(|tuples| moved(tuples, first))) {
            (Some(mined), Some(given)) => Some(joined(mined, &given)),
            (mined, None) => mined,
            (None, Some(given)) => Some(joined(Tuples::Pairs(Pairs::all(&batch)), &given)),
        };
        Ok(Some(Entered { batch, tuples, rows }))
    }
}

/// Without the comparisons of row i with column `first` + i.
fn without_own(mut tuples: Tuples, first: u32) -> Tuples {
    fn keep(list: &mut Vec<u32>, kept: &[bool]) {
        let mut kept = kept.iter();
        list.retain(|_| kept.next().copied().unwrap_or(true));
    }
    let others = |anchor: &[u32], other: &[u32]| -> Vec<bool> {
        anchor.iter().zip(other).map(|(&a, &o)| o != first + a).collect()
    };
    match &mut tuples {
        Tuples::Pairs(pairs) => {
            for list in [&mut pairs.positive, &mut pairs.negative] {
                let kept = others(&list.anchor, &list.other);
                keep(&mut list.anchor, &kept);
                keep(&mut list.other, &kept);
            }
        }
        Tuples::Triplets(triplets) => {
            let kept = others(&triplets.anchor, &triplets.positive);
            for list in [&mut triplets.anchor, &mut triplets.positive, &mut triplets.negative] {
                keep(list, &kept);
            }
        }
    }
    tuples
}

/// Tuples of a batch as tuples of the batch with the memory whose last rows it is.
fn moved(tuples: &Tuples, by: u32) -> Tuples {
    let columns = |index: &[u32]| index.iter().map(|i| i + by).collect();
    match tuples {
        Tuples::Pairs(p) => {
            let list =
                |list: &PairList| PairList { anchor: list.anchor.clone(), other: columns(&list.other) };
            Tuples::Pairs(Pairs { positive: list(&p.positive), negative: list(&p.negative) })
        }
        Tuples::Triplets(t) => Tuples::Triplets(Triplets {
            anchor: t.anchor.clone(),
            positive: columns(&t.positive),
            negative: columns(&t.negative),
        }),
    }
}

/// Both, as triplets if the first is.
fn joined(first: Tuples, second: &Tuples) -> Tuples {
    match first {
        Tuples::Triplets(mut a) => {
            let b = second.to_triplets();
            a.anchor.extend(b.anchor);
            a.positive.extend(b.positive);
            a.negative.extend(b.negative);
            Tuples::Triplets(a)
        }
        Tuples::Pairs(mut a) => {
            let b = second.to_pairs();
            for (into, from) in [(&mut a.positive, b.positive), (&mut a.negative, b.negative)] {
                into.anchor.extend(from.anchor);
                into.other.extend(from.other);
            }
            Tuples::Pairs(a)
        }
    }
}

impl Loss for CrossBatchMemory {
    loss_of_memory!();

    fn state(&self) -> Result<State> {
        self.inner.state()
    }

    fn load_state(&self, state: &State) -> Result<()> {
        self.inner.load_state(state, 0)
    }
}
