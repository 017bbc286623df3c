//! Blocks of channels laid side by side, pixel by pixel, with a border: what kernels read that keep channels in
//! registers.

use crate::real::Real;

/// Pixels of a row that are turned at once: what a cache line of a plane holds.
const PIXELS: usize = 16;

/// One block of channels of an image: `[rows, columns, block]`, the image's pixels from (`border`, `border`) on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChannelsLast {
    /// Pixels of the image: rows and columns.
    pub(super) size: (usize, usize),
    /// Pixels with those around: rows and columns.
    pub(super) full: (usize, usize),
    /// Pixels above, and left of, the image.
    pub(super) border: usize,
    /// Channels side by side.
    pub(super) block: usize,
}

impl ChannelsLast {
    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.full.0 * self.full.1 * self.block
    }

    /// Elements of a row of pixels.
    pub(super) fn row(&self) -> usize {
        self.full.1 * self.block
    }

    /// Elements of a channel of the image.
    fn plane(&self) -> usize {
        self.size.0 * self.size.1
    }

    /// Puts up to `block` channels here; border and missing channels are left as they are.
    pub(super) fn put<T: Real>(&self, planes: &[T], here: &mut [T]) {
        for (y, x) in self.parts() {
            let here = &mut here[self.at(y, x)..];
            for (channel, plane) in planes.chunks_exact(self.plane()).take(self.block).enumerate() {
                let row = &plane[y * self.size.1 + x..(y + 1) * self.size.1];
                let pixels = here[channel..].iter_mut().step_by(self.block);
                pixels.zip(&row[..row.len().min(PIXELS)]).for_each(|(to, &v)| *to = v);
            }
        }
    }

    /// Takes up to `block` channels from here.
    pub(super) fn take<T: Real>(&self, here: &[T], planes: &mut [T]) {
        for (y, x) in self.parts() {
            let here = &here[self.at(y, x)..];
            for (channel, plane) in planes.chunks_exact_mut(self.plane()).take(self.block).enumerate() {
                let row = &mut plane[y * self.size.1 + x..(y + 1) * self.size.1];
                let count = row.len().min(PIXELS);
                let pixels = here[channel..].iter().step_by(self.block);
                row[..count].iter_mut().zip(pixels).for_each(|(to, &v)| *to = v);
            }
        }
    }

    /// Where parts of rows begin in the image.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (height, width) = self.size;
        (0..height).flat_map(move |y| (0..width).step_by(PIXELS).map(move |x| (y, x)))
    }

    /// Where a pixel of the image lies.
    fn at(&self, y: usize, x: usize) -> usize {
        ((y + self.border) * self.full.1 + x + self.border) * self.block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_back_as_they_were() {
        let of = ChannelsLast { size: (2, 37), full: (4, 40), border: 1, block: 4 };
        for channels in 1..=4 {
            let planes: Vec<f64> = (1..=channels * 74).map(|v| v as f64).collect();
            let mut here = vec![0.0; of.len()];
            of.put(&planes, &mut here);
            assert_eq!(here.iter().filter(|&&v| v != 0.0).count(), planes.len());
            assert_eq!(here[of.row() + of.block], 1.0);
            let mut back = vec![0.0; planes.len()];
            of.take(&here, &mut back);
            assert_eq!(back, planes);
        }
    }
}
