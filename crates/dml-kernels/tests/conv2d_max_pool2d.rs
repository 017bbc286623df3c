//! Convolution and pooling in one pass against the two one after the other, values and gradients.

#![allow(clippy::unwrap_used)] // a helper outside a test function

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::{Activation, Conv2dConfig, conv2d, conv2d_max_pool2d, max_pool2d};
use proptest::prelude::*;

const ROUND_OFF: f64 = 1e-12;
/// f32 results of other summation orders.
const ROUND_OFF_F32: f64 = 2e-5;

fn double(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F64).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Channels that fill vectors, where backward visits single pixels, and channels that do not.
    #[test]
    fn agrees_with_convolution_then_pooling(
        seed: u64,
        n in 1..7usize,
        (c, o) in (prop::sample::select(vec![1usize, 3, 8, 16, 32, 48, 64]), 1..12usize),
        (h, w) in (4..12usize, 4..12usize),
        (kernel, padding) in prop::sample::select(vec![(3usize, 1usize), (3, 0), (3, 2), (5, 2), (1, 0), (2, 1)]),
        single: bool,
        relu: bool,
        wants_input: bool,
    ) {
        prop_assume!(h + 2 * padding > kernel && w + 2 * padding > kernel);
        let dtype = if single { DType::F32 } else { DType::F64 };
        let tolerance = if single { ROUND_OFF_F32 } else { ROUND_OFF };
        let var = |seed, shape: &[usize]| Var::from_tensor(&normal(seed, shape).to_dtype(dtype).unwrap()).unwrap();
        let (x, weight, bias) = (var(seed, &[n, c, h, w]), var(seed ^ 1, &[o, c, kernel, kernel]), var(seed ^ 2, &[o]));
        let image = if wants_input { x.as_tensor().clone() } else { x.as_tensor().detach() };
        let activation = if relu { Activation::Relu } else { Activation::Identity };
        let config = Conv2dConfig { padding, activation, ..Default::default() };
        let ours = conv2d_max_pool2d(&image, &weight, Some(&bias), config)?;
        let theirs = max_pool2d(&conv2d(&image, &weight, Some(&bias), config)?, 2, 2, 0)?;
        assert_close("value", &double(&ours), &double(&theirs), tolerance);
        let (ours, theirs) = (weigh(&double(&ours))?.backward()?, weigh(&double(&theirs))?.backward()?);
        for (name, v) in [("x", &x), ("weight", &weight), ("bias", &bias)] {
            prop_assert_eq!(ours.get(v).is_some(), wants_input || name != "x");
            if let (Some(ours), Some(theirs)) = (ours.get(v), theirs.get(v)) {
                assert_close(name, &double(ours), &double(theirs), 10.0 * tolerance);
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences(
        seed: u64,
        n in 1..3usize,
        (c, o) in (prop::sample::select(vec![1usize, 2, 8, 16]), 1..4usize),
        (h, w) in (4..6usize, 4..6usize),
        relu: bool,
    ) {
        let var = |seed, shape: &[usize]| Var::from_tensor(&normal(seed, shape)).unwrap();
        let (x, weight, bias) = (var(seed, &[n, c, h, w]), var(seed ^ 1, &[o, c, 3, 3]), var(seed ^ 2, &[o]));
        let plain = Conv2dConfig { padding: 1, ..Default::default() };
        // A difference step must not carry a pixel across a kink, nor past its neighbour.
        let z = conv2d(&x, &weight, Some(&bias), plain)?;
        let mut pixels = z.flatten_all()?.to_vec1::<f64>()?;
        prop_assume!(pixels.iter().all(|z| z.abs() > 1e-3));
        pixels.sort_by(f64::total_cmp);
        prop_assume!(pixels.windows(2).all(|pair| pair[1] - pair[0] > 1e-3) || pixels.len() > 64);
        let activation = if relu { Activation::Relu } else { Activation::Identity };
        let config = Conv2dConfig { activation, ..plain };
        assert_gradients("conv2d_max_pool2d", &[&x, &weight, &bias], || {
            weigh(&conv2d_max_pool2d(&x, &weight, Some(&bias), config)?)
        });
    }
}

#[test]
fn ties_go_to_the_first_and_nan_is_kept() {
    let weight = Var::new(&[[[[1f32]]]], &Device::Cpu).unwrap();
    let x = Var::new(&[[[[7f32, 7., 1., 2.], [7., 7., 2., 2.]]]], &Device::Cpu).unwrap();
    let gradients = conv2d_max_pool2d(&x, &weight, None, Conv2dConfig::default())
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let gradient = gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(gradient, [1., 0., 0., 1., 0., 0., 0., 0.]);
    for at in 0..4 {
        let mut values = [0f32; 4];
        values[at] = f32::NAN;
        let x = Tensor::from_slice(&values, (1, 1, 2, 2), &Device::Cpu).unwrap();
        for activation in [Activation::Identity, Activation::Relu] {
            let config = Conv2dConfig { activation, ..Default::default() };
            let y = conv2d_max_pool2d(&x, &weight, None, config).unwrap();
            assert!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0].is_nan(), "{at}");
        }
    }
}

#[test]
fn empty_batches_and_windows_that_do_not_fit() {
    let weight = normal(1, (2, 3, 3, 3));
    let config = Conv2dConfig { padding: 1, ..Default::default() };
    let empty = Tensor::zeros((0, 3, 4, 4), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(conv2d_max_pool2d(&empty, &weight, None, config).unwrap().dims(), [0, 2, 2, 2]);
    let message = conv2d_max_pool2d(&normal(2, (1, 3, 1, 4)), &weight, None, config).unwrap_err().to_string();
    assert!(
        message.starts_with("conv2d_max_pool2d: a window of 2 pixels every 2 does not fit into 1×4 pixels"),
        "{message}"
    );
}
