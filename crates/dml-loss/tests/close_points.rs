//! Distances and losses of close points beside far ones, in f32.

#![allow(clippy::unwrap_used)] // helpers outside test functions

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use dml_loss::{
    Batch, BregmanDistance, Contrastive, ContrastiveConfig, Distance, Lp, Objective, SignalToNoise,
};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn distances(x: &Tensor, distance: &dyn Distance) -> TestResult<Vec<Vec<f64>>> {
    Ok(distance.all_pairs(x, x)?.to_dtype(DType::F64)?.to_vec2()?)
}

#[test]
fn a_row_far_off_takes_no_digit_of_the_others() -> TestResult {
    for far in [1e4f32, 1e5, 1e6] {
        let x = Var::new(&[[0f32], [1.], [2.], [far]], &Device::Cpu)?;
        let lp = Lp::raw(2.0);
        let d = distances(&x, &lp)?;
        assert_eq!((d[0][1], d[0][2], d[1][2]), (1.0, 2.0, 1.0), "{far:e}");
        let entry = lp.all_pairs(&x, &x)?.get(0)?.get(2)?;
        let gradient = entry.backward()?.get(&x).unwrap().to_vec2::<f32>()?.concat();
        assert_eq!(gradient, [-1.0, 0.0, 1.0, 0.0], "{far:e}");
    }
    Ok(())
}

fn contrastive(x: &Var, labels: &[i64]) -> TestResult<(f64, Vec<f64>)> {
    let loss = Contrastive { distance: Arc::new(Lp::raw(2.0)), config: ContrastiveConfig::default() };
    let value = Objective::new(Arc::new(loss)).forward(&Batch::new(x, labels)?)?;
    let gradient = value.backward()?.get(x).unwrap().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    Ok((value.to_dtype(DType::F64)?.to_scalar()?, gradient))
}

#[test]
fn the_contrastive_loss_sees_close_pairs() -> TestResult {
    let rows = [[0.0, 0.0], [1.0, 0.0], [0.5, 0.5], [1e5, 0.0]];
    let (value, gradient) =
        contrastive(&Var::new(&rows.map(|row| row.map(|v| v as f32)), &Device::Cpu)?, &[0, 0, 1, 2])?;
    let (want, want_gradient) = contrastive(&Var::new(&rows, &Device::Cpu)?, &[0, 0, 1, 2])?;
    assert!((want - 1.292_893).abs() < 1e-6 && (value - want).abs() < 1e-6, "{value} for {want}");
    for (got, want) in gradient.iter().zip(&want_gradient) {
        assert!((got - want).abs() < 1e-6, "{gradient:?} for {want_gradient:?}");
    }
    assert!(
        (want_gradient[0] + 0.646_447).abs() < 1e-6 && want_gradient[6..] == [0.0, 0.0],
        "{want_gradient:?}"
    );

    let rows = [[100f32, 0.], [100.01, 0.], [-100., 0.], [-100., 5.]];
    let (value, _) = contrastive(&Var::new(&rows, &Device::Cpu)?, &[0, 0, 1, 1])?;
    assert!((value - (5.0 + f64::from(100.01f32) - 100.0) / 2.0).abs() < 1e-6, "{value}");
    Ok(())
}

/// Twelve clusters of four rows and one row far off.
fn clusters(d: usize, spread: f64, far: f64) -> TestResult<Tensor> {
    let normal = |seed, n| phi::testing::points(&phi::SquaredEuclidean, seed, n, d);
    let rows = (normal(1, 12)?.repeat((4, 1))? + (normal(2, 48)? * spread)?)?;
    let last = (normal(3, 1)? * far)?;
    Ok(Tensor::cat(&[&rows, &last], 0)?.to_dtype(DType::F32)?)
}

#[test]
fn every_distance_keeps_its_digits_and_its_gradients() -> TestResult {
    let euclid = |normalize| -> Vec<Arc<dyn Distance>> {
        let lp = |p, power| -> Arc<dyn Distance> { Arc::new(Lp::new(p, power, normalize).unwrap()) };
        vec![lp(2.0, 1.0), lp(2.0, 2.0), lp(2.0, 0.5), lp(2.0, 3.0), lp(1.0, 1.0), lp(3.0, 1.0)]
    };
    let bregman = Arc::new(phi::SquaredEuclidean);
    let mut all = euclid(false);
    all.extend(euclid(true));
    all.push(Arc::new(SignalToNoise::raw()));
    all.push(Arc::new(SignalToNoise::default()));
    all.push(Arc::new(BregmanDistance::new(bregman.clone(), bregman::Side::Second)));
    all.push(Arc::new(BregmanDistance::symmetrized(bregman)));
    for d in [3, 40, 256] {
        for (spread, far) in [(1.0, 1.0), (1e-2, 1e4), (1e-4, 1.0), (1e-4, 1e6)] {
            let x = clusters(d, spread, far)?;
            let (x32, x64) = (Var::from_tensor(&x)?, Var::from_tensor(&x.to_dtype(DType::F64)?)?);
            for distance in &all {
                let what = format!("{distance:?}, d = {d}, spread {spread:e}, far {far:e}");
                let (got, want) = (distances(&x32, &**distance)?, distances(&x64, &**distance)?);
                let alone = distance.paired(&x64, &x64.narrow(0, 1, 48)?.pad_with_same(0, 0, 1)?)?;
                let alone = alone.to_vec1::<f64>()?;
                for i in 0..49 {
                    assert_eq!(got[i][i], want[i][i], "{what}: diagonal");
                    let after = (i + 1).min(48);
                    let error = (want[i][after] - alone[i]).abs();
                    assert!(
                        error <= 1e-8 * alone[i],
                        "{what}: paired {i}: {:e} for {:e}",
                        want[i][after],
                        alone[i]
                    );
                    for j in 0..49 {
                        let (got, want) = (got[i][j], want[i][j]);
                        assert!(
                            (got - want).abs() <= 1e-4 * want,
                            "{what}, ({i}, {j}): {got:e} for {want:e}"
                        );
                    }
                }
                for (i, j) in [(0, 12), (5, 41), (30, 2)] {
                    let entry = |x: &Var| -> TestResult<Vec<f64>> {
                        let entry = distance.all_pairs(x, x)?.get(i)?.get(j)?;
                        let gradient = entry.backward()?.get(x).unwrap().to_dtype(DType::F64)?;
                        Ok(gradient.flatten_all()?.to_vec1()?)
                    };
                    let (got, want) = (entry(&x32)?, entry(&x64)?);
                    let size = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                    for (got, want) in got.iter().zip(&want) {
                        let error = (got - want).abs();
                        assert!(
                            error <= 2e-4 * size,
                            "{what}, gradient of ({i}, {j}): {error:e} of {size:e}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn distances_have_the_range_of_their_numbers() -> TestResult {
    for v in [1e20f32, 1e-25] {
        let (x, y) = (Tensor::new(&[[v, 0.0]], &Device::Cpu)?, Tensor::new(&[[0f32, 0.0]], &Device::Cpu)?);
        for p in [1.0, 2.0, 3.0] {
            let lp = Lp::raw(p);
            for d in [lp.paired(&x, &y)?.to_vec1::<f32>()?[0], lp.all_pairs(&x, &y)?.to_vec2::<f32>()?[0][0]]
            {
                assert!((d / v - 1.0).abs() < 1e-5, "p = {p}: {d:e} for {v:e}");
            }
        }
    }
    let x = Tensor::new(&[[3e-22f32, 0.0], [0.0, 4e-22]], &Device::Cpu)?;
    let d = Lp::raw(2.0).all_pairs(&x, &x)?.to_vec2::<f32>()?[0][1];
    assert!((d / 5e-22 - 1.0).abs() < 5e-5, "{d:e}");
    Ok(())
}
