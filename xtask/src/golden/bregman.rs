//! Divergences of a generator: φ, ∇φ, all pairs, their gradients, and a triplet loss.

use std::collections::HashMap;

use ::bregman::{all_pairs, paired};
use candle_core::{DType, Tensor, Var, backprop::GradStore};
use phi::{
    Activation, Factor, Generator, Icnn, ItakuraSaito, LogSumExp, Mahalanobis, MaxAffine, NegativeEntropy,
    SquaredEuclidean,
};
use serde_json::{Value, json};

use super::case::{Case, Verdict, unsupported};

/// Compares everything the case expects of φ and D.
pub fn compare(case: &Case<'_>) -> Result<(), Verdict> {
    case.field("peer_class");
    let phi = generator(case)?;
    let phi = &*phi;
    let Some(margin) = case.param("margin")?.as_f64() else { return unsupported("`margin` is no number") };
    let (x, y, cotangent) = (case.var("x")?, case.var("y")?, case.float("cotangent")?);
    let embeddings = case.var("embeddings")?;
    case.whole_if_any("labels")?; // the triplets are listed
    let Some(triplets) = case.indices_if_any("triplets", 3)? else {
        return unsupported("no input `triplets`");
    };
    case.everything_used()?;

    for (name, points) in [("x", &x), ("y", &y)] {
        let (value, grad) = phi.value_and_grad(points)?;
        case.array(&format!("phi_{name}"), "phi", &value)?;
        case.array(&format!("grad_phi_{name}"), "grad_phi", &grad)?;
    }
    let d = all_pairs(phi, &x, &y)?; // [n, m]
    case.array("D", "D", &d)?;
    let grads = (d * cotangent)?.sum_all()?.backward()?;
    case.array("D_vjp.x", "D_vjp", &gradient(&grads, &x)?)?;
    case.array("D_vjp.y", "D_vjp", &gradient(&grads, &y)?)?;
    for parameter in phi.parameters() {
        case.array(&format!("D_vjp.{}", parameter.name), "D_vjp", &gradient(&grads, &parameter.var)?)?;
    }

    let rows = |column: &[u32]| -> Result<Tensor, Verdict> {
        Ok(embeddings.index_select(&Tensor::new(column, embeddings.device())?, 0)?)
    };
    let (anchor, positive, negative) = (rows(&triplets[0])?, rows(&triplets[1])?, rows(&triplets[2])?);
    let gap = (paired(phi, &anchor, &positive)? - paired(phi, &anchor, &negative)?)?;
    let losses = (gap + margin)?.relu()?; // [k]
    if let Some(expected) = case.expected("active_triplets")? {
        let active = losses.gt(0.0)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? as u64;
        if expected != active {
            return Err(Verdict::Fail(format!("active_triplets {expected} {active}")));
        }
    }
    let loss = losses.mean_all()?;
    case.value(&loss)?;
    let grads = loss.backward()?;
    case.array("grad.embeddings", "grad", &gradient(&grads, &embeddings)?)?;
    for parameter in phi.parameters() {
        case.array(&format!("grad.{}", parameter.name), "grad", &gradient(&grads, &parameter.var)?)?;
    }
    Ok(())
}

/// The gradient, 0 where the result does not depend on `var`.
fn gradient(grads: &GradStore, var: &Var) -> Result<Tensor, Verdict> {
    match grads.get(var) {
        Some(gradient) => Ok(gradient.clone()),
        None => Ok(var.zeros_like()?),
    }
}

/// φ by name; its formula must be the one this workspace means by the name.
fn generator(case: &Case<'_>) -> Result<Box<dyn Generator>, Verdict> {
    let formula = |formula: &str| case.require("phi", &json!(formula));
    let Some(name) = case.param("generator")?.as_str() else { return unsupported("`generator` is no name") };
    Ok(match name {
        "squared_euclidean" => {
            formula("x.x")?;
            Box::new(SquaredEuclidean)
        }
        "mahalanobis" => {
            formula(
                "x^T (L L^T) x; L is dense in the formula (given lower triangular), grad.L is of the dense L",
            )?;
            let l = case.float("param.L")?;
            let rank = l.dims().last().copied().unwrap_or(0);
            Box::new(Mahalanobis::from_parameters(&l, Factor::Dense { rank }, 0.0)?)
        }
        "generalised_kl" => {
            formula("sum_i x_i log x_i - x_i, x > 0")?;
            Box::new(NegativeEntropy::orthant())
        }
        "itakura_saito" => {
            formula("-sum_i log x_i, x > 0")?;
            Box::new(ItakuraSaito)
        }
        "log_sum_exp" => {
            formula("log sum_i exp x_i")?;
            Box::new(LogSumExp)
        }
        "max_affine" => {
            formula("max_k a_k.x + b_k")?;
            let (a, b) = (case.float("param.a")?, case.float("param.b")?);
            case.require("pieces", &json!(a.dims().first()))?;
            Box::new(MaxAffine::from_parameters(&a, &b, None)?)
        }
        "icnn" => {
            formula(
                "z1 = softplus(W0 x + b0); z2 = softplus(softplus(V1) z1 + W1 x + b1); \
                 phi = softplus(v2).z2 + w2.x + b2 + 0.5*eps*|x|^2",
            )?;
            let mut parameters = HashMap::new();
            for name in case.roles("param.")? {
                parameters.insert(name.to_owned(), case.float(&format!("param.{name}"))?);
            }
            let Some(eps) = case.param("eps")?.as_f64() else { return unsupported("`eps` is no number") };
            let phi = Icnn::from_parameters(&parameters, Activation::Softplus, eps)?;
            case.require("hidden", &Value::from(phi.widths()))?;
            Box::new(phi)
        }
        other => return unsupported(format!("generator `{other}`")),
    })
}
