//! Every generator with parameters far from where they start, points in its domain, and divergences by the formula.

#![allow(dead_code)] // each test file uses a part of it

use candle_core::{DType, Device, Tensor};
use phi::{
    AffineInput, DeepDivergence, DeepDivergenceConfig, Domain, EmpiricalBregman, EmpiricalBregmanConfig,
    Factor, Generator, Icnn, IcnnConfig, ItakuraSaito, LogSumExp, Mahalanobis, MahalanobisConfig, MaxAffine,
    MaxAffineConfig, NegativeEntropy, PNorm, Scaled, Separable, SeparableConfig, SquaredEuclidean, Sum,
};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

pub type TestResult = Result<(), Box<dyn std::error::Error>>;
type Made = Result<Box<dyn Generator>, Box<dyn std::error::Error>>;

/// A generator by name and the seed of its parameters.
pub const NAMES: [&str; 18] = [
    "squared_euclidean",
    "mahalanobis",
    "mahalanobis_low_rank",
    "negative_entropy",
    "negative_entropy_simplex",
    "itakura_saito",
    "log_sum_exp",
    "p_norm_1.3",
    "p_norm_2",
    "max_affine",
    "max_affine_smooth",
    "icnn",
    "icnn_deep",
    "separable",
    "deep_divergence",
    "empirical_bregman",
    "affine_log_sum_exp",
    "sum_on_orthant",
];

/// The names of generators for which D(x ‖ y) = 0 only where x = y, so that ∇φ can be inverted.
pub fn invertible(name: &str) -> bool {
    !matches!(
        name,
        "max_affine" | "max_affine_smooth" | "deep_divergence" | "log_sum_exp" | "affine_log_sum_exp"
    )
}

pub fn generator(name: &str, d: usize, dtype: DType, seed: u64) -> Made {
    let device = Device::Cpu;
    let icnn = |widths: &[usize]| IcnnConfig { widths: widths.to_vec(), ..Default::default() };
    let phi: Box<dyn Generator> = match name {
        "squared_euclidean" => Box::new(SquaredEuclidean),
        "mahalanobis" => {
            let config = MahalanobisConfig { factor: Factor::Triangular, epsilon: 0.1 };
            Box::new(Mahalanobis::new(d, &config, seed, dtype, &device)?)
        }
        "mahalanobis_low_rank" => {
            let config = MahalanobisConfig { factor: Factor::Dense { rank: 2 }, epsilon: 0.1 };
            Box::new(Mahalanobis::new(d, &config, seed, dtype, &device)?)
        }
        "negative_entropy" => Box::new(NegativeEntropy::orthant()),
        "negative_entropy_simplex" => Box::new(NegativeEntropy::simplex()),
        "itakura_saito" => Box::new(ItakuraSaito),
        "log_sum_exp" => Box::new(LogSumExp),
        "p_norm_1.3" => Box::new(PNorm::new(1.3)?),
        "p_norm_2" => Box::new(PNorm::new(2.0)?),
        "max_affine" => {
            let config = MaxAffineConfig { pieces: 5, temperature: None };
            Box::new(MaxAffine::new(d, &config, seed, dtype, &device)?)
        }
        "max_affine_smooth" => {
            let config = MaxAffineConfig { pieces: 5, temperature: Some(0.5) };
            Box::new(MaxAffine::new(d, &config, seed, dtype, &device)?)
        }
        "icnn" => Box::new(Icnn::new(d, &icnn(&[7]), seed, dtype, &device)?),
        "icnn_deep" => Box::new(Icnn::new(d, &icnn(&[6, 5, 4]), seed, dtype, &device)?),
        "separable" => {
            let config = SeparableConfig { units: 4, range: (-2.0, 2.0), ..Default::default() };
            Box::new(Separable::new(d, &config, seed, dtype, &device)?)
        }
        "deep_divergence" => {
            let config = DeepDivergenceConfig { subnetworks: 3, widths: vec![4], ..Default::default() };
            Box::new(DeepDivergence::new(d, &config, seed, dtype, &device)?)
        }
        "empirical_bregman" => {
            let separable = SeparableConfig { units: 3, range: (-2.0, 2.0), ..Default::default() };
            let config = EmpiricalBregmanConfig {
                separable: Some(separable),
                icnn: Some(icnn(&[5, 4])),
                ..Default::default()
            };
            Box::new(EmpiricalBregman::new(d, &config, seed, dtype, &device)?)
        }
        "affine_log_sum_exp" => {
            Box::new(AffineInput::new(d, d + 2, Box::new(LogSumExp), seed, dtype, &device)?)
        }
        "sum_on_orthant" => {
            let entropy = Box::new(Scaled::new(0.5, Box::new(NegativeEntropy::orthant()))?);
            let config = SeparableConfig { units: 3, range: (0.0, 3.0), ..Default::default() };
            Box::new(Sum::new(vec![entropy, Box::new(Separable::new(d, &config, seed, dtype, &device)?)])?)
        }
        other => return Err(format!("no generator named {other}").into()),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    for parameter in phi.parameters() {
        let shape = parameter.var.shape().clone();
        let noise = (0..shape.elem_count()).map(|_| 0.4 * normal(&mut rng)).collect::<Vec<_>>();
        let noise = Tensor::from_vec(noise, shape, &device)?.to_dtype(parameter.var.dtype())?;
        parameter.var.set(&(parameter.var.as_tensor() + noise)?)?;
    }
    Ok(phi)
}

/// The same generator in f64, with the f32 parameters widened.
pub fn widened(name: &str, d: usize, seed: u64, narrow: &dyn Generator) -> Made {
    let wide = generator(name, d, DType::F64, seed)?;
    for (to, from) in wide.parameters().iter().zip(narrow.parameters()) {
        assert_eq!(to.name, from.name);
        to.var.set(&from.var.to_dtype(DType::F64)?)?;
    }
    Ok(wide)
}

/// Points in the domain, well away from its border.
pub fn rows(phi: &dyn Generator, seed: u64, n: usize, d: usize) -> candle_core::Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values: Vec<f64> = (0..n * d).map(|_| normal(&mut rng)).collect();
    if phi.domain() != Domain::Reals {
        values.iter_mut().for_each(|v| *v = (0.6 * *v).exp());
    }
    if phi.domain() == Domain::Simplex {
        for row in values.chunks_mut(d) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }
    }
    Tensor::from_vec(values, (n, d), &Device::Cpu)
}

pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// D(x_i ‖ y_j) by the formula, one pair after the other, in f64.
pub fn naive(
    phi: &dyn Generator,
    x: &Tensor,
    y: &Tensor,
) -> Result<Vec<Vec<f64>>, Box<dyn std::error::Error>> {
    let value_x = phi.value(x)?.to_vec1::<f64>()?;
    let (value_y, grad_y) = phi.value_and_grad(y)?;
    let (value_y, grad_y) = (value_y.to_vec1::<f64>()?, grad_y.to_vec2::<f64>()?);
    let (x, y) = (x.to_vec2::<f64>()?, y.to_vec2::<f64>()?);
    let pair = |i: usize, j: usize| {
        let slope: f64 = (0..x[i].len()).map(|k| grad_y[j][k] * (x[i][k] - y[j][k])).sum();
        value_x[i] - value_y[j] - slope
    };
    Ok((0..x.len()).map(|i| (0..y.len()).map(|j| pair(i, j)).collect()).collect())
}

/// The largest difference between two tensors, as a share of the largest entry of the second (1 at least).
pub fn distance(a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
    assert_eq!(a.dims(), b.dims());
    let largest = |t: Tensor| t.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>();
    Ok(largest((a - b)?)? / largest(b.clone())?.max(1.0))
}
