//! Every loss of the catalogue trains: a few dozen steps on the bundled digits lower it on a batch that stays the same,
//! and digits that were not trained on are found better than by the untrained encoder.
//!
//! The losses are those that [`LossSpec`] itself lists, so a new one is held to this without being named here. What is
//! named here are settings without which a loss has no use, and what it is fed with where that is not labelled batches.
#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "helpers of tests; errors are `dml`'s own")]

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::{DType, Device, Tensor, Var};
use dml::{
    Encoder, Group, Inputs, Method, Mode, OptimizerConfig, Parameter, SmallConv, SmallConvConfig, Task,
    TrainConfig, Watch, train,
};
use dml_data::transform::{Pipeline, Views, draw_rng};
use dml_data::{Batches, Loader, LoaderConfig, MPerClass, MPerClassConfig, TrainSize};
use dml_kernels::{Activation, l2_normalize, linear};
use dml_loss::{Batch, BregmanSpec, Distance, DistanceSpec, LossSpec, Objective, ObjectiveSpec};
use dml_retrieval::{Closer, Depth, Gallery, Matrix, Metric, rank};
use rand::Rng;

type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

const STEPS: usize = 60;
/// d.
const DIM: usize = 16;
/// The width of the layers that are thrown away.
const HEAD: usize = 32;
/// Of each class: images that are trained on, and images that are looked for.
const TRAINED: usize = 60;
const HELD_OUT: usize = 20;
/// How much MAP@R must rise from the 0.184 of the untrained encoder. The losses of views, which see no labels, rise
/// least: by 0.045 to 0.124 over twelve seeds of the sampler.
const RISE: f64 = 0.03;

/// What makes a second view of an image.
const VARIED: &str = r#"
[[transform]]
name = "random-resized-crop"
size = [28, 28]
scale = [0.5, 1.0]
filter = "bilinear"
"#;

/// What a loss is fed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    /// Ten classes, four images of each.
    Labels,
    /// Two queries of each class with an item each: row i matches row i of the reference set.
    Items,
    /// Two views of each image, without labels.
    Views,
    /// The same, the second view through an encoder that follows the first one slowly.
    Keys,
}

fn feed(name: &str) -> Feed {
    match name {
        "info-nce" | "vic-reg" => Feed::Items,
        "instance" | "two-views" => Feed::Views,
        "momentum-queue" => Feed::Keys,
        _ => Feed::Labels,
    }
}

/// What becomes of the encoder's rows before the loss sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// They get length 1.
    Unit,
    /// Each coordinate gets mean 0 and variance 1 in the batch: random walks tell rows apart by cosines above 0, and see
    /// nothing while all rows lie in one direction.
    Whitened,
    /// They pass through two layers that are thrown away after training, as without labels (Chen et al. 2020).
    Head,
}

fn finish(name: &str, learned: bool) -> Finish {
    match name {
        "manifold" => Finish::Whitened,
        // A learned divergence is of the embedding itself, and would be thrown away with the layers.
        "vic-reg" => Finish::Head,
        _ if matches!(feed(name), Feed::Views | Feed::Keys) && !learned => Finish::Head,
        _ => Finish::Unit,
    }
}

/// The loss as a configuration file writes it: with the sizes of its table, what it goes around, and bounds that fit the
/// distance. Those of a divergence are in units of φ.
fn configuration(name: &str, learned: bool) -> String {
    let table = format!("num_classes = 10\nembedding_size = {DIM}");
    let contrastive = |bound: &str| format!("loss = {{ name = \"contrastive\"{bound} }}");
    let contrastive = contrastive(if learned { ", neg_margin = 0.5" } else { "" });
    let temperature = if learned { ", temperature = \"learned\"" } else { "" };
    let own = match name {
        "contrastive" | "signal-to-noise-contrastive" if learned => "neg_margin = 0.5".to_owned(),
        "centroid-triplet" if learned => "margin = 0.1".to_owned(),
        "proxy-nca"
        | "proxy-anchor"
        | "normalized-softmax"
        | "cos-face"
        | "arc-face"
        | "soft-triple"
        | "large-margin-softmax"
        | "sphere-face"
        | "p2s-grad" => table,
        "manifold" => format!("embedding_size = {DIM}\nnum_proxies = 10\nmeta_classes = \"labels\""),
        "instance" => "target = \"own-row\"\ngamma = 5.0".to_owned(),
        "cross-batch-memory" => format!("{contrastive}\nmemory_size = 200"),
        "momentum-queue" => format!("loss = {{ name = \"nt-xent\"{temperature} }}\nmemory_size = 400"),
        "two-views" => format!("loss = {{ name = \"nt-xent\"{temperature} }}"),
        // The variance within pairs says nothing of what is near: it goes with another loss.
        "weighted-sum" | "intra-pair-variance" => {
            let variance = "loss = { name = \"intra-pair-variance\" }";
            let terms =
                [contrastive.as_str(), variance].map(|loss| format!("{{ objective = {{ {loss} }} }}"));
            return format!("name = \"weighted-sum\"\nterms = [{}]", terms.join(", "));
        }
        _ => String::new(),
    };
    format!("name = \"{name}\"\n{own}")
}

/// The names that the specification lists when it is given a wrong one, without pytorch-metric-learning's.
fn names() -> Vec<String> {
    let message = toml::from_str::<LossSpec>("name = \"?\"").map(|_| ()).unwrap_err().to_string();
    let quoted = message.split('`').skip(1).step_by(2);
    quoted.filter(|name| *name != "?" && name.starts_with(char::is_lowercase)).map(str::to_owned).collect()
}

/// Images of one batch `[n, c, h, w]`; with two views or with items, both one after the other.
#[derive(Debug)]
struct Images {
    pixels: Tensor,
    labels: Vec<i64>,
}

/// Batches for all losses alike, and the images that are looked for.
#[derive(Debug)]
struct Digits {
    /// By feed: labels, items, views.
    batches: [Vec<Images>; 3],
    held_out: Images,
}

impl Digits {
    fn new() -> Outcome<Self> {
        let all = dml_data::bundled::mnist_5k()?;
        let split = all.closed_set(TrainSize::PerClass(TRAINED), 1)?;
        let all = Arc::new(all.normalized_by(&split.train)?);
        let label = |i: usize| all.labels()[i];
        let mut counts = [0; 10];
        let held_out: Vec<usize> = split
            .test
            .iter()
            .copied()
            .filter(|&i| {
                let count = &mut counts[label(i) as usize];
                *count += 1;
                *count <= HELD_OUT
            })
            .collect();
        let held_out = Images {
            pixels: all.tensor(&held_out, DType::F32, &Device::Cpu)?,
            labels: held_out.iter().map(|&i| label(i)).collect(),
        };
        let plain = Pipeline::from(all.as_ref());
        let varied =
            Pipeline::from_toml(VARIED)?.with_channels(1)?.with_normalization(all.normalization().clone());
        let batches = |per_class, views: Views| -> Outcome<Vec<Images>> {
            let plan = MPerClassConfig { classes: 10, per_class, batches_per_epoch: None };
            let sampler = MPerClass::new(all.labels(), &split.train, plan, 2)?;
            let config = LoaderConfig { workers: 0, batches: Some(STEPS as u64 + 2), ..Default::default() };
            let loader = Loader::new(all.clone(), Batches::new(sampler), views, config)?;
            loader
                .map(|batch| {
                    let batch = batch?;
                    let labels = batch.indices.iter().map(|&i| label(i)).collect();
                    Ok(Images { pixels: batch.images, labels })
                })
                .collect()
        };
        let labels = batches(4, plain.clone().into())?;
        // Even rows are queries, odd ones items.
        let items = batches(4, plain.into())?
            .into_iter()
            .map(|Images { pixels, labels }| {
                let n = labels.len() as u32;
                let order: Vec<u32> = (0..n).step_by(2).chain((1..n).step_by(2)).collect();
                let labels = order.iter().map(|&i| labels[i as usize]).collect();
                let order = Tensor::from_vec(order, n as usize, &Device::Cpu)?;
                Ok(Images { pixels: pixels.index_select(&order, 0)?, labels })
            })
            .collect::<Outcome<_>>()?;
        let views = batches(8, Views::two(varied.clone(), varied))?;
        Ok(Self { batches: [labels, items, views], held_out })
    }

    fn get() -> Outcome<&'static Self> {
        static DIGITS: OnceLock<Digits> = OnceLock::new();
        if let Some(digits) = DIGITS.get() {
            return Ok(digits);
        }
        let digits = Self::new()?;
        Ok(DIGITS.get_or_init(|| digits))
    }
}

/// An encoder and what may be thrown away above it.
struct Model {
    encoder: SmallConv,
    head: [Var; 2],
    finish: Finish,
}

impl Model {
    fn new(finish: Finish) -> Outcome<Self> {
        let config = SmallConvConfig { channels: [6, 12], hidden: 48, dim: DIM };
        let encoder = SmallConv::new([1, 28, 28], &config, 3, DType::F32, &Device::Cpu)?;
        let mut rng = draw_rng(5, 0, 0, 0, 0);
        let mut layer = |o: usize, i: usize| -> Outcome<Var> {
            let bound = (3.0 / i as f64).sqrt() as f32;
            let weights = (0..o * i).map(|_| rng.random_range(-bound..bound)).collect();
            Ok(Var::from_tensor(&Tensor::from_vec(weights, (o, i), &Device::Cpu)?)?)
        };
        Ok(Self { encoder, head: [layer(HEAD, DIM)?, layer(HEAD, HEAD)?], finish })
    }

    /// What the loss sees.
    fn forward(&self, images: &Tensor) -> dml::Result<Tensor> {
        let x = self.encoder.forward(images, Mode::Train)?;
        Ok(match self.finish {
            Finish::Unit => l2_normalize(&x)?,
            Finish::Whitened => {
                let x = x.broadcast_sub(&x.mean_keepdim(0)?)?;
                x.broadcast_div(&(x.sqr()?.mean_keepdim(0)? + 1e-5)?.sqrt()?)?
            }
            Finish::Head => {
                let [first, second] = &self.head;
                linear(&linear(&x, first, None, Activation::Relu)?, second, None, Activation::Identity)?
            }
        })
    }

    fn parameters(&self) -> Vec<Parameter> {
        let encoder = self.encoder.parameters().into_iter();
        let head = if self.finish == Finish::Head { &self.head[..] } else { &[] };
        let head = head.iter().enumerate().map(|(i, var)| (format!("head{i}"), var.clone()));
        encoder.chain(head).map(|(name, var)| Parameter::new(name, &var, Group::Encoder)).collect()
    }
}

/// A loss with a model under it.
struct Problem {
    digits: &'static Digits,
    feed: Feed,
    model: Model,
    /// Follows the model, for keys.
    slow: Model,
    distance: Arc<dyn Distance>,
    objective: Objective,
}

impl Problem {
    /// `None` where the loss takes no divergence.
    fn new(name: &str, learned: bool) -> Outcome<Option<Self>> {
        let loss: LossSpec = toml::from_str(&configuration(name, learned))?;
        let mut spec = ObjectiveSpec::new(loss);
        let mut generator = None;
        if learned {
            let scale = 1.0 / (DIM as f64).sqrt();
            let inputs = Inputs { dim: DIM, range: (-3.0 * scale, 3.0 * scale), scale, sample: None };
            generator = Some(Method::Icnn.generator(inputs, 4, DType::F32, &Device::Cpu)?);
            let bregman = BregmanSpec { normalize_embeddings: true, ..Default::default() };
            spec.distance = Some(DistanceSpec::Bregman(bregman));
        }
        let distance = spec.distance.unwrap_or_else(|| spec.loss.default_distance());
        if learned && name == "dynamic-soft-margin" {
            // It falls without end as φ grows.
            let scale = "regularizer = { name = \"scale\" }\nweight = 10.0";
            spec.regularizers = vec![toml::from_str(scale)?];
        }
        let objective = match spec.build(generator.clone(), DType::F32, &Device::Cpu) {
            // Margins of angles and random walks are of similarities.
            Err(dml_loss::Error::Config { field: "distance", .. }) if learned => return Ok(None),
            other => other?,
        };
        // These look at no distance, or find out with the first batch that it is none of angles.
        if learned && matches!(name, "angular" | "vic-reg" | "p2s-grad" | "tuplet-margin") {
            return Ok(None);
        }
        let distance = distance.build(generator)?;
        Ok(Some(Self {
            digits: Digits::get()?,
            feed: feed(name),
            model: Model::new(finish(name, learned))?,
            slow: Model::new(finish(name, learned))?,
            distance,
            objective,
        }))
    }

    fn batch(&self, step: usize) -> dml::Result<Batch> {
        let Images { pixels, labels } = &self.digits.batches[match self.feed {
            Feed::Labels => 0,
            Feed::Items => 1,
            Feed::Views | Feed::Keys => 2,
        }][step];
        let n = labels.len() / 2;
        let embed = |model: &Model, from: usize, len: usize| model.forward(&pixels.narrow(0, from, len)?);
        Ok(match self.feed {
            Feed::Labels => Batch::new(&embed(&self.model, 0, labels.len())?, labels)?,
            Feed::Items | Feed::Views => {
                let both = embed(&self.model, 0, labels.len())?;
                let (one, two) = (both.narrow(0, 0, n)?, both.narrow(0, n, n)?);
                Batch::new(&one, &labels[..n])?.with_reference(&two, &labels[n..])?
            }
            Feed::Keys => {
                let keys = embed(&self.slow, n, n)?.detach();
                Batch::new(&embed(&self.model, 0, n)?, &labels[..n])?.with_reference(&keys, &labels[n..])?
            }
        })
    }

    /// The loss of the batch after the last step's; before it comes one more, for losses that remember.
    fn held_in(&self) -> Outcome<f64> {
        let now = self.objective.loss.state()?;
        self.objective.forward(&self.batch(STEPS)?)?;
        let value = self.objective.forward(&self.batch(STEPS + 1)?)?.to_dtype(DType::F64)?.to_scalar()?;
        self.objective.loss.load_state(&now)?;
        Ok(value)
    }

    /// MAP@R of the images that are looked for, one among the others.
    fn map_at_r(&self) -> Outcome<f64> {
        let Images { pixels, labels } = &self.digits.held_out;
        let x = self.model.encoder.forward(pixels, Mode::Eval)?.detach();
        let closer = if self.distance.larger_is_closer() { Closer::Larger } else { Closer::Smaller };
        let scorer = Matrix::new(&self.distance.all_pairs(&x, &x)?, closer)?;
        let ranking = rank(&scorer, labels, labels, Gallery::IncludesQueries, Depth::MaxRelevant)?;
        Ok(ranking.mean(Metric::MeanAveragePrecisionAtR)?)
    }
}

impl Task for Problem {
    fn loss(&self, step: usize) -> dml::Result<Tensor> {
        if self.feed == Feed::Keys {
            for (slow, fast) in self.slow.parameters().iter().zip(self.model.parameters()) {
                slow.var.set(&((slow.var.as_tensor() * 0.9)? + (fast.var.as_tensor() * 0.1)?)?.detach())?;
            }
        }
        Ok(self.objective.forward(&self.batch(step)?)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let own = self.objective.parameters().into_iter();
        let model = self.model.parameters().into_iter();
        model.chain(own.map(|p| Parameter::new(p.name, &p.var, p.role.into()))).collect()
    }

    fn calibrate(&self) -> dml::Result<()> {
        Ok(self.objective.calibrate(&self.batch(0)?)?)
    }
}

/// Trains one loss; what is wrong with the outcome, if anything. `None` where it takes no divergence.
fn trains(name: &str, learned: bool) -> Outcome<Option<Vec<String>>> {
    let Some(problem) = Problem::new(name, learned)? else { return Ok(None) };
    problem.calibrate()?;
    let state = problem.objective.loss.state()?;
    let (loss, map) = (problem.held_in()?, problem.map_at_r()?);
    let optimizer = OptimizerConfig { encoder_rate: 5e-3, ..Default::default() };
    train(&problem, &TrainConfig { steps: STEPS, checkpoint_every: 0, optimizer }, &Watch::default())?;
    problem.objective.loss.load_state(&state)?;
    let (trained_loss, trained_map) = (problem.held_in()?, problem.map_at_r()?);
    println!("{name:28} loss {loss:9.4} → {trained_loss:9.4}   MAP@R {map:.3} → {trained_map:.3}");
    let mut wrong = Vec::new();
    let (falls, rises) = (trained_loss < loss, trained_map > map + RISE);
    if !falls {
        wrong.push(format!("{name}: the loss went from {loss} to {trained_loss}"));
    }
    if !rises {
        wrong.push(format!("{name}: MAP@R went from {map:.3} to {trained_map:.3}"));
    }
    Ok(Some(wrong))
}

/// All losses, each on a thread of its own; the names of those that take no divergence.
fn all_train(learned: bool) -> Outcome<BTreeSet<String>> {
    let (names, next) = (names(), AtomicUsize::new(0));
    let (wrong, without) = (Mutex::new(Vec::new()), Mutex::new(BTreeSet::new()));
    let work = || -> Outcome<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            match pool.install(|| trains(name, learned)) {
                Ok(Some(found)) => wrong.lock().unwrap().extend(found),
                Ok(None) => drop(without.lock().unwrap().insert(name.clone())),
                Err(error) => wrong.lock().unwrap().push(format!("{name}: {error}")),
            }
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| -> Outcome<()> {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap())
    })?;
    let wrong = wrong.into_inner()?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(without.into_inner()?)
}

#[test]
fn over_its_usual_distance() -> Outcome<()> {
    assert!(all_train(false)?.is_empty());
    Ok(())
}

#[test]
fn over_a_learned_divergence() -> Outcome<()> {
    let without = all_train(true)?;
    let expected = [
        "angular",
        "arc-face",
        "cos-face",
        "large-margin-softmax",
        "manifold",
        "p2s-grad",
        "sphere-face",
        "tuplet-margin",
        "vic-reg",
    ];
    assert_eq!(without.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    Ok(())
}
