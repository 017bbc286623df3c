//! Resizing with a filter that grows with the reduction, so that nothing aliases.
//!
//! `out(x) = Σ_i w((i + ½ − c(x)) / s) · in(i) / Σ w`, with the center c(x) = (x + ½) · s', the scale
//! s' = in / out and s = max(s', 1): first along rows, then along columns, each rounded to bytes.

use std::cell::RefCell;

use fast_image_resize::images::{Image as Target, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Image, Transform, check};
use crate::{Error, Result};

/// The kernel w of a resize.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// The triangle, 1 − |t| on |t| < 1.
    #[default]
    Bilinear,
    /// Keys' cubic with a = −½ \[keys1981\] on |t| < 2.
    Bicubic,
}

/// What to resize to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// The shorter side; the other keeps the proportions, rounded down.
    Shorter(usize),
    /// Exactly `[height, width]`.
    Exact([usize; 2]),
}

/// Resizes; agrees with PIL, and with torchvision's antialiased resize, to one step of 255 (bicubic: two, at few pixels).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// What to resize to.
    pub size: Size,
    /// The kernel.
    #[serde(default)]
    pub filter: Filter,
}

impl Transform for Resize {
    fn apply(&self, image: Image, _: &mut ChaCha8Rng) -> Result<Image> {
        let (h, w) = (image.height(), image.width());
        let [height, width] = match self.size {
            Size::Exact(size) => size,
            Size::Shorter(size) if h <= w => [size, (size * w / h).max(1)],
            Size::Shorter(size) => [(size * h / w).max(1), size],
        };
        resize(&image, [0, 0, h, w], [height, width], self.filter)
    }

    fn is_random(&self) -> bool {
        false
    }

    fn check(&self) -> Result<()> {
        let sides = match self.size {
            Size::Shorter(size) => [size; 2],
            Size::Exact(sides) => sides,
        };
        check_sides("Resize", sides)
    }
}

/// The largest side that is resized or cropped to.
const MOST: usize = 1 << 14;

pub(super) fn check_sides(op: &'static str, sides: [usize; 2]) -> Result<()> {
    let ok = sides.iter().all(|side| (1..=MOST).contains(side));
    check(op, "size", ok, || format!("{sides:?}"), &format!("sides of 1 to {MOST} pixels"))
}

thread_local! {
    /// Its buffers serve the next picture.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// The part `[top, left, height, width]` of an image, resized to `[height, width]`. Nothing outside the part is seen.
pub(super) fn resize(image: &Image, part: [usize; 4], to: [usize; 2], filter: Filter) -> Result<Image> {
    let [top, left, height, width] = part;
    let cut;
    let source = if (height, width) == (image.height, image.width) {
        image
    } else {
        cut = image.clone_part(top, left, height, width);
        &cut
    };
    if to == [height, width] {
        return Ok(source.clone());
    }
    // Rows first and then columns, as PIL does for most sizes: rounding between the two depends on the order.
    let narrow;
    let source = if to[1] == width {
        source
    } else {
        narrow = convolve(source, [height, to[1]], filter)?;
        &narrow
    };
    if to[0] == height { Ok(source.clone()) } else { convolve(source, to, filter) }
}

fn convolve(source: &Image, [height, width]: [usize; 2], filter: Filter) -> Result<Image> {
    let kind = if source.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let filter = match filter {
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    let failed = |why: String| Error::Argument {
        op: "resize",
        arg: "image",
        got: format!("{} × {} to {height} × {width}: {why}", source.height, source.width),
        expected: "sizes that can be resized".to_owned(),
    };
    let view = ImageRef::new(source.width as u32, source.height as u32, &source.pixels, kind)
        .map_err(|e| failed(e.to_string()))?;
    let mut target = Target::new(width as u32, height as u32, kind);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    RESIZER
        .with_borrow_mut(|resizer| resizer.resize(&view, &mut target, &options))
        .map_err(|e| failed(e.to_string()))?;
    Image::new(target.into_vec(), height, width, source.channels)
}
