//! Distance, miner, loss and reducer put together: what a training step minimizes.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{
    Batch, Error, Loss, Miner, Parameter, Part, Reducer, Regularization, RegularizedRows, Result, Tuples,
    batch::add_zero_of,
    error::name_of,
    loss::{reduce, undone_on_error},
};

/// A loss with an optional miner before it, a reducer after it and regularizers beside it: from a batch to one number.
///
/// A miner over the same `Arc` of the distance shares the loss's matrix of pairs. Each [part](Part) of the loss is
/// reduced by itself, and the values are added.
///
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let x = Tensor::new(&[[0f32, 0.], [0., 3.], [4., 0.]], &Device::Cpu)?;
/// let loss = TripletMargin {
///     distance: Arc::new(Lp::raw(2.0)),
///     config: TripletMarginConfig { margin: 1.5, ..Default::default() },
/// };
/// let objective = Objective::new(Arc::new(loss));
/// // (0, 1, 2): 3 − 4 + 1.5 = 0.5; (1, 0, 2): 3 − 5 + 1.5 < 0, which the mean of nonzero losses leaves out.
/// let value = objective.forward(&Batch::new(&x, &[0, 0, 1])?)?.to_scalar::<f32>()?;
/// assert!((value - 0.5).abs() < 1e-5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Objective {
    /// The loss.
    pub loss: Arc<dyn Loss>,
    /// Selects tuples; without it the loss takes all.
    pub miner: Option<Arc<dyn Miner>>,
    /// Finishes each part; the parts are added.
    pub reducer: Arc<dyn Reducer>,
    /// Added to the value.
    pub regularizations: Vec<Regularization>,
}

impl Objective {
    /// The loss with its usual reducer and no miner.
    pub fn new(loss: Arc<dyn Loss>) -> Self {
        let reducer = loss.default_reducer();
        Self { loss, miner: None, reducer, regularizations: Vec::new() }
    }

    /// With a miner.
    pub fn with_miner(mut self, miner: Arc<dyn Miner>) -> Self {
        self.miner = Some(miner);
        self
    }

    /// With another reducer.
    pub fn with_reducer(mut self, reducer: Arc<dyn Reducer>) -> Self {
        self.reducer = reducer;
        self
    }

    /// With one more regularizer.
    pub fn with_regularization(mut self, regularization: Regularization) -> Self {
        self.regularizations.push(regularization);
        self
    }

    /// The value of a batch, a scalar; 0 with gradient 0 where no tuple is left.
    ///
    /// # Errors
    /// What miner, loss, reducer or a regularizer return; [`Error::Config`] when the reducer leaves more than a scalar.
    /// A loss that remembers is then as it was before.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor> {
        let batch = batch.sharing();
        let tuples = self.mine(&batch)?;
        self.value(&batch, tuples.as_ref())
    }

    /// The value of a batch over given tuples (`None`: all valid ones), the miner left aside.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::Index`] for a tuple outside the batch.
    pub fn forward_with(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Tensor> {
        if let Some(tuples) = tuples {
            tuples.check(batch)?;
        }
        self.value(&batch.sharing(), tuples)
    }

    fn value(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Tensor> {
        // Reducer and regularizers may fail after the loss has taken its step.
        undone_on_error(&*self.loss, || self.step(batch, tuples))
    }

    fn step(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Tensor> {
        let mut total = match reduce(&*self.loss, batch, tuples, &*self.reducer)? {
            Some(value) if value.track_op() => batch.with_zero_of_reference(value)?,
            Some(value) => (value + batch.zero()?)?,
            // An optimizer looks for a gradient of each parameter, whatever the batch leaves.
            None => {
                self.loss.parameters().iter().try_fold(batch.zero()?, |zero, p| add_zero_of(&zero, &p.var))?
            }
        };
        for Regularization { regularizer, on, weight } in &self.regularizations {
            let rows = match on {
                RegularizedRows::Embeddings => Some(batch.embeddings().clone()),
                RegularizedRows::Weights => self.loss.class_rows()?,
            };
            let Some(rows) = rows else {
                let got = format!("`weights` for {}", name_of(&*self.loss));
                return Err(Error::config(
                    "Objective",
                    "regularizer",
                    got,
                    "`embeddings`, as it has no table",
                ));
            };
            if rows.elem_count() > 0
                && let Some(penalty) = regularizer.penalty(&rows)?
            {
                total = (total + (penalty * *weight)?)?;
            }
        }
        Ok(total)
    }

    /// The miner's tuples, `None` without a miner.
    ///
    /// # Errors
    /// What the miner returns.
    pub fn mine(&self, batch: &Batch) -> Result<Option<Tuples>> {
        self.miner.as_ref().map(|miner| miner.mine(batch)).transpose()
    }

    /// The unreduced losses over given tuples (`None`: all valid ones), each with what it belongs to: as many numbers
    /// as are asked for, n³ of them for all triplets of a batch.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with).
    pub fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if let Some(tuples) = tuples {
            tuples.check(batch)?;
        }
        self.loss.unreduced(batch, tuples)
    }

    /// All learned parameters of the loss and its distance, and of regularizers what is not among them.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = self.loss.parameters();
        for parameter in self.regularizations.iter().flat_map(|r| r.regularizer.parameters()) {
            if all.iter().all(|known| known.var.id() != parameter.var.id()) {
                all.push(parameter);
            }
        }
        all
    }

    /// As [`Loss::calibrate`].
    ///
    /// # Errors
    /// What the distance returns; nothing is set then.
    pub fn calibrate(&self, batch: &Batch) -> Result<()> {
        self.loss.calibrate(batch)
    }
}
