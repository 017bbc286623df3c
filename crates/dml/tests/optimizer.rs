//! The optimizer against PyTorch's: rules, clipping, rates, and its state in a checkpoint.

#![allow(clippy::unwrap_used)] // helpers outside test functions

use candle_core::{Device, Tensor, Var};
use dml::{Clipping, Error, Group, Optimizer, OptimizerConfig, Parameter, UpdateRule};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    steps: usize,
    warmup: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    rule: Rule,
    clipping: Bound,
    encoder: Vec<f64>,
    generator: Vec<f64>,
}

#[derive(Deserialize, Debug)]
#[serde(tag = "name", rename_all = "lowercase")]
enum Rule {
    AdamW,
    Sgd { momentum: f64, dampening: f64, nesterov: bool },
}

#[derive(Deserialize, Debug)]
struct Bound {
    norm: Option<f64>,
    value: Option<f64>,
}

/// Entry i of tensor k in `[-1/2, 1/2)`, as `golden/optimizer.py` has it.
fn uniform(count: u64, k: u64) -> Vec<f64> {
    const MASK: u64 = 0xffff_ffff;
    let entry = |i: u64| {
        let mut h = (i + k * 2_654_435_769 + 1) & MASK;
        h = (h * 2_654_435_761) & MASK;
        h ^= h >> 15;
        h = (h * 2_246_822_519) & MASK;
        h ^= h >> 13;
        h as f64 / 4_294_967_296.0 - 0.5
    };
    (0..count).map(entry).collect()
}

struct Run {
    encoder: Var,
    generator: Var,
    optimizer: Optimizer,
}

fn tensor(count: u64, k: u64, scale: f64) -> Tensor {
    (Tensor::from_vec(uniform(count, k), count as usize, &Device::Cpu).unwrap() * scale).unwrap()
}

impl Run {
    fn new(config: OptimizerConfig, steps: usize) -> Self {
        let encoder = Var::from_tensor(&tensor(6, 1, 2.0).reshape((2, 3)).unwrap()).unwrap();
        let generator = Var::from_tensor(&tensor(5, 2, 2.0)).unwrap();
        let parameters = vec![
            Parameter::new("encoder", &encoder, Group::Encoder),
            Parameter::new("generator", &generator, Group::Generator),
        ];
        Self { encoder, generator, optimizer: Optimizer::new(parameters, config, steps).unwrap() }
    }

    /// A step along given gradients: those of a linear loss.
    fn step(&self, step: usize) {
        let along = |var: &Var, k: u64| {
            let grad = tensor(var.elem_count() as u64, k, 4.0).reshape(var.shape()).unwrap();
            (var.as_tensor() * grad).unwrap().sum_all().unwrap()
        };
        let k = 10 + 2 * step as u64;
        let loss = (along(&self.encoder, k) + along(&self.generator, k + 1)).unwrap();
        self.optimizer.step(step, &loss.backward().unwrap()).unwrap();
    }

    fn values(&self) -> [Vec<f64>; 2] {
        [&self.encoder, &self.generator].map(|v| v.flatten_all().unwrap().to_vec1().unwrap())
    }
}

fn config(case: &Case, warmup_steps: usize) -> OptimizerConfig {
    let rule = match case.rule {
        Rule::AdamW => UpdateRule::AdamW,
        Rule::Sgd { momentum, dampening, nesterov } => UpdateRule::Sgd { momentum, dampening, nesterov },
    };
    let clipping = match (case.clipping.norm, case.clipping.value) {
        (Some(norm), _) => Clipping::Norm(norm),
        (_, Some(value)) => Clipping::Value(value),
        _ => Clipping::None,
    };
    OptimizerConfig {
        encoder_rate: 0.05,
        generator_rate: 0.2,
        temperature_rate: 0.0,
        weight_decay: 0.1,
        warmup_steps,
        beta1: 0.9,
        beta2: 0.99,
        rule,
        clipping,
    }
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/optimizer.json")).unwrap()
}

fn assert_as_pytorch(run: &Run, case: &Case, way: &str) {
    for (got, want) in run.values().iter().zip([&case.encoder, &case.generator]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            let close = (got - want).abs() <= 1e-13 * (1.0 + want.abs());
            assert!(close, "{:?} {:?} {way}: {got} for {want}", case.rule, case.clipping);
        }
    }
}

#[test]
fn parameters_end_where_pytorchs_do() {
    let golden = golden();
    assert_eq!(golden.cases.len(), 20);
    for case in &golden.cases {
        let run = || {
            let run = Run::new(config(case, golden.warmup), golden.steps);
            (0..golden.steps).for_each(|step| run.step(step));
            run
        };
        assert_as_pytorch(&run(), case, "kernels");
        assert_as_pytorch(&dml_kernels::natively(run), case, "candle's operations");
    }
}

#[test]
fn a_run_that_takes_up_the_state_of_another_ends_with_its_bits() {
    let golden = golden();
    for case in &golden.cases {
        let run = || Run::new(config(case, golden.warmup), golden.steps);
        let whole = run();
        (0..golden.steps).for_each(|step| whole.step(step));
        let (first, second) = (run(), run());
        (0..3).for_each(|step| first.step(step));
        let (from, to) = (first.optimizer.state(), second.optimizer.state());
        assert_eq!(from.len(), if matches!(case.rule, Rule::Sgd { momentum: 0.0, .. }) { 2 } else { 4 });
        for ((name, from), (same, to)) in from.iter().zip(&to) {
            assert_eq!(name, same);
            to.set(&from.as_tensor().copy().unwrap()).unwrap();
        }
        (3..golden.steps).for_each(|step| second.step(step));
        assert_eq!(second.values(), whole.values());
    }
}

#[test]
fn nothing_moves_when_a_gradient_is_missing() {
    let run = Run::new(OptimizerConfig::default(), 5);
    let before = run.values();
    let gradients = run.encoder.sum_all().unwrap().backward().unwrap();
    let error = run.optimizer.step(0, &gradients).unwrap_err();
    assert!(matches!(error, Error::NoGradient { ref name, .. } if name == "generator"), "{error}");
    assert_eq!(run.values(), before);
}

/// Large parameters are shared among threads, and end with the same bits as on one.
#[test]
fn large_parameters_move_alike_on_any_number_of_threads() {
    let n = 300_000;
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut ends = Vec::new();
            for rule in [
                UpdateRule::AdamW,
                UpdateRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false },
                UpdateRule::Sgd { momentum: 0.9, dampening: 0.1, nesterov: false },
                UpdateRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true },
            ] {
                let var = Var::from_tensor(&tensor(n, 3, 1.0)).unwrap();
                let config = OptimizerConfig { rule, clipping: Clipping::Norm(3.0), ..Default::default() };
                let parameters = vec![Parameter::new("p", &var, Group::Encoder)];
                let optimizer = Optimizer::new(parameters, config, 4).unwrap();
                for step in 0..3 {
                    let loss = (var.sqr().unwrap() * 0.5).unwrap().sum_all().unwrap();
                    optimizer.step(step, &loss.backward().unwrap()).unwrap();
                }
                ends.push(var.to_vec1::<f64>().unwrap());
            }
            ends
        })
    };
    assert!(run(1) == run(3), "the bits differ");
}
