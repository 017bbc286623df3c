//! Every kernel against candle's own operation, where that is right, over random shapes and layouts.

mod common;

use candle_core::{DType, Tensor, Var};
use common::{assert_close, normal, weigh};
use dml_kernels::{
    Activation, Conv2dConfig, avg_pool2d, conv2d, linear, matmul, max_pool2d, sigmoid, softplus,
};
use proptest::prelude::*;

const ROUND_OFF: f64 = 1e-12;
/// f32 results of other summation orders.
const ROUND_OFF_F32: f64 = 1e-5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn convolution_and_its_gradients(
        seed: u64,
        n in 1..6usize,
        (groups, c, o) in (1..4usize, 1..4usize, 1..4usize),
        (h, w) in (4..12usize, 4..12usize),
        (kh, kw) in (1..4usize, 1..4usize),
        (stride, padding, dilation) in (1..4usize, 0..3usize, 1..3usize),
        single: bool,
    ) {
        prop_assume!(dilation * (kh - 1) < h + 2 * padding && dilation * (kw - 1) < w + 2 * padding);
        let dtype = if single { DType::F32 } else { DType::F64 };
        let var = |seed, shape: (usize, usize, usize, usize)| {
            Var::from_tensor(&normal(seed, shape).to_dtype(dtype).unwrap()).unwrap()
        };
        let (x, weight) = (var(seed, (n, c * groups, h, w)), var(seed ^ 1, (o * groups, c, kh, kw)));
        let config = Conv2dConfig { stride, padding, dilation, groups, activation: Activation::Identity };
        let ours = conv2d(&x, &weight, None, config)?;
        let theirs = x.conv2d(&weight, padding, stride, dilation, groups)?;
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let tolerance = if single { ROUND_OFF_F32 } else { ROUND_OFF };
        assert_close("conv2d", &double(&ours), &double(&theirs), tolerance);
        // With a stride, candle 0.11 cannot differentiate where height and width leave different remainders;
        // finite differences cover that in `grad.rs`.
        if stride > 1 {
            return Ok(());
        }
        let (ours, theirs) = (weigh(&double(&ours))?.backward()?, weigh(&double(&theirs))?.backward()?);
        for v in [&x, &weight] {
            let (ours, theirs) = (ours.get(v).unwrap(), theirs.get(v).unwrap());
            assert_close("gradient", &double(ours), &double(theirs), 10.0 * tolerance);
        }
    }

    /// Where 3×3 kernels are multiplied out tile by tile (Winograd), with the last tile of a row or column incomplete and
    /// channels that do not fill a block.
    #[test]
    fn convolution_of_many_channels(
        seed: u64,
        n in 1..7usize,
        (c, o) in (16..70usize, 16..70usize),
        (h, w) in (1..10usize, 1..10usize),
        padding in 0..4usize,
        single: bool,
        relu: bool,
        wants_input: bool,
    ) {
        prop_assume!(h + 2 * padding >= 3 && w + 2 * padding >= 3);
        let dtype = if single { DType::F32 } else { DType::F64 };
        let tolerance = if single { ROUND_OFF_F32 } else { ROUND_OFF };
        let var = |seed, shape: &[usize]| Var::from_tensor(&normal(seed, shape).to_dtype(dtype).unwrap()).unwrap();
        let (x, weight, bias) = (var(seed, &[n, c, h, w]), var(seed ^ 1, &[o, c, 3, 3]), var(seed ^ 2, &[o]));
        let image = if wants_input { x.as_tensor().clone() } else { x.as_tensor().detach() };
        let activation = if relu { Activation::Relu } else { Activation::Identity };
        let config = Conv2dConfig { padding, activation, ..Default::default() };
        let ours = conv2d(&image, &weight, Some(&bias), config)?;
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let linear = double(&x).conv2d(&double(&weight), padding, 1, 1, 1)?;
        let linear = linear.broadcast_add(&double(&bias).reshape((1, o, 1, 1))?)?;
        let theirs = if relu { linear.relu()? } else { linear };
        assert_close("conv2d", &double(&ours), &theirs, tolerance);
        // The ReLU's mask is taken from one side, so that a value near 0 does not decide.
        let mask = if relu { double(&ours.gt(0.0)?) } else { ours.ones_like()?.to_dtype(DType::F64)? };
        let (ours, theirs) = (weigh(&double(&ours))?.backward()?, weigh(&(theirs * mask)?)?.backward()?);
        prop_assert_eq!(ours.get(&x).is_some(), wants_input);
        for (name, v) in [("x", &x), ("weight", &weight), ("bias", &bias)] {
            if let (Some(ours), Some(theirs)) = (ours.get(v), theirs.get(v)) {
                assert_close(name, &double(ours), &double(theirs), 10.0 * tolerance);
            }
        }
    }

    #[test]
    fn non_contiguous_operands(seed: u64, n in 1..5usize, i in 1..7usize, o in 1..7usize) {
        let (x, w) = (normal(seed, (i, n)).t()?, normal(seed ^ 1, (i, o)).t()?);
        let want = x.matmul(&w.t()?)?;
        assert_close("linear", &linear(&x, &w, None, Activation::Identity)?, &want, ROUND_OFF);
        assert_close("relu", &linear(&x, &w, None, Activation::Relu)?, &want.relu()?, ROUND_OFF);
        let narrow = normal(seed, (n, i + 4)).narrow(1, 2, i)?;
        let want = ((narrow.exp()? + 1.0)?).log()?;
        assert_close("softplus", &softplus(&narrow)?, &want, 1e-11);
        let image = normal(seed, (n, i + 3, o + 3, 2)).permute((0, 3, 1, 2))?;
        let weight = normal(seed ^ 3, (3, 3, 2, 4)).permute((3, 2, 0, 1))?;
        let want = image.contiguous()?.conv2d(&weight.contiguous()?, 1, 1, 1, 1)?;
        let config = Conv2dConfig { padding: 1, ..Default::default() };
        assert_close("conv2d", &conv2d(&image, &weight, None, config)?, &want, ROUND_OFF);
    }

    #[test]
    fn products_of_strided_operands(seed: u64, m in 1..9usize, k in 1..9usize, n in 1..9usize) {
        let var = |seed, shape: (usize, usize)| Var::from_tensor(&normal(seed, shape)).unwrap();
        let (a, b) = (var(seed, (m, k)), var(!seed, (k, n)));
        let (at, bt) = (var(seed ^ 1, (k, m)), var(seed ^ 2, (n + 2, k)));
        let cases = [
            (a.as_tensor().clone(), b.as_tensor().clone()),
            (at.t()?, bt.narrow(0, 1, n)?.t()?),
            (a.narrow(0, 0, 1)?.broadcast_as((m, k))?, b.as_tensor().clone()),
        ];
        for (x, y) in cases {
            let (ours, theirs) = (matmul(&x, &y)?, x.contiguous()?.matmul(&y.contiguous()?)?);
            assert_close("matmul", &ours, &theirs, ROUND_OFF);
            let (ours, theirs) = (weigh(&ours)?.backward()?, weigh(&theirs)?.backward()?);
            for v in [&a, &b, &at, &bt] {
                if let Some(theirs) = theirs.get(v) {
                    assert_close("gradient", ours.get(v).unwrap(), theirs, ROUND_OFF);
                }
            }
        }
    }

    #[test]
    fn pooling(seed: u64, n in 1..4usize, c in 1..4usize, h in 2..12usize, w in 2..12usize, k in 1..3usize) {
        let x = normal(seed, (n, c, h, w));
        assert_close("max", &max_pool2d(&x, k, k, 0)?, &x.max_pool2d(k)?, 0.0);
        assert_close("average", &avg_pool2d(&x, k, k)?, &x.avg_pool2d(k)?, ROUND_OFF);
    }

    #[test]
    fn activations_in_single_precision(seed: u64, scale in 0.1..60f64) {
        let x = (normal(seed, (3, 37)) * scale)?;
        let single = x.to_dtype(DType::F32)?;
        let double = single.to_dtype(DType::F64)?;
        for (name, f) in [("softplus", softplus as fn(&Tensor) -> _), ("sigmoid", sigmoid)] {
            assert_close(name, &f(&single)?.to_dtype(DType::F64)?, &f(&double)?, 2e-7);
        }
    }
}

/// Large enough to be shared among threads, with a size that does not divide.
#[test]
fn pieces_of_a_shared_loop_join_without_a_seam() {
    let x = normal(5, (37, 1009));
    let want = ((x.exp().unwrap() + 1.0).unwrap()).log().unwrap();
    assert_close("softplus", &softplus(&x).unwrap(), &want, 1e-11);
}
