//! A decoded picture.

use crate::{Error, Item, Result};

/// A decoded picture, one byte a value, in the order row, column, channel (the channels of a pixel side by side).
///
/// Invariant: `height · width · channels` bytes, none of the three 0, 1 channel (grey) or 3 (red, green, blue).
///
/// # Examples
/// ```
/// use dml_data::transform::Image;
/// let image = Image::new(vec![255, 0, 0, 0, 0, 255], 1, 2, 3)?; // a red pixel and a blue one
/// assert_eq!(image.pixel(0, 1), [0, 0, 255]);
/// # Ok::<(), dml_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub(super) pixels: Vec<u8>,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl Image {
    /// An image of these bytes.
    ///
    /// # Errors
    /// [`Error::Argument`] when sizes do not match or there are neither 1 nor 3 channels.
    pub fn new(pixels: Vec<u8>, height: usize, width: usize, channels: usize) -> Result<Self> {
        let argument = |arg, got, expected: &str| {
            Err(Error::Argument { op: "Image::new", arg, got, expected: expected.to_owned() })
        };
        if channels != 1 && channels != 3 {
            return argument("channels", channels.to_string(), "1 (grey) or 3 (red, green, blue)");
        }
        let size = height.checked_mul(width).and_then(|n| n.checked_mul(channels));
        if size.is_none_or(|n| n == 0 || n != pixels.len()) {
            let got = format!("{} bytes", pixels.len());
            return argument("pixels", got, &format!("{height} × {width} × {channels} bytes, at least one"));
        }
        Ok(Self { pixels, height, width, channels })
    }

    /// The raw pixels of an item, whose order is channel, row, column.
    pub(super) fn from_planes(planes: &[u8], channels: usize, height: usize, width: usize) -> Result<Self> {
        let mut pixels = planes.to_vec();
        let plane = height * width;
        if channels == 3 && planes.len() == 3 * plane {
            let (red, rest) = planes.split_at(plane);
            let (green, blue) = rest.split_at(plane);
            for (((pixel, &r), &g), &b) in pixels.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
                pixel.copy_from_slice(&[r, g, b]);
            }
        }
        Self::new(pixels, height, width, channels)
    }

    /// The picture of an item, decoded where it is a file, and cut to its box where it has one. Files are
    /// decoded to `channels`, to colour without; raw pixels stay as they are without.
    ///
    /// # Errors
    /// As [`decode`](super::decode), and [`Error::Argument`] for a box that lies outside the picture.
    pub fn of(item: &Item<'_>, channels: Option<usize>) -> Result<Self> {
        match item {
            Item::Raw { pixels, channels: own, height, width } => {
                let image = Self::from_planes(pixels, *own, *height, *width)?;
                Ok(image.with_channels(channels.unwrap_or(*own)))
            }
            Item::Encoded { bytes, name, crop } => {
                let image = super::decode(bytes, channels.unwrap_or(3), name)?;
                let Some(bounds) = crop else { return Ok(image) };
                let (x, y) = (bounds.x as usize, bounds.y as usize);
                let height = (bounds.height as usize).min(image.height.saturating_sub(y));
                let width = (bounds.width as usize).min(image.width.saturating_sub(x));
                if height == 0 || width == 0 {
                    return Err(Error::Argument {
                        op: "Image::of",
                        arg: "crop",
                        got: format!("{bounds:?}"),
                        expected: format!("a box within the {} × {} picture", image.height, image.width),
                    });
                }
                Ok(image.cut(y, x, height, width))
            }
        }
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// 1 or 3.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// All values, in the order row, column, channel.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The channels of one pixel.
    ///
    /// # Panics
    /// Beyond the last row or column.
    pub fn pixel(&self, row: usize, column: usize) -> &[u8] {
        let start = (row * self.width + column) * self.channels;
        &self.pixels[start..start + self.channels]
    }

    /// A rectangle that lies within the image.
    pub(super) fn cut(self, top: usize, left: usize, height: usize, width: usize) -> Self {
        if (height, width) == (self.height, self.width) {
            return self;
        }
        self.clone_part(top, left, height, width)
    }

    /// A copy of a rectangle that lies within the image.
    pub(super) fn clone_part(&self, top: usize, left: usize, height: usize, width: usize) -> Self {
        let (stride, row) = (self.width * self.channels, width * self.channels);
        let mut pixels = Vec::with_capacity(height * row);
        for y in top..top + height {
            let start = y * stride + left * self.channels;
            pixels.extend_from_slice(&self.pixels[start..start + row]);
        }
        Self { pixels, height, width, channels: self.channels }
    }

    /// Grey from colour, or colour from grey, by the weights of ITU-R 601.
    pub(super) fn with_channels(self, channels: usize) -> Self {
        let pixels = match (self.channels, channels) {
            (3, 1) => self.pixels.chunks_exact(3).map(luma).collect(),
            (1, 3) => self.pixels.iter().flat_map(|&v| [v; 3]).collect(),
            _ => return self,
        };
        Self { pixels, channels, ..self }
    }

    /// Every value through a table.
    pub(super) fn map(mut self, table: &[u8; 256]) -> Self {
        self.pixels.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
        self
    }
}

/// The grey of a pixel, ITU-R 601-2: 0.299 red + 0.587 green + 0.114 blue, rounded.
pub(super) fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoundingBox;

    #[test]
    fn planes_become_pixels() -> Result<()> {
        let image = Image::from_planes(&[1, 2, 3, 4, 5, 6], 3, 1, 2)?;
        assert_eq!(image.pixels(), [1, 3, 5, 2, 4, 6]);
        assert_eq!(Image::from_planes(&[1, 2], 1, 2, 1)?.pixels(), [1, 2]);
        Ok(())
    }

    #[test]
    fn sizes_that_do_not_match_are_named() {
        let message = |n: usize, h, w, c| Image::new(vec![0; n], h, w, c).unwrap_err().to_string();
        assert_eq!(
            message(5, 1, 2, 3),
            "Image::new: `pixels` is 5 bytes, expected 1 × 2 × 3 bytes, at least one"
        );
        assert_eq!(
            message(0, 0, 2, 3),
            "Image::new: `pixels` is 0 bytes, expected 0 × 2 × 3 bytes, at least one"
        );
        assert_eq!(
            message(4, 1, 1, 4),
            "Image::new: `channels` is 4, expected 1 (grey) or 3 (red, green, blue)"
        );
        assert!(Image::new(Vec::new(), usize::MAX, 2, 3).is_err());
        let short = Item::Raw { pixels: vec![0; 5].into(), channels: 3, height: 1, width: 2 };
        assert!(Image::of(&short, None).is_err());
    }

    #[test]
    fn a_box_is_cut_to_the_picture_and_must_touch_it() -> Result<()> {
        // A 3 × 2 grey PNG of the values 0 … 5, written by the png crate.
        let mut bytes = Vec::new();
        image::ImageEncoder::write_image(
            image::codecs::png::PngEncoder::new(&mut bytes),
            &[0, 1, 2, 3, 4, 5],
            2,
            3,
            image::ExtendedColorType::L8,
        )
        .unwrap();
        let item = |x, y, width, height| Item::Encoded {
            bytes: bytes.clone().into(),
            name: "a.png".into(),
            crop: Some(BoundingBox { x, y, width, height }),
        };
        assert_eq!(Image::of(&item(1, 1, 100, 100), Some(1))?.pixels(), [3, 5]);
        assert_eq!(Image::of(&item(0, 0, 1, 3), Some(1))?.pixels(), [0, 2, 4]);
        assert!(Image::of(&item(2, 0, 1, 1), Some(1)).is_err());
        assert!(Image::of(&item(0, 0, 0, 1), Some(1)).is_err());
        Ok(())
    }
}
