//! The borders: numbers next to the largest and the smallest, views of any stride, tensors that are both arguments.
//! Every result is finite and not negative, or an error that says where.

use bregman::cluster::{hard::KMeans, soft::Mixture};
use bregman::{
    Lift, Side, all_pairs, bregman_information, conjugate, grad_conjugate, jeffreys, jeffreys_all_pairs,
    jensen_bregman_all_pairs, left_centroid, paired, right_centroid, sets,
};
use candle_core::{DType, Device, Tensor, Var};
use phi::testing::{Named, every_generator, points};
use phi::{
    Factor, Generator, ItakuraSaito, LogSumExp, Mahalanobis, MaxAffineConfig, NegativeEntropy, PNorm,
    Separable, SeparableConfig, Spec, SquaredEuclidean,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

#[path = "support/oracle.rs"]
mod oracle;
use oracle::*;

fn rows(x: &[[f32; 2]]) -> TestResult<Tensor> {
    Ok(Tensor::from_vec(x.concat(), (x.len(), 2), &Device::Cpu)?)
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

/// What came out: nothing below 0, nothing that is no number.
fn sound(what: &str, result: bregman::Result<Tensor>) -> TestResult {
    match result {
        Ok(t) => {
            let values = t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            let fine = values.iter().all(|v| v.is_finite() && *v >= 0.0);
            if fine { Ok(()) } else { Err(format!("{what}: {values:?}").into()) }
        }
        // A tensor operation that failed inside is a bug.
        Err(bregman::Error::Candle(e) | bregman::Error::Phi(phi::Error::Candle(e))) => {
            Err(format!("{what}: {e}").into())
        }
        Err(_) => Ok(()),
    }
}

fn everything(what: &str, phi: &dyn Generator, x: &Tensor, y: &Tensor) -> TestResult {
    sound(&format!("{what}, own pairs"), all_pairs(phi, x, x))?;
    sound(&format!("{what}, all pairs"), all_pairs(phi, x, y))?;
    sound(&format!("{what}, paired"), paired(phi, x, y))?;
    sound(&format!("{what}, Jeffreys"), jeffreys(phi, x, y))?;
    sound(&format!("{what}, Jeffreys of all pairs"), jeffreys_all_pairs(phi, x, y))?;
    sound(&format!("{what}, Jensen"), jensen_bregman_all_pairs(phi, x, y))?;
    sound(&format!("{what}, information"), bregman_information(phi, x, None))?;
    sound(&format!("{what}, expected"), sets::expected_divergence(phi, x, y))?;
    sound(&format!("{what}, of means"), sets::mean_divergence(phi, x, y))?;
    for side in [Side::First, Side::Second] {
        let lifted = Lift::around(phi, y, side).and_then(|lift| lift.divergences(x, y));
        sound(&format!("{what}, lifted {side:?}"), lifted)?;
        sound(&format!("{what}, {side:?}"), side.all_pairs(phi, x, y))?;
    }
    // Centroids have either sign.
    let size = |t: bregman::Result<Tensor>| t.and_then(|t| Ok(t.abs()?));
    sound(&format!("{what}, left centroid"), size(left_centroid(phi, x, None)))?;
    let one = KMeans { restarts: 1, ..KMeans::new(1) };
    sound(
        &format!("{what}, k-means"),
        one.fit(phi, x, &mut rng()).map(|found| found.centroids).and_then(|t| Ok(t.abs()?)),
    )?;
    for scale in [1e-300, 1e-30, 1e30, 1e300] {
        let mixture = Mixture { scale, restarts: 1, max_iterations: 20, ..Mixture::new(2) };
        let fit = mixture.fit(phi, x, &mut rng()).map(|fit| fit.responsibilities);
        sound(&format!("{what}, mixture of scale {scale:e}"), fit)?;
    }
    Ok(())
}

#[test]
fn next_to_the_ends_of_the_numbers() -> TestResult {
    let orthant = [
        (
            "tiny",
            rows(&[[1e-38, 1.0], [1e-45, 2.0], [1.0, 1e-20]])?,
            rows(&[[1.0, 1.0], [1e-44, 3e-39], [3.0, 1e-10]])?,
        ),
        ("the smallest", rows(&[[1e-45, 3e-45], [3e-45, 1e-44]])?, rows(&[[3e-45, 3e-45], [1e-43, 3e-45]])?),
        (
            "huge",
            rows(&[[1e30, 1.0], [1e38, 2.0], [1.0, 1e20]])?,
            rows(&[[1.0, 1.0], [1e35, 3.0], [3.0, 1e10]])?,
        ),
        ("equal", rows(&[[1.0, 2.0], [1.0, 2.0]])?, rows(&[[1.0, 2.0], [1.0, 2.0]])?),
    ];
    for (what, x, y) in &orthant {
        everything(&format!("negative entropy, {what}"), &NegativeEntropy::orthant(), x, y)?;
        everything(&format!("Itakura–Saito, {what}"), &ItakuraSaito, x, y)?;
    }
    let simplex = NegativeEntropy::simplex();
    let corner =
        (rows(&[[1.0, 1e-38], [1e-45, 1.0], [0.5, 0.5]])?, rows(&[[1.0, 1e-30], [0.3, 0.7], [1e-40, 1.0]])?);
    everything("corners of the simplex", &simplex, &corner.0, &corner.1)?;
    let one = Tensor::ones((3, 1), DType::F32, &Device::Cpu)?;
    everything("the simplex of one coordinate", &simplex, &one, &one.copy()?)?;
    let reals = [
        ("zeros", rows(&[[0.0, 0.0], [-0.0, 0.0]])?, rows(&[[0.0, -0.0], [0.0, 1.0]])?),
        (
            "sums that overflow",
            rows(&[[1.3e19, -1.3e19], [-1.3e19, 1.3e19]])?,
            rows(&[[1e18, -1e18], [1.0, 1.0]])?,
        ),
        ("huge", rows(&[[1e30, -1e30], [-1e30, 1e30]])?, rows(&[[1e30, -1e30], [-1e25, 1e30]])?),
        ("the largest", rows(&[[3e38, -3e38], [3e38, 3e38]])?, rows(&[[3e38, -3e38], [3e38, 3e38]])?),
        ("tiny", rows(&[[1e-40, 0.0], [-1e-42, 1e-45]])?, rows(&[[1e-40, 1e-30], [0.0, 1e-45]])?),
    ];
    let max_affine = |temperature| Spec::MaxAffine(MaxAffineConfig { pieces: 3, temperature });
    let mut specs = vec![
        Spec::PNorm { p: 1.0 + 1e-12 },
        Spec::PNorm { p: 1.0001 },
        Spec::PNorm { p: 2.0 },
        max_affine(Some(1e-30)),
        max_affine(Some(1e30)),
    ];
    let on_reals =
        every_generator(2, 5)?.into_iter().filter(|named| named.phi.domain() == phi::Domain::Reals);
    specs.extend(on_reals.map(|named| named.spec));
    for spec in specs {
        let phi = spec.build(2, 1, DType::F32, &Device::Cpu)?;
        for (what, x, y) in &reals {
            everything(&format!("{spec:?}, {what}"), &*phi, x, y)?;
        }
    }
    let x = rows(&[[1.0, 2.0], [3.0, 4.0]])?;
    for l in [[[1e-20f32, 0.0], [0.0, 1e15]], [[1e-30, 0.0], [1e-30, 1e-30]], [[0.0, 0.0], [0.0, 0.0]]] {
        let form = Mahalanobis::from_parameters(&Tensor::new(&l, &Device::Cpu)?, Factor::Triangular, 0.0)?;
        everything(&format!("Mahalanobis, {l:?}"), &form, &x, &(&x + 1.0)?)?;
    }
    Ok(())
}

#[test]
fn what_overflows_is_named() -> TestResult {
    let message = |result: bregman::Result<Tensor>| match result {
        Ok(t) => format!("no error but {t}"),
        Err(e) => e.to_string(),
    };
    let remedy = "scale the points down, move them away from the border of the domain, or compute in f64";
    let x = rows(&[[1.3e19, -1.3e19], [-1.3e19, 1.3e19]])?; // φ does not overflow, the sum does
    let d = message(all_pairs(&SquaredEuclidean, &x, &x));
    assert_eq!(d, format!("all_pairs: D is not finite at row 0 of `x`; {remedy}"));
    let g = rows(&[[0.0, 1.0], [1000.0, 0.0]])?;
    let inverse = message(grad_conjugate(&NegativeEntropy::orthant(), &g));
    assert_eq!(inverse, format!("Dual::solve: ∇φ* is not finite at row 1 of `g`; {remedy}"));
    let g = rows(&[[1e30, 1e38]])?;
    let dual = message(conjugate(&PNorm::new(1.01)?, &g));
    assert_eq!(dual, format!("conjugate: φ* is not finite at row 0 of `g`; {remedy}"));
    let x = rows(&[[1e15, 0.0], [-1e15, 0.0], [0.0, 1e15]])?;
    let mixture = Mixture { scale: 1e300, ..Mixture::new(2) };
    let fit = message(mixture.fit(&SquaredEuclidean, &x, &mut rng()).map(|fit| fit.responsibilities));
    let want = "Mixture::fit: `scale` is 1000000000000000000000000000000000000000000";
    assert!(
        fit.starts_with(want) && fit.ends_with("expected so small that no scale·D(x ‖ μ) overflows"),
        "{fit}"
    );
    Ok(())
}

#[test]
fn weights_next_to_the_largest_number_are_weights() -> TestResult {
    let x = rows(&[[1.0, 2.0], [3.0, 4.0]])?;
    for weight in [3e38f32, 1.0, 3e-45] {
        let weights = Tensor::new(&[weight, weight], &Device::Cpu)?;
        assert_eq!(right_centroid(&x, Some(&weights))?.to_vec2::<f32>()?, [[2.0, 3.0]], "{weight:e}");
    }
    Ok(())
}

#[test]
fn points_whose_sum_overflows_have_a_pivot() -> TestResult {
    // The shares of both rows are known although the sum of the scores is none.
    let x = rows(&[[3e38, 3e38], [3e38, 2e38]])?;
    let d = all_pairs(&LogSumExp, &x, &x)?.to_vec2::<f32>()?;
    assert_eq!((d[0][0], d[1][1]), (0.0, 0.0));
    assert!((d[0][1] - 2f32.ln()).abs() < 1e-6, "KL((1, 0) ‖ (½, ½)) = log 2: {d:?}");
    Ok(())
}

/// A mixture from the softest to the hardest.
#[test]
fn mixtures_between_one_and_many_clusters() -> TestResult {
    let x = rows(&[[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.0, 5.1]])?;
    let fit = |scale| Mixture { scale, ..Mixture::new(2) }.fit(&SquaredEuclidean, &x, &mut rng());
    let hard = fit(1e300)?;
    let p = hard.responsibilities.to_vec2::<f32>()?;
    assert!(p.iter().all(|p| p.contains(&1.0) && p.contains(&0.0)), "{p:?}");
    assert!(p[0] == p[1] && p[2] == p[3] && p[0] != p[2], "{p:?}");
    let soft = fit(1e-300)?;
    for p in soft.responsibilities.to_vec2::<f32>()? {
        assert!((f64::from(p[0]) - soft.shares[0]).abs() < 1e-6, "{p:?} for {:?}", soft.shares);
    }
    assert!(soft.log_likelihood.abs() < 1e-12);
    Ok(())
}

#[test]
fn views_of_any_stride_are_the_points_they_show() -> TestResult {
    for Named { name, phi, .. } in every_generator(4, 3)? {
        let (x, y) = (points(&*phi, 1, 6, 4)?, points(&*phi, 2, 3, 4)?);
        let transposed = |t: &Tensor| t.t()?.contiguous()?.t();
        let (beside, above) = (Tensor::cat(&[&x, &x], 1)?, Tensor::cat(&[&y, &x, &y], 0)?);
        let (other, flipped) = (transposed(&y)?, x.flip(&[0])?);
        let all = |v: &Tensor, y: &Tensor| -> TestResult<Vec<Tensor>> {
            Ok(vec![
                all_pairs(&*phi, v, v)?,
                all_pairs(&*phi, v, y)?,
                paired(&*phi, v, &flipped)?,
                jeffreys_all_pairs(&*phi, v, y)?,
                jensen_bregman_all_pairs(&*phi, v, y)?,
                Lift::around(&*phi, y, Side::Second)?.divergences(v, y)?,
                sets::expected_divergence(&*phi, v, y)?,
                sets::set_means(v, &[0, 1, 0, 1, 0, 1], 2)?,
                KMeans::new(2).fit(&*phi, v, &mut rng())?.centroids,
            ])
        };
        let want = all(&x, &y)?;
        for (what, view) in [
            ("transposed", transposed(&x)?),
            ("rows", above.narrow(0, 3, 6)?),
            ("columns", beside.narrow(1, 4, 4)?),
        ] {
            for (i, (got, want)) in all(&view, &other)?.iter().zip(&want).enumerate() {
                assert!(distance(got, want)? < 1e-12, "{name}, {what}, {i}: {got} for {want}");
            }
        }
        // One row shown five times.
        let row = x.narrow(0, 0, 1)?;
        let again = row.broadcast_as((5, 4))?;
        let zero = all_pairs(&*phi, &again, &again)?.max_all()?.to_scalar::<f64>()?;
        assert!(zero < 1e-12, "{name}: {zero:e} between equal rows");
        assert_eq!(all_pairs(&*phi, &row, &row)?.to_vec2::<f64>()?, [[0.0]], "{name}");
    }
    Ok(())
}

/// The gradient of a tensor that is both arguments is the sum of those of two tensors.
#[test]
fn a_tensor_that_is_both_arguments_has_the_gradient_of_both() -> TestResult {
    for Named { name, phi, .. } in every_generator(3, 8)? {
        let x = points(&*phi, 4, 5, 3)?.detach(); // not the variable it was drawn into
        let weights =
            Tensor::from_vec((0..25).map(|i| f64::from(i % 7) - 2.6).collect(), (5, 5), &Device::Cpu)?;
        let turned = Tensor::new(&[1u32, 2, 3, 4, 0], &Device::Cpu)?;
        type Form<'a> = (&'a str, Box<dyn Fn(&Tensor, &Tensor) -> TestResult<Tensor> + 'a>);
        let forms: Vec<Form<'_>> = vec![
            ("all pairs", Box::new(|x, y| Ok((all_pairs(&*phi, x, y)? * &weights)?))),
            ("second", Box::new(|x, y| Ok((Side::Second.all_pairs(&*phi, x, y)? * &weights)?))),
            ("Jeffreys", Box::new(|x, y| Ok((jeffreys_all_pairs(&*phi, x, y)? * &weights)?))),
            ("Jensen", Box::new(|x, y| Ok((jensen_bregman_all_pairs(&*phi, x, y)? * &weights)?))),
            ("paired", Box::new(|x, y| Ok(paired(&*phi, x, &y.index_select(&turned, 0)?)?))),
            (
                "paired, second",
                Box::new(|x, y| Ok(Side::Second.paired(&*phi, x, &y.index_select(&turned, 0)?)?)),
            ),
            ("expected", Box::new(|x, y| Ok(sets::expected_divergence(&*phi, x, y)?))),
        ];
        for (form, f) in forms {
            let (both, first, second) = (Var::from_tensor(&x)?, Var::from_tensor(&x)?, Var::from_tensor(&x)?);
            let one = f(&both, &both)?.sum_all()?.backward()?;
            let two = f(&first, &second)?.sum_all()?.backward()?;
            let of = |store: &candle_core::backprop::GradStore, var: &Var| match store.get(var) {
                Some(gradient) => Ok(gradient.clone()),
                None => var.zeros_like(),
            };
            let want = (of(&two, &first)? + of(&two, &second)?)?;
            let error = distance(&of(&one, &both)?, &want)?;
            assert!(error < 1e-10, "{name}, {form}: off by {error:e}");
        }
        // Rows that are equal cost nothing and pull nothing.
        let both = Var::from_tensor(&x)?;
        let same = paired(&*phi, &both, &both)?.sum_all()?;
        assert_eq!(same.to_scalar::<f64>()?, 0.0, "{name}");
        if let Some(gradient) = same.backward()?.get(&both) {
            assert!(gradient.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12, "{name}: {gradient}");
        }
    }
    Ok(())
}

#[test]
fn ranges_of_any_size_place_their_units() -> TestResult {
    let x = rows(&[[0.1, 0.2], [0.3, -0.4]])?;
    for range in [(-1e30, 1e30), (0.0, 1e-30), (1e6, 1e6 + 1.0)] {
        let config = SeparableConfig { range, ..Default::default() };
        let phi = Separable::new(2, &config, 1, DType::F32, &Device::Cpu)?;
        everything(&format!("separable over {range:?}"), &phi, &x, &(&x + 0.5)?)?;
    }
    Ok(())
}
