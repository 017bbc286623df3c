//! A distance that has become NaN is seen: every loss that looks at it becomes NaN or an error, so that training stops.

mod common;

use std::{result::Result, sync::Arc};

use bregman::Side;
use candle_core::{DType, Device, Var};
use common::{Any, every_loss, every_memory, icnn, rows, takes, wants_items};
use dml_loss::*;
use phi::Generator;

/// The loss over a network that is well, and after every parameter of it became NaN.
fn before_and_after(spec: &LossSpec, dtype: DType) -> Result<(f64, Result<f64, Error>), Any> {
    let generator = icnn(4, dtype)?;
    let distance = Arc::new(BregmanDistance::new(generator.clone(), Side::First));
    let x = Var::from_tensor(&rows(3, 8, 4)?.to_dtype(dtype)?)?;
    let labels = [0, 1, 0, 1, 2, 2, 0, 1];
    let mut batch = Batch::new(&x, &labels)?;
    if wants_items(spec) {
        batch = batch.with_reference(&x, &labels)?;
    }
    let value = || -> Result<f64, Error> {
        let objective = Objective::new(spec.build(distance.clone(), dtype, &Device::Cpu)?);
        Ok(objective.forward(&batch)?.to_dtype(DType::F64)?.to_scalar()?)
    };
    let well = value()?;
    for parameter in generator.parameters() {
        let nan = (parameter.var.as_detached_tensor() * f64::NAN)?;
        parameter.var.set(&nan)?;
    }
    Ok((well, value()))
}

#[test]
fn every_loss_shows_it() -> Result<(), Any> {
    for dtype in [DType::F32, DType::F64] {
        let mut shown = 0;
        for spec in every_loss()?.into_iter().chain(every_memory()?) {
            let probe = BregmanDistance::new(icnn(4, dtype)?, Side::First);
            if !takes(&spec, &probe) {
                continue;
            }
            let (well, ill) = before_and_after(&spec, dtype).map_err(|e| format!("{spec:?}: {e}"))?;
            // Those with a distance of their own, as the angular loss, are what they were.
            let seen = ill.as_ref().map_or(true, |ill| ill.is_nan());
            assert!(seen || ill? == well, "{spec:?} {dtype:?} is still a number, {well} before");
            shown += usize::from(seen);
        }
        assert!(shown > 30, "only {shown} losses look at the distance");
    }
    Ok(())
}

/// Rows whose squares overflow are far apart, not equal; a NaN entry makes its row's distances NaN.
#[test]
fn distances_overflow_to_infinity_and_not_to_zero() -> Result<(), Any> {
    let x = Var::new(&[[2e19f32], [-2e19], [0.0]], &Device::Cpu)?;
    let nan = Var::new(&[[f32::NAN], [1.0], [5.0]], &Device::Cpu)?;
    for power in [1.0, 2.0, 3.0] {
        let distance = Lp::new(2.0, power, false)?;
        let far = distance.all_pairs(&x, &x)?.to_vec2::<f32>()?;
        assert_eq!(far[0][1], f32::INFINITY, "power {power}: {far:?}");
        let seen = distance.all_pairs(&nan, &nan)?.to_vec2::<f32>()?;
        assert!(seen[0][1].is_nan(), "power {power}: {seen:?}");
    }
    Ok(())
}
