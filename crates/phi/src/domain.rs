//! The convex set C on which a generator is defined, and the check that rows lie in it.

use candle_core::{D, DType, Device, Tensor};

use crate::{Error, Result};

/// How far the coordinates of a point on the simplex may sum from 1: what is left of shares written with four decimals.
const SIMPLEX_TOLERANCE: f64 = 1e-3;

/// A convex set C ⊆ ℝᵈ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Domain {
    /// All of ℝᵈ: every coordinate finite.
    Reals,
    /// The open positive orthant: every coordinate finite and > 0.
    PositiveOrthant,
    /// The interior of the probability simplex: every coordinate > 0, their sum 1 within a thousandth.
    Simplex,
    /// The closed orthant: every coordinate finite and ≥ 0.
    NonNegativeOrthant,
    /// The probability simplex with its border: every coordinate ≥ 0, their sum 1 within a thousandth.
    ClosedSimplex,
}

impl Domain {
    /// The domain in words, as error messages use it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Reals => "the finite reals",
            Self::PositiveOrthant => "the positive orthant (every coordinate > 0)",
            Self::Simplex => {
                "the probability simplex (coordinates > 0 that sum to 1: divide each row by its sum)"
            }
            Self::NonNegativeOrthant => "the orthant (every coordinate ≥ 0)",
            Self::ClosedSimplex => {
                "the probability simplex (coordinates ≥ 0 that sum to 1: divide each row by its sum)"
            }
        }
    }

    /// Whether one coordinate may occur in a point of the domain.
    pub fn contains_coordinate(self, value: f64) -> bool {
        match self {
            Self::Reals => value.is_finite(),
            Self::PositiveOrthant | Self::Simplex => value.is_finite() && value > 0.0,
            Self::NonNegativeOrthant | Self::ClosedSimplex => value.is_finite() && value >= 0.0,
        }
    }

    /// The points in both.
    pub fn intersection(self, other: Self) -> Self {
        let positive = |d: Self| matches!(d, Self::PositiveOrthant | Self::Simplex);
        let sums_to_one = |d: Self| matches!(d, Self::Simplex | Self::ClosedSimplex);
        match (sums_to_one(self) || sums_to_one(other), positive(self) || positive(other)) {
            (true, true) => Self::Simplex,
            (true, false) => Self::ClosedSimplex,
            (false, true) => Self::PositiveOrthant,
            (false, false) if self == Self::Reals => other,
            (false, false) => self,
        }
    }

    /// Whether its points sum to 1.
    pub fn sums_to_one(self) -> bool {
        matches!(self, Self::Simplex | Self::ClosedSimplex)
    }

    /// Checks that `x` is `[n, d]` with 1 ≤ n, 1 ≤ d, and that each row lies in the domain.
    ///
    /// # Errors
    /// [`Error::Shape`] for another rank or an empty tensor, [`Error::DType`] for whole numbers,
    /// [`Error::Domain`] names the first row outside and its value.
    pub fn check(self, op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
        let shape =
            |expected: &str| Error::Shape { op, arg, got: x.dims().to_vec(), expected: expected.to_owned() };
        let (n, d) = x.dims2().map_err(|_| shape("[n, d]"))?;
        if n == 0 || d == 0 {
            return Err(shape("[n, d] with at least one row and one column"));
        }
        if !x.dtype().is_float() {
            return Err(Error::DType { op, arg, got: x.dtype(), expected: DType::F32 });
        }
        if self == Self::Reals && dml_kernels::first_not_finite(x)?.is_none() {
            return Ok(());
        }
        if x.device().is_cpu() || !self.looks_fine(x)? {
            self.check_rows(op, arg, x)?;
        }
        Ok(())
    }

    /// A cheap test on the tensor's own device: true only if no row can be outside.
    fn looks_fine(self, x: &Tensor) -> Result<bool> {
        let x = x.detach().to_dtype(DType::F32)?;
        let sum = x.abs()?.sum_all()?.to_scalar::<f32>()?;
        let min = || -> Result<f32> { Ok(x.flatten_all()?.min(0)?.to_scalar::<f32>()?) };
        Ok(match self {
            Self::Reals => false, // decided before
            Self::PositiveOrthant => sum.is_finite() && min()? > 0.0,
            Self::NonNegativeOrthant => sum.is_finite() && min()? >= 0.0,
            Self::Simplex | Self::ClosedSimplex => {
                let worst = (x.sum(D::Minus1)? - 1.0)?.abs()?.max(0)?.to_scalar::<f32>()?;
                self.contains_coordinate(f64::from(min()?)) && f64::from(worst) < SIMPLEX_TOLERANCE
            }
        })
    }

    fn check_rows(self, op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
        let outside = |row: usize, value: f64| Error::Domain { op, arg, row, value, domain: self.describe() };
        let x = x.detach().to_device(&Device::Cpu)?.contiguous()?;
        let d = x.dim(1)?;
        let scan = |values: &mut dyn Iterator<Item = f64>| -> Result<()> {
            let mut sum = 0.0;
            for (i, value) in values.enumerate() {
                if !self.contains_coordinate(value) {
                    return Err(outside(i / d, value));
                }
                sum += value;
                if (i + 1) % d == 0 {
                    if self.sums_to_one() && (sum - 1.0).abs() > SIMPLEX_TOLERANCE {
                        return Err(outside(i / d, sum));
                    }
                    sum = 0.0;
                }
            }
            Ok(())
        };
        match x.dtype() {
            DType::F64 => scan(&mut x.flatten_all()?.to_vec1::<f64>()?.into_iter()),
            _ => {
                let values = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                // One branch-free pass decides in the usual case; the slow scan only finds the culprit.
                let fine = match self {
                    Self::PositiveOrthant => values.iter().all(|v| v.is_finite() && *v > 0.0),
                    Self::NonNegativeOrthant => values.iter().all(|v| v.is_finite() && *v >= 0.0),
                    Self::Reals | Self::Simplex | Self::ClosedSimplex => false,
                };
                if fine { Ok(()) } else { scan(&mut values.into_iter().map(f64::from)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(domain: Domain, rows: &[[f64; 2]]) -> String {
        let x = Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu).unwrap();
        domain.check("value", "x", &x).unwrap_err().to_string()
    }

    #[test]
    fn names_row_and_value() {
        assert_eq!(
            message(Domain::Reals, &[[0.0, 1.0], [f64::NAN, 1.0]]),
            "value: row 1 of `x` holds NaN, outside the finite reals; project it into the domain first"
        );
        assert_eq!(
            message(Domain::PositiveOrthant, &[[0.5, 1.0], [0.5, 1.0], [2.0, -3.0]]),
            "value: row 2 of `x` holds -3, outside the positive orthant (every coordinate > 0); project it \
             into the domain first"
        );
        assert_eq!(
            message(Domain::Simplex, &[[0.5, 0.5], [0.5, 0.75]]),
            "value: row 1 of `x` holds 1.25, outside the probability simplex (coordinates > 0 that sum to 1: divide each \
             row by its sum); project it into the domain first"
        );
    }

    #[test]
    fn empty_and_wrong_rank_are_errors() {
        let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        let message = Domain::Reals.check("value", "x", &empty).unwrap_err().to_string();
        assert_eq!(
            message,
            "value: `x` has shape [0, 3], expected [n, d] with at least one row and one column"
        );
        let flat = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        let message = Domain::Reals.check("value", "x", &flat).unwrap_err().to_string();
        assert_eq!(message, "value: `x` has shape [3], expected [n, d]");
    }

    #[test]
    fn whole_numbers_are_an_error() {
        let counts = Tensor::new(&[[1u32, 2]], &Device::Cpu).unwrap();
        let message = Domain::Reals.check("value", "x", &counts).unwrap_err().to_string();
        assert_eq!(message, "value: `x` holds U32, expected F32; convert it with `to_dtype`");
    }
}
