//! Kernels, forward and backward, beside candle's own operations on the same tensors: `GROUP/SIZE/DTYPE`, each with
//! `kernel` and `native`. Answers are compared before the clock starts.
#![allow(missing_docs, clippy::unwrap_used)] // a benchmark

use candle_core::{DType, Device, Result, Tensor, Var};
use dml_kernels::{
    Activation, BatchNormConfig, Classes, Closer, Conv2dConfig, LiftedPairs, LiftedSide, add_row,
    batch_norm2d, conv2d, conv2d_max_pool2d, hardest, l2_normalize, linear, masked_row_log_sum_exp,
    masked_row_max, matmul, natively, row_top_k, separable_units, softplus, sum_leading,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

fn main() {
    dml_kernels::settle_threads();
    divan::main();
}

type Work = Box<dyn Fn() -> Result<Tensor>>;

/// A case by its id: variables, and the operation reduced to a number.
struct Case {
    vars: Vec<Var>,
    work: Work,
}

fn var(seed: u64, shape: &[usize]) -> Var {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| StandardNormal.sample(&mut rng)).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

const IDS: [&str; 21] = [
    "softplus/n512_k256/f32",
    "sum_leading/n4096_k128/f32",
    "add_row/n4096_k128/f32",
    "l2_normalize/n512_d128/f32",
    "separable_units/n400_d49_k16/f32",
    "matmul/n512/f32",
    "linear/n128_i3136_o128/f32",
    "conv2d/n32_c32_o64_s14_k3/f32",
    "conv2d/n8_c64_o64_s32_k3/f32",
    "conv2d/n8_c512_o512_s4_k3/f32",
    "conv2d/n32_c1_o32_s28_k3/f32",
    "conv2d/n8_c64_o128_s32_k3_stride2/f32",
    "conv2d/n8_c64_o128_s32_k1/f32",
    "conv2d/n8_c64_o64_s32_k3_groups64/f32",
    "conv2d_max_pool2d/n32_c32_o64_s14_k3/f32",
    "batch_norm2d/n32_c64_s32/f32",
    "lifted_pairs/n512_d128/f32",
    "hardest/n512/f32",
    "masked_row_max/n512/f32",
    "masked_row_log_sum_exp/n512/f32",
    "row_top_k/n512_k10/f32",
];

/// The number behind `key` in an id, 1 where there is none.
fn size(id: &str, key: &str) -> usize {
    let parts = id.split(['/', '_']);
    parts.filter_map(|part| part.strip_prefix(key)?.parse().ok()).next().unwrap_or(1)
}

fn case(id: &str) -> Case {
    let boxed = |vars: Vec<Var>, work: Work| Case { vars, work };
    let x = |shape: &[usize]| var(1, shape);
    let mask = |n: usize| x(&[n, n]).gt(0f32).unwrap();
    match id.split('/').next().unwrap() {
        "softplus" => {
            let x = x(&[512, 256]);
            boxed(vec![x.clone()], Box::new(move || softplus(&x)?.mean_all()))
        }
        "sum_leading" => {
            let x = x(&[4096, 128]);
            boxed(vec![x.clone()], Box::new(move || sum_leading(&x)?.mean_all()))
        }
        "add_row" => {
            let (x, b) = (x(&[4096, 128]), var(2, &[128]));
            boxed(vec![x.clone(), b.clone()], Box::new(move || add_row(&x, &b)?.mean_all()))
        }
        "l2_normalize" => {
            let x = x(&[512, 128]);
            boxed(vec![x.clone()], Box::new(move || l2_normalize(&x)?.mean_all()))
        }
        "separable_units" => {
            let (x, s, z, a) = (x(&[400, 49]), var(2, &[49, 16]), var(3, &[49, 16]), var(4, &[49, 16]));
            let vars = vec![x.clone(), s.clone(), z.clone(), a.clone()];
            boxed(
                vars,
                Box::new(move || {
                    let (value, slope) = separable_units(&x, &s, &z, &a)?;
                    value.mean_all()? + slope.mean_all()?
                }),
            )
        }
        "matmul" => {
            let (a, b) = (x(&[512, 512]), var(2, &[512, 512]));
            boxed(vec![a.clone(), b.clone()], Box::new(move || matmul(&a, &b)?.mean_all()))
        }
        "linear" => {
            let (x, w, b) = (x(&[128, 3136]), var(2, &[128, 3136]), var(3, &[128]));
            let vars = vec![x.clone(), w.clone(), b.clone()];
            boxed(vars, Box::new(move || linear(&x, &w, Some(&b), Activation::Relu)?.mean_all()))
        }
        "conv2d" | "conv2d_max_pool2d" => {
            let size = |key: &str| size(id, key);
            let (c, o, k, groups) = (size("c"), size("o"), size("k"), size("groups"));
            let x = x(&[size("n"), c, size("s"), size("s")]);
            let (w, b) = (var(2, &[o, c / groups, k, k]), var(3, &[o]));
            let vars = vec![x.clone(), w.clone(), b.clone()];
            let activation = Activation::Relu;
            let (stride, padding) = (size("stride"), k / 2);
            let config = Conv2dConfig { stride, padding, groups, activation, ..Default::default() };
            if id.starts_with("conv2d/") {
                boxed(vars, Box::new(move || conv2d(&x, &w, Some(&b), config)?.mean_all()))
            } else {
                boxed(vars, Box::new(move || conv2d_max_pool2d(&x, &w, Some(&b), config)?.mean_all()))
            }
        }
        "batch_norm2d" => {
            let channels = size(id, "c");
            let x = x(&[size(id, "n"), channels, size(id, "s"), size(id, "s")]);
            let (gamma, beta) = (var(2, &[channels]), var(3, &[channels]));
            let vars = vec![x.clone(), gamma.clone(), beta.clone()];
            let config = BatchNormConfig { activation: Activation::Relu, ..Default::default() };
            // Squared, since the mean alone has no gradient with respect to the input.
            boxed(vars, Box::new(move || batch_norm2d(&x, &gamma, &beta, None, config)?.sqr()?.mean_all()))
        }
        "lifted_pairs" => {
            let x = x(&[512, 128]);
            boxed(
                vec![x.clone()],
                Box::new(move || {
                    // Of ‖x‖², whose matrix is well conditioned.
                    let (value, grad) = (x.sqr()?.sum(1)?, (x.as_tensor() * 2.0)?);
                    let left = LiftedSide { vectors: &x, constants: &value, sizes: &value };
                    LiftedPairs::new(left, LiftedSide { vectors: &grad, ..left }, true)?
                        .complete(None)?
                        .tensor()?
                        .mean_all()
                }),
            )
        }
        "hardest" => {
            let x = x(&[512, 512]);
            boxed(
                vec![x.clone()],
                Box::new(move || {
                    let labels: Vec<i64> = (0..512).map(|i| i % 128).collect();
                    let own: Vec<u32> = (0..512).collect();
                    let classes = Classes { rows: &labels, columns: &labels, own: Some(&own) };
                    let found = hardest(&x, classes, Closer::Smaller)?;
                    (found.positive - found.negative)?.mean_all()
                }),
            )
        }
        "masked_row_max" => {
            let (x, mask) = (x(&[512, 512]), mask(512));
            boxed(vec![x.clone()], Box::new(move || masked_row_max(&x, &mask)?.0.mean_all()))
        }
        "masked_row_log_sum_exp" => {
            let (x, mask) = (x(&[512, 512]), mask(512));
            boxed(vec![x.clone()], Box::new(move || masked_row_log_sum_exp(&x, &mask)?.mean_all()))
        }
        _ => {
            let x = x(&[512, 512]);
            boxed(vec![x.clone()], Box::new(move || row_top_k(&x, 10, true)?.0.mean_all()))
        }
    }
}

impl Case {
    /// The value, after a backward pass.
    fn pass(&self) -> Tensor {
        let value = (self.work)().unwrap();
        let gradients = value.backward().unwrap();
        assert!(self.vars.iter().all(|v| gradients.get(v).is_some()));
        value
    }

    fn gradients(&self) -> Vec<f64> {
        let value = (self.work)().unwrap();
        let gradients = value.backward().unwrap();
        let double =
            |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let mut all = double(&value);
        self.vars.iter().for_each(|v| all.extend(double(gradients.get(v).unwrap())));
        all
    }
}

fn bench(bencher: divan::Bencher<'_, '_>, id: &str, native: bool) {
    let case = case(id);
    let (ours, theirs) = (case.gradients(), natively(|| case.gradients()));
    let largest = theirs.iter().fold(0f64, |m, v| m.max(v.abs()));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!((ours - theirs).abs() <= 1e-4 * largest, "{id}: {ours} for {theirs}");
    }
    match native {
        false => bencher.bench_local(|| case.pass()),
        true => bencher.bench_local(|| natively(|| case.pass())),
    }
}

#[divan::bench(args = IDS)]
fn kernel(bencher: divan::Bencher<'_, '_>, id: &str) {
    bench(bencher, id, false);
}

#[divan::bench(args = IDS)]
fn native(bencher: divan::Bencher<'_, '_>, id: &str) {
    bench(bencher, id, true);
}
