//! Layer normalization against finite differences and its definition out of candle's operations.

#![allow(clippy::unwrap_used)] // helpers outside test functions

mod common;

use candle_core::{D, DType, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::layer_norm;
use proptest::prelude::*;

fn var(seed: u64, shape: impl Into<candle_core::Shape>) -> Var {
    Var::from_tensor(&normal(seed, shape)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn gradients_agree_with_finite_differences(seed: u64, n in 1..5usize, d in 1..20usize) {
        let (x, gamma, beta) = (var(seed, (n, d)), var(seed ^ 1, d), var(seed ^ 2, d));
        let run = || weigh(&layer_norm(&x, &gamma, &beta, 0.1)?);
        assert_gradients("layer_norm", &[&x, &gamma, &beta], run);
    }

    #[test]
    fn agrees_with_the_definition(seed: u64, n in 1..300usize, d in 1..90usize, single: bool) {
        let dtype = if single { DType::F32 } else { DType::F64 };
        let tolerance = if single { 1e-5 } else { 1e-11 };
        let cast = |t: Tensor| t.to_dtype(dtype).unwrap();
        let x = cast(normal(seed, (d, n))).t()?; // not contiguous
        let (gamma, beta) = (cast(normal(seed ^ 1, d)), cast(normal(seed ^ 2, d)));
        let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centered.sqr()?.mean_keepdim(D::Minus1)? + 1e-3)?.sqrt()?;
        let want = centered.broadcast_div(&deviation)?.broadcast_mul(&gamma)?.broadcast_add(&beta)?;
        let got = layer_norm(&x, &gamma, &beta, 1e-3)?;
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        assert_close("layer_norm", &double(&got), &double(&want), tolerance);
    }
}

#[test]
fn no_rows_are_no_rows() {
    let y = layer_norm(&normal(1, (0, 3)), &normal(2, 3), &normal(3, 3), 1e-5).unwrap();
    assert_eq!(y.dims(), [0, 3]);
}

#[test]
fn wrong_arguments_are_errors_that_name_them() {
    let (x, row) = (normal(1, (2, 3)), normal(2, 3));
    let message = |got: candle_core::Result<Tensor>| got.unwrap_err().to_string();
    let cases = [
        (
            layer_norm(&x, &normal(1, 2), &row, 1e-5),
            "layer_norm: `gamma` is F64 of shape [2], expected F64 of shape [3]",
        ),
        (
            layer_norm(&x, &row, &normal(1, 4), 1e-5),
            "layer_norm: `beta` is F64 of shape [4], expected F64 of shape [3]",
        ),
        (layer_norm(&x, &row, &row, -1.0), "layer_norm: `epsilon` is -1, expected a positive number"),
        (
            layer_norm(&row, &row, &row, 1e-5),
            "layer_norm: `x` has shape [3], expected [n, d] with d at least 1",
        ),
    ];
    for (got, want) in cases {
        let got = message(got);
        assert!(got.starts_with(want), "{got}");
    }
}
