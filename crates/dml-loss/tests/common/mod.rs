//! What the tests share: seeded rows, every loss and every distance.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{result::Result, sync::Arc};

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use dml_loss::*;
use phi::{Icnn, IcnnConfig};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub type Any = Box<dyn std::error::Error>;

/// Rows drawn uniformly from [−1, 1]ᵈ.
pub fn rows(seed: u64, n: usize, d: usize) -> dml_loss::Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
    Ok(Tensor::from_vec(values, (n, d), &Device::Cpu)?)
}

/// A small input-convex network.
pub fn icnn(d: usize, dtype: DType) -> dml_loss::Result<Arc<Icnn>> {
    let config = IcnnConfig { widths: vec![6, 5], ..Default::default() };
    Ok(Arc::new(Icnn::new(d, &config, 11, dtype, &Device::Cpu)?))
}

/// Every distance, learned ones over a fresh generator.
pub fn every_distance(d: usize, dtype: DType) -> dml_loss::Result<Vec<Arc<dyn Distance>>> {
    let mut all: Vec<Arc<dyn Distance>> = vec![
        Arc::new(Lp::default()),
        Arc::new(Lp::raw(2.0)),
        Arc::new(Lp::squared()),
        Arc::new(Lp::raw(1.0)),
        Arc::new(Lp::new(3.0, 1.5, true)?),
        Arc::new(Cosine),
        Arc::new(DotProduct::raw()),
        Arc::new(SignalToNoise::default()),
    ];
    all.push(Arc::new(BregmanDistance::new(icnn(d, dtype)?, Side::First)));
    all.push(Arc::new(BregmanDistance::new(icnn(d, dtype)?, Side::Second)));
    all.push(Arc::new(BregmanDistance::symmetrized(icnn(d, dtype)?)));
    let normalized = BregmanDistance::new(icnn(d, dtype)?, Side::First);
    all.push(Arc::new(BregmanDistance { normalize_embeddings: true, ..normalized }));
    Ok(all)
}

/// The names that a specification lists when it is given a wrong one, without pytorch-metric-learning's.
pub fn names<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let error = serde_json::from_str::<T>(r#"{"name": "?"}"#).err().map(|e| e.to_string());
    let message = error.unwrap_or_default();
    let quoted = message.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.starts_with(char::is_lowercase)).map(str::to_owned).collect()
}

/// The losses with a memory.
pub fn every_memory() -> Result<Vec<LossSpec>, serde_json::Error> {
    serde_json::from_str(
        r#"[
        {"name": "cross-batch-memory", "loss": {"name": "contrastive", "neg_margin": 1.3}, "memory_size": 8},
        {"name": "cross-batch-memory", "loss": {"name": "triplet-margin"}, "miner": {"name": "batch-hard"}, "memory_size": 8},
        {"name": "momentum-queue", "loss": {"name": "nt-xent", "temperature": 0.4}, "memory_size": 8},
        {"name": "momentum-queue", "loss": {"name": "contrastive"}, "labels": "given", "memory_size": 8}
    ]"#,
    )
}

/// Every loss without a memory by its specification, several settings of some.
pub fn every_loss() -> Result<Vec<LossSpec>, serde_json::Error> {
    serde_json::from_str(
        r#"[
        {"name": "contrastive", "pos_margin": 0.1, "neg_margin": 1.3},
        {"name": "triplet-margin", "margin": 0.3},
        {"name": "triplet-margin", "margin": 0.3, "swap": true},
        {"name": "triplet-margin", "margin": 0.3, "swap": true, "smooth_loss": true},
        {"name": "n-pairs"},
        {"name": "info-nce"},
        {"name": "info-nce", "temperature": 0.3, "direction": "both"},
        {"name": "sup-con", "temperature": "learned"},
        {"name": "sup-con", "temperature": 0.4},
        {"name": "nt-xent", "temperature": "learned"},
        {"name": "signal-to-noise-contrastive"},
        {"name": "multi-similarity", "beta": 5.0},
        {"name": "circle", "gamma": 2.0},
        {"name": "lifted-structure"},
        {"name": "generalized-lifted-structure"},
        {"name": "intra-pair-variance"},
        {"name": "margin", "beta": 0.8},
        {"name": "margin", "beta": 0.8, "nu": 0.1, "learn_beta": true},
        {"name": "margin", "beta": 0.8, "nu": 0.1, "learn_beta": true, "num_classes": 6},
        {"name": "nca", "softmax_scale": 2.0},
        {"name": "angular"},
        {"name": "tuplet-margin", "scale": 4.0},
        {"name": "proxy-nca", "num_classes": 6, "embedding_size": 4},
        {"name": "proxy-anchor", "num_classes": 6, "embedding_size": 4, "alpha": 4.0},
        {"name": "normalized-softmax", "num_classes": 6, "embedding_size": 4, "temperature": 0.5},
        {"name": "cos-face", "num_classes": 6, "embedding_size": 4, "scale": 4.0},
        {"name": "arc-face", "num_classes": 6, "embedding_size": 4, "scale": 4.0},
        {"name": "arc-face", "num_classes": 6, "embedding_size": 4, "scale": 4.0, "sub_centers": 2},
        {"name": "soft-triple", "num_classes": 6, "embedding_size": 4, "centers_per_class": 3, "la": 4.0},
        {"name": "fast-ap", "num_bins": 7, "range": [-3.0, 9.0]},
        {"name": "smooth-ap", "temperature": 0.3},
        {"name": "pnp", "anneal": 0.3},
        {"name": "pnp", "anneal": 0.3, "variant": "Ds"},
        {"name": "pnp", "anneal": 0.3, "variant": "Dq", "alpha": 2.0},
        {"name": "pnp", "anneal": 0.3, "variant": "Iu"},
        {"name": "pnp", "anneal": 0.3, "variant": "Ib", "b": 3.0},
        {"name": "histogram", "n_bins": 9, "range": [-3.0, 9.0]},
        {"name": "ranked-list", "Tn": 3.0, "Tp": 2.0},
        {"name": "large-margin-softmax", "num_classes": 6, "embedding_size": 4, "margin": 3},
        {"name": "sphere-face", "num_classes": 6, "embedding_size": 4},
        {"name": "p2s-grad", "num_classes": 6, "embedding_size": 4},
        {"name": "instance", "gamma": 4.0},
        {"name": "instance", "gamma": 4.0, "target": "own-row"},
        {"name": "vic-reg"},
        {"name": "manifold", "embedding_size": 4, "num_proxies": 6, "meta_classes": "labels"},
        {"name": "threshold-consistent-margin"},
        {"name": "dynamic-soft-margin", "momentum": 1.0, "min_val": -9.0},
        {"name": "centroid-triplet", "margin": 0.4},
        {"name": "two-views", "loss": {"name": "nt-xent", "temperature": 0.4}},
        {"name": "two-views", "symmetric": false, "loss": {"name": "contrastive"}},
        {"name": "weighted-sum", "terms": [
            {"objective": {"loss": {"name": "contrastive", "neg_margin": 1.3}}},
            {"weight": 0.3, "objective": {"loss": {"name": "margin", "nu": 0.1, "learn_beta": true}}}
        ]}
    ]"#,
    )
}

/// Every miner by its specification.
pub fn every_miner() -> Result<Vec<MinerSpec>, serde_json::Error> {
    serde_json::from_str(
        r#"[
        {"name": "batch-hard"},
        {"name": "batch-easy-hard"},
        {"name": "triplet-margin"},
        {"name": "pair-margin"},
        {"name": "multi-similarity"},
        {"name": "hard-aware"},
        {"name": "angular", "angle": 5.0},
        {"name": "distance-weighted"},
        {"name": "uniform-histogram", "num_bins": 3, "pos_per_bin": 2, "neg_per_bin": 2},
        {"name": "maximum-loss", "output_batch_size": 2, "loss": {"name": "contrastive"}},
        {"name": "random-triplets", "triplets_per_anchor": 3}
    ]"#,
    )
}

/// The name under which a specification is written.
pub fn name_of(spec: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_value(spec)?["name"].as_str().unwrap_or_default().to_owned())
}

/// Whether a loss takes a distance: margins of angles need a similarity, balls of a radius a distance.
pub fn takes(spec: &LossSpec, distance: &dyn Distance) -> bool {
    match spec {
        LossSpec::CosFace(_)
        | LossSpec::ArcFace(_)
        | LossSpec::TupletMargin(_)
        | LossSpec::LargeMarginSoftmax(_)
        | LossSpec::SphereFace(_)
        | LossSpec::Manifold(_) => distance.larger_is_closer(),
        LossSpec::RankedList(_) => !distance.larger_is_closer(),
        _ => true,
    }
}

/// Whether a loss matches row i with row i of a reference set.
pub fn wants_items(spec: &LossSpec) -> bool {
    matches!(
        spec,
        LossSpec::InfoNce(_) | LossSpec::VicReg(_) | LossSpec::TwoViews(_) | LossSpec::MomentumQueue(_)
    )
}
