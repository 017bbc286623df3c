//! Which classical loss is which Bregman divergence: each identity of `docs/theory/losses-as-divergences.md`, values
//! and gradients, in f64.

mod common;

use std::{result::Result, sync::Arc};

use bregman::Side;
use candle_core::{D, DType, Device, Tensor, Var};
use common::{Any, icnn, rows};
use dml_loss::*;
use phi::{AffineInput, Generator, ItakuraSaito, LogSumExp, NegativeEntropy, Scaled, SquaredEuclidean};

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
        r#"{"name": "generalized-lifted-structure", "neg_margin": 3.0}"#,
        r#"{"name": "multi-similarity", "beta": 2.0}"#,
        r#"{"name": "circle", "gamma": 1.0}"#,
        r#"{"name": "intra-pair-variance"}"#,
        r#"{"name": "threshold-consistent-margin", "margin_plus": 0.5, "margin_minus": 2.0}"#,
        r#"{"name": "fast-ap", "range": [0.0, 9.0]}"#,
        r#"{"name": "histogram", "range": [0.0, 16.0]}"#,
        r#"{"name": "dynamic-soft-margin", "min_val": -9.0}"#,
        r#"{"name": "ranked-list", "alpha": 3.0}"#,
        r#"{"name": "centroid-triplet"}"#,
        r#"{"name": "proxy-nca", "num_classes": 3, "embedding_size": 4}"#,
        r#"{"name": "proxy-anchor", "alpha": 2.0, "num_classes": 3, "embedding_size": 4}"#,
        r#"{"name": "soft-triple", "num_classes": 3, "embedding_size": 4}"#,
    ];
    for text in texts {
        let (euclid, divergence) = (loss(text, Arc::new(Lp::squared()))?, loss(text, of(SquaredEuclidean))?);
        agree(text, &run(&euclid, &x, &LABELS)?, &run(&divergence, &x, &LABELS)?);
    }
    Ok(())
}

/// φ = ½‖x‖² on the sphere: D = 1 − cos, so losses of cosines are losses of D, margins m becoming 1 − m, and neither a
/// softmax nor a difference of two distances sees the 1.
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
        r#"{"name": "pnp", "anneal": 0.1}"#,
        r#"{"name": "dynamic-soft-margin"}"#,
        r#"{"name": "circle", "gamma": 4.0}"#,
        r#"{"name": "intra-pair-variance", "pos_eps": 0.0, "neg_eps": 0.0}"#,
        r#"{"name": "centroid-triplet"}"#,
        r#"{"name": "proxy-nca", "num_classes": 3, "embedding_size": 4}"#,
        r#"{"name": "soft-triple", "num_classes": 3, "embedding_size": 4}"#,
        r#"{"name": "instance", "gamma": 5.0}"#,
        r#"{"name": "normalized-softmax", "num_classes": 3, "embedding_size": 4}"#,
    ];
    let pairs = same.map(|text| (text, text));
    let moved = [
        (
            r#"{"name": "contrastive", "pos_margin": 0.9, "neg_margin": 0.3}"#,
            r#"{"name": "contrastive", "pos_margin": 0.1, "neg_margin": 0.7}"#,
        ),
        (r#"{"name": "margin", "beta": 0.3}"#, r#"{"name": "margin", "beta": 0.7}"#),
        (
            r#"{"name": "multi-similarity", "beta": 5.0, "base": 0.2}"#,
            r#"{"name": "multi-similarity", "beta": 5.0, "base": 0.8}"#,
        ),
        (
            r#"{"name": "lifted-structure", "pos_margin": 0.9, "neg_margin": 0.2}"#,
            r#"{"name": "lifted-structure", "pos_margin": 0.1, "neg_margin": 0.8}"#,
        ),
        (
            r#"{"name": "generalized-lifted-structure", "pos_margin": 0.9, "neg_margin": 0.2}"#,
            r#"{"name": "generalized-lifted-structure", "pos_margin": 0.1, "neg_margin": 0.8}"#,
        ),
        (
            r#"{"name": "threshold-consistent-margin", "margin_plus": 0.7, "margin_minus": 0.2}"#,
            r#"{"name": "threshold-consistent-margin", "margin_plus": 0.3, "margin_minus": 0.8}"#,
        ),
        (r#"{"name": "fast-ap"}"#, r#"{"name": "fast-ap", "range": [0.0, 2.0]}"#),
        (r#"{"name": "histogram"}"#, r#"{"name": "histogram", "range": [0.0, 2.0]}"#),
    ];
    for (of_cosine, of_divergence) in pairs.into_iter().chain(moved) {
        let (cosine, divergence) =
            (loss(of_cosine, Arc::new(Cosine))?, loss(of_divergence, normalized(half_square()?))?);
        agree(of_cosine, &run(&cosine, &x, &LABELS)?, &run(&divergence, &x, &LABELS)?);
    }
    Ok(())
}

/// A temperature τ is a scale of φ: D of φ/τ is D/τ, so a softmax over D with τ is one over the scaled φ without.
#[test]
fn a_temperature_is_a_scale_of_the_generator() -> Result<(), Any> {
    let x = rows(15, 8, 4)?;
    let tau = 0.25;
    for (with, without) in [
        (r#"{"name": "sup-con", "temperature": 0.25}"#, r#"{"name": "sup-con", "temperature": 1.0}"#),
        (r#"{"name": "nt-xent", "temperature": 0.25}"#, r#"{"name": "nt-xent", "temperature": 1.0}"#),
        (r#"{"name": "nca", "softmax_scale": 4.0}"#, r#"{"name": "nca"}"#),
    ] {
        let scaled = Scaled::new(1.0 / tau, Box::new(SquaredEuclidean))?;
        let (left, right) = (loss(with, of(SquaredEuclidean))?, loss(without, of(scaled))?);
        agree(with, &run(&left, &x, &LABELS)?, &run(&right, &x, &LABELS)?);
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

/// Softmax cross-entropy −log p_y is D(one-hot ‖ p) of the negative entropy, the limit of targets with all the mass but
/// ε.
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

/// The proxy softmax of any D_φ(x ‖ w_c) is a linear softmax classifier: weights ∇φ(w_c), biases φ(w_c) − ⟨∇φ(w_c),
/// w_c⟩.
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

/// The biases of that classifier are those of the dual generator: ⟨∇φ(w), w⟩ − φ(w) = φ*(∇φ(w)).
#[test]
fn the_biases_of_proxies_are_the_dual_generator() -> Result<(), Any> {
    let w = (rows(16, 3, 4)?.abs()? + 0.1)?;
    let phi = NegativeEntropy::orthant();
    let (phi_w, grad_w) = phi.value_and_grad(&w)?;
    let bias = (phi_w - (&grad_w * &w)?.sum(1)?)?.to_vec1::<f64>()?;
    let dual = bregman::conjugate(&phi, &grad_w)?.to_vec1::<f64>()?;
    for (bias, dual) in bias.iter().zip(&dual) {
        assert!((bias + dual).abs() < ROUND_OFF, "{bias} {dual}");
    }
    Ok(())
}

/// With means as proxies, the proxy softmax is the class posterior of a mixture of the family that φ belongs to:
/// Poisson for Σ x log x − x, Gaussian of variance ½ for ‖x‖², exponential for −Σ log x.
#[test]
fn proxies_under_a_divergence_are_a_mixture_of_its_family() -> Result<(), Any> {
    let points = [[3.0f64, 1.0, 7.0], [1.0, 5.0, 2.0], [2.0, 2.0, 9.0]];
    let means = [[2.0f64, 1.5, 6.0], [1.0, 4.0, 3.0]];
    let labels = [0i64, 1, 0];
    // Log-densities of a coordinate x with mean m; factors of x alone cancel in the posterior.
    type LogDensity = fn(f64, f64) -> f64;
    let families: [(Arc<dyn Distance>, LogDensity); 3] = [
        (of(NegativeEntropy::orthant()), |x, m| x * m.ln() - m),
        (of(SquaredEuclidean), |x, m| -(x - m).powi(2)),
        (of(ItakuraSaito), |x, m| -m.ln() - x / m),
    ];
    for (distance, log_density) in families {
        let text = r#"{"name": "proxy-nca", "num_classes": 2, "embedding_size": 3}"#;
        let objective = loss(text, distance)?;
        objective.loss.own_parameters()[0].var.set(&Tensor::new(&means, &Device::Cpu)?)?;
        let (value, _) = run(&objective, &Tensor::new(&points, &Device::Cpu)?, &labels)?;
        let mut expected = 0.0;
        for (x, &label) in points.iter().zip(&labels) {
            let log = |mean: &[f64; 3]| x.iter().zip(mean).map(|(&x, &m)| log_density(x, m)).sum::<f64>();
            let all: f64 = means.iter().map(|mean| log(mean).exp()).sum();
            expected += (all.ln() - log(&means[label as usize])) / 3.0;
        }
        assert!((value - expected).abs() < ROUND_OFF, "{objective:?}: {value} {expected}");
    }
    Ok(())
}

/// InfoNCE over KL(query ‖ item), the temperature one over the number of points: the posterior of the item from which
/// the points of the query were drawn.
#[test]
fn info_nce_under_kl_is_the_posterior_of_the_sampled_item() -> Result<(), Any> {
    let counts = [[5.0f64, 2.0, 3.0], [1.0, 8.0, 1.0], [2.0, 2.0, 6.0]];
    let items = [[0.5f64, 0.2, 0.3], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]];
    let points = 10.0;
    let queries = (Tensor::new(&counts, &Device::Cpu)? / points)?;
    let batch =
        Batch::new(&queries, &[0; 3])?.with_reference(&Tensor::new(&items, &Device::Cpu)?, &[0; 3])?;
    let info_nce = InfoNce::new(of(NegativeEntropy::simplex()), Temperature::fixed(1.0 / points)?);
    let value = Objective::new(Arc::new(info_nce)).forward(&batch)?.to_scalar::<f64>()?;
    let mut expected = 0.0;
    for (i, counts) in counts.iter().enumerate() {
        let log = |item: &[f64; 3]| counts.iter().zip(item).map(|(c, p)| c * p.ln()).sum::<f64>();
        let all: f64 = items.iter().map(|item| log(item).exp()).sum();
        expected += (all.ln() - log(&items[i])) / 3.0;
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

/// For any φ the symmetrized divergence is ½⟨∇φ(x) − ∇φ(y), x − y⟩.
#[test]
fn the_symmetrized_divergence_is_a_product_of_differences() -> Result<(), Any> {
    let phi = icnn(4, DType::F64)?;
    let (x, y) = (rows(17, 6, 4)?, rows(18, 6, 4)?);
    let symmetrized = BregmanDistance::symmetrized(phi.clone()).paired(&x, &y)?;
    let ((_, of_x), (_, of_y)) = (phi.value_and_grad(&x)?, phi.value_and_grad(&y)?);
    let product = (((of_x - of_y)? * (&x - &y)?)?.sum(1)? * 0.5)?;
    let gap = (symmetrized - product)?.abs()?.max_all()?.to_scalar::<f64>()?;
    assert!(gap < ROUND_OFF, "{gap}");
    Ok(())
}

/// CosFace takes its margin off the own class's cosine, which adds it to D = 1 − cos there.
#[test]
fn the_margin_of_cosface_is_added_to_the_divergence() -> Result<(), Any> {
    let x = rows(19, 8, 4)?;
    let text = r#"{"name": "cos-face", "num_classes": 3, "embedding_size": 4, "margin": 0.35, "scale": 8.0}"#;
    let objective = loss(text, Arc::new(Cosine))?;
    let (value, _) = run(&objective, &x, &LABELS)?;
    let w = objective.loss.own_parameters()[0].var.t()?.contiguous()?;
    let mut expected = 0.0;
    for (mut d, &label) in
        normalized(half_square()?).all_pairs(&x, &w)?.to_vec2::<f64>()?.into_iter().zip(&LABELS)
    {
        d[label as usize] += 0.35;
        let all: f64 = d.iter().map(|d| (-8.0 * d).exp()).sum();
        expected += (all.ln() + 8.0 * d[label as usize]) / LABELS.len() as f64;
    }
    assert!((value - expected).abs() < ROUND_OFF, "{value} {expected}");
    Ok(())
}

/// The signal-to-noise distance is the divergence of the variance, divided by the variance of its first argument.
#[test]
fn signal_to_noise_is_a_divergence_over_a_function_of_its_first_argument() -> Result<(), Any> {
    let (x, y) = (rows(20, 5, 4)?, rows(21, 6, 4)?);
    // φ(x) = Σ (x_j − mean)², d − 1 times the variance.
    let center = (Tensor::eye(4, DType::F64, &Device::Cpu)? - 0.25)?;
    let bias = Tensor::zeros(4, DType::F64, &Device::Cpu)?;
    let variance = AffineInput::from_parameters(&center, &bias, Box::new(SquaredEuclidean))?;
    let divergence = bregman::all_pairs(&variance, &x, &y)?; // [5, 6]
    let over = divergence.broadcast_div(&variance.value(&x)?.unsqueeze(1)?)?;
    let gap = (SignalToNoise::raw().all_pairs(&x, &y)? - over)?.abs()?.max_all()?.to_scalar::<f64>()?;
    assert!(gap < ROUND_OFF, "{gap}");
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
