//! The same out of candle's operations, for other devices.

use candle_core::{D, Result, Tensor};

use super::{ConvexActivation, ConvexNetwork};
use crate::matmul::matmul;
use crate::softplus::{sigmoid, softplus};
use crate::unit_divergence;

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
        let (risen, bend, turn) = unit_divergence::native(s, &z0[l].broadcast_as(delta.shape())?, &delta)?;
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
