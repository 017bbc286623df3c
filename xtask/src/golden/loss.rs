//! Losses: the reduced value, and its gradients for embeddings, reference set and own parameters.

use candle_core::Device;
use dml_loss::{LossSpec, Objective};
use serde_json::{Value, json};

use super::{
    case::{Case, Verdict, unsupported},
    spec,
};

/// Compares the value and every gradient.
pub fn compare(case: &Case<'_>) -> Result<(), Verdict> {
    if case.field("steps").is_some() {
        return unsupported("a loss with state, fed in `steps`");
    }
    let mut params = case.all_params()?.clone();
    let Some(class) = case.field("peer_class").and_then(Value::as_str) else {
        return unsupported("no `peer_class`");
    };
    let (distance, reducer) = match (params.remove("distance"), params.remove("reducer")) {
        (Some(distance), Some(reducer)) => (distance, spec::reducer(&reducer)?),
        _ => return unsupported("no parameter `distance` or `reducer`"),
    };
    let inputs = spec::inputs(case)?;
    let width = json!(inputs.embeddings.dims().last());
    let implied = [
        ("embedding_size", width.clone()),
        ("descriptors_dim", width),
        ("triplets_per_anchor", json!("all")),
    ];
    let read = spec::read_with_implied::<LossSpec>(class, &params, &implied)?;
    let given =
        if distance.is_null() { read.default_distance().build(None)? } else { spec::distance(&distance)? };
    let loss = match read.build(given, case.dtype, &Device::Cpu) {
        Ok(loss) => loss,
        Err(error) => return unsupported(error.to_string()),
    };
    if distance.is_null() && loss.distance().is_some() {
        return unsupported(format!("{class}: the case names no distance, but this loss has one"));
    }
    let own = loss.own_parameters();
    for parameter in &own {
        let value = case.float(&format!("param.{}", parameter.name))?;
        if value.dims() != parameter.var.dims() {
            let (name, got, expected) = (&parameter.name, value.dims(), parameter.var.dims());
            return unsupported(format!("param.{name} has shape {got:?}, expected {expected:?}"));
        }
        parameter.var.set(&value)?;
    }
    let tuples = spec::tuples(|role, width| case.indices_if_any(role, width))?;
    case.everything_used()?;

    let objective = Objective::new(loss).with_reducer(reducer);
    let value = objective.forward_with(&inputs.batch, tuples.as_ref())?;
    case.value(&value)?;
    let grads = value.backward()?;
    let mut vars = vec![("grad.embeddings".to_owned(), &inputs.embeddings)];
    vars.extend(inputs.reference.as_ref().map(|var| ("grad.ref_embeddings".to_owned(), var)));
    vars.extend(own.iter().map(|parameter| (format!("grad.{}", parameter.name), &parameter.var)));
    for (role, var) in vars {
        match grads.get(var) {
            Some(gradient) => case.array(&role, "grad", gradient)?,
            None => return Err(Verdict::Fail(format!("{role} has no gradient"))),
        }
    }
    Ok(())
}
