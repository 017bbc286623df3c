//! Transforms: what is done to a picture between its file and the batch.
//!
//! A [`Pipeline`] decodes, applies a list of [`Transform`]s to the bytes, and normalizes into the batch. What is
//! random in it is a function of (seed, epoch, index), never of a thread: see [`draw_rng`].

mod affine;
mod color;
mod crop;
mod decode;
mod erasing;
mod flip;
mod gaussian_blur;
mod image;
mod pipeline;
mod rand_augment;
mod resize;
mod spec;
mod tone;
mod views;

pub use color::{ColorJitter, Grayscale};
pub use crop::{CenterCrop, RandomCrop, RandomResizedCrop};
pub use decode::decode;
pub use erasing::{Fill, RandomErasing};
pub use flip::{HorizontalFlip, VerticalFlip};
pub use gaussian_blur::GaussianBlur;
pub use image::Image;
pub use pipeline::Pipeline;
pub(crate) use pipeline::Tables;
pub use rand_augment::RandAugment;
pub use resize::{Filter, Resize, Size};
pub use spec::{NormalizeSpec, PipelineSpec, TransformSpec};
pub use views::Views;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// One step of a [`Pipeline`], from image to image.
pub trait Transform: std::fmt::Debug + Send + Sync {
    /// The image after this step. What is drawn is drawn from `rng` alone.
    ///
    /// # Errors
    /// [`Error::Argument`] for an image that the step cannot take, e.g. one smaller than the crop.
    fn apply(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image>;

    /// Whether it draws from `rng`. Pipelines without such a step never make a generator.
    fn is_random(&self) -> bool;

    /// Whether the settings make sense; asked once, when a pipeline is built.
    ///
    /// # Errors
    /// [`Error::Argument`] names the setting.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The generator of one view of one image of one epoch: the five numbers are its key, so that a picture is
/// augmented alike whatever thread works on it, and differently each time it is dealt.
///
/// `repeat` counts how often the epoch has dealt this image before: 0 unless a sampler repeats images.
pub fn draw_rng(seed: u64, epoch: u64, index: usize, repeat: u32, view: u32) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..24].copy_from_slice(&(index as u64).to_le_bytes());
    key[24..28].copy_from_slice(&repeat.to_le_bytes());
    key[28..].copy_from_slice(&view.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// [`Error::Argument`] unless `p` is a probability.
pub(crate) fn check_probability(op: &'static str, p: f64) -> Result<()> {
    check(op, "p", (0.0..=1.0).contains(&p), || p.to_string(), "a probability, 0 to 1")
}

/// [`Error::Argument`] unless `ok`.
pub(crate) fn check(
    op: &'static str,
    arg: &'static str,
    ok: bool,
    got: impl FnOnce() -> String,
    expected: &str,
) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Argument { op, arg, got: got(), expected: expected.to_owned() }) }
}
