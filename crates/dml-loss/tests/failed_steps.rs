//! A step that fails, whatever fails in it, leaves everything that is remembered as it was: the next step gives what it
//! gives where the failed one was never tried. So does a state that does not load, and a calibration that stops.

mod common;

use std::{
    collections::BTreeMap,
    result::Result,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use common::{Any, rows, wants_items};
use dml_loss::*;

const FINE: u8 = 0;
const FAILS: u8 = 1;
const NAN: u8 = 2;
const LABELS: [[i64; 6]; 3] = [[0, 0, 1, 1, 2, 2], [0, 1, 2, 2, 1, 0], [1, 1, 0, 2, 2, 0]];

fn refusal() -> Error {
    Error::Config { owner: "Test", field: "mood", got: "ill".to_owned(), expected: "well".to_owned() }
}

/// What a distance or a miner does at the moment.
#[derive(Debug, Clone, Default)]
struct Mood(Arc<AtomicU8>);

impl Mood {
    fn set(&self, mood: u8) {
        self.0.store(mood, Ordering::SeqCst);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::SeqCst)
    }

    fn check(&self) -> dml_loss::Result<()> {
        if self.get() == FAILS { Err(refusal()) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct Moody {
    inner: Arc<dyn Distance>,
    mood: Mood,
}

impl Distance for Moody {
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> dml_loss::Result<Tensor> {
        self.mood.check()?;
        let factor = if self.mood.get() == NAN { f64::NAN } else { 1.0 };
        Ok((self.inner.all_pairs(anchors, others)? * factor)?)
    }

    fn paired(&self, anchors: &Tensor, others: &Tensor) -> dml_loss::Result<Tensor> {
        self.mood.check()?;
        self.inner.paired(anchors, others)
    }
}

/// Selects all pairs, or fails.
#[derive(Debug)]
struct MoodyMiner(Mood);

impl Miner for MoodyMiner {
    fn mine(&self, batch: &Batch) -> dml_loss::Result<Tuples> {
        self.0.check()?;
        Ok(Tuples::Pairs(Pairs::all(batch)))
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        None
    }
}

/// Sums up, or fails.
#[derive(Debug)]
struct MoodyReducer(Mood);

impl Reducer for MoodyReducer {
    fn reduce(&self, part: &Part, labels: &[i64]) -> dml_loss::Result<Tensor> {
        self.0.check()?;
        Sum.reduce(part, labels)
    }
}

/// Nothing, or fails.
#[derive(Debug)]
struct MoodyRegularizer(Mood);

impl Regularizer for MoodyRegularizer {
    fn unreduced(&self, _: &Tensor) -> dml_loss::Result<Option<Part>> {
        self.0.check()?;
        Ok(None)
    }
}

/// Every loss that remembers, alone, around one another and within others.
fn remembering() -> Result<Vec<LossSpec>, serde_json::Error> {
    serde_json::from_str(
        r#"[
        {"name": "dynamic-soft-margin", "min_val": -9.0, "momentum": 0.5},
        {"name": "cross-batch-memory", "loss": {"name": "contrastive", "neg_margin": 1.3}, "memory_size": 9},
        {"name": "cross-batch-memory", "loss": {"name": "triplet-margin"}, "miner": {"name": "batch-hard"}, "memory_size": 9},
        {"name": "cross-batch-memory", "loss": {"name": "dynamic-soft-margin", "min_val": -9.0, "momentum": 0.5}, "memory_size": 9},
        {"name": "cross-batch-memory", "memory_size": 9, "loss": {"name": "weighted-sum", "terms": [
            {"objective": {"loss": {"name": "dynamic-soft-margin", "min_val": -9.0, "momentum": 0.5}}},
            {"objective": {"loss": {"name": "sup-con"}}}]}},
        {"name": "momentum-queue", "loss": {"name": "nt-xent", "temperature": 0.4}, "memory_size": 9},
        {"name": "momentum-queue", "loss": {"name": "contrastive"}, "labels": "given", "memory_size": 9},
        {"name": "two-views", "loss": {"name": "dynamic-soft-margin", "min_val": -9.0, "momentum": 0.5}},
        {"name": "weighted-sum", "terms": [
            {"objective": {"loss": {"name": "cross-batch-memory", "loss": {"name": "contrastive"}, "memory_size": 9}}},
            {"objective": {"loss": {"name": "weighted-sum", "terms": [
                {"objective": {"loss": {"name": "dynamic-soft-margin", "min_val": -9.0, "momentum": 0.5}}},
                {"objective": {"loss": {"name": "cross-batch-memory", "loss": {"name": "sup-con"}, "memory_size": 9}}}]}}}]}
    ]"#,
    )
}

/// Names, shapes and bits of all that is remembered.
type Remembered = BTreeMap<String, (Vec<usize>, Vec<u64>)>;

fn remembered(loss: &dyn Loss) -> Result<Remembered, Any> {
    let bits = |t: &Tensor| -> Result<Vec<u64>, Any> {
        let values = t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(values.into_iter().map(f64::to_bits).collect())
    };
    let state = loss.state()?;
    state.iter().map(|(name, t)| Ok((name.clone(), (t.dims().to_vec(), bits(t)?)))).collect()
}

fn batch(k: usize, items: bool) -> dml_loss::Result<Batch> {
    let batch = Batch::new(&rows(k as u64, 6, 4)?, &LABELS[k])?;
    if items { batch.with_reference(&rows(k as u64 + 50, 6, 4)?, &LABELS[k]) } else { Ok(batch) }
}

/// The places of an objective that fail on demand.
type Moods = [(&'static str, Mood); 5];

/// The objective of a loss with something that fails on demand in each place, the moods of all places, and a term beside
/// the loss that may fail after it.
fn objective(spec: &LossSpec) -> Result<(Objective, Moods), Any> {
    let moods: [Mood; 5] = Default::default();
    let [distance, miner, reducer, regularizer, term] = moods.clone();
    let over = |mood: &Mood| -> Arc<dyn Distance> {
        Arc::new(Moody { inner: Arc::new(Lp::default()), mood: mood.clone() })
    };
    let mut objective = Objective::new(spec.build(over(&distance), DType::F64, &Device::Cpu)?)
        .with_reducer(Arc::new(MoodyReducer(reducer)))
        .with_regularization(Regularization {
            regularizer: Arc::new(MoodyRegularizer(regularizer)),
            on: RegularizedRows::Embeddings,
            weight: 1.0,
        });
    // A queue and two views take no tuples.
    if !wants_items(spec) {
        objective = objective.with_miner(Arc::new(MoodyMiner(miner)));
    }
    let contrastive = Contrastive { distance: over(&term), config: ContrastiveConfig::default() };
    let terms = vec![(1.0, objective), (0.5, Objective::new(Arc::new(contrastive)))];
    let names = ["distance", "miner", "reducer", "regularizer", "later term"];
    let [a, b, c, d, e] = moods;
    let moods = [(names[0], a), (names[1], b), (names[2], c), (names[3], d), (names[4], e)];
    Ok((Objective::new(Arc::new(WeightedSum { terms })), moods))
}

#[test]
fn whatever_fails_nothing_is_remembered() -> Result<(), Any> {
    for spec in remembering()? {
        let items = wants_items(&spec);
        let step = |objective: &Objective, k: usize| -> Result<f64, Any> {
            Ok(objective.forward(&batch(k, items)?)?.to_scalar()?)
        };
        let (untroubled, _) = objective(&spec)?;
        step(&untroubled, 0)?;
        let want = step(&untroubled, 2)?;
        let places = objective(&spec)?.1.len();
        for place in 0..places {
            // Before anything is remembered, and after.
            for first in [true, false] {
                let (troubled, moods) = objective(&spec)?;
                let (name, mood) = &moods[place];
                if *name == "miner" && items {
                    continue;
                }
                if !first {
                    step(&troubled, 0)?;
                }
                let before = remembered(&*troubled.loss)?;
                mood.set(FAILS);
                let failed = step(&troubled, 1).map_err(|e| e.to_string());
                // A loss of the batch as a whole asks no reducer.
                if *name == "reducer" && failed.is_ok() {
                    continue;
                }
                assert_eq!(failed, Err(refusal().to_string()), "{spec:?} {name}");
                assert_eq!(remembered(&*troubled.loss)?, before, "{spec:?} after a failure of the {name}");
                mood.set(FINE);
                if first {
                    step(&troubled, 0)?;
                }
                let got = step(&troubled, 2)?;
                assert_eq!(got.to_bits(), want.to_bits(), "{spec:?} after a failure of the {name}");
            }
        }
    }
    Ok(())
}

/// A loss that is called by itself, without an objective, and the miner within a memory.
#[test]
fn a_loss_by_itself_keeps_its_state_too() -> Result<(), Any> {
    for spec in remembering()? {
        let items = wants_items(&spec);
        let mood = Mood::default();
        let distance = Arc::new(Moody { inner: Arc::new(Lp::default()), mood: mood.clone() });
        let loss = spec.build(distance, DType::F64, &Device::Cpu)?;
        loss.unreduced(&batch(0, items)?, None)?;
        let before = remembered(&*loss)?;
        assert!(!before.is_empty(), "{spec:?}");
        mood.set(FAILS);
        assert!(loss.unreduced(&batch(1, items)?, None).is_err(), "{spec:?}");
        assert!(loss.reduced(&batch(1, items)?, None, &Mean).map_or(true, |r| matches!(r, Reduced::Unknown)));
        assert_eq!(remembered(&*loss)?, before, "{spec:?}");
    }
    let mood = Mood::default();
    let contrastive =
        || Arc::new(Contrastive { distance: Arc::new(Lp::default()), config: ContrastiveConfig::default() });
    let miner: Arc<dyn Miner> = Arc::new(MoodyMiner(mood.clone()));
    let memory = CrossBatchMemory::new(contrastive(), Some(miner.clone()), 9)?;
    let queue = MomentumQueue::new(contrastive(), Some(miner), QueueLabels::Instance, 9)?;
    for (loss, items) in [(&memory as &dyn Loss, false), (&queue, true)] {
        loss.unreduced(&batch(0, items)?, None)?;
        let before = remembered(loss)?;
        mood.set(FAILS);
        assert!(loss.unreduced(&batch(1, items)?, None).is_err());
        assert_eq!(remembered(loss)?, before);
        mood.set(FINE);
        // A reducer that refuses the parts of the inner loss.
        assert!(loss.reduced(&batch(1, items)?, None, &Divisor::default()).is_err());
        assert_eq!(remembered(loss)?, before);
    }
    Ok(())
}

/// A row that φ is not defined at is an error of the batch that brings it, and of no later one.
#[test]
fn a_row_outside_the_domain_stays_out_of_the_memory() -> Result<(), Any> {
    let good = Tensor::new(&[[1f64, 2., 3.], [2., 1., 2.], [1., 1., 4.], [3., 1., 1.]], &Device::Cpu)?;
    let bad = Tensor::new(&[[1f64, 2., 3.], [2., 1., 2.], [1., -1., 4.], [3., 1., 1.]], &Device::Cpu)?;
    let generators: [Arc<dyn phi::Generator>; 2] =
        [Arc::new(phi::NegativeEntropy::orthant()), Arc::new(phi::ItakuraSaito)];
    for phi in generators {
        // The second set of labels leaves no tuple within the batch.
        for labels in [[0, 0, 1, 1], [0, 1, 2, 3]] {
            for side in [Side::First, Side::Second] {
                let sup_con = || -> Result<Arc<dyn Loss>, Any> {
                    let distance = Arc::new(BregmanDistance::new(phi.clone(), side));
                    Ok(Arc::new(SupCon { distance, temperature: Temperature::fixed(1.0)? }))
                };
                let losses = || -> Result<[(Objective, bool); 3], Any> {
                    let queue = |labels| -> Result<_, Any> {
                        Ok(Objective::new(Arc::new(MomentumQueue::new(sup_con()?, None, labels, 16)?)))
                    };
                    let memory = Objective::new(Arc::new(CrossBatchMemory::new(sup_con()?, None, 16)?));
                    Ok([
                        (memory, false),
                        (queue(QueueLabels::Instance)?, true),
                        (queue(QueueLabels::Given)?, true),
                    ])
                };
                for ((untroubled, items), (troubled, _)) in losses()?.into_iter().zip(losses()?) {
                    let step = |objective: &Objective, x: &Tensor, labels: &[i64]| -> Result<f64, Any> {
                        let mut batch = Batch::new(&good, labels)?;
                        batch = if items { batch.with_reference(x, labels)? } else { Batch::new(x, labels)? };
                        Ok(objective.forward(&batch)?.to_scalar()?)
                    };
                    // Refused, or a value that shows it; where it is neither, nothing later may suffer.
                    let _shown = step(&troubled, &bad, &labels);
                    for labels in [[0, 1, 1, 0], [2, 3, 0, 0]] {
                        let want = step(&untroubled, &good, &labels)?;
                        let got = step(&troubled, &good, &labels)
                            .map_err(|e| format!("{phi:?} {side:?} {labels:?} {troubled:?}: {e}"))?;
                        assert!(want.is_finite());
                        assert_eq!(got.to_bits(), want.to_bits(), "{phi:?} {side:?} {troubled:?}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// What shows as NaN in the value is not remembered, as the dynamic soft margin does not.
#[test]
fn a_step_that_is_no_number_is_not_remembered() -> Result<(), Any> {
    for spec in remembering()? {
        // A term that is well remembers its rows.
        if matches!(spec, LossSpec::WeightedSum(_)) {
            continue;
        }
        let items = wants_items(&spec);
        let mood = Mood::default();
        let distance = Arc::new(Moody { inner: Arc::new(Lp::default()), mood: mood.clone() });
        let objective = Objective::new(spec.build(distance, DType::F64, &Device::Cpu)?);
        objective.forward(&batch(0, items)?)?;
        let before = remembered(&*objective.loss)?;
        mood.set(NAN);
        if let Ok(value) = objective.forward(&batch(1, items)?) {
            assert!(value.to_scalar::<f64>()?.is_nan(), "{spec:?}");
        }
        assert_eq!(remembered(&*objective.loss)?, before, "{spec:?}");
    }
    // Squares that overflow.
    let lp = Arc::new(Lp::squared());
    let sup_con = SupCon { distance: lp, temperature: Temperature::fixed(1.0)? };
    let memory = Objective::new(Arc::new(CrossBatchMemory::new(Arc::new(sup_con), None, 16)?));
    let x = rows(1, 4, 3)?.to_dtype(DType::F32)?;
    for labels in [[0, 0, 1, 1], [0, 1, 2, 3]] {
        let _huge = memory.forward(&Batch::new(&(&x * 1e30)?, &labels)?);
        let value = memory.forward(&Batch::new(&x, &[0, 0, 1, 1])?)?;
        assert!(value.to_scalar::<f32>()?.is_finite(), "{labels:?}: {value}");
    }
    Ok(())
}

#[test]
fn a_state_that_does_not_load_changes_nothing() -> Result<(), Any> {
    for spec in remembering()? {
        let items = wants_items(&spec);
        let build = || -> Result<Objective, Any> {
            Ok(Objective::new(spec.build(Arc::new(Lp::default()), DType::F64, &Device::Cpu)?))
        };
        let (one, other) = (build()?, build()?);
        one.forward(&batch(0, items)?)?;
        other.forward(&batch(1, items)?)?;
        let (own, foreign) = (remembered(&*one.loss)?, other.loss.state()?);
        assert_ne!(own, remembered(&*other.loss)?, "{spec:?}");
        // Each entry in turn missing, of another shape, of another type, or no number.
        for name in foreign.keys() {
            let of = |tensor: Option<Tensor>| {
                let mut state = foreign.clone();
                state.remove(name);
                state.extend(tensor.map(|t| (name.clone(), t)));
                state
            };
            let tensor = &foreign[name];
            let nan = Tensor::full(f64::NAN, tensor.shape(), &Device::Cpu)?;
            let wrong = [
                ("missing", None),
                ("a cube", Some(Tensor::zeros((2, 3, 1), DType::F64, &Device::Cpu)?)),
                ("empty", Some(Tensor::zeros((0, 3), tensor.dtype(), &Device::Cpu)?)),
                ("NaN", Some(nan)),
                ("negative", Some((tensor.to_dtype(DType::F64)?.abs()? - 1e9)?)),
                ("bytes", Some(tensor.zeros_like()?.to_dtype(DType::U8)?)),
            ];
            for (what, tensor) in wrong {
                // Labels and embeddings may be negative.
                if what == "negative" && name.contains("memory") {
                    continue;
                }
                // Labels of zero are labels, and so are whole numbers of any type.
                if what == "bytes" && !name.ends_with("memory") {
                    continue;
                }
                let error = one.loss.load_state(&of(tensor)).err().map(|e| e.to_string());
                let error = error.ok_or_else(|| format!("{spec:?}: {name} {what} is loaded"))?;
                assert!(!error.contains("tensor operation"), "{spec:?}: {name} {what}: {error}");
                assert_eq!(remembered(&*one.loss)?, own, "{spec:?}: {name} {what}: {error}");
            }
        }
        one.loss.load_state(&foreign)?;
        assert_eq!(remembered(&*one.loss)?, remembered(&*other.loss)?, "{spec:?}");
    }
    Ok(())
}

/// A miner that asks a loss with a state takes no step of it.
#[test]
fn a_miner_leaves_the_state_of_its_loss_alone() -> Result<(), Any> {
    for spec in remembering()?.iter().filter(|spec| !wants_items(spec)) {
        let loss = spec.build(Arc::new(Lp::default()), DType::F64, &Device::Cpu)?;
        let before = remembered(&*loss)?;
        let miner = MaximumLoss::new(loss.clone(), 4, 3, 0)?;
        let first = miner.mine(&batch(0, false)?)?.to_pairs();
        assert_eq!(remembered(&*loss)?, before, "{spec:?}");
        assert_eq!(miner.mine(&batch(0, false)?)?.to_pairs(), first, "{spec:?}");
    }
    Ok(())
}

#[test]
fn a_calibration_that_stops_half_way_sets_nothing() -> Result<(), Any> {
    let mood = Mood::default();
    let moody = Arc::new(Moody { inner: Arc::new(Lp::squared()), mood: mood.clone() });
    let term = |distance: Arc<dyn Distance>| -> Result<_, Any> {
        let temperature = Temperature::learned(0.1, DType::F64, &Device::Cpu)?;
        Ok((1.0, Objective::new(Arc::new(SupCon { distance, temperature }))))
    };
    let inner = WeightedSum { terms: vec![term(Arc::new(Lp::squared()))?, term(moody.clone())?] };
    let terms = vec![term(Arc::new(Lp::squared()))?, (1.0, Objective::new(Arc::new(inner))), term(moody)?];
    let objective = Objective::new(Arc::new(WeightedSum { terms }));
    let values = || -> Result<Vec<f64>, Any> {
        objective.parameters().iter().map(|p| Ok(p.var.to_scalar::<f64>()?)).collect()
    };
    let before = values()?;
    mood.set(FAILS);
    assert!(objective.calibrate(&batch(0, false)?).is_err());
    assert_eq!(values()?, before);
    mood.set(FINE);
    objective.calibrate(&batch(0, false)?)?;
    assert!(values()?.iter().zip(&before).all(|(after, before)| after != before));
    Ok(())
}
