//! MNIST-5k against values that another reader (Python's gzip and struct) took from its source.

use std::sync::Arc;

use candle_core::{DType, Device};
use dml_data::transform::Pipeline;
use dml_data::{Batches, Loader, LoaderConfig, MPerClass, MPerClassConfig, Result, TrainSize, bundled};

#[test]
fn counts_labels_and_pixels() -> Result<()> {
    let digits = bundled::mnist_5k()?;
    assert_eq!((digits.len(), digits.shape()), (5000, [1, 28, 28]));
    assert_eq!(digits.class_counts(), [500; 10]);
    assert_eq!(digits.class_names()[9], "9");
    assert!(digits.labels().iter().enumerate().all(|(i, &label)| label as usize == i / 500));
    assert_eq!(digits.pixels().iter().map(|&p| u64::from(p)).sum::<u64>(), 131_267_102);
    // (image, sum of its pixels, first three pixels that are not zero)
    let references = [
        (0, 31_095, [(127, 51), (128, 159), (129, 253)]),
        (500, 17_135, [(158, 124), (159, 253), (160, 255)]),
        (2500, 27_525, [(152, 3), (153, 18), (154, 18)]),
        (4999, 33_540, [(176, 7), (177, 38), (178, 89)]),
    ];
    for (index, sum, first) in references {
        let image = digits.image(index).unwrap();
        assert_eq!(image.iter().map(|&p| u32::from(p)).sum::<u32>(), sum);
        let ink: Vec<_> = image.iter().copied().enumerate().filter(|&(_, p)| p > 0).take(3).collect();
        assert_eq!(ink, first);
    }
    Ok(())
}

#[test]
fn statistics_and_tensors() -> Result<()> {
    let digits = bundled::mnist_5k()?;
    let all: Vec<usize> = (0..digits.len()).collect();
    let digits = digits.normalized_by(&all)?;
    let (mean, std) = (digits.normalization().mean()[0], digits.normalization().std()[0]);
    assert!((mean - 0.131_319_629_851_940_73).abs() < 1e-15);
    assert!((std - 0.308_550_294_709_644_4).abs() < 1e-14);
    let x = digits.tensor(&[500, 0], DType::F64, &Device::Cpu)?;
    assert_eq!(x.dims(), [2, 1, 28, 28]);
    let x = x.flatten_from(1)?.to_vec2::<f64>()?;
    assert_eq!(x[0][158], (124.0 / 255.0 - mean) / std);
    assert_eq!(x[1][129], (253.0 / 255.0 - mean) / std);
    Ok(())
}

#[test]
fn split_and_draw_a_batch() -> Result<()> {
    let digits = bundled::mnist_5k()?;
    let split = digits.closed_set(TrainSize::Fraction(0.7), 0)?;
    assert_eq!((split.train.len(), split.test.len()), (3500, 1500));
    let zero_shot = digits.zero_shot(&[0, 1, 2, 3, 4])?;
    assert_eq!(zero_shot.test, (2500..5000).collect::<Vec<_>>());
    let digits = digits.normalized_by(&split.train)?;
    let config = MPerClassConfig { classes: 10, per_class: 8, ..Default::default() };
    let sampler = MPerClass::new(digits.labels(), &split.train, config, 0)?;
    let (digits, pipeline) = (Arc::new(digits.clone()), Pipeline::from(&digits));
    let mut loader = Loader::new(digits.clone(), Batches::new(sampler), pipeline, LoaderConfig::default())?;
    for batch in loader.by_ref().take(50) {
        let batch = batch?;
        assert_eq!(batch.images.dims(), [80, 1, 28, 28]);
        let expected: Vec<i64> = batch.indices.iter().map(|&i| digits.labels()[i]).collect();
        assert_eq!(batch.labels.to_vec1::<i64>()?, expected);
    }
    assert_eq!((loader.state().epoch, loader.state().batch), (1, 7)); // ⌊3500 / 80⌋ = 43 an epoch
    Ok(())
}
