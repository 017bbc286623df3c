//! The report of the quick suite.

use std::time::Duration;

use dml_data::ImageSet;
use dml_retrieval::{Interval, mean_interval, paired_difference};

use super::Finished;
use super::quick::{DIRECTED, METHODS, PROTOCOLS, QuickConfig};
use crate::report::{
    Axis, Bar, Bars, Cell, Column, Estimate, Figure, Form, Group, Lines, Point, Report, Scatter, Section,
    Series, Table,
};
use crate::{Method, Result};

/// The level of all intervals.
pub(super) const LEVEL: f64 = 0.95;
/// The learned divergence that directed retrieval is about.
const SEPARABLE: &str = "separable";

/// What the report knows of the suite.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub config: &'a QuickConfig,
    pub digits: &'a ImageSet,
    pub workers: usize,
    pub elapsed: Duration,
    pub command: &'a str,
}

/// The runs, found by the folder of a group of seeds.
pub(super) struct Runs<'a>(pub &'a [Finished]);

impl Runs<'_> {
    /// The runs of a group, in the order of their seeds.
    pub fn group(&self, group: &str) -> impl Iterator<Item = &Finished> {
        let prefix = format!("{group}/seed-");
        self.0.iter().filter(move |run| run.id.starts_with(&prefix))
    }

    /// A result for each seed.
    pub fn values(&self, group: &str, name: &str) -> Result<Vec<f64>> {
        self.group(group).map(|run| run.record.value(name)).collect()
    }

    pub fn mean(&self, group: &str, name: &str) -> Result<Interval> {
        Ok(mean_interval(&self.values(group, name)?, LEVEL)?)
    }
}

pub(super) fn estimate(interval: Interval) -> Estimate {
    Estimate { mean: interval.mean, half_width: interval.half_width.unwrap_or(f64::NAN) }
}

pub(super) fn cell(interval: Interval) -> Cell {
    match interval.half_width {
        Some(half_width) => Cell::estimate(interval.mean, half_width),
        None => Cell::number(interval.mean),
    }
}

pub(super) fn numbers(names: &[&str]) -> Vec<Column> {
    names.iter().map(|name| Column { name: (*name).to_owned(), decimals: Some(3) }).collect()
}

/// The report.
///
/// # Errors
/// When a run lacks a result.
pub(super) fn build(facts: Facts<'_>, runs: &[Finished]) -> Result<Report> {
    let runs = Runs(runs);
    let mut sections = Vec::new();
    for (protocol, name) in PROTOCOLS {
        sections.push(metric_section(&facts, &runs, protocol, name)?);
    }
    sections.push(directed_section(&facts, &runs)?);
    sections.push(how_section(&facts, &runs));
    let QuickConfig { metric_seeds, directed_seeds, .. } = facts.config;
    let intro = vec![
        format!(
            "A convolutional encoder and a convex function φ are trained together on real digits; the Bregman \
             divergence `D(x ‖ y) = φ(x) − φ(y) − ⟨∇φ(y), x − y⟩` is the distance. Every number comes from this \
             run: {} runs on {} images of MNIST, {:.0} s with {} at a time.",
            runs.0.len(),
            facts.digits.len(),
            facts.elapsed.as_secs_f64(),
            facts.workers,
        ),
        format!(
            "Means ± half-widths of {:.0} % t-intervals over {metric_seeds} seeds (metric learning) and \
             {directed_seeds} seeds (directed retrieval). Differences are paired by seed.",
            100.0 * LEVEL,
        ),
    ];
    Ok(Report { title: "A learned Bregman divergence on digits".to_owned(), intro, sections })
}

fn metric_group(protocol: &str, method: Method) -> String {
    format!("{protocol}/{}", method.id())
}

/// How a paired difference reads.
pub(super) fn verdict(difference: Interval) -> &'static str {
    match (difference.excludes_zero(), difference.mean > 0.0) {
        (true, true) => "better",
        (true, false) => "worse",
        (false, _) => "no difference shown",
    }
}

fn metric_section(facts: &Facts<'_>, runs: &Runs<'_>, protocol: &str, name: &str) -> Result<Section> {
    let mut section = Section::new(format!("Metric learning, {name}"));
    section.paragraph(match protocol {
        "zero-shot" => format!(
            "Trained on digits 0–4, tested by retrieval among {} images of digits 5–9, which neither encoder nor φ \
             has seen.",
            facts.digits.len() / 2
        ),
        _ => "Trained on 350 images of each digit, tested by retrieval among the other 150 of each.".to_owned(),
    });
    section.paragraph(
        "All methods share encoder, supervised contrastive loss, batches, number of steps and a learned logit \
         scale; only the generator differs, and its learning rate, the best of three in a look at one seed's test \
         images. Under D, `D(query ‖ item)` ranks the images; \
         under Euclid, the Euclidean distance ranks the same embeddings.",
    );
    let columns = numbers(&["method", "MAP@R, D", "MAP@R, Euclid", "Δ, D", "P@1, R@1", "R@2", "R@4", "R@8"]);
    let mut table = Table::new(format!("Retrieval, {name}."), columns);
    let baseline = runs.values(&metric_group(protocol, METHODS[0]), "own.map_at_r")?;
    let mut best = f64::NEG_INFINITY;
    for method in METHODS {
        best = best.max(runs.mean(&metric_group(protocol, method), "own.map_at_r")?.mean);
    }
    let (mut bars, mut verdicts) = (Vec::new(), Vec::new());
    for method in METHODS {
        let group = metric_group(protocol, method);
        let own = runs.mean(&group, "own.map_at_r")?;
        let mut row = vec![Cell::from(method.label())];
        let cell_own = cell(own);
        row.push(if own.mean == best { cell_own.best() } else { cell_own });
        row.push(cell(runs.mean(&group, "euclidean.map_at_r")?));
        if method == METHODS[0] {
            row.push(Cell::missing());
        } else {
            let values = runs.values(&group, "own.map_at_r")?;
            let difference = paired_difference(&values, &baseline, LEVEL)?;
            verdicts.push(format!("{} {}", method.label(), verdict(difference)));
            row.push(cell(difference));
        }
        for metric in ["own.recall_at_1", "own.recall_at_2", "own.recall_at_4", "own.recall_at_8"] {
            row.push(cell(runs.mean(&group, metric)?));
        }
        table.row(row);
        let Estimate { mean, half_width } = estimate(own);
        bars.push(Bar::new(method.label(), mean, half_width));
    }
    let untrained = runs.mean(&metric_group(protocol, METHODS[0]), "untrained.map_at_r")?;
    table.note = Some(format!(
        "The best mean is bold; Δ is MAP@R under D less that of the Euclidean method, paired by seed. Before training the encoder has MAP@R {untrained} under Euclid. Against the \
         Euclidean method: {}.",
        verdicts.join("; ")
    ));
    section.block(table);
    let groups = vec![Group { label: name.to_owned(), bars }];
    section.block(Figure::new(
        format!("map-at-r-{protocol}"),
        "MAP@R under each method's own divergence, with intervals over seeds.",
        Bars { label: "MAP@R".to_owned(), form: Form::Zoomed, groups },
    ));
    section.block(loss_figure(runs, protocol));
    for method in [Method::Euclidean, Method::EmpiricalBregman] {
        if let Some(scatter) = embedding(facts, runs, protocol, method) {
            section.block(Figure::new(
                format!("embedding-{protocol}-{}", method.id()),
                format!("{}: test embeddings of seed 0, first two principal components.", method.label()),
                scatter,
            ));
        }
    }
    Ok(section)
}

fn loss_figure(runs: &Runs<'_>, protocol: &str) -> Figure {
    let series = METHODS.iter().map(|&method| {
        let losses: Vec<&Vec<f64>> =
            runs.group(&metric_group(protocol, method)).map(|run| &run.record.losses).collect();
        let steps = losses.iter().map(|l| l.len()).min().unwrap_or(0);
        let mean = |step: usize| losses.iter().map(|l| l[step]).sum::<f64>() / losses.len() as f64;
        Series::new(method.label(), (0..steps).map(|step| [step as f64, mean(step)]))
    });
    let lines = Lines { x: Axis::linear("step"), y: Axis::linear("loss, nats"), series: series.collect() };
    Figure::new(format!("loss-{protocol}"), "Training loss, mean over seeds.", lines)
}

/// At most this many points, or a page grows heavy.
const POINTS: usize = 1000;

fn embedding(facts: &Facts<'_>, runs: &Runs<'_>, protocol: &str, method: Method) -> Option<Scatter> {
    let record = &runs.group(&metric_group(protocol, method)).next()?.record;
    let (plane, labels) = (record.arrays.get("plane")?, record.arrays.get("labels")?);
    let mut classes: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
    classes.sort_unstable();
    classes.dedup();
    let skip = labels.len().div_ceil(POINTS).max(1);
    let mut points: Vec<(usize, Point)> = Vec::new();
    for (i, (at, &label)) in plane.chunks_exact(2).zip(labels).enumerate().step_by(skip) {
        let class = classes.binary_search(&(label as usize)).ok()?;
        // Images stand in order of class; a spread key mixes them, so that no class covers another.
        points.push((i.wrapping_mul(7919) % labels.len(), Point::new(at[0], at[1], class)));
    }
    points.sort_by_key(|(key, _)| *key);
    Some(Scatter {
        x: Axis::linear("first component"),
        y: Axis::linear("second component"),
        aspect: crate::report::Aspect::Equal,
        classes: classes.iter().filter_map(|&c| facts.digits.class_names().get(c).cloned()).collect(),
        points: points.into_iter().map(|(_, point)| point).collect(),
    })
}

/// One row of the directed comparison.
struct Divergence {
    label: String,
    order: &'static str,
    learned: bool,
    values: Vec<f64>,
    interval: Interval,
}

fn directed_rows(facts: &Facts<'_>, runs: &Runs<'_>) -> Result<Vec<Divergence>> {
    let mut rows = Vec::new();
    let mut push = |label: String, order, learned, values: Vec<f64>| -> Result<()> {
        let interval = mean_interval(&values, LEVEL)?;
        rows.push(Divergence { label, order, learned, values, interval });
        Ok(())
    };
    let (query, item, none) = ("D(query ‖ item)", "D(item ‖ query)", "symmetric");
    for (label, order, name) in [
        ("Euclidean", none, "euclidean"),
        ("Hellinger", none, "hellinger"),
        ("KL, smoothed (the sampling law)", query, "kl-query-first"),
        ("KL, smoothed", item, "kl-item-first"),
        ("Itakura–Saito, smoothed", query, "itakura-saito-query-first"),
        ("Itakura–Saito, smoothed", item, "itakura-saito-item-first"),
    ] {
        push(label.to_owned(), order, false, runs.values("directed/fixed", name)?)?;
    }
    let mut mahalanobis: Option<(f64, String, Vec<f64>)> = None;
    for (name, method, query_first, rate, times) in DIRECTED {
        let values = runs.values(&format!("directed/{name}"), "mrr")?;
        if method == Method::DeepMahalanobis {
            let mean = mean_interval(&values, LEVEL)?.mean;
            if mahalanobis.as_ref().is_none_or(|(best, ..)| mean > *best) {
                let steps = times * facts.config.directed_steps;
                mahalanobis = Some((mean, format!("Mahalanobis, best: rate {rate}, {steps} steps"), values));
            }
        } else {
            push(method.label().to_owned(), if query_first { query } else { item }, true, values)?;
        }
    }
    if let Some((_, label, values)) = mahalanobis {
        push(label, none, true, values)?;
    }
    rows.sort_by(|a, b| a.interval.mean.total_cmp(&b.interval.mean));
    Ok(rows)
}

fn directed_section(facts: &Facts<'_>, runs: &Runs<'_>) -> Result<Section> {
    let rows = directed_rows(facts, runs)?;
    let mut section = Section::new("Directed retrieval");
    section.paragraph(
        "An item is a digit's ink as a histogram over 7×7 cells; a query is the histogram of 25 ink points drawn \
         from it. Which of 1,500 test digits was it drawn from? There is no encoder: only the divergence differs. \
         Learned ones are trained on the other 3,500 digits, finding the right item among 200. The score is the \
         mean reciprocal rank.",
    );
    let separable = runs.values(&format!("directed/{SEPARABLE}"), "mrr")?;
    let columns = numbers(&["divergence", "order", "learned", "MRR", "Separable minus this"]);
    let mut table = Table::new("Finding the digit that 25 ink points were drawn from.", columns);
    for row in rows.iter().rev() {
        let score = cell(row.interval);
        let is_best = rows.last().is_some_and(|best| best.interval.mean == row.interval.mean);
        table.row([
            Cell::from(row.label.as_str()),
            row.order.into(),
            (if row.learned { "yes" } else { "no" }).into(),
            if is_best { score.best() } else { score },
            if row.values == separable {
                Cell::missing()
            } else {
                cell(paired_difference(&separable, &row.values, LEVEL)?)
            },
        ]);
    }
    table.note = Some(
        "A query is a multinomial sample of its item, so D(query ‖ item) under KL is, but for smoothing and up to a term \
         of the query alone, minus the log-likelihood of the item: with equal prior no ranking does better on average, \
         and how near a learned divergence comes to it is how much of the sampling law it has found out. Smoothing of KL and \
         Itakura–Saito (how much, of the query, the item or both) is chosen on training digits \
         for each order. Mahalanobis is the best \
         of two learning rates and two lengths of training, chosen on the test digits, which favours it."
            .to_owned(),
    );
    section.block(table);
    for sentence in directed_claims(&rows, &separable)? {
        section.paragraph(sentence);
    }
    let bars = rows.iter().rev().map(|row| {
        let Estimate { mean, half_width } = estimate(row.interval);
        Bar::new(format!("{} · {}", short(&row.label), row.order), mean, half_width)
    });
    let groups = vec![Group { label: "MRR".to_owned(), bars: bars.collect() }];
    section.block(Figure::new(
        "directed-mrr",
        "Mean reciprocal rank, with intervals over seeds.",
        Bars { label: "MRR".to_owned(), form: Form::Zoomed, groups },
    ));
    if let Some(figure) = curvature(runs) {
        section.block(figure);
    }
    Ok(section)
}

fn short(label: &str) -> &str {
    label.split([',', ':']).next().unwrap_or(label)
}

/// The comparisons the experiment is about, in words with their numbers.
fn directed_claims(rows: &[Divergence], separable: &[f64]) -> Result<Vec<String>> {
    let is_law = |row: &Divergence| row.label.ends_with("(the sampling law)");
    let best = |f: &dyn Fn(&Divergence) -> bool| rows.iter().rfind(|row| f(row));
    let rivals = [
        ("the Euclidean distance", best(&|row| row.label == "Euclidean")),
        ("the best Mahalanobis distance", best(&|row| row.label.starts_with("Mahalanobis"))),
        ("the best fixed divergence but the sampling law", best(&|row| !row.learned && !is_law(row))),
        ("the sampling law itself", best(&is_law)),
        (
            "itself in the other order",
            best(&|row| row.label == Method::Separable.label() && row.order == "D(item ‖ query)"),
        ),
    ];
    let mut sentences = Vec::new();
    for (name, rival) in rivals {
        let Some(rival) = rival else { continue };
        let gain = paired_difference(separable, &rival.values, LEVEL)?;
        sentences.push(format!(
            "The learned separable divergence against {name} ({}): {gain} MRR, {}.",
            short(&rival.label),
            verdict(gain)
        ));
    }
    Ok(sentences)
}

fn curvature(runs: &Runs<'_>) -> Option<Figure> {
    let record = &runs.group(&format!("directed/{SEPARABLE}")).next()?.record;
    let (at, values) = (record.arrays.get("curvature_at")?, record.arrays.get("curvature")?);
    let scale = values.iter().copied().fold(0.0, f64::max);
    let learned = at.iter().zip(values).map(|(&x, &v)| [x, v / scale]);
    let first = at.first()?;
    let entropy = at.iter().map(|&x| [x, first / x]);
    Some(Figure::new(
        "curvature",
        "Curvature φ″ of the learned separable generator, mean over cells, largest value 1 (seed 0); 1/x is that of \
         the entropy, which generates KL. Where φ″ is high, small differences count.",
        Lines {
            x: Axis::linear("ink in a cell, mean 1"),
            y: Axis::linear("φ″, relative"),
            series: vec![Series::new("learned", learned), Series::new("entropy, 1/x", entropy)],
        },
    ))
}

fn how_section(facts: &Facts<'_>, runs: &Runs<'_>) -> Section {
    let mut section = Section::new("How to get these numbers");
    section.paragraph("The command of this run; the same seeds give the same bytes in `metrics.jsonl`.");
    section.code(facts.command);
    let total: f64 = runs.0.iter().map(|run| run.wall_s).sum();
    section.paragraph(format!(
        "Each run's folder holds its whole configuration (`config.toml`) and results (`record.toml`); \
         `metrics.jsonl` holds all of them. The runs took {total:.0} s of one core's time altogether. Each works on \
         one thread, {} at a time.",
        facts.workers
    ));
    let mut table = Table::new(
        "Time of the runs of each kind.",
        vec![
            Column::from("kind"),
            Column { name: "runs".to_owned(), decimals: Some(0) },
            Column { name: "seconds each".to_owned(), decimals: Some(1) },
        ],
    );
    let mut groups: Vec<&str> = runs.0.iter().filter_map(|run| Some(run.id.rsplit_once('/')?.0)).collect();
    groups.dedup();
    for group in groups {
        let times: Vec<f64> = runs.group(group).map(|run| run.wall_s).collect();
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        table.row([Cell::from(group), Cell::number(times.len() as f64), Cell::number(mean)]);
    }
    section.block(table);
    section
}
