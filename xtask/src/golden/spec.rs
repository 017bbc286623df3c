//! From the parameters of a case to the specifications of `dml-loss`.
//!
//! The reference names classes and parameters as `dml-loss` accepts them, so a specification is read as from a
//! configuration file, and refuses what it does not know. A few parameters say what follows from something else;
//! they are checked, not dropped.

use std::sync::Arc;

use candle_core::{Tensor, Var};
use dml_loss::{Batch, Distance, DistanceSpec, PairList, Pairs, Reducer, ReducerSpec, Triplets, Tuples};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::case::{Case, Verdict, unsupported};

/// Reads a specification whose name is `class`, with the parameters as given.
pub fn read<T: DeserializeOwned>(class: &str, params: &Map<String, Value>) -> Result<T, Verdict> {
    read_with_implied(class, params, &[])
}

/// As [`read`]; the parameters of `implied` follow from something else. They must be what is said here, and are left
/// out where the specification has no place for them.
pub fn read_with_implied<T: DeserializeOwned>(
    class: &str,
    params: &Map<String, Value>,
    implied: &[(&str, Value)],
) -> Result<T, Verdict> {
    let mut map = params.clone();
    for (key, expected) in implied {
        if let Some(value) = map.get(*key)
            && value != expected
        {
            return unsupported(format!("{class}: `{key}` is {value}, expected {expected}"));
        }
    }
    map.insert("name".to_owned(), json!(class));
    loop {
        let why = match serde_json::from_value(Value::Object(map.clone())) {
            Ok(spec) => return Ok(spec),
            Err(error) => error.to_string(),
        };
        let unknown = |key: &str| why.starts_with(&format!("unknown field `{key}`"));
        if let Some((key, _)) = implied.iter().find(|(key, _)| unknown(key))
            && map.remove(*key).is_some()
        {
            continue;
        }
        // The list of all names there are is no part of the reason.
        return match why.starts_with("unknown variant") && why.contains(&format!("`{class}`")) {
            true => unsupported(format!("{class} is not in dml-loss")),
            false => unsupported(format!("{class}: {why}")),
        };
    }
}

/// The class of a nested object and its parameters.
fn class(value: &Value) -> Result<(&str, Map<String, Value>), Verdict> {
    let parts = value.as_object().and_then(|map| Some((map.get("class")?.as_str()?, map.clone())));
    match parts {
        Some((class, mut params)) => {
            params.remove("class");
            Ok((class, params))
        }
        None => unsupported(format!("{value} names no class")),
    }
}

/// The distance of a nested object.
pub fn distance(value: &Value) -> Result<Arc<dyn Distance>, Verdict> {
    let (name, mut params) = class(value)?;
    let inverted = params.remove("is_inverted");
    let distance = match read::<DistanceSpec>(name, &params)?.build(None) {
        Ok(distance) => distance,
        Err(error) => return unsupported(error.to_string()),
    };
    if inverted.is_some_and(|inverted| inverted != distance.larger_is_closer()) {
        return unsupported(format!("{name}: `is_inverted` is not what this distance is"));
    }
    Ok(distance)
}

/// The reducer of a nested object.
pub fn reducer(value: &Value) -> Result<Arc<dyn Reducer>, Verdict> {
    let (name, params) = class(value)?;
    let Value::Object(mut params) = renamed(name, params)? else { return unsupported("no reducer") };
    params.remove("name");
    Ok(read::<ReducerSpec>(name, &params)?.build())
}

/// A reducer's parameters with `class` renamed to `name` all the way down.
fn renamed(name: &str, mut params: Map<String, Value>) -> Result<Value, Verdict> {
    let only = |params: &mut Map<String, Value>, key: &str, allowed: &Value| match params.remove(key) {
        Some(value) if &value != allowed => {
            unsupported(format!("{name}: `{key}` is {value}, expected {allowed}"))
        }
        _ => Ok(()),
    };
    match name {
        "AvgNonZeroReducer" => {
            only(&mut params, "low", &json!(0))?;
            only(&mut params, "high", &Value::Null)?;
        }
        "PerAnchorReducer" => {
            let usual = json!("mean over the anchor's pairs, 0 for an anchor without pairs");
            only(&mut params, "aggregation", &usual)?;
        }
        "MultipleReducers" => only(&mut params, "sub_losses", &json!("sum"))?,
        _ => {}
    }
    let inner = |value: &Value| -> Result<Value, Verdict> {
        let (name, params) = class(value)?;
        renamed(name, params)
    };
    if let Some(value) = params.get_mut("reducer") {
        *value = inner(value)?;
    }
    if let Some(Value::Object(reducers)) = params.get_mut("reducers") {
        for value in reducers.values_mut() {
            *value = inner(value)?;
        }
    }
    params.insert("name".to_owned(), json!(name));
    Ok(Value::Object(params))
}

/// The batch of a case: embeddings, the reference set where there is one, and the batch over both.
pub struct Inputs {
    /// `[n, d]`.
    pub embeddings: Var,
    /// `[m, d]`.
    pub reference: Option<Var>,
    /// Both, with labels.
    pub batch: Batch,
}

/// Reads the batch. A case without labels is one of a loss that looks at none.
pub fn inputs(case: &Case<'_>) -> Result<Inputs, Verdict> {
    let labels = |role: &str, points: &Tensor| -> Result<Vec<i64>, Verdict> {
        match case.whole_if_any(role)? {
            Some(_) => case.labels(role),
            None => Ok(vec![0; points.dims().first().copied().unwrap_or(0)]),
        }
    };
    let embeddings = case.var("embeddings")?;
    let mut batch = Batch::new(&embeddings, &labels("labels", &embeddings)?)?;
    let reference = match case.float_if_any("ref_embeddings")? {
        None => None,
        Some(reference) => {
            let reference = Var::from_tensor(&reference)?;
            batch = batch.with_reference(&reference, &labels("ref_labels", &reference)?)?;
            Some(reference)
        }
    };
    Ok(Inputs { embeddings, reference, batch })
}

/// Triplets, or pairs of both kinds, read by `columns(role, width)`.
pub fn tuples(
    columns: impl Fn(&str, usize) -> Result<Option<Vec<Vec<u32>>>, Verdict>,
) -> Result<Option<Tuples>, Verdict> {
    let list = |columns: Vec<Vec<u32>>| -> Result<PairList, Verdict> {
        let Ok([anchor, other]) = <[_; 2]>::try_from(columns) else { return unsupported("no pairs") };
        Ok(PairList { anchor, other })
    };
    match (columns("triplets", 3)?, columns("pos_pairs", 2)?, columns("neg_pairs", 2)?) {
        (None, None, None) => Ok(None),
        (Some(columns), None, None) => {
            let Ok([anchor, positive, negative]) = <[_; 3]>::try_from(columns) else {
                return unsupported("no triplets");
            };
            Ok(Some(Tuples::Triplets(Triplets { anchor, positive, negative })))
        }
        (None, Some(positive), Some(negative)) => {
            Ok(Some(Tuples::Pairs(Pairs { positive: list(positive)?, negative: list(negative)? })))
        }
        _ => unsupported("tuples are neither triplets nor positive and negative pairs"),
    }
}
