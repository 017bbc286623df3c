//! Self-supervision with any loss: two views of each sample are a class of their own.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{Batch, Distance, Error, Loss, Objective, Parameter, Part, Result, State, Tuples};

/// Row i of the batch and row i of its reference set become one class, and all other rows negatives.
///
/// Symmetric: both views are one batch of 2n rows, each row an anchor (so NT-Xent is that of SimCLR). Otherwise the
/// first view's rows are anchors and the second view is what they are compared with. Labels play no part, and tuples
/// cannot be given; the inner objective may have a miner. Part `loss`, one for the batch, reduced by the inner reducer.
///
/// # Distances
/// Those of the inner loss. Under a divergence each view is on both sides in turn if symmetric; otherwise the first
/// view is the anchor.
/// # Cost
/// That of the inner loss with 2n rows, or with n rows and n columns.
/// # Source
/// Chen et al. 2020 \[chen2020\], algorithm 1.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{Device, Tensor}, dml_loss::*};
/// let nt_xent = NtXent { distance: Arc::new(Cosine), temperature: Temperature::fixed(0.5)? };
/// let loss = Objective::new(Arc::new(TwoViews::new(Objective::new(Arc::new(nt_xent)))));
/// let one = Tensor::new(&[[1f64, 0.], [0., 1.]], &Device::Cpu)?;
/// let two = Tensor::eye(2, candle_core::DType::F64, &Device::Cpu)?;
/// let batch = Batch::new(&one, &[0, 0])?.with_reference(&two, &[0, 0])?;
/// // Each row: its other view at cosine 1, two negatives at cosine 0.
/// let expected = (1.0 + 2.0 * (-2f64).exp()).ln();
/// assert!((loss.forward(&batch)?.to_scalar::<f64>()? - expected).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TwoViews {
    /// What the views are given to.
    pub objective: Objective,
    /// Whether both views give anchors.
    pub symmetric: bool,
}

impl TwoViews {
    /// Symmetric.
    pub fn new(objective: Objective) -> Self {
        Self { objective, symmetric: true }
    }
}

/// The batch of both views, its labels the rows.
fn views(batch: &Batch, symmetric: bool) -> Result<Batch> {
    if !batch.has_reference() {
        let expected = "the second view, row by row (Batch::with_reference)";
        return Err(Error::config("TwoViews", "reference", "missing", expected));
    }
    let (one, two) = (batch.embeddings(), batch.columns());
    if one.dims() != two.dims() {
        let expected = format!("{:?}, the other view of each row", one.dims());
        return Err(Error::shape("TwoViews", "reference", two, expected));
    }
    let labels: Vec<i64> = (0..batch.len() as i64).collect();
    if symmetric && !batch.is_empty() {
        return Batch::new(&Tensor::cat(&[one, two], 0)?, &[&labels[..], &labels[..]].concat());
    }
    Batch::new(one, &labels)?.with_reference(two, &labels)
}

impl Loss for TwoViews {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        if tuples.is_some() {
            let expected = "none; hand the miner to the inner objective";
            return Err(Error::config("TwoViews", "tuples", "given", expected));
        }
        let views = views(batch, self.symmetric)?;
        Ok(vec![Part::whole("loss", self.objective.forward(&views)?.reshape(1)?)])
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        self.objective.loss.distance()
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        self.objective.loss.own_parameters()
    }

    fn calibrate(&self, batch: &Batch) -> Result<()> {
        self.objective.calibrate(&views(batch, self.symmetric)?)
    }

    fn state(&self) -> Result<State> {
        self.objective.loss.state()
    }

    fn load_state(&self, state: &State) -> Result<()> {
        self.objective.loss.load_state(state)
    }
}
