//! Random erasing (Zhong et al. 2020 \[zhong2020\]).

use rand::{Rng as _, RngCore as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Image, Transform, check, check_probability};
use crate::Result;

/// What an erased part is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// A uniform draw for every value.
    Noise,
    /// One value, 0 … 255, for all channels. 124 is near the mean of photographs.
    Value(u8),
}

/// With probability `p`, a rectangle of random area and proportions is filled.
///
/// The share of the area is uniform on `scale`, the logarithm of width : height uniform on that of `ratio`; when ten
/// draws do not fit, nothing is erased. It works on bytes, before normalization.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomErasing {
    /// The probability.
    pub p: f64,
    /// The least and the greatest share of the area.
    pub scale: [f64; 2],
    /// The least and the greatest width : height.
    pub ratio: [f64; 2],
    /// What fills the rectangle.
    pub fill: Fill,
}

impl Default for RandomErasing {
    /// The settings of Zhong et al.
    fn default() -> Self {
        Self { p: 0.5, scale: [0.02, 0.4], ratio: [0.3, 1.0 / 0.3], fill: Fill::Noise }
    }
}

impl Transform for RandomErasing {
    fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if !rng.random_bool(self.p) {
            return Ok(image);
        }
        let (rows, columns, channels) = (image.height, image.width, image.channels);
        for _ in 0..10 {
            let share = (rows * columns) as f64 * rng.random_range(self.scale[0]..=self.scale[1]);
            let ratio = rng.random_range(self.ratio[0].ln()..=self.ratio[1].ln()).exp();
            let (height, width) =
                ((share / ratio).sqrt().round() as usize, (share * ratio).sqrt().round() as usize);
            if (1..rows).contains(&height) && (1..columns).contains(&width) {
                let top = rng.random_range(0..=rows - height);
                let left = rng.random_range(0..=columns - width);
                for row in image.pixels.chunks_exact_mut(columns * channels).skip(top).take(height) {
                    let part = &mut row[left * channels..(left + width) * channels];
                    match self.fill {
                        Fill::Noise => rng.fill_bytes(part),
                        Fill::Value(value) => part.fill(value),
                    }
                }
                break;
            }
        }
        Ok(image)
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        let op = "RandomErasing";
        check_probability(op, self.p)?;
        let ([a, b], [c, d]) = (self.scale, self.ratio);
        check(
            op,
            "scale",
            0.0 < a && a <= b && b < 1.0,
            || format!("{:?}", self.scale),
            "0 < least ≤ greatest < 1",
        )?;
        let ok = 0.0 < c && c <= d && d.is_finite();
        check(op, "ratio", ok, || format!("{:?}", self.ratio), "0 < least ≤ greatest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::draw_rng;

    #[test]
    fn one_rectangle_of_the_right_size_is_erased() -> Result<()> {
        let erasing = RandomErasing { p: 1.0, scale: [0.1, 0.3], fill: Fill::Value(9), ..Default::default() };
        for i in 0..200 {
            let image = Image::new(vec![0; 40 * 50 * 3], 40, 50, 3)?;
            let image = erasing.apply(image, &mut draw_rng(0, 0, i, 0, 0))?;
            let erased: Vec<usize> =
                (0..2000).filter(|&j| image.pixel(j / 50, j % 50) == [9, 9, 9]).collect();
            let rows: std::collections::BTreeSet<usize> = erased.iter().map(|j| j / 50).collect();
            let columns: std::collections::BTreeSet<usize> = erased.iter().map(|j| j % 50).collect();
            assert_eq!(erased.len(), rows.len() * columns.len());
            assert!((180..=630).contains(&erased.len()), "{}", erased.len());
            assert_eq!(image.pixels().iter().filter(|&&v| v != 0).count(), 3 * erased.len());
        }
        Ok(())
    }

    #[test]
    fn an_image_of_one_pixel_is_left_alone() -> Result<()> {
        let pixel = Image::new(vec![3], 1, 1, 1)?;
        let all = RandomErasing { p: 1.0, ..Default::default() };
        assert_eq!(all.apply(pixel.clone(), &mut draw_rng(0, 0, 0, 0, 0))?, pixel);
        assert!(RandomErasing { scale: [0.5, 1.0], ..all }.check().is_err());
        Ok(())
    }
}
