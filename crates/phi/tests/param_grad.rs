//! One backward pass gives exact gradients of a loss that holds φ and ∇φ: against central differences, in f64.

use std::env;

use candle_core::{D, DType, Device, Tensor, Var};
use phi::testing::{
    Named, every_generator, into_domain, numeric_gradient, numeric_parameter_gradient, relative_error,
};
use phi::{Generator, Result};

/// Truncation h²f‴/6 and round-off ε/h are both near 1e-10 here.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-5;

/// How the loss asks for φ.
#[derive(Debug, Clone, Copy)]
enum Form {
    Plain,
    Centered,
}

fn select(t: &Tensor, index: &[u32]) -> Result<Tensor> {
    Ok(t.index_select(&Tensor::new(index, t.device())?, 0)?)
}

/// A triplet loss, mean of max(0, D(a ‖ p) − D(a ‖ n) + margin), of `free` `[n, d]` moved into the domain.
fn triplet_loss(phi: &dyn Generator, free: &Tensor, form: Form) -> Result<Tensor> {
    let x = into_domain(phi.domain(), free)?;
    let (value, grad) = match form {
        Form::Plain => phi.value_and_grad(&x)?,
        Form::Centered => phi.centered(&x, &x.mean_keepdim(0)?.detach())?,
    };
    let divergence = |i: &[u32], j: &[u32]| -> Result<Tensor> {
        let apart = (select(&x, i)? - select(&x, j)?)?;
        let tangent = (select(&grad, j)? * apart)?.sum(D::Minus1)?;
        Ok(((select(&value, i)? - select(&value, j)?)? - tangent)?)
    };
    let (a, p, n) = ([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0], [3, 4, 5, 0, 1, 2]);
    let gap = ((divergence(&a, &p)? - divergence(&a, &n)?)? + 2.0)?;
    Ok(gap.relu()?.mean_all()?)
}

fn check(form: Form) -> Result<()> {
    assert!(
        env::var_os("CANDLE_GRAD_DO_NOT_DETACH").is_none(),
        "unset CANDLE_GRAD_DO_NOT_DETACH: with it candle differentiates twice, and this test would prove nothing"
    );
    for d in [1, 3] {
        for Named { name, phi, .. } in every_generator(d, 11)? {
            let free = Var::from_tensor(&points(d)?)?;
            let loss =
                |free: &Tensor| -> Result<f64> { Ok(triplet_loss(&*phi, free, form)?.to_scalar::<f64>()?) };
            let gradients = triplet_loss(&*phi, &free, form)?.backward()?;
            let got =
                gradients.get(&free).ok_or_else(|| missing(format!("{name}: no gradient of the inputs")))?;
            // The centred form holds the pivot constant, which the divergence does not notice.
            let want = numeric_gradient(&free, STEP, loss)?;
            let scale = want.abs()?.max_all()?.to_scalar::<f64>()?.max(1e-3);
            let error = relative_error(got, &want, 1e-3)?;
            assert!(error <= TOLERANCE, "{name}, d = {d}, {form:?}: inputs off by {error:e}");
            for p in phi.parameters() {
                let what = format!("{name}, d = {d}, {form:?}: `{}`", p.name);
                let got =
                    gradients.get(&p.var).ok_or_else(|| missing(format!("{what} received no gradient")))?;
                assert_eq!(got.dims(), p.var.dims(), "{what}");
                let want = numeric_parameter_gradient(&p.var, STEP, || loss(&free))?;
                // A gradient that is 0 is held against the size of the others.
                let error = relative_error(got, &want, 1e-3 * scale)?;
                assert!(error <= TOLERANCE, "{what} off by {error:e}: {got} for {want}");
            }
        }
    }
    Ok(())
}

fn missing(what: String) -> phi::Error {
    candle_core::Error::Msg(what).into()
}

/// Six points whose triplets lie on both sides of the hinge, away from it.
fn points(d: usize) -> Result<Tensor> {
    phi::testing::points(&phi::SquaredEuclidean, 17, 6, d)
}

#[test]
fn triplet_gradients_agree_with_finite_differences() -> Result<()> {
    check(Form::Plain)
}

#[test]
fn triplet_gradients_through_the_centred_form_agree_too() -> Result<()> {
    check(Form::Centered)
}

#[test]
fn parameters_have_unique_names() -> Result<()> {
    for Named { name, phi, .. } in every_generator(2, 1)? {
        let mut names: Vec<String> = phi.parameters().into_iter().map(|p| p.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{name}: {names:?}");
    }
    Ok(())
}

#[test]
fn same_seed_same_parameters() -> Result<()> {
    for Named { name, spec, phi, .. } in every_generator(2, 1)? {
        let build = |seed| spec.build(2, seed, DType::F32, &Device::Cpu).map(|phi| phi.parameters());
        let bits = |all: Vec<phi::Parameter>| -> Result<Vec<u32>> {
            let mut out = Vec::new();
            for p in all {
                out.extend(p.var.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits));
            }
            Ok(out)
        };
        assert_eq!(bits(build(4)?)?, bits(build(4)?)?, "{name}");
        assert_eq!(build(4)?.len(), phi.parameters().len(), "{name}");
    }
    Ok(())
}
