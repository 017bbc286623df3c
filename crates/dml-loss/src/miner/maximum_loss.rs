//! The random part of a batch on which a loss is largest.

use std::sync::Arc;

use candle_core::DType;

use crate::{
    Batch, Distance, Error, Loss, Miner, Objective, PairList, Pairs, Result, Tuples,
    sampling::{choose, draws},
    tensor::{download, rows},
};

/// Draws `num_trials` random subsets of `output_batch_size` rows and keeps the pairs of the one on which the loss is
/// largest.
///
/// The loss sees each subset as a batch of its own (or, with a reference set, the chosen rows against the whole set),
/// and takes no step: what it remembers is put back. Draws are a function of `seed` and of the batch; nothing is
/// remembered between batches. A batch no larger than a subset is taken whole. The distance is the loss's.
/// Time of `num_trials` forward passes of the loss over a subset, memory of one; O(nm) pairs.
///
/// # Source
/// The idea of Shrivastava et al. 2016 \[shrivastava2016\], applied to batches.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32], [1.], [3.], [9.]], &Device::Cpu)?;
/// let contrastive = Contrastive { distance: Arc::new(Lp::raw(2.0)), config: ContrastiveConfig::default() };
/// let miner = MaximumLoss::new(Arc::new(contrastive), 2, 50, 0)?;
/// // Among fifty draws of two rows is the positive pair at 6, the hardest of all.
/// let pairs = miner.mine(&Batch::new(&x, &[0, 0, 1, 1])?)?.to_pairs();
/// assert_eq!((pairs.positive.anchor, pairs.positive.other), (vec![2, 3], vec![3, 2]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct MaximumLoss {
    objective: Objective,
    output_batch_size: usize,
    num_trials: usize,
    seed: u64,
}

impl MaximumLoss {
    /// A miner of pairs: subsets of `output_batch_size` rows, `num_trials` of them (3 is usual).
    ///
    /// # Errors
    /// [`Error::Config`] for no rows or no trials.
    pub fn new(loss: Arc<dyn Loss>, output_batch_size: usize, num_trials: usize, seed: u64) -> Result<Self> {
        for (field, value) in [("output_batch_size", output_batch_size), ("num_trials", num_trials)] {
            if value == 0 {
                return Err(Error::config("MaximumLoss", field, 0, "at least 1"));
            }
        }
        Ok(Self { objective: Objective::new(loss), output_batch_size, num_trials, seed })
    }

    fn value(&self, batch: &Batch, chosen: &[usize]) -> Result<f64> {
        let index: Vec<u32> = chosen.iter().map(|&i| i as u32).collect();
        let labels: Vec<i64> = chosen.iter().map(|&i| batch.labels()[i]).collect();
        let mut part = Batch::new(&rows(batch.embeddings(), &index)?, &labels)?;
        if batch.has_reference() {
            part = part.with_reference(batch.columns(), batch.column_labels())?;
        }
        let before = self.objective.loss.state()?;
        let value = self.objective.forward(&part)?.detach().to_dtype(DType::F64)?;
        self.objective.loss.load_state(&before)?;
        Ok(value.to_scalar()?)
    }
}

impl Miner for MaximumLoss {
    fn mine(&self, batch: &Batch) -> Result<Tuples> {
        let n = batch.len();
        let mut all = Pairs::all(batch);
        if n <= self.output_batch_size || batch.nothing() {
            return Ok(Tuples::Pairs(all));
        }
        let batch = batch.detach();
        let bits = download(batch.embeddings())?.into_iter().map(f64::to_bits);
        let mut rng = draws(self.seed, bits);
        let (mut best, mut most) = (Vec::new(), f64::NEG_INFINITY);
        for trial in 0..self.num_trials {
            let mut chosen = choose(&mut rng, n, self.output_batch_size);
            chosen.sort_unstable();
            let value = self.value(&batch, &chosen)?;
            if !value.is_finite() {
                let what = format!("the loss of trial {trial}");
                return Err(Error::Diverged { op: "MaximumLoss", what, value });
            }
            if value > most || best.is_empty() {
                (best, most) = (chosen, value);
            }
        }
        let mut inside = vec![false; n];
        best.iter().for_each(|&i| inside[i] = true);
        let columns_too = !batch.has_reference();
        let within = |list: &PairList| {
            let mut kept = PairList::default();
            for (&a, &o) in list.anchor.iter().zip(&list.other) {
                if inside[a as usize] && (!columns_too || inside[o as usize]) {
                    kept.push(a as usize, o as usize);
                }
            }
            kept
        };
        all = Pairs { positive: within(&all.positive), negative: within(&all.negative) };
        Ok(Tuples::Pairs(all))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        self.objective.loss.distance()
    }
}
