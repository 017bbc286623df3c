//! Encoders: shapes, gradients, evaluation mode, files, and agreement with torchvision.

#![allow(clippy::unwrap_used)] // helpers outside test functions

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use dml::{
    BlockInit, Encoder, LeNet, LeNetConfig, Mlp, MlpConfig, Mode, ResNet, ResNetConfig, ResNetDepth,
    ResNetStem, load_weights, save_weights,
};
use serde::Deserialize;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const DEPTHS: [ResNetDepth; 3] = [ResNetDepth::R18, ResNetDepth::R34, ResNetDepth::R50];
const STEMS: [ResNetStem; 2] = [ResNetStem::Cifar, ResNetStem::ImageNet];

fn tiny(depth: ResNetDepth, stem: ResNetStem) -> ResNetConfig {
    ResNetConfig { depth, stem, width: 2, dim: Some(3), block_init: BlockInit::One }
}

/// Entry i of tensor k in `[-1/2, 1/2)`, as `golden/resnet.py` has it.
fn uniform(count: usize, k: u64) -> Vec<f64> {
    const MASK: u64 = 0xffff_ffff;
    (0..count as u64)
        .map(|i| {
            let mut h = (i + k * 2_654_435_769 + 1) & MASK;
            h = (h * 2_654_435_761) & MASK;
            h ^= h >> 15;
            h = (h * 2_246_822_519) & MASK;
            h ^= h >> 13;
            h as f64 / 4_294_967_296.0 - 0.5
        })
        .collect()
}

fn images(shape: (usize, usize, usize, usize), dtype: DType) -> Tensor {
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let values = uniform(count, 999).into_iter().map(|u| 2.0 * u).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Sets parameters and buffers by the rule of `golden/resnet.py`.
fn set_by_rule(encoder: &dyn Encoder) -> Outcome<()> {
    let state: BTreeMap<String, Var> = encoder.parameters().into_iter().chain(encoder.buffers()).collect();
    for (k, (name, var)) in state.iter().enumerate() {
        let dims = var.dims().to_vec();
        let value = |u: f64| match *dims {
            _ if name.ends_with("running_var") => 1.0 + 0.5 * u,
            _ if name.ends_with("running_mean") || name.ends_with("bias") => 0.2 * u,
            [o, _, h, w] => u * (24.0 / (o * h * w) as f64).sqrt(),
            [_, i] => u * (12.0 / i as f64).sqrt(),
            _ => 1.0 + 0.5 * u,
        };
        let values: Vec<f64> = uniform(var.elem_count(), k as u64).into_iter().map(value).collect();
        var.set(&Tensor::from_vec(values, dims.clone(), &Device::Cpu)?.to_dtype(var.dtype())?)?;
    }
    Ok(())
}

fn entries(t: &Tensor) -> Outcome<Vec<f64>> {
    Ok(t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?)
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()))
}

/// Entries of every parameter against central differences of Σ y·cos(index).
fn assert_gradients(encoder: &dyn Encoder, images: &Tensor, mode: Mode, per_parameter: usize) -> Outcome<()> {
    const STEP: f64 = 1e-8; // small, lest one of the many ReLUs switches between the two ends
    let loss = || -> Outcome<Tensor> {
        let y = encoder.forward(images, mode)?.flatten_all()?;
        let weights: Vec<f64> = (0..y.elem_count()).map(|i| (i as f64).cos()).collect();
        Ok((y * Tensor::new(weights, &Device::Cpu)?)?.sum_all()?)
    };
    let gradients = loss()?.backward()?;
    for (name, var) in encoder.parameters() {
        let got = gradients.get(&var).ok_or_else(|| format!("`{name}` receives no gradient"))?;
        let got = entries(got)?;
        let largest = got.iter().fold(1e-2, |m: f64, g| m.max(g.abs()));
        let start = var.as_tensor().copy()?;
        let values = entries(&start)?;
        for sample in 0..per_parameter.min(got.len()) {
            let at = (sample * 7919 + 13) % got.len();
            let value = |step: f64| -> Outcome<f64> {
                let mut moved = values.clone();
                moved[at] += step;
                var.set(&Tensor::from_vec(moved, start.shape(), &Device::Cpu)?)?;
                Ok(loss()?.to_scalar::<f64>()?)
            };
            let want = (value(STEP)? - value(-STEP)?) / (2.0 * STEP);
            let error = (got[at] - want).abs() / largest;
            assert!(
                error <= 1e-4,
                "{mode:?}: gradient of `{name}` at {at} is {}, differences give {want}",
                got[at]
            );
        }
        var.set(&start)?;
    }
    Ok(())
}

#[test]
fn every_parameter_agrees_with_finite_differences() -> Outcome<()> {
    // The last stage sees 24 values per channel: with few, a variance near 0 makes gradients that no difference
    // can follow.
    let cases = [
        (ResNetDepth::R18, ResNetStem::Cifar, (4, 2, 21, 13)),
        (ResNetDepth::R50, ResNetStem::ImageNet, (4, 2, 85, 55)),
    ];
    for (depth, stem, shape) in cases {
        let encoder = ResNet::new(2, &tiny(depth, stem), 1, DType::F64, &Device::Cpu)?;
        set_by_rule(&encoder)?;
        for mode in [Mode::Train, Mode::Eval] {
            assert_gradients(&encoder, &images(shape, DType::F64), mode, 2)?;
        }
    }
    let config = LeNetConfig { channels: [2, 3], hidden: [5, 4], dim: 3 };
    let encoder = LeNet::new([1, 15, 13], &config, 1, DType::F64, &Device::Cpu)?;
    assert_gradients(&encoder, &images((3, 1, 15, 13), DType::F64), Mode::Train, 5)?;
    let config = MlpConfig { hidden: [7, 5], dim: 3 };
    let encoder = Mlp::new(12, &config, 1, DType::F64, &Device::Cpu)?;
    assert_gradients(&encoder, &images((6, 2, 3, 2), DType::F64), Mode::Train, 5)
}

#[test]
fn embeddings_have_the_shape_that_was_asked_for() -> Outcome<()> {
    for depth in DEPTHS {
        for stem in STEMS {
            let x = images((2, 1, 17, 20), DType::F32);
            let config = tiny(depth, stem);
            let encoder = ResNet::new(1, &config, 1, DType::F32, &Device::Cpu)?;
            assert_eq!((encoder.forward(&x, Mode::Train)?.dims(), encoder.dim()), ([2, 3].as_slice(), 3));
            let encoder = ResNet::new(1, &ResNetConfig { dim: None, ..config }, 1, DType::F32, &Device::Cpu)?;
            let features = if depth == ResNetDepth::R50 { 64 } else { 16 };
            assert_eq!(
                (encoder.forward(&x, Mode::Eval)?.dims(), encoder.dim()),
                ([2, features].as_slice(), features)
            );
        }
    }
    Ok(())
}

#[test]
fn evaluation_moves_nothing_and_sees_one_image_at_a_time() -> Outcome<()> {
    let encoder = ResNet::new(2, &tiny(ResNetDepth::R18, ResNetStem::ImageNet), 1, DType::F64, &Device::Cpu)?;
    let x = images((5, 2, 21, 18), DType::F64);
    let before: Vec<Vec<f64>> = encoder.buffers().iter().map(|(_, b)| entries(b)).collect::<Outcome<_>>()?;
    encoder.forward(&x, Mode::Train)?;
    for ((name, buffer), before) in encoder.buffers().iter().zip(before) {
        assert!(largest_difference(&entries(buffer)?, &before) > 0.0, "`{name}` did not move in training");
    }
    let first = entries(&encoder.forward(&x, Mode::Eval)?)?;
    assert_eq!(first, entries(&encoder.forward(&x, Mode::Eval)?)?);
    for i in 0..5 {
        let alone = entries(&encoder.forward(&x.narrow(0, i, 1)?, Mode::Eval)?)?;
        assert!(largest_difference(&alone, &first[3 * i..3 * i + 3]) < 1e-12);
    }
    Ok(())
}

#[test]
fn the_same_seed_draws_the_same_weights_and_blocks_can_start_as_shortcuts() -> Outcome<()> {
    let config = ResNetConfig { block_init: BlockInit::Zero, ..tiny(ResNetDepth::R18, ResNetStem::Cifar) };
    let new = |seed| -> Outcome<ResNet> { Ok(ResNet::new(3, &config, seed, DType::F32, &Device::Cpu)?) };
    let state = |e: &ResNet| e.parameters().iter().map(|(_, v)| entries(v)).collect::<Outcome<Vec<_>>>();
    assert_eq!(state(&new(7)?)?, state(&new(7)?)?);
    assert_ne!(state(&new(7)?)?, state(&new(8)?)?);
    for (name, var) in new(7)?.parameters() {
        let zero = name.ends_with("bn2.weight") || name.ends_with("bias");
        assert_eq!(entries(&var)?.iter().all(|&v| v == 0.0), zero, "{name}");
    }
    Ok(())
}

#[test]
fn weights_survive_a_file_and_wrong_files_are_named() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("weights.safetensors");
    let config = tiny(ResNetDepth::R18, ResNetStem::Cifar);
    let new = |config: &ResNetConfig, seed| -> Outcome<ResNet> {
        Ok(ResNet::new(2, config, seed, DType::F32, &Device::Cpu)?)
    };
    let (saved, loaded) = (new(&config, 1)?, new(&config, 2)?);
    set_by_rule(&saved)?;
    save_weights(&saved, &path)?;
    load_weights(&loaded, &path, &[])?;
    let x = images((2, 2, 9, 9), DType::F32);
    let embed = |encoder: &ResNet| entries(&encoder.forward(&x, Mode::Eval).unwrap());
    assert_eq!(embed(&saved)?, embed(&loaded)?);

    let message = |encoder: &ResNet, path: &std::path::Path, keep: &[&str]| {
        let got = load_weights(encoder, path, keep).unwrap_err().to_string();
        got.replace(&path.display().to_string(), "FILE")
    };
    let wide = new(&ResNetConfig { dim: Some(5), ..config }, 3)?;
    let before = entries(&wide.parameters()[0].1)?;
    assert_eq!(
        message(&wide, &path, &[]),
        "FILE: tensor `fc.weight` has shape [3, 16], expected [5, 16]; take a file of the same architecture, or \
         keep the encoder's own"
    );
    assert_eq!(entries(&wide.parameters()[0].1)?, before, "a failed load changed a weight");
    load_weights(&wide, &path, &["fc."])?;
    let pooled = new(&ResNetConfig { dim: None, ..config }, 4)?;
    assert_eq!(
        message(&pooled, &path, &[]),
        "FILE: tensor `fc.bias` belongs to no parameter of the encoder; take a file of the same architecture"
    );
    load_weights(&pooled, &path, &["fc."])?;
    save_weights(&pooled, &path)?;
    assert_eq!(
        message(&saved, &path, &[]),
        "FILE: tensor `fc.weight` is missing; take a file of the same architecture, or keep the encoder's own"
    );
    std::fs::write(&path, b"no tensors")?;
    assert!(message(&saved, &path, &[]).starts_with("FILE: not a safetensors file, or damaged ("));
    let absent = folder.path().join("absent");
    assert!(message(&saved, &absent, &[]).starts_with("FILE: cannot be read: "));
    Ok(())
}

#[test]
fn images_and_settings_that_do_not_fit_are_errors() -> Outcome<()> {
    let config = tiny(ResNetDepth::R18, ResNetStem::Cifar);
    let encoder = ResNet::new(2, &config, 1, DType::F32, &Device::Cpu)?;
    let message = |shape, mode| encoder.forward(&images(shape, DType::F32), mode).unwrap_err().to_string();
    assert_eq!(
        message((1, 2, 8, 8), Mode::Train),
        "ResNet::forward: `images` is images of shape [1, 2, 8, 8] for 2 channels, expected two images or larger \
         ones: the last stage would see one value per channel"
    );
    assert_eq!(
        message((2, 3, 8, 8), Mode::Eval),
        "ResNet::forward: `images` is images of shape [2, 3, 8, 8] for 2 channels, expected [n, c, h, w] with the \
         channels that the encoder was made for"
    );
    let wrong = ResNet::new(2, &ResNetConfig { width: 0, ..config }, 1, DType::F32, &Device::Cpu);
    assert!(wrong.unwrap_err().to_string().ends_with("expected sizes of at least 1"));
    let wrong = LeNet::new([1, 11, 28], &LeNetConfig::default(), 1, DType::F32, &Device::Cpu);
    let wrong = wrong.unwrap_err().to_string();
    assert_eq!(wrong, "LeNet: `image` is [1, 11, 28], expected [c, h, w] with h and w at least 12");
    Ok(())
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    depth: ResNetDepth,
    stem: String,
    mode: String,
    shape: (usize, usize, usize, usize),
    output: Vec<f64>,
    #[serde(default)]
    gradient_norms: BTreeMap<String, f64>,
    #[serde(default)]
    buffer_norms: BTreeMap<String, f64>,
}

/// Outputs in f32 where evaluated; outputs, gradients and running statistics in f64 where trained.
#[test]
fn residual_networks_agree_with_torchvision() -> Outcome<()> {
    const TOLERANCE: f64 = 1e-4;
    let golden: Golden = serde_json::from_str(include_str!("golden/resnet.json"))?;
    for case in golden.cases {
        let what = format!("{:?} {} {}", case.depth, case.stem, case.mode);
        let stem = if case.stem == "cifar" { ResNetStem::Cifar } else { ResNetStem::ImageNet };
        let (mode, dtype) =
            if case.mode == "train" { (Mode::Train, DType::F64) } else { (Mode::Eval, DType::F32) };
        let config = ResNetConfig { depth: case.depth, stem, dim: Some(10), ..Default::default() };
        let encoder = ResNet::new(3, &config, 0, dtype, &Device::Cpu)?;
        set_by_rule(&encoder)?;
        let y = encoder.forward(&images(case.shape, dtype), mode)?.flatten_all()?;
        let largest = case.output.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        let error = largest_difference(&entries(&y)?, &case.output) / largest;
        assert!(error <= TOLERANCE, "{what}: output is off by {error:e}");
        if mode == Mode::Eval {
            continue;
        }
        let norm = |t: &Tensor| -> Outcome<f64> { Ok(entries(t)?.iter().map(|v| v * v).sum::<f64>().sqrt()) };
        let weights: Vec<f64> = (0..y.elem_count()).map(|i| (i as f64).cos()).collect();
        let gradients = (y * Tensor::new(weights, &Device::Cpu)?)?.sum_all()?.backward()?;
        assert_eq!(case.gradient_norms.len(), encoder.parameters().len());
        for (name, var) in encoder.parameters() {
            let (got, want) = (norm(gradients.get(&var).ok_or("no gradient")?)?, case.gradient_norms[&name]);
            assert!((got - want).abs() <= TOLERANCE * want, "{what}: |∂{name}| is {got}, expected {want}");
        }
        assert_eq!(case.buffer_norms.len(), encoder.buffers().len());
        for (name, var) in encoder.buffers() {
            let (got, want) = (norm(&var)?, case.buffer_norms[&name]);
            assert!((got - want).abs() <= TOLERANCE * want, "{what}: |{name}| is {got}, expected {want}");
        }
    }
    Ok(())
}

#[test]
fn rows_of_another_length_are_refused() -> Outcome<()> {
    let encoder = Mlp::new(12, &MlpConfig::default(), 1, DType::F32, &Device::Cpu)?;
    assert_eq!(encoder.forward(&images((2, 1, 3, 4), DType::F32), Mode::Eval)?.dims(), [2, 64]);
    let wrong = [
        (images((2, 1, 3, 5), DType::F32), "[2, 1, 3, 5]"),
        (Tensor::zeros(12, DType::F32, &Device::Cpu)?, "[12]"),
    ];
    for (rows, shape) in wrong {
        let message = encoder.forward(&rows, Mode::Eval).unwrap_err().to_string();
        assert!(message.contains(&format!("a tensor of shape {shape} for 12 inputs")), "{message}");
    }
    let config = MlpConfig { hidden: [4, 0], dim: 3 };
    let message = Mlp::new(12, &config, 1, DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("sizes of at least 1"), "{message}");
    Ok(())
}
