//! RandAugment (Cubuk et al. 2020 \[cubuk2020\]): a few operations of one strength, drawn from a fixed list.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::affine::Affine;
use super::{Image, Transform, check, tone};
use crate::Result;

/// `operations` operations, drawn with repetition from fourteen, each of the same strength.
///
/// The list is that of the paper: identity, auto-contrast, equalize, rotate, solarize, posterize, colour, contrast,
/// brightness, sharpness, shear and translate along x and y. The ranges at `magnitude` = 30 are 30°, shear 0.3,
/// translation by 0.45 of the side, factors 1 ± 0.9, 4 bits, threshold 0; signs are drawn.
/// Where geometry uncovers nothing, pixels are black; the nearest pixel is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugment {
    /// N, the operations in a row.
    pub operations: usize,
    /// M, the strength, 0 to 30.
    pub magnitude: usize,
}

impl Default for RandAugment {
    /// N = 2 and M = 9, the paper's for ResNet-50.
    fn default() -> Self {
        Self { operations: 2, magnitude: 9 }
    }
}

/// The greatest magnitude.
const MOST: usize = 30;
/// The number of operations in the list.
const OPERATIONS: usize = 14;

impl Transform for RandAugment {
    fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        for _ in 0..self.operations {
            let operation = rng.random_range(0..OPERATIONS);
            let sign = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
            image = operate(image, operation, self.magnitude as f64 / MOST as f64, sign);
        }
        Ok(image)
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        let op = "RandAugment";
        check(op, "magnitude", self.magnitude <= MOST, || self.magnitude.to_string(), "0 to 30")?;
        check(op, "operations", self.operations <= OPERATIONS, || self.operations.to_string(), "0 to 14")
    }
}

/// An operation of the list at a strength of 0 to 1.
fn operate(image: Image, operation: usize, strength: f64, sign: f64) -> Image {
    let signed = sign * strength;
    let factor = (1.0 + 0.9 * signed) as f32;
    match operation {
        0 => image,
        1 => tone::auto_contrast(image),
        2 => tone::equalize(image),
        3 => Affine::rotation((30.0 * signed).to_radians()).apply(&image),
        4 => tone::solarize(image, 256.0 * (1.0 - strength) as f32),
        5 => tone::posterize(image, 8 - (4.0 * strength).round() as u32),
        6 => tone::saturation(image, factor),
        7 => tone::contrast(image, factor),
        8 => tone::brightness(image, factor),
        9 => tone::sharpness(image, factor),
        10 => Affine::shear(0.3 * signed, 0.0).apply(&image),
        11 => Affine::shear(0.0, 0.3 * signed).apply(&image),
        12 => Affine::translation((0.45 * signed * image.width as f64).trunc(), 0.0).apply(&image),
        _ => Affine::translation(0.0, (0.45 * signed * image.height as f64).trunc()).apply(&image),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::draw_rng;

    fn picture() -> Image {
        Image::new((0..60 * 50 * 3).map(|i| (i * i * 7 % 101 + 30) as u8).collect(), 60, 50, 3).unwrap()
    }

    #[test]
    fn no_strength_leaves_all_but_the_histogram_operations_without_effect() {
        for operation in (0..OPERATIONS).filter(|o| ![1, 2].contains(o)) {
            assert_eq!(operate(picture(), operation, 0.0, -1.0), picture(), "operation {operation}");
        }
    }

    #[test]
    fn every_operation_but_the_identity_does_something_and_keeps_the_shape() {
        for operation in 1..OPERATIONS {
            let image = operate(picture(), operation, 1.0, 1.0);
            assert_ne!(image, picture(), "operation {operation}");
            assert_eq!((image.height(), image.width(), image.channels()), (60, 50, 3));
        }
    }

    #[test]
    fn all_operations_are_drawn() -> Result<()> {
        let one = RandAugment { operations: 1, magnitude: 15 };
        let seen: std::collections::BTreeSet<Vec<u8>> = (0..500)
            .map(|i| Ok(one.apply(picture(), &mut draw_rng(0, 0, i, 0, 0))?.pixels().to_vec()))
            .collect::<Result<_>>()?;
        // The identity, four without sign, nine with either; some may give the same picture.
        assert!(seen.len() >= 1 + 4 + 2 * 9 - 3, "{}", seen.len());
        assert!(RandAugment { magnitude: 31, ..one }.check().is_err());
        Ok(())
    }
}
