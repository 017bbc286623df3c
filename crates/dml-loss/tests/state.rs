//! Losses with a memory: what they compare, what they remember, and that a remembered state goes on as if unbroken.

mod common;

use std::{result::Result, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};
use common::{Any, rows};
use dml_loss::*;

fn sup_con() -> Result<Arc<dyn Loss>, Any> {
    Ok(Arc::new(SupCon { distance: Arc::new(Cosine), temperature: Temperature::fixed(0.3)? }))
}

const LABELS: [[i64; 4]; 3] = [[0, 0, 1, 1], [0, 1, 2, 2], [1, 1, 0, 2]];

fn step(objective: &Objective, k: usize) -> Result<f64, Any> {
    Ok(objective.forward(&Batch::new(&rows(k as u64, 4, 3)?, &LABELS[k])?)?.to_scalar()?)
}

#[test]
fn a_memory_holds_the_newest_rows_and_leaves_out_the_row_itself() -> Result<(), Any> {
    let memory = Objective::new(Arc::new(CrossBatchMemory::new(sup_con()?, None, 6)?));
    for k in 0..3 {
        let got = step(&memory, k)?;
        // The newest six rows up to this batch, the batch at their end.
        let all: Vec<Tensor> = (0..=k).map(|k| rows(k as u64, 4, 3)).collect::<Result<_, _>>()?;
        let (all, labels) = (Tensor::cat(&all, 0)?, LABELS[..=k].concat());
        let skip = labels.len().saturating_sub(6);
        let kept = labels.len() - skip;
        let own: Vec<u32> = (kept as u32 - 4..kept as u32).collect();
        let batch = Batch::new(&rows(k as u64, 4, 3)?, &LABELS[k])?
            .with_reference(&all.narrow(0, skip, kept)?, &labels[skip..])?
            .with_own_rows(&own)?;
        let want = Objective::new(sup_con()?).forward(&batch)?.to_scalar::<f64>()?;
        assert!((got - want).abs() < 1e-12, "step {k}: {got} {want}");
    }
    Ok(())
}

#[test]
fn what_is_remembered_gets_no_gradient_and_the_batch_does() -> Result<(), Any> {
    let memory = Objective::new(Arc::new(CrossBatchMemory::new(sup_con()?, None, 8)?));
    let (first, second) = (Var::from_tensor(&rows(0, 4, 3)?)?, Var::from_tensor(&rows(1, 4, 3)?)?);
    memory.forward(&Batch::new(&first, &LABELS[0])?)?;
    let grads = memory.forward(&Batch::new(&second, &LABELS[1])?)?.backward()?;
    assert!(grads.get(&first).is_none() && grads.get(&second).is_some());
    Ok(())
}

#[test]
fn given_tuples_index_the_batch() -> Result<(), Any> {
    let contrastive = || -> Arc<dyn Loss> {
        let config = ContrastiveConfig { pos_margin: 0.0, neg_margin: 9.0 };
        Arc::new(Contrastive { distance: Arc::new(Lp::raw(2.0)), config })
    };
    // A miner that finds nothing leaves the given pairs alone.
    let nothing =
        Arc::new(RandomTriplets { config: RandomTripletsConfig { triplets_per_anchor: 0, seed: 0 } });
    let memory = Objective::new(Arc::new(CrossBatchMemory::new(contrastive(), Some(nothing), 8)?));
    step(&memory, 0)?;
    let batch = Batch::new(&rows(1, 4, 3)?, &LABELS[1])?;
    let given = Tuples::Triplets(Triplets { anchor: vec![2], positive: vec![3], negative: vec![0] });
    let got = memory.forward_with(&batch, Some(&given))?.to_scalar::<f64>()?;
    let want = Objective::new(contrastive()).forward_with(&batch, Some(&given))?.to_scalar::<f64>()?;
    assert!((got - want).abs() < 1e-12, "{got} {want}");
    Ok(())
}

#[test]
fn a_state_put_back_goes_on_as_if_unbroken() -> Result<(), Any> {
    let queue = |labels| -> Result<Arc<dyn Loss>, Any> {
        Ok(Arc::new(MomentumQueue::new(sup_con()?, None, labels, 10)?))
    };
    let soft_margin = || -> Result<Arc<dyn Loss>, Any> {
        Ok(Arc::new(DynamicSoftMargin::new(Arc::new(Lp::default()), DynamicSoftMarginConfig::default())?))
    };
    let memory =
        || -> Result<Arc<dyn Loss>, Any> { Ok(Arc::new(CrossBatchMemory::new(sup_con()?, None, 6)?)) };
    let sum = || -> Result<Arc<dyn Loss>, Any> {
        let terms = vec![(1.0, Objective::new(memory()?)), (0.5, Objective::new(soft_margin()?))];
        Ok(Arc::new(WeightedSum { terms }))
    };
    let pairs = [
        (memory()?, memory()?, false),
        (soft_margin()?, soft_margin()?, false),
        (sum()?, sum()?, false),
        (queue(QueueLabels::Instance)?, queue(QueueLabels::Instance)?, true),
        (queue(QueueLabels::Given)?, queue(QueueLabels::Given)?, true),
    ];
    for (loss, fresh, keys) in pairs {
        let (unbroken, resumed) = (Objective::new(loss), Objective::new(fresh));
        let run = |objective: &Objective, k: usize| -> Result<f64, Any> {
            let mut batch = Batch::new(&rows(k as u64, 4, 3)?, &LABELS[k])?;
            if keys {
                batch = batch.with_reference(&rows(k as u64 + 50, 4, 3)?, &LABELS[k])?;
            }
            Ok(objective.forward(&batch)?.to_scalar()?)
        };
        run(&unbroken, 0)?;
        run(&unbroken, 1)?;
        resumed.loss.load_state(&unbroken.loss.state()?)?;
        assert_eq!(run(&unbroken, 2)?.to_bits(), run(&resumed, 2)?.to_bits(), "{unbroken:?}");
    }
    Ok(())
}

#[test]
fn the_queue_takes_only_this_steps_key_as_positive() -> Result<(), Any> {
    let loss = |labels| -> Result<f64, Any> {
        let queue = Objective::new(Arc::new(MomentumQueue::new(sup_con()?, None, labels, 4)?));
        let batch = Batch::new(&rows(0, 2, 3)?, &[7, 7])?.with_reference(&rows(1, 2, 3)?, &[7, 7])?;
        Ok(queue.forward(&batch)?.to_scalar()?)
    };
    // With one label there is no negative; as instances there is one each.
    assert_eq!(loss(QueueLabels::Given)?, 0.0);
    assert!(loss(QueueLabels::Instance)? > 0.0);
    Ok(())
}

#[test]
fn messages_say_what_to_do() -> Result<(), Any> {
    let x = rows(0, 4, 3)?;
    let batch = Batch::new(&x, &LABELS[0])?;
    let small = CrossBatchMemory::new(sup_con()?, None, 3)?;
    let memory = CrossBatchMemory::new(sup_con()?, None, 8)?;
    memory.unreduced(&batch, None)?;
    let narrow = Batch::new(&rows(0, 2, 2)?, &[0, 1])?;
    let queue = MomentumQueue::new(sup_con()?, None, QueueLabels::Given, 8)?;
    let soft = DynamicSoftMargin::new(Arc::new(Lp::default()), DynamicSoftMarginConfig::default())?;
    let views = TwoViews::new(Objective::new(sup_con()?));
    let weights =
        Regularization { regularizer: Arc::new(RegularFace), on: RegularizedRows::Weights, weight: 1.0 };
    let range = FastApConfig { range: Some((1.0, 1.0)), ..Default::default() };
    let cases = [
        (
            small.unreduced(&batch, None).err(),
            "CrossBatchMemory: `memory_size` is 3, expected at least the 4 rows of a batch",
        ),
        (
            memory.unreduced(&narrow, None).err(),
            "CrossBatchMemory: `embeddings` has shape [2, 2], expected [n, 3]",
        ),
        (
            memory.unreduced(&batch.clone().with_reference(&x, &LABELS[0])?, None).err(),
            "CrossBatchMemory: `reference` is given, expected none: the memory is the reference set",
        ),
        (
            queue.unreduced(&batch, None).err(),
            "MomentumQueue: `reference` is missing, expected the keys, as many as queries (Batch::with_reference)",
        ),
        (
            soft.load_state(&State::new()).err(),
            "DynamicSoftMargin::load_state: `histogram` is missing, expected of 10 bins",
        ),
        (
            views.unreduced(&batch, None).err(),
            "TwoViews: `reference` is missing, expected the second view, row by row (Batch::with_reference)",
        ),
        (
            FastAp::new(Arc::new(Cosine), range).err(),
            "FastAp: `range` is [1, 1], expected a least and a larger finite value",
        ),
        (
            Histogram::new(
                Arc::new(Cosine),
                HistogramConfig { n_bins: Some(10), delta: Some(0.5), ..Default::default() },
            )
            .err(),
            "Histogram: `delta` is 0.5, expected 2/10",
        ),
        (
            SparseCenters::new(SparseCentersConfig { centers_per_class: 1 }).err(),
            "SparseCenters: `centers_per_class` is 1, expected at least 2",
        ),
    ];
    for (error, message) in cases {
        assert_eq!(error.map(|e| e.to_string()).as_deref(), Some(message));
    }
    let error = Objective::new(sup_con()?).with_regularization(weights).forward(&batch).err();
    let error = error.map(|e| e.to_string()).unwrap_or_default();
    assert!(error.ends_with("expected `embeddings`, as it has no table"), "{error}");
    Ok(())
}

#[test]
fn every_wrapper_is_built_by_name() -> Result<(), Any> {
    let text = r#"
        loss = { name = "weighted-sum", terms = [
            { objective = { loss = { name = "cross-batch-memory", memory_size = 64, loss = { name = "contrastive" }, miner = { name = "pair-margin" } } } },
            { weight = 0.5, objective = { loss = { name = "proxy-anchor", num_classes = 3, embedding_size = 3 }, distance = { name = "cosine" }, regularizers = [
                { on = "weights", weight = 0.1, regularizer = { name = "regular-face" } },
            ] } },
            { objective = { loss = { name = "triplet-margin", triplets_per_anchor = 5, seed = 3 }, distance = { name = "bregman" } } },
        ] }
        regularizers = [
            { weight = 0.01, regularizer = { name = "curvature" } },
            { weight = 0.01, regularizer = { name = "scale", target = 1.0 } },
            { weight = 0.1, regularizer = { name = "lp", power = 2.0 } },
        ]
    "#;
    let spec: ObjectiveSpec = toml::from_str(text)?;
    assert_eq!(toml::from_str::<ObjectiveSpec>(&toml::to_string(&spec)?)?, spec);
    let objective = spec.build(Some(common::icnn(3, DType::F64)?), DType::F64, &Device::Cpu)?;
    let value = objective.forward(&Batch::new(&rows(0, 4, 3)?, &LABELS[0])?)?;
    let grads = value.backward()?;
    let parameters = objective.parameters();
    let mut names: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
    assert!(names.contains(&"1.proxies") && names.iter().any(|name| name.starts_with("2.generator.")));
    assert!(parameters.iter().filter(|p| grads.get(&p.var).is_some()).count() > 2);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), parameters.len());
    Ok(())
}
