//! Flips.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Image, Transform, check_probability};
use crate::Result;

fn half() -> f64 {
    0.5
}

/// Left and right are swapped, with probability `p`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HorizontalFlip {
    /// The probability, ½ by default.
    #[serde(default = "half")]
    pub p: f64,
}

/// Top and bottom are swapped, with probability `p`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerticalFlip {
    /// The probability, ½ by default.
    #[serde(default = "half")]
    pub p: f64,
}

impl Default for HorizontalFlip {
    fn default() -> Self {
        Self { p: half() }
    }
}

impl Default for VerticalFlip {
    fn default() -> Self {
        Self { p: half() }
    }
}

impl Transform for HorizontalFlip {
    fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if rng.random_bool(self.p) {
            let (row, channels) = (image.width * image.channels, image.channels);
            for row in image.pixels.chunks_exact_mut(row) {
                if channels == 3 {
                    row.as_chunks_mut::<3>().0.reverse();
                } else {
                    row.reverse();
                }
            }
        }
        Ok(image)
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_probability("HorizontalFlip", self.p)
    }
}

impl Transform for VerticalFlip {
    fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if rng.random_bool(self.p) {
            let row = image.width * image.channels;
            let (upper, lower) = image.pixels.split_at_mut(image.height / 2 * row);
            for (above, below) in upper.chunks_exact_mut(row).zip(lower.chunks_exact_mut(row).rev()) {
                above.swap_with_slice(below);
            }
        }
        Ok(image)
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_probability("VerticalFlip", self.p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::draw_rng;

    #[test]
    fn flips_move_whole_pixels() -> Result<()> {
        let rng = &mut draw_rng(0, 0, 0, 0, 0);
        let color = Image::new((0..18).collect(), 3, 2, 3)?;
        let flipped = HorizontalFlip { p: 1.0 }.apply(color.clone(), rng)?;
        assert_eq!(flipped.pixels(), [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8, 15, 16, 17, 12, 13, 14]);
        let flipped = VerticalFlip { p: 1.0 }.apply(color.clone(), rng)?;
        assert_eq!(flipped.pixels(), [12, 13, 14, 15, 16, 17, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]);
        let grey = Image::new((0..6).collect(), 2, 3, 1)?;
        assert_eq!(HorizontalFlip { p: 1.0 }.apply(grey.clone(), rng)?.pixels(), [2, 1, 0, 5, 4, 3]);
        assert_eq!(VerticalFlip { p: 1.0 }.apply(grey.clone(), rng)?.pixels(), [3, 4, 5, 0, 1, 2]);
        assert_eq!(HorizontalFlip { p: 0.0 }.apply(grey.clone(), rng)?, grey);
        let message = HorizontalFlip { p: 1.5 }.check().unwrap_err().to_string();
        assert_eq!(message, "HorizontalFlip: `p` is 1.5, expected a probability, 0 to 1");
        assert!(VerticalFlip { p: f64::NAN }.check().is_err());
        Ok(())
    }

    #[test]
    fn a_flip_happens_as_often_as_it_should() -> Result<()> {
        let image = Image::new(vec![0, 1], 1, 2, 1)?;
        let flipped = |i| HorizontalFlip { p: 0.3 }.apply(image.clone(), &mut draw_rng(5, 0, i, 0, 0));
        let count = (0..2000).filter(|&i| flipped(i).unwrap() != image).count();
        assert!((540..660).contains(&count), "{count} of 2000"); // three deviations of 20
        Ok(())
    }
}
