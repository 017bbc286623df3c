//! Hardest triplets under the divergence of an input-convex network (2 × 128), forward and backward: φ evaluated
//! once, one matrix, mined where it lies.
#![allow(missing_docs, clippy::unwrap_used)] // a benchmark

use std::fmt;

use bregman::all_pairs;
use candle_core::{DType, Device, Result, Tensor, Var};
use dml_kernels::{Classes, Closer, hardest, natively};
use phi::{Icnn, IcnnConfig};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// As in the programs: large tensors of one pass are there for the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    dml_kernels::settle_threads();
    divan::main();
}

#[derive(Clone, Copy)]
struct Size {
    n: usize,
    d: usize,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}_d{}/f32", self.n, self.d)
    }
}

const SIZES: [Size; 2] = [Size { n: 128, d: 64 }, Size { n: 512, d: 128 }];

struct Case {
    phi: Icnn,
    x: Var,
    labels: Vec<i64>,
    own: Vec<u32>,
}

impl Case {
    fn new(Size { n, d }: Size) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let values: Vec<f32> = (0..n * d).map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5).collect();
        let x = Tensor::from_vec(values, (n, d), &Device::Cpu).unwrap();
        Self {
            phi: Icnn::new(d, &IcnnConfig::default(), 1, DType::F32, &Device::Cpu).unwrap(),
            x: Var::from_tensor(&x).unwrap(),
            labels: (0..n as i64).map(|i| i % (n as i64 / 4)).collect(),
            own: (0..n as u32).collect(),
        }
    }

    fn loss(&self) -> Result<Tensor> {
        let matrix = all_pairs(&self.phi, &self.x, &self.x).map_err(candle_core::Error::wrap)?;
        let classes = Classes { rows: &self.labels, columns: &self.labels, own: Some(&self.own) };
        let found = hardest(&matrix, classes, Closer::Smaller)?;
        ((found.positive - found.negative)? + 1.0)?.relu()?.mean_all()
    }

    fn pass(&self) -> f32 {
        let loss = self.loss().unwrap();
        let gradients = loss.backward().unwrap();
        assert!(gradients.get(&self.x).is_some());
        loss.to_scalar::<f32>().unwrap()
    }
}

/// Every pair through φ on its own, which is what the matrix saves.
fn by_pairs(case: &Case) -> Result<Tensor> {
    let (n, d) = case.x.dims2()?;
    let wide = |t: Tensor| t.contiguous()?.reshape((n * n, d));
    let first = wide(case.x.unsqueeze(1)?.broadcast_as((n, n, d))?)?;
    let second = wide(case.x.unsqueeze(0)?.broadcast_as((n, n, d))?)?;
    bregman::paired(&case.phi, &first, &second).map_err(candle_core::Error::wrap)?.reshape((n, n))
}

fn matrix_pass(case: &Case, matrix: impl Fn(&Case) -> Result<Tensor>) -> f32 {
    let mean = matrix(case).unwrap().mean_all().unwrap();
    assert!(mean.backward().unwrap().get(&case.x).is_some());
    mean.to_scalar::<f32>().unwrap()
}

fn whole(case: &Case) -> Result<Tensor> {
    all_pairs(&case.phi, &case.x, &case.x).map_err(candle_core::Error::wrap)
}

#[divan::bench_group(name = "all_pairs/icnn")]
mod matrix {
    use super::*;

    #[divan::bench(args = SIZES)]
    fn kernel(bencher: divan::Bencher<'_, '_>, size: Size) {
        let case = Case::new(size);
        bencher.bench_local(|| matrix_pass(&case, whole));
    }

    #[divan::bench(args = SIZES)]
    fn native(bencher: divan::Bencher<'_, '_>, size: Size) {
        let case = Case::new(size);
        bencher.bench_local(|| natively(|| matrix_pass(&case, whole)));
    }

    #[divan::bench(args = [Size { n: 64, d: 64 }])]
    fn pairs(bencher: divan::Bencher<'_, '_>, size: Size) {
        let case = Case::new(size);
        let (one, other) = (matrix_pass(&case, whole), matrix_pass(&case, by_pairs));
        assert!((one - other).abs() <= 1e-4 * one, "{one} for {other}");
        bencher.bench_local(|| matrix_pass(&case, by_pairs));
    }
}

#[divan::bench_group(name = "objective/icnn-hardest-triplet")]
mod objective {
    use super::*;

    #[divan::bench(args = SIZES)]
    fn kernel(bencher: divan::Bencher<'_, '_>, size: Size) {
        let case = Case::new(size);
        let (ours, theirs) = (case.pass(), natively(|| case.pass()));
        assert!((ours - theirs).abs() <= 1e-4 * theirs.abs(), "{ours} for {theirs}");
        bencher.bench_local(|| case.pass());
    }

    #[divan::bench(args = SIZES)]
    fn native(bencher: divan::Bencher<'_, '_>, size: Size) {
        let case = Case::new(size);
        bencher.bench_local(|| natively(|| case.pass()));
    }
}
