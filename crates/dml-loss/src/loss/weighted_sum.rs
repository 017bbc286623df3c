//! Weighted sums of objectives.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{
    Batch, Distance, Loss, Objective, Parameter, Part, Result, State, Tuples, loss::undone_on_error,
};

/// Σ_k w_k·objective_k, each with its own loss, distance, miner and reducer.
///
/// Given tuples go to every term, and then replace its miner. Own parameters are those of all terms, `k.` before the
/// name, one that terms share (a generator) once. Part `loss`, one for the batch. `k.` also stands before the names of
/// [`state`](Loss::state). Where one term fails, all are as they were before.
///
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let term = |margin| {
///     let config = ContrastiveConfig { pos_margin: 0.0, neg_margin: margin };
///     Objective::new(Arc::new(Contrastive { distance: Arc::new(Lp::raw(2.0)), config }))
/// };
/// let sum = WeightedSum { terms: vec![(1.0, term(1.0)), (0.5, term(3.0))] };
/// let x = Tensor::new(&[[0f32], [1.]], &Device::Cpu)?;
/// let value = Objective::new(Arc::new(sum)).forward(&Batch::new(&x, &[0, 1])?)?;
/// assert_eq!(value.to_scalar::<f32>()?, 0.5 * 2.0);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct WeightedSum {
    /// Weights and objectives.
    pub terms: Vec<(f64, Objective)>,
}

impl WeightedSum {
    fn value(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Tensor> {
        let mut total = batch.zero()?;
        for (weight, objective) in &self.terms {
            let value = match tuples {
                Some(tuples) => objective.forward_with(batch, Some(tuples))?,
                None => objective.forward(batch)?,
            };
            total = (total + (value * *weight)?)?;
        }
        Ok(total.reshape(1)?)
    }
}

impl Loss for WeightedSum {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let value = undone_on_error(self, || self.value(batch, tuples))?;
        Ok(vec![Part::whole("loss", value)])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        None
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        let mut all: Vec<Parameter> = Vec::new();
        for (k, (_, objective)) in self.terms.iter().enumerate() {
            for parameter in objective.parameters() {
                if all.iter().all(|known| known.var.id() != parameter.var.id()) {
                    all.push(Parameter { name: format!("{k}.{}", parameter.name), ..parameter });
                }
            }
        }
        all
    }

    fn calibrate(&self, batch: &Batch) -> Result<()> {
        let own = self.own_parameters();
        let before: Vec<Tensor> =
            own.iter().map(|p| p.var.as_detached_tensor().copy()).collect::<candle_core::Result<_>>()?;
        let outcome = self.terms.iter().try_for_each(|(_, objective)| objective.calibrate(batch));
        if outcome.is_err() {
            own.iter().zip(&before).try_for_each(|(p, before)| p.var.set(before))?;
        }
        outcome
    }

    fn state(&self) -> Result<State> {
        let mut state = State::new();
        for (k, (_, objective)) in self.terms.iter().enumerate() {
            let own = objective.loss.state()?;
            state.extend(own.into_iter().map(|(name, tensor)| (format!("{k}.{name}"), tensor)));
        }
        Ok(state)
    }

    fn load_state(&self, state: &State) -> Result<()> {
        let losses = || self.terms.iter().map(|(_, objective)| &*objective.loss);
        let before: Vec<State> = losses().map(|loss| loss.state()).collect::<Result<_>>()?;
        for (k, loss) in losses().enumerate() {
            let prefix = format!("{k}.");
            let own = state.iter().filter_map(|(name, tensor)| {
                name.strip_prefix(&prefix).map(|name| (name.to_owned(), tensor.clone()))
            });
            if let Err(error) = loss.load_state(&own.collect()) {
                losses().zip(&before).take(k).try_for_each(|(loss, before)| loss.load_state(before))?;
                return Err(error);
            }
        }
        Ok(())
    }
}
