//! The two directions of largest variance, to draw embeddings in the plane.

/// Rows of `x` (`d` values each) projected on their first two principal components: `[x, y]` per row.
///
/// Orthogonal iteration on the covariance from a fixed start, in f64; deterministic.
pub(super) fn project(x: &[f64], d: usize) -> Vec<[f64; 2]> {
    if d == 0 || x.is_empty() {
        return Vec::new();
    }
    let rows: Vec<&[f64]> = x.chunks_exact(d).collect();
    let n = rows.len() as f64;
    let mean: Vec<f64> = (0..d).map(|j| rows.iter().map(|r| r[j]).sum::<f64>() / n).collect();
    let mut covariance = vec![0.0; d * d];
    for row in &rows {
        for i in 0..d {
            for j in 0..d {
                covariance[i * d + j] += (row[i] - mean[i]) * (row[j] - mean[j]) / n;
            }
        }
    }
    let mut axes = [(); 2].map(|()| vec![0.0; d]);
    for (k, axis) in axes.iter_mut().enumerate() {
        axis.iter_mut().enumerate().for_each(|(i, v)| *v = 1.0 + ((i * (k + 2)) % 7) as f64);
    }
    for _ in 0..500 {
        let [first, second] = &axes;
        let first = unit(times(&covariance, first));
        let mut second = times(&covariance, second);
        let along = dot(&first, &second);
        second.iter_mut().zip(&first).for_each(|(s, f)| *s -= along * f);
        axes = [first, unit(second)];
    }
    let centered = |row: &[f64], axis: &[f64]| -> f64 {
        row.iter().zip(&mean).zip(axis).map(|((v, m), a)| (v - m) * a).sum()
    };
    rows.iter().map(|row| [centered(row, &axes[0]), centered(row, &axes[1])]).collect()
}

fn times(matrix: &[f64], v: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(v.len()).map(|row| dot(row, v)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(mut v: Vec<f64>) -> Vec<f64> {
    let length = dot(&v, &v).sqrt();
    if length > 0.0 {
        v.iter_mut().for_each(|v| *v /= length);
    }
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_long_axes_of_a_box() {
        // A box with sides 6, 4 and 0 along known directions.
        let corners = [[3.0, 2.0], [3.0, -2.0], [-3.0, 2.0], [-3.0, -2.0]];
        let x: Vec<f64> = corners.iter().flat_map(|[a, b]| [b + 1.0, 5.0, a - 2.0]).collect();
        for (got, want) in project(&x, 3).iter().zip(&corners) {
            assert!(
                (got[0].abs() - want[0].abs()).abs() < 1e-9 && (got[1].abs() - want[1].abs()).abs() < 1e-9
            );
        }
    }

    #[test]
    fn constant_rows_give_the_origin() {
        assert_eq!(project(&[2.0, 2.0, 2.0, 2.0], 2), [[0.0, 0.0]; 2]);
        assert!(project(&[], 2).is_empty());
    }
}
