//! Affine maps of the plane with the nearest pixel, black where there is none.

use super::Image;

/// The map from a place in the result to one in the source, both relative to the image's center:
/// x' = a·x + b·y + c, y' = d·x + e·y + f, with x to the right and y down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// a, b, c.
    pub x: [f64; 3],
    /// d, e, f.
    pub y: [f64; 3],
}

impl Affine {
    /// Turns the picture counterclockwise by an angle in radians.
    pub fn rotation(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self { x: [cos, -sin, 0.0], y: [sin, cos, 0.0] }
    }

    /// Moves each row to the left by `x` times its depth below the center, each column up by `y` times its distance
    /// to the right.
    pub fn shear(x: f64, y: f64) -> Self {
        Self { x: [1.0, x, 0.0], y: [y, 1.0, 0.0] }
    }

    /// Moves the picture by so many pixels to the right and down.
    pub fn translation(right: f64, down: f64) -> Self {
        Self { x: [1.0, 0.0, -right], y: [0.0, 1.0, -down] }
    }

    /// The image seen through the map.
    pub fn apply(&self, image: &Image) -> Image {
        let Image { height, width, channels, .. } = *image;
        let (middle_x, middle_y) = (width as f64 / 2.0, height as f64 / 2.0);
        let mut out = vec![0; image.pixels.len()];
        for (i, pixel) in out.chunks_exact_mut(channels).enumerate() {
            let x = (i % width) as f64 + 0.5 - middle_x;
            let y = (i / width) as f64 + 0.5 - middle_y;
            let [from_x, from_y] = [self.x, self.y].map(|[a, b, c]| a * x + b * y + c);
            let (column, row) = ((from_x + middle_x).floor(), (from_y + middle_y).floor());
            if (0.0..width as f64).contains(&column) && (0.0..height as f64).contains(&row) {
                pixel.copy_from_slice(image.pixel(row as usize, column as usize));
            }
        }
        Image { pixels: out, height, width, channels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;

    #[test]
    fn quarter_turns_and_whole_steps_are_exact() -> Result<()> {
        let image = Image::new((1..=9).collect(), 3, 3, 1)?;
        let turned = Affine::rotation(std::f64::consts::FRAC_PI_2).apply(&image);
        assert_eq!(turned.pixels(), [3, 6, 9, 2, 5, 8, 1, 4, 7]);
        assert_eq!(Affine::translation(1.0, 0.0).apply(&image).pixels(), [0, 1, 2, 0, 4, 5, 0, 7, 8]);
        assert_eq!(Affine::translation(0.0, -1.0).apply(&image).pixels(), [4, 5, 6, 7, 8, 9, 0, 0, 0]);
        assert_eq!(Affine::shear(1.0, 0.0).apply(&image).pixels(), [0, 1, 2, 4, 5, 6, 8, 9, 0]);
        assert_eq!(Affine::shear(0.0, 1.0).apply(&image).pixels(), [0, 2, 6, 1, 5, 9, 4, 8, 0]);
        assert_eq!(Affine::rotation(0.0).apply(&image), image);
        Ok(())
    }
}
