//! Losses and distances against loops over single rows, in f32 and f64.

mod common;

use std::{result::Result, sync::Arc};

use candle_core::{DType, Device};
use common::{Any, every_distance, rows};
use dml_loss::*;

/// Rounding of sums over a few dozen terms; f32 loses 1e-4 to the matrix product.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-9 } else { 2e-4 }
}

const LABELS: [i64; 9] = [0, 1, 0, 1, 2, 2, 0, 1, 3];

/// All pairs row by row through [`Distance::paired`].
fn naive(distance: &dyn Distance, batch: &Batch) -> Result<Vec<Vec<f64>>, Any> {
    let (n, m) = (batch.len(), batch.column_labels().len());
    let mut table = vec![vec![0.0; m]; n];
    for (i, row) in table.iter_mut().enumerate() {
        let anchor = batch.embeddings().narrow(0, i, 1)?;
        for (j, value) in row.iter_mut().enumerate() {
            let d = distance.paired(&anchor, &batch.columns().narrow(0, j, 1)?)?;
            *value = d.to_dtype(DType::F64)?.to_vec1::<f64>()?[0];
        }
    }
    Ok(table)
}

fn mean(values: &[f64], keep: impl Fn(f64) -> bool) -> f64 {
    let kept: Vec<f64> = values.iter().copied().filter(|&v| keep(v)).collect();
    if kept.is_empty() { 0.0 } else { kept.iter().sum::<f64>() / kept.len() as f64 }
}

/// The loss by loops over anchor, positive and negative; `c` is the closeness.
fn by_loops(name: &str, c: &[Vec<f64>], labels: &[i64], columns: &[i64], own: bool) -> f64 {
    let mut losses: Vec<Vec<f64>> = vec![Vec::new(), Vec::new()];
    for (i, row) in c.iter().enumerate() {
        let is_positive = |j: &usize| columns[*j] == labels[i] && !(own && i == *j);
        let positive: Vec<usize> = (0..row.len()).filter(is_positive).collect();
        let negative: Vec<usize> = (0..row.len()).filter(|&j| columns[j] != labels[i]).collect();
        match name {
            "contrastive" => {
                losses[0].extend(positive.iter().map(|&p| (-row[p] - 0.2).max(0.0)));
                losses[1].extend(negative.iter().map(|&n| (row[n] + 1.5).max(0.0)));
            }
            "triplet" | "smooth" => {
                for &p in &positive {
                    for &n in &negative {
                        let violation = row[n] - row[p] + 0.3;
                        let smooth = violation.max(0.0) + (-violation.abs()).exp().ln_1p();
                        losses[0].push(if name == "smooth" { smooth } else { violation.max(0.0) });
                    }
                }
            }
            "sup-con" if !positive.is_empty() => {
                let sum: f64 = positive.iter().chain(&negative).map(|&j| (row[j] / 0.5).exp()).sum();
                let log = |&p: &usize| sum.ln() - row[p] / 0.5;
                losses[0].push(positive.iter().map(log).sum::<f64>() / positive.len() as f64);
            }
            "nt-xent" => {
                let sum: f64 = negative.iter().map(|&j| (row[j] / 0.5).exp()).sum();
                losses[0].extend(positive.iter().map(|&p| (1.0 + sum * (-row[p] / 0.5).exp()).ln()));
            }
            _ => {}
        }
    }
    let nonzero = name != "nt-xent";
    losses.iter().map(|part| mean(part, |v| v > 0.0 || !nonzero)).sum()
}

#[test]
fn losses_agree_with_loops() -> Result<(), Any> {
    let specs = [
        ("contrastive", r#"{"name": "contrastive", "pos_margin": 0.2, "neg_margin": 1.5}"#),
        ("triplet", r#"{"name": "triplet-margin", "margin": 0.3}"#),
        ("smooth", r#"{"name": "triplet-margin", "margin": 0.3, "smooth_loss": true}"#),
        ("sup-con", r#"{"name": "sup-con", "temperature": 0.5}"#),
        ("nt-xent", r#"{"name": "nt-xent", "temperature": 0.5}"#),
    ];
    for dtype in [DType::F32, DType::F64] {
        for distance in every_distance(5, dtype)?.into_iter().filter(|d| !d.larger_is_closer()) {
            for reference in [false, true] {
                let x = rows(21, LABELS.len(), 5)?.to_dtype(dtype)?;
                let mut batch = Batch::new(&x, &LABELS)?;
                if reference {
                    batch = batch.with_reference(&rows(22, 6, 5)?.to_dtype(dtype)?, &[0, 1, 1, 2, 4, 4])?;
                }
                let table = naive(&*distance, &batch)?;
                let matrix = batch.all_pairs(&*distance)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
                let most = table.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
                for (got, want) in matrix.iter().flatten().zip(table.iter().flatten()) {
                    let bound = tolerance(dtype) * most;
                    assert!((got - want).abs() <= bound, "{distance:?}: {got} for {want}");
                }
                let close: Vec<Vec<f64>> = table.iter().map(|r| r.iter().map(|d| -d).collect()).collect();
                for (name, text) in specs {
                    let spec: LossSpec = serde_json::from_str(text)?;
                    let objective = Objective::new(spec.build(distance.clone(), dtype, &Device::Cpu)?);
                    let got = objective.forward(&batch)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                    let want = by_loops(name, &close, &LABELS, batch.column_labels(), !reference);
                    let bound = 4.0 * tolerance(dtype) * want.abs().max(1.0);
                    assert!((got - want).abs() <= bound, "{name} over {distance:?}: {got} for {want}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn reducers_nest() -> Result<(), Any> {
    let losses = rows(23, 1, 6)?.flatten_all()?.abs()?;
    let pairs = PairList { anchor: vec![0, 0, 1, 2, 2, 2], other: vec![1, 2, 0, 0, 1, 3] };
    let v = losses.to_vec1::<f64>()?;
    let per_anchor = [(v[0] + v[1]) / 2.0, v[2], (v[3] + v[4] + v[5]) / 3.0, 0.0];
    let inner = Threshold { low: Some(0.4), high: None };
    let reducer = PerAnchor { reducer: Arc::new(inner) };
    let part = Part::new("loss", losses, Index::Pairs(pairs));
    let got = reducer.reduce(&part, &[0, 0, 1, 1])?.to_scalar::<f64>()?;
    let want = mean(&per_anchor, |v| v > 0.4);
    assert!((got - want).abs() < 1e-12, "{got} {want}");
    Ok(())
}

#[test]
fn own_rows_of_a_reference_set_are_not_compared() -> Result<(), Any> {
    let x = rows(24, LABELS.len(), 5)?;
    let alone = Batch::new(&x, &LABELS)?;
    let own: Vec<u32> = (0..LABELS.len() as u32).collect();
    let memory = alone.clone().with_reference(&x.copy()?, &LABELS)?.with_own_rows(&own)?;
    assert_eq!(Triplets::all(&alone), Triplets::all(&memory));
    let loss = SupCon { distance: Arc::new(Lp::default()), temperature: Temperature::fixed(0.2)? };
    let objective = Objective::new(Arc::new(loss));
    let gap = (objective.forward(&alone)? - objective.forward(&memory)?)?.abs()?.to_scalar::<f64>()?;
    assert!(gap < 1e-12, "{gap}");
    Ok(())
}

/// A histogram's shares stay probabilities where distances leave its range: what lies beyond counts at the edge, with
/// gradient 0.
#[test]
fn histogram_values_beyond_the_range_count_at_its_edge() -> Result<(), Any> {
    let config = HistogramConfig { n_bins: Some(1), range: Some((0.0, 1.0)), ..Default::default() };
    let loss = Objective::new(Arc::new(Histogram::new(Arc::new(Lp::raw(2.0)), config)?));
    let x = candle_core::Var::new(&[[0f64], [0.5], [3.0]], &Device::Cpu)?;
    let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?;
    // Positives half at either edge, negatives, 3 and 2.5 away, at the far one.
    assert!((value.to_scalar::<f64>()? - 0.5).abs() < 1e-12);
    // Only the positive pair moves the value: by its length, 1/(width·1).
    let gradient = value.backward()?.get(&x).ok_or("no gradient")?.flatten_all()?.to_vec1::<f64>()?;
    assert_eq!(gradient.iter().map(|g| g.abs()).collect::<Vec<_>>(), [1.0, 1.0, 0.0]);
    Ok(())
}
