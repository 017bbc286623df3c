//! Moments of columns and distances of paired rows, against candle's own operations and finite differences.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::{column_moments, natively, row_squared_distance};
use proptest::prelude::*;

const ROUND_OFF: f64 = 1e-12;
/// f32 results of other summation orders.
const ROUND_OFF_F32: f64 = 1e-5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn moments_of_columns(seed: u64, n in 2..12usize, d in 1..9usize, shift in -3.0..3.0f64) {
        let x = Var::from_tensor(&(normal(seed, (n, d)) + shift)?)?;
        let (ours, theirs) = (column_moments(&x)?, natively(|| column_moments(&x))?);
        assert_close("variance", &ours.variance, &theirs.variance, ROUND_OFF);
        assert_close("covariance", &ours.covariance, &theirs.covariance, ROUND_OFF);
        let both = || {
            let moments = column_moments(&x)?;
            weigh(&moments.variance)? + (moments.covariance * 0.3)?
        };
        assert_gradients("column_moments", &[&x], both);
        assert_gradients("variance alone", &[&x], || weigh(&column_moments(&x)?.variance));
        assert_gradients("covariance alone", &[&x], || column_moments(&x)?.covariance.affine(0.1, 0.0));
    }

    #[test]
    fn squared_distances_of_paired_rows(seed: u64, n in 0..6usize, d in 1..40usize) {
        let (x, y) = (Var::from_tensor(&normal(seed, (n, d)))?, Var::from_tensor(&normal(!seed, (n, d)))?);
        let theirs = natively(|| row_squared_distance(&x, &y))?;
        assert_close("row_squared_distance", &row_squared_distance(&x, &y)?, &theirs, ROUND_OFF);
        if n > 0 {
            assert_gradients("row_squared_distance", &[&x, &y], || weigh(&row_squared_distance(&x, &y)?));
        }
        // A transposed view is no contiguous matrix.
        let narrow = |t: &Tensor| t.t()?.contiguous()?.t();
        assert_close("of views", &row_squared_distance(&narrow(&x)?, &narrow(&y)?)?, &theirs, ROUND_OFF);
    }
}

/// So large that the work is shared among threads.
#[test]
fn many_rows_in_single_precision() -> Result<(), Box<dyn std::error::Error>> {
    let x = Var::from_tensor(&normal(7, (700, 40)).to_dtype(DType::F32)?)?;
    let double = |t: &Tensor| t.to_dtype(DType::F64);
    let run = || -> candle_core::Result<_> {
        let moments = column_moments(&x)?;
        let total = (moments.variance.sum_all()? + (&moments.covariance * 0.5)?)?;
        let gradient = total.backward()?.get(&x).map(double).transpose()?;
        Ok((double(&moments.variance)?, double(&moments.covariance)?, gradient))
    };
    let (ours, theirs) = (run()?, natively(run)?);
    assert_close("variance", &ours.0, &theirs.0, ROUND_OFF_F32);
    assert_close("covariance", &ours.1, &theirs.1, ROUND_OFF_F32);
    let (Some(ours), Some(theirs)) = (ours.2, theirs.2) else { return Err("no gradient".into()) };
    assert_close("gradient", &ours, &theirs, ROUND_OFF_F32);
    Ok(())
}

#[test]
fn what_has_no_moments_is_named() -> candle_core::Result<()> {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let message = column_moments(&zeros(&[1, 3])?).unwrap_err().to_string();
    assert!(message.contains("`x` has shape [1, 3], expected [n, d] with two rows at least"), "{message}");
    let message = row_squared_distance(&zeros(&[2, 3])?, &zeros(&[2, 4])?).unwrap_err().to_string();
    assert!(message.contains("`x` has shape [2, 3] and `y` [2, 4]"), "{message}");
    Ok(())
}
