//! Every regularizer: values by hand, gradients for rows and generator parameters against central differences in f64,
//! and nothing to penalize in a table of no rows.

mod common;

use std::{result::Result, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};
use common::{Any, icnn, rows};
use dml_loss::*;
use phi::Generator;

/// Central differences with this step lose about 1e-10 to truncation and to rounding.
const STEP: f64 = 1e-5;
/// Relative to the largest entry of the gradient.
const TOLERANCE: f64 = 1e-5;

fn every() -> Result<Vec<Arc<dyn Regularizer>>, Any> {
    let phi: Arc<dyn Generator> = icnn(4, DType::F64)?;
    let texts = [
        r#"{"name": "lp"}"#,
        r#"{"name": "lp", "p": 3.0, "power": 2.0}"#,
        r#"{"name": "center-invariant"}"#,
        r#"{"name": "zero-mean"}"#,
        r#"{"name": "regular-face"}"#,
        r#"{"name": "sparse-centers", "centers_per_class": 3}"#,
        r#"{"name": "curvature"}"#,
        r#"{"name": "scale"}"#,
    ];
    texts.iter().map(|text| Ok(serde_json::from_str::<RegularizerSpec>(text)?.build(Some(&phi))?)).collect()
}

fn value(regularizer: &dyn Regularizer, x: &Tensor) -> Result<f64, Any> {
    Ok(regularizer.penalty(x)?.ok_or("no penalty")?.to_scalar()?)
}

#[test]
fn gradients_agree_with_differences() -> Result<(), Any> {
    for regularizer in every()? {
        let x = Var::from_tensor(&rows(1, 6, 4)?)?;
        let grads = regularizer.penalty(&x)?.ok_or("no penalty")?.backward()?;
        let mut vars = vec![("rows".to_owned(), x.clone())];
        vars.extend(regularizer.parameters().into_iter().map(|p| (p.name, p.var)));
        for (name, var) in vars {
            let gradient = match grads.get(&var) {
                Some(gradient) => gradient.flatten_all()?.to_vec1::<f64>()?,
                None => vec![0.0; var.elem_count()],
            };
            let start = var.as_detached_tensor().copy()?;
            let values = start.flatten_all()?.to_vec1::<f64>()?;
            let largest = gradient.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
            for at in (0..values.len()).step_by((values.len() / 4).max(1)) {
                let mut side = [0.0; 2];
                for (out, sign) in side.iter_mut().zip([1.0, -1.0]) {
                    let mut moved = values.clone();
                    moved[at] += sign * STEP;
                    var.set(&Tensor::from_vec(moved, start.shape(), &Device::Cpu)?)?;
                    *out = value(&*regularizer, &x)?;
                }
                var.set(&start)?;
                let off = ((side[0] - side[1]) / (2.0 * STEP) - gradient[at]).abs() / largest;
                assert!(off < TOLERANCE, "{regularizer:?}: `{name}` is off by {off:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn nothing_is_penalized_in_nothing_and_equal_rows_stay_finite() -> Result<(), Any> {
    for regularizer in every()? {
        let none = Tensor::zeros((0, 4), DType::F64, &Device::Cpu)?;
        assert!(regularizer.penalty(&none)?.is_none(), "{regularizer:?}");
        for x in [
            Tensor::zeros((3, 4), DType::F64, &Device::Cpu)?,
            Tensor::ones((3, 4), DType::F64, &Device::Cpu)?,
        ] {
            let x = Var::from_tensor(&x)?;
            let Some(penalty) = regularizer.penalty(&x)? else { continue };
            assert!(penalty.to_scalar::<f64>()?.is_finite(), "{regularizer:?}");
            if let Some(gradient) = penalty.backward()?.get(&x) {
                let sum = gradient.abs()?.sum_all()?.to_scalar::<f64>()?;
                assert!(sum.is_finite(), "{regularizer:?}: {sum}");
            }
        }
    }
    Ok(())
}

#[test]
fn values_by_hand() -> Result<(), Any> {
    let x = Tensor::new(&[[3f64, 4.0], [0.0, 2.0], [1.0, 0.0]], &Device::Cpu)?;
    let cases: [(&str, f64); 4] = [
        (r#"{"name": "lp"}"#, (5.0 + 2.0 + 1.0) / 3.0),
        (r#"{"name": "zero-mean"}"#, (7.0 + 2.0 + 1.0) / 3.0),
        // Squared lengths 25, 4, 1 about their mean 10.
        (r#"{"name": "center-invariant"}"#, (225.0 + 36.0 + 81.0) / 12.0),
        // Cosines 0.8, 0.6 and 0.
        (r#"{"name": "regular-face"}"#, (0.8 + 0.8 + 0.6) / 3.0),
    ];
    for (text, want) in cases {
        let got = value(&*serde_json::from_str::<RegularizerSpec>(text)?.build(None)?, &x)?;
        assert!((got - want).abs() < 1e-12, "{text}: {got} {want}");
    }
    let centers = Tensor::new(&[[1f64, 0.0], [0.0, 2.0], [1.0, 1.0], [2.0, 2.0]], &Device::Cpu)?;
    let sparse = SparseCenters::new(SparseCentersConfig { centers_per_class: 2 })?;
    let want = ((2f64 + 1e-7).sqrt() + 1e-7f64.sqrt()) / 4.0;
    assert!((value(&sparse, &centers)? - want).abs() < 1e-7);
    let error = sparse.penalty(&x).err().map(|e| e.to_string());
    let message = "SparseCenters: `rows` has shape [3, 2], expected [classes·2, d]";
    assert_eq!(error.as_deref(), Some(message));
    let error = serde_json::from_str::<RegularizerSpec>(r#"{"name": "scale"}"#)?.build(None).err();
    let message = "Scale: `generator` is missing, expected a generator φ given by the model";
    assert_eq!(error.map(|e| e.to_string()).as_deref(), Some(message));
    Ok(())
}

/// Steps against the gradient of `scale` bring the curvature to its target, and those of `curvature` shrink its spread.
#[test]
fn generators_are_conditioned() -> Result<(), Any> {
    let x = rows(2, 12, 4)?;
    for text in [r#"{"name": "scale", "target": 5.0}"#, r#"{"name": "curvature"}"#] {
        let phi: Arc<dyn Generator> = icnn(4, DType::F64)?;
        let regularizer = serde_json::from_str::<RegularizerSpec>(text)?.build(Some(&phi))?;
        let before = value(&*regularizer, &x)?;
        for _ in 0..300 {
            let grads = regularizer.penalty(&x)?.ok_or("no penalty")?.backward()?;
            for p in regularizer.parameters() {
                if let Some(g) = grads.get(&p.var) {
                    p.var.set(&(p.var.as_tensor() - (g * 0.05)?)?)?;
                }
            }
        }
        let after = value(&*regularizer, &x)?;
        assert!(after < 0.5 * before, "{text}: {before} {after}");
    }
    Ok(())
}
