//! Which classical loss is which Bregman divergence: each identity of `docs/theory/losses-as-divergences.md`, values and
//! gradients, in f64.

mod common;

use std::{result::Result, sync::Arc};

use bregman::Side;
use candle_core::{D, DType, Device, Tensor, Var};
use common::{Any, icnn, rows};
use dml_loss::*;
use phi::{AffineInput, Generator, LogSumExp, NegativeEntropy, Scaled, SquaredEuclidean};

/// Both sides are sums of a few dozen terms, rounded in different order.
const ROUND_OFF: f64 = 1e-10;

const LABELS: [i64; 8] = [0, 1, 0, 1, 2, 2, 0, 1];

fn of(generator: impl Generator + 'static) -> Arc<dyn Distance> {
    Arc::new(BregmanDistance::new(Arc::new(generator), Side::First))
}

fn normalized(generator: impl Generator + 'static) -> Arc<dyn Distance> {
    let distance = BregmanDistance::new(Arc::new(generator), Side::First);
    Arc::new(BregmanDistance { normalize_embeddings: true, ..distance })
}

fn half_square() -> Result<Scaled, Any> {
    Ok(Scaled::new(0.5, Box::new(SquaredEuclidean))?)
}

fn loss(text: &str, distance: Arc<dyn Distance>) -> Result<Objective, Any> {
    let spec: LossSpec = serde_json::from_str(text)?;
    Ok(Objective::new(spec.build(distance, DType::F64, &Device::Cpu)?))
}

/// Value and gradient for the embeddings.
fn run(objective: &Objective, x: &Tensor, labels: &[i64]) -> Result<(f64, Vec<f64>), Any> {
    let x = Var::from_tensor(x)?;
    let value = objective.forward(&Batch::new(&x, labels)?)?;
    let grads = value.backward()?;
    let gradient = grads.get(&x).ok_or("no gradient")?.flatten_all()?.to_vec1::<f64>()?;
    Ok((value.to_scalar()?, gradient))
}

fn agree(what: &str, left: &(f64, Vec<f64>), right: &(f64, Vec<f64>)) {
    assert!(left.0.abs() > 1e-6, "{what}: nothing to compare");
    assert!((left.0 - right.0).abs() <= ROUND_OFF * left.0.abs().max(1.0), "{what}: {} {}", left.0, right.0);
    for (a, b) in left.1.iter().zip(&right.1) {
        assert!((a - b).abs() <= ROUND_OFF * a.abs().max(1.0), "{what}: gradient {a} {b}");
    }
}

/// φ = ‖x‖²: every loss of squared Euclidean distances is the loss of its divergence.
#[test]
fn squared_euclid_is_the_divergence_of_the_squared_norm() -> Result<(), Any> {
    let x = rows(1, 8, 4)?;
    let texts = [
        r#"{"name": "contrastive", "neg_margin": 3.0}"#,
        r#"{"name": "triplet-margin", "margin": 0.5}"#,
        r#"{"name": "margin", "beta": 1.0}"#,
        r#"{"name": "nca"}"#,
        r#"{"name": "lifted-structure"}"#,
        r#"{"name": "fast-ap", "range": [0.0, 9.0]}"#,
        r#"{"name": "ranked-list", "alpha": 3.0}"#,
        r#"{"name": "centroid-triplet"}"#,
    ];
    for text in texts {
        let (euclid, divergence) = (loss(text, Arc::new(Lp::squared()))?, loss(text, of(SquaredEuclidean))?);
        agree(text, &run(&euclid, &x, &LABELS)?, &run(&divergence, &x, &LABELS)?);
    }
    Ok(())
}

/// φ = ½‖x‖² on the sphere: D = 1 − cos, so losses of cosines are losses of D, margins m becoming 1 − m, and a softmax
/// does not see the 1.
#[test]
fn cosines_are_the_divergence_of_half_the_squared_norm_on_the_sphere() -> Result<(), Any> {
    let x = rows(2, 8, 4)?;
    let same = [
        r#"{"name": "n-pairs"}"#,
        r#"{"name": "sup-con", "temperature": 0.2}"#,
        r#"{"name": "nt-xent", "temperature": 0.2}"#,
        r#"{"name": "nca"}"#,
        r#"{"name": "triplet-margin", "margin": 0.5}"#,
        r#"{"name": "smooth-ap", "temperature": 0.1}"#,
        r#"{"name": "instance", "gamma": 5.0}"#,
        r#"{"name": "normalized-softmax", "num_classes": 3, "embedding_size": 4}"#,
    ];
    let pairs = same.map(|text| (text, text));
    let moved = [(
        r#"{"name": "contrastive", "pos_margin": 0.9, "neg_margin": 0.3}"#,
        r#"{"name": "contrastive", "pos_margin": 0.1, "neg_margin": 0.7}"#,
    )];
    for (of_cosine, of_divergence) in pairs.into_iter().chain(moved) {
        let (cosine, divergence) =
            (loss(of_cosine, Arc::new(Cosine))?, loss(of_divergence, normalized(half_square()?))?);
        agree(of_cosine, &run(&cosine, &x, &LABELS)?, &run(&divergence, &x, &LABELS)?);
    }
    Ok(())
}

/// φ = ‖Lx‖²: the Mahalanobis form of a loss is its Euclidean form after a linear map.
#[test]
fn mahalanobis_is_the_divergence_of_a_squared_norm_after_a_linear_map() -> Result<(), Any> {
    let (x, map) = (rows(3, 8, 4)?, rows(4, 3, 4)?);
    let bias = Tensor::zeros(3, DType::F64, &Device::Cpu)?;
    let generator = AffineInput::from_parameters(&map, &bias, Box::new(SquaredEuclidean))?;
    let text = r#"{"name": "triplet-margin", "margin": 0.5}"#;
    let (value, _) = run(&loss(text, Arc::new(Lp::squared()))?, &x.matmul(&map.t()?)?, &LABELS)?;
    let (divergence, _) = run(&loss(text, of(generator))?, &x, &LABELS)?;
    assert!((value - divergence).abs() < ROUND_OFF, "{value} {divergence}");
    Ok(())
}

fn softmax(logits: &Tensor) -> Result<Tensor, Any> {
    let exp = logits.exp()?;
    Ok(exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?)
}

/// Softmax cross-entropy −log p_y is D(one-hot ‖ p) of the negative entropy, the limit of targets with all the mass but ε.
#[test]
fn cross_entropy_is_the_divergence_of_negative_entropy() -> Result<(), Any> {
    let (classes, epsilon) = (5, 1e-12);
    let logits = (rows(5, 4, classes)? * 3.0)?;
    let p = softmax(&logits)?;
    let targets = [0usize, 3, 1, 4];
    let mut y = vec![epsilon / (classes - 1) as f64; 4 * classes];
    targets.iter().enumerate().for_each(|(i, &c)| y[i * classes + c] = 1.0 - epsilon);
    let y = Tensor::from_vec(y, (4, classes), &Device::Cpu)?;
    let divergence = bregman::paired(&NegativeEntropy::simplex(), &y, &p)?.to_vec1::<f64>()?;
    let p = p.to_vec2::<f64>()?;
    for (i, &c) in targets.iter().enumerate() {
        assert!((divergence[i] + p[i][c].ln()).abs() < 1e-9, "{} {}", divergence[i], -p[i][c].ln());
    }
    Ok(())
}

/// D of log-sum-exp of logits z against t is KL(softmax t ‖ softmax z): distillation and label smoothing, and once more
/// cross-entropy less the entropy of the target.
#[test]
fn soft_cross_entropy_is_the_divergence_of_log_sum_exp() -> Result<(), Any> {
    let (z, t) = ((rows(6, 4, 5)? * 3.0)?, (rows(7, 4, 5)? * 3.0)?);
    let (p, q) = (softmax(&z)?, softmax(&t)?);
    let of_logits = bregman::paired(&LogSumExp, &z, &t)?.to_vec1::<f64>()?;
    let of_shares = bregman::paired(&NegativeEntropy::simplex(), &q, &p)?.to_vec1::<f64>()?;
    let cross = (&q * p.log()?)?.sum(1)?.neg()?;
    let entropy = (&q * q.log()?)?.sum(1)?.neg()?;
    let excess = (cross - entropy)?.to_vec1::<f64>()?;
    for i in 0..4 {
        assert!((of_logits[i] - excess[i]).abs() < ROUND_OFF && (of_shares[i] - excess[i]).abs() < ROUND_OFF);
    }
    Ok(())
}

/// The proxy softmax of any D_φ(x ‖ w_c) is a linear softmax classifier: weights ∇φ(w_c), biases φ(w_c) − ⟨∇φ(w_c), w_c⟩.
#[test]
fn proxies_under_a_divergence_are_a_linear_softmax() -> Result<(), Any> {
    let phi = icnn(4, DType::F64)?;
    let text = r#"{"name": "proxy-nca", "num_classes": 3, "embedding_size": 4}"#;
    let distance = Arc::new(BregmanDistance::new(phi.clone(), Side::First));
    let objective = loss(text, distance)?;
    let x = rows(8, 8, 4)?;
    let (value, _) = run(&objective, &x, &LABELS)?;

    let w = objective.loss.own_parameters()[0].var.as_detached_tensor();
    let (phi_w, grad_w) = phi.value_and_grad(&w)?;
    let bias = (phi_w - (&grad_w * &w)?.sum(1)?)?; // [3]
    let logits = x.matmul(&grad_w.t()?)?.broadcast_add(&bias)?.to_vec2::<f64>()?;
    let cross_entropy = |(row, &label): (&Vec<f64>, &i64)| {
        row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[label as usize]
    };
    let linear = logits.iter().zip(&LABELS).map(cross_entropy).sum::<f64>() / LABELS.len() as f64;
    assert!((value - linear).abs() < ROUND_OFF, "{value} {linear}");
    Ok(())
}

/// With φ = Σ x log x − x and the proxies as rates, the proxy softmax is the class posterior of a Poisson mixture: each
/// divergence belongs to an exponential family.
#[test]
fn proxies_under_generalized_kl_are_a_poisson_mixture() -> Result<(), Any> {
    let counts = [[3.0f64, 1.0, 7.0], [1.0, 5.0, 2.0], [2.0, 2.0, 9.0]];
    let rates = [[2.0f64, 1.5, 6.0], [1.0, 4.0, 3.0]];
    let text = r#"{"name": "proxy-nca", "num_classes": 2, "embedding_size": 3}"#;
    let objective = loss(text, of(NegativeEntropy::orthant()))?;
    objective.loss.own_parameters()[0].var.set(&Tensor::new(&rates, &Device::Cpu)?)?;
    let labels = [0i64, 1, 0];
    let (value, _) = run(&objective, &Tensor::new(&counts, &Device::Cpu)?, &labels)?;
    let mut expected = 0.0;
    for (x, &label) in counts.iter().zip(&labels) {
        // The factorials cancel.
        let log = |rate: &[f64; 3]| x.iter().zip(rate).map(|(x, r)| x * r.ln() - r).sum::<f64>();
        let all: f64 = rates.iter().map(|rate| log(rate).exp()).sum();
        expected += (all.ln() - log(&rates[label as usize])) / 3.0;
    }
    assert!((value - expected).abs() < ROUND_OFF, "{value} {expected}");
    Ok(())
}

/// The class means of the centroid triplet loss are the right centroids of D_φ, whatever φ.
#[test]
fn class_means_minimize_the_divergence_to_their_class() -> Result<(), Any> {
    let phi = icnn(4, DType::F64)?;
    let x = rows(9, 5, 4)?;
    let center = bregman::right_centroid(&x, None)?;
    let gap = (&center - x.mean_keepdim(0)?)?.abs()?.max_all()?.to_scalar::<f64>()?;
    assert!(gap < ROUND_OFF);
    let cost = |c: &Tensor| -> Result<f64, Any> {
        Ok(bregman::all_pairs(&*phi, &x, c)?.sum_all()?.to_scalar::<f64>()?)
    };
    let least = cost(&center)?;
    for seed in 10..20 {
        assert!(cost(&(&center + (rows(seed, 1, 4)? * 0.1)?)?)? > least);
    }
    Ok(())
}

/// The symmetrized divergence of a loss is half of Jeffreys', ½⟨∇φ(x) − ∇φ(y), x − y⟩: for ‖x‖² Euclid again.
#[test]
fn the_symmetrized_square_is_the_square() -> Result<(), Any> {
    let x = rows(11, 8, 4)?;
    let text = r#"{"name": "multi-similarity", "beta": 2.0}"#;
    let symmetrized = BregmanDistance::symmetrized(Arc::new(SquaredEuclidean));
    let (a, b) = (loss(text, Arc::new(Lp::squared()))?, loss(text, Arc::new(symmetrized))?);
    agree(text, &run(&a, &x, &LABELS)?, &run(&b, &x, &LABELS)?);
    Ok(())
}

/// VICReg's invariance is the mean over coordinates of the divergence of ‖x‖² between the views.
#[test]
fn invariance_is_the_divergence_of_the_views() -> Result<(), Any> {
    let (x, y) = (rows(12, 6, 4)?, rows(13, 6, 4)?);
    let config = VicRegConfig { invariance_lambda: 4.0, ..Default::default() };
    let batch = Batch::new(&x, &[0; 6])?.with_reference(&y, &[0; 6])?;
    let parts = VicReg::new(config)?.unreduced(&batch, None)?;
    let divergence = bregman::paired(&SquaredEuclidean, &x, &y)?;
    let gap = (&parts[0].losses - divergence)?.abs()?.max_all()?.to_scalar::<f64>()?;
    assert!(parts[0].name == "invariance_loss" && gap < ROUND_OFF, "{gap}");
    Ok(())
}

/// P2SGrad's cosines are the divergences of ½‖x‖² on the sphere: (cos − [own])² = (D − [other])².
#[test]
fn cosine_regression_is_a_regression_of_divergences() -> Result<(), Any> {
    let x = rows(14, 8, 4)?;
    let text = r#"{"name": "p2s-grad", "num_classes": 3, "embedding_size": 4}"#;
    let objective = loss(text, Arc::new(Cosine))?;
    let (value, _) = run(&objective, &x, &LABELS)?;
    let w = objective.loss.own_parameters()[0].var.t()?.contiguous()?;
    let d = normalized(half_square()?).all_pairs(&x, &w)?.to_vec2::<f64>()?;
    let term = |(i, c): (usize, usize)| (d[i][c] - f64::from(u8::from(LABELS[i] != c as i64))).powi(2);
    let mean = (0..24).map(|at| term((at / 3, at % 3))).sum::<f64>() / 24.0;
    assert!((value - mean).abs() < ROUND_OFF, "{value} {mean}");
    Ok(())
}
