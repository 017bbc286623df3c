//! Losses: the reduced value, and its gradients for embeddings, reference set and own parameters; for a loss with state,
//! step after step.

use std::sync::Arc;

use candle_core::Device;
use dml_loss::{Batch, CrossBatchMemory, Loss, LossSpec, MinerSpec, Objective, Reducer};
use serde_json::{Map, Value, json};

use super::{
    case::{Case, Verdict, unsupported},
    spec,
};

/// Compares the values and every gradient of the case, or of its steps in order.
pub fn compare(case: &Case<'_>) -> Result<(), Verdict> {
    let Some(steps) = case.steps()? else { return step(case, &objective(case)?) };
    let mut objective_of_all = None;
    for json in &steps {
        let case = case.step(json);
        let fresh = objective(&case)?;
        step(&case, objective_of_all.get_or_insert(fresh))?;
    }
    Ok(())
}

/// The loss and its reducer.
fn objective(case: &Case<'_>) -> Result<Objective, Verdict> {
    let mut params = case.all_params()?.clone();
    let Some(class) = case.field("peer_class").and_then(Value::as_str) else {
        return unsupported("no `peer_class`");
    };
    let width = json!(case.var("embeddings")?.dims().last());
    let (loss, reducer) = match class {
        "CrossBatchMemory" => memory(case, params, &width)?,
        _ => {
            if case.whole_if_any("meta_classes")?.is_some() {
                params.insert("meta_classes".to_owned(), json!("labels"));
            }
            loss(case, class, params, &width)?
        }
    };
    Ok(Objective::new(loss).with_reducer(reducer))
}

type Parts = (Arc<dyn Loss>, Arc<dyn Reducer>);

fn loss(
    case: &Case<'_>,
    class: &str,
    mut params: Map<String, Value>,
    width: &Value,
) -> Result<Parts, Verdict> {
    let (distance, reducer) = match (params.remove("distance"), params.remove("reducer")) {
        (Some(distance), Some(reducer)) => (distance, spec::reducer(&reducer)?),
        _ => return unsupported("no parameter `distance` or `reducer`"),
    };
    // A number of triplets would be drawn at random.
    let implied = [
        ("embedding_size", width.clone()),
        ("descriptors_dim", width.clone()),
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
    Ok((loss, reducer))
}

/// A memory around a loss and a miner, each with class and parameters of its own.
fn memory(case: &Case<'_>, mut params: Map<String, Value>, width: &Value) -> Result<Parts, Verdict> {
    let mut take = |key: &str| params.remove(key).unwrap_or(Value::Null);
    let (inner, miner, size) = (take("loss"), take("miner"), take("memory_size"));
    if &take("embedding_size") != width {
        return unsupported("`embedding_size` is not the width of the embeddings");
    }
    if let Some(key) = params.keys().next() {
        return unsupported(format!("CrossBatchMemory: unknown parameter `{key}`"));
    }
    let parts = |value: &Value| -> Result<(String, Map<String, Value>), Verdict> {
        match (value["class"].as_str(), value["params"].as_object()) {
            (Some(class), Some(params)) => Ok((class.to_owned(), params.clone())),
            _ => unsupported(format!("{value} has no class and params")),
        }
    };
    let (class, inner_params) = parts(&inner)?;
    let (loss, reducer) = loss(case, &class, inner_params, width)?;
    let miner = match miner {
        Value::Null => None,
        miner => {
            let (class, mut params) = parts(&miner)?;
            let Some(distance) = params.remove("distance") else {
                return unsupported("no parameter `distance` of the miner");
            };
            let miner = spec::read::<MinerSpec>(&class, &params)?.build(spec::distance(&distance)?);
            Some(miner.or_else(|error| unsupported(error.to_string()))?)
        }
    };
    let Some(size) = size.as_u64() else { return unsupported(format!("`memory_size` is {size}")) };
    Ok((Arc::new(CrossBatchMemory::new(loss, miner, size as usize)?), reducer))
}

fn step(case: &Case<'_>, objective: &Objective) -> Result<(), Verdict> {
    let mut inputs = spec::inputs(case)?;
    if let Some((meta_classes, _)) = case.whole_if_any("meta_classes")? {
        inputs.batch = Batch::new(&inputs.embeddings, &meta_classes)?;
    }
    let own = objective.loss.own_parameters();
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
    if case.expects("histogram")? {
        match objective.loss.state()?.get("histogram") {
            Some(histogram) => case.array("histogram", "grad", histogram)?,
            None => return unsupported("this loss remembers no histogram"),
        }
    }
    case.everything_compared()
}
