//! What a user can get wrong: each is an error that names tensor or parameter, the value, and what to do; none is a
//! panic.

mod common;

use std::{panic::AssertUnwindSafe, result::Result, sync::Arc};

use bregman::Side;
use candle_core::{DType, Device, Tensor, Var};
use common::{
    Any, every_distance, every_loss, every_memory, every_miner, icnn, name_of, rows, takes, wants_items,
};
use dml_loss::*;

fn message<T>(result: Result<T, Error>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_else(|| "no error".to_owned())
}

#[test]
fn batches_of_the_wrong_form_are_named() -> Result<(), Any> {
    let x = rows(1, 2, 3)?;
    let of = |dtype| x.to_dtype(dtype);
    let cube = Tensor::zeros((2, 3, 1), DType::F32, &Device::Cpu)?;
    let no_columns = Tensor::zeros((2, 0), DType::F32, &Device::Cpu)?;
    let infinite = Tensor::new(&[[0f32, 1.0], [f32::NEG_INFINITY, 0.0]], &Device::Cpu)?;
    let two = [0, 1];
    let cases = [
        (Batch::new(&x, &[0]), "Batch::new: `labels` holds 1 labels for 2 rows; give one label a row"),
        (Batch::new(&x, &[0, 1, 2]), "Batch::new: `labels` holds 3 labels for 2 rows; give one label a row"),
        (Batch::new(&x.get(0)?, &two), "Batch::new: `embeddings` has shape [3], expected [n, d]"),
        (Batch::new(&cube, &two), "Batch::new: `embeddings` has shape [2, 3, 1], expected [n, d]"),
        (
            Batch::new(&no_columns, &two),
            "Batch::new: `embeddings` has shape [2, 0], expected [n, d] with at least one column",
        ),
        (
            Batch::new(&of(DType::F16)?, &two),
            "Batch::new: `embeddings` holds F16, expected F32 or F64; convert it with `to_dtype`",
        ),
        (
            Batch::new(&of(DType::BF16)?, &two),
            "Batch::new: `embeddings` holds BF16, expected F32 or F64; convert it with `to_dtype`",
        ),
        (
            Batch::new(&of(DType::I64)?, &two),
            "Batch::new: `embeddings` holds I64, expected F32 or F64; convert it with `to_dtype`",
        ),
        (
            Batch::new(&of(DType::U8)?, &two),
            "Batch::new: `embeddings` holds U8, expected F32 or F64; convert it with `to_dtype`",
        ),
        (
            Batch::new(&infinite, &two),
            "Batch::new: row 1 of `embeddings` holds -inf; the encoder diverged or an input is damaged",
        ),
        (
            Batch::new(&x, &two)?.with_reference(&of(DType::F32)?, &two),
            "Batch::with_reference: `ref_embeddings` holds F32, expected F64 as the embeddings; convert it with `to_dtype`",
        ),
        (
            Batch::new(&x, &two)?.with_reference(&rows(1, 2, 4)?, &two),
            "Batch::with_reference: `ref_embeddings` has shape [2, 4], expected [m, 3]",
        ),
        (
            Batch::new(&x, &two)?.with_reference(&x, &[0]),
            "Batch::with_reference: `ref_labels` holds 1 labels for 2 rows; give one label a row",
        ),
    ];
    for (result, expected) in cases {
        assert_eq!(message(result), expected);
    }
    Ok(())
}

/// Every distance by itself: shapes, element types, and rows that do not fit one another.
#[test]
fn distances_refuse_what_they_cannot_compare() -> Result<(), Any> {
    let (x, narrow) = (rows(1, 2, 4)?, rows(1, 2, 3)?);
    let (half, single) = (x.to_dtype(DType::F16)?, x.to_dtype(DType::F32)?);
    let none = Tensor::zeros((0, 4), DType::F64, &Device::Cpu)?;
    for distance in every_distance(4, DType::F64)? {
        for (a, b, expected) in [
            (&x, &narrow, "`others` has shape [2, 3]"),
            (&x.get(0)?, &x, "`anchors` has shape [4]"),
            (&x, &x.unsqueeze(0)?, "`others` has shape [1, 2, 4]"),
            (&none, &x, "`anchors` has shape [0, 4]"),
            (&half, &half, "`anchors` holds F16, expected F32 or F64; convert it with `to_dtype`"),
            (&x, &single, "`others` holds F32, expected F64 as `anchors`; convert it with `to_dtype`"),
        ] {
            for text in [
                message(distance.all_pairs(a, b)),
                message(distance.pairs(a, b)),
                message(distance.paired(a, b)),
            ] {
                assert!(text.contains(expected), "{}: {text}", distance.name());
            }
        }
    }
    Ok(())
}

/// The names by which errors may call a loss: its own and those within it.
fn own_names(spec: &LossSpec) -> Result<Vec<String>, Any> {
    fn collect(value: &serde_json::Value, names: &mut Vec<String>) {
        let Some(table) = value.as_object() else {
            value.as_array().into_iter().flatten().for_each(|value| collect(value, names));
            return;
        };
        if let Some(name) = table.get("name").and_then(|name| name.as_str()) {
            let words = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
            names.push(words.collect());
        }
        table.values().for_each(|value| collect(value, names));
    }
    let mut names = Vec::new();
    collect(&serde_json::to_value(spec)?, &mut names);
    Ok(names)
}

/// Rows of another width or element type than a loss was built for: the loss says so by its name, and says what to do.
#[test]
fn every_loss_names_itself_where_rows_do_not_fit_it() -> Result<(), Any> {
    let labels = [0, 1, 0, 1, 0, 2];
    let x = rows(3, 6, 4)?;
    let wrong = [rows(3, 6, 3)?, rows(3, 6, 5)?, x.to_dtype(DType::F32)?];
    let learned: Vec<LossSpec> = serde_json::from_str(
        r#"[{"name": "margin", "learn_beta": true, "triplets_per_anchor": 2},
            {"name": "info-nce", "direction": "columns"},
            {"name": "manifold", "embedding_size": 4},
            {"name": "cross-batch-memory", "loss": {"name": "sup-con", "temperature": "learned"}, "memory_size": 8}]"#,
    )?;
    let mut named = 0;
    for distance in every_distance(4, DType::F64)? {
        for spec in every_loss()?.into_iter().chain(every_memory()?).chain(learned.clone()) {
            if !takes(&spec, &*distance) {
                continue;
            }
            for wrong in &wrong {
                let objective = Objective::new(spec.build(distance.clone(), DType::F64, &Device::Cpu)?);
                let mut batch = Batch::new(wrong, &labels)?;
                if wants_items(&spec) {
                    batch = batch.with_reference(wrong, &labels)?;
                }
                let same_type = wrong.dtype() == DType::F64;
                let own = objective.loss.own_parameters();
                // Of the terms of a sum the first may be one of which only the generator is learned.
                let of_generator =
                    matches!(spec, LossSpec::WeightedSum(_)) && !distance.parameters().is_empty();
                let refuses = !of_generator && own.iter().any(|p| !same_type || p.role == Role::Proxy);
                for text in [
                    message(objective.forward(&batch)),
                    message(objective.unreduced(&batch, None)),
                    message(objective.forward_with(&batch, None)),
                ] {
                    let case = format!("{spec:?} over {}: {text}", distance.name());
                    assert!(!text.contains("tensor operation failed"), "{case}");
                    if refuses {
                        let names = own_names(&spec)?;
                        assert!(names.iter().any(|name| text.starts_with(&format!("{name}: "))), "{case}");
                        let says = if same_type { ["[6, ", "embedding_size"] } else { ["F32", "`to_dtype`"] };
                        assert!(text.contains("`embeddings`"), "{case}");
                        assert!(says.iter().all(|word| text.contains(word)), "{case}");
                        named += 1;
                    }
                }
            }
        }
    }
    assert!(named > 500, "only {named} cases");
    Ok(())
}

/// Rows that are a view of something else give what their copy gives.
#[test]
fn views_are_as_good_as_copies() -> Result<(), Any> {
    let labels = [0, 1, 0, 1, 0, 2];
    let wide = rows(3, 4, 12)?;
    let transposed = wide.narrow(1, 3, 6)?.t()?; // [6, 4], neither contiguous nor at the start
    assert!(!transposed.is_contiguous());
    for distance in every_distance(4, DType::F64)? {
        for spec in every_loss()?.into_iter().chain(every_memory()?).filter(|spec| takes(spec, &*distance)) {
            let value = |x: &Tensor| -> Result<f64, Any> {
                let mut batch = Batch::new(x, &labels)?;
                if wants_items(&spec) {
                    batch = batch.with_reference(x, &labels)?;
                }
                let objective = Objective::new(spec.build(distance.clone(), DType::F64, &Device::Cpu)?);
                Ok(objective.forward(&batch).map_err(|e| format!("{spec:?}: {e}"))?.to_scalar()?)
            };
            let (view, copy) = (value(&transposed)?, value(&transposed.contiguous()?)?);
            assert!((view - copy).abs() <= 1e-12 * copy.abs().max(1.0), "{spec:?}: {view} {copy}");
        }
        for spec in every_miner()? {
            if let Ok(miner) = spec.build(distance.clone()) {
                let mined = |x: &Tensor| miner.mine(&Batch::new(x, &labels)?);
                assert_eq!(mined(&transposed)?.len(), mined(&transposed.contiguous()?)?.len(), "{spec:?}");
            }
        }
    }
    Ok(())
}

/// Squares of 1e30 overflow in f32: what comes is an error, a number, or something that shows, and never a panic.
#[test]
fn huge_embeddings_do_not_panic() -> Result<(), Any> {
    let labels = [0, 1, 0, 1, 0, 2];
    for size in [1e18, 1e30, 3e38] {
        let x = Var::from_tensor(&(rows(3, 6, 4)? * size)?.to_dtype(DType::F32)?)?;
        for distance in every_distance(4, DType::F32)? {
            for spec in
                every_loss()?.into_iter().chain(every_memory()?).filter(|spec| takes(spec, &*distance))
            {
                let run = || -> Result<(), Any> {
                    let mut batch = Batch::new(&x, &labels)?;
                    if wants_items(&spec) {
                        batch = batch.with_reference(&x, &labels)?;
                    }
                    let objective = Objective::new(spec.build(distance.clone(), DType::F32, &Device::Cpu)?);
                    objective.calibrate(&batch)?;
                    objective.forward(&batch)?.backward()?;
                    Ok(())
                };
                let unwound = std::panic::catch_unwind(AssertUnwindSafe(|| run().map_err(|e| e.to_string())));
                assert!(unwound.is_ok(), "{spec:?} over {} at {size:e}", distance.name());
            }
            for spec in every_miner()? {
                let Ok(miner) = spec.build(distance.clone()) else { continue };
                let batch = Batch::new(&x, &labels)?;
                let unwound = std::panic::catch_unwind(AssertUnwindSafe(|| miner.mine(&batch).err()));
                assert!(unwound.is_ok(), "{spec:?} over {} at {size:e}", distance.name());
            }
        }
    }
    let x = (rows(3, 6, 4)? * 1e30)?.to_dtype(DType::F32)?;
    let miner = PairMargin { distance: Arc::new(Lp::squared()), config: PairMarginConfig::default() };
    assert_eq!(
        message(miner.mine(&Batch::new(&x, &labels)?)),
        "PairMargin: the distance of row 0 to column 1 is inf, expected a finite number; the distance diverged, or the \
         embeddings are too large for their element type"
    );
    Ok(())
}

/// Errors name a distance, a loss or a reducer; they do not print what it holds.
#[test]
fn errors_name_a_distance_in_a_few_words() -> Result<(), Any> {
    let learned: Arc<dyn Distance> = Arc::new(BregmanDistance::new(icnn(4, DType::F32)?, Side::First));
    let cosine: Arc<dyn Distance> = Arc::new(Cosine);
    let cases = [
        (
            r#"{"name": "cos-face", "num_classes": 3, "embedding_size": 4}"#,
            &learned,
            "CosFace: `distance` is BregmanDistance over Icnn of dimension 4, expected a cosine",
        ),
        (
            r#"{"name": "sphere-face", "num_classes": 3, "embedding_size": 4}"#,
            &learned,
            "SphereFace: `distance` is BregmanDistance over Icnn of dimension 4, expected a cosine",
        ),
        (
            r#"{"name": "manifold", "embedding_size": 4}"#,
            &learned,
            "Manifold: `distance` is BregmanDistance over Icnn of dimension 4, expected a similarity",
        ),
        (r#"{"name": "ranked-list"}"#, &cosine, "RankedList: `distance` is Cosine, expected no similarity"),
    ];
    for (text, distance, expected) in cases {
        let spec: LossSpec = serde_json::from_str(text)?;
        assert_eq!(message(spec.build(distance.clone(), DType::F32, &Device::Cpu)), expected);
    }
    let batch = Batch::new(&rows(1, 2, 4)?.to_dtype(DType::F32)?, &[0, 0])?;
    let tuplet = TupletMargin { distance: learned.clone(), config: TupletMarginConfig::default() };
    assert_eq!(
        message(Objective::new(Arc::new(tuplet)).forward(&batch)),
        "TupletMargin: `distance` is BregmanDistance over Icnn of dimension 4, expected a cosine, as the margin is an angle"
    );
    assert_eq!(
        message(DistanceWeighted::new(cosine, DistanceWeightedConfig::default())),
        "DistanceWeighted: `distance` is Cosine, expected the Euclidean distance of normalized rows"
    );
    let quadratic = BregmanDistance::new(Arc::new(phi::SquaredEuclidean), Side::Second);
    assert_eq!(quadratic.name(), "BregmanDistance over SquaredEuclidean");
    let loss = Contrastive { distance: learned, config: ContrastiveConfig::default() };
    let regularization =
        Regularization { regularizer: Arc::new(ZeroMean), on: RegularizedRows::Weights, weight: 1.0 };
    assert_eq!(
        message(Objective::new(Arc::new(loss)).with_regularization(regularization).forward(&batch)),
        "Objective: `regularizer` is `weights` for Contrastive, expected `embeddings`, as it has no table"
    );
    Ok(())
}

/// Every number of every specification as NaN, infinite, negative, zero and huge: a build or a batch that is an error,
/// or a value; what no number may be is an error.
#[test]
fn no_parameter_is_taken_unseen() -> Result<(), Any> {
    let labels = [0, 1, 0, 1, 0, 2];
    let x = rows(3, 6, 4)?;
    let mut tried = 0;
    for spec in every_loss()?.into_iter().chain(every_memory()?) {
        let name = name_of(&spec)?;
        let table = toml::Value::try_from(&spec)?;
        for (field, value) in table.as_table().into_iter().flatten() {
            let changed: Vec<toml::Value> = match value {
                toml::Value::Float(_) => {
                    let floats = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, 1e300];
                    floats.map(toml::Value::Float).to_vec()
                }
                // A count of 0, one too many, one beyond all bounds.
                toml::Value::Integer(_) if field != "seed" => {
                    [0, i64::from(u32::MAX), i64::MAX].map(toml::Value::Integer).to_vec()
                }
                _ => continue,
            };
            for wrong in changed {
                let mut table = table.clone();
                table[field.as_str()] = wrong.clone();
                let spec: LossSpec = table.try_into()?;
                let distance = spec.default_distance().build(None)?;
                let run = || -> Result<f64, Error> {
                    let mut batch = Batch::new(&x, &labels)?;
                    if wants_items(&spec) {
                        batch = batch.with_reference(&x, &labels)?;
                    }
                    let objective = Objective::new(spec.build(distance, DType::F64, &Device::Cpu)?);
                    Ok(objective.forward(&batch)?.to_scalar()?)
                };
                let Ok(outcome) = std::panic::catch_unwind(AssertUnwindSafe(run)) else {
                    return Err(format!("{name}: {field} = {wrong} panics").into());
                };
                tried += 1;
                let unheard = wrong.as_float().is_some_and(|v| v.is_nan());
                match outcome {
                    Err(error) => {
                        let text = error.to_string();
                        assert!(!text.contains("tensor operation"), "{name}: {field} = {wrong}: {text}");
                        assert!(
                            !unheard || text.contains(field.as_str()),
                            "{name}: {field} = {wrong}: {text}"
                        );
                    }
                    Ok(value) => assert!(!unheard, "{name}: {field} = {wrong} gives {value}"),
                }
            }
        }
    }
    assert!(tried > 300, "only {tried} parameters");
    Ok(())
}

#[test]
fn parameters_out_of_range_are_named() -> Result<(), Any> {
    let loss = |text: &str| -> String {
        match toml::from_str::<LossSpec>(text) {
            Ok(spec) => message(
                spec.default_distance().build(None).and_then(|d| spec.build(d, DType::F32, &Device::Cpu)),
            ),
            Err(error) => error.to_string(),
        }
    };
    let cases = [
        (
            "name = \"contrastive\"\npos_margin = nan",
            "Contrastive: `pos_margin` is NaN, expected a finite number",
        ),
        (
            "name = \"triplet-margin\"\nmargin = -inf",
            "TripletMargin: `margin` is -inf, expected a finite number",
        ),
        (
            "name = \"triplet-margin\"\ntriplets_per_anchor = 9000000000",
            "TripletMargin: `triplets_per_anchor` is 9000000000, expected at most 1048576",
        ),
        (
            "name = \"sup-con\"\ntemperature = -0.1",
            "Temperature: `temperature` is -0.1, expected a positive number or \"learned\"",
        ),
        (
            "name = \"normalized-softmax\"\nnum_classes = 2\nembedding_size = 2\ntemperature = 0.0",
            "NormalizedSoftmax: `temperature` is 0, expected a positive number",
        ),
        (
            "name = \"proxy-nca\"\nnum_classes = 9000000000\nembedding_size = 9000000000",
            "ProxyNca: `num_classes` is 9000000000, expected a table of at most 4294967295 numbers, not 9000000000 × \
             9000000000",
        ),
        (
            "name = \"arc-face\"\nnum_classes = 9\nembedding_size = 9\nsub_centers = 9000000000",
            "ArcFace: `sub_centers` is 9000000000, expected at most 1048576",
        ),
        (
            "name = \"dynamic-soft-margin\"\nnum_bins = 9000000000000",
            "DynamicSoftMargin: `num_bins` is 9000000000000, expected at most 1048576",
        ),
        ("name = \"angular\"\nalpha = 90.0", "Angular: `alpha` is 90, expected degrees from 0 to below 90"),
        (
            "name = \"weighted-sum\"\n[[terms]]\nweight = nan\nobjective = { loss = { name = \"contrastive\" } }",
            "WeightedSum: `weight` is NaN, expected a finite number",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(loss(text), expected, "{text}");
    }
    let miner = |text: &str| -> Result<String, Any> {
        let batch = Batch::new(&rows(3, 6, 4)?, &[0, 1, 0, 1, 0, 2])?;
        let built = toml::from_str::<MinerSpec>(text)?.build(Arc::new(Lp::default()));
        Ok(message(built.and_then(|miner| miner.mine(&batch))))
    };
    let cases = [
        (
            "name = \"pair-margin\"\nneg_margin = nan",
            "PairMargin: `neg_margin` is NaN, expected a finite number",
        ),
        (
            "name = \"triplet-margin\"\nmargin = nan",
            "TripletMarginMiner: `margin` is NaN, expected a finite number",
        ),
        (
            "name = \"multi-similarity\"\nepsilon = inf",
            "MultiSimilarityMiner: `epsilon` is inf, expected a finite number",
        ),
        (
            "name = \"batch-hard\"\nallowed_pos_range = [nan, 1.0]",
            "BatchEasyHard: `allowed_pos_range` is [NaN, 1], expected a least and a larger value",
        ),
        (
            "name = \"batch-easy-hard\"\nallowed_neg_range = [2.0, 1.0]",
            "BatchEasyHard: `allowed_neg_range` is [2, 1], expected a least and a larger value",
        ),
        (
            "name = \"distance-weighted\"\nnonzero_loss_cutoff = nan",
            "DistanceWeighted: `nonzero_loss_cutoff` is NaN, expected a positive number",
        ),
        (
            "name = \"hard-aware\"\nfilter_percentage = nan",
            "HardAware: `filter_percentage` is NaN, expected a share in (0, 1]",
        ),
        (
            "name = \"uniform-histogram\"\nnum_bins = 9000000000",
            "UniformHistogram: `num_bins` is 9000000000, expected at most 1048576",
        ),
        (
            "name = \"random-triplets\"\ntriplets_per_anchor = 9000000000",
            "RandomTriplets: `triplets_per_anchor` is 9000000000, expected at most 1048576",
        ),
        (
            "name = \"angular\"\nangle = nan",
            "AngularMiner: `angle` is NaN, expected degrees from 0 to below 90",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(miner(text)?, expected, "{text}");
    }
    let reducer = |text: &str| -> Result<String, Any> {
        let batch = Batch::new(&rows(3, 6, 4)?, &[0, 1, 0, 1, 0, 2])?;
        let loss = Contrastive { distance: Arc::new(Lp::default()), config: ContrastiveConfig::default() };
        let reducer = toml::from_str::<ReducerSpec>(text)?.build();
        Ok(message(Objective::new(Arc::new(loss)).with_reducer(reducer).forward(&batch)))
    };
    let cases = [
        ("name = \"threshold\"\nlow = nan", "Threshold: `low` is NaN, expected a number, or none"),
        ("name = \"divisor\"\ndivisor = inf", "Divisor: `divisor` is inf, expected a finite number"),
        (
            "name = \"class-weighted\"\nweights = [1.0, nan, 1.0]",
            "ClassWeighted: `weights` is NaN, expected a finite number",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(reducer(text)?, expected, "{text}");
    }
    let distance = |text: &str| -> Result<String, Any> {
        Ok(message(toml::from_str::<DistanceSpec>(text)?.build(None)))
    };
    assert_eq!(distance("name = \"lp\"\np = 0.99")?, "Lp: `p` is 0.99, expected 1 ≤ p < ∞");
    assert_eq!(distance("name = \"lp\"\npower = nan")?, "Lp: `power` is NaN, expected a positive number");
    let x = rows(3, 2, 4)?;
    assert_eq!(message(Lp::raw(f64::INFINITY).all_pairs(&x, &x)), "Lp: `p` is inf, expected 1 ≤ p < ∞");
    assert_eq!(message(Lp::raw(f64::NAN).pairs(&x, &x)), "Lp: `p` is NaN, expected 1 ≤ p < ∞");
    assert_eq!(Lp::raw(0.5).p(), 1.0);
    let ratio = SignalToNoise { power: -1.0, ..SignalToNoise::default() };
    assert_eq!(message(ratio.paired(&x, &x)), "SignalToNoise: `power` is -1, expected a positive number");
    assert_eq!(
        distance("name = \"signal-to-noise\"\np = 0.5")?,
        "SignalToNoise: `p` is 0.5, expected 1 ≤ p < ∞"
    );
    assert_eq!(distance("name = \"dot-product\"\np = inf")?, "DotProduct: `p` is inf, expected 1 ≤ p < ∞");
    Ok(())
}

/// Keys that are unknown, given twice, missing or of another type.
#[test]
fn specifications_say_what_is_wrong_with_them() {
    let error = |text: &str| {
        toml::from_str::<ObjectiveSpec>(text).err().map(|e| e.message().to_owned()).unwrap_or_default()
    };
    let cases = [
        (
            "loss = { name = \"contrastive\" }\nlos = 1",
            "unknown field `los`, expected one of `loss`, `distance`",
        ),
        (
            "loss = { name = \"contrastive\", margin = 1.0 }",
            "unknown field `margin`, expected `pos_margin` or `neg_margin`",
        ),
        ("loss = { name = \"contrastiv\" }", "unknown variant `contrastiv`, expected one of "),
        ("loss = { name = \"contrastive\", pos_margin = 1.0, pos_margin = 2.0 }", "duplicate key"),
        ("loss = { name = \"contrastive\" }\nloss = { name = \"n-pairs\" }", "duplicate key"),
        ("loss = { pos_margin = 1.0 }", "missing field `name`"),
        ("distance = { name = \"lp\" }", "missing field `loss`"),
        (
            "loss = { name = \"contrastive\", pos_margin = \"wide\" }",
            "invalid type: string \"wide\", expected f64",
        ),
        ("loss = { name = \"proxy-nca\", num_classes = -1 }", "invalid value: integer `-1`, expected usize"),
        ("loss = { name = \"n-pairs\", margin = 1.0 }", "unknown field `margin`"),
        ("loss = { name = \"n-pairs\" }\nminer = { name = \"batch-hard\", k = 1 }", "unknown field `k`"),
        ("loss = { name = \"n-pairs\" }\nreducer = { name = \"mean\", k = 1 }", "unknown field `k`"),
        (
            "loss = { name = \"n-pairs\" }\ndistance = { name = \"bregman\", side = 1 }",
            "unknown field `side`",
        ),
        (
            "loss = { name = \"sup-con\", temperature = \"warm\" }",
            "the temperature is a positive number, or \"learned\"",
        ),
    ];
    for (text, expected) in cases {
        assert!(error(text).contains(expected), "{text}\n{}", error(text));
    }
    let twice = r#"{"name": "contrastive", "pos_margin": 1.0, "pos_margin": 2.0}"#;
    let twice = serde_json::from_str::<LossSpec>(twice).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(twice.contains("duplicate field `pos_margin`"), "{twice}");
}
