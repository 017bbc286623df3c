//! Losses that visit their tuples against the same losses over lists of tuples, for every reducer and how they nest;
//! and how much memory they take.

mod common;

use std::{result::Result, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};
use common::{Any, every_distance, rows, takes};
use dml_loss::*;

/// Both ways add the same f64 numbers in another order.
const TOLERANCE: f64 = 1e-9;

/// A loss whose short way is hidden, so that its tuples are listed.
#[derive(Debug)]
struct Listed(Arc<dyn Loss>);

impl Loss for Listed {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> dml_loss::Result<Vec<Part>> {
        self.0.unreduced(batch, tuples)
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        self.0.distance()
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        self.0.own_parameters()
    }
}

fn losses() -> Result<Vec<LossSpec>, serde_json::Error> {
    serde_json::from_str(
        r#"[
        {"name": "contrastive", "pos_margin": 0.1, "neg_margin": 1.3},
        {"name": "triplet-margin", "margin": 0.3},
        {"name": "triplet-margin", "margin": 0.3, "smooth_loss": true},
        {"name": "triplet-margin", "margin": 0.3, "swap": true},
        {"name": "triplet-margin", "margin": 0.3, "swap": true, "smooth_loss": true},
        {"name": "margin", "beta": 0.8},
        {"name": "margin", "beta": 0.8, "nu": 0.1, "learn_beta": true},
        {"name": "margin", "beta": 0.8, "learn_beta": true, "num_classes": 6},
        {"name": "margin", "beta": 0.8, "nu": 0.3, "learn_beta": true, "num_classes": 6},
        {"name": "nt-xent", "temperature": "learned"},
        {"name": "nt-xent", "temperature": 0.4},
        {"name": "lifted-structure"},
        {"name": "lifted-structure", "neg_margin": 0.6, "pos_margin": 0.2},
        {"name": "tuplet-margin", "margin": 20.0, "scale": 8.0},
        {"name": "intra-pair-variance"},
        {"name": "angular"}
    ]"#,
    )
}

fn reducers() -> Result<Vec<ReducerSpec>, serde_json::Error> {
    serde_json::from_str(
        r#"[
        {"name": "mean"},
        {"name": "sum"},
        {"name": "avg-non-zero"},
        {"name": "threshold", "low": 0.2, "high": 1.4},
        {"name": "class-weighted", "weights": [0.5, 2.0, 1.5]},
        {"name": "divisor", "divisor": 3.0},
        {"name": "per-anchor", "reducer": {"name": "mean"}},
        {"name": "per-anchor", "reducer": {"name": "threshold", "low": 0.3}},
        {"name": "per-anchor", "reducer": {"name": "class-weighted", "weights": [0.5, 2.0, 1.5]}},
        {"name": "per-anchor", "reducer": {"name": "per-anchor", "reducer": {"name": "avg-non-zero"}}},
        {"name": "by-part", "reducers": {
            "loss": {"name": "sum"}, "pos_loss": {"name": "mean"}, "margin_loss": {"name": "divisor"},
            "neg_loss": {"name": "per-anchor", "reducer": {"name": "threshold", "high": 1.2}},
            "beta_reg_loss": {"name": "sum"}
        }}
    ]"#,
    )
}

fn tuples(reference: bool) -> Vec<Option<Tuples>> {
    let list = |pairs: &[(u32, u32)]| PairList {
        anchor: pairs.iter().map(|p| p.0).collect(),
        other: pairs.iter().map(|p| p.1).collect(),
    };
    // Labels 0 1 0 1 2 2 0 1, or against 1 0 0 2 1 2 2 0: repeated pairs and triplets among them.
    let (positive, negative) = if reference {
        (list(&[(0, 1), (0, 2), (0, 1), (3, 4)]), list(&[(3, 1), (0, 0), (0, 3), (0, 0), (5, 2)]))
    } else {
        (list(&[(0, 2), (0, 6), (0, 2), (3, 1)]), list(&[(3, 0), (0, 1), (0, 4), (0, 1), (5, 2)]))
    };
    let triplets = Triplets {
        anchor: vec![0, 3, 0, 0, 3],
        positive: if reference { vec![1, 4, 2, 1, 0] } else { vec![2, 1, 6, 2, 7] },
        negative: if reference { vec![0, 1, 3, 0, 2] } else { vec![1, 0, 4, 1, 4] },
    };
    vec![None, Some(Tuples::Pairs(Pairs { positive, negative })), Some(Tuples::Triplets(triplets))]
}

#[test]
fn short_ways_give_what_lists_give() -> Result<(), Any> {
    let mut compared = 0;
    for spec in losses()? {
        for distance in every_distance(4, DType::F64)? {
            if !takes(&spec, &*distance) {
                continue;
            }
            let loss = spec.build(distance.clone(), DType::F64, &Device::Cpu)?;
            for reference in [false, true] {
                let x = Var::from_tensor(&rows(1, 8, 4)?)?;
                let y = Var::from_tensor(&rows(2, 8, 4)?)?;
                let mut batch = Batch::new(&x, &[0, 1, 0, 1, 2, 2, 0, 1])?;
                if reference {
                    batch = batch.with_reference(&y, &[1, 0, 0, 2, 1, 2, 2, 0])?;
                }
                for (k, reducer) in reducers()?.into_iter().enumerate() {
                    for tuples in tuples(reference) {
                        let short = Objective::new(loss.clone()).with_reducer(reducer.build());
                        let listed = Objective::new(Arc::new(Listed(loss.clone())));
                        let listed = listed.with_reducer(reducer.build());
                        let run = |objective: &Objective| -> Result<(f64, Vec<Tensor>), Any> {
                            let value = objective.forward_with(&batch, tuples.as_ref())?;
                            let grads = value.backward()?;
                            let mut vars = vec![x.clone(), y.clone()];
                            vars.extend(objective.parameters().into_iter().map(|p| p.var));
                            let of = |var: &Var| match grads.get(var) {
                                Some(g) => Ok(g.clone()),
                                None => var.zeros_like(),
                            };
                            Ok((value.to_scalar()?, vars.iter().map(of).collect::<Result<_, _>>()?))
                        };
                        let ((a, short), (b, listed)) = match (run(&short), run(&listed)) {
                            (Ok(a), Ok(b)) => (a, b),
                            (Err(a), Err(b)) => {
                                assert_eq!(a.to_string(), b.to_string());
                                continue;
                            }
                            (a, b) => return Err(format!("{spec:?} {k}: {a:?} beside {b:?}").into()),
                        };
                        let what = || format!("{spec:?}, {distance:?}, reducer {k}, reference {reference}");
                        assert!((a - b).abs() <= TOLERANCE * (1.0 + b.abs()), "{}: {a} {b}", what());
                        for (a, b) in short.iter().zip(&listed) {
                            let off = (a - b)?.abs()?.max_all()?.to_scalar::<f64>()?;
                            let size = b.abs()?.max_all()?.to_scalar::<f64>()?;
                            assert!(off <= TOLERANCE * (1.0 + size), "{}: {off} of {size}", what());
                        }
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 5000, "{compared}");
    Ok(())
}

#[test]
fn a_reducer_of_ones_own_sees_the_list() -> Result<(), Any> {
    /// The largest loss.
    #[derive(Debug)]
    struct Largest;
    impl Reducer for Largest {
        fn reduce(&self, part: &Part, _: &[i64]) -> dml_loss::Result<Tensor> {
            Ok(part.losses.max_all()?)
        }
    }
    let distance: Arc<dyn Distance> = Arc::new(Lp::raw(2.0));
    let x = Tensor::new(&[[0f64, 0.], [0., 3.], [4., 0.]], &Device::Cpu)?;
    let batch = Batch::new(&x, &[0, 0, 1])?;
    let contrastive = Contrastive { distance, config: ContrastiveConfig::default() };
    let objective = Objective::new(Arc::new(contrastive)).with_reducer(Arc::new(Largest));
    assert_eq!(objective.forward(&batch)?.to_scalar::<f64>()?, 3.0);
    Ok(())
}

/// The largest resident set of this process so far, in bytes; `None` where the system does not tell.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()? * 1024)
}

/// 1,536 rows of 8 classes have 3·10⁸ triplets, 3.6 GB as three columns of indices; as sums over rows they take the
/// matrix (9.4 MB) and its derivatives.
#[test]
fn all_triplets_of_a_batch_take_the_memory_of_its_matrix() -> Result<(), Any> {
    let n = 1536;
    let x = Var::from_tensor(&rows(3, n, 16)?.to_dtype(DType::F32)?)?;
    let labels: Vec<i64> = (0..n as i64).map(|i| i % 8).collect();
    let batch = Batch::new(&x, &labels)?;
    let before = peak_bytes();
    for text in [
        r#"{"name": "triplet-margin"}"#,
        r#"{"name": "triplet-margin", "swap": true}"#,
        r#"{"name": "margin"}"#,
        r#"{"name": "margin", "learn_beta": true, "nu": 0.1, "num_classes": 8}"#,
        r#"{"name": "nt-xent"}"#,
        r#"{"name": "contrastive"}"#,
        r#"{"name": "lifted-structure"}"#,
        r#"{"name": "tuplet-margin"}"#,
        r#"{"name": "dynamic-soft-margin"}"#,
    ] {
        let spec: LossSpec = serde_json::from_str(text)?;
        let distance = spec.default_distance().build(None)?;
        let objective = Objective::new(spec.build(distance, DType::F32, &Device::Cpu)?);
        let value = objective.forward(&batch)?;
        let size = value.to_scalar::<f32>()?;
        assert!(size.is_finite() && size != 0.0, "{text}: {size}");
        assert!(value.backward()?.get(&x).is_some(), "{text}");
    }
    if let (Some(before), Some(after)) = (before, peak_bytes()) {
        let matrix = (n * n * size_of::<f32>()) as u64;
        assert!(after - before < 24 * matrix, "{} MB more", (after - before) >> 20);
    }
    Ok(())
}
