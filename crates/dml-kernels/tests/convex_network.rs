//! The fused convex network against the same out of candle's operations and against finite differences.

#![allow(clippy::unwrap_used)] // helpers outside test functions

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::{ConvexActivation, ConvexNetwork, convex_network, natively};
use proptest::prelude::*;

struct Parameters {
    input: Vec<Var>,
    bias: Vec<Var>,
    hidden: Vec<Var>,
    top: Var,
    affine: Var,
}

impl Parameters {
    fn new(seed: u64, d: usize, widths: &[usize], dtype: DType) -> Self {
        let var = |at: u64, shape: &[usize], scale: f64| {
            let values = (normal(seed ^ at << 3, shape) * scale).unwrap();
            Var::from_tensor(&values.to_dtype(dtype).unwrap()).unwrap()
        };
        let layers = widths.len();
        Self {
            input: (0..layers).map(|l| var(l as u64, &[widths[l], d], 0.7)).collect(),
            bias: (0..layers).map(|l| var(10 + l as u64, &[widths[l]], 0.5)).collect(),
            hidden: (1..layers).map(|l| var(20 + l as u64, &[widths[l], widths[l - 1]], 0.7)).collect(),
            top: var(30, &[widths[layers - 1]], 0.7),
            affine: var(31, &[2], 1.0),
        }
    }

    fn network(&self, activation: ConvexActivation) -> ConvexNetwork<'_> {
        ConvexNetwork {
            input: self.input.iter().map(|v| v.as_tensor()).collect(),
            bias: self.bias.iter().map(|v| v.as_tensor()).collect(),
            hidden: self.hidden.iter().map(|v| v.as_tensor()).collect(),
            top: self.top.as_tensor(),
            affine: vec![self.affine.as_tensor()],
            activation,
            curvature: 0.3,
        }
    }

    fn vars(&self) -> Vec<&Var> {
        let layers = self.input.iter().chain(&self.bias).chain(&self.hidden);
        layers.chain([&self.top, &self.affine]).collect()
    }
}

fn activation(squareplus: bool) -> ConvexActivation {
    if squareplus { ConvexActivation::Squareplus } else { ConvexActivation::Softplus }
}

/// A scalar that sees values and gradients, or one of them.
fn scalar((value, grad): (Tensor, Tensor), sees: usize) -> Result<Tensor> {
    match sees {
        0 => weigh(&value)? + weigh(&grad)?,
        1 => weigh(&value),
        _ => weigh(&grad),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn gradients(
        seed: u64, n in 1..6usize, d in 1..5usize,
        widths in prop::collection::vec(1..19usize, 1..4), squareplus: bool, sees in 0..3usize,
    ) {
        let parameters = Parameters::new(seed, d, &widths, DType::F64);
        let network = parameters.network(activation(squareplus));
        // Transposed, so not contiguous.
        let x = Var::from_tensor(&normal(!seed, (d, n)))?;
        let pivot = normal(seed ^ 99, (1, d));
        let mut vars = parameters.vars();
        vars.push(&x);
        assert_gradients("convex_network", &vars, || scalar(convex_network(&x.t()?, &pivot, &network)?, sees));
    }

    #[test]
    fn values_and_gradients_as_candles(
        seed: u64, n in 1..80usize, d in 1..20usize,
        widths in prop::collection::vec(1..40usize, 1..4), squareplus: bool, sees in 0..3usize, single: bool,
    ) {
        let dtype = if single { DType::F32 } else { DType::F64 };
        let tolerance = if single { 2e-5 } else { 1e-11 };
        let parameters = Parameters::new(seed, d, &widths, dtype);
        let network = parameters.network(activation(squareplus));
        let x = Var::from_tensor(&normal(!seed, (n, d)).to_dtype(dtype)?)?;
        let pivot = normal(seed ^ 99, (1, d)).to_dtype(dtype)?;
        let run = || convex_network(&x, &pivot, &network);
        let (ours, theirs) = (run()?, natively(run)?);
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        assert_close("value", &double(&ours.0), &double(&theirs.0), tolerance);
        assert_close("gradient", &double(&ours.1), &double(&theirs.1), tolerance);
        let backward = |both: (Tensor, Tensor)| scalar((double(&both.0), double(&both.1)), sees)?.backward();
        let (ours, theirs) = (backward(ours)?, backward(theirs)?);
        let mut vars = parameters.vars();
        vars.push(&x);
        for (i, var) in vars.iter().enumerate() {
            // candle leaves out what a part of the results does not depend on.
            let theirs = theirs.get(var).cloned().unwrap_or(var.zeros_like()?);
            assert_close(&format!("gradient {i}"), &double(ours.get(var).unwrap()), &double(&theirs), 10.0 * tolerance);
        }
    }
}

/// More rows than a block has, and than are kept for the backward pass.
#[test]
fn many_rows_are_the_sum_of_few() -> Result<()> {
    let (d, widths) = (3, [5, 4]);
    let parameters = Parameters::new(5, d, &widths, DType::F64);
    let network = parameters.network(ConvexActivation::Softplus);
    let pivot = normal(6, (1, d));
    for n in [700, 17_000] {
        let x = Var::from_tensor(&normal(7, (n, d)))?;
        let loss = |both: (Tensor, Tensor)| both.0.sum_all()? + both.1.sqr()?.sum_all()?;
        let whole = loss(convex_network(&x, &pivot, &network)?)?.backward()?;
        let mut sum = Tensor::zeros((widths[1], widths[0]), DType::F64, &Device::Cpu)?;
        for at in (0..n).step_by(100) {
            let part = x.narrow(0, at, 100)?;
            let part = loss(convex_network(&part, &pivot, &network)?)?.backward()?;
            sum = (sum + part.get(&parameters.hidden[0]).unwrap())?;
        }
        assert_close("sum", whole.get(&parameters.hidden[0]).unwrap(), &sum, 1e-10);
        let native = natively(|| convex_network(&x, &pivot, &network)).and_then(loss)?.backward()?;
        assert_close("x", whole.get(&x).unwrap(), native.get(&x).unwrap(), 1e-12);
    }
    Ok(())
}

#[test]
fn the_same_graph_can_be_differentiated_again_and_in_parts() -> Result<()> {
    let parameters = Parameters::new(8, 2, &[3], DType::F64);
    let network = parameters.network(ConvexActivation::Softplus);
    let x = Var::from_tensor(&normal(9, (4, 2)))?;
    let (value, grad) = convex_network(&x, &normal(10, (1, 2)), &network)?;
    let of_value = value.sum_all()?.backward()?.get(&x).unwrap().clone();
    // The gradient of the values is the second result.
    assert_close("gradient", &of_value, &grad, 1e-12);
    let of_grad = grad.sum_all()?.backward()?.get(&x).unwrap().clone();
    let both = (value.sum_all()? + grad.sum_all()?)?.backward()?;
    assert_close("both", both.get(&x).unwrap(), &(of_value + of_grad)?, 1e-12);
    Ok(())
}

#[test]
fn parameters_that_do_not_fit_are_named() -> Result<()> {
    let parameters = Parameters::new(8, 2, &[3], DType::F64);
    let network = parameters.network(ConvexActivation::Softplus);
    let message = |x: &Tensor, pivot: &Tensor| {
        convex_network(x, pivot, &network)
            .unwrap_err()
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let x = normal(9, (4, 2));
    assert_eq!(
        message(&x, &normal(1, (2, 2))),
        "convex_network: `pivot` has shape [2, 2], `x` [4, 2], layers [3] units; expected [1, d], [n, d] and at \
         least one of each"
    );
    assert_eq!(
        message(&normal(9, (4, 5)), &normal(1, (1, 5))),
        "convex_network: the parameters do not fit d = 5 and layers of [3] units"
    );
    Ok(())
}
