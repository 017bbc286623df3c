//! A list of transforms between a set's item and the batch.

use std::sync::Arc;

use candle_core::WithDType;
use rand_chacha::ChaCha8Rng;

use super::{Image, Transform};
use crate::{Error, Item, Normalization, Result};

/// Decode, transform, normalize.
///
/// The transforms work on bytes, in their order. The last step is always the normalization to
/// (p / 255 − mean) / std, computed in f64 for each of the 256 values and rounded once.
///
/// # Examples
/// ```
/// use dml_data::transform::{Pipeline, draw_rng};
/// let pipeline = Pipeline::from_toml(
///     r#"
///     [[transform]]
///     name = "resize"
///     size = 256
///     filter = "bicubic"
///
///     [[transform]]
///     name = "random-crop"
///     size = [224, 224]
///
///     [[transform]]
///     name = "horizontal-flip"
///
///     [normalize]
///     mean = [0.485, 0.456, 0.406]
///     std = [0.229, 0.224, 0.225]
///     "#,
/// )?;
/// let item = dml_data::Item::Raw { pixels: vec![0; 3 * 300 * 400].into(), channels: 3, height: 300, width: 400 };
/// let image = pipeline.apply(&item, &mut draw_rng(42, 0, 0, 0, 0))?;
/// assert_eq!((image.height(), image.width(), image.channels()), (224, 224, 3));
/// # Ok::<(), dml_data::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Pipeline {
    channels: Option<usize>,
    transforms: Vec<Arc<dyn Transform>>,
    normalization: Option<Normalization>,
}

impl Pipeline {
    /// These transforms in this order.
    ///
    /// # Errors
    /// [`Error::Argument`] for settings that make no sense.
    pub fn new(transforms: Vec<Arc<dyn Transform>>) -> Result<Self> {
        transforms.iter().try_for_each(|transform| transform.check())?;
        Ok(Self { transforms, ..Self::default() })
    }

    /// A pipeline written in TOML; [`PipelineSpec`](super::PipelineSpec) tells the names.
    ///
    /// # Errors
    /// [`Error::Argument`] says what is unknown or makes no sense.
    pub fn from_toml(text: &str) -> Result<Self> {
        let spec: super::PipelineSpec = toml::from_str(text).map_err(|e| Error::Argument {
            op: "Pipeline::from_toml",
            arg: "text",
            got: format!("not a pipeline: {}", e.to_string().trim_end()),
            expected: "tables [[transform]] with a `name`, and [normalize] with `mean` and `std`".to_owned(),
        })?;
        spec.build()
    }

    /// The same with images of 1 channel (grey) or 3 (red, green, blue), whatever the files hold. Without it files
    /// are read in colour and raw pixels as they are.
    ///
    /// # Errors
    /// [`Error::Argument`] for other numbers.
    pub fn with_channels(mut self, channels: usize) -> Result<Self> {
        let expected = "1 (grey) or 3 (red, green, blue)";
        super::check(
            "Pipeline::with_channels",
            "channels",
            [1, 3].contains(&channels),
            || channels.to_string(),
            expected,
        )?;
        self.channels = Some(channels);
        Ok(self)
    }

    /// The same with this normalization; without one, pixels are scaled to 0 … 1.
    pub fn with_normalization(mut self, normalization: Normalization) -> Self {
        self.normalization = Some(normalization);
        self
    }

    /// What the last step subtracts and divides by, if it was set.
    pub fn normalization(&self) -> Option<&Normalization> {
        self.normalization.as_ref()
    }

    /// Whether an image may come out differently in another epoch.
    pub fn is_random(&self) -> bool {
        self.transforms.iter().any(|transform| transform.is_random())
    }

    /// Whether pixels are normalized only: raw ones reach the batch as they are kept.
    pub fn is_plain(&self) -> bool {
        self.transforms.is_empty() && self.channels.is_none()
    }

    /// The image of an item after all transforms, before normalization.
    ///
    /// # Errors
    /// As [`Image::of`], and what the transforms return.
    pub fn apply(&self, item: &Item<'_>, rng: &mut ChaCha8Rng) -> Result<Image> {
        let image = Image::of(item, self.channels)?;
        self.transforms.iter().try_fold(image, |image, transform| transform.apply(image, rng))
    }

    /// The pixels of `item`, if they reach the batch as they are kept: `(pixels, [c, h, w])`.
    pub(crate) fn untouched<'a>(&self, item: &'a Item<'_>) -> Option<(&'a [u8], [usize; 3])> {
        match item {
            Item::Raw { pixels, channels, height, width }
                if self.transforms.is_empty()
                    && self.channels.is_none_or(|wanted| wanted == *channels)
                    && channels.checked_mul(*height).and_then(|n| n.checked_mul(*width))
                        == Some(pixels.len()) =>
            {
                Some((pixels, [*channels, *height, *width]))
            }
            _ => None,
        }
    }

    /// What each value of each channel becomes.
    ///
    /// # Errors
    /// [`Error::Argument`] when the normalization is for another number of channels.
    pub(crate) fn tables<T: WithDType>(&self, channels: usize) -> Result<Tables<T>> {
        let (zeros, ones) = (vec![0.0; channels], vec![1.0; channels]);
        let (mean, std) =
            self.normalization.as_ref().map_or((&zeros[..], &ones[..]), |n| (n.mean(), n.std()));
        if mean.len() != channels {
            return Err(Error::Argument {
                op: "Pipeline",
                arg: "normalization",
                got: format!("for {} channel(s)", mean.len()),
                expected: format!("one for {channels}, as the images have"),
            });
        }
        let table =
            |(mean, std): (&f64, &f64)| std::array::from_fn(|p| T::from_f64((p as f64 / 255.0 - mean) / std));
        Ok(Tables(mean.iter().zip(std).map(table).collect()))
    }
}

impl From<&crate::ImageSet> for Pipeline {
    /// No transforms, and the set's normalization.
    fn from(set: &crate::ImageSet) -> Self {
        Self::default().with_normalization(set.normalization().clone())
    }
}

/// A table for each channel.
#[derive(Debug, Clone)]
pub(crate) struct Tables<T>(Vec<[T; 256]>);

impl<T: Copy> Tables<T> {
    /// Planes to planes; as many values as `out` has.
    pub fn planes(&self, planes: &[u8], out: &mut [T]) {
        let plane = (planes.len() / self.0.len()).max(1);
        for ((table, from), to) in
            self.0.iter().zip(planes.chunks_exact(plane)).zip(out.chunks_exact_mut(plane))
        {
            for (value, &p) in to.iter_mut().zip(from) {
                *value = table[usize::from(p)];
            }
        }
    }

    /// Pixels, whose channels lie side by side, to planes.
    pub fn pixels(&self, image: &Image, out: &mut [T]) {
        let [red, green, blue] = &self.0[..] else { return self.planes(image.pixels(), out) };
        let plane = image.pixels().len() / 3;
        let (first, rest) = out.split_at_mut(plane);
        let (second, third) = rest.split_at_mut(plane);
        let pixels = image.pixels().as_chunks::<3>().0;
        for (((&[r, g, b], x), y), z) in pixels.iter().zip(first).zip(second).zip(third) {
            (*x, *y, *z) = (red[usize::from(r)], green[usize::from(g)], blue[usize::from(b)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::{CenterCrop, HorizontalFlip, draw_rng};

    #[test]
    fn values_are_normalized_channel_by_channel_from_planes_and_from_pixels() -> Result<()> {
        let normalization = Normalization::new(vec![0.0, 0.5, 1.0], vec![1.0, 0.5, 0.25])?;
        let pipeline = Pipeline::default().with_normalization(normalization);
        let item =
            Item::Raw { pixels: vec![0, 255, 0, 255, 0, 255].into(), channels: 3, height: 1, width: 2 };
        let tables = pipeline.tables::<f64>(3)?;
        let (mut planes, mut pixels) = ([9.0; 6], [9.0; 6]);
        tables.planes(pipeline.untouched(&item).unwrap().0, &mut planes);
        tables.pixels(&Image::of(&item, None)?, &mut pixels);
        assert_eq!(planes, [0.0, 1.0, -1.0, 1.0, -4.0, 0.0]);
        assert_eq!(planes, pixels);
        let message = pipeline.tables::<f32>(1).unwrap_err().to_string();
        assert_eq!(
            message,
            "Pipeline: `normalization` is for 3 channel(s), expected one for 1, as the images have"
        );
        Ok(())
    }

    #[test]
    fn transforms_run_in_their_order_and_are_checked() -> Result<()> {
        let item = Item::Raw { pixels: vec![1, 2, 3, 4].into(), channels: 1, height: 1, width: 4 };
        let crop = || Arc::new(CenterCrop { size: [1, 2] }) as Arc<dyn Transform>;
        let flip = |p| Arc::new(HorizontalFlip { p }) as Arc<dyn Transform>;
        let pipeline = Pipeline::new(vec![flip(1.0), crop()])?;
        assert_eq!(pipeline.apply(&item, &mut draw_rng(0, 0, 0, 0, 0))?.pixels(), [3, 2]);
        assert!(pipeline.is_random() && !Pipeline::new(vec![crop()])?.is_random());
        assert!(Pipeline::default().is_plain() && !pipeline.is_plain());
        assert!(pipeline.untouched(&item).is_none());
        assert!(Pipeline::new(vec![flip(2.0)]).is_err());
        let colored = Pipeline::default().with_channels(3)?;
        assert_eq!(colored.apply(&item, &mut draw_rng(0, 0, 0, 0, 0))?.pixels()[..6], [1, 1, 1, 2, 2, 2]);
        assert!(Pipeline::default().with_channels(2).is_err());
        Ok(())
    }
}
