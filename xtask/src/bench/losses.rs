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

/// Rows of a class, where a case does not say otherwise.
pub const PER_CLASS: usize = 16;

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
    /// Rows of a class.
    pub per_class: usize,
    /// Whether the rows of a class stand together, which the other side's Smooth-AP needs; they alternate elsewhere.
    pub grouped: bool,
    /// Whether the other side has such a loss.
    pub peer: bool,
}

const fn case(name: &'static str, objective: &'static str) -> Loss {
    Loss {
        name,
        objective,
        given: Given::Labels,
        rows: 512,
        most_repetitions: usize::MAX,
        per_class: PER_CLASS,
        grouped: false,
        peer: true,
    }
}

const fn table(name: &'static str, objective: &'static str) -> Loss {
    Loss { given: Given::Classes, ..case(name, objective) }
}

const fn views(name: &'static str, objective: &'static str) -> Loss {
    Loss { given: Given::Views, ..case(name, objective) }
}

/// The other side makes a table of positive by negative pairs: gigabytes and seconds.
const fn slow(loss: Loss, rows: usize, most_repetitions: usize) -> Loss {
    Loss { rows, most_repetitions, ..loss }
}

/// Every loss of the catalogue, compared with the other side's where it has one: it lacks the centroid triplet loss, which
/// is timed alone.
///
/// The other side draws the meta-classes of the manifold loss at random; here they are the labels on both sides. In-batch
/// InfoNCE is its NT-Xent of two views with the first as anchors, the momentum queue its memory with a mask of what enters.
pub const LOSSES: [Loss; 45] = [
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
    // With 16 rows a class the other side's table of positive by negative pairs is more than 24 GB.
    Loss { per_class: 2, ..slow(case("nt-xent", r#"{"loss": {"name": "nt-xent"}}"#), 512, 5) },
    slow(case("nt-xent-16-a-class", r#"{"loss": {"name": "nt-xent"}}"#), 128, 5),
    slow(case("triplet-margin-all", r#"{"loss": {"name": "triplet-margin"}}"#), 512, 5),
    slow(case("margin", r#"{"loss": {"name": "margin"}}"#), 512, 5),
    case("signal-to-noise-contrastive", r#"{"loss": {"name": "signal-to-noise-contrastive"}}"#),
    slow(case("lifted-structure", r#"{"loss": {"name": "lifted-structure"}}"#), 128, 5),
    case("generalized-lifted-structure", r#"{"loss": {"name": "generalized-lifted-structure"}}"#),
    case("intra-pair-variance", r#"{"loss": {"name": "intra-pair-variance"}}"#),
    case("nca", r#"{"loss": {"name": "nca"}}"#),
    // At the usual scale of 64 the loss is 1e-5 here, of which the other side's logarithm of 1 + e keeps three digits.
    slow(case("tuplet-margin-scale-8", r#"{"loss": {"name": "tuplet-margin", "scale": 8.0}}"#), 256, 5),
    slow(case("angular", r#"{"loss": {"name": "angular"}}"#), 512, 5),
    Loss { grouped: true, ..slow(case("smooth-ap", r#"{"loss": {"name": "smooth-ap"}}"#), 256, 5) },
    slow(case("pnp", r#"{"loss": {"name": "pnp"}}"#), 256, 5),
    slow(case("histogram", r#"{"loss": {"name": "histogram"}}"#), 512, 5),
    case("ranked-list", r#"{"loss": {"name": "ranked-list"}}"#),
    case("threshold-consistent-margin", r#"{"loss": {"name": "threshold-consistent-margin"}}"#),
    // With 3.8 million triplets at n = 512 the other side's histogram of f32 sums is off by 2e-3 from its own in f64.
    slow(
        case("dynamic-soft-margin", r#"{"loss": {"name": "dynamic-soft-margin", "momentum": 1.0}}"#),
        128,
        5,
    ),
    case("instance", r#"{"loss": {"name": "instance"}}"#),
    views("vic-reg", r#"{"loss": {"name": "vic-reg"}}"#),
    slow(
        views("two-views-nt-xent", r#"{"loss": {"name": "two-views", "loss": {"name": "nt-xent"}}}"#),
        128,
        5,
    ),
    slow(
        views(
            "info-nce",
            r#"{"loss": {"name": "info-nce", "temperature": 0.07}, "distance": {"name": "cosine"}}"#,
        ),
        512,
        5,
    ),
    case("n-pairs", r#"{"loss": {"name": "n-pairs"}}"#),
    Loss { peer: false, ..case("centroid-triplet", r#"{"loss": {"name": "centroid-triplet"}}"#) },
    case(
        "weighted-sum",
        r#"{"loss": {"name": "weighted-sum", "terms": [
            {"objective": {"loss": {"name": "contrastive"}}},
            {"objective": {"loss": {"name": "multi-similarity"}}, "weight": 0.5}
        ]}}"#,
    ),
    views(
        "momentum-queue-contrastive",
        r#"{"loss": {"name": "momentum-queue", "labels": "given", "loss": {"name": "contrastive"}}}"#,
    ),
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
    use std::collections::BTreeSet;

    use dml_loss::LossSpec;

    use super::*;

    /// The names by which a configuration file may ask for a loss, without their aliases.
    fn catalogue() -> BTreeSet<String> {
        let message = serde_json::from_value::<LossSpec>(json!({"name": ""})).unwrap_err().to_string();
        let quoted = message.split('`').skip(1).step_by(2).filter(|name| !name.is_empty());
        quoted.filter(|name| !name.contains(char::is_uppercase)).map(str::to_owned).collect()
    }

    #[test]
    fn every_loss_of_the_catalogue_has_a_case() -> anyhow::Result<()> {
        let mut timed = BTreeSet::new();
        for loss in LOSSES {
            let spec: Value = serde_json::from_str(loss.objective)?;
            timed.extend(spec["loss"]["name"].as_str().map(str::to_owned));
        }
        assert!(timed.len() > 30);
        assert_eq!(timed, catalogue());
        Ok(())
    }

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
