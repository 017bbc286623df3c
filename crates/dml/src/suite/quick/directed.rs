//! Directed retrieval in the quick suite: which digit were 25 ink points drawn from, with all of them to be seen, with
//! the points in half of the cells never to be seen, and with half of the cells taken away anew from each query.
//!
//! Rates and lengths of training were chosen on held-out training digits, 1,490 of the 3,500, with the query first.
//! MRR, mean over seeds 0 and 1, as `cargo run -p dml --example select_rates -- directed` prints it:
//!
//! | | steps | all cells: MRR at each rate | the same half hidden | a half hidden anew |
//! |---|---|---|---|---|
//! | Mahalanobis, 3e-3 · 1e-2 · 3e-2 | 600 | 0.496 · 0.498 · 0.499 | 0.211 · 0.221 · 0.220 | 0.124 · 0.127 · 0.127 |
//! | | 1800 | **0.499** · 0.497 · 0.498 | **0.221** · 0.221 · 0.221 | 0.127 · **0.128** · 0.128 |
//! | MLP, 1e-3 · 3e-3 · 1e-2 | 600 | 0.541 · 0.565 · 0.583 | 0.255 · 0.268 · 0.275 | 0.133 · 0.148 · 0.156 |
//! | | 1800 | 0.579 · 0.598 · **0.608** | 0.272 · 0.280 · **0.283** | 0.154 · 0.167 · 0.169 |
//! | MLP for each side, the same rates | 600 | 0.494 · 0.528 · 0.534 | 0.241 · 0.257 · 0.263 | 0.133 · 0.140 · 0.147 |
//! | | 1800 | 0.549 · 0.570 · 0.572 | 0.259 · 0.275 · 0.278 | 0.156 · **0.173** · 0.169 |
//! | ICNN, 1e-2 · 3e-2 · 1e-1 | 600 | 0.626 · **0.636** · 0.619 | 0.282 · **0.294** · 0.276 | 0.192 · **0.202** · 0.190 |
//! | Separable, 2e-2 · 6e-2 · 2e-1 | 300 | 0.667 · **0.674** · 0.671 | 0.291 · **0.302** · 0.302 | 0.214 · 0.218 · **0.220** |
//! | Empirical Bregman, 1e-2 · 4e-2 · 1e-1 | 300 | 0.648 · 0.669 · **0.672** | 0.283 · **0.302** · 0.300 | 0.204 · 0.218 · **0.219** |
//!
//! Of equals the longer training and the smaller rate. Separable units start at the items' quantiles: evenly spaced
//! ones gave an MRR of 0.659 ± 0.008 on the test digits after 600 steps, these 0.682 ± 0.006 after 300.

use std::collections::BTreeMap;
use std::sync::Arc;

use bregman::Side;
use candle_core::{Device, Tensor};
use dml_data::ImageSet;
use phi::{Generator, ItakuraSaito, NegativeEntropy, SquaredEuclidean};
use serde::Serialize;

use super::config::{QuickConfig, describe, split};
use crate::suite::{Job, Record};
use crate::task::{DirectedConfig, DirectedTask, Embedding, Hidden, Histograms, Pairs, Sample};
use crate::{Method, MlpConfig, OptimizerConfig, Result, TrainConfig, Watch, train};

/// A kind of queries and what is learned for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query {
    /// The folder of its runs.
    pub id: &'static str,
    /// What is taken away from queries.
    pub hidden: Hidden,
    /// The learned divergences.
    pub learned: &'static [Learned],
    /// The folder of the one that the others are compared with: the best on held-out training digits.
    pub reference: &'static str,
}

impl Query {
    /// How queries come from items in the runs of a seed, which also says which cells are hidden from all of them.
    fn sample(self, seed: u64) -> Sample {
        let hidden = match self.hidden {
            Hidden::Same { cells, .. } => Hidden::Same { cells, seed },
            other => other,
        };
        Sample { points: POINTS, hidden }
    }
}

/// A learned divergence and how it is trained.
#[derive(Debug, Clone, Copy)]
pub(super) struct Learned {
    /// The folder of its runs.
    pub id: &'static str,
    /// The divergence.
    pub method: Method,
    /// Whether the query is the first argument.
    pub query_first: bool,
    /// What is compared.
    pub embedding: Embedding,
    /// The peak learning rate of φ, or of the network where there is one.
    pub rate: f64,
    /// How many times the steps of the others.
    pub times: usize,
}

const fn learned(id: &'static str, method: Method, query_first: bool, rate: f64, times: usize) -> Learned {
    Learned { id, method, query_first, embedding: Embedding::Nothing, rate, times }
}

/// The network of the embeddings.
const MLP: MlpConfig = MlpConfig { hidden: [256, 256], dim: 64 };

/// The Euclidean distance of embeddings.
const fn embedded(id: &'static str, embedding: Embedding, rate: f64, times: usize) -> Learned {
    Learned { id, method: Method::Euclidean, query_first: true, embedding, rate, times }
}

/// The kinds of queries.
pub(super) const QUERIES: [Query; 3] = [
    Query {
        id: "directed",
        hidden: Hidden::Nothing,
        learned: &[
            learned("mahalanobis", Method::DeepMahalanobis, true, 3e-3, 6),
            embedded("mlp", Embedding::Shared(MLP), 1e-2, 6),
            learned("icnn", Method::Icnn, true, 3e-2, 2),
            learned("icnn-item-first", Method::Icnn, false, 3e-2, 2),
            learned("separable", Method::Separable, true, 6e-2, 1),
            learned("separable-item-first", Method::Separable, false, 6e-2, 1),
            learned("empirical-bregman", Method::EmpiricalBregman, true, 1e-1, 1),
            learned("empirical-bregman-item-first", Method::EmpiricalBregman, false, 1e-1, 1),
        ],
        reference: "separable",
    },
    Query {
        id: "directed-blind",
        hidden: Hidden::Same { cells: 24, seed: 0 }, // of 49
        learned: &[
            learned("mahalanobis", Method::DeepMahalanobis, true, 3e-3, 6),
            embedded("mlp", Embedding::Shared(MLP), 1e-2, 6),
            learned("icnn", Method::Icnn, true, 3e-2, 2),
            learned("separable", Method::Separable, true, 6e-2, 1),
            learned("separable-item-first", Method::Separable, false, 6e-2, 1),
            learned("empirical-bregman", Method::EmpiricalBregman, true, 4e-2, 1),
            learned("empirical-bregman-item-first", Method::EmpiricalBregman, false, 4e-2, 1),
        ],
        reference: "separable",
    },
    Query {
        id: "directed-hidden",
        hidden: Hidden::Anew { cells: 24 }, // of 49
        learned: &[
            learned("mahalanobis", Method::DeepMahalanobis, true, 1e-2, 6),
            learned("icnn", Method::Icnn, true, 3e-2, 2),
            learned("separable", Method::Separable, true, 2e-1, 1),
            learned("separable-item-first", Method::Separable, false, 2e-1, 1),
            learned("empirical-bregman", Method::EmpiricalBregman, true, 1e-1, 1),
            learned("empirical-bregman-item-first", Method::EmpiricalBregman, false, 1e-1, 1),
        ],
        reference: "separable",
    },
];

/// A fixed divergence: name in records, name in tables, and the side of the query where it matters.
pub(super) type FixedDivergence = (&'static str, &'static str, Option<Side>);

const OF_ALL_CELLS: [FixedDivergence; 6] = [
    ("euclidean", "Euclidean", None),
    ("hellinger", "Hellinger", None),
    ("kl-query-first", "KL, smoothed", Some(Side::First)),
    ("kl-item-first", "KL, smoothed", Some(Side::Second)),
    ("itakura-saito-query-first", "Itakura–Saito, smoothed", Some(Side::First)),
    ("itakura-saito-item-first", "Itakura–Saito, smoothed", Some(Side::Second)),
];
/// Of the cells alone in which a training query has a point: what counting makes of blind cells.
pub(super) const OF_SEEN_CELLS: FixedDivergence =
    ("kl-query-first-seen", "KL over the cells seen, smoothed", Some(Side::First));

/// The fixed divergences that a kind of queries is tried with.
pub(super) fn fixed(hidden: Hidden) -> Vec<FixedDivergence> {
    let counted = matches!(hidden, Hidden::Same { .. }).then_some(OF_SEEN_CELLS);
    OF_ALL_CELLS.into_iter().chain(counted).collect()
}

/// What is added to each cell, mean 1, where a divergence takes logarithms: the candidates.
const SMOOTHING: [f64; 8] = [1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
/// What makes an empty cell a point of the domain and hardly more.
const BARELY_POSITIVE: f64 = 1e-6;
/// Ink points of a query.
pub(super) const POINTS: usize = 25;
/// Pairs in a batch.
const PAIRS: usize = 200;

/// Training histograms, and test pairs.
fn data(digits: &ImageSet, sample: Sample, seed: u64) -> Result<(Histograms, Pairs)> {
    let split = split(digits, "closed-set", seed)?;
    let test = Histograms::of_ink(digits, &split.test)?;
    let pairs = Pairs::draw(&test, sample, seed ^ 0x5eed, &Device::Cpu)?;
    Ok((Histograms::of_ink(digits, &split.train)?, pairs))
}

/// A run of a learned divergence.
///
/// # Errors
/// When its configuration cannot be written.
pub(super) fn learned_job<'a>(
    config: &QuickConfig,
    digits: Arc<ImageSet>,
    query: Query,
    learned: &Learned,
    seed: u64,
) -> Result<Job<'a>> {
    let Learned { method, query_first, embedding, rate, times, .. } = *learned;
    let problem =
        DirectedConfig { method, query_first, embedding, sample: query.sample(seed), batch: PAIRS, seed };
    let optimizer = OptimizerConfig { generator_rate: rate, encoder_rate: rate, ..Default::default() };
    let training = TrainConfig { steps: config.directed_steps * times, optimizer, ..Default::default() };
    let text = describe("directed", problem, Some(training))?;
    let work = move |watch: &Watch<'_>| learned_run(&digits, problem, &training, watch);
    let id = format!("{}/{}/seed-{seed}", query.id, learned.id);
    Ok(Job { id, config: text, steps: training.steps, work: Box::new(work) })
}

fn learned_run(
    digits: &ImageSet,
    problem: DirectedConfig,
    training: &TrainConfig,
    watch: &Watch<'_>,
) -> Result<Record> {
    let (items, pairs) = data(digits, problem.sample, problem.seed)?;
    let task = DirectedTask::new(Arc::new(items), problem, &Device::Cpu)?;
    let losses = train(&task, training, watch)?;
    let mrr = task.embed(&pairs)?.mean_reciprocal_rank(task.generator().as_ref(), problem.side())?;
    let mut record = Record { losses, ..Default::default() };
    record.values.insert("mrr".to_owned(), mrr);
    if problem.method == Method::Separable && problem.seed == 0 {
        record.arrays = curvature(task.generator().as_ref())?;
    }
    Ok(record)
}

/// φ″ of a separable generator, mean over cells, by differences of its gradient along the diagonal at points that
/// are evenly spaced on a logarithmic scale.
fn curvature(phi: &dyn Generator) -> Result<BTreeMap<String, Vec<f64>>> {
    let d = phi.dim().unwrap_or(1);
    const LOWEST: f64 = 0.02;
    const POINTS: usize = 60;
    let ratio = (6.0 / LOWEST).powf(1.0 / POINTS as f64);
    let grid: Vec<f32> = (0..=POINTS).map(|i| (LOWEST * ratio.powi(i as i32)) as f32).collect();
    let rows: Vec<f32> = grid.iter().flat_map(|&v| vec![v; d]).collect();
    let x = Tensor::from_vec(rows, (grid.len(), d), &Device::Cpu)?;
    let gradient = phi.value_and_grad(&x)?.1.to_vec2::<f32>()?;
    let mean: Vec<f64> =
        gradient.iter().map(|g| g.iter().map(|&v| f64::from(v)).sum::<f64>() / d as f64).collect();
    let at: Vec<f64> = grid.iter().map(|&v| f64::from(v)).collect();
    let slope = at.windows(2).zip(mean.windows(2)).map(|(x, g)| (g[1] - g[0]) / (x[1] - x[0])).collect();
    let middle = at.windows(2).map(|x| (x[0] * x[1]).sqrt()).collect();
    Ok([("curvature_at".to_owned(), middle), ("curvature".to_owned(), slope)].into())
}

/// The law that queries are drawn by, and the fixed divergences in both argument orders. How a divergence is best
/// given its arguments (smoothed where it takes logarithms, and where cells are hidden with the query rescaled to the
/// items' mean or not) is chosen on the training images for each divergence and order.
///
/// # Errors
/// When its configuration cannot be written.
pub(super) fn fixed_job<'a>(digits: Arc<ImageSet>, query: Query, seed: u64) -> Result<Job<'a>> {
    let problem = Fixed { sample: query.sample(seed), seed };
    let config = describe("directed", problem, None)?;
    let work = move |_: &Watch<'_>| fixed_run(&digits, problem);
    Ok(Job { id: format!("{}/fixed/seed-{seed}", query.id), config, steps: 0, work: Box::new(work) })
}

/// How the arguments are made ready: what is added to them, and whether queries are brought to mean 1 first.
#[derive(Debug, Clone, Copy)]
struct Ready {
    of_query: f64,
    of_item: f64,
    rescaled: bool,
}

impl Ready {
    fn apply(self, pairs: &Pairs, root: bool) -> Result<Pairs> {
        let finish = |t: Tensor| if root { t.sqrt() } else { Ok(t) };
        let query = |t: &Tensor| {
            let mean = t.mean_keepdim(1)?;
            // A query of which nothing is left stays as it is.
            let mean = (&mean + mean.le(0.0)?.to_dtype(t.dtype())?)?;
            let t = if self.rescaled { t.broadcast_div(&mean)? } else { t.clone() };
            finish((t + self.of_query)?)
        };
        pairs.map_each(query, |t| finish((t + self.of_item)?))
    }
}

/// What the fixed divergences are measured on.
#[derive(Debug, Clone, Copy, Serialize)]
struct Fixed {
    sample: Sample,
    seed: u64,
}

/// The cells in which some query has a point.
fn seen_cells(pairs: &Pairs) -> Result<Tensor> {
    let points = pairs.queries.sum(0)?.to_vec1::<f32>()?;
    let seen = points.iter().enumerate().filter(|(_, points)| **points > 0.0).map(|(cell, _)| cell as u32);
    Ok(Tensor::from_iter(seen, pairs.queries.device())?)
}

fn fixed_run(digits: &ImageSet, Fixed { sample, seed }: Fixed) -> Result<Record> {
    let (items, test) = data(digits, sample, seed)?;
    let tune = Pairs::draw(&items.spread(test.items.dim(0)?), sample, seed ^ 0x7e57, &Device::Cpu)?;
    let mut record = Record::default();
    record.values.insert("law".to_owned(), test.mean_reciprocal_rank_of_the_law()?);
    let (kl, itakura_saito) = (NegativeEntropy::orthant(), ItakuraSaito);
    let seen = seen_cells(&tune)?;
    for fixed in fixed(sample.hidden) {
        let (name, _, side) = fixed;
        let of_seen = |pairs: &Pairs| match fixed == OF_SEEN_CELLS {
            true => pairs.map(|t| t.index_select(&seen, 1)),
            false => Ok(pairs.clone()),
        };
        let (tune, test) = (of_seen(&tune)?, of_seen(&test)?);
        let phi: &dyn Generator = match name.split('-').next() {
            Some("kl") => &kl,
            Some("itakura") => &itakura_saito,
            _ => &SquaredEuclidean,
        };
        let score = |pairs: &Pairs, ready: Ready| -> Result<f64> {
            let pairs = ready.apply(pairs, name == "hellinger")?;
            pairs.mean_reciprocal_rank(phi, side.unwrap_or(Side::First))
        };
        let mut best = (f64::NEG_INFINITY, Ready { of_query: 0.0, of_item: 0.0, rescaled: false });
        for rescaled in if sample.hidden.cells() > 0 { [false, true].as_slice() } else { &[false] } {
            // Both arguments alike, or one of them only as far as it must be positive.
            let smoothings: Vec<(f64, f64)> = match side {
                None => vec![(0.0, 0.0)],
                Some(_) => SMOOTHING
                    .iter()
                    .flat_map(|&a| [(a, a), (BARELY_POSITIVE, a), (a, BARELY_POSITIVE)])
                    .collect(),
            };
            for (of_query, of_item) in smoothings {
                let ready = Ready { of_query, of_item, rescaled: *rescaled };
                let mrr = score(&tune, ready)?;
                if mrr > best.0 {
                    best = (mrr, ready);
                }
            }
        }
        let Ready { of_query, of_item, rescaled } = best.1;
        record.values.insert(name.to_owned(), score(&test, best.1)?);
        if side.is_some() {
            record.values.insert(format!("{name}.smoothing-of-query"), of_query);
            record.values.insert(format!("{name}.smoothing-of-item"), of_item);
        }
        if sample.hidden.cells() > 0 {
            record.values.insert(format!("{name}.rescaled"), f64::from(u8::from(rescaled)));
        }
    }
    Ok(record)
}
