//! f32 against f64: the error of all-pairs stays below 1e-4 of the median off-diagonal divergence, also with all
//! points shifted by 100 standard deviations.

use bregman::{Lift, Side, all_pairs, mean_pivot};
use candle_core::{DType, Tensor};
use phi::{
    Domain,
    testing::{every_generator, points as rows},
};

#[path = "support/oracle.rs"]
mod oracle;
use oracle::*;

const BOUND: f64 = 1e-4;

/// The median off-diagonal divergence. A max-affine φ, smoothed or not, is flat between most points far out: where
/// the median is below a hundredth of the mean, the mean is the scale, and `None` where all of it is flat.
fn scale(d: &[Vec<f64>]) -> Option<f64> {
    let off = |(i, row): (usize, &Vec<f64>)| {
        row.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, v)| *v).collect::<Vec<_>>()
    };
    let mut values: Vec<f64> = d.iter().enumerate().flat_map(off).collect();
    values.sort_by(f64::total_cmp);
    let (median, mean) = (values[values.len() / 2], values.iter().sum::<f64>() / values.len() as f64);
    let scale = if median < 0.01 * mean { mean } else { median };
    (scale > 1e-12).then_some(scale)
}

fn worst(fast: &Tensor, exact: &[Vec<f64>]) -> candle_core::Result<f64> {
    let fast = fast.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let pairs = fast.iter().flatten().zip(exact.iter().flatten());
    Ok(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
}

#[test]
fn f32_keeps_four_digits_of_the_median() -> TestResult {
    let (n, d) = (64, 16);
    for named in every_generator(d, 21)? {
        let name = named.name;
        let (narrow, wide) = narrow_and_wide(named, d)?;
        let shifts: &[f64] = match narrow.domain() {
            Domain::Reals => &[0.0, 100.0, -100.0],
            Domain::Simplex => &[0.0],
            _ => &[0.0, 100.0],
        };
        for &shift in shifts {
            let x = (rows(&*narrow, 22, n, d)? + shift)?.to_dtype(DType::F32)?;
            let exact = naive(&*wide, &x.to_dtype(DType::F64)?, &x.to_dtype(DType::F64)?)?;
            let Some(scale) = scale(&exact) else { continue };
            let fast = all_pairs(&*narrow, &x, &x)?;
            let error = worst(&fast, &exact)? / scale;
            println!("{name} shifted by {shift}: {error:.1e} of {scale:.2e}");
            assert!(error <= BOUND, "{name} shifted by {shift}: {error:e} of {scale:e}");
            for (i, row) in fast.to_vec2::<f32>()?.iter().enumerate() {
                assert_eq!(row[i], 0.0, "{name}: diagonal");
                assert!(row.iter().all(|v| *v >= 0.0), "{name}: negative");
            }
            for side in [Side::First, Side::Second] {
                let d = Lift::new(&*narrow, &mean_pivot(&*narrow, &x)?, side)?.divergences(&x, &x)?;
                let d = if side == Side::First { d } else { d.t()? };
                let error = worst(&d, &exact)? / scale;
                assert!(error <= BOUND, "{name} lifted, {side:?}, shifted by {shift}: {error:e}");
            }
        }
    }
    Ok(())
}
