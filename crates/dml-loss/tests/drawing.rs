//! Miners that draw: what they may draw, how often, and that the same seed and batch draw the same.

mod common;

use std::{result::Result, sync::Arc};

use candle_core::{DType, Device};
use common::{Any, rows};
use dml_loss::*;

const LABELS: [i64; 10] = [0, 1, 0, 1, 2, 2, 0, 1, 3, 2];

fn batch(seed: u64) -> Result<Batch, Any> {
    Ok(Batch::new(&rows(seed, LABELS.len(), 5)?, &LABELS)?)
}

fn every() -> Result<Vec<Arc<dyn Miner>>, Any> {
    let texts = [
        r#"{"name": "distance-weighted", "nonzero_loss_cutoff": 1.9}"#,
        r#"{"name": "uniform-histogram", "num_bins": 4, "pos_per_bin": 3, "neg_per_bin": 2}"#,
        r#"{"name": "maximum-loss", "output_batch_size": 5, "num_trials": 4, "loss": {"name": "contrastive"}}"#,
        r#"{"name": "random-triplets", "triplets_per_anchor": 4}"#,
    ];
    texts
        .iter()
        .map(|text| Ok(serde_json::from_str::<MinerSpec>(text)?.build(Arc::new(Lp::default()))?))
        .collect()
}

#[test]
fn the_same_batch_draws_the_same_and_another_batch_anew() -> Result<(), Any> {
    for miner in every()? {
        assert_eq!(miner.mine(&batch(1)?)?, miner.mine(&batch(1)?)?, "{miner:?}");
        assert_ne!(miner.mine(&batch(1)?)?, miner.mine(&batch(2)?)?, "{miner:?}");
    }
    Ok(())
}

#[test]
fn draws_are_valid_tuples() -> Result<(), Any> {
    for miner in every()? {
        let batch = batch(3)?;
        let tuples = miner.mine(&batch)?;
        assert!(!tuples.is_empty());
        tuples.check(&batch)?;
        let pairs = tuples.to_pairs();
        for (a, o) in pairs.positive.anchor.iter().zip(&pairs.positive.other) {
            assert!(a != o && LABELS[*a as usize] == LABELS[*o as usize], "{miner:?}");
        }
        for (a, o) in pairs.negative.anchor.iter().zip(&pairs.negative.other) {
            assert_ne!(LABELS[*a as usize], LABELS[*o as usize], "{miner:?}");
        }
    }
    Ok(())
}

#[test]
fn negatives_are_drawn_by_their_weights() -> Result<(), Any> {
    let config = |seed| DistanceWeightedConfig { cutoff: 0.5, nonzero_loss_cutoff: 1.9, seed };
    let batch = batch(4)?;
    let miner = |seed| DistanceWeighted::new(Arc::new(Lp::default()), config(seed));
    let weights = miner(0)?.weights(&batch)?.to_vec2::<f64>()?;
    for row in &weights {
        let sum: f64 = row.iter().sum();
        assert!((sum - 1.0).abs() < 1e-12 || sum == 0.0, "{sum}");
    }
    let (mut counts, mut drawn) = (vec![vec![0.0; 10]; 10], vec![0.0; 10]);
    for seed in 0..1500 {
        let t = miner(seed)?.mine(&batch)?.to_triplets();
        for (&a, &n) in t.anchor.iter().zip(&t.negative) {
            counts[a as usize][n as usize] += 1.0;
            drawn[a as usize] += 1.0;
        }
    }
    for a in (0..10).filter(|&a| drawn[a] > 0.0) {
        for n in 0..10 {
            // Five standard deviations of a share of at least 1,500 draws.
            assert!((counts[a][n] / drawn[a] - weights[a][n]).abs() < 5.0 * 0.5 / 1500f64.sqrt(), "{a} {n}");
        }
    }
    Ok(())
}

#[test]
fn bins_are_drawn_evenly() -> Result<(), Any> {
    // Distances 1, 1, 2, 8, 9 and 10 lie in bins 0, 0, 1, 7, 8 and 8 of nine.
    let x = candle_core::Tensor::new(&[[0f64], [1.], [2.], [10.]], &Device::Cpu)?;
    let config = UniformHistogramConfig { num_bins: 9, pos_per_bin: 3, neg_per_bin: 1, seed: 0 };
    let miner = UniformHistogram::new(Arc::new(Lp::raw(2.0)), config)?;
    let pairs = miner.mine(&Batch::new(&x, &[0, 0, 0, 0])?)?.to_pairs();
    let far = pairs.positive.anchor.iter().zip(&pairs.positive.other);
    let far = far.filter(|(a, o)| **a == 3 || **o == 3).count();
    assert_eq!((pairs.positive.len(), far, pairs.negative.len()), (4 * 3, 2 * 3, 0));
    Ok(())
}

#[test]
fn the_subset_of_largest_loss_is_kept() -> Result<(), Any> {
    let batch = batch(5)?;
    let loss: Arc<dyn Loss> = Arc::new(Contrastive {
        distance: Arc::new(Lp::raw(2.0)),
        config: ContrastiveConfig { pos_margin: 0.0, neg_margin: 0.0 },
    });
    let value = |miner: &MaximumLoss| -> Result<f64, Any> {
        let tuples = miner.mine(&batch)?;
        Ok(Objective::new(loss.clone()).forward_with(&batch, Some(&tuples))?.to_scalar()?)
    };
    let (mut one, mut many) = (0.0, 0.0);
    for seed in 0..8 {
        one += value(&MaximumLoss::new(loss.clone(), 6, 1, seed)?)?;
        many += value(&MaximumLoss::new(loss.clone(), 6, 12, seed)?)?;
    }
    assert!(many > one, "{many} {one}");
    let error = serde_json::from_str::<MinerSpec>(
        r#"{"name": "maximum-loss", "output_batch_size": 2, "loss": {"name": "proxy-nca", "num_classes": 2, "embedding_size": 2}}"#,
    )?
    .build(Arc::new(Lp::default()))
    .err();
    let message = "MaximumLoss: `loss` is one with `proxies`, expected a loss without learned parameters";
    assert_eq!(error.map(|e| e.to_string()).as_deref(), Some(message));
    Ok(())
}

#[test]
fn a_number_of_triplets_is_a_sample_of_all() -> Result<(), Any> {
    let batch = batch(6)?;
    let spec: LossSpec =
        serde_json::from_str(r#"{"name": "triplet-margin", "margin": 0.3, "triplets_per_anchor": 6}"#)?;
    let parts = spec.build(Arc::new(Lp::default()), DType::F64, &Device::Cpu)?.unreduced(&batch, None)?;
    // Row 8 is alone in its class.
    assert_eq!(parts[0].losses.dims(), [9 * 6]);
    let error =
        serde_json::from_str::<LossSpec>(r#"{"name": "triplet-margin", "triplets_per_anchor": "some"}"#);
    let error = error.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("a number of triplets, or \"all\""), "{error}");
    Ok(())
}
