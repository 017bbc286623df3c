//! Curves: several series in one chart, or small charts side by side.

use std::fmt::Write as _;

use super::axis::{Axis, Ruler};
use super::figure::{Drawing, Swatch, brief, curve_class, distinct, is_wide, legend};
use super::svg::{Anchor, COLORS, Svg, px, text_width};
use super::{Error, Result};

/// A named curve.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Its name.
    pub label: String,
    /// (x, y) in the order in which they are joined; a point that cannot be drawn leaves a gap.
    pub points: Vec<[f64; 2]>,
    /// For each point the (low, high) of its interval, drawn as a band.
    pub band: Option<Vec<[f64; 2]>>,
}

impl Series {
    /// A curve without a band.
    pub fn new(label: impl Into<String>, points: impl IntoIterator<Item = [f64; 2]>) -> Self {
        Self { label: label.into(), points: points.into_iter().collect(), band: None }
    }

    /// This curve with a band: (low, high) for each point.
    pub fn with_band(mut self, band: impl IntoIterator<Item = [f64; 2]>) -> Self {
        self.band = Some(band.into_iter().collect());
        self
    }

    fn check(&self, figure: &str) -> Result<()> {
        match &self.band {
            Some(band) if band.len() != self.points.len() => {
                let (figure, series) = (figure.into(), self.label.clone());
                Err(Error::Band { figure, series, got: band.len(), expected: self.points.len() })
            }
            _ => Ok(()),
        }
    }

    fn is_drawn(&self, x: &Axis, y: &Axis, i: usize) -> bool {
        let [px, py] = self.points[i];
        x.scale.shows(px) && y.scale.shows(py)
    }

    fn skipped(&self, x: &Axis, y: &Axis) -> usize {
        (0..self.points.len()).filter(|&i| !self.is_drawn(x, y, i)).count()
    }
}

/// Several curves in one chart, named at their right ends.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lines {
    /// The axis along the bottom.
    pub x: Axis,
    /// The axis along the left side.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
}

impl Lines {
    pub(super) fn check(&self, figure: &str) -> Result<()> {
        self.series.iter().try_for_each(|s| s.check(figure))
    }

    pub(super) fn draw(&self, width: f64) -> Drawing {
        let all: Vec<&Series> = self.series.iter().collect();
        let skipped = self.series.iter().map(|s| s.skipped(&self.x, &self.y)).sum();
        let ticks = if is_wide(width) { (8, 6) } else { (4, 5) };
        let Some((x, y)) = rulers(&all, &self.x, &self.y, ticks) else {
            return Drawing::empty(width, skipped);
        };
        let mut svg = Svg::new(width);
        let names: Vec<&str> = self.series.iter().map(|s| s.label.as_str()).collect();
        let widest = names.iter().map(|n| text_width(n)).fold(0.0, f64::max);
        let beside = is_wide(width) && widest > 0.0 && widest + 40.0 <= 0.42 * width;
        let margin = if beside { widest + 40.0 } else { 12.0 };
        let left = y.label_width() + 12.0;
        let tall = if is_wide(width) { 300.0 } else { 230.0 };
        let tall = if beside { f64::max(tall, names.len() as f64 * 18.0) } else { tall };
        let (top, bottom) = (24.0, 24.0 + tall);
        let (x, y) = (x.at(left + 4.0, width - margin), y.at(bottom, top));
        svg.text_within((0.0, 12.0), Anchor::Start, "soft", &self.y.label, width);
        frame(&mut svg, &x, &y, left);
        for draw in [band, curve] {
            for (i, series) in self.series.iter().enumerate() {
                draw(&mut svg, series, i, &self.x, &self.y, (&x, &y));
            }
        }
        let middle = (left + x.to) / 2.0;
        let room = 2.0 * (middle.min(width - middle));
        svg.text_within((middle, bottom + 34.0), Anchor::Middle, "soft", &self.x.label, room);
        let mut height = bottom + 42.0;
        if beside {
            self.label_ends(&mut svg, &x, &y);
        } else if widest > 0.0 {
            height += legend(&mut svg, Swatch::Line, 0.0, height + 6.0, &names) + 6.0;
        }
        Drawing { svg, height, skipped }
    }

    /// The names at the right, each at the height where its curve ends, moved apart as far as needed.
    fn label_ends(&self, svg: &mut Svg, x: &Ruler, y: &Ruler) {
        let end = |(i, s): (usize, &Series)| {
            let last = (0..s.points.len()).rev().find(|&p| s.is_drawn(&self.x, &self.y, p))?;
            Some((i, x.px(s.points[last][0]), y.px(s.points[last][1])))
        };
        let mut ends: Vec<_> = self.series.iter().enumerate().filter_map(end).collect();
        ends.sort_by(|a, b| a.2.total_cmp(&b.2).then(a.0.cmp(&b.0)));
        let places = spread(&ends.iter().map(|e| e.2).collect::<Vec<_>>(), 18.0, y.to, y.from);
        for ((series, end_x, end_y), place) in ends.into_iter().zip(places) {
            svg.line((end_x + 3.0, end_y), (x.to + 12.0, place), "leader");
            svg.line((x.to + 12.0, place), (x.to + 26.0, place), &curve_class(series));
            svg.text((x.to + 31.0, place + 4.5), Anchor::Start, "", &self.series[series].label);
        }
    }
}

/// Places at least `gap` apart and, where there is room, within `low` .. `high`, near `wanted` (ascending).
fn spread(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut places = wanted.to_vec();
    // Labels that would touch become a block around their common middle, until no two blocks touch.
    let mut blocks: Vec<(f64, usize)> = Vec::new(); // (middle, size)
    for &w in wanted {
        blocks.push((w, 1));
        while let [.., (a, n), (b, m)] = blocks[..] {
            if b - a >= gap * (n + m) as f64 / 2.0 {
                break;
            }
            let middle = (a * n as f64 + b * m as f64) / (n + m) as f64;
            blocks.truncate(blocks.len() - 2);
            blocks.push((middle, n + m));
        }
    }
    let mut i = 0;
    for (middle, n) in blocks {
        for k in 0..n {
            places[i] = middle + gap * (k as f64 - (n - 1) as f64 / 2.0);
            i += 1;
        }
    }
    let mut ceiling = high;
    for place in places.iter_mut().rev() {
        *place = place.min(ceiling);
        ceiling = *place - gap;
    }
    let mut floor = low;
    for place in &mut places {
        *place = place.max(floor);
        floor = *place + gap;
    }
    places
}

/// What the panels of a figure have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// One y axis for all, so that heights can be compared across panels.
    #[default]
    Shared,
    /// Each panel its own, so that shapes can be seen.
    Each,
}

/// One of several small charts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Panel {
    /// Its heading.
    pub title: String,
    /// Its curves; the same name is the same color in all panels.
    pub series: Vec<Series>,
}

/// Small charts side by side, for instance φ″ for each coordinate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Panels {
    /// The axis along the bottom, shared by all.
    pub x: Axis,
    /// The axis along the left side.
    pub y: Axis,
    /// Whether the y axis is shared.
    pub sharing: Sharing,
    /// The charts, in rows.
    pub panels: Vec<Panel>,
}

impl Panels {
    pub(super) fn check(&self, figure: &str) -> Result<()> {
        self.panels.iter().flat_map(|p| &p.series).try_for_each(|s| s.check(figure))
    }

    pub(super) fn draw(&self, width: f64) -> Drawing {
        let all: Vec<&Series> = self.panels.iter().flat_map(|p| &p.series).collect();
        let skipped = all.iter().map(|s| s.skipped(&self.x, &self.y)).sum();
        let ticks = (3, 4);
        let Some(shared) = rulers(&all, &self.x, &self.y, ticks) else {
            return Drawing::empty(width, skipped);
        };
        let mut svg = Svg::new(width);
        let names = distinct(all.iter().map(|s| s.label.as_str()));
        let n_columns = if is_wide(width) { 4 } else { 2 }.min(self.panels.len());
        let (cell, tall) = ((width + 10.0) / n_columns as f64, 110.0);
        svg.text_within((0.0, 12.0), Anchor::Start, "soft", &self.y.label, width);
        let mut bottom = 0.0;
        for (i, panel) in self.panels.iter().enumerate() {
            let own: Vec<&Series> = panel.series.iter().collect();
            let own = rulers(&own, &self.x, &self.y, ticks);
            let (x, y) = match (self.sharing, own) {
                (Sharing::Each, Some((_, y))) => (shared.0.clone(), y),
                _ => shared.clone(),
            };
            let (column, row) = (i % n_columns, i / n_columns);
            let (start, top) = (column as f64 * cell, 46.0 + row as f64 * (tall + 52.0));
            bottom = top + tall;
            let left = start + y.label_width() + 10.0;
            let (x, y) = (x.at(left + 3.0, start + cell - 14.0), y.at(bottom, top));
            svg.text_within((left, top - 8.0), Anchor::Start, "bold small", &panel.title, x.to - left);
            frame(&mut svg, &x, &y, left);
            for draw in [band, curve] {
                for series in &panel.series {
                    let color = names.iter().position(|n| *n == series.label).unwrap_or(0);
                    draw(&mut svg, series, color, &self.x, &self.y, (&x, &y));
                }
            }
        }
        svg.text_within((width / 2.0, bottom + 34.0), Anchor::Middle, "soft", &self.x.label, width);
        let mut height = bottom + 42.0;
        if names.len() > 1 {
            height += legend(&mut svg, Swatch::Line, 0.0, height + 6.0, &names) + 6.0;
        }
        Drawing { svg, height, skipped }
    }
}

/// Rulers over everything that is drawn, bands included.
fn rulers(series: &[&Series], x: &Axis, y: &Axis, n_ticks: (usize, usize)) -> Option<(Ruler, Ruler)> {
    let drawn = || series.iter().flat_map(|s| (0..s.points.len()).map(move |i| (*s, i)));
    let drawn = || drawn().filter(|(s, i)| s.is_drawn(x, y, *i));
    let band = |s: &Series, i: usize| s.band.as_ref().and_then(|b| b.get(i)).copied();
    let heights = drawn().flat_map(|(s, i)| {
        let [low, high] = band(s, i).unwrap_or([f64::NAN; 2]);
        [s.points[i][1], low, high]
    });
    let across = Ruler::over(x.scale, drawn().map(|(s, i)| s.points[i][0]), n_ticks.0, 0.0)?;
    let up = Ruler::over(y.scale, heights, n_ticks.1, 0.04)?;
    Some((across, up))
}

fn frame(svg: &mut Svg, x: &Ruler, y: &Ruler, left: f64) {
    x.draw_below(svg, y.to, y.from);
    y.draw_left(svg, left, x.to);
    svg.line((left, y.from), (x.to, y.from), "axis");
}

/// The most points a curve is drawn with; of longer ones the extremes of each stretch stay.
const MOST_POINTS: usize = 1_500;

/// The band of a series, if it has one. Bands are drawn before all curves, so that none dims a curve.
fn band(svg: &mut Svg, series: &Series, index: usize, x: &Axis, y: &Axis, rulers: (&Ruler, &Ruler)) {
    let Some(band) = &series.band else { return };
    let at = |[vx, vy]: [f64; 2]| (rulers.0.px(vx), rulers.1.px(vy));
    let color = index % COLORS;
    let mut d = String::new();
    let is_drawn = |i: usize| series.is_drawn(x, y, i) && band[i].iter().all(|b| y.scale.shows(*b));
    for stretch in stretches(series.points.len(), is_drawn) {
        let every = (stretch.len() / MOST_POINTS).max(1);
        let edge = |side: usize| stretch.clone().step_by(every).map(move |i| (i, side));
        for (n, (i, side)) in edge(1).chain(edge(0).rev()).enumerate() {
            let (cx, cy) = at([series.points[i][0], band[i][side]]);
            let _ = write!(d, "{}{} {}", if n == 0 { 'M' } else { 'L' }, px(cx), px(cy));
        }
        d.push('Z');
    }
    if !d.is_empty() {
        svg.path(&d, &format!("band f{color}"));
    }
}

fn curve(svg: &mut Svg, series: &Series, index: usize, x: &Axis, y: &Axis, rulers: (&Ruler, &Ruler)) {
    let at = |[vx, vy]: [f64; 2]| (rulers.0.px(vx), rulers.1.px(vy));
    let stretches = stretches(series.points.len(), |i| series.is_drawn(x, y, i));
    let mut d = String::new();
    for stretch in stretches {
        if stretch.len() == 1 {
            let [vx, vy] = series.points[stretch.start];
            let title = format!("{}: {}, {}", series.label, brief(vx), brief(vy));
            svg.point(at([vx, vy]), 3.0, index, "", &title);
            continue;
        }
        for (n, i) in thinned(stretch, &series.points).into_iter().enumerate() {
            let (cx, cy) = at(series.points[i]);
            let _ = write!(d, "{}{} {}", if n == 0 { 'M' } else { 'L' }, px(cx), px(cy));
        }
    }
    if !d.is_empty() {
        svg.titled_path(&d, &curve_class(index), &series.label);
    }
    if (2..=30).contains(&series.points.len()) {
        for i in (0..series.points.len()).filter(|&i| series.is_drawn(x, y, i)) {
            let [vx, vy] = series.points[i];
            let title = format!("{}: {}, {}", series.label, brief(vx), brief(vy));
            svg.point(at([vx, vy]), 3.0, index, "", &title);
        }
    }
}

/// Runs of indices that are all drawn.
fn stretches(n: usize, is_drawn: impl Fn(usize) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut out: Vec<std::ops::Range<usize>> = Vec::new();
    for i in (0..n).filter(|&i| is_drawn(i)) {
        match out.last_mut() {
            Some(last) if last.end == i => last.end += 1,
            _ => out.push(i..i + 1),
        }
    }
    out
}

/// The indices drawn of a long stretch: of each piece the first, the lowest and the highest, and the very last.
fn thinned(stretch: std::ops::Range<usize>, points: &[[f64; 2]]) -> Vec<usize> {
    if stretch.len() <= MOST_POINTS {
        return stretch.collect();
    }
    let piece = stretch.len().div_ceil(MOST_POINTS / 3);
    let mut out = Vec::with_capacity(MOST_POINTS);
    for start in stretch.clone().step_by(piece) {
        let height = |i: &usize| points[*i][1];
        let range = || start..(start + piece).min(stretch.end);
        let low = range().min_by(|a, b| height(a).total_cmp(&height(b))).unwrap_or(start);
        let high = range().max_by(|a, b| height(a).total_cmp(&height(b))).unwrap_or(start);
        out.extend([start, low.min(high), low.max(high)]);
    }
    out.push(stretch.end - 1);
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_spread_as_little_as_needed() {
        assert_eq!(spread(&[10.0, 50.0], 18.0, 0.0, 100.0), [10.0, 50.0]);
        assert_eq!(spread(&[50.0, 50.0], 18.0, 0.0, 100.0), [41.0, 59.0]);
        assert_eq!(spread(&[99.0, 99.0, 99.0], 18.0, 0.0, 100.0), [64.0, 82.0, 100.0]);
        assert_eq!(spread(&[0.0, 1.0], 18.0, 0.0, 100.0), [0.0, 18.0]);
    }

    #[test]
    fn gaps_break_a_curve() {
        assert_eq!(stretches(6, |i| i != 2), [0..2, 3..6]);
        assert_eq!(stretches(0, |_| true), Vec::<std::ops::Range<usize>>::new());
    }

    #[test]
    fn a_long_curve_keeps_its_ends_and_extremes() {
        let mut points: Vec<[f64; 2]> = (0..10_000).map(|i| [f64::from(i), f64::from(i % 7)]).collect();
        points[4_321][1] = 99.0;
        let kept = thinned(0..points.len(), &points);
        assert!(kept.len() <= MOST_POINTS + 3 && kept.contains(&4_321), "{}", kept.len());
        assert_eq!((kept[0], kept[kept.len() - 1]), (0, 9_999));
        assert!(kept.is_sorted());
    }

    #[test]
    fn what_cannot_be_drawn_is_counted() {
        let points = [[0.0, 1.0], [1.0, f64::NAN], [2.0, -1.0], [f64::INFINITY, 2.0], [4.0, 2.0]];
        let series = vec![Series::new("s", points)];
        let count = |y: Axis| Lines { x: Axis::linear("x"), y, series: series.clone() }.draw(720.0).skipped;
        assert_eq!(count(Axis::linear("y")), 2);
        assert_eq!(count(Axis::log("y")), 3);
    }
}
