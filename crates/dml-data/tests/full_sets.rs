//! Whole sets against values that NumPy and Pillow took from them: those that lie in the folder `DML_DATA_DIR`.
//!
//! ```sh
//! DML_DATA_DIR=data cargo test -p dml-data --test full_sets -- --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use dml_data::{Benchmark, Completeness, Error, ImageSet, benchmark, data_dir};

/// The set, if it is there.
fn open(name: &str) -> Option<Benchmark> {
    std::env::var_os("DML_DATA_DIR")?;
    match benchmark(name, &data_dir()) {
        Ok(opened) => {
            println!("{}: {}", opened.name, opened.completeness);
            Some(opened)
        }
        Err(Error::NotFound { .. }) => {
            println!("{name}: not in {}, not checked", data_dir().display());
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

struct Expected<'a> {
    first_labels: &'a [u32],
    counts: &'a [usize],
    pixel_sum: u64,
    mean: &'a [f64],
    std: &'a [f64],
}

fn check(what: &str, set: &ImageSet, expected: &Expected<'_>) {
    assert_eq!(set.labels()[..expected.first_labels.len()], *expected.first_labels);
    assert_eq!(set.class_counts(), expected.counts);
    assert_eq!(set.pixels().iter().map(|&p| u64::from(p)).sum::<u64>(), expected.pixel_sum);
    let all: Vec<usize> = (0..set.len()).collect();
    let statistics = set.statistics(&all).unwrap();
    println!(
        "  {what}: {} images {:?}, {:?} ± {:?}",
        set.len(),
        set.shape(),
        statistics.mean(),
        statistics.std()
    );
    for (got, expected) in [(statistics.mean(), expected.mean), (statistics.std(), expected.std)] {
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
        }
    }
}

fn closed(opened: &Benchmark) -> [&ImageSet; 2] {
    let closed = opened.closed_set.as_ref().unwrap();
    [closed.train.set.images().unwrap(), closed.test.set.images().unwrap()].map(|set| &**set)
}

/// Images and classes of both sides of the zero-shot protocol.
fn zero_shot(opened: &Benchmark) -> [usize; 4] {
    let protocol = opened.zero_shot.as_ref().unwrap();
    let (train, test) = (&protocol.train, &protocol.test);
    [train.indices.len(), train.n_classes(), test.indices.len(), test.n_classes()]
}

#[test]
fn mnist() {
    let Some(opened) = open("mnist") else { return };
    assert_eq!(opened.completeness, Completeness::Complete);
    let [train, test] = closed(&opened);
    check(
        "train",
        train,
        &Expected {
            first_labels: &[5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
            counts: &[5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            pixel_sum: 1_567_298_545,
            mean: &[0.130_660_476_273_843],
            std: &[0.308_107_803_856_463],
        },
    );
    check(
        "test",
        test,
        &Expected {
            first_labels: &[7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
            counts: &[980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
            pixel_sum: 264_923_200,
            mean: &[0.132_514_605_842_337],
            std: &[0.310_480_247_930_535],
        },
    );
    assert_eq!(zero_shot(&opened), [30_596, 5, 4_861, 5]);
}

#[test]
fn fashion_mnist_with_a_third_of_its_training_images() {
    let Some(opened) = open("fashion-mnist-20k") else { return };
    assert!(opened.completeness.to_string().contains("the first 20,000 of the 60,000"));
    let [train, test] = closed(&opened);
    check(
        "train",
        train,
        &Expected {
            first_labels: &[9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
            counts: &[1935, 2025, 1982, 2011, 1967, 2010, 2068, 2003, 1971, 2028],
            pixel_sum: 1_142_624_448,
            mean: &[0.285_770_420_168_067],
            std: &[0.353_212_331_154_442],
        },
    );
    check(
        "test",
        test,
        &Expected {
            first_labels: &[9, 2, 1, 1, 6, 1, 4, 6, 5, 7],
            counts: &[1000; 10],
            pixel_sum: 573_469_082,
            mean: &[0.286_849_280_712_285],
            std: &[0.352_444_153_247_440],
        },
    );
    assert_eq!(zero_shot(&opened), [9_920, 5, 5_000, 5]);
}

#[test]
fn cifar10_a_tenth_from_lossy_files() {
    let Some(opened) = open("cifar10-5k-jpeg") else { return };
    assert!(opened.completeness.to_string().contains("their pixels come from JPEG files"));
    let [train, test] = closed(&opened);
    check(
        "train",
        train,
        &Expected {
            first_labels: &[3, 5, 7, 7, 8, 2, 3, 0, 7, 3],
            counts: &[500; 10],
            pixel_sum: 1_850_248_986,
            mean: &[0.489_200_753_676_470_6, 0.481_272_548_253_676_44, 0.446_690_443_474_264_73],
            std: &[0.246_072_675_112_854_16, 0.243_905_746_786_948_32, 0.261_523_542_426_020_66],
        },
    );
    check(
        "test",
        test,
        &Expected {
            first_labels: &[8, 7, 3, 4, 4, 2, 8, 8, 6, 4],
            counts: &[100; 10],
            pixel_sum: 369_831_957,
            mean: &[0.487_897_058_823_529_4, 0.480_555_840_226_715_66, 0.447_876_593_137_254_9],
            std: &[0.244_120_930_341_531_93, 0.241_505_886_664_861_7, 0.259_143_103_624_663_36],
        },
    );
    assert_eq!(zero_shot(&opened), [2_500, 5, 500, 5]);
}

#[test]
fn omniglot_small_set_1() {
    let Some(opened) = open("omniglot-small1") else { return };
    let set = opened.zero_shot.as_ref().unwrap().train.set.images().unwrap();
    assert_eq!((set.len(), set.shape(), set.class_counts()), (2720, [1, 105, 105], vec![20; 136]));
    let ink = set.pixels().iter().filter(|&&p| p == 0).count();
    println!("  {} drawings, {ink} pixels of ink", set.len());
    assert_eq!(ink, 2_286_596);
    assert!(set.pixels().iter().all(|&p| p == 0 || p == 255));
    assert_eq!(zero_shot(&opened), [1_720, 86, 1_000, 50]);
}
