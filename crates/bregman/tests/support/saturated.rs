//! Networks all of whose units lie far to one side of their knees, and their divergences pair by pair in f64.
//!
//! There φ is an affine function and a little more: D is made of terms such as e^−t beside parts of order one that
//! cancel. The oracle never forms those: φ changes by an affine function when softplus(t) = t + softplus(−t) is
//! taken for softplus(−t), and D does not change, so every unit is looked at from the side on which it is small.

#![allow(dead_code)] // each test file uses a part of it

use candle_core::{DType, Device, Tensor};
use phi::{
    Activation, DeepDivergenceConfig, EmpiricalBregmanConfig, Generator, IcnnConfig, Parameter,
    SeparableConfig, Spec,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::oracle::TestResult;

/// s(a) − s(b) − s′(b)(a − b), to full relative precision.
pub fn bend(activation: Activation, a: f64, b: f64) -> f64 {
    let delta = a - b;
    match activation {
        Activation::Squareplus => {
            let (root_a, root_b) = (a.hypot(2.0), b.hypot(2.0));
            let product = a * b + 4.0;
            if product < 0.0 {
                return 0.5 * (root_a * root_b - product) / root_b;
            }
            2.0 * delta * delta / (root_b * (root_a * root_b + product))
        }
        _ => {
            let (a, b, delta) = if b > 0.0 { (-a, -b, -delta) } else { (a, b, delta) };
            let slope = slope(activation, b);
            if delta.abs() < 1e-3 {
                let rest = 1.0 - 2.0 * slope;
                let fourth = 1.0 - 6.0 * slope * (1.0 - slope);
                let series = 0.5 + delta * rest / 6.0 + delta * delta * fourth / 24.0;
                return slope * (1.0 - slope) * delta * delta * series;
            }
            let rise = if delta > 30.0 {
                value(activation, a) - value(activation, b)
            } else {
                (slope * delta.exp_m1()).ln_1p()
            };
            rise - slope * delta
        }
    }
}

pub fn value(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Squareplus if z < 0.0 => 2.0 / (z.hypot(2.0) - z),
        Activation::Squareplus => 0.5 * (z.hypot(2.0) + z),
        _ => softplus(z),
    }
}

pub fn slope(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Squareplus => 0.5 + 0.5 * z / z.hypot(2.0),
        _ => 1.0 / (1.0 + (-z).exp()),
    }
}

pub fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// The numbers of a parameter, row by row.
fn read(parameters: &[Parameter], name: &str) -> TestResult<Vec<f64>> {
    let found = parameters.iter().find(|p| p.name == name).ok_or(format!("no parameter {name}"))?;
    Ok(found.var.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn times(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    matrix.chunks(vector.len()).map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect()
}

fn plus(a: Vec<f64>, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// D(x ‖ y) of two points.
pub type Divergence = Box<dyn Fn(&[f64], &[f64]) -> f64>;

/// An input-convex network on the host.
struct Network {
    activation: Activation,
    input: Vec<Vec<f64>>,
    bias: Vec<Vec<f64>>,
    hidden: Vec<Vec<f64>>, // after the softplus; leads into layer l + 1
    top: Vec<f64>,
    slope: Vec<f64>,
    offset: f64,
}

impl Network {
    fn new(
        parameters: &[Parameter],
        prefix: &str,
        layers: usize,
        activation: Activation,
    ) -> TestResult<Self> {
        let named = |letter: &str, l: usize| read(parameters, &format!("{prefix}{letter}{l}"));
        let positive = |values: Vec<f64>| values.into_iter().map(softplus).collect::<Vec<_>>();
        Ok(Self {
            activation,
            input: (0..layers).map(|l| named("W", l)).collect::<TestResult<_>>()?,
            bias: (0..layers).map(|l| named("b", l)).collect::<TestResult<_>>()?,
            hidden: (1..layers).map(|l| Ok(positive(named("V", l)?))).collect::<TestResult<_>>()?,
            top: positive(named("v", layers)?),
            slope: named("w", layers)?,
            offset: named("b", layers)?[0],
        })
    }

    fn layers(&self, x: &[f64]) -> Vec<Vec<f64>> {
        let mut z: Vec<Vec<f64>> = Vec::new();
        for l in 0..self.input.len() {
            let mut next = plus(times(&self.input[l], x), &self.bias[l]);
            if l > 0 {
                let below: Vec<f64> = z[l - 1].iter().map(|z| value(self.activation, *z)).collect();
                next = plus(next, &times(&self.hidden[l - 1], &below));
            }
            z.push(next);
        }
        z
    }

    fn value(&self, x: &[f64]) -> f64 {
        let last = self.layers(x).pop().unwrap_or_default();
        let network: f64 = last.iter().zip(&self.top).map(|(z, v)| v * value(self.activation, *z)).sum();
        network + self.offset + self.slope.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()
    }

    /// The sum of the units' own divergences, each weighted by what φ makes of the unit at y.
    fn divergence(&self, x: &[f64], y: &[f64]) -> f64 {
        let s = self.activation;
        let at_y = self.layers(y);
        let mut weight = vec![self.top.clone()];
        for l in (1..at_y.len()).rev() {
            let above = &weight[weight.len() - 1];
            let width = at_y[l - 1].len();
            let mut below = vec![0.0; width];
            for (j, row) in self.hidden[l - 1].chunks(width).enumerate() {
                row.iter().zip(&mut below).for_each(|(p, b)| *b += above[j] * slope(s, at_y[l][j]) * p);
            }
            weight.push(below);
        }
        weight.reverse();
        let step: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
        let (mut sum, mut rise): (f64, Vec<f64>) = (0.0, Vec::new());
        for (l, at_y) in at_y.iter().enumerate() {
            let mut delta = times(&self.input[l], &step);
            if l > 0 {
                delta = plus(delta, &times(&self.hidden[l - 1], &rise));
            }
            let bends: Vec<f64> = at_y.iter().zip(&delta).map(|(z, d)| bend(s, z + d, *z)).collect();
            sum += bends.iter().zip(&weight[l]).map(|(b, c)| b * c).sum::<f64>();
            rise = (0..delta.len()).map(|j| bends[j] + slope(s, at_y[j]) * delta[j]).collect();
        }
        sum
    }
}

/// D(x ‖ y) of generators made of units, pair by pair.
pub fn divergence(spec: &Spec, phi: &dyn Generator) -> TestResult<Divergence> {
    let parameters = phi.parameters();
    let squares =
        |c: f64, x: &[f64], y: &[f64]| 0.5 * c * x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
    Ok(match spec {
        Spec::Separable(config) => separable(&parameters, "", config)?,
        Spec::Icnn(config) => {
            let (network, c) =
                (Network::new(&parameters, "", config.widths.len(), config.activation)?, config.curvature);
            Box::new(move |x, y| network.divergence(x, y) + squares(c, x, y))
        }
        Spec::EmpiricalBregman(config) => {
            let (first, second) =
                (config.separable.clone().ok_or("no part")?, config.icnn.clone().ok_or("no part")?);
            let units = separable(&parameters, "separable.", &first)?;
            let network = Network::new(&parameters, "icnn.", second.widths.len(), second.activation)?;
            let c = config.curvature + second.curvature;
            Box::new(move |x, y| units(x, y) + network.divergence(x, y) + squares(c, x, y))
        }
        Spec::DeepDivergence(config) => {
            let net =
                |k| Network::new(&parameters, &format!("net{k}."), config.widths.len(), config.activation);
            let nets: Vec<Network> = (0..config.subnetworks).map(net).collect::<TestResult<_>>()?;
            let c = config.curvature;
            Box::new(move |x, y| {
                let scores = |x: &[f64]| nets.iter().map(|net| net.value(x)).collect::<Vec<_>>();
                let winner =
                    |s: &[f64]| (0..s.len()).fold(0, |best, k| if s[k] > s[best] { k } else { best });
                let (at_x, at_y) = (scores(x), winner(&scores(y)));
                at_x[winner(&at_x)] - at_x[at_y] + nets[at_y].divergence(x, y) + squares(c, x, y)
            })
        }
        other => return Err(format!("{other:?} has no units").into()),
    })
}

fn separable(parameters: &[Parameter], prefix: &str, config: &SeparableConfig) -> TestResult<Divergence> {
    let named = |name: &str| read(parameters, &format!("{prefix}{name}"));
    let (w, b, a) = (named("w")?, named("b")?, named("a")?);
    let &SeparableConfig { units, curvature, range: (lo, hi), .. } = config;
    let (middle, half) = (f64::midpoint(lo, hi), 0.5 * (hi - lo));
    Ok(Box::new(move |x, y| {
        let mut sum = 0.0;
        for j in 0..x.len() {
            let at = |v: f64, u: usize| w[u] * (v - middle) / half + b[u];
            sum += (j * units..(j + 1) * units)
                .map(|u| softplus(a[u]) * bend(Activation::Softplus, at(x[j], u), at(y[j], u)))
                .sum::<f64>();
            sum += 0.5 * curvature * (x[j] - y[j]).powi(2);
        }
        sum
    }))
}

/// The generators with units, with `c` in front of ½‖x‖².
pub fn with_units(c: f64) -> Vec<(&'static str, Spec)> {
    let separable = SeparableConfig { units: 4, curvature: c, ..Default::default() };
    let icnn = IcnnConfig { widths: vec![6, 5], curvature: c, ..Default::default() };
    let parts = EmpiricalBregmanConfig {
        separable: Some(SeparableConfig { curvature: 0.0, ..separable.clone() }),
        icnn: Some(IcnnConfig { curvature: 0.0, ..icnn.clone() }),
        curvature: c,
    };
    let deep = DeepDivergenceConfig { subnetworks: 3, widths: vec![4], curvature: c, ..Default::default() };
    let squareplus = IcnnConfig { activation: Activation::Squareplus, ..icnn.clone() };
    vec![
        ("separable", Spec::Separable(separable)),
        ("icnn_one_layer", Spec::Icnn(IcnnConfig { widths: vec![7], ..icnn.clone() })),
        ("icnn_three_layers", Spec::Icnn(IcnnConfig { widths: vec![6, 5, 4], ..icnn.clone() })),
        ("icnn", Spec::Icnn(icnn)),
        ("icnn_squareplus", Spec::Icnn(squareplus)),
        ("empirical_bregman", Spec::EmpiricalBregman(parts)),
        ("deep_divergence", Spec::DeepDivergence(deep)),
    ]
}

/// Moves the units so that at the point (`at`, …, `at`) each stands `how_far` beyond its knee, give or take one:
/// slopes of size `steepness`/√d, the numbers those of f32.
pub fn saturate(phi: &dyn Generator, how_far: f64, at: f64, steepness: f64, seed: u64) -> TestResult {
    let mut draw = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move |lo: f64, hi: f64| lo + (hi - lo) * (draw.next_u32() as f64 / f64::from(u32::MAX));
    let parameters = phi.parameters();
    let round = |v: f64| f64::from(v as f32);
    let set = |name: &str, values: &[f64]| -> TestResult {
        let p = parameters.iter().find(|p| p.name == name).ok_or(format!("no parameter {name}"))?;
        let values = Tensor::from_vec(values.to_vec(), p.var.dims(), &Device::Cpu)?;
        Ok(p.var.set(&values.to_dtype(p.var.dtype())?)?)
    };
    let dim = phi.dim().ok_or("no dimension")?;
    let prefixes: Vec<String> =
        parameters.iter().filter_map(|p| p.name.strip_suffix("W0").map(str::to_owned)).collect();
    if let Some(prefix) = parameters.iter().find_map(|p| p.name.strip_suffix('w').map(str::to_owned)) {
        let count = read(&parameters, &format!("{prefix}w"))?.len();
        let mut slopes: Vec<f64> = Vec::new();
        for _ in 0..count {
            let sign = if uniform(0.0, 1.0) < 0.5 { -1.0 } else { 1.0 };
            slopes.push(round(sign * steepness * uniform(0.5, 1.5)));
        }
        let knees: Vec<f64> = slopes.iter().map(|w| how_far + uniform(-1.0, 1.0) - w * at).collect();
        set(&format!("{prefix}w"), &slopes)?;
        set(&format!("{prefix}b"), &knees)?;
    }
    for prefix in prefixes {
        let layers = parameters.iter().filter(|p| p.name.starts_with(&format!("{prefix}W"))).count();
        let mut below: Vec<f64> = Vec::new();
        for l in 0..layers {
            let count = read(&parameters, &format!("{prefix}W{l}"))?.len();
            let size = steepness / (dim as f64).sqrt();
            let slopes: Vec<f64> = (0..count).map(|_| round(size * uniform(-1.7, 1.7))).collect();
            let mut z = times(&slopes, &vec![at; dim]);
            if l > 0 {
                let raw: Vec<f64> = (0..z.len() * below.len()).map(|_| round(uniform(-3.0, -1.5))).collect();
                set(&format!("{prefix}V{l}"), &raw)?;
                let positive: Vec<f64> = raw.into_iter().map(softplus).collect();
                z = plus(z, &times(&positive, &below));
            }
            let bias: Vec<f64> = z.iter().map(|z| round(how_far + uniform(-1.0, 1.0) - z)).collect();
            set(&format!("{prefix}W{l}"), &slopes)?;
            set(&format!("{prefix}b{l}"), &bias)?;
            below = z.iter().zip(&bias).map(|(z, b)| softplus(z + b)).collect();
        }
    }
    Ok(())
}
