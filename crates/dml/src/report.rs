//! Reports: plain data in, `report.md`, `report.html` and `figures/*.svg` out.
//!
//! A [`Report`] is a title, paragraphs and sections of [`Block`]s. Whoever measured fills it; this module only
//! writes it down, the same bytes for the same data. The page is one file without scripts or links to
//! elsewhere: it follows the reader's light or dark scheme, has its own drawings for a telephone, and prints.
//!
//! All text is escaped. The one mark-up is that of `` `code` `` between backticks, in paragraphs, captions,
//! notes and cells.

mod axis;
mod bars;
mod figure;
mod html;
mod images;
mod lines;
mod markdown;
mod scatter;
mod svg;
mod table;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub use axis::{Axis, Scale};
pub use bars::{Bar, Bars, Form, Group};
pub use figure::{Figure, Kind};
pub use images::{ImageRow, Images, Mark, Tile};
pub use lines::{Lines, Panel, Panels, Series, Sharing};
pub use scatter::{Aspect, Point, Scatter};
pub use table::{Cell, Column, Content, Estimate, Table};

/// The result of this module's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A report that cannot be written: its data do not fit together, or the disk refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A row of a table that has not a cell for each column.
    #[error("table `{table}`: row {row} has {got} cells, expected {expected}, one for each column")]
    Row {
        /// The caption of the table.
        table: String,
        /// The row.
        row: usize,
        /// Its cells.
        got: usize,
        /// The columns.
        expected: usize,
    },
    /// An id that cannot be the name of a file everywhere.
    #[error(
        "figure id `{id}` must be 1 to 100 letters, digits, `-` or `_`: it names the file `figures/ID.svg`"
    )]
    FigureId {
        /// The id.
        id: String,
    },
    /// Two figures that would be one file.
    #[error(
        "figure id `{id}` is used twice; give each figure its own, for it names the file `figures/{id}.svg`"
    )]
    DuplicateFigure {
        /// The id.
        id: String,
    },
    /// A band that does not fit its curve.
    #[error(
        "figure `{figure}`: the band of series `{series}` has {got} entries, expected {expected}, one a point"
    )]
    Band {
        /// The figure.
        figure: String,
        /// The series.
        series: String,
        /// The entries of the band.
        got: usize,
        /// The points of the series.
        expected: usize,
    },
    /// A point whose class has no name.
    #[error(
        "figure `{figure}`: point {point} is of class {class}, but there are {n_classes} class names; name every class"
    )]
    Class {
        /// The figure.
        figure: String,
        /// The first such point.
        point: usize,
        /// Its class.
        class: usize,
        /// How many names there are.
        n_classes: usize,
    },
    /// An image whose pixels do not fit its size, or which is too large for a drawing.
    #[error(
        "figure `{figure}`: image {column} of row {row} has {got} pixels for {width} × {height}, \
         expected width × height of them, each side 1 to 128; scale or crop it first"
    )]
    Pixels {
        /// The figure.
        figure: String,
        /// The row of images.
        row: usize,
        /// The image in it.
        column: usize,
        /// The width it claims.
        width: usize,
        /// The height it claims.
        height: usize,
        /// The pixels it has.
        got: usize,
    },
    /// A file that could not be written.
    #[error(transparent)]
    Write(#[from] crate::atomic::Error),
}

/// What a section is made of.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Block {
    /// A paragraph.
    Paragraph(String),
    /// A table.
    Table(Table),
    /// A figure.
    Figure(Figure),
    /// Commands or output, shown as they are.
    Code(String),
}

impl From<Table> for Block {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

impl From<Figure> for Block {
    fn from(figure: Figure) -> Self {
        Self::Figure(figure)
    }
}

/// A heading and what stands under it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Section {
    /// The heading.
    pub heading: String,
    /// What stands under it.
    pub blocks: Vec<Block>,
}

impl Section {
    /// A section without blocks.
    pub fn new(heading: impl Into<String>) -> Self {
        Self { heading: heading.into(), blocks: Vec::new() }
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: impl Into<String>) -> &mut Self {
        self.block(Block::Paragraph(text.into()))
    }

    /// Adds commands or output.
    pub fn code(&mut self, text: impl Into<String>) -> &mut Self {
        self.block(Block::Code(text.into()))
    }

    /// Adds a table, a figure or any block.
    pub fn block(&mut self, block: impl Into<Block>) -> &mut Self {
        self.blocks.push(block.into());
        self
    }
}

/// A report.
///
/// # Examples
/// ```
/// use dml::report::{Cell, Report, Section, Table};
/// let mut table = Table::new("Five seeds, 95 % intervals.", ["method", "MAP@R"]);
/// table.row(["Euclidean".into(), Cell::estimate(0.9312, 0.0041)]);
/// table.row(["empirical Bregman".into(), Cell::estimate(0.9355, 0.0038).best()]);
/// let mut results = Section::new("Results");
/// results.block(table);
/// let report = Report { title: "Digits".into(), intro: vec![], sections: vec![results] };
/// assert!(report.to_markdown()?.contains("| empirical Bregman | **0.9355 ± 0.0038** |"));
/// # Ok::<(), dml::report::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The title.
    pub title: String,
    /// Paragraphs before the first section.
    pub intro: Vec<String>,
    /// The sections.
    pub sections: Vec<Section>,
}

impl Report {
    /// Writes `report.md`, `report.html` and `figures/ID.svg` into `folder`, each file whole or not at all,
    /// and gives their paths, the pages last.
    ///
    /// # Errors
    /// Data that do not fit together are found before anything is written; [`Error::Write`] names the file.
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        let folder = folder.as_ref();
        let mut files = Vec::new();
        for figure in self.figures() {
            files.push((folder.join("figures").join(format!("{}.svg", figure.id)), figure.to_svg()?));
        }
        files.push((folder.join("report.md"), self.to_markdown()?));
        files.push((folder.join("report.html"), self.to_html()?));
        for (path, text) in &files {
            crate::atomic::write(path, text)?;
        }
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }

    /// The report in GitHub's Markdown, its figures as links to `figures/ID.svg`.
    ///
    /// # Errors
    /// Any of [`Error`] but [`Error::Write`].
    pub fn to_markdown(&self) -> Result<String> {
        self.check()?;
        Ok(markdown::render(self))
    }

    /// The report as one page that needs no other file.
    ///
    /// # Errors
    /// Any of [`Error`] but [`Error::Write`].
    pub fn to_html(&self) -> Result<String> {
        self.check()?;
        Ok(html::render(self))
    }

    fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.sections.iter().flat_map(|s| &s.blocks).filter_map(|block| match block {
            Block::Figure(figure) => Some(figure),
            _ => None,
        })
    }

    fn check(&self) -> Result<()> {
        // Names that differ only in case are one file on some systems.
        let mut ids = HashSet::new();
        for block in self.sections.iter().flat_map(|s| &s.blocks) {
            match block {
                Block::Table(table) => table.check()?,
                Block::Figure(figure) => {
                    figure.check()?;
                    if !ids.insert(figure.id.to_ascii_lowercase()) {
                        return Err(Error::DuplicateFigure { id: figure.id.clone() });
                    }
                }
                Block::Paragraph(_) | Block::Code(_) => {}
            }
        }
        Ok(())
    }
}

/// A piece of a text: as it is, or between backticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span<'a> {
    Plain(&'a str),
    Code(&'a str),
}

/// The pieces of a text; a backtick without its partner is itself.
fn spans(text: &str) -> Vec<Span<'_>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('`')
        && let Some((code, end)) = after.split_once('`')
    {
        out.extend([Span::Plain(before), Span::Code(code)]);
        rest = end;
    }
    out.push(Span::Plain(rest));
    out.retain(|span| !matches!(span, Span::Plain("") | Span::Code("")));
    out
}

#[cfg(test)]
mod tests;
