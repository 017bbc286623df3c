//! What the quick suite's report says about directed retrieval.

use bregman::Side;
use dml_retrieval::{Interval, mean_interval, paired_difference};

use super::directed::{Learned, OF_SEEN_CELLS, POINTS, Query, fixed};
use super::report::Facts;
use crate::report::{Axis, Bar, Bars, Cell, Estimate, Figure, Form, Group, Lines, Section, Series, Table};
use crate::suite::tables::{LEVEL, Runs, cell, estimate, numbers, verdict};
use crate::task::{Embedding, Hidden};
use crate::{Method, Result};

/// One row of the comparison.
struct Row {
    label: String,
    order: &'static str,
    kind: Kind,
    values: Vec<f64>,
    interval: Interval,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The law that queries are drawn by.
    Law,
    Fixed,
    Learned,
    /// The learned divergence that the others are compared with.
    Reference,
}

fn order(side: Option<Side>) -> &'static str {
    match side {
        Some(Side::First) => "D(query ‖ item)",
        Some(Side::Second) => "D(item ‖ query)",
        None => "symmetric",
    }
}

/// All rows, the highest score first.
fn rows(facts: &Facts<'_>, runs: &Runs<'_>, query: Query, law: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut push = |label: String, order, kind, values: Vec<f64>| -> Result<()> {
        let interval = mean_interval(&values, LEVEL)?;
        rows.push(Row { label, order, kind, values, interval });
        Ok(())
    };
    let group = format!("{}/fixed", query.id);
    push(law.to_owned(), "likelihood", Kind::Law, runs.values(&group, "law")?)?;
    for (name, label, side) in fixed(query.hidden) {
        push(label.to_owned(), order(side), Kind::Fixed, runs.values(&group, name)?)?;
    }
    for Learned { id, method, query_first, embedding, times, .. } in query.learned {
        let side = if *query_first { Side::First } else { Side::Second };
        let mut label = match embedding {
            Embedding::Nothing => method.label().to_owned(),
            Embedding::Shared(_) => "MLP embedding".to_owned(),
            Embedding::Towers(_) => "MLP embedding for each side".to_owned(),
        };
        if *times > 1 {
            label = format!("{label}, {} steps", times * facts.config.directed_steps);
        }
        let symmetric = matches!(method, Method::Euclidean | Method::DeepMahalanobis);
        let order = if symmetric { order(None) } else { order(Some(side)) };
        let kind = if *id == query.reference { Kind::Reference } else { Kind::Learned };
        push(label, order, kind, runs.values(&format!("{}/{id}", query.id), "mrr")?)?;
    }
    rows.sort_by(|a, b| b.interval.mean.total_cmp(&a.interval.mean));
    Ok(rows)
}

/// What differs between the kinds of queries, in words.
struct Words {
    title: &'static str,
    setting: String,
    law: &'static str,
    about_the_law: &'static str,
}

fn words(facts: &Facts<'_>, hidden: Hidden) -> Words {
    let cells = hidden.cells();
    match hidden {
        Hidden::Nothing => Words {
            title: "Directed retrieval",
            setting: format!(
                "An item is a digit's ink as a histogram over 7×7 cells; a query is the histogram of {POINTS} ink \
                 points drawn from it. Which of 1,500 test digits was it drawn from? Only the \
                 divergence differs, but for the usual way beside it: a network's embeddings under the Euclidean \
                 distance. What is learned is trained on the other 3,500 digits, finding the right item among \
                 200, for {} steps if nothing else is said. The score is the mean reciprocal rank (MRR).",
                facts.config.directed_steps
            ),
            law: "The law (ceiling)",
            about_the_law: "The ceiling is the law itself: a query is a multinomial sample of its item, and items are \
                ranked by the exact likelihood of the points, those without ink under one of them last. With equal \
                priors no ranking does better on average. KL(query ‖ item), but for smoothing, is minus that likelihood \
                up to a term of the query alone: it is the right fixed divergence where the law is known. A learned one \
                has to find it from pairs.",
        },
        Hidden::Same { .. } => Words {
            title: "Directed retrieval with blind cells",
            setting: format!(
                "The same, but points in {cells} of the 49 cells never reach a query, as with a sensor that has blind \
                 spots: the same cells in all queries, of training and test, and others for each seed. No divergence is \
                 told which. Learned ones are trained on such queries, and fixed ones chosen on them."
            ),
            law: "The law, told the cells",
            about_the_law: "The ceiling is the likelihood of the points that are left, given which cells are blind and \
                how many points fell into them. No fixed divergence of all cells is that law. A \
                learned divergence finds the blind cells from pairs; counting finds them too, and KL over the cells in \
                which some training query has a point is a row of its own. Which cells are blind decides how hard a \
                seed is, so scores spread widely, all alike, and differences do not.",
        },
        Hidden::Anew { .. } => Words {
            title: "Directed retrieval, half of the cells hidden",
            setting: format!(
                "The same, but of each query's points those in {cells} of the 49 cells are taken away; the cells are \
                 drawn anew for each query, and no divergence is told which. Learned divergences are trained on such \
                 queries, and fixed ones chosen on them."
            ),
            law: "The law, told the cells",
            about_the_law: "The first row is the likelihood of the points left, given which cells were hidden and how \
                many points were in them: more than any divergence knows, so nothing can be expected to come near it.",
        },
    }
}

/// The section of one kind of queries.
///
/// # Errors
/// When a run lacks a result.
pub(super) fn section(facts: &Facts<'_>, runs: &Runs<'_>, query: Query) -> Result<Section> {
    let words = words(facts, query.hidden);
    let rows = rows(facts, runs, query, words.law)?;
    let hidden = query.hidden != Hidden::Nothing;
    let mut section = Section::new(words.title);
    section.paragraph(words.setting);
    section.paragraph(words.about_the_law);
    let law = rows.iter().find(|row| row.kind == Kind::Law).map_or(&[][..], |row| &row.values);
    let reference = rows.iter().find(|row| row.kind == Kind::Reference);
    let (name, compared) = reference.map_or(("", &[][..]), |row| (row.label.as_str(), &row.values[..]));
    let difference = format!("{name} minus this");
    let columns = numbers(&["divergence", "order", "learned", "MRR", "share of the law's", &difference]);
    let mut table =
        Table::new(format!("Finding the digit that {POINTS} ink points were drawn from."), columns);
    let best = rows.iter().find(|row| row.kind != Kind::Law).map_or(f64::NAN, |row| row.interval.mean);
    for row in &rows {
        let score = cell(row.interval);
        let shares: Vec<f64> = row.values.iter().zip(law).map(|(value, law)| value / law).collect();
        table.row([
            Cell::from(row.label.as_str()),
            row.order.into(),
            (if matches!(row.kind, Kind::Learned | Kind::Reference) { "yes" } else { "no" }).into(),
            if row.interval.mean == best { score.best() } else { score },
            if row.kind == Kind::Law { Cell::number(1.0) } else { cell(mean_interval(&shares, LEVEL)?) },
            if row.kind == Kind::Reference {
                Cell::missing()
            } else {
                cell(paired_difference(compared, &row.values, LEVEL)?)
            },
        ]);
    }
    table.note = Some(format!(
        "The best divergence is bold; differences and shares are paired by seed. Everything that was chosen was chosen on training \
         digits: the smoothing of KL and Itakura–Saito (how much, of the query, the item or both{}) by each run for each \
         order, rates and lengths of training beforehand (`cargo run -p dml --example select_rates -- directed`).",
        if hidden { "; and whether queries are rescaled to the items' mean" } else { "" }
    ));
    section.block(table);
    section.paragraph(
        format!("{name}, {}, against", order(Some(Side::First))) + &claims(&rows, name, compared, hidden)?,
    );
    let bars = rows.iter().map(|row| {
        let Estimate { mean, half_width } = estimate(row.interval);
        Bar::new(format!("{} · {}", short(&row.label), row.order), mean, half_width)
    });
    let groups = vec![Group { label: String::new(), bars: bars.collect() }];
    section.block(Figure::new(
        format!("{}-mrr", query.id),
        "Mean reciprocal rank, with intervals over seeds.",
        Bars { label: "MRR".to_owned(), form: Form::Zoomed, groups },
    ));
    if let Some(figure) = curvature(runs, query).filter(|_| !hidden) {
        section.block(figure);
    }
    Ok(section)
}

fn short(label: &str) -> &str {
    label.split([',', '(']).next().unwrap_or(label).trim_end()
}

/// The comparisons the experiment is about, in words with their numbers.
fn claims(rows: &[Row], name: &str, compared: &[f64], hidden: bool) -> Result<String> {
    let best = |f: &dyn Fn(&Row) -> bool| rows.iter().find(|row| f(row));
    // The law itself where nothing is hidden, and nearly so over the cells seen.
    let seen = |row: &Row| row.label == OF_SEEN_CELLS.1;
    let kl = |row: &Row| !hidden && row.label.starts_with("KL") && row.order == order(Some(Side::First));
    let best_fixed =
        if hidden { "the best fixed divergence of all cells" } else { "the best other fixed divergence" };
    let rivals = [
        ("the sampling law", best(&|row| row.kind == Kind::Law)),
        ("KL(query ‖ item)", best(&kl)),
        ("KL over the cells seen", best(&seen)),
        (best_fixed, best(&|row| row.kind == Kind::Fixed && !kl(row) && !seen(row))),
        ("the Euclidean distance of learned embeddings", best(&|row| row.label.starts_with("MLP"))),
        ("the Mahalanobis distance", best(&|row| row.label.starts_with(Method::DeepMahalanobis.label()))),
        ("the Euclidean distance", best(&|row| row.label == "Euclidean")),
        ("itself in the other order", best(&|row| row.kind == Kind::Learned && row.label == name)),
    ];
    let mut parts = Vec::new();
    for (what, rival) in rivals {
        let Some(rival) = rival else { continue };
        let gain = paired_difference(compared, &rival.values, LEVEL)?;
        let which = match what.starts_with("the best") {
            true => format!(" ({}, {})", short(&rival.label), rival.order),
            false => String::new(),
        };
        parts.push(format!("{what}{which} {} MRR, {}", estimate(gain).display(3), verdict(gain)));
    }
    Ok(format!(": {}.", parts.join("; ")))
}

fn curvature(runs: &Runs<'_>, query: Query) -> Option<Figure> {
    let record = &runs.group(&format!("{}/{}", query.id, query.reference)).next()?.record;
    let (at, values) = (record.arrays.get("curvature_at")?, record.arrays.get("curvature")?);
    // Of the curve learned and of 1/x, the value at 1, where the mean of all cells lies.
    let nearest = at.iter().zip(values).min_by(|a, b| a.0.ln().abs().total_cmp(&b.0.ln().abs()))?;
    let learned = at.iter().zip(values).map(|(&x, &v)| [x, v / nearest.1]);
    let entropy = at.iter().map(|&x| [x, nearest.0 / x]);
    Some(Figure::new(
        "curvature",
        "Curvature φ″ of the learned separable generator, mean over cells (seed 0); 1/x is that of the entropy, which \
         generates KL. Both are 1 at the mean ink of a cell. Where φ″ is high, small differences count.",
        Lines {
            x: Axis::log("ink in a cell, mean 1"),
            y: Axis::log("φ″, relative"),
            series: vec![Series::new("learned", learned), Series::new("entropy, 1/x", entropy)],
        },
    ))
}
