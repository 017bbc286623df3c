//! Small sets of files, decoded once and kept as bytes.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::transform::{Image, Pipeline, draw_rng};
use crate::{Error, Item, Result, Source};

/// A source whose files were decoded, and brought to their size, once: later epochs only copy bytes.
///
/// For sets of files that fit in memory at the size they are trained at; others are read anew each time, which needs
/// no decision: give the [`Loader`](super::Loader) the source itself.
pub struct Decoded {
    images: Vec<Image>,
    labels: Vec<i64>,
    class_names: Vec<String>,
    groups: Option<Vec<i64>>,
}

impl std::fmt::Debug for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoded").field("images", &self.images.len()).finish_non_exhaustive()
    }
}

impl Decoded {
    /// All images of `source` after `pipeline`, whose normalization plays no part, on `threads` threads.
    ///
    /// # Errors
    /// [`Error::Argument`] for a pipeline that is random, or when the images take more than `most_bytes`; what the
    /// source and the transforms return.
    pub fn new(source: &dyn Source, pipeline: &Pipeline, most_bytes: usize, threads: usize) -> Result<Self> {
        let argument = |arg, got: String, expected: String| {
            Err(Error::Argument { op: "Decoded::new", arg, got, expected })
        };
        if pipeline.is_random() {
            let expected = "steps that do the same every time; give those that draw to the loader";
            return argument("pipeline", "random".to_owned(), expected.to_owned());
        }
        let (next, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let slots: Vec<Mutex<Option<Result<Image>>>> = (0..source.len()).map(|_| Mutex::new(None)).collect();
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(slot) = slots.get(index) else { return };
                let image = decode(source, pipeline, index);
                let size = image.as_ref().map_or(most_bytes, |image| image.pixels().len());
                let enough = bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size) > most_bytes;
                let failed = image.is_err();
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(image);
                if enough || failed {
                    next.fetch_add(slots.len(), Ordering::Relaxed); // nobody goes on
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.max(1) {
                scope.spawn(work);
            }
            work();
        });
        let mut images = Vec::with_capacity(slots.len());
        let mut missing = false;
        for slot in slots {
            match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(image) => images.push(image?),
                None => missing = true,
            }
        }
        if missing || bytes.into_inner() > most_bytes {
            let expected =
                format!("images of at most {most_bytes} bytes altogether; read them on demand instead");
            return argument("source", format!("of {} images", source.len()), expected);
        }
        let (labels, class_names) = (source.labels().to_vec(), source.class_names().to_vec());
        Ok(Self { images, labels, class_names, groups: source.groups().map(<[i64]>::to_vec) })
    }
}

fn decode(source: &dyn Source, pipeline: &Pipeline, index: usize) -> Result<Image> {
    let item = source.item(index)?;
    let image = pipeline.apply(&item, &mut draw_rng(0, 0, index, 0, 0))?;
    let plane = image.height() * image.width();
    // Kept in the order of items: channel, row, column.
    let planes = (0..image.channels()).flat_map(|c| (0..plane).map(move |i| (c, i)));
    let pixels = planes.map(|(c, i)| image.pixels()[i * image.channels() + c]).collect();
    Image::new(pixels, image.height(), image.width(), image.channels())
}

impl Source for Decoded {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn groups(&self) -> Option<&[i64]> {
        self.groups.as_deref()
    }

    fn item(&self, index: usize) -> Result<Item<'_>> {
        let len = self.images.len();
        let image = self.images.get(index);
        let image = image.ok_or(Error::Index { op: "Decoded::item", position: 0, index, len })?;
        Ok(Item::Raw {
            pixels: Cow::Borrowed(image.pixels()),
            channels: image.channels(),
            height: image.height(),
            width: image.width(),
        })
    }
}
