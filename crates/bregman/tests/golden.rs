//! Values, gradients of φ, divergences and triplet losses against an independent implementation that differentiates
//! ∇φ automatically (golden/manifest.json names the versions), in f32 and f64.

use std::collections::HashMap;

use bregman::all_pairs;
use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use phi::{
    Activation, Factor, Generator, Icnn, ItakuraSaito, LogSumExp, Mahalanobis, MaxAffine, NegativeEntropy,
    SquaredEuclidean,
};
use serde_json::Value;

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// One case: its JSON and all tensors of its file.
struct Case<'a> {
    json: &'a Value,
    tensors: &'a HashMap<String, Tensor>,
    dtype: DType,
}

impl Case<'_> {
    fn input(&self, role: &str) -> TestResult<&Tensor> {
        let name = self.json["tensors"][role].as_str().ok_or(format!("no input {role}"))?;
        Ok(self.tensors.get(name).ok_or(format!("no tensor {name}"))?)
    }

    fn floats(&self, role: &str) -> TestResult<Tensor> {
        Ok(self.input(role)?.to_dtype(self.dtype)?)
    }

    fn parameters(&self) -> TestResult<HashMap<String, Tensor>> {
        let roles = self.json["tensors"].as_object().ok_or("no tensors")?;
        let names = roles.keys().filter_map(|role| role.strip_prefix("param."));
        names.map(|name| Ok((name.to_owned(), self.floats(&format!("param.{name}"))?))).collect()
    }

    fn generator(&self) -> TestResult<Box<dyn Generator>> {
        let parameters = self.parameters()?;
        let get = |name: &str| parameters.get(name).ok_or(format!("no parameter {name}"));
        Ok(match self.json["params"]["generator"].as_str().unwrap_or_default() {
            "squared_euclidean" => Box::new(SquaredEuclidean),
            "mahalanobis" => {
                let l = get("L")?;
                Box::new(Mahalanobis::from_parameters(l, Factor::Dense { rank: l.dims()[1] }, 0.0)?)
            }
            "generalised_kl" => Box::new(NegativeEntropy::orthant()),
            "itakura_saito" => Box::new(ItakuraSaito),
            "log_sum_exp" => Box::new(LogSumExp),
            "max_affine" => Box::new(MaxAffine::from_parameters(get("a")?, get("b")?, None)?),
            "icnn" => {
                let eps = self.json["params"]["eps"].as_f64().ok_or("no eps")?;
                Box::new(Icnn::from_parameters(&parameters, Activation::Softplus, eps)?)
            }
            other => return Err(format!("no generator {other}").into()),
        })
    }

    fn tolerance(&self, key: &str) -> f64 {
        let set = if self.dtype == DType::F64 { "f64" } else { "f32" };
        self.json["tolerance"][set][key].as_f64().unwrap_or(0.0)
    }

    fn expect(&self, role: &str, kind: &str, got: &Tensor) -> TestResult {
        let role = if self.dtype == DType::F64 { format!("{role}_f64") } else { role.to_owned() };
        let name = self.json["expected"]["tensors"][&role].as_str().ok_or(format!("no {role}"))?;
        let expected = self.tensors.get(name).ok_or(format!("no tensor {name}"))?;
        assert_eq!(got.dims(), expected.dims(), "{role}");
        let largest = |t: &Tensor| -> candle_core::Result<f64> {
            t.to_dtype(DType::F64)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()
        };
        let bound = self.tolerance(&format!("{kind}_rel_to_max")) * largest(expected)?
            + self.tolerance(&format!("{kind}_atol"));
        let error = largest(&(got - expected)?)?;
        if error <= bound { Ok(()) } else { Err(format!("{role}: off by {error:e}, bound {bound:e}").into()) }
    }

    /// Gradients of every parameter; one that has no share in the divergence has none, which means 0.
    fn expect_parameters(
        &self,
        prefix: &str,
        kind: &str,
        phi: &dyn Generator,
        grads: &GradStore,
    ) -> TestResult {
        for parameter in phi.parameters() {
            let zeros = parameter.var.zeros_like()?;
            let got = grads.get(&parameter.var).unwrap_or(&zeros);
            self.expect(&format!("{prefix}.{}", parameter.name), kind, got)?;
        }
        Ok(())
    }

    fn run(&self) -> TestResult {
        let phi = self.generator()?;
        let x = Var::from_tensor(&self.floats("x")?)?;
        let y = Var::from_tensor(&self.floats("y")?)?;
        for (points, value_role, grad_role) in [(&x, "phi_x", "grad_phi_x"), (&y, "phi_y", "grad_phi_y")] {
            let (value, grad) = phi.value_and_grad(points)?;
            self.expect(value_role, "phi", &value)?;
            self.expect(grad_role, "grad_phi", &grad)?;
        }
        let d = all_pairs(&*phi, &x, &y)?;
        self.expect("D", "D", &d)?;
        let grads = (d * self.floats("cotangent")?)?.sum_all()?.backward()?;
        for (role, var) in [("D_vjp.x", &x), ("D_vjp.y", &y)] {
            self.expect(role, "D_vjp", grads.get(var).ok_or("no gradient")?)?;
        }
        self.expect_parameters("D_vjp", "D_vjp", &*phi, &grads)?;

        let e = Var::from_tensor(&self.floats("embeddings")?)?;
        let n = e.dims()[0] as f64;
        let column = |k: usize| -> TestResult<Tensor> {
            Ok(self.input("triplets")?.to_dtype(DType::F64)?.narrow(1, k, 1)?.squeeze(1)?)
        };
        let d = all_pairs(&*phi, &e, &e)?.flatten_all()?;
        let entry = |k: usize| -> TestResult<Tensor> {
            let flat = ((column(0)? * n)? + column(k)?)?.to_dtype(DType::U32)?;
            Ok(d.index_select(&flat, 0)?)
        };
        let margin = self.json["params"]["margin"].as_f64().ok_or("no margin")?;
        let loss = (((entry(1)? - entry(2)?)? + margin)?).relu()?.mean_all()?;
        let (got, expected) = (
            loss.to_dtype(DType::F64)?.to_scalar::<f64>()?,
            self.json["expected"]["value"].as_f64().ok_or("no value")?,
        );
        let bound = self.tolerance("value_atol") + self.tolerance("value_rtol") * expected.abs();
        assert!((got - expected).abs() <= bound, "loss {got}, expected {expected}");
        let grads = loss.backward()?;
        self.expect("grad.embeddings", "grad", grads.get(&e).ok_or("no gradient")?)?;
        self.expect_parameters("grad", "grad", &*phi, &grads)
    }
}

#[test]
fn every_case_agrees_in_f32_and_f64() -> TestResult {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("manifest.json"))?)?;
    let tensors = candle_core::safetensors::load(dir.join("bregman.safetensors"), &Device::Cpu)?;
    let cases = manifest["cases"].as_array().ok_or("no cases")?;
    assert_eq!(cases.len(), 7);
    let mut failures = Vec::new();
    for json in cases {
        for dtype in [DType::F32, DType::F64] {
            if let Err(e) = (Case { json, tensors: &tensors, dtype }).run() {
                failures.push(format!("{} in {dtype:?}: {e}", json["id"]));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
