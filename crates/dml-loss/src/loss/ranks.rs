//! Soft ranks within the rows of a matrix, for the losses of average precision and kin.

/// 1 / (1 + e⁻ˣ) and its derivative, without overflow.
pub(crate) fn sigmoid(x: f64) -> (f64, f64) {
    let small = (-x.abs()).exp();
    let value = if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) };
    (value, small / ((1.0 + small) * (1.0 + small)))
}

/// Σ_{j ∈ others, j ≠ p} σ((far_p − far_j)/τ): softly, how many of the others are closer than p; calls `slope(j, s)`
/// with each term's derivative by far_p (that by far_j is its negative).
pub(crate) fn closer(
    far: &[f64],
    p: usize,
    others: &[usize],
    temperature: f64,
    mut slope: impl FnMut(usize, f64),
) -> f64 {
    let mut rank = 0.0;
    for &j in others.iter().filter(|&&j| j != p) {
        let (value, derivative) = sigmoid((far[p] - far[j]) / temperature);
        rank += value;
        slope(j, derivative / temperature);
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoid_is_finite_everywhere() {
        assert_eq!(sigmoid(0.0), (0.5, 0.25));
        assert_eq!(sigmoid(1e4), (1.0, 0.0));
        assert_eq!(sigmoid(-1e4), (0.0, 0.0));
    }

    #[test]
    fn equal_rows_share_their_rank() {
        assert_eq!(closer(&[1.0, 1.0, 5.0], 0, &[0, 1], 0.1, |_, _| {}), 0.5);
    }
}
