//! One backward pass through all-pairs divergences gives the gradients of finite differences, with respect to points
//! and to every parameter of every generator. candle's `CANDLE_GRAD_DO_NOT_DETACH` stays unset.

use bregman::{all_pairs, jeffreys_all_pairs, jensen_bregman_all_pairs, paired, sets};
use candle_core::{DType, Device, Tensor, Var};
use phi::{
    Generator,
    testing::{Named, every_generator, points as rows},
};

#[path = "support/oracle.rs"]
mod oracle;
#[path = "support/saturated.rs"]
mod saturated;
use oracle::*;

/// Of the largest entry of each gradient.
const TOLERANCE: f64 = 1e-5;
/// Central differences of step h are off by h² times a third derivative, and by 1e-16/h times the loss.
const STEP: f64 = 1e-5;
/// Every entry of every parameter.
const ALL: usize = usize::MAX;

/// Checks d loss / d v against central differences, at `most` entries spread over each `Var`.
fn check(
    what: &str,
    vars: &[(String, Var)],
    most: usize,
    loss: impl Fn() -> candle_core::Result<Tensor>,
) -> TestResult {
    let grads = loss()?.backward()?;
    for (name, var) in vars {
        // A parameter of the affine part of φ has no share in D, and so no gradient: that must be 0.
        let exact = match grads.get(var) {
            Some(grad) => grad.flatten_all()?.to_vec1::<f64>()?,
            None => vec![0.0; var.elem_count()],
        };
        let start = var.copy()?;
        let values = start.flatten_all()?.to_vec1::<f64>()?;
        let at = |i: usize, h: f64| -> candle_core::Result<f64> {
            let mut moved = values.clone();
            moved[i] += h;
            var.set(&Tensor::from_vec(moved, start.shape(), &Device::Cpu)?)?;
            loss()?.to_scalar::<f64>()
        };
        let largest = exact.iter().fold(1e-3f64, |a, b| a.max(b.abs()));
        for (i, exact) in exact.iter().enumerate().step_by(exact.len().div_ceil(most)) {
            let difference = (at(i, STEP)? - at(i, -STEP)?) / (2.0 * STEP);
            let error = (exact - difference).abs() / largest;
            if error > TOLERANCE || error.is_nan() {
                let message = format!("{what}: {name}[{i}] is {exact}, differences give {difference}");
                return Err(message.into());
            }
        }
        var.set(&start)?;
    }
    Ok(())
}

fn vars(phi: &dyn Generator, points: &[(&str, &Var)]) -> Vec<(String, Var)> {
    let parameters = phi.parameters().into_iter().map(|p| (p.name, p.var));
    parameters.chain(points.iter().map(|(name, var)| (name.to_string(), (*var).clone()))).collect()
}

fn candle(e: bregman::Error) -> candle_core::Error {
    candle_core::Error::Msg(e.to_string())
}

#[test]
fn triplet_loss_within_a_batch() -> TestResult {
    assert!(std::env::var_os("CANDLE_GRAD_DO_NOT_DETACH").is_none());
    for Named { name, phi, .. } in every_generator(3, 11)? {
        let e = Var::from_tensor(&rows(&*phi, 5, 6, 3)?)?;
        // (a, p, n) as flat indices into D.
        let triplets = [(0u32, 1u32, 2u32), (1, 0, 3), (2, 3, 4), (4, 5, 0), (5, 4, 1), (3, 3, 2)];
        let index = |other: fn(&(u32, u32, u32)) -> u32| {
            let flat: Vec<u32> = triplets.iter().map(|t| t.0 * 6 + other(t)).collect();
            Tensor::new(flat, &Device::Cpu)
        };
        let (positive, negative) = (index(|t| t.1)?, index(|t| t.2)?);
        let margins = || -> candle_core::Result<Tensor> {
            let d = all_pairs(&*phi, &e, &e).map_err(candle)?.flatten_all()?;
            (d.index_select(&positive, 0)? - d.index_select(&negative, 0)?)? + 0.37
        };
        let kink = margins()?.abs()?.min(0)?.to_scalar::<f64>()?;
        assert!(kink > 1e-3, "{name}: a triplet lies on the kink of the hinge");
        check(name, &vars(&*phi, &[("embeddings", &e)]), ALL, || margins()?.relu()?.mean_all())?;
    }
    Ok(())
}

#[test]
fn between_two_sets() -> TestResult {
    for Named { name, phi, .. } in every_generator(3, 12)? {
        let x = Var::from_tensor(&rows(&*phi, 6, 3, 3)?)?;
        let y = Var::from_tensor(&rows(&*phi, 7, 3, 3)?)?;
        let weights = Tensor::new(&[[0.3, -1.0, 0.7], [1.1, 0.2, -0.4], [-0.9, 0.8, 0.5]], &Device::Cpu)?;
        let vars = vars(&*phi, &[("x", &x), ("y", &y)]);
        let weigh = |d: bregman::Result<Tensor>| (d.map_err(candle)? * &weights)?.sum_all();
        check(&format!("{name}, all pairs"), &vars, 2, || weigh(all_pairs(&*phi, &x, &y)))?;
        check(&format!("{name}, Jeffreys"), &vars, 2, || weigh(jeffreys_all_pairs(&*phi, &x, &y)))?;
        check(&format!("{name}, Jensen"), &vars, 2, || weigh(jensen_bregman_all_pairs(&*phi, &x, &y)))?;
        check(&format!("{name}, paired"), &vars, 2, || {
            (paired(&*phi, &x, &y).map_err(candle)? * weights.get(0)?)?.sum_all()
        })?;
        check(&format!("{name}, information"), &vars[..vars.len() - 1], 2, || {
            bregman::bregman_information(&*phi, &x, None).map_err(candle)
        })?;
        check(&format!("{name}, expected"), &vars, 2, || {
            sets::expected_divergence(&*phi, &x, &y).map_err(candle)
        })?;
    }
    Ok(())
}

#[test]
fn functional_divergence_of_sets() -> TestResult {
    let phi = phi::DeepDivergence::new(
        3,
        &phi::DeepDivergenceConfig { subnetworks: 4, widths: vec![5], ..Default::default() },
        9,
        DType::F64,
        &Device::Cpu,
    )?;
    let x = Var::from_tensor(&rows(&phi, 8, 8, 3)?)?;
    let membership = [0, 1, 2, 0, 1, 2, 3, 3];
    let weights = Tensor::new(&[[0.3, -1.0, 0.7, 0.1]], &Device::Cpu)?;
    check("sets", &vars(&phi, &[("x", &x)]), ALL, || {
        let scores = phi.scores(&x).map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        let sets = sets::set_means(&scores, &membership, 4).map_err(candle)?;
        let d = sets::functional_all_pairs(&sets, &sets).map_err(candle)?;
        d.broadcast_mul(&weights)?.sum_all()
    })
}

#[test]
fn the_diagonal_and_clamped_entries_have_no_gradient() -> TestResult {
    for Named { name, phi, .. } in every_generator(3, 13)? {
        let e = Var::from_tensor(&rows(&*phi, 5, 4, 3)?)?;
        let d = all_pairs(&*phi, &e, &e)?;
        let trace = (d * Tensor::eye(4, DType::F64, &Device::Cpu)?)?.sum_all()?;
        let grads = trace.backward()?;
        for (what, var) in vars(&*phi, &[("embeddings", &e)]) {
            let Some(grad) = grads.get(&var) else { continue };
            let largest = grad.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
            assert_eq!(largest, 0.0, "{name}: {what}");
        }
    }
    Ok(())
}

/// Where every unit is far to one side of its knee the loss is made of what φ lacks of being affine.
#[test]
fn of_saturated_units() -> TestResult {
    // Without c in f64, with next to none in f32.
    for (name, spec) in saturated::with_units(0.0).into_iter().chain(saturated::with_units(1e-30)) {
        for side in [1.0, -1.0] {
            let (d, how_far) = (3, 6.0);
            let what = format!("{name}, {} beyond", side * how_far);
            let wide = spec.build(d, 2, DType::F64, &Device::Cpu)?;
            saturated::saturate(&*wide, side * how_far, 0.0, 0.5, 14)?;
            let (narrow, wide) =
                narrow_and_wide(Named { name, spec: spec.clone(), smooth: true, phi: wide }, d)?;
            let loss = |phi: &dyn Generator, e: &Tensor| -> candle_core::Result<Tensor> {
                // D² rather than D: its gradient is different for each pair.
                (all_pairs(phi, e, e).map_err(candle)? * how_far.exp())?.sqr()?.sum_all()
            };
            let e = Var::from_tensor(&rows(&*wide, 5, 6, d)?.to_dtype(DType::F32)?.to_dtype(DType::F64)?)?;
            check(&what, &vars(&*wide, &[("embeddings", &e)]), ALL, || loss(&*wide, &e))?;
            // And f32 has the digits of f64.
            let single = Var::from_tensor(&e.to_dtype(DType::F32)?)?;
            let (exact, got) = (loss(&*wide, &e)?.backward()?, loss(&*narrow, &single)?.backward()?);
            let pairs = vars(&*wide, &[("embeddings", &e)]).into_iter();
            for ((name, wide), (_, narrow)) in pairs.zip(vars(&*narrow, &[("embeddings", &single)])) {
                let Some(exact) = exact.get(&wide) else { continue };
                let got = got.get(&narrow).ok_or(format!("{what}: {name} has no gradient"))?;
                let largest = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
                let error = largest(&(got.to_dtype(DType::F64)? - exact)?)?;
                let share = error / largest(exact)?.max(f64::MIN_POSITIVE);
                assert!(
                    share < 1e-4,
                    "{what}: the gradient of {name} is off by {share:e} of its largest entry"
                );
            }
        }
    }
    Ok(())
}
