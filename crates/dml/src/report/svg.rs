//! Drawing: escaped SVG elements with classes in place of colours, so that one style sheet serves a light
//! page, a dark page and a file that stands alone.

use std::fmt::Write as _;

/// The colours of series and classes on a light and on a dark ground: those of Okabe and Ito (2008), which
/// differ for every kind of colour vision, without their yellow, which is lost on white; the last is the ink.
const PALETTE: [(&str, &str); 7] = [
    ("#0072b2", "#5b93f0"),
    ("#d55e00", "#f07b3f"),
    ("#009e73", "#2bbd92"),
    ("#cc79a7", "#e29bc4"),
    ("#e69f00", "#f0b93a"),
    ("#56b4e9", "#8fd3fb"),
    ("#24292f", "#e6edf3"),
];

/// How many colours there are before other means (dashes, shapes) must tell series apart.
pub(super) const COLORS: usize = PALETTE.len();

/// The height of a line of text and the size of its letters, in px.
pub(super) const LINE: f64 = 20.0;

/// The style sheet of all figures.
pub(super) fn style() -> String {
    let mut css = String::from(
        ".fig{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;\
         font-variant-numeric:tabular-nums}\n\
         .fig .bold{font-weight:600}.fig .small{font-size:12px}\n\
         .fig .grid,.fig .axis,.fig .whisker,.fig .curve,.fig .leader,.fig .frame{fill:none}\n\
         .fig .grid,.fig .axis,.fig .leader{stroke-width:1}.fig .whisker{stroke-width:2}.fig .curve{stroke-width:1.6}\n\
         .fig .curve{stroke-linejoin:round;stroke-linecap:round}\n\
         .fig .d1{stroke-dasharray:7 4}.fig .d2{stroke-dasharray:1.5 4}\n\
         .fig .band{stroke:none;fill-opacity:.16}.fig .bar{fill-opacity:.55}\n\
         .fig .point{fill-opacity:.72}.fig .frame{stroke-width:2}.fig .miss{stroke-dasharray:4 3}\n\
         .fig .halo{stroke-width:5;stroke-linejoin:round;paint-order:stroke;font-weight:700;font-size:15px}\n\
         .fig .tile{shape-rendering:crispEdges}\n",
    );
    let scheme =
        |css: &mut String, inks: [&str; 5], pick: fn(&(&'static str, &'static str)) -> &'static str| {
            let [ground, ink, soft, grid, axis] = inks;
            let _ = writeln!(
                css,
                ".fig .ground{{fill:{ground}}}.fig text{{fill:{ink}}}.fig .soft{{fill:{soft}}}\
             .fig .grid{{stroke:{grid}}}.fig .axis{{stroke:{axis}}}.fig .leader{{stroke:{axis}}}\
             .fig .halo{{stroke:{ground}}}.fig .rim{{stroke:{ground};stroke-width:1.5}}"
            );
            for (i, color) in PALETTE.iter().map(pick).enumerate() {
                let _ = write!(css, ".fig .f{i}{{fill:{color}}}.fig .s{i}{{stroke:{color}}}");
            }
            css.push('\n');
        };
    scheme(&mut css, ["#ffffff", "#24292f", "#57606a", "#e6e9ed", "#8c959f"], |c| c.0);
    css.push_str("@media screen and (prefers-color-scheme:dark){\n");
    scheme(&mut css, ["#12161c", "#e6edf3", "#9aa4af", "#272e37", "#6e7781"], |c| c.1);
    css.push_str("}\n");
    css
}

/// Text for HTML and XML, in elements and in quoted attributes; characters that XML cannot hold become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An upper estimate of the width of `text` at 13 px. No font is at hand, so wide scripts count as two letters.
pub(super) fn text_width(text: &str) -> f64 {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | 't' | 'f' | 'r' | ' ' => 4.8,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 11.8,
        'A'..='Z' => 9.2,
        c if ('\u{300}'..'\u{370}').contains(&c) => 0.0,
        c if c >= '\u{1100}' => {
            if ('\u{2000}'..'\u{2e80}').contains(&c) {
                8.5
            } else {
                13.5
            }
        }
        _ => 7.5,
    };
    text.chars().map(width).sum()
}

/// `text`, cut with an ellipsis where it is wider than `room`.
pub(super) fn shorten(text: &str, room: f64) -> String {
    if text_width(text) <= room {
        return text.into();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if text_width(&kept) + 10.0 > room {
            kept.pop();
            break;
        }
    }
    kept.truncate(kept.trim_end().len());
    kept.push('…');
    kept
}

/// A coordinate, to a tenth of a pixel.
pub(super) fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".into() } else { text.into() }
}

/// Which end of a text its coordinate names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing in the making.
#[derive(Debug)]
pub(super) struct Svg {
    pub width: f64,
    body: String,
}

impl Svg {
    pub fn new(width: f64) -> Self {
        Self { width, body: String::new() }
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let (x1, y1, x2, y2) = (px(from.0), px(from.1), px(to.0), px(to.1));
        let _ = writeln!(self.body, r#"<path class="{class}" d="M{x1} {y1}L{x2} {y2}"/>"#);
    }

    pub fn path(&mut self, d: &str, class: &str) {
        let _ = writeln!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    /// A path of a given color, not one of the scheme.
    pub fn filled_path(&mut self, d: &str, fill: &str) {
        let _ = writeln!(self.body, r#"<path fill="{fill}" d="{d}"/>"#);
    }

    /// Sharp-edged pixels under a transformation, with a tooltip.
    pub fn group(&mut self, transform: &str, title: &str, draw: impl FnOnce(&mut Self)) {
        let _ = write!(self.body, r#"<g class="tile" transform="{transform}">"#);
        if !title.is_empty() {
            let _ = write!(self.body, "<title>{}</title>", escape(title));
        }
        draw(self);
        self.body.push_str("</g>\n");
    }

    pub fn titled_path(&mut self, d: &str, class: &str, title: &str) {
        let _ = write!(self.body, r#"<path class="{class}" d="{d}""#);
        self.close("path", title);
    }

    pub fn rect(&mut self, at: (f64, f64), size: (f64, f64), class: &str, title: &str) {
        let (x, y, w, h) = (px(at.0), px(at.1), px(size.0), px(size.1));
        let _ = write!(self.body, r#"<rect class="{class}" x="{x}" y="{y}" width="{w}" height="{h}""#);
        self.close("rect", title);
    }

    /// A point: a disc, square, triangle or diamond, the shape turning with every round of the palette.
    pub fn point(&mut self, at: (f64, f64), r: f64, series: usize, class: &str, title: &str) {
        let (x, y) = at;
        let color = series % COLORS;
        let corners = |corners: &[(f64, f64)]| {
            let mut d = String::new();
            for (i, (dx, dy)) in corners.iter().enumerate() {
                let _ = write!(d, "{}{} {}", if i == 0 { "M" } else { "L" }, px(x + dx * r), px(y + dy * r));
            }
            d + "Z"
        };
        let d = match series / COLORS % 4 {
            0 => {
                let (x, y, r) = (px(x), px(y), px(r));
                let _ = write!(self.body, r#"<circle class="{class} f{color}" cx="{x}" cy="{y}" r="{r}""#);
                return self.close("circle", title);
            }
            1 => corners(&[(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)]),
            2 => corners(&[(0.0, -1.3), (1.2, 0.9), (-1.2, 0.9)]),
            _ => corners(&[(0.0, -1.4), (1.4, 0.0), (0.0, 1.4), (-1.4, 0.0)]),
        };
        let _ = write!(self.body, r#"<path class="{class} f{color}" d="{d}""#);
        self.close("path", title);
    }

    fn close(&mut self, element: &str, title: &str) {
        let _ = match title {
            "" => writeln!(self.body, "/>"),
            _ => writeln!(self.body, "><title>{}</title></{element}>", escape(title)),
        };
    }

    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let (x, y) = (px(at.0), px(at.1));
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let class = if class.is_empty() { String::new() } else { format!(r#" class="{class}""#) };
        let _ = writeln!(self.body, r#"<text x="{x}" y="{y}"{anchor}{class}>{}</text>"#, escape(text));
    }

    /// A text that has `room`: cut where it is wider, and then whole in its tooltip.
    pub fn text_within(&mut self, at: (f64, f64), anchor: Anchor, class: &str, text: &str, room: f64) {
        let short = shorten(text, room);
        if short == text {
            return self.text(at, anchor, class, text);
        }
        let _ = write!(self.body, "<g><title>{}</title>", escape(text));
        self.text(at, anchor, class, &short);
        self.body.push_str("</g>\n");
    }

    /// The element alone, for a page that holds [`style`] already.
    pub fn inline(&self, height: f64, label: &str, class: &str) -> String {
        let (width, height, label) = (px(self.width), px(height), escape(label));
        let space = if class.is_empty() { "" } else { " " };
        format!(
            "<svg class=\"fig{space}{class}\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{label}\">\n{}</svg>\n",
            self.body
        )
    }

    /// A file of its own: with the style sheet, a ground and a margin.
    pub fn standalone(&self, height: f64, label: &str) -> String {
        const MARGIN: f64 = 14.0;
        let (width, height) = (px(self.width + 2.0 * MARGIN), px(height + 2.0 * MARGIN));
        let label = escape(label);
        format!(
            "<svg class=\"fig\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{label}\">\n<style>\n{}</style>\n\
             <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n\
             <g transform=\"translate({} {})\">\n{}</g>\n</svg>\n",
            style(),
            px(MARGIN),
            px(MARGIN),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_html_and_xml_read_and_what_xml_cannot_hold() {
        assert_eq!(
            escape("a<b>&\"'\u{0}\u{7}\u{ffff}"),
            "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn shortens_to_the_room_there_is() {
        assert_eq!(shorten("Euclid", 100.0), "Euclid");
        let short = shorten("empirical Bregman, separable and input-convex", 120.0);
        assert!(short.ends_with('…') && text_width(&short) <= 122.0, "{short}");
        assert_eq!(shorten("abc", 0.0), "…");
    }

    #[test]
    fn coordinates_are_short_and_never_minus_zero() {
        assert_eq!([px(1.0), px(-0.04), px(2.25), px(-3.46)], ["1", "0", "2.2", "-3.5"]);
    }
}
