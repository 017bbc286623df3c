//! Retrieval metrics and clustering scores.

use ::bregman::Side;
use candle_core::{D, Tensor};
use dml_retrieval::{Closer, Depth, Divergence, Gallery, Matrix, Metric, Ranking, ami, nmi, rank};
use phi::SquaredEuclidean;
use serde_json::Value;

use super::case::{Case, Verdict, unsupported};

/// Compares every metric of the case.
pub fn compare(case: &Case<'_>) -> Result<(), Verdict> {
    case.field("peer_class");
    let metrics = names(case.param("metrics")?)?;
    let (class_means, per_class) = (flag(case, "avg_of_avgs")?, flag(case, "return_per_class")?);
    let clusters = match case.whole_if_any("cluster_labels")? {
        Some(_) => Some(case.labels("cluster_labels")?),
        None => None,
    };
    let query_labels = case.labels("query_labels")?;
    let ranking = match case.float_if_any("query")? {
        Some(query) => Some(ranking(case, &query, &query_labels)?),
        None => {
            ranking_params(case)?; // they name no ranking, but must be ones that are known
            None
        }
    };
    case.everything_used()?;

    let Some(values) = case.expected("values")?.and_then(Value::as_object) else {
        return unsupported("no expected `values`");
    };
    if let Some(name) = metrics.iter().find(|name| !values.contains_key(**name)) {
        return unsupported(format!("metric `{name}` has no expected value"));
    }
    for (name, expected) in values {
        if let "NMI" | "AMI" = name.as_str() {
            let Some(clusters) = &clusters else { return unsupported("no input `cluster_labels`") };
            let got =
                if name == "NMI" { nmi(&query_labels, clusters)? } else { ami(&query_labels, clusters)? };
            case.close(name, got, expected)?;
            continue;
        }
        let (Some(metric), Some(ranking)) = (metric(name), &ranking) else {
            return unsupported(format!("metric `{name}` (or no input `query` for it)"));
        };
        if per_class {
            classes(case, name, &ranking.per_class(metric)?, expected)?;
        } else if class_means {
            case.close(name, ranking.class_mean(metric)?, expected)?;
        } else {
            case.close(name, ranking.mean(metric)?, expected)?;
        }
    }
    let Some(ranking) = ranking else { return Ok(()) };
    for (key, over_all) in [("recall_at_k", false), ("recall_at_k_all_queries", true)] {
        let Some(recalls) = case.expected(key)? else { continue };
        let Some(recalls) = recalls.as_object() else {
            return unsupported(format!("expected `{key}` is no JSON object"));
        };
        for (k, expected) in recalls {
            let Ok(k) = k.parse() else { return unsupported(format!("`{key}` of {k:?}")) };
            let metric = Metric::RecallAt(k);
            let got = if over_all { ranking.mean_over_all(metric)? } else { ranking.mean(metric)? };
            case.close(&format!("{key} of {k}"), got, expected)?;
        }
    }
    if let Some(expected) = case.expected("queries_counted")? {
        let got = ranking.queries().len();
        if expected != got {
            return Err(Verdict::Fail(format!("queries_counted {expected} {got}")));
        }
    }
    Ok(())
}

fn classes(case: &Case<'_>, name: &str, got: &[(i64, f64)], expected: &Value) -> Result<(), Verdict> {
    let (Some(expected), Some(labels)) =
        (expected.as_array(), case.expected("classes")?.and_then(Value::as_array))
    else {
        return unsupported(format!("expected `{name}` and `classes` are no lists"));
    };
    let got_labels: Vec<Value> = got.iter().map(|&(label, _)| label.into()).collect();
    if &got_labels != labels || got.len() != expected.len() {
        return Err(Verdict::Fail(format!("classes of {name} {labels:?} {got_labels:?}")));
    }
    for ((label, got), expected) in got.iter().zip(expected) {
        case.close(&format!("{name} of class {label}"), *got, expected)?;
    }
    Ok(())
}

fn ranking_params<'a>(case: &Case<'a>) -> Result<(Gallery, Depth, &'a str), Verdict> {
    let gallery =
        if flag(case, "ref_includes_query")? { Gallery::IncludesQueries } else { Gallery::Separate };
    let depth = match case.param("k")? {
        Value::Null => Depth::All,
        Value::String(name) if name == "max_bin_count" => Depth::MaxRelevant,
        k => match k.as_u64() {
            Some(k) => Depth::First(k as usize),
            None => return unsupported(format!("parameter `k` is {k}")),
        },
    };
    match case.param("neighbours")?.as_str() {
        Some(neighbors @ ("euclidean" | "cosine")) => Ok((gallery, depth, neighbors)),
        other => unsupported(format!("parameter `neighbours` is {other:?}")),
    }
}

fn ranking(case: &Case<'_>, query: &Tensor, query_labels: &[i64]) -> Result<Ranking, Verdict> {
    let (gallery, depth, neighbors) = ranking_params(case)?;
    let reference = case.float_if_any("reference")?;
    let (items, item_labels) = match &reference {
        Some(reference) => (reference, case.labels("reference_labels")?),
        None => (query, query_labels.to_vec()),
    };
    if neighbors == "euclidean" {
        let scorer = Divergence::new(&SquaredEuclidean, Side::First, query, items)?;
        return Ok(rank(&scorer, query_labels, &item_labels, gallery, depth)?);
    }
    let unit = |x: &Tensor| x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?);
    let scorer = Matrix::new(&unit(query)?.matmul(&unit(items)?.t()?)?, Closer::Larger)?;
    Ok(rank(&scorer, query_labels, &item_labels, gallery, depth)?)
}

fn metric(name: &str) -> Option<Metric> {
    Some(match name {
        "precision_at_1" => Metric::PrecisionAt1,
        "r_precision" => Metric::RPrecision,
        "mean_average_precision" => Metric::MeanAveragePrecision,
        "mean_average_precision_at_r" => Metric::MeanAveragePrecisionAtR,
        "mean_reciprocal_rank" => Metric::MeanReciprocalRank,
        _ => return None,
    })
}

fn names(value: &Value) -> Result<Vec<&str>, Verdict> {
    let names = value.as_array().map(|names| names.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    match names.flatten() {
        Some(names) => Ok(names),
        None => unsupported("parameter `metrics` is no list of names"),
    }
}

fn flag(case: &Case<'_>, key: &str) -> Result<bool, Verdict> {
    match case.param(key)? {
        Value::Bool(flag) => Ok(*flag),
        other => unsupported(format!("parameter `{key}` is {other}")),
    }
}
