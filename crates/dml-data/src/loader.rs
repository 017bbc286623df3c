//! Batches as tensors.

use candle_core::{DType, Device, Tensor};

use crate::{Batches, ImageSet, Result, Sampler, SamplerState};

/// One batch.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The images, normalized: `[b, c, h, w]`.
    pub images: Tensor,
    /// Their labels, u32: `[b]`.
    pub labels: Tensor,
    /// Their indices in the set.
    pub indices: Vec<usize>,
}

/// An endless iterator of batches: what a sampler plans, cut out of a set and put on a device.
#[derive(Debug)]
pub struct Loader<'a, S> {
    set: &'a ImageSet,
    batches: Batches<S>,
    dtype: DType,
    device: Device,
}

impl<'a, S: Sampler> Loader<'a, S> {
    /// Batches of `set` as `batches` plans them.
    pub fn new(set: &'a ImageSet, batches: Batches<S>, dtype: DType, device: &Device) -> Self {
        Self { set, batches, dtype, device: device.clone() }
    }

    /// The batch that comes next; see [`Batches::resume`].
    pub fn state(&self) -> SamplerState {
        self.batches.state()
    }
}

impl<S: Sampler> Iterator for Loader<'_, S> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let indices = self.batches.next()?;
        let tensors = || {
            let images = self.set.tensor(&indices, self.dtype, &self.device)?;
            Ok((images, self.set.label_tensor(&indices, &self.device)?))
        };
        Some(tensors().map(|(images, labels)| Batch { images, labels, indices }))
    }
}
