//! Reference values of retrieval and clustering metrics: pytorch-metric-learning 2.9.0 and scikit-learn 1.9.1, computed
//! in f64 from embeddings stored in f32. Format and provenance: `tests/golden/manifest.json`.

use std::{collections::HashMap, fs, path::Path};

use bregman::Side;
use candle_core::{D, DType, Device, Tensor};
use dml_retrieval::{Closer, Depth, Divergence, Gallery, Matrix, Metric, Ranking, ami, nmi, rank};
use phi::SquaredEuclidean;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Case<'a> {
    json: &'a Value,
    tensors: &'a HashMap<String, Tensor>,
}

impl Case<'_> {
    fn tensor(&self, role: &str) -> Option<&Tensor> {
        self.json["tensors"][role].as_str().map(|name| &self.tensors[name])
    }

    fn labels(&self, role: &str) -> Result<Vec<i64>> {
        let tensor = self.tensor(role).ok_or_else(|| format!("no {role}"))?;
        Ok(tensor.to_vec1()?)
    }

    fn ranking(&self, dtype: DType) -> Result<Ranking> {
        let params = &self.json["params"];
        let query = self.tensor("query").ok_or("no query")?.to_dtype(dtype)?;
        let reference = self.tensor("reference").map(|r| r.to_dtype(dtype)).transpose()?;
        let reference = reference.as_ref().unwrap_or(&query);
        let query_labels = self.labels("query_labels")?;
        let reference_labels = self.labels("reference_labels").unwrap_or_else(|_| query_labels.clone());
        let gallery = match params["ref_includes_query"].as_bool() {
            Some(true) => Gallery::IncludesQueries,
            _ => Gallery::Separate,
        };
        let depth = match &params["k"] {
            Value::Null => Depth::All,
            Value::String(_) => Depth::MaxRelevant,
            k => Depth::First(k.as_u64().ok_or("k is no number")? as usize),
        };
        Ok(match params["neighbours"].as_str() {
            Some("euclidean") => {
                let scorer = Divergence::new(&SquaredEuclidean, Side::First, &query, reference)?;
                rank(&scorer, &query_labels, &reference_labels, gallery, depth)?
            }
            Some("cosine") => {
                let unit = |x: &Tensor| x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?);
                let cosine = unit(&query)?.matmul(&unit(reference)?.t()?)?;
                let scorer = Matrix::new(&cosine, Closer::Larger)?;
                rank(&scorer, &query_labels, &reference_labels, gallery, depth)?
            }
            other => return Err(format!("neighbours {other:?}").into()),
        })
    }
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

fn check(id: &str, what: &str, got: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap_or(f64::NAN);
    assert!((got - expected).abs() <= tolerance, "{id}: {what} expected {expected} got {got}");
}

#[test]
fn every_case_agrees_in_both_precisions() -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let manifest: Value = serde_json::from_slice(&fs::read(dir.join("manifest.json"))?)?;
    let tensors = candle_core::safetensors::load(dir.join("accuracy.safetensors"), &Device::Cpu)?;
    let cases = manifest["cases"].as_array().ok_or("no cases")?;
    assert_eq!(cases.len(), 14);
    for json in cases {
        let case = Case { json, tensors: &tensors };
        let id = json["id"].as_str().unwrap_or("?");
        for (dtype, set) in [(DType::F32, "f32"), (DType::F64, "f64")] {
            let tolerance = json["tolerance"][set]["value_atol"].as_f64().ok_or("no tolerance")?;
            let ranking = case.tensor("query").map(|_| case.ranking(dtype)).transpose()?;
            for (name, expected) in json["expected"]["values"].as_object().ok_or("no values")? {
                if let "NMI" | "AMI" = name.as_str() {
                    let (labels, clusters) = (case.labels("query_labels")?, case.labels("cluster_labels")?);
                    let score =
                        if name == "NMI" { nmi(&labels, &clusters)? } else { ami(&labels, &clusters)? };
                    check(id, name, score, expected, tolerance);
                    continue;
                }
                let ranking = ranking.as_ref().ok_or("no query")?;
                let metric = metric(name).ok_or_else(|| format!("unknown metric {name}"))?;
                if let Some(expected) = expected.as_array() {
                    let got = ranking.per_class(metric)?;
                    let classes: Vec<i64> = got.iter().map(|&(label, _)| label).collect();
                    assert_eq!(serde_json::json!(classes), json["expected"]["classes"], "{id}");
                    for ((label, got), expected) in got.iter().zip(expected) {
                        check(id, &format!("{name} of class {label}"), *got, expected, tolerance);
                    }
                } else if json["params"]["avg_of_avgs"] == true {
                    check(id, name, ranking.class_mean(metric)?, expected, tolerance);
                } else {
                    check(id, name, ranking.mean(metric)?, expected, tolerance);
                }
            }
            let Some(ranking) = ranking else { continue };
            assert_eq!(json["expected"]["queries_counted"], ranking.queries().len(), "{id}");
            for (k, expected) in json["expected"]["recall_at_k"].as_object().ok_or("no recall")? {
                let recall = Metric::RecallAt(k.parse()?);
                check(id, &recall.to_string(), ranking.mean(recall)?, expected, tolerance);
                let expected = &json["expected"]["recall_at_k_all_queries"][k];
                check(id, "recall of all", ranking.mean_over_all(recall)?, expected, tolerance);
            }
        }
    }
    Ok(())
}
