//! Files: what is written comes back bit for bit, and a broken file is an error that says what is wrong.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use phi::testing::{Named, every_generator, points};
use phi::{Generator, IcnnConfig, MahalanobisConfig, Spec};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn small_icnn(seed: u64) -> Result<(Spec, Box<dyn Generator>)> {
    let spec = Spec::Icnn(IcnnConfig { widths: vec![3, 2], ..Default::default() });
    let phi = spec.build(2, seed, DType::F32, &Device::Cpu)?;
    Ok((spec, phi))
}

#[test]
fn every_generator_comes_back_bit_for_bit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for Named { name, spec, phi, .. } in every_generator(3, 2)? {
        let path = folder.path().join(format!("{name}.safetensors"));
        phi::save(&*phi, &spec, &path)?;
        let again = phi::load(&path, &Device::Cpu)?;
        assert_eq!(phi::read_header(&path)?.spec, spec, "{name}");
        let x = points(&*phi, 1, 4, 3)?;
        let (want, got) = (
            phi.value_and_grad(&x)?,
            if phi.parameters().is_empty() { phi.value_and_grad(&x)? } else { again.value_and_grad(&x)? },
        );
        assert_eq!(got.0.to_vec1::<f64>()?, want.0.to_vec1::<f64>()?, "{name}");
        assert_eq!(got.1.to_vec2::<f64>()?, want.1.to_vec2::<f64>()?, "{name}");
        let first = fs::read(&path)?;
        phi::save(&*again, &spec, &path)?;
        if !phi.parameters().is_empty() {
            assert_eq!(fs::read(&path)?, first, "{name}: equal generators give equal bytes");
        }
    }
    let strays = fs::read_dir(folder.path())?.filter_map(std::result::Result::ok);
    let strays: Vec<_> = strays.filter(|f| f.file_name().to_string_lossy().starts_with('.')).collect();
    assert!(strays.is_empty(), "left behind: {strays:?}");
    Ok(())
}

/// The message of a failing `load`, without the path before it.
fn why(path: &Path) -> Result<String> {
    let Err(error) = phi::load(path, &Device::Cpu) else { return Err("it was loaded".into()) };
    let (message, prefix) = (error.to_string(), format!("{}: ", path.display()));
    Ok(message.strip_prefix(&prefix).ok_or_else(|| format!("`{message}` names no file"))?.to_owned())
}

#[test]
fn broken_files_are_named_with_what_is_wrong() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("phi.safetensors");
    assert_eq!(why(&path)?, "cannot be read: No such file or directory (os error 2)");

    let (spec, phi) = small_icnn(1)?;
    phi::save(&*phi, &spec, &path)?;
    let whole = fs::read(&path)?;
    for length in [0, 4, 60, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length])?;
        let message = why(&path)?;
        assert!(
            message.starts_with(&format!("no whole safetensors file in its {length} bytes (")),
            "{message}"
        );
        assert!(message.ends_with("); it is truncated or damaged, copy or write it again"), "{message}");
    }
    fs::write(&path, [&whole[..], b"more"].concat())?;
    assert!(why(&path)?.starts_with("no whole safetensors file"), "{}", why(&path)?);
    fs::write(&path, b"this is not a parameter file at all")?;
    assert!(why(&path)?.starts_with("no whole safetensors file"), "{}", why(&path)?);

    let mut nan = whole.clone();
    let at = nan.len() - 4;
    nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, nan)?;
    let message = why(&path)?;
    assert!(message.contains("holds NaN at entry"), "{message}");

    let zero = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
    candle_core::safetensors::save(&[("W0", zero)].into(), &path)?;
    assert_eq!(why(&path)?, "its metadata has no entry `phi`; build the generator and use load_parameters");
    Ok(())
}

/// Any byte may be another: an error that names the file, or a generator that can be used.
#[test]
fn no_byte_of_a_file_breaks_more_than_the_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("phi.safetensors");
    let (spec, phi) = small_icnn(1)?;
    phi::save(&*phi, &spec, &path)?;
    let whole = fs::read(&path)?;
    let x = Tensor::new(&[[0.1f32, 0.2]], &Device::Cpu)?;
    for at in 0..whole.len() {
        for byte in [0, 0xff, whole[at] ^ 1, b'9', b'-'] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            fs::write(&path, bytes)?;
            match phi::load(&path, &Device::Cpu) {
                Ok(phi) => drop(phi.value(&x)?),
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.starts_with(&format!("{}: ", path.display())), "byte {at}: {message}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_header_that_describes_no_generator_is_named_with_its_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("phi.safetensors");
    let header = r#"{"spec": {"kind": "p_norm", "p": 7.0}, "dim": 2, "dtype": "f32"}"#;
    let none: Vec<(String, Tensor)> = Vec::new();
    fs::write(&path, safetensors::serialize(none, Some([("phi".to_owned(), header.to_owned())].into()))?)?;
    let want = "its header describes no generator: PNorm: `p` is 7.0, expected a number with 1 < p ≤ 2";
    assert_eq!(why(&path)?, want);
    Ok(())
}

#[test]
fn parameters_that_do_not_fit_change_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("l.safetensors");
    let spec = Spec::Mahalanobis(MahalanobisConfig::default());
    let phi = spec.build(2, 0, DType::F32, &Device::Cpu)?;
    let message = |tensors: &[(&str, Tensor)]| -> Result<String> {
        candle_core::safetensors::save(&tensors.iter().cloned().collect(), &path)?;
        let message = phi::load_parameters(&*phi, &path).unwrap_err().to_string();
        assert_eq!(phi.parameters()[0].var.to_vec2::<f32>()?, [[1.0, 0.0], [0.0, 1.0]]);
        Ok(message.split_once(": ").map(|(_, why)| why.to_owned()).unwrap_or(message))
    };
    let two = |dtype| Tensor::ones((2, 2), dtype, &Device::Cpu);
    let three = Tensor::zeros((3, 3), DType::F32, &Device::Cpu)?;
    assert_eq!(message(&[])?, "tensor `L` is missing");
    assert_eq!(message(&[("L", three)])?, "tensor `L` has shape [3, 3], the generator [2, 2]");
    assert_eq!(
        message(&[("L", two(DType::F64)?)])?,
        "tensor `L` holds F64, the generator F32; build it with F64"
    );
    assert_eq!(
        message(&[("L", two(DType::F32)?), ("M", two(DType::F32)?)])?,
        "tensor `M` belongs to no parameter of the generator"
    );
    let good = [("L".to_owned(), two(DType::F32)?)].into();
    candle_core::safetensors::save(&good, &path)?;
    phi::load_parameters(&*phi, &path)?;
    assert_eq!(phi.parameters()[0].var.to_vec2::<f32>()?, [[1.0, 1.0], [1.0, 1.0]]);
    Ok(())
}

#[test]
fn a_spec_of_another_generator_is_not_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("phi.safetensors");
    let (_, phi) = small_icnn(1)?;
    let error = phi::save(&*phi, &Spec::SquaredEuclidean, &path).unwrap_err().to_string();
    assert!(
        error.ends_with("not written: the spec describes another generator than the one given"),
        "{error}"
    );
    assert!(!path.exists());
    let nowhere = folder.path().join("missing").join("phi.safetensors");
    let (spec, phi) = small_icnn(1)?;
    let error = phi::save(&*phi, &spec, &nowhere).unwrap_err().to_string();
    assert!(error.contains("cannot be written: No such file or directory"), "{error}");
    Ok(())
}

#[test]
fn configurations_that_make_no_sense_are_named() {
    let message = |json: &str| match serde_json::from_str::<Spec>(json) {
        Err(error) => error.to_string(),
        Ok(spec) => spec.build(3, 0, DType::F32, &Device::Cpu).unwrap_err().to_string(),
    };
    for (json, want) in [
        (r#"{"kind": "icnn", "widths": []}"#, "Icnn: `widths` is [], expected at least one hidden layer"),
        (
            r#"{"kind": "icnn", "widths": [4, 0]}"#,
            "Icnn: `widths` is [4, 0], expected at least one unit a layer",
        ),
        (r#"{"kind": "icnn", "curvature": -1}"#, "Icnn: `curvature` is -1.0, expected a finite number ≥ 0"),
        (
            r#"{"kind": "separable", "range": [1, 1]}"#,
            "Separable: `range` is (1.0, 1.0), expected finite (lo, hi) with lo < hi",
        ),
        (
            r#"{"kind": "empirical_bregman", "separable": null, "icnn": null, "curvature": 0}"#,
            "EmpiricalBregman: `curvature` is 0.0, expected a number > 0 when both parts are off",
        ),
        (r#"{"kind": "max_affine", "pieces": 0}"#, "MaxAffine: `pieces` is 0, expected at least 1"),
        (r#"{"kind": "sum", "parts": []}"#, "Sum: `parts` is 0, expected at least one generator"),
        (r#"{"kind": "p_norm", "p": 1}"#, "PNorm: `p` is 1.0, expected a number with 1 < p ≤ 2"),
        (
            r#"{"kind": "even", "inner": {"kind": "itakura_saito"}}"#,
            "Even: `inner` is ItakuraSaito, expected a generator on all of the finite reals",
        ),
    ] {
        assert_eq!(message(json), want);
    }
    assert!(message(r#"{"kind": "icnn", "width": 3}"#).contains("unknown field `width`"));
    assert!(message(r#"{"kind": "cnn"}"#).contains("unknown variant `cnn`"));
}

/// Numbers of a spec come back as they are, not as their neighbour.
#[test]
fn numbers_of_a_spec_come_back_bit_for_bit() -> Result<()> {
    let mut bits = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..1000 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let scale = f64::from_bits(0x3ff0_0000_0000_0000 | bits >> 12) - 0.999;
        let spec = Spec::Scaled { scale, inner: Box::new(Spec::SquaredEuclidean) };
        let text = serde_json::to_string(&spec)?;
        assert_eq!(serde_json::from_str::<Spec>(&text)?, spec, "{text}");
    }
    Ok(())
}
