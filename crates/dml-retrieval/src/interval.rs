//! Student's t-intervals over seeds, and of paired differences.
//!
//! For n values with mean x̄ and sample standard deviation s the interval at level 1−α is x̄ ± t·s/√n, t being the
//! quantile of Student's distribution with n−1 degrees of freedom that |T| exceeds with probability α.
//!
//! One value has a mean and no interval. Two have one degree of freedom, and an interval 12.7 times their deviation at
//! 95 %, over √2. Equal values have a half width of exactly 0: any mean but 0 is then significant. The unit of the
//! values does not matter: they are scaled to numbers around 1 before they are squared.

use crate::{Error, Result};

/// A mean and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The half width of the interval; `None` for a single value, which says nothing about the spread.
    pub half_width: Option<f64>,
    /// How many values there were.
    pub n: usize,
}

impl Interval {
    /// Whether the interval excludes 0: for a paired difference, whether it is significant at this level. Never for a
    /// single value; always for equal values that are not 0.
    pub fn excludes_zero(&self) -> bool {
        self.half_width.is_some_and(|half_width| self.mean.abs() > half_width)
    }
}

/// `0.670 ± 0.009`, or the mean alone; the precision of the format applies, 3 digits by default.
impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(3);
        write!(f, "{:.digits$}", self.mean)?;
        match self.half_width {
            Some(half_width) => write!(f, " ± {half_width:.digits$}"),
            None => Ok(()),
        }
    }
}

/// The mean of `values` (one a seed, say) with its t-interval at `level`, as 0.95.
///
/// # Errors
/// [`Error::Length`] for no values, [`Error::NotFinite`] names the first that is not a number,
/// [`Error::Config`] unless 0 < `level` < 1.
/// # Source
/// Student 1908 \[student1908\].
/// # Examples
/// ```
/// let over_seeds = dml_retrieval::mean_interval(&[0.66, 0.67, 0.68], 0.95)?;
/// assert_eq!(over_seeds.to_string(), "0.670 ± 0.025");
/// # Ok::<(), dml_retrieval::Error>(())
/// ```
pub fn mean_interval(values: &[f64], level: f64) -> Result<Interval> {
    interval("mean_interval", "values", values, level)
}

/// The mean of a_i − b_i with its t-interval: two methods run with the same seeds.
///
/// # Errors
/// As [`mean_interval`], of the differences: one that overflows is not finite. [`Error::Length`] when the lists differ
/// in length.
/// # Examples
/// ```
/// let gain = dml_retrieval::paired_difference(&[0.66, 0.68], &[0.46, 0.49], 0.95)?;
/// assert!(gain.excludes_zero());
/// # Ok::<(), dml_retrieval::Error>(())
/// ```
pub fn paired_difference(a: &[f64], b: &[f64], level: f64) -> Result<Interval> {
    let op = "paired_difference";
    if a.len() != b.len() {
        let expected = format!("{}, one for each of `a`", a.len());
        return Err(Error::Length { op, arg: "b", got: b.len(), expected });
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    interval(op, "a − b", &differences, level)
}

fn interval(op: &'static str, arg: &'static str, values: &[f64], level: f64) -> Result<Interval> {
    let n = values.len();
    if n == 0 {
        return Err(Error::Length { op, arg, got: 0, expected: "at least one".to_owned() });
    }
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::NotFinite { op, arg, index, value: values[index] });
    }
    let quantile = student_t(op, n.saturating_sub(1).max(1), level)?;
    if n == 1 {
        return Ok(Interval { mean: values[0], half_width: None, n });
    }
    // By a power of two, which rounds nothing, to less than 4: then no sum or square overflows, and no square that
    // counts underflows. From the first value on, so that equal ones deviate by exactly 0.
    let largest = values.iter().fold(0f64, |largest, v| largest.max(v.abs()));
    let exponent = (largest.log2().floor() as i32).clamp(f64::MIN_EXP, f64::MAX_EXP - 2);
    let (up, down) = (2f64.powi(exponent), 2f64.powi(-exponent));
    let first = down * values[0];
    let beyond = |v: &f64| down * v - first;
    let shift = values.iter().map(beyond).sum::<f64>() / n as f64;
    let squares: f64 = values.iter().map(|v| (beyond(v) - shift).powi(2)).sum();
    let deviation = (squares / (n - 1) as f64).sqrt();
    let half_width = quantile * deviation / (n as f64).sqrt();
    Ok(Interval { mean: up * (first + shift), half_width: Some(up * half_width), n })
}

/// The t with P(|T| ≤ t) = `level` for Student's distribution with `degrees` degrees of freedom.
///
/// # Errors
/// [`Error::Config`] for no degree of freedom, or unless 0 < `level` < 1.
/// # Examples
/// ```
/// assert!((dml_retrieval::student_t_quantile(4, 0.95)? - 2.776_445_105_197_79).abs() < 1e-12);
/// # Ok::<(), dml_retrieval::Error>(())
/// ```
pub fn student_t_quantile(degrees: usize, level: f64) -> Result<f64> {
    student_t("student_t_quantile", degrees, level)
}

fn student_t(op: &'static str, degrees: usize, level: f64) -> Result<f64> {
    if degrees == 0 {
        let expected = "at least 1";
        return Err(Error::Config { op, arg: "degrees", got: "0".to_owned(), expected });
    }
    if !(level > 0.0 && level < 1.0) {
        let expected = "a probability between 0 and 1, as 0.95";
        return Err(Error::Config { op, arg: "level", got: level.to_string(), expected });
    }
    // In the angle the probability is smooth and the bracket finite.
    let (mut low, mut high) = (0.0, std::f64::consts::FRAC_PI_2);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return Ok(middle.tan() * (degrees as f64).sqrt());
        }
        if within(degrees, middle) < level {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// P(|T| ≤ √ν·tan θ), the finite sums of Abramowitz & Stegun 1964, 26.7.3 and 26.7.4: every term is positive.
fn within(degrees: usize, theta: f64) -> f64 {
    let (sin, cos) = theta.sin_cos();
    let square = cos * cos;
    let odd = degrees % 2 == 1;
    // Odd ν: cos θ·(1 + 2/3 cos²θ + 2·4/(3·5) cos⁴θ + …); even ν: 1 + 1/2 cos²θ + 1·3/(2·4) cos⁴θ + ….
    let (mut term, shift) = if odd { (cos, 0.0) } else { (1.0, 1.0) };
    let mut sum = 0.0;
    for j in 0..degrees / 2 {
        sum += term;
        let twice = 2.0 * (j + 1) as f64;
        term *= square * (twice - shift) / (twice + 1.0 - shift);
        if term < 1e-18 * sum {
            break;
        }
    }
    if odd { std::f64::consts::FRAC_2_PI * (theta + sin * sum) } else { sin * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_the_closed_forms() -> Result<()> {
        for level in [0.1, 0.5, 0.9, 0.95, 0.99, 0.999] {
            let close = |got: f64, expected: f64| {
                assert!((got - expected).abs() < 1e-11 * expected, "{level}: {got} {expected}");
            };
            close(student_t_quantile(1, level)?, (std::f64::consts::FRAC_PI_2 * level).tan());
            close(student_t_quantile(2, level)?, level * (2.0 / (1.0 - level * level)).sqrt());
            let tail = 1.0 - level * level;
            let u = (tail.sqrt().acos() / 3.0).cos() / tail.sqrt();
            close(student_t_quantile(4, level)?, 2.0 * (u - 1.0).sqrt());
        }
        // To the limit of the normal distribution.
        assert!((student_t_quantile(1_000_000, 0.95)? - 1.959_963_984_540_054).abs() < 1e-5);
        assert!((student_t_quantile(9, 0.95)? - 2.262_157_162_798_205).abs() < 1e-12);
        assert!((student_t_quantile(30, 0.99)? - 2.749_995_653_567_231).abs() < 1e-11);
        Ok(())
    }

    #[test]
    fn one_value_has_no_interval() -> Result<()> {
        let one = mean_interval(&[0.5], 0.95)?;
        assert_eq!((one.mean, one.half_width, one.excludes_zero()), (0.5, None, false));
        assert_eq!(one.to_string(), "0.500");
        Ok(())
    }

    #[test]
    fn equal_values_have_no_width() -> Result<()> {
        for value in [0.1, 0.7, -3e-310, 1e308] {
            let three = mean_interval(&[value; 3], 0.95)?;
            assert_eq!((three.mean, three.half_width, three.excludes_zero()), (value, Some(0.0), true));
        }
        let zero = paired_difference(&[0.3, 0.4], &[0.3, 0.4], 0.95)?;
        assert_eq!((zero.mean, zero.half_width, zero.excludes_zero()), (0.0, Some(0.0), false));
        Ok(())
    }

    #[test]
    fn two_values_have_one_degree_of_freedom() -> Result<()> {
        // x̄ = 2, s = √2, s/√n = 1.
        let two = mean_interval(&[1.0, 3.0], 0.95)?;
        let quantile = student_t_quantile(1, 0.95)?;
        assert!((two.half_width.unwrap() - quantile).abs() < 1e-14 * quantile);
        Ok(())
    }

    /// Squares of the deviations once underflowed to 0 at 1e-200, so that everything was significant, and overflowed
    /// at 1e160.
    #[test]
    fn the_unit_of_the_values_does_not_matter() -> Result<()> {
        let values: [&[f64]; 4] =
            [&[0.66, 0.67, 0.68], &[1.0, -1.5, 0.25, 0.0], &[3.0, -1.0], &[1e-9, 2e-9, 1.0, -0.5]];
        for values in values {
            let plain = mean_interval(values, 0.95)?;
            let relative = |i: &Interval| i.half_width.unwrap() / i.mean;
            for unit in [1e-300, 1e-200, 1e-160, 1e-10, -1.0, 1e10, 1e160, 1e200, 1e306] {
                let scaled: Vec<f64> = values.iter().map(|v| unit * v).collect();
                let zeros = vec![0.0; values.len()];
                for interval in [
                    mean_interval(&scaled, 0.95)?,
                    paired_difference(&scaled, &zeros, 0.95)?,
                    paired_difference(&zeros, &scaled, 0.95)?,
                ] {
                    assert_eq!(interval.excludes_zero(), plain.excludes_zero(), "{values:?} {unit:e}");
                    let (got, expected) = (relative(&interval).abs(), relative(&plain).abs());
                    assert!(
                        (got - expected).abs() < 1e-12 * expected,
                        "{values:?} {unit:e}: {got} {expected}"
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn bad_input_is_named() {
        assert_eq!(
            mean_interval(&[], 0.95).unwrap_err().to_string(),
            "mean_interval: `values` has 0 entries, expected at least one"
        );
        assert_eq!(
            mean_interval(&[1.0, f64::NAN], 0.95).unwrap_err().to_string(),
            "mean_interval: entry 1 of `values` is NaN, expected a finite number"
        );
        assert_eq!(
            mean_interval(&[1.0, 2.0], 95.0).unwrap_err().to_string(),
            "mean_interval: `level` is 95, expected a probability between 0 and 1, as 0.95"
        );
        assert_eq!(
            paired_difference(&[1.0], &[], 0.95).unwrap_err().to_string(),
            "paired_difference: `b` has 0 entries, expected 1, one for each of `a`"
        );
        assert!(student_t_quantile(0, 0.95).is_err());
    }
}
