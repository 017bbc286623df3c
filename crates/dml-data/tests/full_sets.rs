//! Whole sets against values that NumPy and Pillow took from them: those that lie in the folder `DML_DATA_DIR`.
//!
//! ```sh
//! DML_DATA_DIR=data cargo test -p dml-data --test full_sets -- --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use dml_data::{Benchmark, Error, ImageSet, benchmark, data_dir};

/// A set in memory that is divided officially.
struct Expected {
    name: &'static str,
    /// Words of what is said of its completeness.
    state: &'static str,
    parts: [Part; 2],
    /// Images and classes of both sides of the zero-shot protocol.
    zero_shot: [usize; 4],
}

struct Part {
    first_labels: [i64; 10],
    counts: [usize; 10],
    pixel_sum: u64,
    mean: &'static [f64],
    std: &'static [f64],
}

const SETS: [Expected; 3] = [
    Expected {
        name: "mnist",
        state: "complete",
        parts: [
            Part {
                first_labels: [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
                counts: [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
                pixel_sum: 1_567_298_545,
                mean: &[0.130_660_476_273_843],
                std: &[0.308_107_803_856_463],
            },
            Part {
                first_labels: [7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
                counts: [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
                pixel_sum: 264_923_200,
                mean: &[0.132_514_605_842_337],
                std: &[0.310_480_247_930_535],
            },
        ],
        zero_shot: [30_596, 5, 4_861, 5],
    },
    Expected {
        name: "fashion-mnist-20k",
        state: "the first 20,000 of the 60,000",
        parts: [
            Part {
                first_labels: [9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
                counts: [1935, 2025, 1982, 2011, 1967, 2010, 2068, 2003, 1971, 2028],
                pixel_sum: 1_142_624_448,
                mean: &[0.285_770_420_168_067],
                std: &[0.353_212_331_154_442],
            },
            Part {
                first_labels: [9, 2, 1, 1, 6, 1, 4, 6, 5, 7],
                counts: [1000; 10],
                pixel_sum: 573_469_082,
                mean: &[0.286_849_280_712_285],
                std: &[0.352_444_153_247_440],
            },
        ],
        zero_shot: [9_920, 5, 5_000, 5],
    },
    Expected {
        name: "cifar10-5k-jpeg",
        state: "their pixels come from JPEG files",
        parts: [
            Part {
                first_labels: [3, 5, 7, 7, 8, 2, 3, 0, 7, 3],
                counts: [500; 10],
                pixel_sum: 1_850_248_986,
                mean: &[0.489_200_753_676_470_6, 0.481_272_548_253_676_44, 0.446_690_443_474_264_73],
                std: &[0.246_072_675_112_854_16, 0.243_905_746_786_948_32, 0.261_523_542_426_020_66],
            },
            Part {
                first_labels: [8, 7, 3, 4, 4, 2, 8, 8, 6, 4],
                counts: [100; 10],
                pixel_sum: 369_831_957,
                mean: &[0.487_897_058_823_529_4, 0.480_555_840_226_715_66, 0.447_876_593_137_254_9],
                std: &[0.244_120_930_341_531_93, 0.241_505_886_664_861_7, 0.259_143_103_624_663_36],
            },
        ],
        zero_shot: [2_500, 5, 500, 5],
    },
];

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

fn check(name: &str, set: &ImageSet, expected: &Part) {
    assert_eq!(set.labels()[..10], expected.first_labels, "{name}");
    assert_eq!(set.class_counts(), expected.counts, "{name}");
    assert_eq!(set.pixels().iter().map(|&p| u64::from(p)).sum::<u64>(), expected.pixel_sum, "{name}");
    let all: Vec<usize> = (0..set.len()).collect();
    let statistics = set.statistics(&all).unwrap();
    let (mean, std) = (statistics.mean(), statistics.std());
    println!("  {} images {:?}, {mean:?} ± {std:?}", set.len(), set.shape());
    for (got, expected) in [(mean, expected.mean), (std, expected.std)] {
        assert_eq!(got.len(), expected.len(), "{name}");
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{name}: {got} is not {expected}");
        }
    }
}

fn zero_shot(opened: &Benchmark) -> [usize; 4] {
    let protocol = opened.zero_shot.as_ref().unwrap();
    let (train, test) = (&protocol.train, &protocol.test);
    [train.indices.len(), train.n_classes(), test.indices.len(), test.n_classes()]
}

#[test]
fn counts_labels_and_pixels_are_those_of_another_reader() {
    for expected in SETS {
        let name = expected.name;
        let Some(opened) = open(name) else { continue };
        let state = opened.completeness.to_string();
        assert!(state.contains(expected.state), "{name}: {state}");
        let closed = opened.closed_set.as_ref().unwrap();
        for (subset, part) in [&closed.train, &closed.test].into_iter().zip(&expected.parts) {
            check(name, subset.set.images().unwrap(), part);
        }
        assert_eq!(zero_shot(&opened), expected.zero_shot, "{name}");
    }
}

#[test]
fn omniglot_is_ink_on_paper() {
    let Some(opened) = open("omniglot-small1") else { return };
    let set = opened.zero_shot.as_ref().unwrap().train.set.images().unwrap();
    assert_eq!((set.len(), set.shape(), set.class_counts()), (2720, [1, 105, 105], vec![20; 136]));
    let ink = set.pixels().iter().filter(|&&p| p == 0).count();
    println!("  {} drawings, {ink} pixels of ink", set.len());
    assert_eq!(ink, 2_286_596);
    assert!(set.pixels().iter().all(|&p| p == 0 || p == 255));
    assert_eq!(zero_shot(&opened), [1_720, 86, 1_000, 50]);
}
