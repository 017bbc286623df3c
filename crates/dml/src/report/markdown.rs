//! The report in GitHub's Markdown.

use super::{Block, Report, Span, Table, spans};

pub(super) fn render(report: &Report) -> String {
    let mut out = format!("# {}\n\n", inline(&report.title));
    for paragraph in &report.intro {
        out += &format!("{}\n\n", paragraph_text(paragraph));
    }
    let (mut tables, mut figures) = (0, 0);
    for section in &report.sections {
        out += &format!("## {}\n\n", inline(&section.heading));
        for block in &section.blocks {
            match block {
                Block::Paragraph(text) => out += &format!("{}\n\n", paragraph_text(text)),
                Block::Code(text) => out += &code(text),
                Block::Table(table) => {
                    tables += 1;
                    out += &render_table(table, tables);
                }
                Block::Figure(figure) => {
                    figures += 1;
                    let (id, caption) = (&figure.id, inline(&figure.full_caption()));
                    out += &format!(
                        "![Figure {figures}](figures/{id}.svg)\n\n**Figure {figures}.** {caption}\n\n"
                    );
                }
            }
        }
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

fn render_table(table: &Table, number: usize) -> String {
    let mut out = format!("**Table {number}.** {}\n\n", inline(&table.caption));
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    if !table.columns.is_empty() {
        out += &line(table.columns.iter().map(|c| cell(&c.name)).collect());
        let rule = |c| if table.is_numeric(c) { "---:" } else { "---" };
        out += &line((0..table.columns.len()).map(|c| rule(c).to_string()).collect());
    }
    for (row, texts) in table.rows.iter().zip(table.texts()) {
        let marked = |(c, text): (&super::Cell, String)| match (c.best, cell(&text)) {
            (true, text) if !text.trim().is_empty() => format!("**{text}**"),
            (_, text) => text,
        };
        out += &line(row.iter().zip(texts).map(marked).collect());
    }
    out.push('\n');
    if let Some(note) = &table.note {
        out += &format!("{}\n\n", paragraph_text(note));
    }
    out
}

/// A code block within a fence longer than any in it.
fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n\n", text.trim_end_matches('\n'))
}

/// Text in a table: a bar would end the cell, also within code.
fn cell(text: &str) -> String {
    let pieces = spans(text).into_iter().map(|span| match span {
        Span::Plain(text) => plain(text),
        Span::Code(code) => format!("`{}`", one_line(code)).replace('|', "\\|"),
    });
    pieces.collect()
}

/// Text within a line.
fn inline(text: &str) -> String {
    let pieces = spans(text).into_iter().map(|span| match span {
        Span::Plain(text) => plain(text),
        Span::Code(code) => format!("`{}`", one_line(code)),
    });
    pieces.collect::<String>().trim().into()
}

/// A text at the start of a line, where some characters would begin a list, a heading or a rule.
fn paragraph_text(text: &str) -> String {
    let text = inline(text);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let after = text[digits..].chars().next();
    match (digits, after) {
        (0, Some('-' | '+' | '=' | '#')) => format!("\\{text}"),
        (1.., Some('.' | ')')) => format!("{}\\{}", &text[..digits], &text[digits..]),
        _ => text,
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

fn plain(text: &str) -> String {
    let text: Vec<char> = one_line(text).chars().collect();
    let mut out = String::new();
    for (i, &c) in text.iter().enumerate() {
        let is_letter = |j: Option<usize>| j.and_then(|j| text.get(j)).is_some_and(|c| c.is_alphanumeric());
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            // Within a word an underscore is itself.
            '_' if is_letter(i.checked_sub(1)) && is_letter(Some(i + 1)) => out.push(c),
            '\\' | '*' | '_' | '[' | ']' | '`' | '~' | '$' | '|' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_markdown_reads() {
        assert_eq!(
            inline("a*b* <i> [x](y) p_i m_ap $5 & `c*d|e`"),
            r"a\*b\* &lt;i&gt; \[x\](y) p_i m_ap \$5 &amp; `c*d|e`"
        );
        assert_eq!(inline("a `lone tick"), r"a \`lone tick");
        assert_eq!(cell("a|b `c|d`\ne"), r"a\|b `c\|d` e");
        assert_eq!(paragraph_text("1. no list"), r"1\. no list");
        assert_eq!(paragraph_text("- no list"), r"\- no list");
        assert_eq!(paragraph_text("# no heading"), r"\# no heading");
        assert_eq!(paragraph_text("10 seeds"), "10 seeds");
    }

    #[test]
    fn a_fence_is_longer_than_those_within() {
        assert_eq!(code("a\n```\nb\n"), "````text\na\n```\nb\n````\n\n");
        assert_eq!(code(""), "```text\n\n```\n\n");
    }
}
