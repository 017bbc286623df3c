//! A point amid rows, around which their differences are small.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::cpu::{vectorized, with_slice};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};

/// Rows that are looked at: three groups of nine.
const GROUP: usize = 9;
const SAMPLE: usize = 3 * GROUP;

/// A point amid the rows of all `parts`, `[n, d]` each → `[1, d]`, without gradient: in every coordinate the median of
/// the medians of three groups of rows, drawn evenly.
///
/// Unlike a mean it does not follow a row that lies far off, and each of its coordinates is one that occurs: of whole
/// numbers it is whole, and differences to it are exact.
///
/// # Errors
/// When there is no row, or the parts disagree in width or element type.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::center};
/// let x = Tensor::new(&[[0f32], [1.], [2.], [1e6]], &Device::Cpu)?;
/// assert!(center(&[&x])?.to_vec2::<f32>()?[0][0] <= 2.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn center(parts: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else { bail!("center: no rows") };
    let (_, d) = first.dims2()?;
    let mut rows = 0;
    for part in parts {
        if part.rank() != 2 || part.dims()[1] != d || part.dtype() != first.dtype() {
            bail!(
                "center: parts of shape {:?} and {:?}, expected [n, {d}] of one type",
                first.dims(),
                part.dims()
            );
        }
        rows += part.dims()[0];
    }
    if rows == 0 || d == 0 {
        bail!("center: no rows");
    }
    let dtype = if first.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    with_real!(dtype, "center", T => {
        let mut sample: Vec<Vec<T>> = Vec::with_capacity(SAMPLE);
        for mut at in drawn(rows) {
            let mut part = parts[0];
            for candidate in parts {
                part = candidate;
                if at < candidate.dims()[0] {
                    break;
                }
                at -= candidate.dims()[0];
            }
            if on_cpu(part) {
                sample.push(with_slice::<T, _>("center", part, |rows| Ok(rows[at * d..][..d].to_vec()))?);
                continue;
            }
            let row = part.detach().get(at)?.to_device(&Device::Cpu)?.to_dtype(dtype)?;
            sample.push(row.to_vec1::<T>()?);
        }
        let center = Tensor::from_vec(middle(sample), (1, d), &Device::Cpu)?;
        center.to_dtype(first.dtype())?.to_device(first.device())
    })
}

/// As [`center`], for rows at hand.
pub(crate) fn center_of<T: Real>(rows: &[T], d: usize) -> Vec<T> {
    let n = rows.len() / d.max(1);
    if n == 0 {
        return vec![T::ZERO; d];
    }
    middle(drawn(n).map(|i| rows[i * d..][..d].to_vec()).collect())
}

/// Which of `n` rows are looked at: spread by the golden ratio, so that no period of the rows meets them.
fn drawn(n: usize) -> impl Iterator<Item = usize> {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    (0..SAMPLE)
        .map(move |i| if n <= SAMPLE { i % n } else { ((i as f64 * GOLDEN).fract() * n as f64) as usize })
        .map(move |i| i.min(n - 1))
}

/// The median of three medians of nine, column by column.
fn middle<T: Real>(mut sample: Vec<Vec<T>>) -> Vec<T> {
    for group in 0..3 {
        // The middle of nine ends in place 4.
        const EXCHANGES: [(usize, usize); 19] = [
            (1, 2),
            (4, 5),
            (7, 8),
            (0, 1),
            (3, 4),
            (6, 7),
            (1, 2),
            (4, 5),
            (7, 8),
            (0, 3),
            (5, 8),
            (4, 7),
            (3, 6),
            (1, 4),
            (2, 5),
            (4, 7),
            (4, 2),
            (6, 4),
            (4, 2),
        ];
        for (low, high) in EXCHANGES {
            exchange(&mut sample, group * GROUP + low, group * GROUP + high);
        }
    }
    for (low, high) in [(4, 13), (13, 22), (4, 13)] {
        exchange(&mut sample, low, high);
    }
    sample.swap_remove(13)
}

fn exchange<T: Real>(rows: &mut [Vec<T>], low: usize, high: usize) {
    let (mut a, mut b) = (std::mem::take(&mut rows[low]), std::mem::take(&mut rows[high]));
    order(&mut a, &mut b);
    (rows[low], rows[high]) = (a, b);
}

vectorized! {
    fn order<T: Real>(low: &mut [T], high: &mut [T]) {
        for (a, b) in low.iter_mut().zip(high) {
            let (x, y) = (*a, *b);
            *a = x.min(y);
            *b = x.max(y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers that needs no crate.
    fn numbers(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f64
        }
    }

    #[test]
    fn the_middle_is_the_median_of_medians() {
        let mut draw = numbers(1);
        for _ in 0..2_000 {
            let sample: Vec<f64> = (0..SAMPLE).map(|_| draw() % 12.0).collect();
            let median = |mut v: Vec<f64>| {
                v.sort_by(f64::total_cmp);
                v[v.len() / 2]
            };
            let want = median(sample.chunks(GROUP).map(|group| median(group.to_vec())).collect());
            assert_eq!(middle(sample.into_iter().map(|v| vec![v]).collect()), [want]);
        }
    }

    #[test]
    fn a_few_rows_far_off_do_not_move_it() {
        let mut draw = numbers(7);
        let rows: Vec<f32> =
            (0..300).map(|i| if i % 11 == 3 { 1e6 } else { (draw() % 10.0) as f32 }).collect();
        let center = center_of(&rows, 1);
        assert!(center[0] < 10.0 && center[0].fract() == 0.0, "{center:?}");
        assert_eq!(center_of(&[5f32, 7.0], 2), [5.0, 7.0]);
        assert_eq!(center_of::<f32>(&[], 2), [0.0, 0.0]);
    }

    #[test]
    fn parts_count_as_one_set() -> Result<()> {
        let (x, y) =
            (Tensor::new(&[[1f64, 0.]], &Device::Cpu)?, Tensor::new(&[[1f64, 0.], [1., 2.]], &Device::Cpu)?);
        assert_eq!(center(&[&x, &y])?.to_vec2::<f64>()?, [[1.0, 0.0]]);
        let empty = Tensor::zeros((0, 2), DType::F64, &Device::Cpu)?;
        assert_eq!(center(&[&empty, &x])?.to_vec2::<f64>()?, [[1.0, 0.0]]);
        assert!(center(&[&empty]).is_err());
        Ok(())
    }
}
