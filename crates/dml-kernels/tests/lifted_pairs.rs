//! The matrix of lifted rows against the same out of candle's operations, against finite differences, and against loops
//! in f64 where rows lie in clusters.

#![allow(clippy::unwrap_used)] // helpers outside test functions

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::{LiftedPairs, LiftedSide, PairMatrix, center, natively};
use proptest::prelude::*;

fn var(t: Tensor, dtype: DType) -> Var {
    Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap()
}

/// Vectors and constants that belong to no function: the operation does not ask.
fn parts(seed: u64, n: usize, d: usize, dtype: DType) -> (Var, Var) {
    (var(normal(seed, (n, d)), dtype), var((normal(seed ^ 1, n) * 2.0).unwrap(), dtype))
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

/// Constants of one term each.
fn lifted(left: (&Tensor, &Tensor), right: (&Tensor, &Tensor), own: bool) -> Result<LiftedPairs> {
    let (sizes, others) = (left.1.abs()?, right.1.abs()?);
    let left = LiftedSide { vectors: left.0, constants: left.1, sizes: &sizes };
    LiftedPairs::new(left, LiftedSide { vectors: right.0, constants: right.1, sizes: &others }, own)
}

/// The matrix with lost entries computed as the caller of these pairs would: here Σ (u + v)², which belongs to nothing
/// either, but has gradients.
fn filled(left: (&Tensor, &Tensor), right: (&Tensor, &Tensor), own: bool) -> Result<PairMatrix> {
    let pairs = lifted(left, right, own)?;
    let (rows, columns): (Vec<u32>, Vec<u32>) = pairs.lost().iter().copied().unzip();
    if rows.is_empty() {
        return pairs.complete(None);
    }
    let of = |t: &Tensor, index: Vec<u32>| t.index_select(&Tensor::new(index, &Device::Cpu)?, 0);
    let exact = (of(left.0, rows)? + of(right.0, columns)?)?.sqr()?.sum(1)?;
    pairs.complete(Some(&exact))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn kernels_agree_with_candle(
        seed: u64, n in 1..40usize, m in 1..70usize, d in 1..20usize, own: bool, mined: bool, single: bool,
    ) {
        let dtype = if single { DType::F32 } else { DType::F64 };
        let tolerance = if single { 2e-5 } else { 1e-12 };
        let m = if own { n } else { m };
        let ((u, a), (v, b)) = (parts(seed, n, d, dtype), parts(!seed, m, d, dtype));
        let run = || filled((&u, &a), (&v, &b), own);
        let (ours, theirs) = (run()?, natively(run)?);
        prop_assert_eq!(format!("{ours:?}").contains("divergences"), true);
        let values = |m: &PairMatrix| Tensor::from_vec(m.values(), (n, m.columns()), &Device::Cpu);
        assert_close("values", &values(&ours)?, &values(&theirs)?, tolerance);
        let (ours, theirs) = (ours.tensor()?, theirs.tensor()?);
        assert_close("node", &double(&ours), &double(&theirs), tolerance);
        let (ours, theirs) = (loss(&ours, mined)?.backward()?, loss(&theirs, mined)?.backward()?);
        for var in [&u, &a, &v, &b] {
            let zeros = double(&var.zeros_like()?);
            let of = |gradients: &candle_core::backprop::GradStore| gradients.get(var).map_or(zeros.clone(), double);
            assert_close("gradient", &of(&ours), &of(&theirs), 10.0 * tolerance);
        }
    }

    #[test]
    fn gradients_are_those_of_differences(seed: u64, n in 1..5usize, m in 1..5usize, d in 1..4usize, own: bool) {
        let m = if own { n } else { m };
        let ((u, a), (v, b)) = (parts(seed, n, d, DType::F64), parts(!seed, m, d, DType::F64));
        // No entry close to where it is lost: a difference step would carry it across.
        a.set(&(a.as_tensor().abs()? + 30.0)?)?;
        let lost = lifted((&u, &a), (&v, &b), own)?.lost().len();
        prop_assume!(lost == 0);
        assert_gradients("lifted", &[&u, &a, &v, &b], || weigh(&filled((&u, &a), (&v, &b), own)?.tensor()?));
    }
}

/// ‖x‖² around a point amid the rows: (x − μ, ‖x − μ‖²) and (2(x − μ), ‖x − μ‖²).
fn squares(x: &Tensor) -> Result<PairMatrix> {
    let shift = x.broadcast_sub(&center(&[x])?)?;
    let square = shift.sqr()?.sum(1)?;
    let pairs = lifted((&shift, &square), (&(&shift * 2.0)?, &square), true)?;
    let (rows, columns): (Vec<u32>, Vec<u32>) = pairs.lost().iter().copied().unzip();
    if rows.is_empty() {
        return pairs.complete(None);
    }
    let of = |index: Vec<u32>| x.index_select(&Tensor::new(index, &Device::Cpu)?, 0);
    let exact = (of(rows)? - of(columns)?)?.sqr()?.sum(1)?;
    pairs.complete(Some(&exact))
}

#[test]
fn every_entry_keeps_four_digits_and_its_gradient() -> Result<()> {
    let d = 24;
    for spread in [1.0, 1e-2, 1e-4] {
        let centers = (normal(1, (6, d)) * 3.0)?;
        let rows = centers.repeat((20, 1))?.broadcast_add(&(normal(2, (120, d)) * spread)?)?;
        let far = Tensor::full(1e5, (1, d), &Device::Cpu)?;
        let x = var(Tensor::cat(&[&rows, &far], 0)?, DType::F32);
        let exact = var(x.to_dtype(DType::F64)?, DType::F64);
        // The same sum of roots by the difference of each pair, in f64.
        let apart = exact.unsqueeze(1)?.broadcast_sub(&exact.unsqueeze(0)?)?.sqr()?.sum(2)?;
        let matrix = squares(&x)?;
        for (got, want) in matrix.values().into_iter().zip(apart.flatten_all()?.to_vec1::<f64>()?) {
            assert!((got - want).abs() <= 1e-4 * want, "spread {spread}: {got:e} for {want:e}");
        }
        // Each row by itself: its gradient is as small as its distances.
        for row in [0, 7, 119] {
            let near = |t: &Tensor| t.get(row)?.narrow(0, 0, 120)?.sum_all();
            let got = near(&matrix.tensor()?)?.backward()?;
            let want = near(&apart)?.backward()?;
            let (got, want) = (double(got.get(&x).unwrap()), want.get(&exact).unwrap().clone());
            let error = (got - &want)?.abs()?.max(1)?.to_vec1::<f64>()?;
            let size = want.abs()?.max(1)?.to_vec1::<f64>()?;
            for (i, (error, size)) in error.into_iter().zip(size).enumerate() {
                assert!(error <= 2e-4 * size, "spread {spread}, row {row}, to {i}: {error:e} of {size:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn large_matrices_are_cut_into_pieces_and_blocks() -> Result<()> {
    let (n, d) = (600, 9);
    let ((u, a), (v, b)) = (parts(3, n, d, DType::F64), parts(5, n, d, DType::F64));
    for mined in [false, true] {
        let run = || filled((&u, &a), (&v, &b), true)?.tensor();
        let (ours, theirs) = (run()?, natively(run)?);
        assert_close("value", &ours, &theirs, 1e-12);
        let (ours, theirs) = (loss(&ours, mined)?.backward()?, loss(&theirs, mined)?.backward()?);
        for var in [&u, &a, &v, &b] {
            assert_close("gradient", ours.get(var).unwrap(), theirs.get(var).unwrap(), 1e-11);
        }
    }
    Ok(())
}

#[test]
fn what_is_no_number_is_lost_and_the_diagonal_is_zero() -> Result<()> {
    let ((u, a), (v, b)) = (parts(4, 5, 3, DType::F32), parts(6, 5, 3, DType::F32));
    a.set(&Tensor::new(&[50f32, f32::NAN, 50., f32::INFINITY, 50.], &Device::Cpu)?)?;
    let pairs = lifted((&u, &a), (&v, &b), true)?;
    let rows: Vec<u32> = pairs.lost().iter().map(|place| place.0).collect();
    assert_eq!(rows, [1, 1, 1, 1, 3, 3, 3, 3]);
    let exact = Tensor::new(&[1f32, 2., 3., 4., 5., 6., 7., 8.], &Device::Cpu)?;
    let values = pairs.complete(Some(&exact))?.values();
    assert_eq!(values[5..10], [1.0, 0.0, 2.0, 3.0, 4.0]);
    assert!((0..5).all(|i| values[6 * i] == 0.0));
    Ok(())
}

#[test]
fn parts_that_do_not_fit_are_named() -> Result<()> {
    let (u, a) = parts(4, 5, 3, DType::F32);
    let first = |error: candle_core::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let message = first(lifted((&u, &a.narrow(0, 0, 4)?), (&u, &a), true).unwrap_err());
    assert_eq!(
        message,
        "lifted pairs: `u` has shape [5, 3], `a` [4], `v` [5, 3], `b` [5], sizes [4] and [5]; expected [n, d], [n], \
         [m, d], [m], as the constants, n = m"
    );
    let message = first(lifted((&u, &a), (&u, &a), true)?.complete(Some(&a)).unwrap_err());
    assert!(message.starts_with("lifted pairs: values for 5 entries, expected "), "{message}");
    Ok(())
}
