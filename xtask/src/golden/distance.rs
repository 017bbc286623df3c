//! Distances: the matrix of all pairs, and the gradients of a weighted sum of it.

use candle_core::Var;
use serde_json::Value;

use super::{
    case::{Case, Verdict, unsupported},
    spec,
};

/// Compares the matrix and its gradients.
pub fn compare(case: &Case<'_>) -> Result<(), Verdict> {
    let params = case.all_params()?;
    if case.field("peer_class") != params.get("class") {
        return unsupported("`peer_class` and the class of `params` differ");
    }
    let distance = spec::distance(&Value::Object(params.clone()))?;
    let query = case.var("query")?;
    let reference = case.float_if_any("reference")?.map(|r| Var::from_tensor(&r)).transpose()?;
    let cotangent = case.float("cotangent")?;
    case.everything_used()?;

    let matrix = distance.all_pairs(&query, reference.as_ref().unwrap_or(&query))?;
    let diagonal = if reference.is_none() { case.tolerance("diagonal_atol")? } else { None };
    case.array_with_diagonal("matrix", "matrix", &matrix, diagonal)?;
    let grads = (matrix * cotangent)?.sum_all()?.backward()?;
    for (role, var) in [("grad.query", Some(&query)), ("grad.reference", reference.as_ref())] {
        let Some(var) = var else { continue };
        match grads.get(var) {
            Some(gradient) => case.array(role, "grad", gradient)?,
            None => return Err(Verdict::Fail(format!("{role} has no gradient"))),
        }
    }
    Ok(())
}
