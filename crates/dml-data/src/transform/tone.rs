//! Point operations on brightness and colour, as PIL's `ImageEnhance` and `ImageOps` define them.
//!
//! The enhancements mix the image with a poorer one: out = poorer + f · (image − poorer), cut to bytes; f = 1 gives
//! the image, 0 the poorer one, more than 1 the opposite.

use super::Image;
use super::image::luma;

fn mix(poorer: u8, value: u8, factor: f32) -> u8 {
    let (poorer, value) = (f32::from(poorer), f32::from(value));
    (poorer + factor * (value - poorer)).clamp(0.0, 255.0) as u8
}

/// Mixes with one value.
fn mix_with(image: Image, poorer: u8, factor: f32) -> Image {
    image.map(&std::array::from_fn(|v| mix(poorer, v as u8, factor)))
}

/// Mixes with black.
pub fn brightness(image: Image, factor: f32) -> Image {
    mix_with(image, 0, factor)
}

/// Mixes with the mean grey.
pub fn contrast(image: Image, factor: f32) -> Image {
    let sum: u64 = match image.channels {
        3 => image.pixels.chunks_exact(3).map(|p| u64::from(luma(p))).sum(),
        _ => image.pixels.iter().map(|&v| u64::from(v)).sum(),
    };
    let mean = sum as f64 / (image.height * image.width) as f64;
    mix_with(image, (mean + 0.5) as u8, factor)
}

/// Mixes with the grey image; a grey image stays as it is.
pub fn saturation(mut image: Image, factor: f32) -> Image {
    if image.channels == 3 {
        for pixel in image.pixels.chunks_exact_mut(3) {
            let grey = luma(pixel);
            pixel.iter_mut().for_each(|v| *v = mix(grey, *v, factor));
        }
    }
    image
}

/// Mixes with the smoothed image: weights 5 at the pixel, 1 at its eight neighbors, the border as it is.
pub fn sharpness(image: Image, factor: f32) -> Image {
    let Image { ref pixels, height, width, channels } = image;
    let mut out = pixels.clone();
    let row = width * channels;
    for y in 1..height.saturating_sub(1) {
        for x in channels..row.saturating_sub(channels) {
            let at = y * row + x;
            let around = [at - row, at, at + row].map(|i| {
                u32::from(pixels[i - channels]) + u32::from(pixels[i]) + u32::from(pixels[i + channels])
            });
            let sum = around.iter().sum::<u32>() + 4 * u32::from(pixels[at]);
            let smooth = ((sum as f32) / 13.0 + 0.5) as u8;
            out[at] = mix(smooth, pixels[at], factor);
        }
    }
    Image { pixels: out, ..image }
}

/// The hue turned by `turn` of the circle, −½ … ½; a grey image stays as it is.
pub fn hue(mut image: Image, turn: f32) -> Image {
    if image.channels == 3 {
        for pixel in image.pixels.chunks_exact_mut(3) {
            let [h, s, v] = to_hsv([pixel[0], pixel[1], pixel[2]].map(|v| f32::from(v) / 255.0));
            let rgb = to_rgb([(h + turn).rem_euclid(1.0), s, v]);
            for (value, x) in pixel.iter_mut().zip(rgb) {
                *value = (x * 255.0).round().clamp(0.0, 255.0) as u8;
            }
        }
    }
    image
}

/// Hue, saturation, value, each 0 … 1.
fn to_hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range <= 0.0 {
        return [0.0, 0.0, most];
    }
    let sixths = match most {
        _ if most == r => (g - b) / range,
        _ if most == g => 2.0 + (b - r) / range,
        _ => 4.0 + (r - g) / range,
    };
    [(sixths / 6.0).rem_euclid(1.0), range / most, most]
}

fn to_rgb([h, s, v]: [f32; 3]) -> [f32; 3] {
    let sixths = h * 6.0;
    let part = sixths.floor();
    let f = sixths - part;
    let (p, q, t) = (v * (1.0 - s), v * (1.0 - s * f), v * (1.0 - s * (1.0 - f)));
    match part as i32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// Keeps the upper `bits` of each value, 0 to 8.
pub fn posterize(image: Image, bits: u32) -> Image {
    let mask = if bits == 0 { 0 } else { u8::MAX << (8 - bits.min(8)) };
    image.map(&std::array::from_fn(|v| v as u8 & mask))
}

/// Inverts the values from `threshold` on.
pub fn solarize(image: Image, threshold: f32) -> Image {
    image.map(&std::array::from_fn(|v| if (v as f32) < threshold { v as u8 } else { 255 - v as u8 }))
}

/// Each channel through a table of its own, made from its histogram.
fn by_histogram(mut image: Image, table: impl Fn(&[u32; 256]) -> [u8; 256]) -> Image {
    let channels = image.channels;
    for channel in 0..channels {
        let mut histogram = [0u32; 256];
        image.pixels.iter().skip(channel).step_by(channels).for_each(|&v| histogram[usize::from(v)] += 1);
        let table = table(&histogram);
        image.pixels.iter_mut().skip(channel).step_by(channels).for_each(|v| *v = table[usize::from(*v)]);
    }
    image
}

fn identity() -> [u8; 256] {
    std::array::from_fn(|v| v as u8)
}

/// Stretches each channel so that its least value becomes 0 and its greatest 255.
pub fn auto_contrast(image: Image) -> Image {
    by_histogram(image, |histogram| {
        let (low, high) = (histogram.iter().position(|&n| n > 0), histogram.iter().rposition(|&n| n > 0));
        match (low, high) {
            (Some(low), Some(high)) if low < high => {
                let scale = 255.0 / (high - low) as f64;
                let offset = -(low as f64) * scale;
                std::array::from_fn(|v| (v as f64 * scale + offset).clamp(0.0, 255.0) as u8)
            }
            _ => identity(),
        }
    })
}

/// Makes the values of each channel as equally frequent as a table can.
pub fn equalize(image: Image) -> Image {
    by_histogram(image, |histogram| {
        let counts: Vec<u32> = histogram.iter().copied().filter(|&n| n > 0).collect();
        let sum: u32 = counts.iter().sum();
        let step = (sum - counts.last().copied().unwrap_or(0)) / 255;
        if counts.len() <= 1 || step == 0 {
            return identity();
        }
        let mut n = step / 2;
        std::array::from_fn(|v| {
            let value = (n / step).min(255) as u8;
            n += histogram[v];
            value
        })
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::Result;

    fn image(tensor: &Tensor) -> Result<Image> {
        let (height, width, channels) = tensor.dims3()?;
        Image::new(tensor.flatten_all()?.to_vec1()?, height, width, channels)
    }

    /// `tests/pictures/make.py` made the values with PIL, the hue with torchvision.
    #[test]
    fn each_operation_agrees_with_its_namesake() -> Result<()> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures/pictures.safetensors");
        let all = candle_core::safetensors::load(path, &Device::Cpu)?;
        let picture = || image(&all["picture"]);
        let mut ours = vec![
            ("posterize.3".to_owned(), posterize(picture()?, 3), 0),
            ("solarize.100".to_owned(), solarize(picture()?, 100.0), 0),
            ("auto-contrast".to_owned(), auto_contrast(image(&all["half-bright"])?), 0),
            ("equalize".to_owned(), equalize(picture()?), 0),
        ];
        for factor in [0.3, 1.7] {
            // Products that are a whole number up to rounding may be cut to the one below.
            ours.push((format!("brightness.{factor}"), brightness(picture()?, factor), 1));
            ours.push((format!("contrast.{factor}"), contrast(picture()?, factor), 1));
            ours.push((format!("saturation.{factor}"), saturation(picture()?, factor), 1));
            ours.push((format!("sharpness.{factor}"), sharpness(picture()?, factor), 1));
        }
        for turn in [-0.4, 0.15] {
            ours.push((format!("hue.{turn}"), hue(picture()?, turn), 1));
        }
        for (name, ours, most) in ours {
            let theirs = image(&all[&name])?;
            let gaps = ours.pixels().iter().zip(theirs.pixels()).map(|(a, b)| a.abs_diff(*b));
            let (worst, wrong) = (gaps.clone().max(), gaps.filter(|&gap| gap > 0).count());
            assert!(worst <= Some(most), "{name}: {worst:?}");
            // torchvision cuts the hue to bytes by 255.999 x, which is up to one step beside rounding.
            let few = name.starts_with("hue") || wrong * 50 <= ours.pixels().len();
            assert!(few, "{name}: {wrong} values differ");
        }
        Ok(())
    }

    #[test]
    fn a_factor_of_one_and_a_turn_of_nothing_change_nothing() -> Result<()> {
        let image = Image::new((0..=254).collect(), 5, 17, 3)?;
        for same in [brightness, contrast, saturation, sharpness] {
            assert_eq!(same(image.clone(), 1.0), image);
        }
        assert_eq!(hue(image.clone(), 0.0), image);
        assert_eq!(posterize(image.clone(), 8), image);
        assert_eq!(solarize(image.clone(), 256.0), image);
        Ok(())
    }

    #[test]
    fn grey_has_neither_hue_nor_saturation() -> Result<()> {
        let grey = Image::new(vec![3, 200], 1, 2, 1)?;
        assert_eq!(hue(grey.clone(), 0.4), grey);
        assert_eq!(saturation(grey.clone(), 0.0), grey);
        let color = Image::new(vec![255, 0, 0, 7, 7, 7], 1, 2, 3)?;
        assert_eq!(hue(color.clone(), 1.0 / 3.0).pixels(), [0, 255, 0, 7, 7, 7]);
        assert_eq!(saturation(color, 0.0).pixels(), [76, 76, 76, 7, 7, 7]);
        Ok(())
    }

    #[test]
    fn a_constant_channel_is_left_alone() -> Result<()> {
        let flat = Image::new(vec![9; 12], 2, 2, 3)?;
        assert_eq!(auto_contrast(flat.clone()), flat);
        assert_eq!(equalize(flat.clone()), flat);
        assert_eq!(posterize(flat, 0).pixels(), [0; 12]);
        Ok(())
    }
}
