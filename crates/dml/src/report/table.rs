//! Tables: cells of text, numbers and estimates, with the same number of decimals down a column.

use super::{Error, Result};

/// A mean with the half-width of its interval: mean ± half-width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The middle of the interval.
    pub mean: f64,
    /// Half its width; not finite or negative where there is no interval, for instance with one seed.
    pub half_width: f64,
}

impl Estimate {
    /// `mean` ± `half_width`.
    pub fn new(mean: f64, half_width: f64) -> Self {
        Self { mean, half_width }
    }

    /// `mean` without an interval.
    pub fn point(mean: f64) -> Self {
        Self { mean, half_width: f64::NAN }
    }

    /// The half-width, where there is an interval.
    pub fn interval(&self) -> Option<f64> {
        (self.half_width.is_finite() && self.half_width >= 0.0).then_some(self.half_width)
    }

    /// As text with so many decimals: `0.954 ± 0.003`.
    ///
    /// ```
    /// use dml::report::Estimate;
    /// assert_eq!(Estimate::new(0.9543, 0.0031).display(3), "0.954 ± 0.003");
    /// assert_eq!(Estimate::point(0.9543).display(3), "0.954");
    /// ```
    pub fn display(&self, decimals: usize) -> String {
        match self.interval() {
            Some(half) if self.mean.is_finite() => {
                format!("{} ± {}", fixed(self.mean, decimals), fixed(half, decimals))
            }
            _ => fixed(self.mean, decimals),
        }
    }
}

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Words.
    Text(String),
    /// A number without an interval; one that is not finite is printed as `n/a`.
    Number(f64),
    /// A number with its interval.
    Estimate(Estimate),
    /// Nothing was measured: printed as a dash.
    Missing,
}

/// A cell, and whether it is marked as the best of its column. What is best is the caller's to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// What stands in it.
    pub content: Content,
    /// Marked as best: printed bold.
    pub best: bool,
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Content::Text(text.into()).into()
    }

    /// A number.
    pub fn number(value: f64) -> Self {
        Content::Number(value).into()
    }

    /// A mean ± half-width.
    pub fn estimate(mean: f64, half_width: f64) -> Self {
        Content::Estimate(Estimate::new(mean, half_width)).into()
    }

    /// Nothing was measured.
    pub fn missing() -> Self {
        Content::Missing.into()
    }

    /// This cell, marked as the best of its column.
    pub fn best(mut self) -> Self {
        self.best = true;
        self
    }
}

impl From<Content> for Cell {
    fn from(content: Content) -> Self {
        Self { content, best: false }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::number(value)
    }
}

impl From<Estimate> for Cell {
    fn from(estimate: Estimate) -> Self {
        Content::Estimate(estimate).into()
    }
}

/// A column: its heading and the decimals of its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// Decimals; `None` lets the numbers decide: two significant digits of the narrowest interval, at most
    /// four of the largest mean; without intervals three of the largest number, none if all are whole.
    pub decimals: Option<usize>,
}

impl From<&str> for Column {
    fn from(name: &str) -> Self {
        Self { name: name.into(), decimals: None }
    }
}

impl From<String> for Column {
    fn from(name: String) -> Self {
        Self { name, decimals: None }
    }
}

/// A table with a caption above and, where needed, a note below.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// What the table shows, and how the intervals were made.
    pub caption: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, each with a cell for each column.
    pub rows: Vec<Vec<Cell>>,
    /// A remark under the table.
    pub note: Option<String>,
}

impl Table {
    /// A table without rows.
    pub fn new<C: Into<Column>>(caption: impl Into<String>, columns: impl IntoIterator<Item = C>) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        Self { caption: caption.into(), columns, ..Self::default() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) -> &mut Self {
        self.rows.push(cells.into_iter().collect());
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let expected = self.columns.len();
        match self.rows.iter().position(|r| r.len() != expected) {
            Some(row) => {
                let (table, got) = (self.caption.clone(), self.rows[row].len());
                Err(Error::Row { table, row, got, expected })
            }
            None => Ok(()),
        }
    }

    /// The cells as text, row by row.
    pub(super) fn texts(&self) -> Vec<Vec<String>> {
        let decimals: Vec<usize> = (0..self.columns.len()).map(|c| self.decimals(c)).collect();
        let text = |(cell, &decimals): (&Cell, &usize)| match &cell.content {
            Content::Text(text) => text.clone(),
            Content::Number(value) => fixed(*value, decimals),
            Content::Estimate(estimate) => estimate.display(decimals),
            Content::Missing => "–".into(),
        };
        self.rows.iter().map(|row| row.iter().zip(&decimals).map(text).collect()).collect()
    }

    /// Whether a column holds numbers, which stand to the right.
    pub(super) fn is_numeric(&self, column: usize) -> bool {
        let is_number = |c: &Cell| matches!(c.content, Content::Number(_) | Content::Estimate(_));
        self.rows.iter().filter_map(|r| r.get(column)).any(is_number)
    }

    fn decimals(&self, column: usize) -> usize {
        if let Some(decimals) = self.columns[column].decimals {
            return decimals;
        }
        let estimates = self.rows.iter().filter_map(|row| match row.get(column).map(|c| &c.content) {
            Some(Content::Number(value)) => Some(Estimate::point(*value)),
            Some(Content::Estimate(estimate)) => Some(*estimate),
            _ => None,
        });
        decimals(&estimates.collect::<Vec<_>>())
    }
}

/// The decimals that suit all of `estimates`; see [`Column::decimals`].
pub(super) fn decimals(estimates: &[Estimate]) -> usize {
    let finite = || estimates.iter().filter(|e| e.mean.is_finite());
    let largest = finite().map(|e| e.mean.abs()).fold(0.0, f64::max);
    let narrowest =
        finite().filter_map(Estimate::interval).filter(|&h| h > 0.0).fold(f64::INFINITY, f64::min);
    let significant = |digits: i32, value: f64| digits - 1 - value.log10().floor() as i32;
    let wanted = if narrowest.is_finite() {
        let cap = if largest > 0.0 { significant(4, largest) } else { 4 };
        significant(2, narrowest).min(cap)
    } else if largest == 0.0 || finite().all(|e| e.mean.fract() == 0.0) {
        0
    } else {
        significant(3, largest)
    };
    wanted.clamp(0, 12) as usize
}

/// `value` with so many decimals and a true minus sign, but no minus before zero; `n/a` if not finite.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "n/a".into();
    }
    if value.abs() >= 1e9 {
        return format!("{value:.3e}").replace('-', "−");
    }
    let text = format!("{value:.*}", decimals.min(17));
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|b| matches!(b, b'0' | b'.')) => digits.into(),
        Some(digits) => format!("−{digits}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_follow_the_narrowest_interval_of_the_column() {
        let mut table = Table::new("t", ["a", "b", "c", "d"]);
        table.row(["x".into(), Cell::estimate(0.95432, 0.0213), 12.0.into(), 0.012345.into()]);
        table.row(["y".into(), Cell::estimate(0.9, 0.00321), 7.0.into(), Cell::number(f64::NAN)]);
        table.row(["z".into(), Cell::missing(), Cell::number(-0.0), Cell::number(-0.00001)]);
        let texts = table.texts();
        assert_eq!(texts[0], ["x", "0.9543 ± 0.0213", "12", "0.0123"]);
        assert_eq!(texts[1], ["y", "0.9000 ± 0.0032", "7", "n/a"]);
        assert_eq!(texts[2], ["z", "–", "0", "0.0000"]);
        assert!(!table.is_numeric(0) && table.is_numeric(1));
    }

    #[test]
    fn given_decimals_win() {
        let mut table = Table::new("t", [Column { name: "a".into(), decimals: Some(1) }]);
        table.row([Cell::estimate(-3.25, 0.123)]);
        assert_eq!(table.texts()[0], ["−3.2 ± 0.1"]);
    }

    #[test]
    fn an_estimate_without_interval_is_its_mean() {
        assert_eq!(Estimate::new(f64::INFINITY, 1.0).display(2), "n/a");
        assert_eq!(Estimate::new(1.0, f64::INFINITY).display(2), "1.00");
        assert_eq!(Estimate::new(1.0, 0.0).display(2), "1.00 ± 0.00");
        assert_eq!(decimals(&[Estimate::new(1e300, 1e-300)]), 0);
        assert_eq!(decimals(&[]), 0);
    }
}
