//! Crops: the center, anywhere, anywhere of any size.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::resize::{Filter, check_sides, resize};
use super::{Image, Transform, check};
use crate::{Error, Result};

fn too_small(op: &'static str, image: &Image, size: [usize; 2]) -> Error {
    Error::Argument {
        op,
        arg: "image",
        got: format!("{} × {}", image.height(), image.width()),
        expected: format!("at least {} × {}; put a resize before it", size[0], size[1]),
    }
}

/// The middle `[height, width]` of an image; an odd margin is split by rounding half to even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CenterCrop {
    /// `[height, width]`.
    pub size: [usize; 2],
}

impl Transform for CenterCrop {
    fn apply(&self, image: Image, _: &mut ChaCha8Rng) -> Result<Image> {
        let [height, width] = self.size;
        if image.height() < height || image.width() < width {
            return Err(too_small("CenterCrop", &image, self.size));
        }
        let half = |margin: usize| (margin as f64 / 2.0).round_ties_even() as usize;
        let (top, left) = (half(image.height() - height), half(image.width() - width));
        Ok(image.cut(top, left, height, width))
    }

    fn is_random(&self) -> bool {
        false
    }

    fn check(&self) -> Result<()> {
        check_sides("CenterCrop", self.size)
    }
}

/// A part `[height, width]` whose place is uniform among all places, after a border of `padding` zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomCrop {
    /// `[height, width]`.
    pub size: [usize; 2],
    /// Zeros put on every side before.
    #[serde(default)]
    pub padding: usize,
}

impl Transform for RandomCrop {
    fn apply(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        let ([height, width], p) = (self.size, self.padding);
        let (rows, columns) = (image.height() + 2 * p, image.width() + 2 * p);
        if rows < height || columns < width {
            return Err(too_small(
                "RandomCrop",
                &image,
                [height.saturating_sub(2 * p), width.saturating_sub(2 * p)],
            ));
        }
        let (top, left) = (rng.random_range(0..=rows - height), rng.random_range(0..=columns - width));
        if p == 0 {
            return Ok(image.cut(top, left, height, width));
        }
        // The part of the image that lies in the crop, and where it lies there.
        let c = image.channels();
        let mut pixels = vec![0; height * width * c];
        let (first, last) = (left.max(p), (left + width).min(p + image.width()));
        for row in top.max(p)..(top + height).min(p + image.height()) {
            if first < last {
                let from = ((row - p) * image.width() + first - p) * c;
                let to = ((row - top) * width + first - left) * c;
                let n = (last - first) * c;
                pixels[to..to + n].copy_from_slice(&image.pixels()[from..from + n]);
            }
        }
        Image::new(pixels, height, width, c)
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_sides("RandomCrop", self.size)?;
        let expected = "less than the shorter side of the crop, or it could miss the picture";
        let least = self.size[0].min(self.size[1]);
        check("RandomCrop", "padding", self.padding < least, || self.padding.to_string(), expected)
    }
}

/// A part of random area and proportions, resized to `size`: "Inception cropping" (Szegedy et al. 2015
/// \[szegedy2015\]).
///
/// The share of the area is uniform on `scale`, the logarithm of width : height uniform on that of `ratio`. When ten
/// draws do not fit the image, the largest centered part with allowed proportions is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// `[height, width]` of the result.
    pub size: [usize; 2],
    /// The least and the greatest share of the area, 0.08 and 1 by default.
    #[serde(default = "default_scale")]
    pub scale: [f64; 2],
    /// The least and the greatest width : height, 3/4 and 4/3 by default.
    #[serde(default = "default_ratio")]
    pub ratio: [f64; 2],
    /// The kernel.
    #[serde(default)]
    pub filter: Filter,
}

fn default_scale() -> [f64; 2] {
    [0.08, 1.0]
}

fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

impl RandomResizedCrop {
    /// To `[height, width]`, with the usual shares and proportions.
    pub fn new(size: [usize; 2]) -> Self {
        Self { size, scale: default_scale(), ratio: default_ratio(), filter: Filter::default() }
    }

    /// `[top, left, height, width]` of the part.
    fn draw(&self, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> [usize; 4] {
        let area = (rows * columns) as f64;
        let [low, high] = self.ratio;
        for _ in 0..10 {
            let share = area * rng.random_range(self.scale[0]..=self.scale[1]);
            let ratio = rng.random_range(low.ln()..=high.ln()).exp();
            let (height, width) =
                ((share / ratio).sqrt().round() as usize, (share * ratio).sqrt().round() as usize);
            if (1..=rows).contains(&height) && (1..=columns).contains(&width) {
                let top = rng.random_range(0..=rows - height);
                return [top, rng.random_range(0..=columns - width), height, width];
            }
        }
        let own = columns as f64 / rows as f64;
        let (height, width) = match own {
            _ if own < low => (((columns as f64 / low).round() as usize).clamp(1, rows), columns),
            _ if own > high => (rows, ((rows as f64 * high).round() as usize).clamp(1, columns)),
            _ => (rows, columns),
        };
        [(rows - height) / 2, (columns - width) / 2, height, width]
    }
}

impl Transform for RandomResizedCrop {
    fn apply(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        let part = self.draw(image.height(), image.width(), rng);
        resize(&image, part, self.size, self.filter)
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        let op = "RandomResizedCrop";
        check_sides(op, self.size)?;
        let ([a, b], [c, d]) = (self.scale, self.ratio);
        check(
            op,
            "scale",
            0.0 < a && a <= b && b <= 1.0,
            || format!("{:?}", self.scale),
            "0 < least ≤ greatest ≤ 1",
        )?;
        let ok = 0.0 < c && c <= d && d.is_finite();
        check(op, "ratio", ok, || format!("{:?}", self.ratio), "0 < least ≤ greatest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::draw_rng;

    /// Values that tell row and column: 16 · row + column.
    fn grid(height: usize, width: usize) -> Image {
        let pixels = (0..height * width).map(|i| (16 * (i / width) + i % width) as u8).collect();
        Image::new(pixels, height, width, 1).unwrap()
    }

    #[test]
    fn a_center_crop_splits_the_margin_evenly() -> Result<()> {
        let rng = &mut draw_rng(0, 0, 0, 0, 0);
        assert_eq!(CenterCrop { size: [2, 1] }.apply(grid(4, 3), rng)?.pixels(), [17, 33]);
        // Margins of 1 and 3: a half goes to the even side, 0 and 2.
        assert_eq!(CenterCrop { size: [1, 1] }.apply(grid(2, 4), rng)?.pixels(), [2]);
        let message = CenterCrop { size: [5, 1] }.apply(grid(4, 3), rng).unwrap_err().to_string();
        assert_eq!(message, "CenterCrop: `image` is 4 × 3, expected at least 5 × 1; put a resize before it");
        Ok(())
    }

    #[test]
    fn a_random_crop_reaches_every_place_and_no_other() -> Result<()> {
        for padding in [0, 1] {
            let crop = RandomCrop { size: [3, 2], padding };
            let mut seen = std::collections::BTreeSet::new();
            for i in 0..2000 {
                let part = crop.apply(grid(4, 3), &mut draw_rng(1, 0, i, 0, 0))?;
                assert_eq!((part.height(), part.width()), (3, 2));
                seen.insert(part.pixels().to_vec());
            }
            assert_eq!(seen.len(), (4 + 2 * padding - 2) * (3 + 2 * padding - 1));
        }
        // With a border the corner shows three zeros on one side: nothing is shifted.
        let crop = RandomCrop { size: [4, 3], padding: 1 };
        let all: std::collections::BTreeSet<Vec<u8>> = (0..500)
            .map(|i| crop.apply(grid(4, 3), &mut draw_rng(1, 0, i, 0, 0)).unwrap().pixels().to_vec())
            .collect();
        assert!(all.contains(grid(4, 3).pixels()));
        assert!(all.contains(&vec![0, 0, 0, 0, 0, 1, 0, 16, 17, 0, 32, 33]));
        assert!(
            RandomCrop { size: [9, 9], padding: 1 }.apply(grid(4, 3), &mut draw_rng(1, 0, 0, 0, 0)).is_err()
        );
        assert!(RandomCrop { size: [4, 4], padding: 4 }.check().is_err());
        Ok(())
    }

    #[test]
    fn resized_crops_keep_to_share_and_ratio() {
        let crop = RandomResizedCrop { scale: [0.2, 0.5], ..RandomResizedCrop::new([8, 8]) };
        let (mut least, mut greatest) = (f64::INFINITY, 0.0f64);
        for i in 0..2000 {
            let [top, left, h, w] = crop.draw(200, 300, &mut draw_rng(3, 0, i, 0, 0));
            assert!(top + h <= 200 && left + w <= 300);
            let share = (h * w) as f64 / 60_000.0;
            (least, greatest) = (least.min(share), greatest.max(share));
            let ratio = w as f64 / h as f64;
            assert!((0.74..=1.35).contains(&ratio), "{ratio}"); // sides are rounded
        }
        assert!((0.19..0.22).contains(&least) && (0.48..0.51).contains(&greatest), "{least} {greatest}");
        // Nothing fits a strip: the largest centered part of allowed proportions.
        assert_eq!(
            RandomResizedCrop { scale: [1.0, 1.0], ..crop }.draw(10, 100, &mut draw_rng(0, 0, 0, 0, 0)),
            [0, 43, 10, 13]
        );
        assert_eq!(
            RandomResizedCrop { scale: [1.0, 1.0], ..crop }.draw(100, 10, &mut draw_rng(0, 0, 0, 0, 0)),
            [43, 0, 13, 10]
        );
    }
}
