//! Colour jitter and grey.

use rand::{Rng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Image, Transform, check, check_probability, tone};
use crate::Result;

/// Brightness, contrast, saturation and hue changed at random, in random order, with probability `p`.
///
/// A strength s draws the factor uniformly from max(0, 1 − s) … 1 + s; for the hue, the turn from −s … s of the
/// circle. A strength of 0 leaves that property alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColorJitter {
    /// The strength for brightness.
    pub brightness: f64,
    /// The strength for contrast.
    pub contrast: f64,
    /// The strength for saturation.
    pub saturation: f64,
    /// The strength for the hue, at most ½.
    pub hue: f64,
    /// The probability that anything is done.
    pub p: f64,
}

impl Default for ColorJitter {
    /// Strengths of SimCLR's smaller setting (Chen et al. 2020 \[chen2020\], Appendix A, s = ½), every time.
    fn default() -> Self {
        Self { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, p: 1.0 }
    }
}

impl Transform for ColorJitter {
    fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if !rng.random_bool(self.p) {
            return Ok(image);
        }
        let mut within = |low: f64, high: f64| rng.random_range(low..=high) as f32;
        let factors = [
            within((1.0 - self.brightness).max(0.0), 1.0 + self.brightness),
            within((1.0 - self.contrast).max(0.0), 1.0 + self.contrast),
            within((1.0 - self.saturation).max(0.0), 1.0 + self.saturation),
            within(-self.hue, self.hue),
        ];
        let mut order = [0, 1, 2, 3];
        order.shuffle(rng);
        for step in order {
            let factor = factors[step];
            image = match step {
                0 if self.brightness > 0.0 => tone::brightness(image, factor),
                1 if self.contrast > 0.0 => tone::contrast(image, factor),
                2 if self.saturation > 0.0 => tone::saturation(image, factor),
                3 if self.hue > 0.0 => tone::hue(image, factor),
                _ => image,
            };
        }
        Ok(image)
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        let op = "ColorJitter";
        for (arg, value) in
            [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)]
        {
            check(op, arg, (0.0..=10.0).contains(&value), || value.to_string(), "0 to 10")?;
        }
        check(op, "hue", (0.0..=0.5).contains(&self.hue), || self.hue.to_string(), "0 to 0.5")?;
        check_probability(op, self.p)
    }
}

/// Turned into grey with probability `p`; the number of channels stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grayscale {
    /// The probability.
    pub p: f64,
}

impl Transform for Grayscale {
    fn apply(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        let channels = image.channels;
        Ok(if rng.random_bool(self.p) { image.with_channels(1).with_channels(channels) } else { image })
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_probability("Grayscale", self.p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::draw_rng;

    #[test]
    fn strengths_of_zero_change_nothing_and_others_do() -> Result<()> {
        let image = Image::new((0..75u32).map(|v| (v * 97 % 256) as u8).collect(), 5, 5, 3)?;
        let nothing = ColorJitter { brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0, p: 1.0 };
        let apply = |jitter: ColorJitter, i| jitter.apply(image.clone(), &mut draw_rng(0, 0, i, 0, 0));
        assert_eq!(apply(nothing, 0)?, image);
        assert_eq!(apply(ColorJitter { p: 0.0, ..Default::default() }, 0)?, image);
        for i in 0..20 {
            assert_ne!(apply(ColorJitter::default(), i)?, image);
            assert_ne!(apply(ColorJitter { hue: 0.5, ..nothing }, i)?, image);
        }
        assert!(ColorJitter { hue: 0.6, ..nothing }.check().is_err());
        assert!(ColorJitter { contrast: -0.1, ..nothing }.check().is_err());
        Ok(())
    }

    #[test]
    fn grey_keeps_the_channels() -> Result<()> {
        let image = Image::new(vec![255, 0, 0], 1, 1, 3)?;
        let grey = Grayscale { p: 1.0 }.apply(image, &mut draw_rng(0, 0, 0, 0, 0))?;
        assert_eq!(grey.pixels(), [76, 76, 76]);
        Ok(())
    }
}
