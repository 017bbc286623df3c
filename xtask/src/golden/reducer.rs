//! Reducers: from unreduced losses to a value, and the gradient of it.

use dml_loss::{Index, PairList, Part, Triplets};
use serde_json::{Value, json};

use super::{
    case::{Case, Verdict, unsupported},
    spec,
};

/// Compares the value and its gradient.
pub fn compare(case: &Case<'_>) -> Result<(), Verdict> {
    let mut params = case.all_params()?.clone();
    let Some(class) = case.field("peer_class").and_then(Value::as_str) else {
        return unsupported("no `peer_class`");
    };
    params.insert("class".to_owned(), json!(class));
    let reducer = spec::reducer(&Value::Object(params))?;
    let losses = case.var("losses")?;
    let labels = case.labels("labels")?;
    if case.field("batch_size") != Some(&json!(labels.len())) {
        return unsupported("`batch_size` is not the number of labels");
    }
    let width = match case.field("reduction_type").and_then(Value::as_str) {
        Some("element") => 1,
        Some("pos_pair" | "neg_pair") => 2,
        Some("triplet") => 3,
        other => return unsupported(format!("`reduction_type` {other:?}")),
    };
    let Some(mut columns) = case.indices_if_any("indices", width)?.map(Vec::into_iter) else {
        return unsupported("no input `indices`");
    };
    let mut column = || columns.next().unwrap_or_default();
    let index = match width {
        1 => Index::Rows(column()),
        2 => Index::Pairs(PairList { anchor: column(), other: column() }),
        _ => Index::Triplets(Triplets { anchor: column(), positive: column(), negative: column() }),
    };
    case.everything_used()?;

    let value = reducer.reduce(&Part::new("loss", losses.as_tensor().clone(), index), &labels)?;
    case.value(&value)?;
    match value.backward()?.get(&losses) {
        Some(gradient) => case.array("grad.losses", "grad", gradient),
        None => Err(Verdict::Fail("grad.losses has no gradient".to_owned())),
    }
}
