//! The report as one page.

use super::figure::{NARROW, WIDE};
use super::svg::{escape, style};
use super::{Block, Figure, Report, Span, Table, spans};

/// The page's style sheet; that of the figures follows it.
const PAGE: &str = "\
:root{color-scheme:light dark;--ground:#fff;--ink:#24292f;--soft:#57606a;--rule:#d5dae0;--tint:#f5f7f9;--link:#0b5cad}
@media screen and (prefers-color-scheme:dark){:root{--ground:#12161c;--ink:#e6edf3;--soft:#9aa4af;--rule:#303842;--tint:#1a2028;--link:#7cb7ff}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.6 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}
main{max-width:752px;margin:0 auto;padding:40px 16px 64px}
h1{font-size:30px;line-height:1.25;margin:0 0 16px;letter-spacing:-.01em;text-wrap:balance}
h2{font-size:21px;line-height:1.3;margin:48px 0 12px;padding-top:16px;border-top:1px solid var(--rule)}
p{margin:0 0 14px;overflow-wrap:break-word}
a{color:var(--link);text-decoration-thickness:1px;text-underline-offset:2px}
nav{margin:24px 0;padding:12px 18px;background:var(--tint);border-radius:8px}
nav ol{margin:0;padding-left:22px}nav li{padding:1px 0}
code,pre{font:13.5px/1.5 ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace}
code{background:var(--tint);padding:1px 5px;border-radius:4px;overflow-wrap:anywhere}
pre{background:var(--tint);padding:12px 16px;border-radius:8px;overflow-x:auto;margin:0 0 16px;tab-size:4}
figure{margin:24px 0 28px}
figure svg{display:block;max-width:100%;height:auto}
figure svg.narrow{display:none}
figcaption,.note{color:var(--soft);font-size:14px;line-height:1.5}
figcaption b{color:var(--ink)}
figcaption{margin-top:8px}.table figcaption{margin:0 0 8px}.note{margin:8px 0 0}
.scroll{overflow-x:auto;border-top:2px solid var(--ink);border-bottom:1px solid var(--rule)}
table{border-collapse:collapse;width:100%;font-size:14px;line-height:1.4;font-variant-numeric:tabular-nums}
th,td{padding:7px 12px 7px 0;text-align:left;vertical-align:baseline}
th:last-child,td:last-child{padding-right:4px}
th{font-weight:600;border-bottom:1px solid var(--rule);vertical-align:bottom}
td{border-bottom:1px solid var(--rule)}
tbody tr:last-child td{border-bottom:0}
.number{text-align:right;white-space:nowrap}
.best{font-weight:700}
@media(min-width:1000px){.scroll{width:max-content;min-width:100%;max-width:calc(50vw + 336px)}}
@media(max-width:620px){main{padding-top:24px}h1{font-size:25px}h2{margin-top:36px}
figure svg.wide{display:none}figure svg.narrow{display:block;width:100%;max-width:440px}
th:first-child,td:first-child{position:sticky;left:0;background:var(--ground);min-width:110px}}
@media print{body{font-size:11pt}main{max-width:none;padding:0}nav{display:none}h2{break-after:avoid}
figure,tr,pre{break-inside:avoid}.scroll{overflow:visible}pre{white-space:pre-wrap}
figure svg.wide{display:block}figure svg.narrow{display:none}}
";

pub(super) fn render(report: &Report) -> String {
    let title = escape(&report.title.replace('`', ""));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{PAGE}{}</style>\n</head>\n<body>\n<main>\n<h1>{}</h1>\n",
        style(),
        inline(&report.title)
    );
    for text in &report.intro {
        out += &format!("<p>{}</p>\n", inline(text));
    }
    if report.sections.len() > 1 {
        out += "<nav aria-label=\"Contents\">\n<ol>\n";
        for (i, section) in report.sections.iter().enumerate() {
            out += &format!("<li><a href=\"#section-{}\">{}</a></li>\n", i + 1, inline(&section.heading));
        }
        out += "</ol>\n</nav>\n";
    }
    let (mut tables, mut figures) = (0, 0);
    for (i, section) in report.sections.iter().enumerate() {
        let number = i + 1;
        out += &format!("<section>\n<h2 id=\"section-{number}\">{}</h2>\n", inline(&section.heading));
        for block in &section.blocks {
            match block {
                Block::Paragraph(text) => out += &format!("<p>{}</p>\n", inline(text)),
                Block::Code(text) => out += &format!("<pre>{}</pre>\n", escape(text.trim_end_matches('\n'))),
                Block::Table(table) => {
                    tables += 1;
                    out += &render_table(table, tables);
                }
                Block::Figure(figure) => {
                    figures += 1;
                    out += &render_figure(figure, figures);
                }
            }
        }
        out += "</section>\n";
    }
    out + "</main>\n</body>\n</html>\n"
}

fn render_table(table: &Table, number: usize) -> String {
    let caption = inline(&table.caption);
    let mut out = format!(
        "<figure class=\"table\" id=\"table-{number}\">\n<figcaption><b>Table {number}.</b> {caption}</figcaption>\n\
         <div class=\"scroll\" tabindex=\"0\">\n<table>\n<thead>\n<tr>"
    );
    for (c, column) in table.columns.iter().enumerate() {
        let class = if table.is_numeric(c) { " class=\"number\"" } else { "" };
        out += &format!("<th scope=\"col\"{class}>{}</th>", inline(&column.name));
    }
    out += "</tr>\n</thead>\n<tbody>\n";
    for (row, texts) in table.rows.iter().zip(table.texts()) {
        out += "<tr>";
        for (c, (cell, text)) in row.iter().zip(texts).enumerate() {
            let class = match (table.is_numeric(c), cell.best) {
                (true, true) => " class=\"number best\"",
                (true, false) => " class=\"number\"",
                (false, true) => " class=\"best\"",
                (false, false) => "",
            };
            out += &format!("<td{class}>{}</td>", inline(&text));
        }
        out += "</tr>\n";
    }
    out += "</tbody>\n</table>\n</div>\n";
    if let Some(note) = &table.note {
        out += &format!("<p class=\"note\">{}</p>\n", inline(note));
    }
    out + "</figure>\n"
}

/// Both drawings are in the page, and the width of the screen chooses.
fn render_figure(figure: &Figure, number: usize) -> String {
    let [wide, narrow] = [(WIDE, "wide"), (NARROW, "narrow")].map(|(width, class)| {
        let drawing = figure.draw(width);
        drawing.svg.inline(drawing.height, &figure.caption, class)
    });
    let (id, caption) = (&figure.id, inline(&figure.full_caption()));
    let caption = format!("<figcaption><b>Figure {number}.</b> {caption}</figcaption>");
    format!("<figure id=\"figure-{id}\">\n{wide}{narrow}{caption}\n</figure>\n")
}

fn inline(text: &str) -> String {
    let pieces = spans(text).into_iter().map(|span| match span {
        Span::Plain(text) => escape(text),
        Span::Code(code) => format!("<code>{}</code>", escape(code)),
    });
    pieces.collect()
}
