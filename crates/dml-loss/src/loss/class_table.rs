//! What losses with a table of classes share: initial values, label checks, cross entropy, row weights.

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    Batch, Error, Result, Tuples,
    tensor::{entries, masked_log_sum_exp, ones_like, upload},
};

/// The size of a class table and the seed of its initial values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClassTable {
    pub owner: &'static str,
    pub classes: usize,
    pub width: usize,
    pub seed: u64,
}

impl ClassTable {
    /// One row a class, `[classes, d]`.
    pub fn rows(self, dtype: DType, device: &Device) -> Result<Var> {
        self.normal((self.classes, self.width), dtype, device)
    }

    /// `per_class` columns a class side by side, `[d, classes·per_class]`.
    pub fn columns(self, per_class: usize, dtype: DType, device: &Device) -> Result<Var> {
        self.normal((self.width, self.classes.saturating_mul(per_class)), dtype, device)
    }

    fn normal(self, shape: (usize, usize), dtype: DType, device: &Device) -> Result<Var> {
        for (field, size) in [("num_classes", self.classes), ("embedding_size", self.width)] {
            if size == 0 {
                return Err(Error::config(self.owner, field, size, "at least 1"));
            }
        }
        // As many as candle can index by u32.
        let fits = |numbers: usize| u32::try_from(numbers).is_ok();
        if !shape.0.checked_mul(shape.1).is_some_and(fits) {
            let expected = format!("a table of at most {} numbers, not {} × {}", u32::MAX, shape.0, shape.1);
            return Err(Error::config(self.owner, "num_classes", self.classes, expected));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let normal = |_| {
            // Box–Muller; 1 − u lies in (0, 1].
            let (u, v): (f64, f64) = (rng.random(), rng.random());
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let values: Vec<f64> = (0..shape.0 * shape.1).map(normal).collect();
        Ok(Var::from_tensor(&Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)?)
    }
}

/// The rows of a batch are as wide as those of a learned table, of its element type and on its device.
pub(crate) fn check_rows(
    op: &'static str,
    batch: &Batch,
    table: (&'static str, &Var),
    embedding_size: usize,
) -> Result<()> {
    let x = batch.embeddings();
    if x.dim(1)? != embedding_size {
        let expected = format!("[n, {embedding_size}], the `embedding_size` that the loss was built with");
        return Err(Error::shape(op, "embeddings", x, expected));
    }
    batch.check_type(op, (table.0, table.1))
}

/// The labels as rows of a class table.
pub(crate) fn class_ids(op: &'static str, batch: &Batch, classes: usize) -> Result<Vec<u32>> {
    let id = |(row, &label): (usize, &i64)| match usize::try_from(label) {
        Ok(class) if class < classes => Ok(class as u32),
        _ => Err(Error::Class { op, row, label, classes }),
    };
    batch.labels().iter().enumerate().map(id).collect()
}

/// −log softmax at each row's class: `[n, classes]` → `[n]`.
pub(crate) fn cross_entropy(logits: &Tensor, classes: &[u32]) -> Result<Tensor> {
    let all = ones_like(logits)?.ge(0.5)?;
    let rows: Vec<u32> = (0..classes.len() as u32).collect();
    Ok((masked_log_sum_exp(logits, &all, false)?.squeeze(1)? - entries(logits, &rows, classes)?)?)
}

/// 1 at each row's class, 0 elsewhere: `[n, classes]`.
pub(crate) fn one_hot(classes: &[u32], like: &Tensor) -> Result<Tensor> {
    let width = like.dim(1)?;
    let mut table = vec![0.0; classes.len() * width];
    for (i, &class) in classes.iter().enumerate() {
        table[i * width + class as usize] = 1.0;
    }
    upload(table, (classes.len(), width), like)
}

/// Losses of rows times the weights that given tuples mean for them.
pub(crate) fn weighted(losses: &Tensor, tuples: Option<&Tuples>, anchors_only: bool) -> Result<Tensor> {
    match tuples {
        None => Ok(losses.clone()),
        Some(tuples) => {
            let n = losses.dim(0)?;
            Ok((losses * upload(tuples.row_weights(n, anchors_only), n, losses)?)?)
        }
    }
}
