//! Batches at the edge: every loss over every distance is 0 with gradient 0, or finite, never NaN; so is every reducer
//! that nothing is left to, and what every miner selects.
//!
//! Where pytorch-metric-learning 2.9.0 gives 0 with gradient 0, so do we. Where it gives NaN (NCA without a positive,
//! the tuplet margin of equal rows) or fails (histogram and dynamic soft margin of equal rows), the definition has
//! a value, which is ours. Of one positive and one negative pair alone, handed in as tuples, its losses of pairs
//! are 0; ours are those of the two pairs.

mod common;

use std::{result::Result, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};
use common::{
    Any, every_distance, every_loss, every_memory, every_miner, name_of, names, rows, takes, wants_items,
};
use dml_loss::*;

/// Value, and the largest absolute entry of the gradient with respect to the embeddings.
fn run(objective: &Objective, x: &Tensor, labels: &[i64], items: bool) -> Result<(f64, f64), Any> {
    let x = Var::from_tensor(x)?;
    let mut batch = Batch::new(&x, labels)?;
    if items {
        batch = batch.with_reference(&x, labels)?;
    }
    objective.calibrate(&batch)?;
    let before = objective.loss.state()?;
    let value = objective.forward(&batch)?;
    objective.loss.load_state(&before)?;
    let grads = value.backward()?;
    let largest = match grads.get(&x) {
        Some(g) => {
            let g = g.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            assert!(g.iter().all(|g| g.is_finite()), "gradient {g:?}");
            g.iter().fold(0.0f64, |m, g| m.max(g.abs()))
        }
        None => 0.0,
    };
    for (id, p) in objective.parameters().iter().enumerate() {
        if let Some(g) = grads.get(&p.var) {
            let sum = g.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
            assert!(sum.is_finite(), "gradient of parameter {id} {}: {sum}", p.name);
        }
    }
    Ok((value.to_dtype(DType::F64)?.to_scalar()?, largest))
}

fn for_all(mut test: impl FnMut(&LossSpec, &Objective, DType) -> Result<(), Any>) -> Result<(), Any> {
    for dtype in [DType::F32, DType::F64] {
        for spec in every_loss()?.into_iter().chain(every_memory()?) {
            for distance in every_distance(4, dtype)? {
                if !takes(&spec, &*distance) {
                    continue;
                }
                let objective = Objective::new(spec.build(distance, dtype, &Device::Cpu)?);
                test(&spec, &objective, dtype).map_err(|e| format!("{objective:?}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// Losses that hold a pair or triplet of each kind, so that a batch without one leaves nothing.
fn needs_both_kinds(spec: &LossSpec) -> bool {
    matches!(
        spec,
        LossSpec::TripletMargin(_)
            | LossSpec::NPairs(_)
            | LossSpec::Angular(_)
            | LossSpec::SupCon(_)
            | LossSpec::NtXent(_)
            | LossSpec::Circle(_)
            | LossSpec::LiftedStructure(_)
            | LossSpec::Margin(_)
            | LossSpec::TupletMargin(_)
            | LossSpec::Nca(_)
            | LossSpec::FastAp(_)
            | LossSpec::SmoothAp(_)
            | LossSpec::Pnp(_)
            | LossSpec::Histogram(_)
            | LossSpec::DynamicSoftMargin(_)
            | LossSpec::CentroidTriplet(_)
    )
}

#[test]
fn one_class_or_one_sample_a_class_leaves_nothing() -> Result<(), Any> {
    for_all(|spec, objective, dtype| {
        let x = rows(3, 4, 4)?.to_dtype(dtype)?;
        for labels in [[5, 5, 5, 5], [0, 1, 2, 3]] {
            let (value, gradient) = run(objective, &x, &labels, wants_items(spec))?;
            assert!(value.is_finite(), "{spec:?} {labels:?}: {value}");
            // One class leaves N-pairs one pair, whose softmax over itself is certain.
            if needs_both_kinds(spec) {
                assert!(value.abs() < 1e-6 && gradient < 1e-6, "{spec:?} {labels:?}: {value} {gradient}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_batch_of_one_and_an_empty_batch_are_zero() -> Result<(), Any> {
    for_all(|spec, objective, dtype| {
        let one = rows(4, 1, 4)?.to_dtype(dtype)?;
        let (value, gradient) = run(objective, &one, &[0], wants_items(spec))?;
        // A row alone still has proxies to be compared with.
        let nothing = objective.loss.own_parameters().iter().all(|p| p.role != Role::Proxy);
        assert!(value.is_finite() && (!nothing || (value, gradient) == (0.0, 0.0)), "{spec:?}: {value}");
        let none = Tensor::zeros((0, 4), dtype, &Device::Cpu)?;
        let mut batch = Batch::new(&none, &[])?;
        if wants_items(spec) {
            batch = batch.with_reference(&none, &[])?;
        }
        objective.calibrate(&batch)?;
        assert_eq!(objective.forward(&batch)?.to_dtype(DType::F64)?.to_scalar::<f64>()?, 0.0, "{spec:?}");
        Ok(())
    })
}

#[test]
fn duplicates_and_equal_distances_stay_finite() -> Result<(), Any> {
    for_all(|spec, objective, dtype| {
        let row = rows(5, 1, 4)?.to_dtype(dtype)?;
        let same = row.broadcast_as((6, 4))?.contiguous()?;
        let simplex = Tensor::eye(4, dtype, &Device::Cpu)?;
        let zeros = Tensor::zeros((4, 4), dtype, &Device::Cpu)?;
        for (x, labels) in
            [(same, &[0i64, 0, 1, 1, 2, 2][..]), (simplex, &[0, 0, 1, 1][..]), (zeros, &[0, 0, 1, 1][..])]
        {
            let (value, _) = run(objective, &x, labels, wants_items(spec))?;
            assert!(value.is_finite(), "{spec:?}: {value}");
        }
        Ok(())
    })
}

#[test]
fn large_embeddings_stay_finite() -> Result<(), Any> {
    for_all(|spec, objective, dtype| {
        let x = (rows(6, 6, 4)? * 1e4)?.to_dtype(dtype)?;
        let (value, _) = run(objective, &x, &[0, 0, 1, 1, 2, 2], wants_items(spec))?;
        assert!(value.is_finite(), "{spec:?}: {value}");
        Ok(())
    })
}

#[test]
fn every_loss_of_the_specification_is_held_to_this() -> Result<(), Any> {
    let all: Vec<LossSpec> = every_loss()?.into_iter().chain(every_memory()?).collect();
    let held: Vec<String> = all.iter().map(name_of).collect::<Result<_, _>>()?;
    let missing: Vec<String> = names::<LossSpec>().into_iter().filter(|name| !held.contains(name)).collect();
    assert_eq!((missing, names::<LossSpec>().is_empty()), (vec![], false));
    Ok(())
}

/// A batch without any tuple must not stop a run: an optimizer finds a gradient for each parameter, and it is 0.
#[test]
fn parameters_have_gradient_zero_where_nothing_is_left() -> Result<(), Any> {
    let x = Var::from_tensor(&rows(12, 3, 4)?)?;
    let batch = Batch::new(&x, &[0, 1, 2])?;
    let texts = [
        r#"{"loss": {"name": "triplet-margin"}, "distance": {"name": "bregman"}, "miner": {"name": "batch-hard"}}"#,
        r#"{"loss": {"name": "sup-con", "temperature": "learned"}, "distance": {"name": "bregman"}}"#,
        r#"{"loss": {"name": "margin", "learn_beta": true, "nu": 0.1}, "distance": {"name": "bregman"}}"#,
        r#"{"loss": {"name": "cross-batch-memory", "loss": {"name": "triplet-margin"}}, "distance": {"name": "bregman"}}"#,
        r#"{"loss": {"name": "weighted-sum", "terms": [
            {"objective": {"loss": {"name": "triplet-margin"}, "distance": {"name": "bregman"}}}]}}"#,
    ];
    for text in texts {
        let spec: ObjectiveSpec = serde_json::from_str(text)?;
        let objective = spec.build(Some(common::icnn(4, DType::F64)?), DType::F64, &Device::Cpu)?;
        let value = objective.forward(&batch)?;
        let grads = value.backward()?;
        let vars = objective.parameters().into_iter().map(|p| (p.name, p.var));
        for (name, var) in vars.chain([("x".to_owned(), x.clone())]) {
            let gradient = grads.get(&var).ok_or_else(|| format!("{text}: no gradient for {name}"))?;
            assert_eq!(gradient.sqr()?.sum_all()?.to_scalar::<f64>()?, 0.0, "{text}: {name}");
        }
        assert_eq!(value.to_scalar::<f64>()?, 0.0, "{text}");
    }
    Ok(())
}

/// A loss of each kind of index over reducers to which nothing is left: 0 with gradient 0, by short ways and by lists.
#[test]
fn reducers_of_nothing_are_zero() -> Result<(), Any> {
    let texts = [
        r#"{"name": "mean"}"#,
        r#"{"name": "sum"}"#,
        r#"{"name": "avg-non-zero"}"#,
        r#"{"name": "threshold", "low": 1e9}"#,
        r#"{"name": "threshold", "high": -1e9}"#,
        r#"{"name": "threshold", "low": 2.0, "high": 1.0}"#,
        r#"{"name": "class-weighted", "weights": [0.0, 0.0]}"#,
        r#"{"name": "divisor", "divisor": 0.0}"#,
        r#"{"name": "per-anchor", "reducer": {"name": "threshold", "low": 1e9}}"#,
        r#"{"name": "per-anchor", "reducer": {"name": "avg-non-zero"}}"#,
        r#"{"name": "by-part", "reducers": {
            "loss": {"name": "threshold", "low": 1e9}, "pos_loss": {"name": "divisor", "divisor": 0.0},
            "neg_loss": {"name": "per-anchor", "reducer": {"name": "class-weighted", "weights": [0, 0]}}}}"#,
    ];
    let held: Vec<String> =
        texts.iter().map(|t| t.split('"').nth(3).unwrap_or_default().to_owned()).collect();
    let missing: Vec<String> =
        names::<ReducerSpec>().into_iter().filter(|name| !held.contains(name)).collect();
    assert_eq!(missing, ["do-nothing"], "which leaves no scalar");
    let losses = [
        r#"{"name": "contrastive", "pos_margin": 9.0, "neg_margin": -9.0}"#,
        r#"{"name": "triplet-margin", "margin": -9.0}"#,
        r#"{"name": "sup-con"}"#,
        r#"{"name": "nt-xent"}"#,
    ];
    for loss in losses {
        let loss: LossSpec = serde_json::from_str(loss)?;
        // Hinges are satisfied; of the others the reducer itself leaves nothing.
        let hinged = matches!(loss, LossSpec::Contrastive(_) | LossSpec::TripletMargin(_));
        for text in texts {
            let spec: ReducerSpec = serde_json::from_str(text)?;
            let empties = !text.contains("mean") && !text.contains("sum") && !text.contains("avg-non-zero");
            for distance in [
                Arc::new(Lp::default()) as Arc<dyn Distance>,
                Arc::new(BregmanDistance::new(common::icnn(4, DType::F64)?, bregman::Side::First)),
            ] {
                let objective = Objective::new(loss.build(distance, DType::F64, &Device::Cpu)?);
                let objective = objective.with_reducer(spec.build());
                for labels in [&[0i64, 0, 1, 1][..], &[0, 0, 0], &[0, 1], &[0]] {
                    let x = rows(13, labels.len(), 4)?;
                    let (value, gradient) = run(&objective, &x, labels, false)?;
                    assert!(value.is_finite(), "{loss:?} {text} {labels:?}: {value}");
                    if hinged || empties || labels.len() < 4 {
                        assert_eq!((value, gradient), (0.0, 0.0), "{loss:?} {text} {labels:?}");
                    }
                    let x = Var::from_tensor(&x)?;
                    let batch = Batch::new(&x, labels)?;
                    let nothing = Tuples::Pairs(Pairs::default());
                    let value = objective.forward_with(&batch, Some(&nothing))?;
                    let gradient = value.backward()?.get(&x).map(|g| g.sqr()?.sum_all()?.to_scalar::<f64>());
                    assert_eq!(
                        (value.to_scalar::<f64>()?, gradient.transpose()?),
                        (0.0, Some(0.0)),
                        "{text}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// One positive and one negative pair are pairs like others.
#[test]
fn a_single_pair_of_each_kind_counts() -> Result<(), Any> {
    let x = Tensor::new(&[[0f64, 0.], [3., 4.], [0., 0.5]], &Device::Cpu)?;
    let batch = Batch::new(&x, &[0, 0, 1])?;
    let pair = |other| PairList { anchor: vec![0], other: vec![other] };
    let tuples = Tuples::Pairs(Pairs { positive: pair(1), negative: pair(2) });
    let loss = Contrastive { distance: Arc::new(Lp::raw(2.0)), config: ContrastiveConfig::default() };
    let value = Objective::new(Arc::new(loss)).forward_with(&batch, Some(&tuples))?;
    assert!((value.to_scalar::<f64>()? - 5.5).abs() < 1e-12, "{value}");
    Ok(())
}

#[test]
fn miners_take_any_batch() -> Result<(), Any> {
    let every = every_miner()?;
    let held: Vec<String> = every.iter().map(name_of).collect::<Result<_, _>>()?;
    let missing: Vec<String> = names::<MinerSpec>().into_iter().filter(|name| !held.contains(name)).collect();
    assert_eq!((missing, names::<MinerSpec>().is_empty()), (vec![], false));
    for (spec, name) in every.into_iter().zip(held) {
        for distance in every_distance(4, DType::F32)? {
            if matches!(spec, MinerSpec::DistanceWeighted(_)) && distance.larger_is_closer() {
                continue;
            }
            let miner = spec.build(distance.clone())?;
            let contrastive =
                Contrastive { distance: distance.clone(), config: ContrastiveConfig::default() };
            let triplet = TripletMargin { distance, config: TripletMarginConfig::default() };
            let losses: [Arc<dyn Loss>; 2] = [Arc::new(contrastive), Arc::new(triplet)];
            for labels in [&[][..], &[0], &[0, 0], &[0, 0, 0], &[0, 1, 2], &[0, 0, 1, 1]] {
                let x = match labels.len() {
                    0 => Tensor::zeros((0, 4), DType::F32, &Device::Cpu)?,
                    n => rows(7, n, 4)?.to_dtype(DType::F32)?,
                };
                let batch = Batch::new(&x, labels)?;
                let tuples = miner.mine(&batch)?;
                tuples.check(&batch)?;
                for loss in &losses {
                    let objective = Objective::new(loss.clone()).with_miner(miner.clone());
                    // Its rows, the same row throughout, and rows that occur twice.
                    let same = x.narrow(0, 0, labels.len().min(1))?.broadcast_as(x.shape())?.contiguous();
                    let same = if labels.is_empty() { Ok(x.clone()) } else { same };
                    let twice: Vec<u32> = (0..labels.len() as u32).map(|i| i / 2).collect();
                    let twice = match twice.len() {
                        0 => x.clone(),
                        n => x.index_select(&Tensor::from_vec(twice, n, &Device::Cpu)?, 0)?,
                    };
                    for x in [&x, &same?, &twice] {
                        let (value, gradient) = run(&objective, x, labels, false)?;
                        assert!(value.is_finite() && gradient.is_finite(), "{name} {labels:?}: {value}");
                        if miner.mine(&Batch::new(x, labels)?)?.is_empty() {
                            assert_eq!((value, gradient), (0.0, 0.0), "{name} {labels:?}");
                        }
                    }
                }
                assert!(
                    labels.len() > 3
                        || tuples.is_empty()
                        || name.contains("pair-margin")
                        || name.contains("multi")
                        || name.contains("hard-aware")
                        || name.contains("uniform")
                        || name.contains("maximum"),
                    "{name} {labels:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn messages_say_what_to_do() -> Result<(), Any> {
    let x = rows(8, 4, 4)?;
    let batch = Batch::new(&x, &[0, 0, 1, 9])?;
    let contrastive = || {
        let distance = Arc::new(Lp::default());
        Objective::new(Arc::new(Contrastive { distance, config: ContrastiveConfig::default() }))
    };
    let generator: Arc<dyn phi::Generator> = Arc::new(phi::NegativeEntropy::orthant());
    let entropy = BregmanDistance::new(generator, bregman::Side::First);
    let info_nce = InfoNce::new(Arc::new(Cosine), Temperature::fixed(0.1)?);
    let bregman: DistanceSpec = serde_json::from_str(r#"{"name": "bregman"}"#)?;
    let semi = r#"{"name": "batch-easy-hard", "pos_strategy": "semi-hard", "neg_strategy": "semi-hard"}"#;
    let semi: MinerSpec = serde_json::from_str(semi)?;
    let bad = Tuples::Pairs(Pairs {
        positive: PairList { anchor: vec![0], other: vec![4] },
        negative: PairList::default(),
    });
    let cases = [
        (
            contrastive()
                .with_reducer(Arc::new(ClassWeighted { weights: vec![1.0; 3] }))
                .forward(&batch)
                .err(),
            "ClassWeighted: row 3 has label 9, expected 0 ≤ label < 3; renumber the classes from 0",
        ),
        (
            contrastive().with_reducer(Arc::new(DoNothing)).forward(&batch).err(),
            "Objective: `reducer` is of shape [2], expected a scalar; call `Objective::unreduced` for unreduced \
             losses",
        ),
        (
            contrastive().with_reducer(Arc::new(Divisor::default())).forward(&batch).err(),
            "Divisor: `divisor` is missing for part `pos_loss`, expected a number, as this loss gives none",
        ),
        (
            contrastive().forward_with(&batch, Some(&bad)).err(),
            "Tuples: entry 0 of `positive.other` is row 4, but there are 4 rows",
        ),
        (
            Objective::new(Arc::new(info_nce)).forward(&batch).err(),
            "InfoNce: `reference` is missing, expected the items, as many as queries (Batch::with_reference)",
        ),
        (
            bregman.build(None).err(),
            "bregman: `generator` is missing, expected a generator φ given by the model",
        ),
        (
            semi.build(Arc::new(Cosine)).err(),
            "BatchEasyHard: `pos_strategy` is SemiHard beside SemiHard, expected easy or hard beside a semi-hard \
             strategy",
        ),
        (Lp::new(0.5, 1.0, true).err(), "Lp: `p` is 0.5, expected 1 ≤ p < ∞"),
        (
            Temperature::fixed(0.0).err(),
            "Temperature: `temperature` is 0, expected a positive number or \"learned\"",
        ),
        (
            Lp::default().all_pairs(&x, &rows(1, 2, 3)?).err(),
            "Lp::all_pairs: `others` has shape [2, 3], expected [m, 4] as `anchors` has 4 columns",
        ),
    ];
    for (error, message) in cases {
        assert_eq!(error.map(|e| e.to_string()).as_deref(), Some(message));
    }
    let error = entropy.all_pairs(&x, &x).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("row 0 of `x` holds -0.8552261878310463, outside the orthant"), "{error}");
    Ok(())
}

#[test]
fn calibration_gives_the_median_distance_a_logit_of_ten() -> Result<(), Any> {
    let x = rows(9, 5, 4)?;
    let batch = Batch::new(&x, &[0; 5])?.with_reference(&rows(10, 5, 4)?, &[0; 5])?;
    let distance: Arc<dyn Distance> = Arc::new(Lp::squared());
    let loss = InfoNce::new(distance.clone(), Temperature::learned(0.5, DType::F64, &Device::Cpu)?);
    loss.calibrate(&batch)?;
    let mut d = batch.all_pairs(&*distance)?.flatten_all()?.to_vec1::<f64>()?;
    d.sort_by(f64::total_cmp);
    let scale = loss.parameters()[0].var.exp()?.to_scalar::<f64>()?;
    assert!((scale * d[12] - 10.0).abs() < 1e-12);
    assert_eq!(loss.parameters()[0].role, Role::Temperature);
    Ok(())
}
