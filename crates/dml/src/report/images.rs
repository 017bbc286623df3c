//! Rows of small grey images, for instance a query and what was retrieved for it.

use std::fmt::Write as _;

use super::figure::{Drawing, is_wide};
use super::svg::{Anchor, Svg, text_width};
use super::{Error, Result};

/// What the frame of an image says; never by color alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mark {
    /// No frame.
    #[default]
    Plain,
    /// What was asked with: a frame in ink.
    Query,
    /// Right: a green frame.
    Hit,
    /// Wrong: a broken red frame.
    Miss,
}

/// A grey image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width` × `height` grey values row by row, 0 black, 255 white.
    pub pixels: Vec<u8>,
    /// A few letters below it, for instance its class or divergence.
    pub label: String,
    /// Its frame.
    pub mark: Mark,
}

/// Images that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// Their name.
    pub label: String,
    /// The images, from left to right.
    pub tiles: Vec<Tile>,
}

/// Rows of small grey images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Images {
    /// The rows.
    pub rows: Vec<ImageRow>,
}

/// Grey levels told apart: an image of 28 × 28 pixels is then a few hundred bytes of drawing.
const LEVELS: usize = 16;

/// The most pixels along a side: beyond it a drawing made of rectangles would be unreasonably large.
const MOST_PIXELS: usize = 128;

impl Images {
    pub(super) fn check(&self, figure: &str) -> Result<()> {
        for (row, images) in self.rows.iter().enumerate() {
            for (column, tile) in images.tiles.iter().enumerate() {
                let (width, height, got) = (tile.width, tile.height, tile.pixels.len());
                let is_small = (1..=MOST_PIXELS).contains(&width) && (1..=MOST_PIXELS).contains(&height);
                if !is_small || width * height != got {
                    return Err(Error::Pixels { figure: figure.into(), row, column, width, height, got });
                }
            }
        }
        Ok(())
    }

    pub(super) fn draw(&self, width: f64) -> Drawing {
        let most = self.rows.iter().map(|r| r.tiles.len()).max().unwrap_or(0);
        if most == 0 {
            return Drawing::empty(width, 0);
        }
        let wide = is_wide(width);
        let widest = self.rows.iter().map(|r| text_width(&r.label)).fold(0.0, f64::max);
        let left = if wide && widest > 0.0 { widest.min(0.3 * width) + 14.0 } else { 0.0 };
        let cell = ((width - left) / most as f64).clamp(36.0, 72.0);
        let size = cell - 10.0;
        let a_line = (((width - left) / cell) as usize).max(1);
        let has_labels = self.rows.iter().flat_map(|r| &r.tiles).any(|t| !t.label.is_empty());
        let step = size + if has_labels { 24.0 } else { 10.0 };
        let mut svg = Svg::new(width);
        let mut y = 4.0;
        for row in &self.rows {
            if wide {
                let at = (0.0, y + size / 2.0 + 4.5);
                svg.text_within(at, Anchor::Start, "", &row.label, left - 12.0);
            } else if !row.label.is_empty() {
                svg.text_within((0.0, y + 14.0), Anchor::Start, "bold", &row.label, width);
                y += 24.0;
            }
            for (i, tile) in row.tiles.iter().enumerate() {
                if i > 0 && i % a_line == 0 {
                    y += step;
                }
                draw_tile(&mut svg, tile, (left + (i % a_line) as f64 * cell + 5.0, y), size);
            }
            y += step + 2.0;
        }
        Drawing { svg, height: y, skipped: 0 }
    }
}

fn draw_tile(svg: &mut Svg, tile: &Tile, (x, y): (f64, f64), size: f64) {
    // Scaled to fit the square, in the middle of it.
    let scale = size / tile.width.max(tile.height) as f64;
    let x0 = x + (size - scale * tile.width as f64) / 2.0;
    let y0 = y + (size - scale * tile.height as f64) / 2.0;
    let level = |value: u8| (usize::from(value) * (LEVELS - 1) + 127) / 255;
    let mut paths = vec![String::new(); LEVELS];
    for (r, row) in tile.pixels.chunks(tile.width).enumerate() {
        let mut start = 0;
        for run in row.chunk_by(|a, b| level(*a) == level(*b)) {
            let _ = write!(paths[level(run[0])], "M{start} {r}h{}v1h-{}z", run.len(), run.len());
            start += run.len();
        }
    }
    // The most common level is the ground of the image, so one rectangle draws it.
    let ground = (0..LEVELS).max_by_key(|&l| (paths[l].len(), LEVELS - l)).unwrap_or(0);
    paths[ground] = format!("M0 0h{}v{}h-{}z", tile.width, tile.height, tile.width);
    svg.group(&format!("translate({x0:.2} {y0:.2}) scale({scale:.4})"), &tile.label, |svg| {
        let others = (0..LEVELS).filter(|&l| l != ground);
        for l in std::iter::once(ground).chain(others).filter(|&l| !paths[l].is_empty()) {
            let grey = l * 255 / (LEVELS - 1);
            svg.filled_path(&paths[l], &format!("#{grey:02x}{grey:02x}{grey:02x}"));
        }
    });
    let class = match tile.mark {
        Mark::Plain => "",
        Mark::Query => "frame s6",
        Mark::Hit => "frame s2",
        Mark::Miss => "frame miss s1",
    };
    if !class.is_empty() {
        svg.rect((x - 2.0, y - 2.0), (size + 4.0, size + 4.0), class, "");
    }
    svg.text_within((x + size / 2.0, y + size + 16.0), Anchor::Middle, "soft small", &tile.label, size + 8.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_the_wrong_size_is_an_error() {
        let tile = Tile { width: 3, height: 2, pixels: vec![0; 5], label: String::new(), mark: Mark::Plain };
        let images = Images { rows: vec![ImageRow { label: String::new(), tiles: vec![tile] }] };
        let message = images.check("found").err().map(|e| e.to_string());
        let wanted = "figure `found`: image 0 of row 0 has 5 pixels for 3 × 2, \
                      expected width × height of them, each side 1 to 128; scale or crop it first";
        assert_eq!(message.as_deref(), Some(wanted));
    }

    #[test]
    fn pixels_of_one_grey_are_one_rectangle() {
        let tile = Tile { width: 28, height: 28, pixels: vec![255; 784], label: "7".into(), mark: Mark::Hit };
        let images = Images { rows: vec![ImageRow { label: "query".into(), tiles: vec![tile] }] };
        let svg = images.draw(720.0).svg.inline(1.0, "", "");
        assert!(svg.contains(r##"fill="#ffffff" d="M0 0h28v28h-28z""##), "{svg}");
    }
}
