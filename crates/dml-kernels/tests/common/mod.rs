//! Seeded random tensors and finite differences.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // test helpers, of which each test binary uses a part

use candle_core::{Device, Result, Shape, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// Standard normal entries in f64.
pub fn normal(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| StandardNormal.sample(&mut rng)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The largest absolute entry.
pub fn largest(x: &Tensor) -> f64 {
    x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap()
}

/// Asserts `|got − want| ≤ tolerance·(1 + max|want|)` entry by entry.
pub fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    if got.elem_count() == 0 {
        return;
    }
    let error = largest(&(got - want).unwrap());
    assert!(error <= tolerance * (1.0 + largest(want)), "{what}: differs by {error:e}");
}

/// Central differences of a scalar function with respect to one variable.
pub fn numeric_gradient(var: &Var, f: impl Fn() -> Result<Tensor>) -> Tensor {
    const STEP: f64 = 1e-5;
    let start = var.as_tensor().copy().unwrap();
    let values = start.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let at = |i: usize, step: f64| -> f64 {
        let mut moved = values.clone();
        moved[i] += step;
        var.set(&Tensor::from_vec(moved, start.shape(), &Device::Cpu).unwrap()).unwrap();
        f().unwrap().to_scalar::<f64>().unwrap()
    };
    let gradient: Vec<f64> = (0..values.len()).map(|i| (at(i, STEP) - at(i, -STEP)) / (2.0 * STEP)).collect();
    var.set(&start).unwrap();
    Tensor::from_vec(gradient, start.shape(), &Device::Cpu).unwrap()
}

/// Σ cotangent·y for a fixed random cotangent, so that a test sees every entry of the Jacobian.
pub fn weigh(y: &Tensor) -> Result<Tensor> {
    (y * normal(991, y.shape().clone()))?.sum_all()
}

/// Asserts that backward and central differences agree for each variable.
pub fn assert_gradients(what: &str, vars: &[&Var], f: impl Fn() -> Result<Tensor>) {
    const TOLERANCE: f64 = 1e-7; // second-order differences in f64 with a step of 1e-5
    let gradients = f().unwrap().backward().unwrap();
    for (i, var) in vars.iter().enumerate() {
        let got = gradients.get(var).unwrap_or_else(|| panic!("{what}: variable {i} receives no gradient"));
        assert_close(
            &format!("{what}: gradient of variable {i}"),
            got,
            &numeric_gradient(var, &f),
            TOLERANCE,
        );
    }
}

/// Whether no entry is so near to 0 that a difference step could carry it across.
pub fn clear_of_kink(z: &Tensor) -> bool {
    let z = z.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    z.iter().all(|z| z.abs() > 1e-3)
}
