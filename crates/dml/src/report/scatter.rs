//! Points in classes, each class named where most of it lies.

use super::axis::{Axis, Ruler};
use super::figure::{Drawing, Swatch, brief, is_wide, legend, swatch};
use super::svg::{Anchor, LINE, Svg, text_width};
use super::{Error, Result};

/// A point of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Its first coordinate.
    pub x: f64,
    /// Its second.
    pub y: f64,
    /// Its class, an index into [`Scatter::classes`].
    pub class: usize,
    /// What its tooltip says besides class and coordinates; often empty.
    pub note: String,
}

impl Point {
    /// A point without a note.
    pub fn new(x: f64, y: f64, class: usize) -> Self {
        Self { x, y, class, note: String::new() }
    }
}

/// How the two axes of a scatter relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aspect {
    /// One unit is as long along both axes, as distances between points ask for.
    #[default]
    Equal,
    /// Each axis fills its side, for quantities of different kinds.
    Free,
}

/// Points coloured by class.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scatter {
    /// The axis along the bottom.
    pub x: Axis,
    /// The axis along the left side.
    pub y: Axis,
    /// How the axes relate; [`Aspect::Equal`] takes effect when both are linear.
    pub aspect: Aspect,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// The points, later ones above earlier ones: mix the classes, or the last hides the first.
    pub points: Vec<Point>,
}

impl Scatter {
    pub(super) fn check(&self, figure: &str) -> Result<()> {
        match self.points.iter().position(|p| p.class >= self.classes.len()) {
            Some(point) => {
                let (class, n_classes) = (self.points[point].class, self.classes.len());
                Err(Error::Class { figure: figure.into(), point, class, n_classes })
            }
            None => Ok(()),
        }
    }

    fn is_drawn(&self, p: &Point) -> bool {
        self.x.scale.shows(p.x) && self.y.scale.shows(p.y)
    }

    pub(super) fn draw(&self, width: f64) -> Drawing {
        use super::axis::Scale::Linear;
        let skipped = self.points.iter().filter(|p| !self.is_drawn(p)).count();
        let drawn = || self.points.iter().filter(|p| self.is_drawn(p));
        let wide = is_wide(width);
        let n_ticks = if wide { 6 } else { 4 };
        let x = Ruler::over(self.x.scale, drawn().map(|p| p.x), n_ticks, 0.04);
        let y = Ruler::over(self.y.scale, drawn().map(|p| p.y), n_ticks, 0.04);
        let (Some(mut x), Some(mut y)) = (x, y) else { return Drawing::empty(width, skipped) };

        let names: Vec<&str> = self.classes.iter().map(String::as_str).collect();
        let widest = names.iter().map(|n| text_width(n)).fold(0.0, f64::max);
        let beside = wide && names.len() <= 20 && widest <= 0.25 * width;
        let margin = if beside { widest + 48.0 } else { 10.0 };
        let left = y.label_width().max(28.0) + 12.0;
        let across = width - margin - left;
        let tall = if wide { across.min(470.0) } else { across };
        let (top, bottom) = (24.0, 24.0 + tall);
        if self.aspect == Aspect::Equal && self.x.scale == Linear && self.y.scale == Linear {
            let unit = (x.units() / across).max(y.units() / tall);
            (x, y) = (x.widened(unit * across, n_ticks), y.widened(unit * tall, n_ticks));
        }
        let (x, y) = (x.at(left, left + across), y.at(bottom, top));

        let mut svg = Svg::new(width);
        svg.text_within((0.0, 12.0), Anchor::Start, "soft", &self.y.label, width);
        x.draw_below(&mut svg, top, bottom);
        y.draw_left(&mut svg, left, x.to);
        let size = if drawn().count() > 300 { 2.8 } else { 4.0 };
        for p in drawn() {
            let mut title = format!("{}: {}, {}", self.classes[p.class], brief(p.x), brief(p.y));
            if !p.note.is_empty() {
                title = format!("{title} · {}", p.note);
            }
            svg.point((x.px(p.x), y.px(p.y)), size, p.class, "point", &title);
        }
        // A class that can be named on the spot need not be looked up; a long name would hide its points.
        for (class, name) in
            names.iter().enumerate().filter(|(_, n)| text_width(n) <= 80.0 && names.len() <= 20)
        {
            let middle = |of: fn(&Point) -> f64| median(drawn().filter(|p| p.class == class).map(of));
            if let (Some(mx), Some(my)) = (middle(|p| p.x), middle(|p| p.y)) {
                svg.text((x.px(mx), y.px(my) + 5.0), Anchor::Middle, "halo", name);
            }
        }
        svg.text_within((left + across / 2.0, bottom + 34.0), Anchor::Middle, "soft", &self.x.label, across);
        let mut height = bottom + 42.0;
        if beside {
            for (class, name) in names.iter().enumerate() {
                let at = top + 10.0 + class as f64 * LINE;
                swatch(&mut svg, Swatch::Point, class, x.to + 10.0, at);
                svg.text((x.to + 36.0, at + 4.5), Anchor::Start, "", name);
                height = height.max(at + LINE);
            }
        } else {
            height += legend(&mut svg, Swatch::Point, 0.0, height + 6.0, &names) + 6.0;
        }
        Drawing { svg, height, skipped }
    }
}

/// The middle value, or the higher of the two.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unit_is_as_long_along_both_axes() {
        let points = vec![Point::new(0.0, 0.0, 0), Point::new(10.0, 1.0, 0)];
        let scatter = Scatter { classes: vec!["a".into()], points, ..Scatter::default() };
        let svg = scatter.draw(720.0).svg.inline(1.0, "", "");
        let coordinate = |name: &str| -> Vec<f64> {
            svg.split(&format!(r#" {name}=""#))
                .skip(1)
                .filter_map(|s| s.split('"').next()?.parse().ok())
                .collect()
        };
        let (xs, ys) = (coordinate("cx"), coordinate("cy"));
        assert!(((xs[1] - xs[0]) / 10.0 - (ys[0] - ys[1])).abs() < 0.2, "{xs:?} {ys:?}");
    }

    #[test]
    fn a_class_without_a_name_is_an_error() {
        let points = vec![Point::new(0.0, 0.0, 0), Point::new(0.0, 0.0, 3)];
        let scatter = Scatter { classes: vec!["a".into()], points, ..Scatter::default() };
        let message = scatter.check("tsne").err().map(|e| e.to_string());
        let wanted = "figure `tsne`: point 1 is of class 3, but there are 1 class names; name every class";
        assert_eq!(message.as_deref(), Some(wanted));
    }

    #[test]
    fn nothing_finite_is_no_data() {
        let points = vec![Point::new(f64::NAN, 0.0, 0)];
        let drawing = Scatter { classes: vec!["a".into()], points, ..Scatter::default() }.draw(340.0);
        assert_eq!(drawing.skipped, 1);
        assert!(drawing.svg.inline(1.0, "", "").contains("no data"));
    }
}
