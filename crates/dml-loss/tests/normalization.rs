//! Rows of any length have one direction: matrices of pairs and paired rows agree from rows of 1e-12 to rows whose
//! squares overflow, in value and gradient.

mod common;

use std::{result::Result, sync::Arc};

use bregman::Side;
use candle_core::{DType, Device, Tensor, Var};
use common::{Any, rows};
use dml_loss::*;

/// Of values of order 1 by way of a matrix product.
const TOLERANCE: [(DType, f64); 2] = [(DType::F32, 2e-5), (DType::F64, 1e-11)];

/// Distances of normalized rows.
fn normalizing() -> Result<Vec<Arc<dyn Distance>>, Any> {
    let quadratic = BregmanDistance::new(Arc::new(phi::SquaredEuclidean), Side::First);
    Ok(vec![
        Arc::new(Cosine),
        Arc::new(Lp::default()),
        Arc::new(Lp::new(2.0, 2.0, true)?),
        Arc::new(Lp::new(1.0, 1.0, true)?),
        Arc::new(Lp::new(3.0, 1.5, true)?),
        Arc::new(DotProduct::default()),
        Arc::new(SignalToNoise::default()),
        Arc::new(SignalToNoise { p: 1.0, ..SignalToNoise::default() }),
        Arc::new(BregmanDistance { normalize_embeddings: true, ..quadratic }),
    ])
}

fn numbers(tensor: &Tensor) -> dml_loss::Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// Values and a gradient.
type Outcome = (Vec<f64>, Vec<f64>);

/// Values of both forms for row i with row i, and the gradient of each sum for the first rows, times their size.
fn both(distance: &dyn Distance, x: &Tensor, y: &Tensor, size: f64) -> Result<[Outcome; 2], Any> {
    let n = x.dim(0)?;
    let of = |value: &dyn Fn(&Tensor) -> dml_loss::Result<Tensor>| -> Result<_, Any> {
        let x = Var::from_tensor(x)?;
        let value = value(&x)?; // [n]
        let grads = value.sum_all()?.backward()?;
        let gradient = numbers(grads.get(&x).ok_or("no gradient")?)?;
        Ok((numbers(&value)?, gradient.into_iter().map(|g| g * size).collect()))
    };
    let diagonal: Vec<u32> = (0..n).map(|i| (i * n + i) as u32).collect();
    let diagonal = Tensor::from_vec(diagonal, n, &Device::Cpu)?;
    Ok([
        of(&|x| Ok(distance.all_pairs(x, y)?.flatten_all()?.index_select(&diagonal, 0)?))?,
        of(&|x| distance.paired(x, y))?,
    ])
}

#[test]
fn all_pairs_and_paired_see_the_same_directions() -> Result<(), Any> {
    // Rows of length 1.5.
    let (x, y) = (rows(1, 5, 4)?, rows(2, 5, 4)?);
    let stretch = |x: &Tensor| -> Result<Tensor, Any> {
        Ok(x.broadcast_mul(&(x.sqr()?.sum_keepdim(1)?.sqrt()?.recip()? * 1.5)?)?)
    };
    let (x, y) = (stretch(&x)?, stretch(&y)?);
    for distance in normalizing()? {
        let [_, (values, slopes)] = both(&*distance, &x, &y, 1.0)?;
        for (dtype, tolerance) in TOLERANCE {
            let mut sizes = vec![1e-12, 1e-10, 1e-6, 1.0, 1e6, 1e19, 5e25, 1e30, 1e37, 1.5e38];
            // Beyond this the inverse of a length is no normal f32, which the kernel of pairs takes it to be.
            let subnormal = 1e38;
            if dtype == DType::F64 {
                sizes.extend([1e150, 1e160, 1e300]);
            }
            for size in sizes {
                let (x, y) = ((&x * size)?.to_dtype(dtype)?, (&y * size)?.to_dtype(dtype)?);
                for (got, by) in both(&*distance, &x, &y, size)?.into_iter().zip(["all pairs", "paired"]) {
                    if dtype == DType::F32 && size > subnormal && by == "all pairs" {
                        continue;
                    }
                    let name = format!("{} {by} at {size:e} in {dtype:?}", distance.name());
                    for (got, want) in [(&got.0, &values), (&got.1, &slopes)] {
                        let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
                        for (g, w) in got.iter().zip(want) {
                            assert!((g - w).abs() <= tolerance * scale, "{name}: {got:?}, not {want:?}");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
