//! Symmetric matrices on the host in f64, row-major: eigenvalues by Jacobi rotations, inverse by Cholesky.

/// The eigenvalues of a symmetric matrix, by cyclic Jacobi rotations, in no particular order.
pub(crate) fn eigenvalues(mut m: Vec<f64>, d: usize) -> Vec<f64> {
    const SWEEPS: usize = 30; // convergence is quadratic; ten suffice in practice
    let size: f64 = m.iter().map(|v| v * v).sum();
    for _ in 0..SWEEPS {
        let off: f64 =
            (0..d).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| m[i * d + j].powi(2)).sum();
        if off <= 1e-30 * size {
            break;
        }
        for p in 0..d {
            for q in p + 1..d {
                rotate(&mut m, d, p, q);
            }
        }
    }
    (0..d).map(|i| m[i * d + i]).collect()
}

/// The rotation in the plane (p, q) that makes m_pq zero.
fn rotate(m: &mut [f64], d: usize, p: usize, q: usize) {
    let pq = m[p * d + q];
    if pq == 0.0 {
        return;
    }
    let theta = (m[q * d + q] - m[p * d + p]) / (2.0 * pq);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    for k in 0..d {
        let (kp, kq) = (m[k * d + p], m[k * d + q]);
        m[k * d + p] = c * kp - s * kq;
        m[k * d + q] = s * kp + c * kq;
    }
    for k in 0..d {
        let (pk, qk) = (m[p * d + k], m[q * d + k]);
        m[p * d + k] = c * pk - s * qk;
        m[q * d + k] = s * pk + c * qk;
    }
}

/// The inverse of a symmetric positive definite matrix; `None` when it is singular to working precision.
pub(crate) fn inverse(m: Vec<f64>, d: usize) -> Option<Vec<f64>> {
    let largest = (0..d).map(|i| m[i * d + i]).fold(0.0, f64::max);
    let mut c = m; // the Cholesky factor grows in the lower triangle
    for j in 0..d {
        let pivot = c[j * d + j] - (0..j).map(|k| c[j * d + k].powi(2)).sum::<f64>();
        if !(pivot.is_finite() && pivot > largest * d as f64 * f64::EPSILON) {
            return None;
        }
        c[j * d + j] = pivot.sqrt();
        for i in j + 1..d {
            let rest = c[i * d + j] - (0..j).map(|k| c[i * d + k] * c[j * d + k]).sum::<f64>();
            c[i * d + j] = rest / c[j * d + j];
        }
    }
    let mut inverse = vec![0.0; d * d];
    for column in 0..d {
        let mut y = vec![0.0; d];
        for i in column..d {
            let rest =
                f64::from(u8::from(i == column)) - (column..i).map(|k| c[i * d + k] * y[k]).sum::<f64>();
            y[i] = rest / c[i * d + i];
        }
        for i in (0..d).rev() {
            let rest = y[i] - (i + 1..d).map(|k| c[k * d + i] * y[k]).sum::<f64>();
            y[i] = rest / c[i * d + i];
        }
        for i in 0..d {
            inverse[i * d + column] = y[i];
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_by_two_by_hand() {
        let m = vec![2.0, 1.0, 1.0, 2.0];
        let mut values = eigenvalues(m.clone(), 2);
        values.sort_by(f64::total_cmp);
        assert!((values[0] - 1.0).abs() < 1e-14 && (values[1] - 3.0).abs() < 1e-14, "{values:?}");
        let inverse = inverse(m, 2).unwrap();
        for (got, want) in inverse.iter().zip([2.0 / 3.0, -1.0 / 3.0, -1.0 / 3.0, 2.0 / 3.0]) {
            assert!((got - want).abs() < 1e-15, "{inverse:?}");
        }
    }

    #[test]
    fn singular_has_no_inverse() {
        assert!(inverse(vec![1.0, 1.0, 1.0, 1.0], 2).is_none());
    }
}
