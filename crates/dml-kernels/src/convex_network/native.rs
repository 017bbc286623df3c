//! The same out of candle's operations, for other devices.

use candle_core::{D, Result, Tensor};

use super::{ConvexActivation, ConvexNetwork};
use crate::matmul::matmul;
use crate::softplus::{sigmoid, softplus, softplus_increment};

impl ConvexActivation {
    fn value(self, z: &Tensor) -> Result<Tensor> {
        match self {
            Self::Softplus => softplus(z),
            Self::Squareplus => (z + root(z)?)? * 0.5,
        }
    }

    fn slope(self, z: &Tensor) -> Result<Tensor> {
        match self {
            Self::Softplus => sigmoid(z),
            Self::Squareplus => (z / root(z)?)?.affine(0.5, 0.5),
        }
    }

    /// s(z̄ + δ) − s(z̄) − s′(z̄)∘δ and s′(z̄ + δ) − s′(z̄), z̄ `[1, k]`, δ `[n, k]`.
    fn bend(self, z0: &Tensor, delta: &Tensor) -> Result<(Tensor, Tensor)> {
        let sign = mirror(z0)?; // [1, k]
        let (z0, delta) = ((z0 * &sign)?, delta.broadcast_mul(&sign)?);
        let slope0 = self.slope(&z0)?;
        let bend = (self.increment(&z0, &delta)? - delta.broadcast_mul(&slope0)?)?;
        let growth = self.slope(&delta.broadcast_add(&z0)?)?.broadcast_sub(&slope0)?;
        Ok((bend, growth.broadcast_mul(&sign)?))
    }

    /// s(z̄ + δ) − s(z̄), z̄ `[1, k]`, δ `[n, k]`.
    fn increment(self, z0: &Tensor, delta: &Tensor) -> Result<Tensor> {
        match self {
            Self::Softplus => softplus_increment(z0, delta),
            Self::Squareplus => {
                let z = delta.broadcast_add(z0)?;
                let secant = (z.broadcast_add(z0)? / root(&z)?.broadcast_add(&root(z0)?)?)?;
                delta * secant.affine(0.5, 0.5)?
            }
        }
    }
}

/// −1 right of the knee and 1 left of it, as constants: what mirrors a unit to the side where it is small, which its
/// divergence does not notice.
fn mirror(z0: &Tensor) -> Result<Tensor> {
    z0.detach().gt(0.0)?.to_dtype(z0.dtype())?.affine(-2.0, 1.0)
}

/// √(z² + 4).
fn root(z: &Tensor) -> Result<Tensor> {
    (z.sqr()? + 4.0)?.sqrt()
}

/// Row by row in the order of the module's equations.
pub(super) fn native(x: &Tensor, pivot: &Tensor, network: &ConvexNetwork<'_>) -> Result<(Tensor, Tensor)> {
    let s = network.activation;
    let layers = network.bias.len();
    let hidden: Vec<Tensor> = network.hidden.iter().map(|v| softplus(v)).collect::<Result<_>>()?;
    let pivot = pivot.detach();
    let (mut z0, mut slope0): (Vec<Tensor>, Vec<Tensor>) = (Vec::new(), Vec::new()); // [1, k]
    for l in 0..layers {
        let mut z = matmul(&pivot, &network.input[l].t()?)?.broadcast_add(network.bias[l])?;
        if l > 0 {
            z = (z + matmul(&s.value(&z0[l - 1])?, &hidden[l - 1].t()?)?)?;
        }
        slope0.push(s.slope(&z)?);
        z0.push(z);
    }
    let mut weight = vec![softplus(network.top)?.unsqueeze(0)?]; // c, last to first, [1, k]
    for l in (1..layers).rev() {
        let above = &weight[weight.len() - 1];
        weight.push(matmul(&(above * &slope0[l])?, &hidden[l - 1])?);
    }
    weight.reverse();

    let shift = x.broadcast_sub(&pivot)?; // [n, d]
    let mut value = (shift.sqr()?.sum(D::Minus1)? * (0.5 * network.curvature))?;
    for unused in &network.affine {
        // Not `* 0.0`: candle cuts the graph at a scalar factor of 0.
        value = value.broadcast_add(&(*unused * unused.zeros_like()?.detach())?.sum_all()?)?;
    }
    let (mut slopes, mut turns): (Vec<Tensor>, Vec<Tensor>) = (Vec::new(), Vec::new()); // [n, k]
    let mut rise: Option<Tensor> = None;
    for l in 0..layers {
        let mut delta = matmul(&shift, &network.input[l].t()?)?;
        if let Some(rise) = &rise {
            delta = (delta + matmul(rise, &hidden[l - 1].t()?)?)?;
        }
        let risen = s.increment(&z0[l], &delta)?;
        let (bend, turn) = s.bend(&z0[l], &delta)?;
        value = (value + matmul(&bend, &weight[l].t()?)?.squeeze(1)?)?;
        slopes.push(turn.broadcast_add(&slope0[l])?);
        turns.push(turn);
        rise = Some(risen);
    }
    let mut grad = (&shift * network.curvature)?;
    let mut adjoint: Option<Tensor> = None;
    for l in (0..layers).rev() {
        let mut upstream = turns[l].broadcast_mul(&weight[l])?;
        if let Some(adjoint) = &adjoint {
            upstream = (upstream + (adjoint * &slopes[l])?)?;
        }
        grad = (grad + matmul(&upstream, network.input[l])?)?;
        if l > 0 {
            adjoint = Some(matmul(&upstream, &hidden[l - 1])?);
        }
    }
    Ok((value, grad))
}
