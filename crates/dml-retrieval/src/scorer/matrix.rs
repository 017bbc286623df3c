//! A ready matrix of scores.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::{Closer, Scorer};
use crate::{Error, Result};

/// Scores computed elsewhere: `[n, m]`, row i belonging to query i.
#[derive(Debug, Clone)]
pub struct Matrix {
    scores: Tensor, // [n, m], f32 or f64
    closer: Closer,
}

impl Matrix {
    /// `scores` `[n, m]` of f32 or f64, on any device.
    ///
    /// # Errors
    /// [`Error::Shape`] for another rank, [`Error::DType`] for another type.
    /// # Examples
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use dml_retrieval::{Closer, Gallery, Matrix, k_nearest};
    /// let cosine = Tensor::new(&[[0.1f32, 0.9, 0.3]], &Device::Cpu)?;
    /// let scorer = Matrix::new(&cosine, Closer::Larger)?;
    /// assert_eq!(k_nearest(&scorer, 2, Gallery::Separate)?.indices(0), [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(scores: &Tensor, closer: Closer) -> Result<Self> {
        let (op, arg) = ("Matrix::new", "scores");
        if scores.rank() != 2 {
            return Err(Error::Shape { op, arg, got: scores.dims().to_vec(), expected: "[n, m]".to_owned() });
        }
        if !matches!(scores.dtype(), DType::F32 | DType::F64) {
            return Err(Error::DType { op, arg, got: scores.dtype() });
        }
        Ok(Self { scores: scores.detach(), closer })
    }
}

impl Scorer for Matrix {
    fn dims(&self) -> (usize, usize) {
        (self.scores.dims()[0], self.scores.dims()[1])
    }

    fn closer(&self) -> Closer {
        self.closer
    }

    fn block(&self, rows: Range<usize>) -> Result<Tensor> {
        Ok(self.scores.narrow(0, rows.start, rows.len())?)
    }
}
