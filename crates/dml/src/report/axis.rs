//! Axes: from numbers to pixels, with round ticks.

use super::svg::{Anchor, Svg, text_width};
use super::table::fixed;

/// How an axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal steps are equal differences.
    #[default]
    Linear,
    /// Equal steps are equal ratios; numbers ≤ 0 cannot be drawn and are counted in the caption.
    Log,
}

/// The name of an axis, with its unit, and how it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Axis {
    /// Name and unit.
    pub label: String,
    /// Linear or logarithmic.
    pub scale: Scale,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Linear }
    }

    /// A logarithmic axis.
    pub fn log(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Log }
    }
}

impl Scale {
    /// Whether the axis has a place for `value`. Numbers near the end of f64 have none: their differences overflow.
    pub(super) fn shows(self, value: f64) -> bool {
        match self {
            Scale::Linear => value.abs() <= 1e300,
            Scale::Log => (1e-300..=1e300).contains(&value),
        }
    }

    fn position(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        }
    }
}

/// A range of numbers laid onto a range of pixels.
#[derive(Debug, Clone)]
pub(super) struct Ruler {
    scale: Scale,
    /// The ends, as positions: logarithms on a logarithmic scale.
    low: f64,
    high: f64,
    /// The pixels of the ends.
    pub from: f64,
    pub to: f64,
    pub ticks: Vec<f64>,
    pub tick_labels: Vec<String>,
}

impl Ruler {
    /// A ruler over all `values` the scale shows, with about `n_ticks`; `None` when it shows none of them.
    pub fn over(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        n_ticks: usize,
        padding: f64,
    ) -> Option<Self> {
        let positions = values.filter(|&v| scale.shows(v)).map(|v| scale.position(v));
        let (low, high) =
            positions.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p), h.max(p)));
        if low > high {
            return None;
        }
        let size = low.abs().max(high.abs());
        // One value, or values no digit apart, stand in the middle of an axis of their own size.
        let spread = high - low;
        let pad = if spread <= size * 1e-9 || spread < 1e-290 {
            if size < 1e-290 {
                1.0
            } else if scale == Scale::Log {
                0.5
            } else {
                size * 0.1
            }
        } else {
            spread * padding
        };
        Some(Self::new(scale, low - pad, high + pad, n_ticks))
    }

    fn new(scale: Scale, low: f64, high: f64, n_ticks: usize) -> Self {
        let (ticks, tick_labels) = match scale {
            Scale::Log if high - low >= 0.7 => log_ticks(low, high, n_ticks),
            Scale::Log => linear_ticks(10f64.powf(low), 10f64.powf(high), n_ticks),
            Scale::Linear => linear_ticks(low, high, n_ticks),
        };
        Self { scale, low, high, from: 0.0, to: 1.0, ticks, tick_labels }
    }

    /// This ruler on the pixels `from` .. `to`.
    pub fn at(mut self, from: f64, to: f64) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    /// The pixel of a value the scale shows.
    pub fn px(&self, value: f64) -> f64 {
        let t = (self.scale.position(value) - self.low) / (self.high - self.low);
        self.from + t * (self.to - self.from)
    }

    /// How many data units a pixel is worth, on a linear axis.
    pub fn units(&self) -> f64 {
        self.high - self.low
    }

    /// Whether `value` is within the range.
    pub fn holds(&self, value: f64) -> bool {
        self.scale.shows(value) && (self.low..=self.high).contains(&self.scale.position(value))
    }

    /// Widens the range around its middle to `units`.
    pub fn widened(&self, units: f64, n_ticks: usize) -> Self {
        let extra = (units - self.units()).max(0.0) / 2.0;
        Self::new(self.scale, self.low - extra, self.high + extra, n_ticks).at(self.from, self.to)
    }

    /// The width of the widest tick label.
    pub fn label_width(&self) -> f64 {
        self.tick_labels.iter().map(|l| text_width(l)).fold(0.0, f64::max)
    }

    /// Vertical lines and labels below, for an axis along the bottom at `bottom`.
    pub fn draw_below(&self, svg: &mut Svg, top: f64, bottom: f64) {
        let mut free_from = f64::NEG_INFINITY;
        for (&tick, label) in self.ticks.iter().zip(&self.tick_labels) {
            let x = self.px(tick);
            svg.line((x, top), (x, bottom), "grid");
            let half = text_width(label) / 2.0;
            if x - half > free_from {
                svg.text((x, bottom + 16.0), Anchor::Middle, "soft small", label);
                free_from = x + half + 6.0;
            }
        }
    }

    /// Horizontal lines and labels to the left, for an axis along the left side at `left`.
    pub fn draw_left(&self, svg: &mut Svg, left: f64, right: f64) {
        for (&tick, label) in self.ticks.iter().zip(&self.tick_labels) {
            let y = self.px(tick);
            svg.line((left, y), (right, y), "grid");
            svg.text((left - 7.0, y + 4.2), Anchor::End, "soft small", label);
        }
    }
}

fn linear_ticks(low: f64, high: f64, n: usize) -> (Vec<f64>, Vec<String>) {
    let raw = (high - low) / n.max(2) as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|s| *s >= raw * 0.999);
    let step = step.unwrap_or(10.0 * magnitude);
    let first = (low / step - 1e-9).ceil();
    let count = ((high / step + 1e-9).floor() - first).clamp(0.0, 40.0) as usize;
    let ticks: Vec<f64> = (0..=count).map(|i| (first + i as f64) * step).collect();
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    let largest = ticks.iter().fold(0f64, |m, t| m.max(t.abs()));
    let label = |t: &f64| {
        if largest >= 1e6 || (largest < 1e-3 && largest > 0.0) {
            power(*t, ((largest / step).log10().ceil().max(0.0) as usize).min(6))
        } else {
            grouped(&fixed(*t, decimals))
        }
    };
    let labels = ticks.iter().map(label).collect();
    (ticks, labels)
}

fn log_ticks(low: f64, high: f64, n: usize) -> (Vec<f64>, Vec<String>) {
    let (first, last) = (low.floor() as i32, high.ceil() as i32);
    let decades = high - low;
    let every = (decades / n.max(2) as f64).ceil().max(1.0) as i32;
    let within: &[f64] = if decades < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    for exponent in (first..=last).filter(|e| e.rem_euclid(every) == 0) {
        ticks.extend(within.iter().map(|m| m * 10f64.powi(exponent)));
    }
    ticks.retain(|t| (low - 1e-9..=high + 1e-9).contains(&t.log10()));
    let label = |t: &f64| match t.log10().floor() as i32 {
        0..6 => grouped(&fixed(*t, 0)),
        e @ -3..0 => fixed(*t, -e as usize),
        _ => power(*t, 0),
    };
    let labels = ticks.iter().map(label).collect();
    (ticks, labels)
}

/// `12500` as `12,500`.
fn grouped(text: &str) -> String {
    let whole = text.split('.').next().unwrap_or(text);
    let digits = whole.chars().filter(char::is_ascii_digit).count();
    if digits < 5 {
        return text.into();
    }
    let mut out = String::new();
    let mut left = digits;
    for (i, c) in text.char_indices() {
        if i < whole.len() && c.is_ascii_digit() {
            if left % 3 == 0 && left != digits {
                out.push(',');
            }
            left -= 1;
        }
        out.push(c);
    }
    out
}

/// `2500000` as `2.5×10⁶`.
fn power(value: f64, decimals: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let text = format!("{value:.decimals$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let raised = exponent.chars().map(|c| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => c.to_digit(10).and_then(|d| char::from_u32(0x2070 + d)).unwrap_or(c),
    });
    let ten: String = "10".chars().chain(raised).collect();
    let mantissa = match mantissa.contains('.') {
        true => mantissa.trim_end_matches('0').trim_end_matches('.'),
        false => mantissa,
    };
    match mantissa.replace('-', "−").as_str() {
        "1" => ten,
        "−1" => format!("−{ten}"),
        m => format!("{m}×{ten}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, values: &[f64]) -> Vec<String> {
        Ruler::over(scale, values.iter().copied(), 5, 0.0).map(|r| r.tick_labels).unwrap_or_default()
    }

    #[test]
    fn ticks_are_round_and_labelled_with_the_digits_they_need() {
        assert_eq!(labels(Scale::Linear, &[0.0, 1.0]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(Scale::Linear, &[0.93, 0.96]), ["0.93", "0.94", "0.95", "0.96"]);
        assert_eq!(labels(Scale::Linear, &[-20.0, 21.0]), ["−20", "−10", "0", "10", "20"]);
        assert_eq!(labels(Scale::Linear, &[0.0, 20_000.0])[2], "10,000");
        assert_eq!(labels(Scale::Linear, &[0.0, 5e7]), ["0", "10⁷", "2×10⁷", "3×10⁷", "4×10⁷", "5×10⁷"]);
        assert_eq!(labels(Scale::Log, &[1e-3, 10.0]), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(labels(Scale::Log, &[0.5, 20.0]), ["0.5", "1", "2", "5", "10", "20"]);
        assert_eq!(labels(Scale::Log, &[2.0, 3.0]), ["2.0", "2.2", "2.4", "2.6", "2.8", "3.0"]);
        assert_eq!(labels(Scale::Log, &[1e-12, 1e-4])[0], "10⁻¹²");
    }

    #[test]
    fn strange_ranges_have_a_few_finite_ticks() {
        let ranges =
            [[0.0, 0.0], [7.0, 7.0], [-1e300, 1e300], [1e16, 1e16 + 2.0], [1e-300, 2e-300], [5e-324, 0.0]];
        for (scale, [a, b]) in
            ranges.map(|r| (Scale::Linear, r)).into_iter().chain(ranges.map(|r| (Scale::Log, r)))
        {
            let Some(ruler) = Ruler::over(scale, [a, b].into_iter(), 5, 0.05) else { continue };
            let n = ruler.ticks.len();
            assert!((1..=41).contains(&n), "{scale:?} {a} {b}: {n} ticks");
            assert!(ruler.ticks.iter().all(|t| t.is_finite() && ruler.px(*t).is_finite()), "{ruler:?}");
        }
        assert!(Ruler::over(Scale::Linear, [f64::NAN, f64::INFINITY].into_iter(), 5, 0.1).is_none());
        assert!(Ruler::over(Scale::Log, [0.0, -1.0].into_iter(), 5, 0.1).is_none());
    }
}
