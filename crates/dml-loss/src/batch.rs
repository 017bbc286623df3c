//! A batch: embeddings with labels, and optionally a reference set to compare them with.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::Tensor;
use dml_kernels::{PairMatrix, first_not_finite};

use crate::{
    Distance, Error, Result, distance::check_dtype, error::check_device, tensor::zeros_like, tuples::Classes,
};

/// Embeddings `[n, d]` with a label each, compared with one another or with a reference set `[m, d]`.
///
/// Invariant: as many labels as rows, equal d, and every number finite; checked once, here.
///
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::Batch};
/// let x = Tensor::new(&[[0f32, 1.], [f32::NAN, 0.]], &Device::Cpu)?;
/// let error = Batch::new(&x, &[0, 1]).unwrap_err().to_string();
/// assert!(error.starts_with("Batch::new: row 1 of `embeddings` holds NaN"), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Batch {
    embeddings: Tensor,
    labels: Vec<i64>,
    reference: Option<Reference>,
    classes: OnceLock<Arc<Classes>>,
    /// The matrices computed so far, where miner and loss share them.
    shared: Option<Arc<Mutex<Vec<Shared>>>>,
}

/// A matrix and the distance it is of, which is kept alive so that its address stays its own.
type Shared = (Arc<dyn Distance>, PairMatrix);

#[derive(Debug, Clone)]
struct Reference {
    embeddings: Tensor,
    labels: Vec<i64>,
    own: Option<Vec<u32>>,
}

impl Batch {
    /// A batch whose rows are compared with one another. It may be empty: every loss is then 0.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`] unless they are f32 or f64, [`Error::Labels`], or [`Error::NotFinite`] naming
    /// the row.
    pub fn new(embeddings: &Tensor, labels: &[i64]) -> Result<Self> {
        check("Batch::new", ("embeddings", embeddings), ("labels", labels))?;
        Ok(Self {
            embeddings: embeddings.clone(),
            labels: labels.to_vec(),
            reference: None,
            classes: OnceLock::new(),
            shared: None,
        })
    }

    /// The same batch, its rows compared with a separate reference set.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Shape`], [`Error::DType`] or [`Error::Device`] when widths, element types or
    /// devices differ.
    pub fn with_reference(mut self, embeddings: &Tensor, labels: &[i64]) -> Result<Self> {
        let op = "Batch::with_reference";
        check(op, ("ref_embeddings", embeddings), ("ref_labels", labels))?;
        let d = self.embeddings.dim(1)?;
        if embeddings.dim(1)? != d {
            return Err(Error::shape(op, "ref_embeddings", embeddings, format!("[m, {d}]")));
        }
        let (got, own) = (embeddings.dtype(), self.embeddings.dtype());
        if got != own {
            let expected = format!("{own:?} as the embeddings");
            return Err(Error::DType { op, arg: "ref_embeddings", got, expected });
        }
        let own = ("embeddings", self.embeddings.device().location());
        check_device(op, "ref_embeddings", embeddings.device().location(), own)?;
        self.reference =
            Some(Reference { embeddings: embeddings.clone(), labels: labels.to_vec(), own: None });
        self.forget();
        Ok(self)
    }

    /// States that row i of the batch is row `own[i]` of the reference set, as in a memory that the batch has
    /// entered: the two are then not compared.
    ///
    /// # Errors
    /// [`Error::Config`] without a reference set or with another length, [`Error::Index`] out of range.
    pub fn with_own_rows(mut self, own: &[u32]) -> Result<Self> {
        let op = "Batch::with_own_rows";
        let n = self.labels.len();
        let Some(reference) = &mut self.reference else {
            return Err(Error::config(op, "reference", "missing", "a reference set, given first"));
        };
        if own.len() != n {
            let got = format!("{} rows", own.len());
            return Err(Error::config(op, "own", got, format!("{n}, one a row of the batch")));
        }
        let rows = reference.labels.len();
        if let Some(position) = own.iter().position(|&row| row as usize >= rows) {
            return Err(Error::Index { op, arg: "own", position, index: own[position], rows });
        }
        reference.own = Some(own.to_vec());
        self.forget();
        Ok(self)
    }

    /// The embeddings, `[n, d]`.
    pub fn embeddings(&self) -> &Tensor {
        &self.embeddings
    }

    /// The labels of the embeddings.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The number n of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Whether a separate reference set was given.
    pub fn has_reference(&self) -> bool {
        self.reference.is_some()
    }

    /// What the rows are compared with, `[m, d]`: the reference set, or the embeddings themselves.
    pub fn columns(&self) -> &Tensor {
        self.reference.as_ref().map_or(&self.embeddings, |r| &r.embeddings)
    }

    /// The labels of [`columns`](Self::columns).
    pub fn column_labels(&self) -> &[i64] {
        self.reference.as_ref().map_or(&self.labels, |r| &r.labels)
    }

    /// Whether row i and column j are one and the same.
    pub fn is_self(&self, i: usize, j: usize) -> bool {
        match &self.reference {
            None => i == j,
            Some(r) => r.own.as_ref().is_some_and(|own| own[i] as usize == j),
        }
    }

    /// The column that is row i itself, if any.
    pub(crate) fn own_column(&self, i: usize) -> Option<usize> {
        match &self.reference {
            None => Some(i),
            Some(r) => r.own.as_ref().map(|own| own[i] as usize),
        }
    }

    /// Which columns are of which class, worked out once.
    pub(crate) fn classes(&self) -> &Arc<Classes> {
        self.classes.get_or_init(|| Arc::new(Classes::new(self)))
    }

    /// The same batch, whose matrices of pairs are computed once for all that ask for them: for the length of one
    /// step, in which no parameter of a distance changes.
    pub(crate) fn sharing(&self) -> Self {
        Self { shared: Some(Arc::default()), ..self.clone() }
    }

    /// As [`sharing`](Self::sharing) where `other` shares.
    pub(crate) fn sharing_as(self, other: &Self) -> Self {
        if other.shared.is_some() { self.sharing() } else { self }
    }

    /// Drops what was worked out from other columns.
    fn forget(&mut self) {
        self.classes = OnceLock::new();
        self.shared = self.shared.take().map(|_| Arc::default());
    }

    /// All pairs of rows and columns with the way back from their gradient.
    pub(crate) fn pairs(&self, distance: &Arc<dyn Distance>) -> Result<PairMatrix> {
        let Some(shared) = &self.shared else {
            return distance.pairs(&self.embeddings, self.columns());
        };
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let address = |d: &Arc<dyn Distance>| Arc::as_ptr(d).cast::<()>();
        if let Some((_, matrix)) = shared.iter().find(|(known, _)| address(known) == address(distance)) {
            return Ok(matrix.clone());
        }
        let matrix = distance.pairs(&self.embeddings, self.columns())?;
        shared.push((distance.clone(), matrix.clone()));
        Ok(matrix)
    }

    /// All pairs of rows and columns: `[n, m]`.
    ///
    /// # Errors
    /// As [`Distance::all_pairs`].
    pub fn all_pairs(&self, distance: &dyn Distance) -> Result<Tensor> {
        distance.all_pairs(&self.embeddings, self.columns())
    }

    /// The same batch cut from the graph, for miners.
    pub fn detach(&self) -> Self {
        let mut batch = self.clone();
        batch.embeddings = batch.embeddings.detach();
        if let Some(reference) = &mut batch.reference {
            reference.embeddings = reference.embeddings.detach();
        }
        batch
    }

    /// The embeddings have the element type of a learned tensor and lie where it lies.
    pub(crate) fn check_type(
        &self,
        op: &'static str,
        (name, learned): (&'static str, &Tensor),
    ) -> Result<()> {
        let (got, own) = (self.embeddings.dtype(), learned.dtype());
        if got != own {
            let expected = format!("{own:?} as `{name}`");
            return Err(Error::DType { op, arg: "embeddings", got, expected });
        }
        let own = (name, learned.device().location());
        check_device(op, "embeddings", self.embeddings.device().location(), own)
    }

    /// Whether nothing can be compared: no rows or no columns.
    pub(crate) fn nothing(&self) -> bool {
        self.labels.is_empty() || self.column_labels().is_empty()
    }

    /// A scalar 0 with gradient 0 for embeddings and reference set.
    pub(crate) fn zero(&self) -> Result<Tensor> {
        let zero = Tensor::zeros((), self.embeddings.dtype(), self.embeddings.device())?;
        self.with_zero_of_reference(add_zero_of(&zero, &self.embeddings)?)
    }

    /// The value plus a 0 with gradient 0 for the reference set, so that it has a gradient whatever the loss looks at.
    pub(crate) fn with_zero_of_reference(&self, value: Tensor) -> Result<Tensor> {
        match &self.reference {
            Some(reference) => add_zero_of(&value, &reference.embeddings),
            None => Ok(value),
        }
    }
}

/// The value plus a 0 with gradient 0 for `x`.
pub(crate) fn add_zero_of(value: &Tensor, x: &Tensor) -> Result<Tensor> {
    if x.elem_count() == 0 || !x.track_op() {
        return Ok(value.clone());
    }
    Ok((value + (x * zeros_like(x)?)?.sum_all()?.to_dtype(value.dtype())?)?)
}

fn check(
    op: &'static str,
    (arg, x): (&'static str, &Tensor),
    (labels_arg, labels): (&'static str, &[i64]),
) -> Result<()> {
    let (rows, d) = x.dims2().map_err(|_| Error::shape(op, arg, x, "[n, d]"))?;
    if labels.len() != rows {
        return Err(Error::Labels { op, arg: labels_arg, got: labels.len(), rows });
    }
    check_dtype(op, arg, x)?;
    if d == 0 && rows > 0 {
        return Err(Error::shape(op, arg, x, "[n, d] with at least one column"));
    }
    if x.elem_count() == 0 {
        return Ok(());
    }
    match first_not_finite(x)? {
        Some((at, value)) => Err(Error::NotFinite { op, arg, row: at / d, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn bad_batches_are_named() {
        let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let y = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
        let batch = || Batch::new(&x, &[0, 1]).unwrap();
        let cases = [
            (
                Batch::new(&x, &[0]).unwrap_err(),
                "Batch::new: `labels` holds 1 labels for 2 rows; give one label a row",
            ),
            (
                Batch::new(&x.flatten_all().unwrap(), &[0]).unwrap_err(),
                "Batch::new: `embeddings` has shape [6], expected [n, d]",
            ),
            (
                batch().with_reference(&y, &[0, 1]).unwrap_err(),
                "Batch::with_reference: `ref_embeddings` has shape [2, 4], expected [m, 3]",
            ),
            (
                batch().with_own_rows(&[0, 1]).unwrap_err(),
                "Batch::with_own_rows: `reference` is missing, expected a reference set, given first",
            ),
            (
                batch().with_reference(&x, &[0, 1]).unwrap().with_own_rows(&[0, 2]).unwrap_err(),
                "Batch::with_own_rows: entry 1 of `own` is row 2, but there are 2 rows",
            ),
        ];
        for (error, message) in cases {
            assert_eq!(error.to_string(), message);
        }
    }
}
