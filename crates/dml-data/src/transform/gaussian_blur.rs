//! Gaussian blur.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Image, Transform, check, check_probability};
use crate::{Error, Result};

/// With probability `p`, a blur whose deviation is uniform on `sigma`.
///
/// The kernel exp(−t² / 2σ²) is cut to `size` pixels and normalized; the picture is mirrored at its border.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianBlur {
    /// The width of the kernel in pixels, odd. SimCLR takes a tenth of the image's side.
    pub size: usize,
    /// The least and the greatest deviation σ in pixels.
    #[serde(default = "default_sigma")]
    pub sigma: [f64; 2],
    /// The probability, ½ by default.
    #[serde(default = "default_p")]
    pub p: f64,
}

/// Chen et al. 2020 \[chen2020\], Appendix A.
fn default_sigma() -> [f64; 2] {
    [0.1, 2.0]
}

fn default_p() -> f64 {
    0.5
}

impl Transform for GaussianBlur {
    fn apply(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if !rng.random_bool(self.p) {
            return Ok(image);
        }
        let sigma = rng.random_range(self.sigma[0]..=self.sigma[1]);
        let half = self.size / 2;
        if half >= image.height || half >= image.width {
            return Err(Error::Argument {
                op: "GaussianBlur",
                arg: "image",
                got: format!("{} × {}", image.height, image.width),
                expected: format!("more than {half} pixels a side, half of the kernel"),
            });
        }
        Ok(blur(&image, self.size, sigma))
    }

    fn is_random(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        let op = "GaussianBlur";
        let odd = self.size % 2 == 1 && self.size < 512;
        check(op, "size", odd, || self.size.to_string(), "an odd number below 512")?;
        let [low, high] = self.sigma;
        let ok = 0.0 < low && low <= high && high.is_finite();
        check(op, "sigma", ok, || format!("{:?}", self.sigma), "0 < least ≤ greatest")?;
        check_probability(op, self.p)
    }
}

/// `i` mirrored into 0 … n − 1, the border pixel itself not repeated.
fn mirror(i: isize, n: usize) -> usize {
    let last = n as isize - 1;
    (if i < 0 {
        -i
    } else if i > last {
        2 * last - i
    } else {
        i
    }) as usize
}

fn blur(image: &Image, size: usize, sigma: f64) -> Image {
    let Image { ref pixels, height, width, channels } = *image;
    let half = (size / 2) as isize;
    let weight = |t: isize| (-0.5 * (t as f64 / sigma).powi(2)).exp();
    let sum: f64 = (-half..=half).map(weight).sum();
    let kernel: Vec<(isize, f32)> = (-half..=half).map(|t| (t, (weight(t) / sum) as f32)).collect();
    let row = width * channels;
    let mut rows = vec![0f32; pixels.len()]; // blurred along columns
    for (y, out) in rows.chunks_exact_mut(row).enumerate() {
        for &(t, w) in &kernel {
            let from = mirror(y as isize + t, height) * row;
            for (sum, &v) in out.iter_mut().zip(&pixels[from..from + row]) {
                *sum += w * f32::from(v);
            }
        }
    }
    let mut out = Vec::with_capacity(pixels.len());
    for line in rows.chunks_exact(row) {
        for x in 0..width {
            for channel in 0..channels {
                let value =
                    |&(t, w): &(isize, f32)| w * line[mirror(x as isize + t, width) * channels + channel];
                let sum: f32 = kernel.iter().map(value).sum();
                out.push(sum.round().clamp(0.0, 255.0) as u8);
            }
        }
    }
    Image { pixels: out, height, width, channels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::draw_rng;

    #[test]
    fn a_flat_picture_stays_flat_and_a_point_spreads_evenly() -> Result<()> {
        let flat = Image::new(vec![77; 60], 4, 5, 3)?;
        assert_eq!(blur(&flat, 7, 1.7), flat);
        let mut pixels = vec![0; 49];
        pixels[24] = 255;
        let spread = blur(&Image::new(pixels, 7, 7, 1)?, 5, 1.0);
        let at = |row, column| spread.pixel(row, column)[0];
        assert!(at(3, 3) > at(3, 4) && at(3, 4) > at(4, 4) && at(4, 4) > 0);
        assert_eq!([at(2, 3), at(4, 3), at(3, 2)], [at(3, 4); 3]);
        assert_eq!(at(3, 6), 0);
        Ok(())
    }

    #[test]
    fn a_kernel_that_does_not_fit_is_named() -> Result<()> {
        let small = Image::new(vec![0; 4], 2, 2, 1)?;
        let wide = GaussianBlur { size: 5, sigma: [1.0, 1.0], p: 1.0 };
        let message = wide.apply(small, &mut draw_rng(0, 0, 0, 0, 0)).unwrap_err().to_string();
        assert_eq!(
            message,
            "GaussianBlur: `image` is 2 × 2, expected more than 2 pixels a side, half of the kernel"
        );
        assert!(GaussianBlur { size: 4, ..wide }.check().is_err());
        assert!(GaussianBlur { sigma: [0.0, 1.0], ..wide }.check().is_err());
        Ok(())
    }
}
