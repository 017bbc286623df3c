//! The canvas: images side by side with the zeros around them, on which a convolution is a sum of shifted rows.
//!
//! Output position p of a canvas and kernel element k meet at `canvas[offset(k) + p]`, whatever stride, padding and
//! dilation are: a stride is dealt with by one plane for each remainder of rows and columns that the kernel reads. Rows
//! are as wide as the canvas, so positions between the images are computed in vain; neighbours share their zeros to
//! keep those few.

use std::ops::Range;

use super::tile::SLACK;
use crate::real::Real;

/// One direction, rows or columns, of one plane: canvas index X holds source index X·step + first, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    /// Source index at canvas index 0, before the first where negative.
    pub(super) first: isize,
    /// Source indices between neighbours.
    pub(super) step: usize,
    /// Source size.
    pub(super) size: usize,
}

impl Axis {
    /// The canvas indices below `full` that hold a source index.
    pub(super) fn inside(&self, full: usize) -> Range<usize> {
        let reached = |source: isize| (source - self.first).max(0).unsigned_abs().div_ceil(self.step);
        let start = reached(0).min(full);
        start..reached(self.size as isize).clamp(start, full)
    }

    /// The source index at a canvas index inside.
    pub(super) fn source(&self, index: usize) -> usize {
        (index * self.step).saturating_add_signed(self.first)
    }
}

/// A kernel element: the plane it reads and how far it is shifted there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub(super) plane: usize,
    pub(super) down: usize,
    pub(super) right: usize,
    /// Its place in the kernel, row by row.
    pub(super) element: usize,
}

/// A correlation with stride 1 over planes of a canvas.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Channels of the source.
    pub(super) channels: usize,
    /// Planes of a channel: (rows, columns).
    pub(super) planes: Vec<(Axis, Axis)>,
    /// Kernel elements.
    pub(super) taps: Vec<Tap>,
    /// Outputs of an image: rows and columns.
    pub(super) outputs: (usize, usize),
}

/// What a canvas of so many images measures.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) images: usize,
    /// Columns from an image to the next.
    pub(super) pitch: usize,
    /// Columns of the canvas.
    pub(super) row: usize,
    /// Elements of a plane.
    plane: usize,
    /// Output positions, those in vain included.
    pub(super) positions: usize,
    /// Where output position 0 meets each (channel, tap).
    pub(super) offsets: Vec<usize>,
    full: (usize, usize),
}

impl Plan {
    /// Rows and columns that an image's outputs read.
    fn full(&self) -> (usize, usize) {
        let reach = |of: fn(&Tap) -> usize| self.taps.iter().map(of).max().unwrap_or(0);
        (self.outputs.0 + reach(|tap| tap.down), self.outputs.1 + reach(|tap| tap.right))
    }

    /// Elements that an image takes.
    pub(super) fn image(&self) -> usize {
        let full = self.full();
        self.channels * self.planes.len() * full.0 * full.1
    }

    /// A canvas of `images` images.
    pub(super) fn layout(&self, images: usize) -> Layout {
        let full = self.full();
        let zeros = |(_, columns): &(Axis, Axis)| {
            let inside = columns.inside(full.1);
            inside.start.min(full.1 - inside.end)
        };
        let shared = self.planes.iter().map(zeros).min().unwrap_or(0).min(full.1 - self.outputs.1);
        let pitch = full.1 - shared;
        let row = images * pitch + shared;
        let plane = row * full.0;
        let offset = |channel: usize, tap: &Tap| {
            (channel * self.planes.len() + tap.plane) * plane + tap.down * row + tap.right
        };
        let offsets =
            (0..self.channels).flat_map(|c| self.taps.iter().map(move |tap| offset(c, tap))).collect();
        let positions = (self.outputs.0 - 1) * row + (images - 1) * pitch + self.outputs.1;
        Layout { images, pitch, row, plane, positions, offsets, full }
    }

    /// Puts image `i`, its channels each `stride` elements long, onto the canvas; what lies around it is not touched.
    pub(super) fn fill<T: Real>(&self, layout: &Layout, i: usize, image: &[T], canvas: &mut [T]) {
        for (c, plane) in
            canvas.chunks_exact_mut(layout.plane).take(self.channels * self.planes.len()).enumerate()
        {
            let (rows, columns) = self.planes[c % self.planes.len()];
            let image =
                &image[c / self.planes.len() * rows.size * columns.size..][..rows.size * columns.size];
            let inside = columns.inside(layout.full.1);
            if inside.is_empty() {
                continue;
            }
            let (start, count) = (columns.source(inside.start), inside.len());
            for y in rows.inside(layout.full.0) {
                let source = &image[rows.source(y) * columns.size..][..columns.size];
                let target = &mut plane[y * layout.row + i * layout.pitch + inside.start..][..count];
                if columns.step == 1 {
                    target.copy_from_slice(&source[start..start + count]);
                } else {
                    let source = source[start..].iter().step_by(columns.step);
                    target.iter_mut().zip(source).for_each(|(t, &s)| *t = s);
                }
            }
        }
    }
}

impl Layout {
    /// Elements of the canvas.
    pub(super) fn len(&self, plan: &Plan) -> usize {
        plan.channels * plan.planes.len() * self.plane + SLACK
    }

    /// Elements of a row of results: the positions, with room for whole tiles.
    pub(super) fn result_row(&self) -> usize {
        self.positions + SLACK
    }

    /// Where output row `y` of image `i` begins among the positions.
    pub(super) fn at(&self, i: usize, y: usize) -> usize {
        y * self.row + i * self.pitch
    }
}

/// Weights in the order in which tiles of `rows` rows read them: tile by tile, within a tile element by element.
pub(super) fn pack<T: Real>(
    rows: usize,
    outputs: usize,
    depth: usize,
    weight: impl Fn(usize, usize) -> T,
) -> Vec<T> {
    let mut packed = Vec::with_capacity(outputs * depth);
    for first in (0..outputs).step_by(rows) {
        let tile = first..outputs.min(first + rows);
        for k in 0..depth {
            packed.extend(tile.clone().map(|o| weight(o, k)));
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_knows_what_lies_inside() {
        let padded = Axis { first: -1, step: 1, size: 4 };
        assert_eq!((padded.inside(6), padded.source(1), padded.source(4)), (1..5, 0, 3));
        let odd_columns = Axis { first: -1, step: 2, size: 5 };
        assert_eq!((odd_columns.inside(9), odd_columns.source(1)), (1..3, 1));
        let cropped = Axis { first: 2, step: 1, size: 4 };
        assert_eq!((cropped.inside(9), cropped.source(0)), (0..2, 2));
        let beyond = Axis { first: -9, step: 1, size: 4 };
        assert_eq!(beyond.inside(3), 3..3);
    }

    #[test]
    fn neighbours_share_their_zeros() {
        let axis = Axis { first: -1, step: 1, size: 4 };
        let taps = (0..9).map(|e| Tap { plane: 0, down: e / 3, right: e % 3, element: e }).collect();
        let plan = Plan { channels: 1, planes: vec![(axis, axis)], taps, outputs: (4, 4) };
        let layout = plan.layout(2);
        assert_eq!((layout.pitch, layout.row, layout.positions), (5, 11, 3 * 11 + 5 + 4));
        let mut canvas = vec![0.0; layout.len(&plan)];
        let image: Vec<f64> = (1..=16).map(f64::from).collect();
        plan.fill(&layout, 0, &image, &mut canvas);
        plan.fill(&layout, 1, &image, &mut canvas);
        assert_eq!(canvas[..11], [0.0; 11]);
        assert_eq!(canvas[11..22], [0., 1., 2., 3., 4., 0., 1., 2., 3., 4., 0.]);
    }
}
