//! All pairs from a generator's own factors, for those whose small divergences would drown in a pivot's tangents.

use candle_core::Tensor;
use dml_kernels::matmul;
use phi::{Factored, Factors, Generator};

use crate::{
    Result,
    pivot::{check_finite, mean_of},
};

/// The factors of two sets of points that have been checked; of one, where both are the same tensor.
pub(crate) struct Pair {
    x: Factors,
    y: Option<Factors>,
}

impl Pair {
    /// `None` where the generator has no factors of its own.
    pub fn new(op: &'static str, phi: &dyn Generator, x: &Tensor, y: &Tensor) -> Result<Option<Self>> {
        let Some(factored) = phi.factored() else { return Ok(None) };
        if x.id() == y.id() {
            let pivot = mean_of(phi, &[x])?;
            return Ok(Some(Self { x: factors(op, "x", factored, x, &pivot)?, y: None }));
        }
        let pivot = mean_of(phi, &[x, y])?;
        let x = factors(op, "x", factored, x, &pivot)?;
        Ok(Some(Self { x, y: Some(factors(op, "y", factored, y, &pivot)?) }))
    }

    fn y(&self) -> &Factors {
        self.y.as_ref().unwrap_or(&self.x)
    }

    /// D(x_i ‖ y_j), `[n, m]`, in the dtype of the factors, before any clamping.
    pub fn all_pairs(&self) -> Result<Tensor> {
        Ok(matmul(&self.x.first, &self.y().second.t()?)?)
    }

    /// D(x_i ‖ y_j) + D(y_j ‖ x_i), `[n, m]`, likewise.
    pub fn jeffreys_all_pairs(&self) -> Result<Tensor> {
        let left = Tensor::cat(&[&self.x.first, &self.x.second], 1)?; // [n, 2r]
        let right = Tensor::cat(&[&self.y().second, &self.y().first], 1)?; // [m, 2r]
        Ok(matmul(&left, &right.t()?)?)
    }

    /// D(x_i ‖ y_i) − D(y_i ‖ y_i), `[n]`, likewise: exactly 0 where the rows are equal.
    pub fn paired(&self) -> Result<Tensor> {
        Ok(((&self.x.first - &self.y().first)? * &self.y().second)?.sum(1)?)
    }

    /// D(x_i ‖ y_i) + D(y_i ‖ x_i), `[n]`, likewise.
    pub fn jeffreys(&self) -> Result<Tensor> {
        let (apart, turn) = (&self.x.first - &self.y().first, &self.y().second - &self.x.second);
        Ok((apart? * turn?)?.sum(1)?)
    }
}

/// The factors of points that have been checked, themselves checked for overflow.
pub(crate) fn factors(
    op: &'static str,
    arg: &'static str,
    phi: &dyn Factored,
    x: &Tensor,
    pivot: &Tensor,
) -> Result<Factors> {
    let factors = phi.factors(x, pivot)?;
    // In the dtype of the points, which is that of the result.
    check_finite(op, arg, "φ", &factors.first.to_dtype(x.dtype())?)?;
    check_finite(op, arg, "∇φ", &factors.second.to_dtype(x.dtype())?)?;
    Ok(factors)
}
