//! Reference values of pytorch-metric-learning 2.9.0 (`tests/golden/README.md`): values and gradients in f64 and f32.

use std::{collections::HashMap, path::Path, result::Result, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};
use dml_loss::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

type Any = Box<dyn std::error::Error>;

/// A case that this crate cannot run yet, with the reason.
struct Unsupported(String);

struct Case<'a> {
    case: &'a Value,
    tensors: &'a HashMap<String, Tensor>,
    dtype: DType,
}

/// What a run came to: `None` where all agrees.
type Verdict = Result<Option<String>, Any>;

/// A specification of this crate out of the manifest's parameters: the class is the name, nulls are left out, and so
/// is what follows from the class or is a table of its own.
fn spec<T: DeserializeOwned>(class: &Value, params: &Map<String, Value>) -> Result<T, Unsupported> {
    let skip = ["class", "distance", "is_inverted", "aggregation", "sub_losses", "triplets_per_anchor"];
    let mut map = Map::new();
    for (key, value) in params {
        if !skip.contains(&key.as_str())
            && !value.is_null()
            && (key != "reducer" || class == "PerAnchorReducer")
        {
            map.insert(key.clone(), value.clone());
        }
    }
    if class == "AvgNonZeroReducer" {
        map.clear();
    }
    for key in ["reducers", "reducer"] {
        if let Some(inner) = map.get(key).cloned() {
            map.insert(key.into(), renamed(&inner));
        }
    }
    map.insert("name".into(), class.clone());
    let value = Value::Object(map);
    serde_json::from_value(value.clone()).map_err(|e| Unsupported(format!("{value}: {e}")))
}

/// Nested reducers: `class` becomes `name`.
fn renamed(value: &Value) -> Value {
    let Value::Object(map) = value else { return value.clone() };
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "class" => drop(out.insert("name".into(), value.clone())),
            "aggregation" => {}
            "low" | "high" if map.get("class") == Some(&json!("AvgNonZeroReducer")) || value.is_null() => {}
            _ => drop(out.insert(key.clone(), renamed(value))),
        }
    }
    Value::Object(out)
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn distance(params: &Value) -> Result<Option<Arc<dyn Distance>>, Any> {
    if params.is_null() {
        return Ok(None);
    }
    let spec: DistanceSpec = spec(&params["class"], &object(params)).map_err(|u| u.0)?;
    Ok(Some(spec.build(None)?))
}

fn reducer(params: &Value) -> Result<Arc<dyn Reducer>, Any> {
    let Value::Object(map) = renamed(params) else { return Err("no reducer".into()) };
    let mut map = map;
    map.remove("sub_losses");
    Ok(serde_json::from_value::<ReducerSpec>(Value::Object(map))?.build())
}

impl Case<'_> {
    fn float(&self, tensors: &Value, role: &str) -> Result<Option<Tensor>, Any> {
        let Some(name) = tensors[role].as_str() else { return Ok(None) };
        Ok(Some(self.tensors[name].to_dtype(self.dtype)?))
    }

    fn expected(&self, expected: &Value, role: &str) -> Result<Tensor, Any> {
        let role = if self.dtype == DType::F64 { format!("{role}_f64") } else { role.to_owned() };
        let name = expected["tensors"][&role].as_str().ok_or(format!("no {role}"))?;
        Ok(self.tensors[name].to_dtype(DType::F64)?)
    }

    fn integers(&self, tensors: &Value, role: &str) -> Result<Option<Vec<i64>>, Any> {
        let Some(name) = tensors[role].as_str() else { return Ok(None) };
        Ok(Some(self.tensors[name].to_dtype(DType::I64)?.flatten_all()?.to_vec1()?))
    }

    fn columns<const K: usize>(&self, tensors: &Value, role: &str) -> Result<Option<[Vec<u32>; K]>, Any> {
        let Some(flat) = self.integers(tensors, role)? else { return Ok(None) };
        Ok(Some(std::array::from_fn(|c| flat.iter().skip(c).step_by(K).map(|&i| i as u32).collect())))
    }

    fn tolerance(&self, key: &str) -> f64 {
        let set = if self.dtype == DType::F64 { "f64" } else { "f32" };
        self.case["tolerance"][set][key].as_f64().unwrap_or(0.0)
    }

    fn value(&self, what: &str, got: f64, want: f64) -> Option<String> {
        let bound = self.tolerance("value_atol") + self.tolerance("value_rtol") * want.abs();
        ((got - want).abs() > bound || got.is_nan()).then(|| format!("{what} {want} {got}"))
    }

    fn array(&self, kind: &str, what: &str, got: &Tensor, want: &Tensor) -> Verdict {
        if got.dims() != want.dims() {
            return Ok(Some(format!("{what} shape {:?} {:?}", want.dims(), got.dims())));
        }
        let got: Vec<f64> = got.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        let want: Vec<f64> = want.flatten_all()?.to_vec1()?;
        let most = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let worst = got
            .iter()
            .zip(&want)
            .fold(0.0f64, |m, (g, w)| if (g - w).abs() <= m { m } else { (g - w).abs() });
        let bound =
            self.tolerance(&format!("{kind}_rel_to_max")) * most + self.tolerance(&format!("{kind}_atol"));
        let ok = worst <= bound && got.iter().all(|v| v.is_finite());
        Ok((!ok).then(|| format!("{what} largest {most:e} deviates by {worst:e} > {bound:e}")))
    }

    fn tuples(&self, tensors: &Value) -> Result<Option<Tuples>, Any> {
        if let Some([anchor, positive, negative]) = self.columns(tensors, "triplets")? {
            return Ok(Some(Tuples::Triplets(Triplets { anchor, positive, negative })));
        }
        let list = |role| -> Result<Option<PairList>, Any> {
            Ok(self.columns(tensors, role)?.map(|[anchor, other]| PairList { anchor, other }))
        };
        let (Some(positive), Some(negative)) = (list("pos_pairs")?, list("neg_pairs")?) else {
            return Ok(None);
        };
        Ok(Some(Tuples::Pairs(Pairs { positive, negative })))
    }

    fn batch(&self, tensors: &Value) -> Result<(Var, Option<Var>, Batch), Any> {
        let x = Var::from_tensor(&self.float(tensors, "embeddings")?.ok_or("no embeddings")?)?;
        let labels = match self.integers(tensors, "labels")? {
            Some(labels) => labels,
            None => self.integers(tensors, "meta_classes")?.unwrap_or_else(|| vec![0; x.dims()[0]]),
        };
        let mut batch = Batch::new(&x, &labels)?;
        let mut reference = None;
        if let Some(y) = self.float(tensors, "ref_embeddings")? {
            let y = Var::from_tensor(&y)?;
            let labels = self.integers(tensors, "ref_labels")?.unwrap_or_else(|| vec![0; y.dims()[0]]);
            batch = batch.with_reference(&y, &labels)?;
            reference = Some(y);
        }
        Ok((x, reference, batch))
    }

    fn distance(&self) -> Verdict {
        let tensors = &self.case["tensors"];
        let distance = distance(&self.case["params"])?.ok_or("no distance")?;
        let x = Var::from_tensor(&self.float(tensors, "query")?.ok_or("no query")?)?;
        let y = self.float(tensors, "reference")?.map(|y| Var::from_tensor(&y)).transpose()?;
        let others = y.as_ref().unwrap_or(&x);
        let matrix = distance.all_pairs(&x, others)?;
        let expected = &self.case["expected"];
        if let Some(f) = self.array("matrix", "matrix", &matrix, &self.expected(expected, "matrix")?)? {
            return Ok(Some(f));
        }
        let cotangent = self.float(tensors, "cotangent")?.ok_or("no cotangent")?;
        let grads = (matrix * cotangent)?.sum_all()?.backward()?;
        for (role, var) in [("grad.query", Some(&x)), ("grad.reference", y.as_ref())] {
            let Some(var) = var else { continue };
            let got = grads.get(var).ok_or("no gradient")?;
            if let Some(f) = self.array("grad", role, got, &self.expected(expected, role)?)? {
                return Ok(Some(f));
            }
        }
        // Row with row is the diagonal of all pairs.
        let n = x.dims()[0].min(others.dims()[0]);
        let paired = distance.paired(&x.narrow(0, 0, n)?, &others.narrow(0, 0, n)?)?;
        let want = self.expected(expected, "matrix")?.narrow(0, 0, n)?;
        let index = Tensor::arange(0u32, n as u32, &Device::Cpu)?.unsqueeze(1)?;
        let diagonal = want.contiguous()?.gather(&index, 1)?.squeeze(1)?;
        let gap = (paired.to_dtype(DType::F64)? - diagonal)?.abs()?.max(0)?.to_scalar::<f64>()?;
        let bound = self.tolerance("matrix_rel_to_max") * want.abs()?.max_all()?.to_scalar::<f64>()?;
        Ok((gap > bound.max(self.tolerance("diagonal_atol"))).then(|| format!("paired off by {gap:e}")))
    }

    fn reducer(&self) -> Verdict {
        let tensors = &self.case["tensors"];
        let mut params = object(&self.case["params"]);
        params.insert("class".into(), self.case["peer_class"].clone());
        let reducer = reducer(&Value::Object(params))?;
        let losses = Var::from_tensor(&self.float(tensors, "losses")?.ok_or("no losses")?)?;
        let labels = self.integers(tensors, "labels")?.ok_or("no labels")?;
        let index = match self.case["reduction_type"].as_str() {
            Some("element") => {
                let [rows] = self.columns(tensors, "indices")?.ok_or("no indices")?;
                Index::Rows(rows)
            }
            Some("triplet") => {
                let [anchor, positive, negative] = self.columns(tensors, "indices")?.ok_or("no indices")?;
                Index::Triplets(Triplets { anchor, positive, negative })
            }
            _ => {
                let [anchor, other] = self.columns(tensors, "indices")?.ok_or("no indices")?;
                Index::Pairs(PairList { anchor, other })
            }
        };
        let value = reducer.reduce(&Part::new("loss", losses.as_tensor().clone(), index), &labels)?;
        let expected = &self.case["expected"];
        let want = expected["value"].as_f64().ok_or("no value")?;
        if let Some(f) = self.value("value", value.to_dtype(DType::F64)?.to_scalar()?, want) {
            return Ok(Some(f));
        }
        let grads = value.backward()?;
        let got = grads.get(&losses).ok_or("no gradient")?;
        self.array("grad", "grad.losses", got, &self.expected(expected, "grad.losses")?)
    }

    fn miner(&self) -> Result<Verdict, Unsupported> {
        let spec: MinerSpec = spec(&self.case["peer_class"], &object(&self.case["params"]))?;
        Ok(self.run_miner(spec))
    }

    fn run_miner(&self, spec: MinerSpec) -> Verdict {
        let distance = distance(&self.case["params"]["distance"])?.ok_or("no distance")?;
        let miner = spec.build(distance.clone())?;
        let (_, _, batch) = self.batch(&self.case["tensors"])?;
        if let MinerSpec::DistanceWeighted(config) = spec {
            let weights = DistanceWeighted::new(distance, config)?.weights(&batch)?;
            let (kind, expected) = ("weights", self.expected(&self.case["expected"], "weights")?);
            let scale = self.tolerance("rel_to_max");
            let most = expected.max_all()?.to_scalar::<f64>()?;
            let gap = (weights.to_dtype(DType::F64)? - &expected)?.abs()?.max_all()?.to_scalar::<f64>()?;
            return Ok((gap > scale * most || gap.is_nan()).then(|| format!("{kind} off by {gap:e}")));
        }
        let got = miner.mine(&batch)?;
        let want = self.tuples(&self.case["expected"]["tensors"])?.ok_or("no tuples expected")?;
        let sorted = |tuples: &Tuples| {
            let mut rows: Vec<[u32; 3]> = match tuples {
                Tuples::Triplets(t) => {
                    (0..t.len()).map(|i| [t.anchor[i], t.positive[i], t.negative[i]]).collect()
                }
                Tuples::Pairs(p) => {
                    let list = |l: &PairList, kind| -> Vec<[u32; 3]> {
                        (0..l.len()).map(|i| [kind, l.anchor[i], l.other[i]]).collect()
                    };
                    [list(&p.positive, 0), list(&p.negative, 1)].concat()
                }
            };
            rows.sort_unstable();
            rows
        };
        let (got, want) = (sorted(&got), sorted(&want));
        Ok((got != want).then(|| format!("tuples {} {}", want.len(), got.len())))
    }

    fn loss(&self) -> Result<Verdict, Unsupported> {
        if self.case["peer_class"] == "CrossBatchMemory" {
            return Ok(self.run_memory());
        }
        let mut params = object(&self.case["params"]);
        if self.case["tensors"].get("meta_classes").is_some() {
            params.insert("meta_classes".into(), json!("labels"));
        }
        let spec: LossSpec = spec(&self.case["peer_class"], &params)?;
        Ok(self.run_loss(&spec))
    }

    fn run_loss(&self, spec: &LossSpec) -> Verdict {
        let tensors = &self.case["tensors"];
        let distance = match distance(&self.case["params"]["distance"])? {
            Some(distance) => distance,
            None => spec.default_distance().build(None)?,
        };
        let loss = spec.build(distance, self.dtype, &Device::Cpu)?;
        for parameter in loss.own_parameters() {
            let given = self.float(tensors, &format!("param.{}", parameter.name))?;
            parameter.var.set(&given.ok_or(format!("no param.{}", parameter.name))?)?;
        }
        self.run_steps(&Objective::new(loss).with_reducer(reducer(&self.case["params"]["reducer"])?))
    }

    fn run_memory(&self) -> Verdict {
        let inner = |value: &Value| -> (Value, Map<String, Value>) {
            (value["class"].clone(), object(&value["params"]))
        };
        let params = &self.case["params"];
        let (class, inner_params) = inner(&params["loss"]);
        let spec_of_loss: LossSpec = spec(&class, &inner_params).map_err(|u| u.0)?;
        let over = distance(&inner_params["distance"])?.ok_or("no distance")?;
        let loss = spec_of_loss.build(over, self.dtype, &Device::Cpu)?;
        let miner = match &params["miner"] {
            Value::Null => None,
            value => {
                let (class, params) = inner(value);
                let spec: MinerSpec = spec(&class, &params).map_err(|u| u.0)?;
                Some(spec.build(distance(&params["distance"])?.ok_or("no distance")?)?)
            }
        };
        let size = params["memory_size"].as_u64().ok_or("no memory_size")? as usize;
        let memory = CrossBatchMemory::new(loss, miner, size)?;
        self.run_steps(&Objective::new(Arc::new(memory)).with_reducer(reducer(&inner_params["reducer"])?))
    }

    fn run_steps(&self, objective: &Objective) -> Verdict {
        let once = [self.case.clone()];
        for step in self.case["steps"].as_array().map_or(&once[..], Vec::as_slice) {
            if let Some(failure) = self.run_step(objective, &step["tensors"], &step["expected"])? {
                return Ok(Some(failure));
            }
        }
        Ok(None)
    }

    fn run_step(&self, objective: &Objective, tensors: &Value, expected: &Value) -> Verdict {
        let (x, y, batch) = self.batch(tensors)?;
        let value = objective.forward_with(&batch, self.tuples(tensors)?.as_ref())?;
        let want = expected["value"].as_f64().ok_or("no value")?;
        if let Some(f) = self.value("value", value.to_dtype(DType::F64)?.to_scalar()?, want) {
            return Ok(Some(f));
        }
        let grads = value.backward()?;
        let own = objective.loss.own_parameters();
        let mut vars = vec![("grad.embeddings".to_owned(), &x)];
        vars.extend(y.as_ref().map(|y| ("grad.ref_embeddings".to_owned(), y)));
        vars.extend(own.iter().map(|p| (format!("grad.{}", p.name), &p.var)));
        for (role, var) in vars {
            let got = grads.get(var).ok_or(format!("no {role}"))?;
            if let Some(f) = self.array("grad", &role, got, &self.expected(expected, &role)?)? {
                return Ok(Some(f));
            }
        }
        if expected["tensors"].get("histogram").is_none() {
            return Ok(None);
        }
        let state = objective.loss.state()?;
        let histogram = state.get("histogram").ok_or("no histogram")?;
        self.array("grad", "histogram", histogram, &self.expected(expected, "histogram")?)
    }
}

/// Runs (cases in two precisions) that pass; it only grows.
const SUPPORTED: usize = 446;

#[test]
fn reference_values() -> Result<(), Any> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("manifest.json"))?)?;
    let mut files: HashMap<String, HashMap<String, Tensor>> = HashMap::new();
    let (mut failures, mut unsupported, mut ok) = (Vec::new(), Vec::new(), 0);
    for case in manifest["cases"].as_array().ok_or("no cases")? {
        let (id, file) = (case["id"].as_str().unwrap_or("?"), case["file"].as_str().ok_or("no file")?);
        if !files.contains_key(file) {
            files.insert(file.to_owned(), candle_core::safetensors::load(dir.join(file), &Device::Cpu)?);
        }
        for dtype in [DType::F64, DType::F32] {
            let run = Case { case, tensors: &files[file], dtype };
            let verdict = match case["kind"].as_str() {
                Some("distance") => Ok(run.distance()),
                Some("reducer") => Ok(run.reducer()),
                Some("miner") => run.miner(),
                _ => run.loss(),
            };
            match verdict {
                Err(Unsupported(why)) => unsupported.push(format!("{id}: {why}")),
                Ok(Ok(None)) => ok += 1,
                Ok(Ok(Some(why))) => failures.push(format!("{id} {dtype:?}: {why}")),
                Ok(Err(error)) => failures.push(format!("{id} {dtype:?}: {error}")),
            }
        }
    }
    println!("{}", unsupported.join("\n"));
    println!("{ok} ok, {} unsupported, {} failed", unsupported.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(ok >= SUPPORTED, "{ok} runs, expected {SUPPORTED}:\n{}", unsupported.join("\n"));
    Ok(())
}
