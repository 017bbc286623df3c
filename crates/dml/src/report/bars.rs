//! Numbers with intervals, side by side: bars from zero, or dots with whiskers where the values are close.

use super::Result;
use super::axis::{Ruler, Scale};
use super::figure::{Drawing, distinct, is_wide};
use super::svg::{Anchor, COLORS, LINE, Svg, text_width};
use super::table::{Estimate, decimals};

/// One number, by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Whose number it is; the same name is the same color in all groups.
    pub label: String,
    /// The number and its interval.
    pub estimate: Estimate,
}

impl Bar {
    /// `label`: `mean` ± `half_width`.
    pub fn new(label: impl Into<String>, mean: f64, half_width: f64) -> Self {
        Self { label: label.into(), estimate: Estimate::new(mean, half_width) }
    }
}

/// Numbers that are compared with each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// What they have in common, for instance the protocol.
    pub label: String,
    /// The numbers.
    pub bars: Vec<Bar>,
}

/// How numbers are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Bars whose lengths can be compared, for they start at zero.
    FromZero,
    /// Dots with whiskers on an axis that begins near the smallest value, and says so.
    #[default]
    Zoomed,
    /// The same with an axis for each group.
    ZoomedEach,
}

/// Groups of numbers with their intervals.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bars {
    /// What is measured, and the unit.
    pub label: String,
    /// The form.
    pub form: Form,
    /// The groups, from top to bottom.
    pub groups: Vec<Group>,
}

impl Bars {
    pub(super) fn check(&self, _figure: &str) -> Result<()> {
        Ok(())
    }

    pub(super) fn draw(&self, width: f64) -> Drawing {
        let all: Vec<&Bar> = self.groups.iter().flat_map(|g| &g.bars).collect();
        let skipped = all.iter().filter(|b| !is_drawn(b)).count();
        let wide = is_wide(width);
        let Some(shared) = self.ruler(&all, wide) else { return Drawing::empty(width, skipped) };
        let decimals = decimals(&all.iter().filter(|b| is_drawn(b)).map(|b| b.estimate).collect::<Vec<_>>());
        let number = |b: &Bar| if is_drawn(b) { b.estimate.display(decimals) } else { "no value".into() };
        let names = distinct(all.iter().map(|b| b.label.as_str()));
        let widest = |texts: &mut dyn Iterator<Item = f64>| texts.fold(0.0, f64::max);
        let number_width = widest(&mut all.iter().map(|b| text_width(&number(b))));
        let name_width = widest(&mut names.iter().map(|n| text_width(n))).min(0.42 * width);
        // Beside each other where there is room; on a narrow page name and number stand above their bar.
        let (left, right) =
            if wide { (name_width + 14.0, width - number_width - 16.0) } else { (8.0, width - 8.0) };
        let step = if wide { 26.0 } else { 42.0 };

        let mut svg = Svg::new(width);
        svg.text_within((0.0, 12.0), Anchor::Start, "soft", &self.label, width);
        let mut y = 22.0;
        for (g, group) in self.groups.iter().enumerate() {
            let own = self.ruler(&group.bars.iter().collect::<Vec<_>>(), wide);
            let ruler = match (self.form, own) {
                (Form::ZoomedEach, Some(own)) => own,
                _ => shared.clone(),
            };
            let ruler = ruler.at(left, right);
            if !group.label.is_empty() {
                svg.text_within((0.0, y + 16.0), Anchor::Start, "bold", &group.label, width);
                y += 26.0;
            }
            let bottom = y + group.bars.len() as f64 * step;
            let is_last = g + 1 == self.groups.len();
            let has_axis = is_last || self.form == Form::ZoomedEach;
            if has_axis {
                ruler.draw_below(&mut svg, y, bottom);
            } else {
                for &tick in &ruler.ticks {
                    svg.line((ruler.px(tick), y), (ruler.px(tick), bottom), "grid");
                }
            }
            // On a narrow page the names stand where the line would run.
            if wide && self.form == Form::FromZero {
                svg.line((ruler.px(0.0), y), (ruler.px(0.0), bottom), "axis");
            }
            for bar in &group.bars {
                let text = number(bar);
                let middle = if wide { y + step / 2.0 } else { y + 30.0 };
                if wide {
                    svg.text_within((0.0, middle + 4.5), Anchor::Start, "", &bar.label, left - 10.0);
                    svg.text((width, middle + 4.5), Anchor::End, "soft", &text);
                } else {
                    let room = width - text_width(&text) - 14.0;
                    svg.text_within((0.0, y + 17.0), Anchor::Start, "", &bar.label, room);
                    svg.text((width, y + 17.0), Anchor::End, "soft", &text);
                }
                if is_drawn(bar) {
                    let series = names.iter().position(|n| *n == bar.label).unwrap_or(0);
                    self.draw_bar(&mut svg, &ruler, bar, series, middle, &format!("{}: {text}", bar.label));
                }
                y += step;
            }
            y += if has_axis { 30.0 } else { 10.0 };
        }
        if self.form != Form::FromZero {
            let note = match self.form {
                Form::ZoomedEach => "Each axis is its own, and none need start at zero.".to_string(),
                _ => format!(
                    "The axis begins near {}, not at zero.",
                    shared.tick_labels.first().map_or("", |t| t)
                ),
            };
            if !self.has_zero(&all) {
                svg.text_within((left, y + 8.0), Anchor::Start, "soft small", &note, width - left);
                y += LINE;
            }
        }
        Drawing { svg, height: y, skipped }
    }

    fn has_zero(&self, bars: &[&Bar]) -> bool {
        self.form == Form::Zoomed && self.ruler(bars, true).is_some_and(|r| r.holds(0.0))
    }

    fn ruler(&self, bars: &[&Bar], wide: bool) -> Option<Ruler> {
        let ends = bars.iter().filter(|b| is_drawn(b)).flat_map(|b| {
            let half = b.estimate.interval().filter(|h| Scale::Linear.shows(*h)).unwrap_or(0.0);
            [b.estimate.mean - half, b.estimate.mean, b.estimate.mean + half]
        });
        let n_ticks = if wide { 6 } else { 4 };
        match self.form {
            Form::FromZero if !bars.iter().any(|b| is_drawn(b)) => None,
            Form::FromZero => Ruler::over(Scale::Linear, ends.chain([0.0]), n_ticks, 0.0),
            _ => Ruler::over(Scale::Linear, ends, n_ticks, 0.06),
        }
    }

    fn draw_bar(&self, svg: &mut Svg, ruler: &Ruler, bar: &Bar, series: usize, y: f64, title: &str) {
        let (mean, color) = (bar.estimate.mean, series % COLORS);
        if self.form == Form::FromZero {
            let (a, b) = (ruler.px(0.0).min(ruler.px(mean)), ruler.px(0.0).max(ruler.px(mean)));
            svg.rect((a, y - 7.0), (b - a, 14.0), &format!("bar f{color}"), title);
        }
        if let Some(half) = bar.estimate.interval().filter(|h| Scale::Linear.shows(*h)) {
            let (a, b) = (ruler.px(mean - half), ruler.px(mean + half));
            let class = format!("whisker s{color}");
            svg.line((a, y), (b, y), &class);
            for end in [a, b] {
                svg.line((end, y - 4.0), (end, y + 4.0), &class);
            }
        }
        let (r, class) = if self.form == Form::FromZero { (3.0, "") } else { (5.5, "rim") };
        svg.point((ruler.px(mean), y), r, series, class, title);
    }
}

fn is_drawn(bar: &Bar) -> bool {
    Scale::Linear.shows(bar.estimate.mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::fixed;

    fn bars(form: Form, values: &[(f64, f64)]) -> Bars {
        let bars = values.iter().map(|(m, h)| Bar::new(fixed(*m, 2), *m, *h)).collect();
        Bars { label: "MAP@R".into(), form, groups: vec![Group { label: "g".into(), bars }] }
    }

    #[test]
    fn bars_start_at_zero_and_dots_say_where_they_start() {
        let values = [(0.95, 0.01), (0.97, 0.01)];
        let text = |form| bars(form, &values).draw(720.0).svg.inline(1.0, "", "");
        assert!(text(Form::FromZero).contains(">0.0<"));
        assert!(text(Form::Zoomed).contains("The axis begins near 0.94, not at zero."));
        assert!(!text(Form::FromZero).contains("not at zero"));
    }

    #[test]
    fn a_value_that_is_not_finite_keeps_its_row_and_says_so() {
        let drawing = bars(Form::Zoomed, &[(f64::NAN, 0.1), (0.5, f64::INFINITY)]).draw(340.0);
        assert_eq!(drawing.skipped, 1);
        let text = drawing.svg.inline(1.0, "", "");
        assert!(text.contains("no value") && !text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
