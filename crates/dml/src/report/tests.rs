//! Reports as a whole: every kind of block, hostile text, wrong data, files.

use super::*;

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

/// Text that would break out of HTML, XML or Markdown if it were not escaped.
const HOSTILE: &str = "</title><script>alert(\"1\")</script> a|b & ' `c|d` ]]> \u{1} $x$";

/// One figure of each kind, every text of it `text`, with `f(i)` for every number.
fn every_figure(text: &str, f: fn(usize) -> f64) -> Vec<Figure> {
    let series = |n: usize| {
        let points = (0..n).map(|i| [f(2 * i), f(2 * i + 1)]);
        Series::new(text, points).with_band((0..n).map(|i| [f(i + 1), f(i + 2)]))
    };
    let (x, y) = (Axis::linear(text), Axis::log(text));
    let bars = |form| {
        let bars = (0..12).map(|i| Bar::new(format!("{text} {i}"), f(i), f(i + 1))).collect();
        Bars { label: text.into(), form, groups: vec![Group { label: text.into(), bars }] }
    };
    let panels = vec![Panel { title: text.into(), series: vec![series(3), series(0)] }; 5];
    let points = (0..30).map(|i| Point { x: f(i), y: f(i + 1), class: i % 12, note: text.into() }).collect();
    let tile = Tile {
        width: 2,
        height: 3,
        pixels: vec![0, 9, 90, 200, 255, 255],
        label: text.into(),
        mark: Mark::Miss,
    };
    let kinds: [Kind; 9] = [
        Lines { x: x.clone(), y: y.clone(), series: (0..12).map(|_| series(40)).collect() }.into(),
        Lines::default().into(),
        Panels { x: x.clone(), y: x.clone(), sharing: Sharing::Shared, panels: panels.clone() }.into(),
        Panels { x: x.clone(), y, sharing: Sharing::Each, panels }.into(),
        bars(Form::FromZero).into(),
        bars(Form::Zoomed).into(),
        bars(Form::ZoomedEach).into(),
        Scatter { x: x.clone(), y: x, aspect: Aspect::Equal, classes: vec![text.into(); 12], points }.into(),
        Images { rows: vec![ImageRow { label: text.into(), tiles: vec![tile; 20] }] }.into(),
    ];
    kinds.into_iter().enumerate().map(|(i, kind)| Figure::new(format!("f{i}"), text, kind)).collect()
}

fn report(text: &str, f: fn(usize) -> f64) -> Report {
    let mut table = Table::new(text, [text, text]);
    table.row([Cell::text(text).best(), Cell::estimate(f(0), f(1))]);
    table.note = Some(text.into());
    let mut section = Section::new(text);
    section.paragraph(text).code(text).block(table);
    every_figure(text, f).into_iter().for_each(|figure| {
        section.block(figure);
    });
    Report {
        title: text.into(),
        intro: vec![text.into()],
        sections: vec![section.clone(), Section::new(text)],
    }
}

#[test]
fn writes_every_file_and_the_same_bytes_twice() -> Outcome {
    let folder = tempfile::tempdir()?;
    let report = report("words", |i| (i * 7 % 5) as f64 + 0.5);
    let paths = report.write(folder.path())?;
    assert_eq!(paths.len(), 9 + 2);
    let bytes = || paths.iter().map(std::fs::read).collect::<std::io::Result<Vec<_>>>();
    let first = bytes()?;
    report.write(folder.path())?;
    assert_eq!(first, bytes()?);
    let markdown = std::fs::read_to_string(folder.path().join("report.md"))?;
    for figure in report.figures() {
        let link = format!("(figures/{}.svg)", figure.id);
        assert!(
            markdown.contains(&link)
                && folder.path().join("figures").join(format!("{}.svg", figure.id)).exists()
        );
    }
    Ok(())
}

#[test]
fn no_text_escapes_its_place() -> Outcome {
    let report = report(HOSTILE, |i| i as f64);
    let html = report.to_html()?;
    assert!(!html.contains("<script") && !html.contains('\u{1}'), "html");
    for figure in report.figures() {
        let svg = figure.to_svg()?;
        assert!(!svg.contains("<script") && !svg.contains('\u{1}') && !svg.contains("]]>"), "{}", figure.id);
    }
    let markdown = report.to_markdown()?;
    let (prose, code) = markdown.split_once("```").ok_or("no code block")?;
    let (_, rest) = code.split_once("```").ok_or("no end of the code block")?;
    assert!(!prose.contains("<script") && !rest.contains("<script"), "{markdown}");
    let rows: Vec<&str> = markdown.lines().filter(|l| l.starts_with("| ")).collect();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|r| r.replace("\\|", "").matches('|').count() == 3), "{rows:?}");
    Ok(())
}

#[test]
fn no_number_makes_a_coordinate_that_is_none() -> Outcome {
    let strange: [fn(usize) -> f64; 8] = [
        |_| f64::NAN,
        |_| 0.0,
        |_| -3.0,
        |_| f64::MAX,
        |i| [f64::INFINITY, 1.0, f64::NAN, -2.0, 1e300][i % 5],
        |i| [1e-300, 1e300, 5e-324][i % 3],
        |i| 1e16 + i as f64,
        |i| -(i as f64) * 1e-12,
    ];
    for (n, f) in strange.into_iter().enumerate() {
        let report = report("words", f);
        let html = report.to_html()?;
        for svg in html.split("<svg").skip(1).filter_map(|s| s.split("</svg>").next()) {
            for attribute in svg.split('"').skip(1).step_by(2) {
                assert!(!attribute.contains("NaN") && !attribute.contains("inf"), "case {n}: {attribute}");
            }
        }
    }
    assert!(report("words", |_| f64::NAN).to_markdown()?.contains("30 values have no place on the axes"));
    Ok(())
}

#[test]
fn data_that_do_not_fit_are_errors_before_anything_is_written() -> Outcome {
    let lines = |band: usize| {
        let series = Series::new("s", [[0.0, 0.0]]).with_band(vec![[0.0; 2]; band]);
        Block::from(Figure::new("loss", "", Lines { series: vec![series], ..Lines::default() }))
    };
    let named = |id: &str| Block::from(Figure::new(id, "", Images::default()));
    let mut table = Table::new("scores", ["a", "b"]);
    table.row(["x".into(), "y".into()]).row(["x".into()]);
    let cases: [(Vec<Block>, &str); 5] = [
        (vec![table.into()], "table `scores`: row 1 has 1 cells, expected 2, one for each column"),
        (
            vec![named("../x")],
            "figure id `../x` must be 1 to 100 letters, digits, `-` or `_`: it names the file `figures/ID.svg`",
        ),
        (
            vec![named("")],
            "figure id `` must be 1 to 100 letters, digits, `-` or `_`: it names the file `figures/ID.svg`",
        ),
        (
            vec![named("a"), named("A")],
            "figure id `A` is used twice; give each figure its own, for it names the file `figures/A.svg`",
        ),
        (vec![lines(2)], "figure `loss`: the band of series `s` has 2 entries, expected 1, one a point"),
    ];
    let folder = tempfile::tempdir()?;
    for (blocks, wanted) in cases {
        let report = Report { sections: vec![Section { heading: "h".into(), blocks }], ..Report::default() };
        let message = report.write(folder.path()).err().map(|e| e.to_string());
        assert_eq!(message.as_deref(), Some(wanted));
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);
    }
    Ok(())
}

#[test]
fn a_backtick_without_its_partner_is_itself() {
    assert_eq!(spans("a `b` c"), [Span::Plain("a "), Span::Code("b"), Span::Plain(" c")]);
    assert_eq!(spans("a `b"), [Span::Plain("a `b")]);
    assert_eq!(spans(""), []);
}
