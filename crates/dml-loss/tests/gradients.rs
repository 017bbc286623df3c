//! Every loss over every distance: gradients with respect to embeddings, reference set and each parameter agree with
//! central finite differences in f64, no environment variable set.

mod common;

use std::result::Result;

use candle_core::{DType, Device, Tensor, Var};
use common::{Any, every_distance, every_loss, rows, takes, wants_items};
use dml_loss::*;

/// Central differences with this step lose about 1e-10 to truncation and to rounding.
const STEP: f64 = 1e-5;
/// Relative to the largest entry of the gradient.
const TOLERANCE: f64 = 1e-5;

/// The place of the first Bregman divergence among the distances.
const BREGMAN: usize = 8;

/// The largest deviation over a few entries of `var`, relative to the largest gradient.
fn deviation(f: &dyn Fn() -> dml_loss::Result<Tensor>, var: &Var) -> Result<f64, Any> {
    // No gradient is a gradient of 0: no divergence depends on the affine part of a generator.
    let gradient = match f()?.backward()?.get(var) {
        Some(gradient) => gradient.flatten_all()?.to_vec1::<f64>()?,
        None => vec![0.0; var.elem_count()],
    };
    let start = var.as_detached_tensor().copy()?;
    let values = start.flatten_all()?.to_vec1::<f64>()?;
    let largest = gradient.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
    let stride = (values.len() / 3).max(1);
    let mut worst = 0.0f64;
    for at in (0..values.len()).step_by(stride) {
        let mut side = [0.0; 2];
        for (value, sign) in side.iter_mut().zip([1.0, -1.0]) {
            let mut moved = values.clone();
            moved[at] += sign * STEP;
            var.set(&Tensor::from_vec(moved, start.shape(), &Device::Cpu)?)?;
            *value = f()?.to_scalar::<f64>()?;
        }
        worst = worst.max(((side[0] - side[1]) / (2.0 * STEP) - gradient[at]).abs());
    }
    var.set(&start)?;
    Ok(worst / largest)
}

#[test]
fn agree_with_finite_differences() -> Result<(), Any> {
    let (n, d) = (8, 4);
    let labels = [0, 1, 0, 1, 2, 2, 0, 1];
    for (l, spec) in every_loss()?.into_iter().enumerate() {
        // The weights of the circle loss are constants for the gradient, on purpose, and so are the lengths of
        // P2SGrad's columns.
        if matches!(spec, LossSpec::Circle(_) | LossSpec::P2sGrad(_)) {
            continue;
        }
        for (k, distance) in every_distance(d, DType::F64)?.into_iter().enumerate() {
            // Each loss with a Bregman divergence, with and without a reference set; of the other distances
            // a third, another third for the next loss.
            if !takes(&spec, &*distance) || (k != BREGMAN && (k + l) % 3 != 0) {
                continue;
            }
            for reference in [false, true] {
                if (wants_items(&spec) && !reference) || (!wants_items(&spec) && reference && k != BREGMAN) {
                    continue;
                }
                let x = Var::from_tensor(&rows(1, n, d)?)?;
                let y = Var::from_tensor(&rows(2, n, d)?)?;
                let loss = spec.build(distance.clone(), DType::F64, &Device::Cpu)?;
                let objective = Objective::new(loss);
                let batch = || -> dml_loss::Result<Batch> {
                    let batch = Batch::new(&x, &labels)?;
                    if reference { batch.with_reference(&y, &[1, 0, 0, 2, 1, 2, 2, 0]) } else { Ok(batch) }
                };
                objective.calibrate(&batch()?)?;
                let f = || objective.forward(&batch()?);
                assert!(f()?.to_scalar::<f64>()?.abs() > 1e-6, "{spec:?} over {distance:?}: nothing to test");
                let mut vars = vec![("embeddings".to_owned(), x.clone())];
                vars.extend(reference.then(|| ("reference".to_owned(), y.clone())));
                vars.extend(objective.parameters().into_iter().map(|p| (p.name, p.var)));
                for (name, var) in vars {
                    let off =
                        deviation(&f, &var).map_err(|e| format!("{spec:?}, {distance:?}, {name}: {e}"))?;
                    assert!(off <= TOLERANCE, "{spec:?} over {distance:?}: `{name}` is off by {off:e}");
                }
            }
        }
    }
    Ok(())
}
