//! The paper's sets: metric learning on MNIST, Fashion-MNIST, CIFAR-10, SVHN and STL-10, closed-set and zero-shot.
//!
//! First the learning rate of each generator is chosen, for each set and protocol, on training images and training
//! classes alone; then every method runs with every seed. The test part is looked at once, in the end.
//!
//! *Closed-set*: the official training part, all classes, retrieval within the official test part. *Zero-shot*: the
//! first half of the classes of the training part, retrieval within the other classes of the test part.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use dml_data::download::{self, Mirror, Network};
use dml_data::transform::{Filter, Pipeline, Resize, Size, Transform};
use dml_data::{Benchmark, Completeness, ImageSet, Manifest, Protocol, Subset};
use serde::Serialize;

use super::metric::{METHODS, PROTOCOLS, Test, measure};
use super::{Finished, Job, Outcome, Record, SuiteOptions, begin, go_on, mark_complete, metrics_lines};
use crate::task::{Images, MetricConfig, MetricTask};
use crate::{Error, Method, OptimizerConfig, Result, SmallConvConfig, TrainConfig, Watch, atomic};

mod report;

/// The sets, by their names in the manifest.
pub const DATASETS: [&str; 5] = ["mnist", "fashion-mnist", "cifar10", "svhn", "stl10"];
/// The digits that come with the workspace, zero-shot only: to try the suite without any other data.
const BUNDLED: &str = "mnist-5k";

/// The learning rates that a generator may get.
pub(super) const RATES: [f64; 3] = [3e-3, 1e-2, 3e-2];
/// The seed of the runs that choose; those that count have the seeds from 0 on.
const CHOOSING_SEED: u64 = 1000;
/// Images in a batch, shared evenly among the classes.
const BATCH: usize = 100;
/// Pictures that are larger are reduced to this side.
const SIDE: usize = 32;

/// How much of the suite runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaperConfig {
    /// The sets, of [`DATASETS`].
    pub datasets: Vec<String>,
    /// The seeds of each method, at least 3 for intervals that mean something.
    pub seeds: u64,
    /// The training steps of each run.
    pub steps: usize,
    /// The training steps of the runs that choose a learning rate.
    pub choosing_steps: usize,
    /// At most so many images are held out to choose a learning rate by.
    pub held_out: usize,
    /// At most so many test images; `None` for all.
    pub most_test: Option<usize>,
}

impl Default for PaperConfig {
    fn default() -> Self {
        Self {
            datasets: DATASETS.map(str::to_owned).to_vec(),
            seeds: 3,
            steps: 200,
            choosing_steps: 100,
            held_out: 1000,
            most_test: None,
        }
    }
}

impl PaperConfig {
    /// The same runs, cut to a few steps and test images: checks that everything works, measures nothing.
    pub fn smoke() -> Self {
        Self { seeds: 2, steps: 3, choosing_steps: 2, held_out: 100, most_test: Some(200), ..Self::default() }
    }
}

/// Where the sets come from.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Where they lie, a folder a set, and where those that are fetched are put.
    pub dir: &'a Path,
    /// A folder or address that has them; without one they come from where the manifest says.
    pub mirror: Option<&'a str>,
    /// What is known of the sets.
    pub manifest: &'a Manifest,
}

/// What became of the search for a set.
#[derive(Debug)]
pub(super) enum Found {
    There(Box<Benchmark>),
    Missing { name: String, why: String },
}

/// Runs the suite, or what is left of it, and writes `report.md`, `report.html`, `figures/` and `metrics.jsonl`. A set
/// that is not at hand and cannot be fetched is named in the report, and the others run.
///
/// # Errors
/// [`Error::Config`] for a set that is not of the suite, or when none is at hand; [`Error::Interrupted`] when asked
/// to stop; and whatever goes wrong in a run.
pub fn run(
    config: &PaperConfig,
    places: Places<'_>,
    options: &SuiteOptions<'_>,
    command: &str,
) -> Result<Outcome> {
    let start = std::time::Instant::now();
    for (i, name) in config.datasets.iter().enumerate() {
        if !(DATASETS.contains(&name.as_str()) || name == BUNDLED) || config.datasets[..i].contains(name) {
            return Err(Error::Config {
                what: "suite paper",
                field: "datasets",
                got: format!("`{name}`"),
                expected: "different names out of mnist, fashion-mnist, cifar10, svhn, stl10, mnist-5k",
            });
        }
    }
    let sets: Vec<Found> = config.datasets.iter().map(|name| find(name, places)).collect();
    let problems = problems(&sets, config)?;
    if problems.is_empty() {
        let missing = sets.iter().filter_map(|set| match set {
            Found::Missing { name, why } => Some(format!("{name}: {why}")),
            Found::There(_) => None,
        });
        return Err(Error::Config {
            what: "suite paper",
            field: "datasets",
            got: format!("none that is at hand ({})", missing.collect::<Vec<_>>().join("; ")),
            expected: "at least one; give a folder that has it with --mirror",
        });
    }
    let choosing: Vec<Job<'_>> = problems
        .iter()
        .flat_map(|problem| choosing_methods().map(move |(method, rate)| (problem, method, rate)))
        .map(|(problem, method, rate)| choosing_job(problem, config, method, rate))
        .collect::<Result<_>>()?;
    let ids: Vec<String> = problems
        .iter()
        .flat_map(|problem| METHODS.map(|method| (problem, method)))
        .flat_map(|(problem, method)| (0..config.seeds).map(move |seed| problem.id(method, seed)))
        .collect();
    begin(choosing.iter().map(|job| job.id.as_str()).chain(ids.iter().map(String::as_str)), options)?;
    eprintln!("choosing learning rates on training classes");
    let mut runs = go_on(&choosing, options)?;
    let mut jobs = Vec::new();
    // Longest first, so that no worker is left alone at the end.
    for method in METHODS.into_iter().rev() {
        for problem in &problems {
            let rate = chosen_rate(&runs, problem, method)?;
            for seed in 0..config.seeds {
                jobs.push(job(problem, config, method, rate, seed)?);
            }
        }
    }
    eprintln!("measuring");
    let measured = go_on(&jobs, options)?;
    let mut lines = metrics_lines(&choosing, &runs)?;
    lines.push_str(&metrics_lines(&jobs, &measured)?);
    atomic::write(options.folder.join("metrics.jsonl"), lines)?;
    runs.extend(measured);
    let facts = report::Facts {
        config,
        sets: &sets,
        problems: &problems,
        workers: options.workers,
        elapsed: start.elapsed(),
        manifest: places.manifest,
        command,
    };
    let report = report::build(&facts, &runs)?;
    let mut files = report.write(&options.folder)?;
    files.push(options.folder.join("metrics.jsonl"));
    mark_complete(options)?;
    Ok(Outcome { runs, files })
}

/// Fetches a set and opens it.
fn find(name: &str, places: Places<'_>) -> Found {
    let options = download::Options {
        // The bundled digits come from the source tree.
        mirror: places.mirror.filter(|_| name != BUNDLED).map(Mirror::new),
        network: Network::from_env(),
        ..download::Options::new(places.dir)
    };
    // What cannot be fetched may lie there all the same, unpacked by hand.
    let fetched = download::fetch_all(places.manifest, &[name], &options).pop();
    match dml_data::benchmark_of(places.manifest, name, places.dir) {
        Ok(benchmark) => Found::There(Box::new(benchmark)),
        Err(error) => {
            let why = fetched.and_then(|fetched| fetched.err()).unwrap_or(error).to_string();
            eprintln!("{name} is missing: {why}");
            Found::Missing { name: name.to_owned(), why }
        }
    }
}

/// Some images of a set in memory.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    set: Arc<ImageSet>,
    indices: Vec<usize>,
}

impl Chosen {
    fn of(subset: &Subset) -> Result<Self> {
        let set = subset.set.images().cloned().ok_or_else(|| Error::Config {
            what: "suite paper",
            field: "datasets",
            got: "a set of pictures on disk".to_owned(),
            expected: "sets that fit in memory",
        })?;
        Ok(Self { set, indices: subset.indices.clone() })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    fn label(&self, index: usize) -> i64 {
        self.set.labels()[index]
    }

    /// The classes there are, ascending.
    fn classes(&self) -> Vec<i64> {
        let mut classes: Vec<i64> = self.indices.iter().map(|&i| self.label(i)).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// Those of some classes.
    fn of_classes(&self, classes: &[i64]) -> Self {
        let indices = self.indices.iter().copied().filter(|&i| classes.contains(&self.label(i))).collect();
        Self { set: self.set.clone(), indices }
    }

    /// At most `most`, as many of each class as there is room for, spread over the set.
    fn at_most(self, most: usize) -> Self {
        let classes = self.classes();
        if self.len() <= most || classes.is_empty() {
            return self;
        }
        let each = (most / classes.len()).max(2);
        let mut indices = Vec::new();
        for class in classes {
            let members = self.of_classes(&[class]).indices;
            let n = each.min(members.len());
            indices.extend((0..n).map(|i| members[i * members.len() / n]));
        }
        indices.sort_unstable();
        Self { indices, ..self }
    }
}

/// A set under a protocol.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub set: String,
    pub protocol: &'static str,
    pub completeness: Completeness,
    pub train: Chosen,
    pub test: Chosen,
}

impl Problem {
    fn new(
        benchmark: &Benchmark,
        set: &str,
        protocol: &'static str,
        parts: &Protocol,
        config: &PaperConfig,
    ) -> Result<Self> {
        let test = Chosen::of(&parts.test)?.at_most(config.most_test.unwrap_or(usize::MAX));
        Ok(Self {
            set: set.to_owned(),
            protocol,
            completeness: benchmark.completeness.clone(),
            train: Chosen::of(&parts.train)?,
            test,
        })
    }

    /// The folder of a method's runs.
    pub fn group(&self, method: Method) -> String {
        format!("{}/{}/{}", self.set, self.protocol, method.id())
    }

    fn id(&self, method: Method, seed: u64) -> String {
        format!("{}/seed-{seed}", self.group(method))
    }

    /// The same problem within its training part: images held out of each class, or, for unseen classes, the last
    /// two fifths of the training classes held out whole.
    fn inner(&self, held_out: usize) -> Self {
        let classes = self.train.classes();
        let (train, test) = if self.protocol == "zero-shot" && classes.len() > 2 {
            let (seen, unseen) = classes.split_at((3 * classes.len()).div_ceil(5).min(classes.len() - 1));
            (self.train.of_classes(seen), self.train.of_classes(unseen))
        } else {
            let (mut train, mut test) = (self.train.clone(), self.train.clone());
            for (part, keep) in [(&mut train, false), (&mut test, true)] {
                // Every fifth image of each class.
                let mut met = std::collections::BTreeMap::<i64, usize>::new();
                part.indices.retain(|&i| {
                    let n = met.entry(self.train.label(i)).or_default();
                    *n += 1;
                    n.is_multiple_of(5) == keep
                });
            }
            (train, test)
        };
        Self { train, test: test.at_most(held_out), ..self.clone() }
    }

    /// Both parts as the encoder sees them: reduced where they are large, normalized by the training images.
    fn images(&self) -> Result<[Images; 2]> {
        let [_, height, width] = self.train.set.shape();
        let reduce = Resize { size: Size::Exact([SIDE, SIDE]), filter: Filter::Bilinear };
        let transforms: Vec<Arc<dyn Transform>> =
            if height > SIDE || width > SIDE { vec![Arc::new(reduce)] } else { Vec::new() };
        let normalization = self.train.set.statistics(&self.train.indices)?;
        let pipeline = Pipeline::new(transforms)?.with_normalization(normalization);
        Ok([&self.train.set, &self.test.set].map(|set| Images::in_memory(set.clone(), pipeline.clone())))
    }

    fn run(&self, problem: &MetricConfig, training: &TrainConfig, watch: &Watch<'_>) -> Result<Record> {
        let [train, test] = self.images()?;
        let task = MetricTask::with_images(train, &self.train.indices, problem, &Device::Cpu)?;
        measure(&task, training, Test { images: &test, indices: &self.test.indices }, problem, watch)
    }
}

fn problems(sets: &[Found], config: &PaperConfig) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (set, name) in sets.iter().zip(&config.datasets) {
        let Found::There(benchmark) = set else { continue };
        let parts = [benchmark.closed_set.as_ref(), benchmark.zero_shot.as_ref()];
        for ((protocol, _), parts) in PROTOCOLS.into_iter().zip(parts) {
            if let Some(parts) = parts {
                problems.push(Problem::new(benchmark, name, protocol, parts, config)?);
            }
        }
    }
    Ok(problems)
}

/// Every method that has a rate to choose, with every rate.
fn choosing_methods() -> impl Iterator<Item = (Method, f64)> {
    let methods = METHODS.into_iter().filter(|method| *method != Method::Euclidean);
    methods.flat_map(|method| RATES.map(|rate| (method, rate)))
}

#[derive(Serialize)]
struct Described<'a> {
    suite: &'static str,
    dataset: &'a str,
    data: String,
    protocol: &'static str,
    part: &'static str,
    train_images: usize,
    test_images: usize,
    problem: &'a MetricConfig,
    training: &'a TrainConfig,
}

fn describe(
    problem: &Problem,
    part: &'static str,
    metric: &MetricConfig,
    training: &TrainConfig,
) -> Result<String> {
    let described = Described {
        suite: "paper",
        dataset: &problem.set,
        data: problem.completeness.to_string(),
        protocol: problem.protocol,
        part,
        train_images: problem.train.len(),
        test_images: problem.test.len(),
        problem: metric,
        training,
    };
    toml::to_string(&described).map_err(|e| Error::Config {
        what: "suite",
        field: "config",
        got: e.to_string(),
        expected: "settings that can be written as TOML",
    })
}

fn settings(
    problem: &Problem,
    method: Method,
    rate: f64,
    steps: usize,
    seed: u64,
) -> (MetricConfig, TrainConfig) {
    let classes = problem.train.classes().len().clamp(1, BATCH / 2);
    let encoder = SmallConvConfig::default();
    let metric = MetricConfig { method, encoder, classes, per_class: BATCH / classes, seed };
    let optimizer = OptimizerConfig { generator_rate: rate, ..Default::default() };
    (metric, TrainConfig { steps, optimizer, ..Default::default() })
}

fn choosing_id(problem: &Problem, method: Method, rate: f64) -> String {
    format!("choosing/{}/rate-{rate}", problem.group(method))
}

fn choosing_job<'a>(problem: &Problem, config: &PaperConfig, method: Method, rate: f64) -> Result<Job<'a>> {
    let inner = problem.inner(config.held_out);
    let (metric, training) = settings(&inner, method, rate, config.choosing_steps, CHOOSING_SEED);
    let text = describe(&inner, "held out of training", &metric, &training)?;
    let work = move |watch: &Watch<'_>| inner.run(&metric, &training, watch);
    Ok(Job {
        id: choosing_id(problem, method, rate),
        config: text,
        steps: training.steps,
        work: Box::new(work),
    })
}

/// The rate with the best MAP@R under D on what was held out; the lowest of equals.
pub(super) fn chosen_rate(runs: &[Finished], problem: &Problem, method: Method) -> Result<f64> {
    let mut best = (f64::NEG_INFINITY, OptimizerConfig::default().generator_rate);
    if method == Method::Euclidean {
        return Ok(best.1); // there is nothing it would apply to
    }
    for rate in RATES {
        let id = choosing_id(problem, method, rate);
        if let Some(run) = runs.iter().find(|run| run.id == id) {
            let score = run.record.value("own.map_at_r")?;
            if score > best.0 {
                best = (score, rate);
            }
        }
    }
    Ok(best.1)
}

fn job<'a>(problem: &Problem, config: &PaperConfig, method: Method, rate: f64, seed: u64) -> Result<Job<'a>> {
    let (metric, training) = settings(problem, method, rate, config.steps, seed);
    let text = describe(problem, "test", &metric, &training)?;
    let id = problem.id(method, seed);
    let problem = problem.clone();
    let work = move |watch: &Watch<'_>| problem.run(&metric, &training, watch);
    Ok(Job { id, config: text, steps: training.steps, work: Box::new(work) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Five classes of unequal size in training, five others in the test part.
    fn problem(protocol: &'static str) -> Result<Problem> {
        let set = |classes: [i64; 5]| -> Result<Chosen> {
            let labels: Vec<i64> = (0..200).map(|i| classes[(i * i + i / 7) % 5]).collect();
            let names = (0..10).map(|c| c.to_string()).collect();
            let set = ImageSet::new(vec![7; 200 * 16], [1, 4, 4], labels, names)?;
            Ok(Chosen { set: Arc::new(set), indices: (0..200).collect() })
        };
        Ok(Problem {
            set: "mnist".to_owned(),
            protocol,
            completeness: Completeness::Complete,
            train: set([0, 1, 2, 3, 4])?,
            test: set(if protocol == "zero-shot" { [5, 6, 7, 8, 9] } else { [0, 1, 2, 3, 4] })?,
        })
    }

    #[test]
    fn rates_are_chosen_on_training_images_and_training_classes_alone() -> Result<()> {
        for protocol in ["closed-set", "zero-shot"] {
            let outer = problem(protocol)?;
            let inner = outer.inner(1000);
            for part in [&inner.train, &inner.test] {
                assert!(Arc::ptr_eq(&part.set, &outer.train.set), "{protocol}");
                assert!(part.indices.iter().all(|i| outer.train.indices.contains(i)), "{protocol}");
            }
            let train: BTreeSet<usize> = inner.train.indices.iter().copied().collect();
            assert!(inner.test.indices.iter().all(|i| !train.contains(i)), "{protocol}");
            assert_eq!(inner.train.len() + inner.test.len(), outer.train.len(), "{protocol}");
            let (seen, held_out) = (inner.train.classes(), inner.test.classes());
            match protocol {
                "zero-shot" => assert_eq!((seen, held_out), (vec![0, 1, 2], vec![3, 4])),
                _ => assert_eq!((seen, held_out), (vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4])),
            }
        }
        Ok(())
    }

    #[test]
    fn a_limit_keeps_every_class_and_spreads_over_the_set() -> Result<()> {
        let all = problem("closed-set")?.train;
        let few = all.clone().at_most(20);
        assert_eq!((few.classes(), few.len()), (all.classes(), 20));
        assert!(few.indices.windows(2).all(|w| w[0] < w[1]));
        assert!(few.indices.last() > Some(&120));
        assert_eq!(all.clone().at_most(200).len(), 200);
        Ok(())
    }
}
