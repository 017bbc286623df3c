//! Prototypes: each D_φ has the mean as its centroid and belongs to a family of noise, so φ can be learned from some
//! classes and serve for others.
//!
//! `cargo run -p dml --example prototypes` draws classes whose features have gamma, Poisson or Gaussian noise about a
//! mean, trains φ on 60 of them so that a sample is nearest to the mean of its class, and then, on 60 others, prints
//! over three seeds: the accuracy of the nearest of 20 class means, each of 30 samples; the normalized mutual
//! information of k-means with the classes; both under the learned divergence, the family's own, a learned Mahalanobis
//! distance and the Euclidean one; and the slope of log φ″ on log x, which theory has at −2 (gamma), −1 (Poisson) and
//! 0 (constant variance).

use std::sync::Arc;

use bregman::{Side, all_pairs, cluster::hard::KMeans};
use candle_core::{DType, Device, Tensor};
use dml::{Inputs, Method, OptimizerConfig, Parameter, Task, TrainConfig, Watch, train};
use dml_loss::{Batch, BregmanDistance, Objective, SupCon, Temperature};
use dml_retrieval::nmi;
use phi::{Generator, ItakuraSaito, NegativeEntropy, SquaredEuclidean};
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, LogNormal, Normal, Poisson};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const DIM: usize = 16;
const CLASSES: usize = 60;
/// Samples behind a mean.
const SHOTS: usize = 30;
const WAYS: usize = 20;
const EPISODES: usize = 100;

/// How features scatter about a class mean.
#[derive(Clone, Copy)]
enum Noise {
    /// Variance m²/2.
    Gamma,
    /// Variance m.
    Poisson,
    /// Variance 1, whatever m.
    Gaussian,
}

impl Noise {
    fn name(self) -> &'static str {
        match self {
            Self::Gamma => "gamma",
            Self::Poisson => "Poisson",
            Self::Gaussian => "Gaussian",
        }
    }

    /// The generator whose divergence is the family's negative log-likelihood, up to a term of the sample alone.
    fn own(self) -> Box<dyn Generator> {
        match self {
            Self::Gamma => Box::new(ItakuraSaito),
            Self::Poisson => Box::new(NegativeEntropy::orthant()),
            Self::Gaussian => Box::new(SquaredEuclidean),
        }
    }

    /// A class mean: logarithms of means spread by 0.6 about log 3.
    fn mean(self, rng: &mut ChaCha8Rng) -> Outcome<Vec<f64>> {
        let law = LogNormal::new(3f64.ln(), 0.6)?;
        Ok((0..DIM).map(|_| law.sample(rng)).collect())
    }

    fn sample(self, mean: &[f64], n: usize, rng: &mut ChaCha8Rng) -> Outcome<Tensor> {
        let mut values = Vec::with_capacity(n * DIM);
        for _ in 0..n {
            for &m in mean {
                values.push(match self {
                    Self::Gamma => Gamma::new(2.0, m / 2.0)?.sample(rng),
                    // Entropy and its gradient need positive numbers.
                    Self::Poisson => Poisson::new(m)?.sample(rng).max(1e-3),
                    Self::Gaussian => Normal::new(m, 1.0)?.sample(rng),
                } as f32);
            }
        }
        Ok(Tensor::from_vec(values, (n, DIM), &Device::Cpu)?)
    }
}

/// Classes to learn φ from: in each step a sample of each, and the means of some others of the class.
struct Prototypes {
    noise: Noise,
    means: Vec<Vec<f64>>,
    seed: u64,
    objective: Objective,
}

impl Prototypes {
    fn batch(&self, step: usize) -> Outcome<Batch> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(step as u64 + 1);
        let (mut queries, mut prototypes, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for (class, mean) in self.means.iter().enumerate() {
            queries.push(self.noise.sample(mean, 4, &mut rng)?);
            prototypes.push(self.noise.sample(mean, SHOTS, &mut rng)?.mean_keepdim(0)?);
            labels.push(class as i64);
        }
        let of_queries: Vec<i64> = labels.iter().flat_map(|&class| [class; 4]).collect();
        let batch = Batch::new(&Tensor::cat(&queries, 0)?, &of_queries)?;
        Ok(batch.with_reference(&Tensor::cat(&prototypes, 0)?, &labels)?)
    }
}

impl Task for Prototypes {
    fn loss(&self, step: usize) -> dml::Result<Tensor> {
        let batch = self.batch(step).map_err(candle_core::Error::msg)?;
        Ok(self.objective.forward(&batch)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.objective
            .parameters()
            .into_iter()
            .map(|p| Parameter::new(p.name, &p.var, p.role.into()))
            .collect()
    }

    fn calibrate(&self) -> dml::Result<()> {
        Ok(self.objective.calibrate(&self.batch(0).map_err(candle_core::Error::msg)?)?)
    }
}

/// A generator of `method`, trained on the classes with these means.
fn learn(
    noise: Noise,
    means: &[Vec<f64>],
    method: Method,
    rate: f64,
    seed: u64,
) -> Outcome<Arc<dyn Generator>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5ca1e);
    let some = means.iter().map(|mean| noise.sample(mean, SHOTS, &mut rng)).collect::<Outcome<Vec<_>>>()?;
    let some = Tensor::cat(&some, 0)?;
    let scale = f64::from(some.sqr()?.mean_all()?.to_scalar::<f32>()?).sqrt();
    let inputs = Inputs { dim: DIM, range: (0.0, 3.0 * scale), scale, sample: Some(&some) };
    let phi = method.generator(inputs, seed, DType::F32, &Device::Cpu)?;
    let distance = Arc::new(BregmanDistance::new(phi.clone(), Side::First));
    let temperature = Temperature::learned(0.1, DType::F32, &Device::Cpu)?;
    let objective = Objective::new(Arc::new(SupCon { distance, temperature }));
    let task = Prototypes { noise, means: means.to_vec(), seed, objective };
    let optimizer = OptimizerConfig { generator_rate: rate, ..Default::default() };
    train(&task, &TrainConfig { steps: 300, optimizer, ..Default::default() }, &Watch::default())?;
    Ok(phi)
}

/// The accuracy of the nearest of [`WAYS`] means under D(sample ‖ mean).
fn accuracy(noise: Noise, means: &[Vec<f64>], phi: &dyn Generator, seed: u64) -> Outcome<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut right, mut all) = (0, 0);
    for _ in 0..EPISODES {
        let (mut queries, mut prototypes) = (Vec::new(), Vec::new());
        for class in index::sample(&mut rng, means.len(), WAYS) {
            prototypes.push(noise.sample(&means[class], SHOTS, &mut rng)?.mean_keepdim(0)?);
            queries.push(noise.sample(&means[class], 5, &mut rng)?);
        }
        let d = all_pairs(phi, &Tensor::cat(&queries, 0)?, &Tensor::cat(&prototypes, 0)?)?;
        let nearest = d.argmin(1)?.to_vec1::<u32>()?;
        right += nearest.iter().enumerate().filter(|&(i, &way)| way as usize == i / 5).count();
        all += nearest.len();
    }
    Ok(right as f64 / all as f64)
}

/// How well k-means finds the classes.
fn clustering(noise: Noise, means: &[Vec<f64>], phi: &dyn Generator, seed: u64) -> Outcome<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let samples =
        means.iter().map(|mean| noise.sample(mean, SHOTS, &mut rng)).collect::<Outcome<Vec<_>>>()?;
    let labels: Vec<usize> = (0..means.len() * SHOTS).map(|i| i / SHOTS).collect();
    let found = KMeans::new(means.len()).fit(phi, &Tensor::cat(&samples, 0)?, &mut rng)?;
    Ok(nmi(&labels, &found.labels)?)
}

/// The slope of log φ″ on log x, mean over coordinates, between the 5 % and 95 % quantiles of the class means.
fn slope(phi: &dyn Generator) -> Outcome<f64> {
    let at: Vec<f64> = (0..=30).map(|i| 1.1 * (8f64 / 1.1).powf(f64::from(i) / 30.0)).collect();
    let rows: Vec<f32> = at.iter().flat_map(|&v| [v as f32; DIM]).collect();
    let gradient = phi.value_and_grad(&Tensor::from_vec(rows, (at.len(), DIM), &Device::Cpu)?)?.1;
    let gradient = gradient.to_dtype(DType::F64)?.mean(1)?.to_vec1::<f64>()?;
    let points: Vec<(f64, f64)> = at
        .windows(2)
        .zip(gradient.windows(2))
        .map(|(x, g)| (0.5 * (x[0] * x[1]).ln(), ((g[1] - g[0]) / (x[1] - x[0])).max(1e-9).ln()))
        .collect();
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
    let (xy, xx) =
        points.iter().fold((0.0, 0.0), |(a, b), (u, v)| (a + (u - x) * (v - y), b + (u - x) * (u - x)));
    Ok(xy / xx)
}

fn main() -> Outcome<()> {
    dml_kernels::settle_threads();
    for noise in [Noise::Gamma, Noise::Poisson, Noise::Gaussian] {
        let mut lines = vec![(Vec::new(), Vec::new()); 4];
        let mut slopes = Vec::new();
        for seed in 0..3 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut means = (0..2 * CLASSES).map(|_| noise.mean(&mut rng)).collect::<Outcome<Vec<_>>>()?;
            let unseen = means.split_off(CLASSES);
            let learned = learn(noise, &means, Method::Separable, 6e-2, seed)?;
            let mahalanobis = learn(noise, &means, Method::DeepMahalanobis, 1e-2, seed)?;
            let own = noise.own();
            slopes.push(slope(learned.as_ref())?);
            let all: [&dyn Generator; 4] =
                [learned.as_ref(), own.as_ref(), mahalanobis.as_ref(), &SquaredEuclidean];
            for (line, phi) in lines.iter_mut().zip(all) {
                line.0.push(accuracy(noise, &unseen, phi, seed ^ 0x7e57)?);
                line.1.push(clustering(noise, &unseen, phi, seed ^ 0xc105)?);
            }
        }
        println!("{} noise, slope of log φ″ {slopes:.2?}", noise.name());
        for (name, (accuracies, clusterings)) in
            ["learned", "the family's own", "Mahalanobis", "Euclidean"].iter().zip(lines)
        {
            println!("  {name:18} accuracy {accuracies:.3?}, NMI of k-means {clusterings:.3?}");
        }
    }
    Ok(())
}
