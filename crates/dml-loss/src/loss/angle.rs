//! Cosines of sums of angles, without the angle.

use candle_core::Tensor;

use crate::{
    Result,
    tensor::{hinge, root},
};

/// cos(θ + m) of c = cos θ, 0 ≤ θ ≤ π: c·cos m − √(1 − c²)·sin m, with gradient cos m where |c| ≥ 1.
pub(crate) fn cos_of_sum(cosine: &Tensor, m: f64) -> Result<Tensor> {
    let sine = root(&hinge(&cosine.sqr()?.affine(-1.0, 1.0)?)?, 0.5)?;
    Ok(((cosine * m.cos())? - (sine * m.sin())?)?)
}
