//! A divergence recovered from examples of it: pairs of points and their divergence in, φ out.
//!
//! `cargo run -p dml --example recover_divergence` draws 10,000 pairs of positive vectors, takes their Itakura–Saito
//! divergence or their generalized Kullback–Leibler divergence as known, fits a separable φ and a Mahalanobis matrix
//! to them, and prints how much of the variance on pairs never seen each explains (R²), over three seeds.

use std::sync::Arc;

use bregman::paired;
use candle_core::{D, DType, Device, Tensor};
use dml::{Group, Inputs, Method, OptimizerConfig, Parameter, Task, TrainConfig, Watch, train};
use phi::{Generator, ItakuraSaito, NegativeEntropy};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, LogNormal};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The dimension of the points, and how far their logarithms spread.
const DIM: usize = 10;
const SPREAD: f64 = 0.5;
const BATCH: usize = 256;

/// Pairs and what is known of them.
#[derive(Clone)]
struct Examples {
    x: Tensor,          // [n, d]
    y: Tensor,          // [n, d]
    divergence: Tensor, // [n]
}

impl Examples {
    fn draw(of: &dyn Generator, n: usize, rng: &mut ChaCha8Rng) -> Outcome<Self> {
        let law = LogNormal::new(0.0, SPREAD)?;
        let mut points = || {
            Tensor::from_iter((0..n * DIM).map(|_| law.sample(rng) as f32), &Device::Cpu)?.reshape((n, DIM))
        };
        let (x, y) = (points()?, points()?);
        Ok(Self { divergence: paired(of, &x, &y)?, x, y })
    }

    /// Rows `from` to `from + n`, beginning again at the end.
    fn rows(&self, from: usize, n: usize) -> candle_core::Result<Self> {
        let len = self.divergence.dim(0)?;
        let at = Tensor::from_iter((from..from + n).map(|i| (i % len) as u32), &Device::Cpu)?;
        let take = |t: &Tensor| t.index_select(&at, 0);
        Ok(Self { x: take(&self.x)?, y: take(&self.y)?, divergence: take(&self.divergence)? })
    }
}

/// Least squares between D_φ and the examples.
struct Fit {
    examples: Examples,
    variance: f64,
    phi: Arc<dyn Generator>,
}

impl Task for Fit {
    fn loss(&self, step: usize) -> dml::Result<Tensor> {
        let Examples { x, y, divergence } = self.examples.rows(step * BATCH, BATCH)?;
        let error = (paired(self.phi.as_ref(), &x, &y)? - divergence)?;
        Ok((error.sqr()?.mean_all()? / self.variance)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.phi
            .parameters()
            .iter()
            .map(|p| Parameter::new(p.name.clone(), &p.var, Group::Generator))
            .collect()
    }
}

fn variance(of: &Tensor) -> Outcome<f64> {
    let of = of.to_dtype(DType::F64)?;
    Ok(of.broadcast_sub(&of.mean_keepdim(D::Minus1)?)?.sqr()?.mean_all()?.to_scalar::<f64>()?)
}

/// R² on held-out pairs, after training.
fn explained(of: &dyn Generator, method: Method, rate: f64, seed: u64) -> Outcome<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let examples = Examples::draw(of, 10_000, &mut rng)?;
    let held_out = Examples::draw(of, 2_000, &mut rng)?;
    let inputs = Inputs { dim: DIM, range: (0.0, 4.0), scale: 1.3, sample: Some(&examples.x) };
    let phi = method.generator(inputs, seed, DType::F32, &Device::Cpu)?;
    let task = Fit { variance: variance(&examples.divergence)?, examples, phi: phi.clone() };
    let optimizer = OptimizerConfig { generator_rate: rate, ..Default::default() };
    train(&task, &TrainConfig { steps: 1200, optimizer, ..Default::default() }, &Watch::default())?;
    let error = (paired(phi.as_ref(), &held_out.x, &held_out.y)? - &held_out.divergence)?;
    let error = error.to_dtype(DType::F64)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
    Ok(1.0 - error / variance(&held_out.divergence)?)
}

fn main() -> Outcome<()> {
    dml_kernels::settle_threads();
    let targets: [(&str, &dyn Generator); 2] =
        [("Itakura–Saito", &ItakuraSaito), ("Kullback–Leibler", &NegativeEntropy::orthant())];
    for (name, of) in targets {
        for (method, rate) in
            [(Method::Separable, 6e-2), (Method::EmpiricalBregman, 6e-2), (Method::DeepMahalanobis, 1e-2)]
        {
            let scores = (0..3).map(|seed| explained(of, method, rate, seed)).collect::<Outcome<Vec<_>>>()?;
            println!("{name} by {}: R² {scores:.4?}", method.label());
        }
    }
    Ok(())
}
