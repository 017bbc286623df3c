//! The report of the suite on the paper's sets.

use std::time::Duration;

use dml_data::{Completeness, Manifest, Part};
use dml_retrieval::{Interval, paired_difference};

use super::{Found, PaperConfig, Problem, RATES, chosen_rate};
use crate::Result;
use crate::report::{Bar, Bars, Cell, Column, Estimate, Figure, Form, Group, Report, Section, Table};
use crate::suite::Finished;
use crate::suite::metric::{METHODS, PROTOCOLS};
use crate::suite::tables::{LEVEL, Runs, cell, estimate, numbers, verdict};

/// What the report knows of the suite.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub config: &'a PaperConfig,
    pub sets: &'a [Found],
    pub problems: &'a [Problem],
    pub workers: usize,
    pub elapsed: Duration,
    pub manifest: &'a Manifest,
    pub command: &'a str,
}

/// The report.
///
/// # Errors
/// When a run lacks a result.
pub(super) fn build(facts: &Facts<'_>, finished: &[Finished]) -> Result<Report> {
    let runs = Runs(finished);
    let mut sections = vec![overview(facts, &runs)?, data(facts)?];
    for (set, name) in facts.sets.iter().zip(&facts.config.datasets) {
        if matches!(set, Found::There(_)) {
            sections.push(set_section(facts, &runs, name)?);
        }
    }
    sections.push(how(facts, &runs));
    let (there, missing) = names(facts);
    let mut intro = vec![format!(
        "Metric learning on {}, closed-set and zero-shot: {} methods × {} seeds × {} steps, {} on {} \
         workers, with those that chose learning rates.",
        there.join(", "),
        METHODS.len(),
        facts.config.seeds,
        facts.config.steps,
        runs.took(facts.elapsed),
        facts.workers,
    )];
    if !missing.is_empty() {
        intro.push(format!(
            "Missing, so not in this report: {}. The section Data says why.",
            missing.join(", ")
        ));
    }
    let partial: Vec<String> = facts.problems.iter().filter_map(partial_mark).collect();
    if !partial.is_empty() {
        let mut partial = partial;
        partial.dedup();
        intro.push(format!(
            "Figures from a part of a set are not figures of the set, and must not be compared with published ones: {}.",
            partial.join("; ")
        ));
    }
    intro.push(
        "All methods share encoder (two convolutions, embeddings of 32 dimensions and length 1), supervised \
         contrastive loss, batches, number of steps and a learned logit scale, without augmentation; only the \
         generator differs, and its learning rate. The runs are short: they compare geometries, not records."
            .to_owned(),
    );
    intro.push(format!(
        "Means ± half-widths of {:.0} % t-intervals over {} seeds. Differences are paired by seed.",
        100.0 * LEVEL,
        facts.config.seeds
    ));
    Ok(Report { title: "A learned Bregman divergence on the paper's sets".to_owned(), intro, sections })
}

fn names(facts: &Facts<'_>) -> (Vec<String>, Vec<String>) {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for (set, name) in facts.sets.iter().zip(&facts.config.datasets) {
        match set {
            Found::There(_) => there.push(label(facts, name)),
            Found::Missing { name, .. } => missing.push(name.clone()),
        }
    }
    (there, missing)
}

/// `fashion-mnist: only the first 20,000 …`, of a part.
fn partial_mark(problem: &Problem) -> Option<String> {
    match &problem.completeness {
        Completeness::Complete => None,
        Completeness::Partial { what, .. } => Some(format!("{}: {what}", problem.set)),
    }
}

/// The name of a set with its mark.
fn label(facts: &Facts<'_>, set: &str) -> String {
    let partial = facts.problems.iter().any(|p| p.set == set && p.completeness != Completeness::Complete);
    if partial { format!("{set} (PARTIAL)") } else { set.to_owned() }
}

fn of_protocol<'a>(facts: &'a Facts<'_>, set: &'a str) -> impl Iterator<Item = (&'a Problem, &'static str)> {
    facts.problems.iter().filter(move |problem| problem.set == set).map(|problem| {
        let name = PROTOCOLS.iter().find(|(id, _)| *id == problem.protocol).map_or("", |(_, name)| name);
        (problem, name)
    })
}

fn overview(facts: &Facts<'_>, runs: &Runs<'_>) -> Result<Section> {
    let mut section = Section::new("Overview");
    for (protocol, name) in PROTOCOLS {
        let problems: Vec<&Problem> = facts.problems.iter().filter(|p| p.protocol == protocol).collect();
        if problems.is_empty() {
            continue;
        }
        let mut columns = vec![Column::from("method")];
        columns.extend(problems.iter().map(|p| Column { name: label(facts, &p.set), decimals: Some(3) }));
        let mut table = Table::new(format!("MAP@R under each method's own divergence, {name}."), columns);
        let best: Vec<f64> = problems.iter().map(|problem| best(runs, problem)).collect::<Result<_>>()?;
        for method in METHODS {
            let mut row = vec![Cell::from(method.label())];
            for (problem, best) in problems.iter().zip(&best) {
                let score = runs.mean(&problem.group(method), "own.map_at_r")?;
                let cell = cell(score);
                row.push(if score.mean == *best { cell.best() } else { cell });
            }
            table.row(row);
        }
        table.note = Some("The best mean of a column is bold; whether it is better than the Euclidean method's, the section of its set says. Closed-set and zero-shot figures are not comparable.".to_owned());
        section.block(table);
    }
    Ok(section)
}

fn best(runs: &Runs<'_>, problem: &Problem) -> Result<f64> {
    METHODS.into_iter().try_fold(f64::NEG_INFINITY, |best, method| {
        Ok(best.max(runs.mean(&problem.group(method), "own.map_at_r")?.mean))
    })
}

fn data(facts: &Facts<'_>) -> Result<Section> {
    let mut section = Section::new("Data");
    section.paragraph(
        "Closed-set: trained on the official training part, tested by retrieval within the official test part, the \
         same classes. Zero-shot: trained on the first half of the classes of the training part, tested by retrieval \
         among the images of the other classes of the test part. Pictures larger than 32 pixels a side are reduced \
         to that, antialiased. Mean and deviation for normalization are those of the training images.",
    );
    let columns =
        ["set", "protocol", "training images", "test images", "official", "state"].map(Column::from);
    let mut table = Table::new(
        "The sets, as they were found; the official numbers are of training and test images.",
        columns,
    );
    let mut details = Vec::new();
    for (set, name) in facts.sets.iter().zip(&facts.config.datasets) {
        let official = facts.manifest.get(name)?;
        let count = |part: Part| official.images.get(&part).map_or_else(|| "–".to_owned(), |&n| grouped(n));
        let official = format!("{} + {}", count(Part::Train), count(Part::Test));
        match set {
            Found::Missing { name, why } => {
                table.row([name, "–", "–", "–", &official, "MISSING"].map(Cell::from));
                details.push(format!("Missing: {why}."));
            }
            Found::There(benchmark) => {
                for (problem, protocol) in of_protocol(facts, name) {
                    table.row([
                        Cell::text(label(facts, name)),
                        protocol.into(),
                        Cell::text(grouped(problem.train.len())),
                        Cell::text(grouped(problem.test.len())),
                        Cell::text(official.clone()),
                        Cell::from(if benchmark.completeness == Completeness::Complete {
                            "complete"
                        } else {
                            "PARTIAL"
                        }),
                    ]);
                }
                if benchmark.completeness != Completeness::Complete {
                    details.push(format!("{name}: {}.", benchmark.completeness));
                }
            }
        }
    }
    if facts.config.most_test.is_some() {
        table.note = Some(
            "This run was cut to a few test images: it checks that all works and measures nothing."
                .to_owned(),
        );
    }
    section.block(table);
    for detail in details {
        section.paragraph(detail);
    }
    Ok(section)
}

/// 60000 as 60,000.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn set_section(facts: &Facts<'_>, runs: &Runs<'_>, set: &str) -> Result<Section> {
    let mut section = Section::new(label(facts, set));
    if let Some(mark) = facts.problems.iter().filter(|p| p.set == set).find_map(partial_mark) {
        section.paragraph(format!("A part of the set only, {mark}. These are not figures of the whole set."));
    }
    let mut groups = Vec::new();
    for (problem, name) in of_protocol(facts, set) {
        section.block(scores(facts, runs, problem, name)?);
        let mut bars = Vec::new();
        for method in METHODS {
            let Estimate { mean, half_width } = estimate(runs.mean(&problem.group(method), "own.map_at_r")?);
            bars.push(Bar::new(method.label(), mean, half_width));
        }
        groups.push(Group { label: name.to_owned(), bars });
    }
    section.block(Figure::new(
        format!("map-at-r-{set}"),
        format!(
            "{}: MAP@R under each method's own divergence, with intervals over seeds.",
            label(facts, set)
        ),
        Bars { label: "MAP@R".to_owned(), form: Form::Zoomed, groups },
    ));
    Ok(section)
}

fn scores(facts: &Facts<'_>, runs: &Runs<'_>, problem: &Problem, name: &str) -> Result<Table> {
    let columns = numbers(&["method", "MAP@R, D", "MAP@R, Euclid", "Δ, D", "P@1, R@1", "R@2", "R@4", "R@8"]);
    let mark = label(facts, &problem.set);
    let mut table = Table::new(
        format!(
            "{mark}, {name}: {} training images, retrieval among {} test images.",
            grouped(problem.train.len()),
            grouped(problem.test.len())
        ),
        columns,
    );
    let baseline = runs.values(&problem.group(METHODS[0]), "own.map_at_r")?;
    let best = best(runs, problem)?;
    let (mut verdicts, mut rates) = (Vec::new(), Vec::new());
    for method in METHODS {
        let group = problem.group(method);
        let own: Interval = runs.mean(&group, "own.map_at_r")?;
        let score = cell(own);
        let mut row = vec![Cell::from(method.label()), if own.mean == best { score.best() } else { score }];
        row.push(cell(runs.mean(&group, "euclidean.map_at_r")?));
        if method == METHODS[0] {
            row.push(Cell::missing());
        } else {
            let difference = paired_difference(&runs.values(&group, "own.map_at_r")?, &baseline, LEVEL)?;
            verdicts.push(format!("{} {}", method.label(), verdict(difference)));
            rates.push(format!("{} {}", method.label(), chosen_rate(runs.0, problem, method)?));
            row.push(cell(difference));
        }
        for metric in ["own.recall_at_1", "own.recall_at_2", "own.recall_at_4", "own.recall_at_8"] {
            row.push(cell(runs.mean(&group, metric)?));
        }
        table.row(row);
    }
    let untrained = runs.mean(&problem.group(METHODS[0]), "untrained.map_at_r")?;
    table.note = Some(format!(
        "Under D, `D(query ‖ item)` ranks the images; under Euclid, the Euclidean distance ranks the same embeddings. Δ \
         is MAP@R under D less that of the Euclidean method, paired by seed. Before training the encoder has MAP@R \
         {untrained} under Euclid. Against the Euclidean method: {}. Learning rates chosen for φ: {}.",
        verdicts.join("; "),
        rates.join(", ")
    ));
    Ok(table)
}

fn how(facts: &Facts<'_>, runs: &Runs<'_>) -> Section {
    let mut section = Section::new("How to get these numbers");
    section.paragraph("The command of this run; the same seeds give the same bytes in `metrics.jsonl`.");
    section.code(facts.command);
    section.paragraph(format!(
        "The learning rate of each generator is the best of {} by MAP@R on images held out of the training part ({} \
         steps, one seed): for closed-set a fifth of the images of each class, for zero-shot the last two of five \
         training classes whole; at most {} of them. Neither test images nor test classes take part in the choice.",
        RATES.map(|rate| rate.to_string()).join(", "),
        facts.config.choosing_steps,
        grouped(facts.config.held_out),
    ));
    let (wall, trained) = runs.time("");
    section.paragraph(format!(
        "Each run's folder holds its whole configuration (`config.toml`) and results (`record.toml`). The runs took \
         {wall:.0} s of one core's time altogether, their training steps {:.0} s of it, of which they waited {:.1} s for \
         data, {:.2} %.",
        trained.wall_s,
        trained.data_wait_s,
        100.0 * trained.waiting()
    ));
    let mut table = Table::new(
        "Time of the runs of each kind.",
        vec![
            Column::from("set"),
            Column::from("protocol"),
            Column { name: "runs".to_owned(), decimals: Some(0) },
            Column { name: "seconds each".to_owned(), decimals: Some(1) },
            Column { name: "of it training".to_owned(), decimals: Some(1) },
            Column { name: "% of training waiting for data".to_owned(), decimals: Some(2) },
        ],
    );
    for problem in facts.problems {
        let prefix = format!("{}/{}/", problem.set, problem.protocol);
        let n = runs.0.iter().filter(|run| run.id.starts_with(&prefix)).count() as f64;
        let (wall, trained) = runs.time(&prefix);
        table.row([
            Cell::text(problem.set.clone()),
            problem.protocol.into(),
            Cell::number(n),
            Cell::number(wall / n),
            Cell::number(trained.wall_s / n),
            Cell::number(100.0 * trained.waiting()),
        ]);
    }
    section.block(table);
    section
}
