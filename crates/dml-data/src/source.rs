//! Sets whose pixels are read on demand: what a loader needs to know of any set, small or large.
//!
//! [`ImageSet`](crate::ImageSet) holds small images decoded in memory; sets of JPEG files stay on disk and give
//! the bytes of one file at a time. Both are a [`Source`].

use std::borrow::Cow;

use crate::Result;

/// One image of a set, as it is kept: raw pixels, or a file that is not decoded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<'a> {
    /// Pixels, one byte a value, in the order channel, row, column.
    Raw {
        /// `channels · height · width` bytes.
        pixels: Cow<'a, [u8]>,
        /// 1 for grey, 3 for red, green, blue.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// A PNG or JPEG file.
    Encoded {
        /// The file's bytes.
        bytes: Cow<'a, [u8]>,
        /// The file, or archive and member; for messages.
        name: String,
        /// The part of the picture that shows the object, where the set says so.
        crop: Option<BoundingBox>,
    },
}

/// A rectangle within a picture, in whole pixels; the origin is the upper left corner. It may reach beyond the
/// picture, as some published annotations do: cut it to the picture before use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundingBox {
    /// The first column.
    pub x: u32,
    /// The first row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// A labelled set of images that are read on demand, from several threads at once.
///
/// # Examples
/// ```
/// use dml_data::{Item, Source, bundled};
/// let digits = bundled::mnist_5k()?;
/// let set: &dyn Source = &digits;
/// assert_eq!((set.len(), set.labels()[500], set.groups()), (5000, 1, None));
/// let Item::Raw { pixels, channels: 1, height: 28, width: 28 } = set.item(500)? else { panic!() };
/// assert_eq!(pixels[158], 124);
/// # Ok::<(), dml_data::Error>(())
/// ```
pub trait Source: Send + Sync + std::fmt::Debug {
    /// The number of images.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels, one an image: indices into [`class_names`](Self::class_names).
    fn labels(&self) -> &[i64];

    /// The names of the classes.
    fn class_names(&self) -> &[String];

    /// What each image's class belongs to, one an image, where the set has such a level above its classes:
    /// super-classes, alphabets.
    fn groups(&self) -> Option<&[i64]> {
        None
    }

    /// Image `index`, as it is kept.
    ///
    /// # Errors
    /// [`Error::Index`](crate::Error::Index) beyond the end; an error that names the file when it cannot be read.
    fn item(&self, index: usize) -> Result<Item<'_>>;
}
