//! Batch normalization against finite differences and its definition out of candle's operations.

#![allow(clippy::unwrap_used)] // helpers outside test functions

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{assert_close, assert_gradients, clear_of_kink, normal, weigh};
use dml_kernels::{
    Activation, BatchNormConfig, BatchNormMode, Running, add_relu, batch_norm1d, batch_norm2d,
};
use proptest::prelude::*;

const ROUND_OFF: f64 = 1e-11;
const TRAIN: BatchNormMode = BatchNormMode::Train { momentum: 0.1 };

fn var(seed: u64, shape: impl Into<candle_core::Shape>) -> Var {
    Var::from_tensor(&normal(seed, shape)).unwrap()
}

/// Statistics of no particular kind, the variance positive.
fn running(seed: u64, channels: usize) -> Running {
    let var = (normal(!seed, channels).abs().unwrap() + 0.2).unwrap();
    Running { mean: Var::from_tensor(&normal(seed, channels)).unwrap(), var: Var::from_tensor(&var).unwrap() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn gradients_agree_with_finite_differences(
        seed: u64, n in 1..4usize, c in 1..4usize, h in 1..5usize, w in 1..5usize,
    ) {
        prop_assume!(n * h * w > 1);
        let (x, gamma, beta) = (var(seed, (n, c, h, w)), var(seed ^ 1, c), var(seed ^ 2, c));
        let running = running(seed ^ 3, c);
        // ε is large, for a variance near 0 has third derivatives that finite differences do not survive.
        for activation in [Activation::Identity, Activation::Relu] {
            for mode in [TRAIN, BatchNormMode::Eval] {
                let config = BatchNormConfig { mode, epsilon: 0.1, activation };
                let statistics = (mode == BatchNormMode::Eval).then_some(&running);
                let plain = BatchNormConfig { activation: Activation::Identity, ..config };
                let near = !clear_of_kink(&batch_norm2d(&x, &gamma, &beta, statistics, plain)?);
                if activation == Activation::Relu && near {
                    continue;
                }
                let run = || weigh(&batch_norm2d(&x, &gamma, &beta, statistics, config)?);
                assert_gradients("batch_norm2d", &[&x, &gamma, &beta], run);
                let data = x.as_tensor().detach();
                let run = || weigh(&batch_norm2d(&data, &gamma, &beta, statistics, config)?);
                assert_gradients("batch_norm2d of data", &[&gamma, &beta], run);
            }
        }
    }

    #[test]
    fn columns_of_a_matrix(seed: u64, n in 2..9usize, c in 1..9usize) {
        let (x, gamma, beta) = (var(seed, (n, c)), var(seed ^ 1, c), var(seed ^ 2, c));
        let config = BatchNormConfig { epsilon: 0.1, ..Default::default() };
        assert_gradients("batch_norm1d", &[&x, &gamma, &beta], || {
            weigh(&batch_norm1d(&x, &gamma, &beta, None, config)?)
        });
        let images = x.reshape((n, c, 1, 1))?;
        let want = batch_norm2d(&images, &gamma, &beta, None, config)?.flatten_from(1)?;
        assert_close("as images", &batch_norm1d(&x, &gamma, &beta, None, config)?, &want, 0.0);
    }

    /// Sizes on both sides of the one from which threads share the work; f32 and f64; rows out of order in memory.
    #[test]
    fn agrees_with_the_definition(
        seed: u64, n in 1..9usize, c in 1..19usize, h in 1..17usize, w in 2..17usize, single: bool,
    ) {
        let dtype = if single { DType::F32 } else { DType::F64 };
        let tolerance = if single { 1e-5 } else { ROUND_OFF };
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let cast = |t: Tensor| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap();
        let (base, gamma, beta) = (cast(normal(seed, (n, h, w, c))), cast(normal(seed ^ 1, c)), cast(normal(seed ^ 2, c)));
        let x = base.permute((0, 3, 1, 2))?; // not contiguous
        let ours = Running::new(c, dtype, &Device::Cpu)?;
        let config = BatchNormConfig::default();
        let got = batch_norm2d(&x, &gamma, &beta, Some(&ours), config)?;
        let want = by_definition(&x, &gamma, &beta);
        assert_close("training", &double(&got), &double(&want), tolerance);
        let (got, want) = (weigh(&double(&got))?.backward()?, weigh(&double(&want))?.backward()?);
        for v in [&base, &gamma, &beta] {
            let (got, want) = (got.get(v).unwrap(), want.get(v).unwrap());
            assert_close("gradient", &double(got), &double(want), 100.0 * tolerance);
        }
        let config = BatchNormConfig { mode: BatchNormMode::Eval, ..config };
        let got = batch_norm2d(&x, &gamma, &beta, Some(&ours), config)?;
        let column = |t: &Tensor| t.reshape((1, c, 1, 1)).unwrap();
        let centered = x.broadcast_sub(&column(&ours.mean))?;
        let unit = centered.broadcast_div(&(column(&ours.var) + 1e-5)?.sqrt()?)?;
        let want = unit.broadcast_mul(&column(&gamma))?.broadcast_add(&column(&beta))?;
        assert_close("evaluation", &double(&got), &double(&want), 10.0 * tolerance);
    }

    #[test]
    fn the_end_of_a_residual_block(seed: u64, n in 1..4usize, k in 1..20usize) {
        let (a, b) = (var(seed, (n, k)), var(!seed, (k, n)));
        assert_gradients("add_relu", &[&a, &b], || weigh(&add_relu(&a, &b.t()?)?));
        assert_close("add_relu", &add_relu(&a, &b.t()?)?, &(a.as_tensor() + b.t()?)?.relu()?, 0.0);
    }
}

/// Training as the definition says, out of candle's operations, whose gradients are right.
fn by_definition(x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Tensor {
    let column = |t: &Tensor| t.reshape((1, t.elem_count(), 1, 1)).unwrap();
    let centered = x.broadcast_sub(&x.mean_keepdim((0, 2, 3)).unwrap()).unwrap();
    let variance = centered.sqr().unwrap().mean_keepdim((0, 2, 3)).unwrap();
    let unit = centered.broadcast_div(&(variance + 1e-5).unwrap().sqrt().unwrap()).unwrap();
    unit.broadcast_mul(&column(gamma)).unwrap().broadcast_add(&column(beta)).unwrap()
}

#[test]
fn running_statistics_move_towards_the_batch_and_evaluation_leaves_them() {
    let x = Tensor::new(&[[1f64, -1.], [2., -3.], [6., 4.]], &Device::Cpu).unwrap();
    let (gamma, beta) = (normal(1, 2), normal(2, 2));
    let running = Running::new(2, DType::F64, &Device::Cpu).unwrap();
    let train = BatchNormConfig { mode: BatchNormMode::Train { momentum: 0.25 }, ..Default::default() };
    batch_norm1d(&x, &gamma, &beta, Some(&running), train).unwrap();
    // Means 3 and 0; unbiased variances 7 and 13.
    let want = |a: f64, b: f64| Tensor::new(&[a, b], &Device::Cpu).unwrap();
    assert_close("mean", &running.mean, &want(0.75, 0.0), 1e-15);
    assert_close("variance", &running.var, &want(0.75 + 7.0 / 4.0, 0.75 + 13.0 / 4.0), 1e-15);
    let eval = BatchNormConfig { mode: BatchNormMode::Eval, ..train };
    batch_norm1d(&x, &gamma, &beta, Some(&running), eval).unwrap();
    assert_close("mean", &running.mean, &want(0.75, 0.0), 1e-15);
}

/// An evaluation's gradient uses the statistics it ran with, though training has moved them since.
#[test]
fn a_later_step_does_not_change_an_earlier_gradient() {
    let (x, gamma, beta) = (var(1, (4, 3)), var(2, 3), var(3, 3));
    let running = running(4, 3);
    let eval = BatchNormConfig { mode: BatchNormMode::Eval, ..Default::default() };
    let loss = || weigh(&batch_norm1d(&x, &gamma, &beta, Some(&running), eval).unwrap()).unwrap();
    let (kept, fresh) = (loss(), loss());
    let want = fresh.backward().unwrap();
    batch_norm1d(&x, &gamma, &beta, Some(&running), BatchNormConfig::default()).unwrap();
    let got = kept.backward().unwrap();
    for v in [&x, &gamma, &beta] {
        assert_close("gradient", got.get(v).unwrap(), want.get(v).unwrap(), 0.0);
    }
}

/// A mean ten thousand deviations from zero leaves f32 with its digits.
#[test]
fn a_large_mean_costs_no_digits() {
    let x = (normal(7, (8, 3, 16, 16)) + 1e4).unwrap().to_dtype(DType::F32).unwrap();
    let exact = x.to_dtype(DType::F64).unwrap();
    let (gamma, beta) = (normal(8, 3), normal(9, 3));
    let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let config = BatchNormConfig::default();
    let got = batch_norm2d(&x, &single(&gamma), &single(&beta), None, config).unwrap();
    let want = batch_norm2d(&exact, &gamma, &beta, None, config).unwrap();
    // The mean itself is only known to half a unit in its last place, 5e-4 deviations.
    assert_close("f32", &got.to_dtype(DType::F64).unwrap(), &want, 5e-4);
}

#[test]
fn large_batches_join_without_a_seam_and_keep_nan() {
    let (x, gamma, beta) = (normal(1, (7, 13, 19, 21)), normal(2, 13), normal(3, 13));
    let want = by_definition(&x, &gamma, &beta);
    let got = batch_norm2d(&x, &gamma, &beta, None, BatchNormConfig::default()).unwrap();
    assert_close("shared", &got, &want, ROUND_OFF);
    let x = Tensor::new(&[[f64::NAN], [1.0]], &Device::Cpu).unwrap();
    let config = BatchNormConfig { activation: Activation::Relu, ..Default::default() };
    let y = batch_norm1d(&x, &normal(1, 1), &normal(2, 1), None, config).unwrap();
    assert!(y.flatten_all().unwrap().to_vec1::<f64>().unwrap().iter().all(|v| v.is_nan()));
}

#[test]
fn wrong_arguments_are_errors_that_say_what_to_do() {
    let (gamma, beta) = (normal(1, 2), normal(2, 2));
    let config = BatchNormConfig::default();
    let message = |x: &Tensor, gamma: &Tensor, config| {
        batch_norm2d(x, gamma, &beta, None, config).unwrap_err().to_string()
    };
    let image = normal(3, (1, 2, 1, 1));
    let cases = [
        (
            message(&image, &gamma, config),
            "batch_norm2d: training needs at least 2 values per channel, `x` of shape [1, 2, 1, 1] has 1; \
             enlarge the batch or use evaluation mode",
        ),
        (
            message(&image, &gamma, BatchNormConfig { mode: BatchNormMode::Eval, ..config }),
            "batch_norm2d: evaluation needs running statistics and `running` is None; train with some",
        ),
        (
            message(&image, &normal(1, 3), config),
            "batch_norm2d: `gamma` is F64 of shape [3], expected F64 of shape [2]",
        ),
        (
            message(&image, &gamma, BatchNormConfig { epsilon: 0.0, ..config }),
            "batch_norm2d: `epsilon` is 0, expected a positive number",
        ),
        (
            message(
                &image,
                &gamma,
                BatchNormConfig { mode: BatchNormMode::Train { momentum: 2.0 }, ..config },
            ),
            "batch_norm2d: `momentum` is 2, expected a number from 0 to 1",
        ),
        (message(&normal(1, 2), &gamma, config), "batch_norm2d: `x` has shape [2], expected [n, c, h, w]"),
    ];
    for (got, want) in cases {
        assert!(got.starts_with(want), "{got}");
    }
}
