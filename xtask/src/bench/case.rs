//! The cases: an id each, what is computed, and on what size.

use candle_core::DType;

use super::loader::Pictures;
use super::losses::{LOSSES, PER_CLASS};
use super::record::TOLERANCE;

/// Of a residual network's gradients in f32: eighteen layers of batch normalization carry its rounding so far that PyTorch's
/// own first layers, in f32 and in f64, differ by 1.5e-3. That both sides compute the same, the case in f64 shows.
const RESIDUAL_TOLERANCE: f64 = 1e-2;
/// The same in f64.
const RESIDUAL_TOLERANCE_F64: f64 = 1e-9;

/// What a case computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A square matrix product.
    Matmul { size: usize },
    /// As many multiply-adds as that has, from registers: the floor under it on this processor.
    MultiplyAdds { size: usize },
    /// A training step of the convolutional net: forward, backward, AdamW.
    Step { batch: usize, divergence: Divergence },
    /// A training step of ResNet-18 for 32×32 pixels under the supervised contrastive loss.
    ResNet { batch: usize, dtype: DType },
    /// Hardest triplets under the divergence of a convex network, alone: forward and backward.
    HardestTriplet { n: usize, d: usize },
    /// A loss of the catalogue, alone, at its defaults: forward and backward.
    Loss { name: &'static str, n: usize, d: usize },
    /// An epoch of a loader.
    Loader(Pictures),
}

/// What a training step compares embeddings by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Divergence {
    /// The learned divergence of an input-convex network.
    Icnn,
    /// The Euclidean distance of normalized rows.
    Euclidean,
}

/// A case of the benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// `GROUP/WORK/SIZE/DTYPE`, unique.
    pub id: String,
    /// What it computes.
    pub work: Work,
    /// At most so many repetitions, where a side takes seconds.
    pub most_repetitions: usize,
    /// Whether the peer can do it.
    pub peer: bool,
}

impl Case {
    /// The largest relative difference at which the results of both sides are the same.
    pub fn tolerance(&self) -> f64 {
        match self.work {
            Work::Loader(pictures) => pictures.tolerance(),
            Work::ResNet { dtype: DType::F32, .. } => RESIDUAL_TOLERANCE,
            Work::ResNet { .. } => RESIDUAL_TOLERANCE_F64,
            _ => TOLERANCE,
        }
    }
}

/// All cases, in the order in which they run.
pub fn all() -> Vec<Case> {
    let case = |group: &str, name: &str, size: &str, work| Case {
        id: format!("{group}/{name}/{size}/f32"),
        work,
        most_repetitions: usize::MAX,
        peer: true,
    };
    let step = |divergence| Work::Step { batch: 128, divergence };
    let residual = |batch, dtype| Work::ResNet { batch, dtype };
    let large = Work::HardestTriplet { n: 512, d: 128 };
    let mut cases = vec![
        case("step", "conv-icnn-hardest-triplet", "b128", step(Divergence::Icnn)),
        case("step", "conv-euclidean-hardest-triplet", "b128", step(Divergence::Euclidean)),
        Case { most_repetitions: 9, ..case("step", "resnet18-sup-con", "b64", residual(64, DType::F32)) },
        Case {
            id: "step/resnet18-sup-con/b32/f64".to_owned(),
            most_repetitions: 3,
            ..case("step", "resnet18-sup-con", "b32", residual(32, DType::F64))
        },
        case("objective", "icnn-hardest-triplet", "n512_d128", large),
        case("objective", "icnn-hardest-triplet", "n128_d64", Work::HardestTriplet { n: 128, d: 64 }),
        Case {
            most_repetitions: 3,
            ..case("objective", "icnn-hardest-triplet-pair-expansion", "n512_d128", large)
        },
        case("matmul", "square", "n1024", Work::Matmul { size: 1024 }),
        Case {
            peer: false,
            ..case("matmul", "multiply-adds-alone", "n1024", Work::MultiplyAdds { size: 1024 })
        },
    ];
    cases.push(case("loader", "digits-in-memory", "n20000_b128", Work::Loader(Pictures::Digits)));
    cases.push(Case {
        most_repetitions: 9,
        ..case("loader", "jpeg-256-crop-224-flip", "n512_b32", Work::Loader(Pictures::Jpeg))
    });
    let d = 128;
    cases.extend(LOSSES.map(|loss| {
        let (name, n) = (loss.name, loss.rows);
        let few =
            if loss.per_class == PER_CLASS { String::new() } else { format!("_{}-a-class", loss.per_class) };
        let case = case("loss", name, &format!("n{n}_d{d}{few}"), Work::Loss { name, n, d });
        Case { most_repetitions: loss.most_repetitions, peer: loss.peer, ..case }
    }));
    cases
}

/// The case of this id.
///
/// # Errors
/// When there is none.
pub fn find(id: &str) -> anyhow::Result<Case> {
    let found = all().into_iter().find(|case| case.id == id);
    found.ok_or_else(|| anyhow::anyhow!("no case `{id}`; `cargo xtask bench --list` names them"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_words_of_four_parts() {
        let cases = all();
        let ids: BTreeSet<&str> = cases.iter().map(|case| case.id.as_str()).collect();
        assert_eq!(ids.len(), cases.len());
        for id in ids {
            assert_eq!(id.split('/').count(), 4, "{id}");
            assert!(!id.contains(char::is_whitespace), "{id}");
            assert_eq!(find(id).unwrap().id, id);
        }
    }

    #[test]
    fn an_unknown_case_says_where_the_names_are() {
        let error = find("matmul/none").unwrap_err().to_string();
        assert_eq!(error, "no case `matmul/none`; `cargo xtask bench --list` names them");
    }
}
