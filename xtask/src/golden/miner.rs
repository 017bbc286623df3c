//! Miners: which tuples of a batch they select, as sets; of a miner that draws, the probabilities.

use dml_loss::{DistanceWeighted, MinerSpec, PairList, Tuples};
use serde_json::Value;

use super::{
    case::{Case, Verdict, unsupported},
    spec,
};

/// Compares the selected tuples.
pub fn compare(case: &Case<'_>) -> Result<(), Verdict> {
    let mut params = case.all_params()?.clone();
    let Some(class) = case.field("peer_class").and_then(Value::as_str) else {
        return unsupported("no `peer_class`");
    };
    let Some(distance) = params.remove("distance") else { return unsupported("no parameter `distance`") };
    let distance = spec::distance(&distance)?;
    let read = spec::read::<MinerSpec>(class, &params)?;
    let miner = match read.build(distance.clone()) {
        Ok(miner) => miner,
        Err(error) => return unsupported(error.to_string()),
    };
    let inputs = spec::inputs(case)?;
    case.everything_used()?;
    if let MinerSpec::DistanceWeighted(config) = read {
        let weights = DistanceWeighted::new(distance, config)?.weights(&inputs.batch)?;
        return case.array("weights", "", &weights);
    }

    let Some(expected) = spec::tuples(|role, width| case.expected_indices_if_any(role, width))? else {
        return unsupported("no expected `triplets` or `pos_pairs` and `neg_pairs`");
    };
    let (got, expected) = (sorted(&miner.mine(&inputs.batch)?), sorted(&expected));
    if got == expected {
        return Ok(());
    }
    let (what, tuple) = match expected.iter().find(|tuple| !got.contains(tuple)) {
        Some(tuple) => ("without", tuple),
        None => ("with", got.iter().find(|tuple| !expected.contains(tuple)).unwrap_or(&NONE)),
    };
    let (n, m) = (expected.len(), got.len());
    Err(Verdict::Fail(format!("tuples ({:?}) {n} {m}, {what} {tuple:?}", case.dtype)))
}

/// A tuple with its kind: triplet, positive or negative pair.
type Tagged = (&'static str, Vec<u32>);

static NONE: Tagged = ("duplicates", Vec::new());

fn sorted(tuples: &Tuples) -> Vec<Tagged> {
    let list = |kind, list: &PairList| -> Vec<Tagged> {
        list.anchor.iter().zip(&list.other).map(|(&a, &o)| (kind, vec![a, o])).collect()
    };
    let mut all = match tuples {
        Tuples::Pairs(pairs) => {
            [list("positive", &pairs.positive), list("negative", &pairs.negative)].concat()
        }
        Tuples::Triplets(t) => {
            (0..t.len()).map(|i| ("triplet", vec![t.anchor[i], t.positive[i], t.negative[i]])).collect()
        }
    };
    all.sort();
    all
}
