//! The distance: what a loss or a miner compares embeddings with.
//!
//! A distance alone knows whether smaller or larger is closer; losses ask it, for [`margin`](Distance::margin) and
//! [`closeness`](Distance::closeness) of tensors or for the [sign](Distance::larger_is_closer).

use std::fmt::Debug;

use candle_core::{DType, Tensor};
use dml_kernels::{PairMatrix, Pairing};

use crate::{
    Error, Parameter, Result,
    error::{name_of, positive},
};

mod bregman_divergence;
mod dot_product;
mod lp;
mod signal_to_noise;
mod spec;

pub use bregman_divergence::BregmanDistance;
pub use dot_product::{Cosine, DotProduct};
pub use lp::Lp;
pub use signal_to_noise::SignalToNoise;
pub use spec::{BregmanSpec, DistanceSpec, FixedSpec, SideSpec};

/// A (dis)similarity between embeddings.
///
/// Members differ in [`all_pairs`](Self::all_pairs) and [`paired`](Self::paired); the anchor is always the first
/// argument, and what an asymmetric distance does with that is its own, explicit, setting. Of d coordinates all pairs
/// take O(nmd) time and O(nm) memory, but for an [`Lp`] with p ≠ 2.
pub trait Distance: Debug + Send + Sync {
    /// Every anchor with every other row: `anchors` `[n, d]`, `others` `[m, d]` → `[n, m]`.
    ///
    /// With the same tensor twice the distance of a row to itself has gradient 0.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shapes disagree; for divergences, when a row leaves the generator's domain.
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor>;

    /// As [`all_pairs`](Self::all_pairs), with the way back from the gradient of the matrix to the rows: what losses
    /// and miners ask for. A distance overrides it where it need not build the matrix within the graph.
    ///
    /// # Errors
    /// As [`all_pairs`](Self::all_pairs).
    fn pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<PairMatrix> {
        Ok(PairMatrix::of_graph(&self.all_pairs(anchors, others)?)?)
    }

    /// Row i with row i: `[n, d]`, `[n, d]` → `[n]`.
    ///
    /// # Errors
    /// As [`all_pairs`](Self::all_pairs).
    fn paired(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor>;

    /// Whether a larger value means closer, as for similarities.
    fn larger_is_closer(&self) -> bool {
        false
    }

    /// How much worse (farther) `a` is than `b`: a − b for distances, b − a for similarities. Shapes as in a
    /// broadcast subtraction.
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    fn margin(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(if self.larger_is_closer() { b.broadcast_sub(a)? } else { a.broadcast_sub(b)? })
    }

    /// How much worse (farther) `values` are than the bound: values − bound for distances, bound − values for
    /// similarities. Its negative is how much worse the bound is.
    ///
    /// # Errors
    /// When candle fails.
    fn margin_over(&self, values: &Tensor, bound: f64) -> Result<Tensor> {
        Ok(if self.larger_is_closer() { values.affine(-1.0, bound)? } else { (values - bound)? })
    }

    /// The values turned so that larger is closer: −D for distances, the value itself for similarities. These
    /// are the logits of the softmax losses, before the temperature.
    ///
    /// # Errors
    /// When candle fails.
    fn closeness(&self, values: &Tensor) -> Result<Tensor> {
        Ok(if self.larger_is_closer() { values.clone() } else { values.neg()? })
    }

    /// The least and the largest value there can be, where both are finite: for histograms of distances.
    fn range(&self) -> Option<(f64, f64)> {
        None
    }

    /// The name by which errors call it; that of the type by default.
    fn name(&self) -> String {
        name_of(self)
    }

    /// The learned parameters, in a fixed order.
    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }
}

/// Shapes at the public door of every distance: both `[·, d]`, not empty, and of equal length if `paired`.
pub(crate) fn check(op: &'static str, anchors: &Tensor, others: &Tensor, paired: bool) -> Result<()> {
    for (arg, tensor) in [("anchors", anchors), ("others", others)] {
        if tensor.rank() != 2 || tensor.elem_count() == 0 {
            return Err(Error::shape(op, arg, tensor, "[n, d] with at least one row and one column"));
        }
        check_dtype(op, arg, tensor)?;
    }
    if anchors.dtype() != others.dtype() {
        let expected = format!("{:?} as `anchors`", anchors.dtype());
        return Err(Error::DType { op, arg: "others", got: others.dtype(), expected });
    }
    let (n, d) = anchors.dims2()?;
    let expected = match paired {
        true if others.dims() != [n, d] => format!("[{n}, {d}] as `anchors`"),
        false if others.dims()[1] != d => format!("[m, {d}] as `anchors` has {d} columns"),
        _ => return Ok(()),
    };
    Err(Error::shape(op, "others", others, expected))
}

/// The p of a norm and the power of a distance.
pub(crate) fn check_powers(owner: &'static str, p: f64, power: f64) -> Result<()> {
    if !(p >= 1.0 && p.is_finite()) {
        return Err(Error::config(owner, "p", p, "1 ≤ p < ∞"));
    }
    positive(owner, &[("power", power)])
}

/// Rows hold f32 or f64: what halves add up to is too coarse to compare, and integers have no gradient.
pub(crate) fn check_dtype(op: &'static str, arg: &'static str, rows: &Tensor) -> Result<()> {
    match rows.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        got => Err(Error::DType { op, arg, got, expected: "F32 or F64".to_owned() }),
    }
}

/// The matrix of pairs by a kernel, where there is one for these tensors.
pub(crate) fn by_kernel(
    anchors: &Tensor,
    others: &Tensor,
    pairing: Pairing,
    normalize: bool,
) -> Result<Option<PairMatrix>> {
    let others = (anchors.id() != others.id()).then_some(others);
    Ok(PairMatrix::of_rows(anchors, others, pairing, normalize)?)
}

/// `f` of both tensors, computed once (and kept one tensor) where they are one.
pub(crate) fn both(
    anchors: &Tensor,
    others: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<(Tensor, Tensor)> {
    let a = f(anchors)?;
    let b = if anchors.id() == others.id() { a.clone() } else { f(others)? };
    Ok((a, b))
}
