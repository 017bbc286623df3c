//! The report of the quick suite.

use std::time::Duration;

use dml_data::ImageSet;
use dml_retrieval::paired_difference;

use super::QuickConfig;
use super::directed::QUERIES;
use super::directed_report;
use crate::report::{
    Axis, Bar, Bars, Cell, Column, Estimate, Figure, Form, Group, Lines, Point, Report, Scatter, Section,
    Series, Table,
};
use crate::suite::Finished;
use crate::suite::metric::{METHODS, PROTOCOLS};
use crate::suite::tables::{LEVEL, Runs, cell, estimate, numbers, verdict};
use crate::{Method, Result};

/// What the report knows of the suite.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub config: &'a QuickConfig,
    pub digits: &'a ImageSet,
    pub workers: usize,
    pub elapsed: Duration,
    pub command: &'a str,
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
    for query in QUERIES {
        sections.push(directed_report::section(&facts, &runs, query)?);
    }
    sections.push(how_section(&facts, &runs));
    let QuickConfig { metric_seeds, directed_seeds, .. } = facts.config;
    let intro = vec![
        format!(
            "A convolutional encoder and a convex function φ are trained together on real digits; the Bregman \
             divergence `D(x ‖ y) = φ(x) − φ(y) − ⟨∇φ(y), x − y⟩` is the distance. Every number comes from this \
             suite: {} with {} at a time, on {} images of MNIST.",
            runs.took(facts.elapsed),
            facts.workers,
            facts.digits.len(),
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
         scale; only the generator differs, and its learning rate, the best of three for it on held-out training images \
         (`cargo run -p dml --example select_rates -- metric`). Under D, `D(query ‖ item)` ranks the images; \
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

fn how_section(facts: &Facts<'_>, runs: &Runs<'_>) -> Section {
    let mut section = Section::new("How to get these numbers");
    section.paragraph("The command of this run; the same seeds give the same bytes in `metrics.jsonl`.");
    section.code(facts.command);
    let total = runs.time("").0;
    let waiting = PROTOCOLS.map(|(protocol, name)| {
        format!("{:.1} % in the {name} runs", 100.0 * runs.time(&format!("{protocol}/")).1.waiting())
    });
    section.paragraph(format!(
        "Each run's folder holds its whole configuration (`config.toml`) and results (`record.toml`); \
         `metrics.jsonl` holds all of them. The runs took {total:.0} s of one core's time altogether. Each works on \
         one thread, {} at a time. Of the time that training steps took they waited for data: {}.",
        facts.workers,
        waiting.join(", ")
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
