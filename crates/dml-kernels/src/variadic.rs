//! Operations with any number of arguments and results.
//!
//! candle's own take three tensors at most and give one. Here the results are nodes above a node that stands for the
//! operation, and the arguments hang below it in ties of three; those nodes hold one number each, and what flows
//! through them in the backward pass is only which results had a gradient. The gradients themselves are handed
//! over beside the graph, so nothing is packed into one tensor and taken apart again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{ThreadId, current};

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};

/// Contiguous results.
pub(crate) type Results = Vec<(CpuStorage, Shape)>;

/// An operation on CPU tensors, with its backward pass.
pub(crate) trait Variadic: Send + Sync + 'static {
    /// The name, for messages.
    const NAME: &'static str;
    /// What the forward pass keeps for the backward pass.
    type Kept: Send + Sync;

    /// The results and what to keep. The arguments are cut from their graphs.
    fn forward(&self, args: &[Tensor]) -> Result<(Results, Self::Kept)>;

    /// The gradients of the arguments from those of the results, one each, `None` for a result that the loss does
    /// not reach.
    fn backward(
        &self,
        args: &[Tensor],
        kept: &Self::Kept,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>>;
}

/// Runs `op` on `args` (at least one, all on the CPU) and ties its results into the graph.
pub(crate) fn apply<V: Variadic>(op: V, args: &[&Tensor]) -> Result<Vec<Tensor>> {
    let detached: Vec<Tensor> = args.iter().map(|arg| arg.detach()).collect();
    let (results, kept) = op.forward(&detached)?;
    let node = Arc::new(Node {
        op,
        args: detached,
        results: results.len(),
        kept,
        from_above: Mutex::default(),
        below: Mutex::default(),
    });
    let mut ties: Vec<Tensor> = Vec::with_capacity(args.len().div_ceil(3));
    for (i, args) in args.chunks(3).enumerate() {
        let three = |at: usize| args.get(at).unwrap_or(&args[0]);
        let tie = Tie { node: node.clone(), first: 3 * i, len: args.len() };
        ties.push(three(0).apply_op3(three(1), three(2), tie)?);
    }
    while ties.len() > 1 {
        let above: Result<_> = ties
            .chunks(3)
            .map(|ties| {
                let three = |at: usize| ties.get(at).unwrap_or(&ties[0]);
                three(0).apply_op3(three(1), three(2), Knot { len: ties.len() })
            })
            .collect();
        ties = above?;
    }
    let [tie] = ties.as_slice() else { bail!("{}: no arguments", V::NAME) };
    let stem = tie.apply_op1(Stem { node: node.clone() })?;
    let leaf = |(at, result)| {
        let leaf = Leaf { node: node.clone(), result: Mutex::new(Some(result)), at };
        stem.apply_op1(leaf)
    };
    results.into_iter().enumerate().map(leaf).collect()
}

/// What all nodes of one application share.
struct Node<V: Variadic> {
    op: V,
    args: Vec<Tensor>,
    results: usize,
    kept: V::Kept,
    /// The gradients of the results, by the thread that runs the backward pass.
    from_above: Mutex<HashMap<ThreadId, Vec<Option<Tensor>>>>,
    /// The gradients of the arguments.
    below: Mutex<HashMap<ThreadId, Vec<Option<Tensor>>>>,
}

/// A lock that a panic elsewhere does not close: entries are replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One number, of the dtype of `like`.
fn number(like: &CpuStorage, value: f64) -> Result<(CpuStorage, Shape)> {
    let storage = match like {
        CpuStorage::F64(_) => CpuStorage::F64(vec![value]),
        _ => CpuStorage::F32(vec![value as f32]),
    };
    Ok((storage, Shape::from(1)))
}

/// One number as a gradient, of the dtype of `like`.
fn note(like: &Tensor, value: f64) -> Result<Tensor> {
    Tensor::full(value, 1, &Device::Cpu)?.to_dtype(like.dtype())
}

/// A result, above the stem.
struct Leaf<V: Variadic> {
    node: Arc<Node<V>>,
    result: Mutex<Option<(CpuStorage, Shape)>>,
    at: usize,
}

impl<V: Variadic> CustomOp1 for Leaf<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match lock(&self.result).take() {
            Some(result) => Ok(result),
            None => bail!("{}: a result was asked for twice", V::NAME),
        }
    }

    /// Leaves the gradient with the node and tells the stem so: 2ⁱ for result i, whose sum names all that came.
    fn bwd(&self, stem: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut from_above = lock(&self.node.from_above);
        let grads = from_above.entry(current().id()).or_default();
        grads.resize(self.node.results, None);
        grads[self.at] = Some(grad.detach());
        note(stem, f64::from(1u32 << self.at)).map(Some)
    }
}

/// The operation itself.
struct Stem<V: Variadic> {
    node: Arc<Node<V>>,
}

impl<V: Variadic> CustomOp1 for Stem<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn cpu_fwd(&self, tie: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        number(tie, 0.0)
    }

    fn bwd(&self, tie: &Tensor, _: &Tensor, came: &Tensor) -> Result<Option<Tensor>> {
        let came = came.to_dtype(candle_core::DType::F64)?.sum_all()?.to_scalar::<f64>()? as u32;
        let mut grads = lock(&self.node.from_above).remove(&current().id()).unwrap_or_default();
        for (at, grad) in grads.iter_mut().enumerate() {
            // One that an earlier pass left when it failed on its way is not of this pass.
            if came & (1 << at) == 0 {
                *grad = None;
            }
        }
        let below = self.node.op.backward(&self.node.args, &self.node.kept, &grads)?;
        lock(&self.node.below).insert(current().id(), below);
        note(tie, 1.0).map(Some)
    }
}

/// Up to three arguments.
struct Tie<V: Variadic> {
    node: Arc<Node<V>>,
    first: usize,
    len: usize,
}

impl<V: Variadic> CustomOp3 for Tie<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn cpu_fwd(
        &self,
        like: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        number(like, 0.0)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Grads3> {
        let mut below = lock(&self.node.below);
        let Some(grads) = below.get_mut(&current().id()) else { return Ok((None, None, None)) };
        let mut take = |at: usize| if at < self.len { grads.get_mut(self.first + at)?.take() } else { None };
        Ok((take(0), take(1), take(2)))
    }
}

type Grads3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// Up to three ties.
struct Knot {
    len: usize,
}

impl CustomOp3 for Knot {
    fn name(&self) -> &'static str {
        "knot"
    }

    fn cpu_fwd(
        &self,
        like: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        number(like, 0.0)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Grads3> {
        let tell = |at: usize| (at < self.len).then(|| grad.clone());
        Ok((tell(0), tell(1), tell(2)))
    }
}
