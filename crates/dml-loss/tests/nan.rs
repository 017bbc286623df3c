//! A distance that has become NaN or infinite is seen: every loss that looks at it becomes NaN or an error, every miner
//! gives an error, so that training stops.

mod common;

use std::{
    collections::BTreeMap,
    result::Result,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bregman::Side;
use candle_core::{DType, Device, Tensor, Var};
use common::{Any, every_loss, every_memory, every_miner, icnn, name_of, names, rows, takes, wants_items};
use dml_loss::*;
use phi::Generator;

/// The bits of an anchor and of what it is compared with.
type Pair = [Vec<u64>; 2];

/// What a distance says instead of the truth, and between which rows; between all where none are given.
type Tale = (Option<Pair>, f64);

/// A distance that says what it is told, and raises no error.
#[derive(Debug)]
struct Told {
    inner: Arc<dyn Distance>,
    tale: Option<Tale>,
    /// What it was asked for, and the truth.
    asked: Mutex<BTreeMap<Pair, f64>>,
}

impl Told {
    fn new(inner: &Arc<dyn Distance>, tale: Option<Tale>) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), tale, asked: Mutex::default() })
    }

    /// True values as they are told, `pairs` the rows of each.
    fn tell(&self, values: &Tensor, pairs: Vec<Pair>) -> dml_loss::Result<Tensor> {
        let (between, told) = self.tale.clone().unwrap_or((Some(Pair::default()), 0.0));
        let here = pairs.iter().map(|pair| u8::from(between.as_ref().is_none_or(|between| between == pair)));
        let here = Tensor::from_vec(here.collect(), values.shape(), values.device())?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.extend(pairs.into_iter().zip(numbers(values)?));
        let told = Tensor::full(told, values.shape(), values.device())?.to_dtype(values.dtype())?;
        Ok(here.where_cond(&told, values)?)
    }
}

fn numbers(tensor: &Tensor) -> dml_loss::Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn bits(rows: &Tensor) -> dml_loss::Result<Vec<Vec<u64>>> {
    let rows = rows.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    Ok(rows.iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect())
}

impl Distance for Told {
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> dml_loss::Result<Tensor> {
        let (a, b) = (bits(anchors)?, bits(others)?);
        let pairs = a.iter().flat_map(|a| b.iter().map(move |b| [a.clone(), b.clone()])).collect();
        self.tell(&self.inner.all_pairs(anchors, others)?, pairs)
    }

    fn paired(&self, anchors: &Tensor, others: &Tensor) -> dml_loss::Result<Tensor> {
        let pairs = bits(anchors)?.into_iter().zip(bits(others)?).map(|(a, b)| [a, b]).collect();
        self.tell(&self.inner.paired(anchors, others)?, pairs)
    }

    fn larger_is_closer(&self) -> bool {
        self.inner.larger_is_closer()
    }

    fn range(&self) -> Option<(f64, f64)> {
        self.inner.range()
    }
}

/// Numbers that a distance leads to.
type Outcome = Result<Vec<f64>, Error>;

/// By how much a distance is changed to see whether anything depends on it: a little, as within bounds, and beyond
/// them.
const CHANGES: [f64; 7] = [0.3, -0.3, 2.0, -2.0, 0.01, 1e3, -1e3];

/// How far from its limit an outcome at infinity may be, relative to it: what is left of it at [`FAR`].
const LIMIT: f64 = 1e-5;
const FAR: f64 = 1e9;

/// Holds `outcome`, a function of a distance, to what is said above: for each pair of rows on which it depends, whose
/// number is returned, and for all of them at once.
fn hold(name: &str, inner: &Arc<dyn Distance>, outcome: impl Fn(Arc<Told>) -> Outcome) -> Result<usize, Any> {
    let honest = Told::new(inner, None);
    let before = outcome(honest.clone()).map_err(|e| format!("{name}: {e}"))?;
    assert!(before.iter().all(|v| v.is_finite()), "{name}: {before:?}");
    let asked = honest.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let with = |between: Option<&Pair>, told: f64| outcome(Told::new(inner, Some((between.cloned(), told))));
    let finite = |between: Option<&Pair>, told: f64| -> Result<Vec<f64>, Any> {
        Ok(with(between, told).map_err(|e| format!("{name}: {told} between {between:?} gives {e}"))?)
    };
    let shows = |between: Option<&Pair>| -> Result<(), Any> {
        if let Ok(hidden) = with(between, f64::NAN) {
            assert!(
                hidden.iter().any(|v| !v.is_finite()),
                "{name}: NaN between {between:?} gives {hidden:?}"
            );
        }
        for infinity in [f64::INFINITY, f64::NEG_INFINITY] {
            let Ok(at) = with(between, infinity) else { continue };
            if at.iter().all(|v| v.is_finite()) {
                let limit = finite(between, FAR.copysign(infinity))?;
                let near = |(at, limit): (&f64, &f64)| (at - limit).abs() <= LIMIT * limit.abs().max(1.0);
                let same = at.len() == limit.len() && at.iter().zip(&limit).all(near);
                assert!(same, "{name}: {infinity} between {between:?} gives {at:?}, {FAR} {limit:?}");
            }
        }
        Ok(())
    };
    let mut looked_at = 0;
    for (pair, truth) in &asked {
        let mut depends = false;
        for change in CHANGES {
            depends = depends || finite(Some(pair), truth + change)? != before;
        }
        if depends {
            looked_at += 1;
            shows(Some(pair))?;
        }
    }
    if looked_at > 0 {
        shows(None)?;
    }
    Ok(looked_at)
}

/// One class of three, one of two, one alone.
const LABELS: [i64; 6] = [0, 1, 0, 1, 0, 2];

/// Six rows and, where asked for, six others to compare them with.
fn batch(dtype: DType, reference: bool) -> dml_loss::Result<Batch> {
    let batch = Batch::new(&rows(3, 6, 4)?.to_dtype(dtype)?, &LABELS)?;
    if !reference {
        return Ok(batch);
    }
    batch.with_reference(&rows(5, 6, 4)?.to_dtype(dtype)?, &LABELS)
}

/// A raw distance, one within bounds, a similarity; in both precisions.
fn honest() -> [(Arc<dyn Distance>, DType); 3] {
    [
        (Arc::new(Lp::raw(2.0)), DType::F64),
        (Arc::new(Lp::default()), DType::F32),
        (Arc::new(Cosine), DType::F32),
    ]
}

/// The losses, with those whose range is that of the batch.
fn losses() -> Result<Vec<LossSpec>, Any> {
    let more =
        r#"[{"name": "fast-ap"}, {"name": "histogram"}, {"name": "dynamic-soft-margin", "num_bins": 1}]"#;
    let more: Vec<LossSpec> = serde_json::from_str(more)?;
    Ok(every_loss()?.into_iter().chain(every_memory()?).chain(more).collect())
}

fn values_of(parts: &[Part]) -> Outcome {
    Ok(parts.iter().map(|part| numbers(&part.losses)).collect::<dml_loss::Result<Vec<_>>>()?.concat())
}

fn once(batch: &Batch) -> Pairs {
    let Pairs { positive, negative } = Pairs::all(batch);
    let [positive, negative] = [positive, negative].map(|list| {
        let pairs = list.anchor.into_iter().zip(list.other).filter(|(a, o)| a < o);
        let (anchor, other) = pairs.unzip();
        PairList { anchor, other }
    });
    Pairs { positive, negative }
}

#[test]
fn every_loss_shows_a_distance_that_is_no_number() -> Result<(), Any> {
    let mut shown = 0;
    for (inner, dtype) in honest() {
        for spec in losses()?.into_iter().filter(|spec| takes(spec, &*inner)) {
            for reference in [false, true] {
                let batch = batch(dtype, reference)?;
                let build = |told: Arc<Told>| -> dml_loss::Result<Objective> {
                    Ok(Objective::new(spec.build(told, dtype, &Device::Cpu)?))
                };
                let forward = |told: Arc<Told>| numbers(&build(told)?.forward(&batch)?);
                let listed = |told: Arc<Told>| values_of(&build(told)?.unreduced(&batch, None)?);
                // Those that are told what to compare with refuse anything else.
                if reference != wants_items(&spec) && forward(Told::new(&inner, None)).is_err() {
                    continue;
                }
                let name = format!("{spec:?} {dtype:?} reference {reference}");
                let looked_at = hold(&name, &inner, forward)?;
                assert_eq!(looked_at > 0, hold(&format!("{name} listed"), &inner, listed)? > 0, "{name}");
                // Each pair named once, from its earlier row, where the loss takes tuples.
                let once = Tuples::Pairs(once(&batch));
                let given = |told: Arc<Told>| numbers(&build(told)?.forward_with(&batch, Some(&once))?);
                let given_listed = |told: Arc<Told>| values_of(&build(told)?.unreduced(&batch, Some(&once))?);
                if given(Told::new(&inner, None)).is_ok() {
                    hold(&format!("{name} given"), &inner, given)?;
                    hold(&format!("{name} given and listed"), &inner, given_listed)?;
                }
                shown += usize::from(looked_at > 0);
            }
        }
    }
    assert!(shown > 200, "only {shown} losses look at the distance");
    Ok(())
}

/// A selection has no number that could show it: where it depends on the distance, only an error does.
#[test]
fn every_miner_refuses_a_distance_that_is_no_number() -> Result<(), Any> {
    let mut shown = Vec::new();
    for (inner, dtype) in honest() {
        for (spec, reference) in
            every_miner()?.into_iter().flat_map(|spec| [(spec.clone(), false), (spec, true)])
        {
            if matches!(spec, MinerSpec::DistanceWeighted(_)) && inner.larger_is_closer() {
                continue;
            }
            let batch = batch(dtype, reference)?;
            let mine = |told: Arc<Told>| -> Outcome {
                let Pairs { positive, negative } = spec.build(told)?.mine(&batch)?.to_pairs();
                let columns = [positive.anchor, positive.other, negative.anchor, negative.other];
                Ok(columns.concat().into_iter().map(f64::from).collect())
            };
            let name = format!("{spec:?} {dtype:?} reference {reference}");
            if hold(&name, &inner, mine)? > 0 {
                shown.push(name_of(&spec)?);
            }
            for loss in [r#"{"name": "contrastive"}"#, r#"{"name": "triplet-margin", "swap": true}"#] {
                let loss: LossSpec = serde_json::from_str(loss)?;
                let forward = |told: Arc<Told>| -> Outcome {
                    let miner = spec.build(told.clone())?;
                    let objective = Objective::new(loss.build(told, dtype, &Device::Cpu)?).with_miner(miner);
                    numbers(&objective.forward(&batch)?)
                };
                hold(&format!("{name} {loss:?}"), &inner, forward)?;
            }
        }
    }
    shown.sort();
    shown.dedup();
    // All but those that ask no distance.
    assert_eq!(shown.len() + 2, every_miner()?.len(), "{shown:?}");
    Ok(())
}

/// Every reducer, over losses of pairs, triplets and rows.
#[test]
fn no_reducer_passes_over_it() -> Result<(), Any> {
    let reducers: Vec<ReducerSpec> = serde_json::from_str(
        r#"[
        {"name": "mean"}, {"name": "sum"}, {"name": "avg-non-zero"}, {"name": "threshold", "low": 0.1, "high": 0.9},
        {"name": "class-weighted", "weights": [1.0, 0.5, 2.0]}, {"name": "divisor", "divisor": 3.0},
        {"name": "per-anchor", "reducer": {"name": "threshold", "low": 0.1, "high": 0.9}},
        {"name": "per-anchor", "reducer": {"name": "avg-non-zero"}},
        {"name": "by-part", "reducers": {"loss": {"name": "mean"}, "pos_loss": {"name": "avg-non-zero"},
                                         "neg_loss": {"name": "per-anchor", "reducer": {"name": "sum"}}}}
    ]"#,
    )?;
    let held: Vec<String> = reducers.iter().map(name_of).collect::<Result<_, _>>()?;
    let missing: Vec<String> =
        names::<ReducerSpec>().into_iter().filter(|name| !held.contains(name)).collect();
    assert_eq!(missing, ["do-nothing"], "which leaves no scalar");
    let losses =
        r#"[{"name": "contrastive"}, {"name": "triplet-margin", "margin": 0.3}, {"name": "sup-con"}]"#;
    let losses: Vec<LossSpec> = serde_json::from_str(losses)?;
    for (inner, dtype) in honest() {
        let batch = batch(dtype, false)?;
        for (loss, reducer) in
            losses.iter().flat_map(|loss| reducers.iter().map(move |reducer| (loss, reducer)))
        {
            let objective = |told: Arc<Told>| -> dml_loss::Result<Objective> {
                Ok(Objective::new(loss.build(told, dtype, &Device::Cpu)?).with_reducer(reducer.build()))
            };
            let forward = |told: Arc<Told>| -> Outcome { numbers(&objective(told)?.forward(&batch)?) };
            let listed = |told: Arc<Told>| -> Outcome {
                let objective = objective(told)?;
                let parts = objective.unreduced(&batch, None)?;
                let values = parts.iter().map(|part| numbers(&objective.reducer.reduce(part, &LABELS)?));
                Ok(values.collect::<dml_loss::Result<Vec<_>>>()?.concat())
            };
            let name = format!("{loss:?} {reducer:?} {dtype:?}");
            assert!(hold(&name, &inner, forward)? > 0, "{name}");
            assert!(hold(&format!("{name} listed"), &inner, listed)? > 0, "{name}");
        }
    }
    Ok(())
}

/// The loss over a network that is well, and after every parameter of it became NaN.
fn before_and_after(spec: &LossSpec, dtype: DType) -> Result<(f64, Result<f64, Error>), Any> {
    let generator = icnn(4, dtype)?;
    let distance = Arc::new(BregmanDistance::new(generator.clone(), Side::First));
    let x = Var::from_tensor(&rows(3, 8, 4)?.to_dtype(dtype)?)?;
    let labels = [0, 1, 0, 1, 2, 2, 0, 1];
    let mut batch = Batch::new(&x, &labels)?;
    if wants_items(spec) {
        batch = batch.with_reference(&x, &labels)?;
    }
    let value = || -> Result<f64, Error> {
        let objective = Objective::new(spec.build(distance.clone(), dtype, &Device::Cpu)?);
        Ok(objective.forward(&batch)?.to_dtype(DType::F64)?.to_scalar()?)
    };
    let well = value()?;
    for parameter in generator.parameters() {
        let nan = (parameter.var.as_detached_tensor() * f64::NAN)?;
        parameter.var.set(&nan)?;
    }
    Ok((well, value()))
}

#[test]
fn every_loss_shows_it() -> Result<(), Any> {
    for dtype in [DType::F32, DType::F64] {
        let mut shown = 0;
        for spec in every_loss()?.into_iter().chain(every_memory()?) {
            let probe = BregmanDistance::new(icnn(4, dtype)?, Side::First);
            if !takes(&spec, &probe) {
                continue;
            }
            let (well, ill) = before_and_after(&spec, dtype).map_err(|e| format!("{spec:?}: {e}"))?;
            // Those with a distance of their own, as the angular loss, are what they were.
            let seen = ill.as_ref().map_or(true, |ill| ill.is_nan());
            assert!(seen || ill? == well, "{spec:?} {dtype:?} is still a number, {well} before");
            shown += usize::from(seen);
        }
        assert!(shown > 30, "only {shown} losses look at the distance");
    }
    Ok(())
}

/// A batch that shows NaN leaves nothing behind in what is remembered.
#[test]
fn a_histogram_does_not_remember_it() -> Result<(), Any> {
    let spec: LossSpec = serde_json::from_str(r#"{"name": "dynamic-soft-margin"}"#)?;
    let (good, generator) = (batch(DType::F64, false)?, icnn(4, DType::F64)?);
    let distance: Arc<dyn Distance> = Arc::new(BregmanDistance::new(generator, Side::First));
    let tale = Arc::new(Fickle { inner: distance, ill: AtomicBool::new(false) });
    let loss = spec.build(tale.clone(), DType::F64, &Device::Cpu)?;
    let objective = Objective::new(loss);
    objective.forward(&good)?;
    let before = numbers(&objective.loss.state()?["histogram"])?;
    tale.ill.store(true, Ordering::SeqCst);
    assert!(numbers(&objective.forward(&good)?)?[0].is_nan());
    assert_eq!(numbers(&objective.loss.state()?["histogram"])?, before);
    tale.ill.store(false, Ordering::SeqCst);
    assert!(numbers(&objective.forward(&good)?)?[0].is_finite());
    Ok(())
}

/// A distance that is NaN while it is ill.
#[derive(Debug)]
struct Fickle {
    inner: Arc<dyn Distance>,
    ill: AtomicBool,
}

impl Distance for Fickle {
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> dml_loss::Result<Tensor> {
        let factor = if self.ill.load(Ordering::SeqCst) { f64::NAN } else { 1.0 };
        Ok((self.inner.all_pairs(anchors, others)? * factor)?)
    }

    fn paired(&self, anchors: &Tensor, others: &Tensor) -> dml_loss::Result<Tensor> {
        self.inner.paired(anchors, others)
    }
}

/// A generator whose parameters became NaN is seen by the regularizers that look at it.
#[test]
fn regularizers_of_the_generator_show_it() -> Result<(), Any> {
    for text in [r#"{"name": "curvature"}"#, r#"{"name": "scale"}"#] {
        let spec: RegularizerSpec = serde_json::from_str(text)?;
        let x = rows(3, 8, 4)?;
        let generator = icnn(4, DType::F64)?;
        let phi: Arc<dyn Generator> = generator.clone();
        let regularizer = spec.build(Some(&phi))?;
        let value = || -> Result<Option<f64>, Any> {
            Ok(regularizer.penalty(&x)?.map(|penalty| penalty.to_scalar()).transpose()?)
        };
        assert!(value()?.is_some_and(|penalty| penalty.is_finite()), "{text}");
        for parameter in generator.parameters() {
            parameter.var.set(&(parameter.var.as_detached_tensor() * f64::NAN)?)?;
        }
        if let Ok(penalty) = value() {
            assert!(penalty.is_some_and(f64::is_nan), "{text}: {penalty:?}");
        }
    }
    Ok(())
}

/// Rows whose squares overflow are far apart, not equal; a NaN entry makes its row's distances NaN.
#[test]
fn distances_overflow_to_infinity_and_not_to_zero() -> Result<(), Any> {
    let x = Var::new(&[[2e19f32], [-2e19], [0.0]], &Device::Cpu)?;
    let nan = Var::new(&[[f32::NAN], [1.0], [5.0]], &Device::Cpu)?;
    for (p, power) in [(2.0, 1.0), (2.0, 2.0), (2.0, 3.0), (3.0, 1.0), (1.0, 0.5)] {
        let distance = Lp::new(p, power, false)?;
        // The distance itself is a number where its square is none.
        let (far, want) = (distance.all_pairs(&x, &x)?.to_vec2::<f32>()?[0][1], 4e19f64.powf(power) as f32);
        assert!(far == want || (far / want - 1.0).abs() < 1e-5, "p {p} power {power}: {far:e} for {want:e}");
        let seen = distance.all_pairs(&nan, &nan)?.to_vec2::<f32>()?;
        assert!(seen[0][1].is_nan(), "p {p} power {power}: {seen:?}");
        let seen = distance.paired(&nan, &nan)?.to_vec1::<f32>()?;
        assert!(seen[0].is_nan() && seen[1] == 0.0, "p {p} power {power}: {seen:?}");
    }
    Ok(())
}
