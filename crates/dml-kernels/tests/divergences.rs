//! The matrix of divergences against the same out of candle's operations and against finite differences.

#![allow(clippy::unwrap_used)] // helpers outside test functions

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::{cross_divergences, natively, self_divergences};
use proptest::prelude::*;

/// Shifts, and values and gradients that belong to no function: the operation does not ask.
fn parts(seed: u64, n: usize, d: usize, dtype: DType) -> [Var; 3] {
    let var = |t: Tensor| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap();
    [var(normal(seed, (n, d))), var((normal(seed ^ 1, n) * 2.0).unwrap()), var(normal(seed ^ 2, (n, d)))]
}

fn double(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F64).unwrap()
}

/// A loss that sees all entries, or a few of them as one after mining does.
fn loss(d: &Tensor, mined: bool) -> Result<Tensor> {
    if !mined {
        return weigh(&double(d));
    }
    let flat = double(d).flatten_all()?;
    let picked: Vec<u32> = (0..flat.elem_count() as u32).step_by(61).collect();
    weigh(&flat.index_select(&Tensor::new(picked.as_slice(), &Device::Cpu)?, 0)?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn of_one_set(seed: u64, n in 1..70usize, d in 1..20usize, mined: bool, single: bool) {
        let dtype = if single { DType::F32 } else { DType::F64 };
        let tolerance = if single { 2e-5 } else { 1e-12 };
        let [x, value, grad] = parts(seed, n, d, dtype);
        let run = || self_divergences(&x, &value, &grad);
        let (ours, theirs) = (run()?, natively(run)?);
        assert_close("value", &double(&ours), &double(&theirs), tolerance);
        // Where rounding decides which side of 0 an entry lies on, it decides the gradient too.
        prop_assume!(!single || ours.gt(0f32)?.to_vec2::<u8>()? == theirs.gt(0f32)?.to_vec2::<u8>()?);
        let (ours, theirs) = (loss(&ours, mined)?.backward()?, loss(&theirs, mined)?.backward()?);
        for var in [&x, &value, &grad] {
            assert_close("gradient", &double(ours.get(var).unwrap()), &double(theirs.get(var).unwrap()), 10.0 * tolerance);
        }
    }

    #[test]
    fn of_two_sets(seed: u64, n in 1..40usize, m in 1..70usize, d in 1..20usize, mined: bool) {
        let ([x, value, _], [_, offset, grad]) = (parts(seed, n, d, DType::F64), parts(!seed, m, d, DType::F64));
        let run = || cross_divergences(&x, &value, &grad, &offset);
        let (ours, theirs) = (run()?, natively(run)?);
        assert_close("value", &ours, &theirs, 1e-12);
        let (ours, theirs) = (loss(&ours, mined)?.backward()?, loss(&theirs, mined)?.backward()?);
        for var in [&x, &value, &grad, &offset] {
            assert_close("gradient", ours.get(var).unwrap(), theirs.get(var).unwrap(), 1e-11);
        }
    }

    #[test]
    fn gradients(seed: u64, n in 1..5usize, m in 1..5usize, d in 1..4usize) {
        let ([x, value, grad], [_, offset, other]) = (parts(seed, n, d, DType::F64), parts(!seed, m, d, DType::F64));
        let clear = |t: Tensor| -> Result<bool> {
            Ok(t.flatten_all()?.to_vec1::<f64>()?.iter().all(|v| *v == 0.0 || *v > 1e-3))
        };
        // A difference step must not carry an entry across its kink: entries below 0 stay well below.
        let raised = (&value.as_tensor().abs()? + 30.0)?;
        value.set(&raised)?;
        prop_assume!(clear(self_divergences(&x, &value, &grad)?)? && clear(cross_divergences(&x, &value, &other, &offset)?)?);
        prop_assume!(n == 1 || self_divergences(&x, &(value.as_tensor() * 1.01)?, &grad)?.gt(0.0)?.to_vec2::<u8>()?
            == self_divergences(&x, &(value.as_tensor() * 0.99)?, &grad)?.gt(0.0)?.to_vec2::<u8>()?);
        assert_gradients("cross", &[&x, &value, &other, &offset], || weigh(&cross_divergences(&x, &value, &other, &offset)?));
        assert_gradients("self", &[&x, &value, &grad], || weigh(&self_divergences(&x, &value, &grad)?));
    }
}

#[test]
fn large_matrices_are_cut_into_pieces_and_blocks() -> Result<()> {
    let (n, d) = (600, 9);
    let [x, value, grad] = parts(3, n, d, DType::F64);
    for mined in [false, true] {
        let run = || self_divergences(&x, &value, &grad);
        let (ours, theirs) = (run()?, natively(run)?);
        assert_close("value", &ours, &theirs, 1e-12);
        let (ours, theirs) = (loss(&ours, mined)?.backward()?, loss(&theirs, mined)?.backward()?);
        for var in [&x, &value, &grad] {
            assert_close("gradient", ours.get(var).unwrap(), theirs.get(var).unwrap(), 1e-11);
        }
    }
    Ok(())
}

#[test]
fn the_diagonal_is_zero_no_entry_negative_and_nan_stays() -> Result<()> {
    let [x, value, grad] = parts(4, 5, 3, DType::F32);
    let d = self_divergences(&x, &value, &grad)?.to_vec2::<f32>()?;
    assert!((0..5).all(|i| d[i][i] == 0.0) && d.iter().flatten().all(|v| *v >= 0.0), "{d:?}");
    value.set(&Tensor::new(&[0f32, f32::NAN, 0., 0., 0.], &Device::Cpu)?)?;
    let d = self_divergences(&x, &value, &grad)?.to_vec2::<f32>()?;
    assert!(d[1][0].is_nan() && d[0][1].is_nan() && d[1][1] == 0.0, "{d:?}");
    Ok(())
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let [x, value, grad] = parts(4, 5, 3, DType::F32);
    let message = self_divergences(&x, &value.narrow(0, 0, 4).unwrap(), &grad)
        .unwrap_err()
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(message, "self_divergences: `value` has shape [4], `grad` [5, 3], expected [5] and [5, 3]");
}
