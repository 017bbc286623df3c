//! The mean over each anchor's pairs, of which each counts once however often it is listed: by loops and differences.

use std::{result::Result, sync::Arc};

use candle_core::{Device, Tensor, Var};
use dml_loss::*;

type Any = Box<dyn std::error::Error>;

fn points() -> candle_core::Result<Tensor> {
    Tensor::new(&[[0f64, 0.1], [0.4, -0.3], [1.0, 0.8], [-0.5, 0.9], [0.3, 0.7]], &Device::Cpu)
}

/// Triplets that share pairs, as those of a miner do: (0, 1) is named three times, (0, 3) twice.
fn triplets() -> Triplets {
    Triplets { anchor: vec![0, 0, 0, 0, 1], positive: vec![1, 1, 2, 1, 2], negative: vec![3, 4, 3, 4, 4] }
}

fn per_anchor(loss: Arc<dyn Loss>) -> Objective {
    Objective::new(loss).with_reducer(Arc::new(PerAnchor { reducer: Arc::new(Mean) }))
}

fn contrastive() -> Arc<dyn Loss> {
    Arc::new(Contrastive {
        distance: Arc::new(Lp::raw(2.0)),
        config: ContrastiveConfig { pos_margin: 0.1, neg_margin: 2.0 },
    })
}

fn assert_gradient(objective: &Objective, tuples: &Tuples) -> Result<f64, Any> {
    const STEP: f64 = 1e-6;
    let x = Var::from_tensor(&points()?)?;
    let at = |x: &Tensor| -> dml_loss::Result<Tensor> {
        objective.forward_with(&Batch::new(x, &[0, 0, 0, 1, 1])?, Some(tuples))
    };
    let value = at(&x)?;
    let gradients = value.backward()?;
    let gradient = gradients.get(&x).ok_or("no gradient")?.flatten_all()?.to_vec1::<f64>()?;
    let start = x.flatten_all()?.to_vec1::<f64>()?;
    for (i, got) in gradient.iter().enumerate() {
        let moved = |step: f64| -> Result<f64, Any> {
            let mut values = start.clone();
            values[i] += step;
            Ok(at(&Tensor::from_vec(values, (5, 2), &Device::Cpu)?)?.to_scalar()?)
        };
        let want = (moved(STEP)? - moved(-STEP)?) / (2.0 * STEP);
        assert!((got - want).abs() < 1e-8, "entry {i}: {got}, by differences {want}");
    }
    Ok(value.to_scalar()?)
}

#[test]
fn a_pair_listed_several_times_counts_once() -> Result<(), Any> {
    let x = points()?.to_vec2::<f64>()?;
    let d = |i: usize, j: usize| x[i].iter().zip(&x[j]).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let (near, far) = (|i, j| (d(i, j) - 0.1).max(0.0), |i, j| (2.0 - d(i, j)).max(0.0));
    // Anchor 0 has the positives 1 and 2 and the negatives 3 and 4, anchor 1 one of each, the others none.
    let positive = ((near(0, 1) + near(0, 2)) / 2.0 + near(1, 2)) / 5.0;
    let negative = ((far(0, 3) + far(0, 4)) / 2.0 + far(1, 4)) / 5.0;
    let value = assert_gradient(&per_anchor(contrastive()), &Tuples::Triplets(triplets()))?;
    assert!((value - positive - negative).abs() < 1e-12, "{value}, by loops {}", positive + negative);
    // The same pairs, each listed once, take the short way.
    let list = |other: [u32; 3]| PairList { anchor: vec![0, 0, 1], other: other.to_vec() };
    let once = Tuples::Pairs(Pairs { positive: list([1, 2, 2]), negative: list([3, 4, 4]) });
    assert!((assert_gradient(&per_anchor(contrastive()), &once)? - value).abs() < 1e-12);
    Ok(())
}

/// By lists and by short ways, whatever the reducer over anchors, and beside a reducer that counts each listing.
#[test]
fn reducers_beside_it_count_each_listing() -> Result<(), Any> {
    let by_part = |pos: Arc<dyn Reducer>, neg: Arc<dyn Reducer>| ByPart {
        reducers: [("pos_loss".to_owned(), pos), ("neg_loss".to_owned(), neg)].into(),
    };
    let anchors = || Arc::new(PerAnchor { reducer: Arc::new(Threshold { low: Some(0.2), high: None }) });
    let tuples = Tuples::Triplets(triplets());
    let value = |reducer: ByPart| {
        assert_gradient(&Objective::new(contrastive()).with_reducer(Arc::new(reducer)), &tuples)
    };
    let (both, mixed) = (value(by_part(anchors(), anchors()))?, value(by_part(anchors(), Arc::new(Mean)))?);
    let other = value(by_part(Arc::new(Mean), anchors()))?;
    let plain = assert_gradient(&Objective::new(contrastive()).with_reducer(Arc::new(Mean)), &tuples)?;
    assert!((both + plain - mixed - other).abs() < 1e-12);
    assert!((both - plain).abs() > 1e-3);
    Ok(())
}

#[test]
fn a_triplet_listed_twice_counts_once() -> Result<(), Any> {
    let loss = || -> Arc<dyn Loss> {
        let config = TripletMarginConfig { margin: 3.0, ..Default::default() };
        Arc::new(TripletMargin { distance: Arc::new(Lp::raw(2.0)), config })
    };
    // (0, 1, 4) is listed twice above.
    let mut once = triplets();
    for column in [&mut once.anchor, &mut once.positive, &mut once.negative] {
        column.remove(3);
    }
    let [twice, once] =
        [triplets(), once].map(|t| assert_gradient(&per_anchor(loss()), &Tuples::Triplets(t)));
    assert!((twice? - once?).abs() < 1e-12);
    Ok(())
}
