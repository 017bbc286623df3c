//! An input-convex network and its gradient around a pivot, as one operation with a backward pass by hand.
//!
//! With x̃ = x − μ, P_l = softplus(V_l), and a bar for what the pivot μ gives,
//!
//! δ_l = W_l x̃ + P_l r_{l−1},  r_l = s(z̄_l + δ_l) − s(z̄_l),  ρ_l = s′(z̄_l + δ_l) − s′(z̄_l),
//! u_l = c_l∘ρ_l + a_l∘s′(z̄_l + δ_l),  a_l = P_{l+1}ᵀ u_{l+1},
//! value = Σ_l ⟨c_l, r_l − s′(z̄_l)∘δ_l⟩ + ε/2‖x̃‖²,  gradient = Σ_l W_lᵀ u_l + εx̃,
//!
//! where c_l is ∂φ/∂h_l at the pivot. These are differences throughout, so no digit is lost far from the origin.
//! The backward pass is the same chain once more, from values and gradients to inputs and parameters; what the
//! parameters change at the pivot itself is a pass over one row.
//!
//! Rows are independent, so each thread takes one contiguous piece of them through both passes, in blocks that stay
//! in its cache, with matrix products on that thread alone. Parameters' gradients are added in the order of the
//! pieces.

mod backward;
mod forward;
mod native;
mod unit;

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{threads, with_slice};
use crate::dispatch::on_cpu;
use crate::real::{Real, with_real};
use crate::variadic::{Results, Variadic, apply};
use backward::Gradients;
use forward::{Block, Network, Pivot};
use native::native;

/// A convex, increasing, smooth activation s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvexActivation {
    /// log(1 + eᶻ).
    Softplus,
    /// (z + √(z² + 4))/2.
    Squareplus,
}

/// The parameters of an input-convex network with L hidden layers.
#[derive(Debug)]
pub struct ConvexNetwork<'a> {
    /// W_l, one a hidden layer: `[k_l, d]`.
    pub input: Vec<&'a Tensor>,
    /// b_l, one a hidden layer: `[k_l]`.
    pub bias: Vec<&'a Tensor>,
    /// V_l for l ≥ 1, before its softplus: `[k_l, k_{l−1}]`.
    pub hidden: Vec<&'a Tensor>,
    /// v, before its softplus: `[k_{L−1}]`.
    pub top: &'a Tensor,
    /// Parameters of an affine part: no value depends on them, and their gradient is 0.
    pub affine: Vec<&'a Tensor>,
    /// s.
    pub activation: ConvexActivation,
    /// ε of the term ε/2‖x‖².
    pub curvature: f64,
}

/// φ less its tangent plane at the pivot, and the gradient of that, row by row: `x` `[n, d]`, `pivot` `[1, d]` →
/// (`[n]`, `[n, d]`).
///
/// The pivot is a constant and receives no gradient: where a divergence is computed from the results, it does not
/// depend on it.
///
/// # Errors
/// When the shapes disagree.
pub fn convex_network(x: &Tensor, pivot: &Tensor, network: &ConvexNetwork<'_>) -> Result<(Tensor, Tensor)> {
    const OP: &str = "convex_network";
    let (n, d) = crate::rows::matrix(OP, "x", x)?;
    let widths: Vec<usize> = network.bias.iter().map(|b| b.elem_count()).collect();
    let fits = |tensors: &[&Tensor], shape: &dyn Fn(usize) -> Vec<usize>| {
        tensors.iter().enumerate().all(|(l, t)| t.dims() == shape(l))
    };
    let layers = widths.len();
    if layers == 0 || network.input.len() != layers || network.hidden.len() + 1 != layers {
        bail!(
            "{OP}: {} input, {} bias and {} hidden weights, expected L, L and L − 1 for L ≥ 1 layers",
            network.input.len(),
            layers,
            network.hidden.len()
        );
    }
    if pivot.dims() != [1, d] || d == 0 || widths.contains(&0) {
        bail!(
            "{OP}: `pivot` has shape {:?}, `x` {:?}, layers {widths:?} units; expected [1, d], [n, d] and at \
               least one of each",
            pivot.dims(),
            x.dims()
        );
    }
    let fine = fits(&network.input, &|l| vec![widths[l], d])
        && fits(&network.hidden, &|l| vec![widths[l + 1], widths[l]])
        && fits(&network.bias, &|l| vec![widths[l]])
        && network.top.dims() == [widths[layers - 1]];
    if !fine {
        bail!("{OP}: the parameters do not fit d = {d} and layers of {widths:?} units");
    }
    if !on_cpu(x) {
        return native(x, pivot, network);
    }
    let mut args = vec![x];
    args.extend(&network.input);
    args.extend(&network.bias);
    args.extend(&network.hidden);
    args.push(network.top);
    args.extend(&network.affine);
    let op = Op {
        n,
        d,
        widths,
        pivot: pivot.detach().contiguous()?,
        activation: network.activation,
        curvature: network.curvature,
    };
    match apply(op, &args)?.as_slice() {
        [value, grad] => Ok((value.clone(), grad.clone())),
        _ => bail!("{OP}: no results"),
    }
}

/// Rows of a block: its layers then fit a core's second cache.
const BLOCK: usize = 256;
/// Batches of more rows keep nothing for the backward pass, which then runs the forward pass again: a gallery is
/// evaluated without being differentiated.
const KEEP: usize = 16_384;

struct Op {
    n: usize,
    d: usize,
    widths: Vec<usize>,
    pivot: Tensor,
    activation: ConvexActivation,
    curvature: f64,
}

/// What the forward pass leaves to the backward pass, in the element type of the tensors.
pub(crate) enum Kept {
    F32(Everything<f32>),
    F64(Everything<f64>),
}

/// The parameters ready for use, the pass over the pivot, and that over the rows where it is kept.
pub(crate) struct Everything<T: Real> {
    network: Network<T>,
    pivot: Pivot<T>,
    blocks: Vec<Block<T>>,
}

/// [`Everything`] of an element type, and that type's values in f64.
pub(crate) trait Element: Real {
    fn wide(self) -> f64;
    fn keep(everything: Everything<Self>) -> Kept;
    fn kept(kept: &Kept) -> Option<&Everything<Self>>;
}

macro_rules! element {
    ($t:ident, $variant:ident) => {
        impl Element for $t {
            #[inline(always)]
            #[allow(clippy::useless_conversion, reason = "of f64 it is none")]
            fn wide(self) -> f64 {
                f64::from(self)
            }
            fn keep(everything: Everything<Self>) -> Kept {
                Kept::$variant(everything)
            }
            fn kept(kept: &Kept) -> Option<&Everything<Self>> {
                match kept {
                    Kept::$variant(everything) => Some(everything),
                    _ => None,
                }
            }
        }
    };
}
element!(f32, F32);
element!(f64, F64);

/// A tensor's elements, row-major.
fn values<T: Real>(t: &Tensor) -> Result<Vec<T>> {
    with_slice::<T, _>(Op::NAME, t, |t| Ok(t.to_vec()))
}

impl Op {
    /// The first rows of the blocks, in the order in which they are added up, a list for each thread.
    fn pieces(&self) -> Vec<Vec<(usize, usize)>> {
        // A block of few rows wastes the matrix product, so few rows stay on one thread.
        const LEAST: usize = 24;
        let threads = threads().min(self.n / LEAST).max(1);
        let piece = self.n.div_ceil(threads).max(1);
        let starts = (0..self.n).step_by(piece);
        let blocks = |start: usize| {
            let end = (start + piece).min(self.n);
            (start..end).step_by(BLOCK).map(|at| (at, BLOCK.min(end - at))).collect()
        };
        starts.map(blocks).collect()
    }

    fn run<T: Element>(&self, args: &[Tensor]) -> Result<(Results, Kept)> {
        let network = Network::<T>::new(self, &args[1..])?;
        let pivot = Pivot::new(&network, &values(&self.pivot)?);
        let (n, d) = (self.n, self.d);
        let (mut value, mut grad) = (vec![T::ZERO; n], vec![T::ZERO; n * d]);
        let keep = n <= KEEP;
        let pieces = self.pieces();
        let blocks: Vec<Block<T>> = with_slice::<T, _>(Self::NAME, &args[0], |x| {
            let mut work = Vec::with_capacity(pieces.len());
            let (mut value_left, mut grad_left) = (value.as_mut_slice(), grad.as_mut_slice());
            for blocks in &pieces {
                let rows: usize = blocks.iter().map(|b| b.1).sum();
                let (value, value_rest) = value_left.split_at_mut(rows);
                let (grad, grad_rest) = grad_left.split_at_mut(rows * d);
                (value_left, grad_left) = (value_rest, grad_rest);
                work.push((blocks, value, grad));
            }
            let run = |(blocks, mut value, mut grad): (&Vec<(usize, usize)>, &mut [T], &mut [T])| {
                let mut kept = Vec::with_capacity(blocks.len());
                for &(at, rows) in blocks {
                    let (value_block, grad_block);
                    (value_block, value) = value.split_at_mut(rows);
                    (grad_block, grad) = grad.split_at_mut(rows * d);
                    let block =
                        Block::new(&network, &pivot, &x[at * d..][..rows * d], value_block, grad_block);
                    if keep {
                        kept.push(block);
                    }
                }
                kept
            };
            Ok(match work.len() {
                0 | 1 => work.into_iter().flat_map(run).collect(),
                _ => work.into_par_iter().map(run).collect::<Vec<_>>().into_iter().flatten().collect(),
            })
        })?;
        let results = vec![(T::storage(value), Shape::from(n)), (T::storage(grad), Shape::from((n, d)))];
        Ok((results, T::keep(Everything { network, pivot, blocks })))
    }

    fn reverse<T: Element>(
        &self,
        args: &[Tensor],
        kept: &Everything<T>,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let (n, d) = (self.n, self.d);
        let Everything { network, pivot, blocks } = kept;
        let on_value = grads[0].as_ref().map_or(Ok(vec![T::ZERO; n]), values)?;
        let on_grad = match &grads[1] {
            Some(grad) => grad.contiguous()?,
            None => Tensor::zeros((n, d), args[0].dtype(), args[0].device())?,
        };
        let mut to_x = vec![T::ZERO; n * d];
        let pieces = self.pieces();
        let total = with_slice::<T, _>(Self::NAME, &args[0], |x| {
            with_slice::<T, _>(Self::NAME, &on_grad, |on_grad| {
                let mut work = Vec::with_capacity(pieces.len());
                let mut left = to_x.as_mut_slice();
                let mut first = 0;
                for piece in &pieces {
                    let rows: usize = piece.iter().map(|b| b.1).sum();
                    let (to_x, rest) = left.split_at_mut(rows * d);
                    left = rest;
                    work.push((piece, first, to_x));
                    first += piece.len();
                }
                let run = |(piece, first, mut to_x): (&Vec<(usize, usize)>, usize, &mut [T])| {
                    let mut gradients = Gradients::new(network);
                    for (i, &(at, rows)) in piece.iter().enumerate() {
                        let to_block;
                        (to_block, to_x) = to_x.split_at_mut(rows * d);
                        let (x, on_value) = (&x[at * d..][..rows * d], &on_value[at..][..rows]);
                        let again;
                        let block = match blocks.get(first + i) {
                            Some(block) => block,
                            None => {
                                let (mut value, mut grad) = (vec![T::ZERO; rows], vec![T::ZERO; rows * d]);
                                again = Block::new(network, pivot, x, &mut value, &mut grad);
                                &again
                            }
                        };
                        let on_grad = &on_grad[at * d..][..rows * d];
                        gradients.add_block(network, pivot, block, on_value, on_grad, to_block);
                    }
                    gradients
                };
                let all: Vec<Gradients<T>> = match work.len() {
                    0 | 1 => work.into_iter().map(run).collect(),
                    _ => work.into_par_iter().map(run).collect(),
                };
                Ok(all.into_iter().reduce(Gradients::add))
            })
        })?;
        let gradients = total.unwrap_or_else(|| Gradients::new(network)).finish(network, pivot);
        let mut out = Vec::with_capacity(args.len());
        out.push(Some(T::tensor(to_x, args[0].shape())?));
        for (values, arg) in gradients.into_iter().zip(&args[1..]) {
            out.push(Some(T::tensor(values, arg.shape())?));
        }
        // The affine part.
        for arg in &args[out.len()..] {
            out.push(Some(arg.zeros_like()?));
        }
        Ok(out)
    }
}

impl Variadic for Op {
    const NAME: &'static str = "convex_network";
    type Kept = Kept;

    fn forward(&self, args: &[Tensor]) -> Result<(Results, Kept)> {
        with_real!(args[0].dtype(), Self::NAME, T => self.run::<T>(args))
    }

    fn backward(
        &self,
        args: &[Tensor],
        kept: &Kept,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        with_real!(args[0].dtype(), Self::NAME, T => match <T as Element>::kept(kept) {
            Some(everything) => self.reverse::<T>(args, everything, grads),
            None => bail!("{}: gradient of another element type", Self::NAME),
        })
    }
}
