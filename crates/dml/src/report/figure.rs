//! Figures: what they hold, and what all kinds share when drawn.

use super::svg::{Anchor, COLORS, LINE, Svg, text_width};
use super::{Bars, Error, Images, Lines, Panels, Result, Scatter};

/// A figure: its file is `figures/ID.svg`.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Letters, digits, `-` and `_`; unique in the report.
    pub id: String,
    /// What the figure shows, and what bands or whiskers mean.
    pub caption: String,
    /// What is drawn.
    pub kind: Kind,
}

/// The kinds of figures.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Curves of several series, with bands.
    Lines(Lines),
    /// Small charts side by side, one for each of several things.
    Panels(Panels),
    /// Numbers with their intervals, in groups.
    Bars(Bars),
    /// Points in classes.
    Scatter(Scatter),
    /// Rows of small grey images.
    Images(Images),
}

macro_rules! kinds {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Kind {
            fn from(kind: $kind) -> Self {
                Self::$kind(kind)
            }
        })*
        impl Kind {
            fn check(&self, figure: &str) -> Result<()> {
                match self { $(Self::$kind(kind) => kind.check(figure)),* }
            }
            fn draw(&self, width: f64) -> Drawing {
                match self { $(Self::$kind(kind) => kind.draw(width)),* }
            }
        }
    };
}
kinds!(Lines, Panels, Bars, Scatter, Images);

impl Figure {
    /// A figure of a kind.
    pub fn new(id: impl Into<String>, caption: impl Into<String>, kind: impl Into<Kind>) -> Self {
        Self { id: id.into(), caption: caption.into(), kind: kind.into() }
    }

    /// The figure as an SVG file of its own, light or dark as the reader's screen is.
    ///
    /// # Errors
    /// [`Error::FigureId`], [`Error::Band`], [`Error::Class`] or [`Error::Pixels`].
    pub fn to_svg(&self) -> Result<String> {
        self.check()?;
        let drawing = self.draw(WIDE);
        Ok(drawing.svg.standalone(drawing.height, &self.caption))
    }

    pub(super) fn check(&self) -> Result<()> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if self.id.is_empty() || self.id.len() > 100 || !self.id.chars().all(is_name) {
            return Err(Error::FigureId { id: self.id.clone() });
        }
        self.kind.check(&self.id)
    }

    pub(super) fn draw(&self, width: f64) -> Drawing {
        self.kind.draw(width)
    }

    /// The caption, with a count of what could not be drawn.
    pub(super) fn full_caption(&self) -> String {
        match self.draw(WIDE).skipped {
            0 => self.caption.clone(),
            1 => format!("{} (1 value has no place on the axes and is not drawn.)", self.caption),
            n => format!("{} ({n} values have no place on the axes and are not drawn.)", self.caption),
        }
    }
}

/// The widths figures are drawn at, in px: for a page, and for a telephone.
pub(super) const WIDE: f64 = 720.0;
pub(super) const NARROW: f64 = 340.0;

/// A drawing, its height, and how many values it could not show.
#[derive(Debug)]
pub(super) struct Drawing {
    pub svg: Svg,
    pub height: f64,
    pub skipped: usize,
}

impl Drawing {
    /// What is drawn when there is nothing to draw.
    pub fn empty(width: f64, skipped: usize) -> Self {
        let mut svg = Svg::new(width);
        svg.path(&format!("M.5 .5H{}V99.5H.5Z", width - 0.5), "grid");
        svg.text((width / 2.0, 54.0), Anchor::Middle, "soft", "no data");
        Self { svg, height: 100.0, skipped }
    }
}

/// Whether there is room for labels beside the data.
pub(super) fn is_wide(width: f64) -> bool {
    width >= 500.0
}

/// What a legend shows before each name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Swatch {
    Line,
    Point,
}

/// The class of the curve of a series: colours first, then dashes.
pub(super) fn curve_class(series: usize) -> String {
    match series / COLORS % 3 {
        0 => format!("curve s{}", series % COLORS),
        dash => format!("curve s{} d{dash}", series % COLORS),
    }
}

pub(super) fn swatch(svg: &mut Svg, swatch: Swatch, series: usize, x: f64, y: f64) {
    match swatch {
        Swatch::Line => svg.line((x, y), (x + 18.0, y), &curve_class(series)),
        Swatch::Point => svg.point((x + 9.0, y), 4.5, series, "", ""),
    }
}

/// Names side by side in as many lines as they need, from `top` down; returns the height used.
pub(super) fn legend(svg: &mut Svg, kind: Swatch, left: f64, top: f64, names: &[&str]) -> f64 {
    let (mut x, mut y) = (left, top + LINE / 2.0);
    for (series, name) in names.iter().enumerate() {
        let wanted = 24.0 + text_width(name) + 16.0;
        if x > left && x + wanted - 16.0 > svg.width {
            (x, y) = (left, y + LINE);
        }
        swatch(svg, kind, series, x, y);
        let room = svg.width - x - 24.0;
        svg.text_within((x + 24.0, y + 4.5), Anchor::Start, "", name, room);
        x += wanted;
    }
    if names.is_empty() { 0.0 } else { y + LINE / 2.0 - top }
}

/// The names in the order in which they first come, and so the colours: the same name is the same colour.
pub(super) fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut out = Vec::new();
    for name in names {
        if !out.contains(&name) {
            out.push(name);
        }
    }
    out
}

/// A number for a tooltip.
pub(super) fn brief(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e6).contains(&size) {
        let decimals = if value == 0.0 { 0 } else { (3.0 - size.log10().floor()).max(0.0) as usize };
        let text = format!("{value:.decimals$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
    } else {
        format!("{value:.3e}")
    }
}
