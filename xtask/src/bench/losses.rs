//! Losses of the catalogue alone, at the defaults of pytorch-metric-learning, with the usual miner where there is one.

use candle_core::{DType, Device};
use dml_loss::{Objective, ObjectiveSpec};
use serde_json::{Value, json};

/// What a case gives the loss beside embeddings and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Nothing more.
    Labels,
    /// A table of classes, whose size must be said.
    Classes,
    /// A second view of each row.
    Views,
}

/// A case: the name in its id, the objective as a configuration file writes it, and what it is given.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// `loss/NAME/…`.
    pub name: &'static str,
    /// The loss, its miner and reducer.
    objective: &'static str,
    /// What it is given.
    pub given: Given,
    /// Rows, where the other side needs too much memory or time for 512.
    pub rows: usize,
    /// At most so many repetitions, where the other side takes seconds.
    pub most_repetitions: usize,
}

const fn case(name: &'static str, objective: &'static str) -> Loss {
    Loss { name, objective, given: Given::Labels, rows: 512, most_repetitions: usize::MAX }
}

const fn table(name: &'static str, objective: &'static str) -> Loss {
    Loss { given: Given::Classes, ..case(name, objective) }
}

/// The other side makes a table of positive by negative pairs: gigabytes and seconds.
const fn slow(loss: Loss, rows: usize, most_repetitions: usize) -> Loss {
    Loss { rows, most_repetitions, ..loss }
}

/// Losses compared with the other side's.
///
/// Left out is what the other side draws at random: N-pairs and the meta-classes of the manifold loss (here they are the
/// labels on both sides), or lacks: the centroid triplet loss.
pub const LOSSES: [Loss; 39] = [
    case("contrastive", r#"{"loss": {"name": "contrastive"}}"#),
    case(
        "triplet-margin-batch-hard",
        r#"{"loss": {"name": "triplet-margin"}, "miner": {"name": "batch-hard"}}"#,
    ),
    case("sup-con", r#"{"loss": {"name": "sup-con"}}"#),
    case(
        "multi-similarity-miner",
        r#"{"loss": {"name": "multi-similarity"}, "miner": {"name": "multi-similarity"}}"#,
    ),
    case("multi-similarity", r#"{"loss": {"name": "multi-similarity"}}"#),
    case("circle", r#"{"loss": {"name": "circle"}}"#),
    case("fast-ap", r#"{"loss": {"name": "fast-ap"}}"#),
    slow(case("nt-xent", r#"{"loss": {"name": "nt-xent"}}"#), 512, 3),
    slow(case("triplet-margin-all", r#"{"loss": {"name": "triplet-margin"}}"#), 512, 5),
    slow(case("margin", r#"{"loss": {"name": "margin"}}"#), 512, 5),
    case("signal-to-noise-contrastive", r#"{"loss": {"name": "signal-to-noise-contrastive"}}"#),
    slow(case("lifted-structure", r#"{"loss": {"name": "lifted-structure"}}"#), 128, 3),
    case("generalized-lifted-structure", r#"{"loss": {"name": "generalized-lifted-structure"}}"#),
    case("intra-pair-variance", r#"{"loss": {"name": "intra-pair-variance"}}"#),
    case("nca", r#"{"loss": {"name": "nca"}}"#),
    slow(case("tuplet-margin", r#"{"loss": {"name": "tuplet-margin"}}"#), 256, 3),
    slow(case("angular", r#"{"loss": {"name": "angular"}}"#), 512, 3),
    slow(case("smooth-ap", r#"{"loss": {"name": "smooth-ap"}}"#), 256, 3),
    slow(case("pnp", r#"{"loss": {"name": "pnp"}}"#), 256, 3),
    slow(case("histogram", r#"{"loss": {"name": "histogram"}}"#), 512, 5),
    case("ranked-list", r#"{"loss": {"name": "ranked-list"}}"#),
    case("threshold-consistent-margin", r#"{"loss": {"name": "threshold-consistent-margin"}}"#),
    slow(
        case("dynamic-soft-margin", r#"{"loss": {"name": "dynamic-soft-margin", "momentum": 1.0}}"#),
        512,
        5,
    ),
    case("instance", r#"{"loss": {"name": "instance"}}"#),
    Loss { given: Given::Views, ..case("vic-reg", r#"{"loss": {"name": "vic-reg"}}"#) },
    Loss {
        given: Given::Views,
        ..slow(
            case("two-views-nt-xent", r#"{"loss": {"name": "two-views", "loss": {"name": "nt-xent"}}}"#),
            128,
            5,
        )
    },
    case(
        "cross-batch-memory-contrastive",
        r#"{"loss": {"name": "cross-batch-memory", "memory_size": 1024, "loss": {"name": "contrastive"}}}"#,
    ),
    table(
        "manifold",
        r#"{"loss": {"name": "manifold", "meta_classes": "labels", "embedding_size": "d", "num_proxies": "c"}}"#,
    ),
    table("proxy-nca", r#"{"loss": {"name": "proxy-nca", "embedding_size": "d", "num_classes": "c"}}"#),
    table("proxy-anchor", r#"{"loss": {"name": "proxy-anchor", "embedding_size": "d", "num_classes": "c"}}"#),
    table(
        "normalized-softmax",
        r#"{"loss": {"name": "normalized-softmax", "embedding_size": "d", "num_classes": "c"}}"#,
    ),
    table("cos-face", r#"{"loss": {"name": "cos-face", "embedding_size": "d", "num_classes": "c"}}"#),
    table("arc-face", r#"{"loss": {"name": "arc-face", "embedding_size": "d", "num_classes": "c"}}"#),
    table(
        "sub-center-arc-face",
        r#"{"loss": {"name": "arc-face", "sub_centers": 3, "embedding_size": "d", "num_classes": "c"}}"#,
    ),
    table("sphere-face", r#"{"loss": {"name": "sphere-face", "embedding_size": "d", "num_classes": "c"}}"#),
    table(
        "large-margin-softmax",
        r#"{"loss": {"name": "large-margin-softmax", "embedding_size": "d", "num_classes": "c"}}"#,
    ),
    table("soft-triple", r#"{"loss": {"name": "soft-triple", "embedding_size": "d", "num_classes": "c"}}"#),
    table("p2s-grad", r#"{"loss": {"name": "p2s-grad", "embedding_size": "d", "num_classes": "c"}}"#),
    slow(
        case(
            "triplet-margin-semi-hard",
            r#"{"loss": {"name": "triplet-margin"}, "miner": {"name": "triplet-margin", "type_of_triplets": "semi-hard"}}"#,
        ),
        512,
        5,
    ),
];

impl Loss {
    /// The objective, of so many classes and columns where it has a table of them.
    ///
    /// # Errors
    /// When the specification does not hold.
    pub fn objective(&self, classes: usize, d: usize) -> anyhow::Result<Objective> {
        let mut spec: Value = serde_json::from_str(self.objective)?;
        if let Some(loss) = spec["loss"].as_object_mut() {
            for size in loss.values_mut().filter(|value| value.is_string()) {
                match size.as_str() {
                    Some("d") => *size = json!(d),
                    Some("c") => *size = json!(classes),
                    _ => {}
                }
            }
        }
        let spec: ObjectiveSpec = serde_json::from_value(spec)?;
        Ok(spec.build(None, DType::F32, &Device::Cpu)?)
    }
}

/// The case of this name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> anyhow::Result<Loss> {
    let found = LOSSES.into_iter().find(|loss| loss.name == name);
    found.ok_or_else(|| anyhow::anyhow!("no loss case `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_can_be_built() -> anyhow::Result<()> {
        for loss in LOSSES {
            let objective = loss.objective(4, 8).map_err(|e| anyhow::anyhow!("{}: {e}", loss.name))?;
            let table = loss.given == Given::Classes;
            assert_eq!(!objective.loss.own_parameters().is_empty(), table, "{}", loss.name);
            assert_eq!(find(loss.name)?.name, loss.name);
        }
        Ok(())
    }
}
