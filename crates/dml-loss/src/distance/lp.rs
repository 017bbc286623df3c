//! Lp distances ‖x − y‖_p raised to a power.

use candle_core::{D, Tensor};
use dml_kernels::{PairMatrix, Pairing};

use crate::{
    Distance, Result,
    distance::{both, by_kernel, check, check_powers},
    tensor::{abs_pow, fill_unless, normalize_rows, root, squared_distances, widened},
};

/// D(x, y) = ‖x − y‖_pᵉ, e the power, of rows that are first divided by their p-norm unless told otherwise.
///
/// p = 2, e = 1 and normalized rows by default. Equal rows have distance 0 with gradient 0. For p = 2 all pairs are one
/// matrix product around a point amid the rows, and distances that are next to nothing beside the others are computed
/// anew from their two rows: each has its own four digits in f32, nine in f64. Other p take O(nmd) memory. With p = 2
/// and e = 2 it is the Bregman divergence of ‖x‖².
///
/// ```
/// # use {candle_core::{Device, Tensor}, dml_loss::{Distance, Lp}};
/// let x = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
/// let d = Lp::raw(2.0).all_pairs(&x, &x)?;
/// assert_eq!(d.to_vec2::<f32>()?, [[0., 5.], [5., 0.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lp {
    p: f64,
    power: f64,
    normalize_embeddings: bool,
}

impl Default for Lp {
    /// Euclidean distance of L2-normalized rows.
    fn default() -> Self {
        Self { p: 2.0, power: 1.0, normalize_embeddings: true }
    }
}

impl Lp {
    /// ‖x − y‖_p to the given power, of rows normalized in the p-norm or not.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) unless 1 ≤ p < ∞ and power > 0.
    pub fn new(p: f64, power: f64, normalize_embeddings: bool) -> Result<Self> {
        check_powers("Lp", p, power)?;
        Ok(Self { p, power, normalize_embeddings })
    }

    /// ‖x − y‖_p of the rows as they are, p ≥ 1 (a smaller p is taken as 1; one that is no finite number is an error
    /// when it is used).
    pub fn raw(p: f64) -> Self {
        Self { p: if p < 1.0 { 1.0 } else { p }, power: 1.0, normalize_embeddings: false }
    }

    /// ‖x − y‖² of the rows as they are: the divergence of φ = ‖x‖².
    pub fn squared() -> Self {
        Self { p: 2.0, power: 2.0, normalize_embeddings: false }
    }

    /// The p of the norm.
    pub fn p(&self) -> f64 {
        self.p
    }

    /// The power the norm is raised to.
    pub fn power(&self) -> f64 {
        self.power
    }

    /// Whether rows are normalized first.
    pub fn normalize_embeddings(&self) -> bool {
        self.normalize_embeddings
    }

    fn prepare(&self, anchors: &Tensor, others: &Tensor) -> Result<(Tensor, Tensor)> {
        if !self.normalize_embeddings {
            return Ok((anchors.clone(), others.clone()));
        }
        // Units of close rows differ by less than their rounding: those of f32 are made and compared in f64.
        both(anchors, others, |x| normalize_rows(&widened(x)?, self.p))
    }

    /// ‖gap‖_pᵉ over the last dimension, in units of its largest entry: powers of it may leave the range of numbers.
    fn of_gaps(&self, gap: &Tensor) -> Result<Tensor> {
        let largest = gap.detach().abs()?.max_keepdim(D::Minus1)?;
        let unit = fill_unless(&largest, &largest.le(0.0)?.eq(0u8)?, 1.0)?; // NaN stays
        let sum = abs_pow(&gap.broadcast_div(&unit)?, self.p)?.sum(D::Minus1)?;
        Ok((root(&sum, self.power / self.p)? * unit.squeeze(D::Minus1)?.powf(self.power)?)?)
    }

    fn by_kernel(&self, anchors: &Tensor, others: &Tensor) -> Result<Option<PairMatrix>> {
        check("Lp::all_pairs", anchors, others, false)?;
        check_powers("Lp", self.p, self.power)?;
        if self.p != 2.0 {
            return Ok(None);
        }
        by_kernel(anchors, others, Pairing::Euclidean { power: self.power }, self.normalize_embeddings)
    }
}

impl Distance for Lp {
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        if let Some(matrix) = self.by_kernel(anchors, others)? {
            return Ok(matrix.tensor()?);
        }
        let (a, b) = self.prepare(anchors, others)?;
        if self.p == 2.0 {
            return Ok(root(&squared_distances(&a, &b)?, self.power / 2.0)?.to_dtype(anchors.dtype())?);
        }
        let gaps = a.unsqueeze(1)?.broadcast_sub(&b.unsqueeze(0)?)?; // [n, m, d]
        Ok(self.of_gaps(&gaps)?.to_dtype(anchors.dtype())?)
    }

    fn pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<PairMatrix> {
        match self.by_kernel(anchors, others)? {
            Some(matrix) => Ok(matrix),
            None => Ok(PairMatrix::of_graph(&self.all_pairs(anchors, others)?)?),
        }
    }

    fn paired(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        check("Lp::paired", anchors, others, true)?;
        check_powers("Lp", self.p, self.power)?;
        let (a, b) = self.prepare(anchors, others)?;
        Ok(self.of_gaps(&(a - b)?)?.to_dtype(anchors.dtype())?)
    }

    fn range(&self) -> Option<(f64, f64)> {
        self.normalize_embeddings.then(|| (0.0, 2f64.powf(self.power)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    #[test]
    fn equal_rows_have_distance_and_gradient_zero() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            for (p, power) in [(1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (3.0, 1.0), (1.5, 0.5)] {
                let rows =
                    Tensor::new(&[[0.3f64, -0.7, 0.2], [0.3, -0.7, 0.2]], &Device::Cpu)?.to_dtype(dtype)?;
                let (x, y) = (Var::from_tensor(&rows)?, Var::from_tensor(&rows)?);
                let lp = Lp::new(p, power, true)?;
                for value in [lp.all_pairs(&x, &y)?, lp.all_pairs(&x, &x)?, lp.paired(&x, &y)?] {
                    let sum = value.sum_all()?;
                    assert_eq!(
                        sum.to_dtype(DType::F64)?.to_scalar::<f64>()?,
                        0.0,
                        "p = {p}, power = {power}"
                    );
                    let grads = sum.backward()?;
                    let Some(g) = grads.get(&x) else { continue };
                    let g = g.abs()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                    assert_eq!(g, 0.0, "p = {p}, power = {power}");
                }
            }
        }
        Ok(())
    }
}
