//! Every kernel's backward pass against central finite differences in f64.

#![allow(clippy::unwrap_used)] // a helper outside a test function

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{assert_close, assert_gradients, clear_of_kink, normal, weigh};
use dml_kernels::{
    Activation, AdamW, Conv2dConfig, adamw_step, avg_pool2d, conv2d, global_avg_pool2d, l2_normalize, linear,
    max_pool2d, natively, separable_divergence, separable_units, sigmoid, softplus,
};
use proptest::prelude::*;

fn var(seed: u64, shape: impl Into<candle_core::Shape>) -> Var {
    Var::from_tensor(&normal(seed, shape)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 4096, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn activations(seed: u64, n in 1..4usize, k in 1..20usize) {
        let x = var(seed, (n, k));
        assert_gradients("softplus", &[&x], || weigh(&softplus(&(x.as_tensor() * 3.0)?)?));
        assert_gradients("sigmoid", &[&x], || weigh(&sigmoid(&(x.as_tensor() * 3.0)?)?));
    }

    #[test]
    fn separable_divergences_of_all_rows(seed: u64, n in 1..5usize, d in 1..4usize, k in 1..9usize) {
        let (step, at) = (var(seed, (n, d)), var(!seed, (n, d)));
        let (s, z0, a) = (var(seed ^ 1, (d, k)), var(seed ^ 2, (d, k)), var(seed ^ 3, (d, k)));
        let run = || separable_divergence(&step, &at, &s, &z0, &a);
        assert_gradients("separable_divergence", &[&step, &at, &s, &z0, &a], || weigh(&run()?));
        assert_close("native", &natively(run)?, &run()?, 1e-12);
        let native = || weigh(&natively(run)?);
        assert_gradients("separable_divergence, native", &[&step, &at, &s, &z0, &a], native);
    }

    #[test]
    fn separable_units_of_all_rows(seed: u64, n in 1..5usize, d in 1..4usize, k in 1..19usize) {
        let x = var(seed, (n, d));
        let (s, z0, a) = (var(seed ^ 1, (d, k)), var(seed ^ 2, (d, k)), var(seed ^ 3, (d, k)));
        let run = || {
            let (value, slope) = separable_units(&x, &s, &z0, &a)?;
            weigh(&value)? + weigh(&slope)?
        };
        assert_gradients("separable_units", &[&x, &s, &z0, &a], run);
        // The slope is the derivative of the value.
        let (value, slope) = separable_units(&x, &s, &z0, &a)?;
        let gradients = value.sum_all()?.backward()?;
        assert_close("slope", gradients.get(&x).unwrap(), &slope, 1e-12);
    }

    #[test]
    fn linear_layer(seed: u64, n in 1..5usize, i in 1..6usize, o in 1..6usize) {
        let (x, w, b) = (var(seed, (n, i)), var(seed ^ 1, (o, i)), var(seed ^ 2, o));
        prop_assume!(clear_of_kink(&linear(&x, &w, Some(&b), Activation::Identity)?));
        for activation in [Activation::Identity, Activation::Relu] {
            assert_gradients("linear", &[&x, &w, &b], || weigh(&linear(&x, &w, Some(&b), activation)?));
        }
    }

    #[test]
    fn convolution(
        seed: u64,
        n in 1..4usize,
        (groups, c, o) in (1..3usize, 1..3usize, 1..3usize),
        (h, w) in (3..7usize, 3..7usize),
        (kh, kw) in (1..4usize, 1..4usize),
        (stride, padding, dilation) in (1..4usize, 0..3usize, 1..3usize),
    ) {
        prop_assume!(dilation * (kh - 1) < h + 2 * padding && dilation * (kw - 1) < w + 2 * padding);
        let x = var(seed, (n, c * groups, h, w));
        let weight = var(seed ^ 1, (o * groups, c, kh, kw));
        let bias = var(seed ^ 2, o * groups);
        let plain = Conv2dConfig { stride, padding, dilation, groups, activation: Activation::Identity };
        prop_assume!(clear_of_kink(&conv2d(&x, &weight, Some(&bias), plain)?));
        for activation in [Activation::Identity, Activation::Relu] {
            let config = Conv2dConfig { activation, ..plain };
            let run = || weigh(&conv2d(&x, &weight, Some(&bias), config)?);
            assert_gradients("conv2d", &[&x, &weight, &bias], run);
            // An input that needs no gradient takes another way through the code.
            let image = x.as_tensor().detach();
            let run = || weigh(&conv2d(&image, &weight, Some(&bias), config)?);
            assert_gradients("conv2d of data", &[&weight, &bias], run);
        }
    }

    #[test]
    fn pooling(seed: u64, n in 1..3usize, c in 1..3usize, h in 3..8usize, w in 3..8usize, k in 1..4usize, s in 1..4usize) {
        // Far enough apart that a difference step changes no maximum.
        let ranks = normal(seed, n * c * h * w).arg_sort_last_dim(true)?.to_dtype(DType::F64)?;
        let x = Var::from_tensor(&(ranks * 0.1)?.reshape((n, c, h, w))?)?;
        assert_gradients("max_pool2d", &[&x], || weigh(&max_pool2d(&x, k, s, k / 2)?));
        assert_gradients("max_pool2d", &[&x], || weigh(&max_pool2d(&x, k, s, 0)?));
        assert_gradients("avg_pool2d", &[&x], || weigh(&avg_pool2d(&x, k, s)?));
        assert_gradients("global_avg_pool2d", &[&x], || weigh(&global_avg_pool2d(&x)?));
    }

    #[test]
    fn normalization(seed: u64, n in 1..4usize, d in 1..20usize) {
        let x = var(seed, (n, d));
        assert_gradients("l2_normalize", &[&x], || weigh(&l2_normalize(&x)?));
    }
}

/// Channels enough for the products of tiles, an incomplete tile at the end of rows and columns.
#[test]
fn convolution_of_many_channels() {
    let (x, weight, bias) = (var(1, (2, 17, 3, 4)), var(2, (16, 17, 3, 3)), var(3, 16));
    let config = Conv2dConfig { padding: 1, ..Default::default() };
    assert_gradients("conv2d", &[&x, &weight, &bias], || weigh(&conv2d(&x, &weight, Some(&bias), config)?));
    let image = x.as_tensor().detach();
    assert_gradients("conv2d of data", &[&weight, &bias], || {
        weigh(&conv2d(&image, &weight, Some(&bias), config)?)
    });
}

/// Why `max_pool2d` exists here: candle's own gives a maximum a quarter of its gradient.
#[test]
fn candles_own_max_pooling_has_the_wrong_gradient_and_ours_the_right_one() {
    let x = Var::new(&[[[[1f64, 5.], [2., 3.]]]], &Device::Cpu).unwrap();
    let gradient = |y: Tensor| {
        let gradients = y.sum_all().unwrap().backward().unwrap();
        gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    assert_eq!(gradient(max_pool2d(&x, 2, 2, 0).unwrap()), [0., 1., 0., 0.]);
    let theirs = gradient(x.max_pool2d(2).unwrap());
    assert_ne!(theirs, [0., 1., 0., 0.], "candle's max pooling is cured: use it off the CPU too");
}

#[test]
fn max_pooling_keeps_nan() {
    for at in 0..9 {
        let mut values = vec![1f32; 9];
        values[at] = f32::NAN;
        let x = Tensor::from_vec(values, (1, 1, 3, 3), &Device::Cpu).unwrap();
        for (kernel, stride) in [(3, 3), (2, 1)] {
            let y =
                max_pool2d(&x, kernel, stride, 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(y.iter().any(|v| v.is_nan()), "{at} {kernel} {y:?}");
        }
        let y = max_pool2d(&x, 2, 2, 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(y[0].is_nan(), [0, 1, 3, 4].contains(&at));
    }
}

#[test]
fn tied_maxima_give_the_gradient_to_the_first() {
    let x = Var::new(&[[[[7f64, 7.], [7., 7.]]]], &Device::Cpu).unwrap();
    let gradients = max_pool2d(&x, 2, 2, 0).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(gradient, [1., 0., 0., 0.]);
}

#[test]
fn a_row_of_zeros_stays_zero_and_finite() {
    let x = Var::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let y = l2_normalize(&x).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0; 3]; 2]);
    let gradients = y.sum_all().unwrap().backward().unwrap();
    let gradient = gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(gradient.iter().all(|g| g.is_finite()));
}

#[test]
fn tiny_and_huge_rows_are_normalized_without_underflow_or_overflow() {
    let x = Tensor::new(&[[3e-20f32, 4e-20], [3e25, 4e25]], &Device::Cpu).unwrap();
    // 5e-20 is shorter than the shortest row that is stretched to length one.
    let y = l2_normalize(&x).unwrap().to_vec2::<f32>().unwrap();
    assert!((y[0][0] - 3e-8).abs() < 1e-13 && (y[1][0] - 0.6).abs() < 1e-6, "{y:?}");
}

/// Beside a saturated pivot what a unit bends is next to nothing, and has its digits on either side of the knee.
#[test]
fn saturated_units_keep_their_digits() {
    let shift = Tensor::new(&[[0.5f32], [-1.25], [2.0]], &Device::Cpu).unwrap();
    let one = |v: f32| Tensor::new(&[[v]], &Device::Cpu).unwrap();
    for z0 in [20f32, -20.0, 60.0, -60.0] {
        let (value, slope) = separable_units(&shift, &one(1.0), &one(z0), &one(1.0)).unwrap();
        let (value, slope) =
            (value.to_vec1::<f32>().unwrap(), slope.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        for (i, delta) in [0.5f64, -1.25, 2.0].into_iter().enumerate() {
            // eᶻ left of the knee, and e⁻ᶻ right of it.
            let side = if z0 > 0.0 { -1.0 } else { 1.0 };
            let (tail, step) = (-f64::from(z0).abs(), side * delta);
            let want = (tail.exp() * (step.exp_m1() - step), side * tail.exp() * step.exp_m1());
            assert!(
                (f64::from(value[i]) / want.0 - 1.0).abs() < 1e-5,
                "{z0} + {delta}: {} for {}",
                value[i],
                want.0
            );
            assert!(
                (f64::from(slope[i]) / want.1 - 1.0).abs() < 1e-5,
                "{z0} + {delta}: {} for {}",
                slope[i],
                want.1
            );
        }
    }
}

#[test]
fn candles_sigmoid_has_a_gradient_at_any_distance() {
    let z = Var::new(&[-1000f32, -90.0, -1.0, 0.0, 1.0, 90.0, 1000.0], &Device::Cpu).unwrap();
    let sum = natively(|| sigmoid(&z)).unwrap().sum_all().unwrap();
    let gradient = sum.backward().unwrap().get(&z).unwrap().to_vec1::<f32>().unwrap();
    for (got, want) in gradient.into_iter().zip([0.0, 0.0, 0.196_611_93, 0.25, 0.196_611_93, 0.0, 0.0]) {
        assert!((got - want).abs() < 1e-6, "{got} for {want}");
    }
}

/// Two steps by hand, in f64.
#[test]
fn adamw_follows_its_algorithm() {
    let config = AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.01 };
    let param = Var::new(&[[1f64, -2.], [0.5, 3.]], &Device::Cpu).unwrap();
    let moments = Var::zeros((2, 4), DType::F64, &Device::Cpu).unwrap();
    let (mut p, mut m, mut v) = ([1f64, -2., 0.5, 3.], [0f64; 4], [0f64; 4]);
    for step in 1..=2 {
        let g: Vec<f64> = p.iter().map(|p| p * p - 1.5).collect();
        let grad = Tensor::from_vec(g.clone(), (2, 2), &Device::Cpu).unwrap();
        adamw_step(&param, &grad, &moments, step, config).unwrap();
        for i in 0..4 {
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.99 * v[i] + 0.01 * g[i] * g[i];
            let (m, v) = (m[i] / (1.0 - 0.9f64.powi(step as i32)), v[i] / (1.0 - 0.99f64.powi(step as i32)));
            p[i] -= 0.1 * (m / (v.sqrt() + 1e-8) + 0.01 * p[i]);
        }
        let want = Tensor::from_vec(p.to_vec(), (2, 2), &Device::Cpu).unwrap();
        assert_close("parameter", &param, &want, 1e-14);
    }
}

#[test]
fn rows_too_short_to_stretch_have_the_gradient_of_a_scaling() {
    let x = Var::new(&[[0.9e-12f64, 0.0]], &Device::Cpu).unwrap();
    let gradients = l2_normalize(&x).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert!(gradient.iter().all(|g| (g / 1e12 - 1.0).abs() < 1e-12), "{gradient:?}");
}

#[test]
fn a_relu_does_not_hide_a_nan() {
    let (x, w) = (normal(1, (2, 3)), Tensor::full(f64::NAN, (1, 3), &Device::Cpu).unwrap());
    let y = linear(&x, &w, None, Activation::Relu).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert!(y.iter().all(|v| v.is_nan()), "{y:?}");
    let (x, w) = (normal(1, (1, 1, 3, 3)), Tensor::full(f64::NAN, (1, 1, 1, 1), &Device::Cpu).unwrap());
    let config = Conv2dConfig { activation: Activation::Relu, ..Default::default() };
    let y = conv2d(&x, &w, None, config).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert!(y.iter().all(|v| v.is_nan()), "{y:?}");
}

#[test]
fn sizes_of_zero_and_absurd_settings_are_errors() {
    let zeros = |shape: (usize, usize, usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let config = Conv2dConfig { padding: 1, ..Default::default() };
    assert!(conv2d(&zeros((2, 0, 5, 5)), &zeros((3, 0, 3, 3)), None, config).is_err());
    assert!(conv2d(&zeros((2, 1, 0, 5)), &zeros((3, 1, 1, 1)), None, config).is_err());
    for config in [
        Conv2dConfig { dilation: usize::MAX / 2 + 1, ..Default::default() },
        Conv2dConfig { padding: usize::MAX / 2 + 1, ..Default::default() },
    ] {
        assert!(conv2d(&zeros((1, 1, 5, 5)), &zeros((1, 1, 3, 3)), None, config).is_err(), "{config:?}");
    }
}

#[test]
fn wrong_shapes_are_errors_that_name_the_argument() {
    let x = normal(1, (2, 3));
    let message = linear(&x, &normal(2, (4, 5)), None, Activation::Identity).unwrap_err().to_string();
    assert!(message.starts_with("linear: `x` has 3 columns, `weight` expects 5"), "{message}");
    let message = max_pool2d(&normal(1, (1, 1, 2, 2)), 3, 1, 0).unwrap_err().to_string();
    assert!(message.starts_with("max_pool2d: a window of 3 pixels every 1 does not fit"), "{message}");
    let image = normal(1, (1, 2, 2, 2));
    let message =
        conv2d(&image, &normal(2, (4, 2, 5, 5)), None, Conv2dConfig::default()).unwrap_err().to_string();
    assert!(message.starts_with("conv2d: a 5×5 kernel with dilation 1 does not fit into 2×2"), "{message}");
}

#[test]
fn convolutions_beyond_any_memory_are_errors() {
    let (x, weight) = (normal(1, (1, 1, 1, 1)), normal(2, (1, 1, 1, 1)));
    for padding in [1usize << 31, 1 << 62] {
        let config = Conv2dConfig { padding, ..Default::default() };
        let message = conv2d(&x, &weight, None, config).unwrap_err().to_string();
        assert!(message.contains("memory") || message.contains("does not fit"), "{message}");
    }
}
