//! Losses of ranks and histograms against their definitions in loops: uneven classes, one-sample classes, a reference
//! set; and every loss goes down along its gradient.

mod common;

use std::{result::Result, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};
use common::{Any, every_distance, every_loss, rows, takes, wants_items};
use dml_loss::*;

/// Both sides sum a few hundred terms in f64.
const ROUND_OFF: f64 = 1e-9;

/// Classes of 4, 3, 2 and 1.
const LABELS: [i64; 10] = [0, 1, 0, 1, 2, 2, 0, 1, 3, 0];
const OTHERS: [i64; 7] = [0, 0, 1, 4, 2, 1, 0];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The loss of a row with closeness `c` to columns of its class (`own`) and not; `i` its own column.
fn by_definition(name: &str, c: &[f64], own: &[bool], i: Option<usize>) -> Option<f64> {
    let positives: Vec<usize> = (0..c.len()).filter(|&j| own[j]).collect();
    let others: Vec<usize> = positives.iter().copied().filter(|&j| Some(j) != i).collect();
    let before = |p: usize, kind: &dyn Fn(usize) -> bool| -> f64 {
        (0..c.len()).filter(|&j| j != p && kind(j)).map(|j| sigmoid((c[j] - c[p]) / 0.1)).sum()
    };
    match name {
        "smooth-ap" if !positives.is_empty() => {
            let precision = |&p: &usize| (1.0 + before(p, &|j| own[j])) / (1.0 + before(p, &|_| true));
            Some(1.0 - positives.iter().map(precision).sum::<f64>() / positives.len() as f64)
        }
        "pnp" if !others.is_empty() => {
            let cost = |&p: &usize| 1.0 - 1.0 / (1.0 + before(p, &|j| !own[j]));
            Some(positives.iter().map(cost).sum::<f64>() / positives.len() as f64)
        }
        "fast-ap" if !others.is_empty() => {
            let share = |edge: usize, j: usize| (1.0 - (-c[j] - edge as f64 * 0.5).abs() / 0.5).max(0.0);
            let (mut found, mut seen, mut sum) = (0.0, 0.0, 0.0);
            for edge in 0..=8 {
                let here: f64 = others.iter().map(|&j| share(edge, j)).sum();
                let wrong: f64 = (0..c.len()).filter(|&j| !own[j]).map(|j| share(edge, j)).sum();
                found += here;
                seen += here + wrong;
                sum += if here > 0.0 { here * found / seen } else { 0.0 };
            }
            Some(1.0 - sum / others.len() as f64)
        }
        _ => None,
    }
}

#[test]
fn ranks_follow_their_definitions() -> Result<(), Any> {
    let specs = [
        ("smooth-ap", r#"{"name": "smooth-ap", "temperature": 0.1}"#),
        ("pnp", r#"{"name": "pnp", "anneal": 0.1, "variant": "Dq"}"#),
        ("fast-ap", r#"{"name": "fast-ap", "num_bins": 8, "range": [0.0, 4.0]}"#),
    ];
    for (name, text) in specs {
        for reference in [false, true] {
            let distance: Arc<dyn Distance> = Arc::new(Lp::new(2.0, 2.0, true)?);
            let mut batch = Batch::new(&rows(1, 10, 4)?, &LABELS)?;
            if reference {
                batch = batch.with_reference(&rows(2, 7, 4)?, &OTHERS)?;
            }
            let matrix = batch.all_pairs(&*distance)?.to_vec2::<f64>()?;
            let mut losses = Vec::new();
            for (i, row) in matrix.iter().enumerate() {
                let c: Vec<f64> = row.iter().map(|d| -d).collect();
                let own: Vec<bool> = batch.column_labels().iter().map(|&l| l == LABELS[i]).collect();
                losses.extend(by_definition(name, &c, &own, (!reference).then_some(i)));
            }
            let spec: LossSpec = serde_json::from_str(text)?;
            let parts = spec.build(distance, DType::F64, &Device::Cpu)?.unreduced(&batch, None)?;
            let got = parts[0].losses.to_vec1::<f64>()?;
            assert_eq!(got.len(), losses.len(), "{name}");
            for (a, b) in got.iter().zip(&losses) {
                assert!((a - b).abs() < ROUND_OFF, "{name}, reference {reference}: {a} {b}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_histogram_counts_swapped_pairs() -> Result<(), Any> {
    // With fine bins it is the share of (negative, positive) pairs in the wrong order, up to ties within a bin.
    let labels = [0, 0, 0, 1, 1, 1];
    let batch = Batch::new(&rows(3, 6, 3)?, &labels)?;
    let config = HistogramConfig { n_bins: Some(20000), ..Default::default() };
    let loss = Histogram::new(Arc::new(Cosine), config)?;
    let got = Objective::new(Arc::new(loss)).forward(&batch)?.to_scalar::<f64>()?;
    let c = batch.all_pairs(&Cosine)?.to_vec2::<f64>()?;
    let pairs: Vec<(usize, usize)> = (0..6).flat_map(|i| (i + 1..6).map(move |j| (i, j))).collect();
    let (same, other): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|&(i, j)| labels[i] == labels[j]);
    let mut swapped = 0.0;
    for &(i, j) in &same {
        swapped += other.iter().filter(|&&(k, l)| c[k][l] > c[i][j]).count() as f64;
    }
    let want = swapped / (same.len() * other.len()) as f64;
    assert!((got - want).abs() < 1e-3, "{got} {want}");
    Ok(())
}

#[test]
fn class_means_leave_the_anchor_out() -> Result<(), Any> {
    let x = Tensor::new(&[[0f64], [2.0], [4.0], [10.0], [12.0]], &Device::Cpu)?;
    let batch = Batch::new(&x, &[0, 0, 0, 1, 1])?;
    let config = CentroidTripletConfig { margin: 6.0 };
    let loss = CentroidTriplet { distance: Arc::new(Lp::raw(2.0)), config };
    let parts = loss.unreduced(&batch, None)?;
    // Own means 3, 2, 1 and 12, 10; the others' means 11 and 2.
    let expected = [3.0 - 11.0 + 6.0, 0.0 - 9.0 + 6.0, 3.0 - 7.0 + 6.0, 2.0 - 8.0 + 6.0, 2.0 - 10.0 + 6.0];
    for (got, want) in parts[0].losses.to_vec1::<f64>()?.iter().zip(expected) {
        assert!((got - f64::max(want, 0.0)).abs() < 1e-12, "{got} {want}");
    }
    Ok(())
}

#[test]
fn cosine_regression_has_the_gradient_of_unit_columns() -> Result<(), Any> {
    let config = P2sGradConfig { embedding_size: 4, num_classes: 4, seed: 1 };
    let loss = P2sGrad::new(config, DType::F64, &Device::Cpu)?;
    let objective = Objective::new(Arc::new(loss));
    let w = objective.parameters().remove(0).var;
    let x = Var::from_tensor(&rows(4, 10, 4)?)?;
    let run = || -> Result<(f64, Vec<f64>, Vec<f64>), Any> {
        let value = objective.forward(&Batch::new(&x, &LABELS)?)?;
        let grads = value.backward()?;
        let flat = |var: &Var| -> Result<Vec<f64>, Any> {
            Ok(grads.get(var).ok_or("no gradient")?.flatten_all()?.to_vec1()?)
        };
        Ok((value.to_scalar()?, flat(&x)?, flat(&w)?))
    };
    let (value, by_x, by_w) = run()?;
    w.set(&(w.as_detached_tensor() * 3.0)?)?;
    let (longer, by_x_longer, by_w_longer) = run()?;
    assert!((value - longer).abs() < 1e-14);
    for (a, b) in by_x.iter().chain(&by_w).zip(by_x_longer.iter().chain(&by_w_longer)) {
        assert!((a - b).abs() < 1e-14, "{a} {b}");
    }
    Ok(())
}

/// Every loss over the usual, a Euclidean and a learned distance: thirty steps against the gradient of free embeddings
/// lower it.
#[test]
fn every_loss_goes_down() -> Result<(), Any> {
    let labels = [0, 1, 0, 1, 2, 2, 0, 1];
    for spec in every_loss()? {
        let mut distances = vec![spec.default_distance().build(None)?];
        distances.extend(every_distance(4, DType::F64)?.into_iter().skip(8).take(1));
        for distance in distances.into_iter().filter(|distance| takes(&spec, &**distance)) {
            let objective = Objective::new(spec.build(distance, DType::F64, &Device::Cpu)?);
            let (x, y) = (Var::from_tensor(&rows(7, 8, 4)?)?, rows(8, 8, 4)?);
            let batch = || -> dml_loss::Result<Batch> {
                let batch = Batch::new(&x, &labels)?;
                if wants_items(&spec) { batch.with_reference(&y, &labels) } else { Ok(batch) }
            };
            objective.calibrate(&batch()?)?;
            let first = objective.forward(&batch()?)?.to_scalar::<f64>()?;
            let mut least = first;
            for _ in 0..30 {
                let value = objective.forward(&batch()?)?;
                least = value.to_scalar::<f64>()?.min(least);
                let grads = value.backward()?;
                let Some(gradient) = grads.get(&x) else { break };
                let length = gradient.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt();
                x.set(&(x.as_tensor() - (gradient * (0.05 / length.max(1e-3)))?)?.detach())?;
            }
            assert!(least < first - 1e-3 * first.abs(), "{spec:?} over {objective:?}: {first} {least}");
        }
    }
    Ok(())
}
