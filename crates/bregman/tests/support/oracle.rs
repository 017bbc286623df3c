//! Divergences by the formula, one pair after the other, and what the tests share.

#![allow(dead_code)] // each test file uses a part of it

use candle_core::{DType, Device, Tensor};
use phi::{Generator, testing::Named};

pub type Failure = Box<dyn std::error::Error>;
pub type TestResult<T = ()> = Result<T, Failure>;

/// Whether ∇φ of this member of `phi::testing::every_generator` is one to one and continuous, so that it can be
/// inverted anywhere.
pub fn invertible(name: &str) -> bool {
    let not = ["max_affine", "max_affine_smooth", "deep_divergence", "log_sum_exp", "affine_input"];
    !not.contains(&name)
}

/// The generator in f32, and in f64 with the same, widened parameters.
pub fn narrow_and_wide(named: Named, d: usize) -> TestResult<(Box<dyn Generator>, Box<dyn Generator>)> {
    let (wide, narrow) = (named.phi, named.spec.build(d, 0, DType::F32, &Device::Cpu)?);
    for (wide, narrow) in wide.parameters().iter().zip(narrow.parameters()) {
        assert_eq!(wide.name, narrow.name);
        narrow.var.set(&wide.var.to_dtype(DType::F32)?)?;
        wide.var.set(&narrow.var.to_dtype(DType::F64)?)?;
    }
    Ok((narrow, wide))
}

/// D(x_i ‖ y_j) by the formula, in f64.
pub fn naive(phi: &dyn Generator, x: &Tensor, y: &Tensor) -> TestResult<Vec<Vec<f64>>> {
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
