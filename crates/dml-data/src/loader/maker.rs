//! One batch, made: read, transformed, normalized into one buffer.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor, WithDType};

use super::Batch;
use super::plan::Job;
use crate::transform::{Tables, Views, draw_rng};
use crate::{Error, Item, Result, SamplerState, Source};

/// What turns a plan into pixels.
#[derive(Debug)]
pub(super) struct Maker {
    pub source: Arc<dyn Source>,
    pub views: Views,
    pub seed: u64,
    /// f64 instead of f32.
    pub double: bool,
}

/// A batch in memory.
pub(super) struct Made {
    values: Values,
    shape: [usize; 4],
    labels: Vec<i64>,
    indices: Vec<usize>,
    pub after: SamplerState,
}

enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Made {
    /// The buffers as tensors; nothing is copied on the CPU.
    pub fn into_batch(self, dtype: DType, device: &Device) -> Result<Batch> {
        let images = match self.values {
            Values::F32(values) => Tensor::from_vec(values, &self.shape, device)?,
            Values::F64(values) => Tensor::from_vec(values, &self.shape, device)?,
        };
        let rows = self.labels.len();
        let labels = Tensor::from_vec(self.labels, rows, device)?;
        Ok(Batch { images: images.to_dtype(dtype)?, labels, indices: self.indices })
    }
}

impl Maker {
    /// Makes a batch; `stop` ends it early, with an error that nobody sees.
    pub fn make(&self, job: &Job, stop: &AtomicBool) -> Result<Made> {
        let (values, [c, h, w]) = if self.double {
            let (values, shape) = self.fill(job, stop)?;
            (Values::F64(values), shape)
        } else {
            let (values, shape) = self.fill(job, stop)?;
            (Values::F32(values), shape)
        };
        let views = self.views.len();
        let rows = views * job.indices.len();
        let mut labels = Vec::with_capacity(rows);
        for (position, &index) in job.indices.iter().enumerate() {
            let len = self.source.labels().len();
            let label = self.source.labels().get(index);
            labels.push(*label.ok_or(Error::Index { op: "Loader", position, index, len })?);
        }
        Ok(Made {
            values,
            shape: [rows, c, h, w],
            labels: labels.repeat(views),
            indices: job.indices.repeat(views),
            after: job.after,
        })
    }

    /// All rows, and the shape of each.
    fn fill<T: WithDType>(&self, job: &Job, stop: &AtomicBool) -> Result<(Vec<T>, [usize; 3])> {
        let views = self.views.len();
        let mut batch = Rows { values: Vec::new(), shape: [0; 3], tables: vec![None; views] };
        for (position, &index) in job.indices.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Err(empty("a batch that was given up"));
            }
            let repeat = job.repeats.get(position).copied().unwrap_or(0);
            let mut name = "not read yet".to_owned();
            let one = AssertUnwindSafe(|| -> Result<()> {
                let item = self.source.item(index)?;
                if let Item::Encoded { name: file, .. } = &item {
                    name.clone_from(file);
                } else {
                    name.clear();
                }
                (0..views).try_for_each(|view| {
                    let row = view * job.indices.len() + position;
                    self.add(&item, [index, repeat as usize, view], job, row, &mut batch)
                })
            });
            match catch_unwind(one) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(about(index, &name, error)),
                Err(panic) => return Err(panicked(index, or_raw(&name), &*panic)),
            }
        }
        if job.indices.is_empty() { Err(empty("an empty batch")) } else { Ok((batch.values, batch.shape)) }
    }

    /// Writes a view of an image into a row.
    fn add<T: WithDType>(
        &self,
        item: &Item<'_>,
        [index, repeat, view]: [usize; 3],
        job: &Job,
        row: usize,
        batch: &mut Rows<T>,
    ) -> Result<()> {
        let pipeline = &self.views.pipelines()[view];
        let rows = self.views.len() * job.indices.len();
        if let Some((pixels, shape)) = pipeline.untouched(item) {
            let (tables, out) = batch.row(row, rows, shape, view, || pipeline.tables(shape[0]))?;
            tables.planes(pixels, out);
            return Ok(());
        }
        let mut rng = draw_rng(self.seed, job.epoch, index, repeat as u32, view as u32);
        let image = pipeline.apply(item, &mut rng)?;
        let shape = [image.channels(), image.height(), image.width()];
        let (tables, out) = batch.row(row, rows, shape, view, || pipeline.tables(shape[0]))?;
        tables.pixels(&image, out);
        Ok(())
    }
}

/// The buffer of a batch in the making.
struct Rows<T> {
    values: Vec<T>,
    /// `[c, h, w]` of the first image; all must have it.
    shape: [usize; 3],
    /// The tables of each view, once it was met.
    tables: Vec<Option<Tables<T>>>,
}

impl<T: WithDType> Rows<T> {
    /// The tables of a view and the place of a row.
    fn row(
        &mut self,
        row: usize,
        rows: usize,
        shape: [usize; 3],
        view: usize,
        tables: impl FnOnce() -> Result<Tables<T>>,
    ) -> Result<(&Tables<T>, &mut [T])> {
        let size: usize = shape.iter().product();
        if self.values.is_empty() {
            self.shape = shape;
            self.values = vec![T::zero(); rows * size];
        }
        if shape != self.shape {
            let sides = |[c, h, w]: [usize; 3]| format!("{c} × {h} × {w}");
            return Err(Error::Argument {
                op: "Loader",
                arg: "image",
                got: format!("{} after its transforms", sides(shape)),
                expected: format!(
                    "{} like the first of its batch; let the pipeline end with a resize or crop to one size",
                    sides(self.shape)
                ),
            });
        }
        let slot = &mut self.tables[view];
        let tables = match slot {
            Some(tables) => tables,
            None => slot.insert(tables()?),
        };
        Ok((tables, &mut self.values[row * size..(row + 1) * size]))
    }
}

fn empty(got: &str) -> Error {
    let expected = "at least one index".to_owned();
    Error::Argument { op: "Loader", arg: "indices", got: got.to_owned(), expected }
}

fn or_raw(name: &str) -> &str {
    if name.is_empty() { "raw pixels" } else { name }
}

/// The error with the image's name, unless it says what it is about.
fn about(index: usize, name: &str, error: Error) -> Error {
    match error {
        Error::Argument { .. } => {
            Error::Image { index, name: or_raw(name).to_owned(), source: Box::new(error) }
        }
        named => named,
    }
}

/// What a caught panic said, as an error.
pub(super) fn panicked(index: usize, name: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::Panicked { index, name: name.to_owned(), message }
}
