//! A learned temperature has bounds: whatever an optimizer makes of its logarithm, loss and gradients stay numbers, and
//! a logarithm beyond a bound comes back as soon as the loss wants it to.

mod common;

use std::{result::Result, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};
use common::{Any, every_distance, rows, takes, wants_items};
use dml_loss::*;

/// Every loss with a learned temperature, one of them in a memory and one in a sum.
fn learned() -> Result<Vec<LossSpec>, serde_json::Error> {
    serde_json::from_str(
        r#"[
        {"name": "sup-con", "temperature": "learned"},
        {"name": "nt-xent", "temperature": "learned"},
        {"name": "info-nce"},
        {"name": "info-nce", "direction": "columns"},
        {"name": "info-nce", "direction": "both"},
        {"name": "two-views", "loss": {"name": "nt-xent", "temperature": "learned"}},
        {"name": "cross-batch-memory", "loss": {"name": "sup-con", "temperature": "learned"}, "memory_size": 16},
        {"name": "weighted-sum", "terms": [{"objective": {"loss": {"name": "sup-con", "temperature": "learned"}}}]}
    ]"#,
    )
}

fn numbers(tensor: &Tensor) -> dml_loss::Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn log_scale(loss: &dyn Loss) -> Result<Var, Any> {
    let own = loss.own_parameters().into_iter().find(|p| p.role == Role::Temperature);
    Ok(own.ok_or("no temperature")?.var)
}

fn set(s: &Var, value: f64) -> dml_loss::Result<()> {
    Ok(s.set(&Tensor::full(value, (), s.device())?.to_dtype(s.dtype())?)?)
}

#[test]
fn no_logarithm_makes_a_loss_nan() -> Result<(), Any> {
    let labels = [0, 1, 0, 1, 2, 2];
    for dtype in [DType::F32, DType::F64] {
        let x = Var::from_tensor(&rows(3, 6, 4)?.to_dtype(dtype)?)?;
        let y = Var::from_tensor(&rows(5, 6, 4)?.to_dtype(dtype)?)?;
        for distance in every_distance(4, dtype)? {
            for spec in learned()?.into_iter().filter(|spec| takes(spec, &*distance)) {
                let mut batch = Batch::new(&x, &labels)?;
                if wants_items(&spec) {
                    batch = batch.with_reference(&y, &labels)?;
                }
                for value in [100.0, -100.0, 88.0, -88.0, 1e6, -1e6, 1e38, -1e38] {
                    let objective = Objective::new(spec.build(distance.clone(), dtype, &Device::Cpu)?);
                    let s = log_scale(&*objective.loss)?;
                    set(&s, value)?;
                    let name = format!("{spec:?} over {} in {dtype:?} at {value}", distance.name());
                    let listed = objective.unreduced(&batch, None)?;
                    let listed = listed.iter().map(|part| numbers(&part.losses));
                    let listed = listed.collect::<dml_loss::Result<Vec<_>>>()?.concat();
                    assert!(listed.iter().all(|v| v.is_finite()), "{name}: {listed:?}");
                    let loss = objective.forward(&batch)?;
                    assert!(numbers(&loss)?[0].is_finite(), "{name}: {loss}");
                    let grads = loss.backward()?;
                    let vars = objective.parameters().into_iter().map(|p| (p.name, p.var));
                    for (of, var) in vars.chain([("x".to_owned(), x.clone()), ("y".to_owned(), y.clone())]) {
                        let Some(gradient) = grads.get(&var) else { continue };
                        let gradient = numbers(gradient)?;
                        assert!(gradient.iter().all(|g| g.is_finite()), "{name}: {of} {gradient:?}");
                    }
                    // No step leads further out.
                    let outwards = -numbers(grads.get(&s).ok_or("no gradient")?)?[0] * value.signum();
                    assert!(outwards <= 0.0, "{name}: {outwards}");
                }
            }
        }
    }
    Ok(())
}

/// Rows of which each is closest to one of another class want a smaller scale, rows that are well apart a larger one.
#[test]
fn beyond_a_bound_the_gradient_points_back_or_is_zero() -> Result<(), Any> {
    let labels = [0, 0, 1, 1];
    for dtype in [DType::F32, DType::F64] {
        let mixed = Tensor::new(&[[0f64], [1.], [0.1], [1.1]], &Device::Cpu)?.to_dtype(dtype)?;
        let apart = Tensor::new(&[[0f64], [0.1], [1.], [1.1]], &Device::Cpu)?.to_dtype(dtype)?;
        for text in [
            r#"{"name": "sup-con", "temperature": "learned"}"#,
            r#"{"name": "nt-xent", "temperature": "learned"}"#,
            r#"{"name": "info-nce", "direction": "both"}"#,
        ] {
            let spec: LossSpec = serde_json::from_str(text)?;
            let objective = Objective::new(spec.build(Arc::new(Lp::squared()), dtype, &Device::Cpu)?);
            let s = log_scale(&*objective.loss)?;
            let at = |x: &Tensor, value: f64| -> Result<(f64, f64), Any> {
                set(&s, value)?;
                let mut batch = Batch::new(x, &labels)?;
                if wants_items(&spec) {
                    // Each query's item is the other row of its class where these are mixed, else the row itself.
                    let order = if x.id() == mixed.id() { [1u32, 0, 3, 2] } else { [0, 1, 2, 3] };
                    let order = Tensor::new(&order, &Device::Cpu)?;
                    batch = batch.with_reference(&x.index_select(&order, 0)?, &labels)?;
                }
                let loss = objective.forward(&batch)?;
                let slope = numbers(loss.backward()?.get(&s).ok_or("no gradient")?)?[0];
                Ok((numbers(&loss)?[0], slope))
            };
            // The value stays that of the bound, and so does the slope where it leads back.
            let (value, slope) = at(&mixed, 100.0)?;
            assert!(value > 1e10 && slope > 1e10, "{text} {dtype:?}: {value} {slope}");
            assert_eq!(at(&mixed, 1000.0)?, (value, slope), "{text} {dtype:?}");
            let (value, slope) = at(&apart, 100.0)?;
            assert!(value.abs() < 1e-3, "{text} {dtype:?}: {value}");
            assert_eq!(slope, 0.0, "{text} {dtype:?}");
            // At a scale of next to nothing all are alike: a step up is taken, a step down is not.
            assert!(at(&apart, -100.0)?.1 < 0.0, "{text} {dtype:?}: {:?}", at(&apart, -100.0)?);
            assert_eq!(at(&mixed, -100.0)?.1, 0.0, "{text} {dtype:?}");
        }
    }
    Ok(())
}

/// Distances so small or so large that their median asks for a scale beyond the bounds get the bound.
#[test]
fn calibration_stays_within_the_bounds() -> Result<(), Any> {
    for (size, dtype) in [(1e-30, DType::F64), (1e-300, DType::F64), (1e300, DType::F64), (1e-30, DType::F32)]
    {
        let temperature = Temperature::learned(0.1, dtype, &Device::Cpu)?;
        let distances = Tensor::full(size, 5, &Device::Cpu)?.to_dtype(dtype)?;
        temperature.calibrate(&Lp::squared(), &distances)?;
        let s = numbers(&temperature.parameters()[0].var)?[0];
        assert!(s.abs() < 50.0, "{size:e} {dtype:?}: {s}");
        let logits = numbers(&temperature.logits(&distances)?)?;
        assert!(logits.iter().all(|l| l.is_finite()), "{logits:?}");
    }
    Ok(())
}

#[test]
fn temperatures_out_of_bounds_are_named() -> Result<(), Any> {
    for t in [1e-40, 1e40] {
        for result in [Temperature::fixed(t), Temperature::learned(t, DType::F32, &Device::Cpu)] {
            let error = result.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.starts_with("Temperature: `temperature` is "), "{error}");
            assert!(error.contains("from 2^-64 to 2^64"), "{error}");
        }
    }
    let temperature = Temperature::learned(0.1, DType::F32, &Device::Cpu)?;
    let error = temperature.logits(&Tensor::new(&[1f64], &Device::Cpu)?).err().map(|e| e.to_string());
    assert_eq!(
        error.as_deref(),
        Some(
            "Temperature::logits: `closeness` holds F64, expected F32 as `log_scale`; convert it with `to_dtype`"
        )
    );
    Ok(())
}
