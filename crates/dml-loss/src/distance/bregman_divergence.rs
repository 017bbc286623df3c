//! A Bregman divergence as a distance: any loss over a fixed or learned convex generator.

use std::sync::Arc;

use bregman::Side;
use candle_core::Tensor;
use dml_kernels::PairMatrix;
use phi::Generator;

use crate::{
    Distance, Parameter, Result, Role,
    distance::{both, check},
    error::name_of,
    tensor::normalize_rows,
};

/// D_φ(x ‖ y) = φ(x) − φ(y) − ⟨∇φ(y), x − y⟩ over any generator φ, with the anchor on the side the caller names, or
/// symmetrized.
///
/// With [`Side::First`] an anchor a and another row o have D_φ(a ‖ o), with [`Side::Second`] D_φ(o ‖ a); row i of the
/// matrix belongs to anchor i in both. Symmetrized it is ½D_φ(a ‖ o) + ½D_φ(o ‖ a), of the pair alone, and the side
/// does not matter. Rows are taken as they are unless `normalize_embeddings` is set. All pairs are one matrix product,
/// each row passing once through φ: O(nmd) time, O(nm) memory. φ's parameters are learned in the role
/// [`Generator`](crate::Role::Generator).
///
/// # Errors
/// Rows outside the domain of φ: the error names row and value.
/// # Source
/// Li et al. 2023 \[li2023\]; Banerjee et al. 2005 \[banerjee2005\], definition 1.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {bregman::Side, candle_core::{Device, Tensor}, dml_loss::{BregmanDistance, Distance}};
/// let distance = BregmanDistance::new(Arc::new(phi::SquaredEuclidean), Side::First);
/// let x = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
/// assert_eq!(distance.all_pairs(&x, &x)?.to_vec2::<f32>()?, [[0., 25.], [25., 0.]]);
///
/// // The side is part of the distance: KL(x ‖ y) is not KL(y ‖ x).
/// let (p, q) = (Tensor::new(&[[0.5f64, 0.5]], &Device::Cpu)?, Tensor::new(&[[0.9f64, 0.1]], &Device::Cpu)?);
/// let of = |side| BregmanDistance::new(Arc::new(phi::NegativeEntropy::simplex()), side);
/// let first = of(Side::First).paired(&p, &q)?.to_vec1::<f64>()?[0];
/// let second = of(Side::Second).paired(&p, &q)?.to_vec1::<f64>()?[0];
/// assert!((first - (0.5 * (0.5f64 / 0.9).ln() + 0.5 * (0.5f64 / 0.1).ln())).abs() < 1e-12);
/// assert!((second - (0.9 * (0.9f64 / 0.5).ln() + 0.1 * (0.1f64 / 0.5).ln())).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct BregmanDistance {
    /// φ; shared with whatever else evaluates it.
    pub generator: Arc<dyn Generator>,
    /// The argument the anchor takes.
    pub anchor: Side,
    /// Whether to average both directions. That gives up what the direction is worth.
    pub symmetrize: bool,
    /// Whether rows are L2-normalized first (for generators on all of ℝᵈ only).
    pub normalize_embeddings: bool,
}

impl BregmanDistance {
    /// D_φ of the rows as they are, the anchor on the given side.
    pub fn new(generator: Arc<dyn Generator>, anchor: Side) -> Self {
        Self { generator, anchor, symmetrize: false, normalize_embeddings: false }
    }

    /// ½D_φ(a ‖ o) + ½D_φ(o ‖ a).
    pub fn symmetrized(generator: Arc<dyn Generator>) -> Self {
        Self { symmetrize: true, ..Self::new(generator, Side::First) }
    }

    fn prepare(&self, anchors: &Tensor, others: &Tensor) -> Result<(Tensor, Tensor)> {
        if !self.normalize_embeddings {
            return Ok((anchors.clone(), others.clone()));
        }
        both(anchors, others, |x| normalize_rows(x, 2.0))
    }
}

impl Distance for BregmanDistance {
    fn all_pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        Ok(self.pairs(anchors, others)?.tensor()?)
    }

    fn pairs(&self, anchors: &Tensor, others: &Tensor) -> Result<PairMatrix> {
        check("BregmanDistance::all_pairs", anchors, others, false)?;
        let (a, b) = self.prepare(anchors, others)?;
        let phi = &*self.generator;
        Ok(match self.symmetrize {
            true => bregman::jeffreys_pairs(phi, &a, &b, 0.5)?,
            false => self.anchor.pairs(phi, &a, &b)?,
        })
    }

    fn paired(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        check("BregmanDistance::paired", anchors, others, true)?;
        let (a, b) = self.prepare(anchors, others)?;
        let phi = &*self.generator;
        if self.symmetrize {
            return Ok((bregman::jeffreys(phi, &a, &b)? * 0.5)?);
        }
        Ok(self.anchor.paired(phi, &a, &b)?)
    }

    fn name(&self) -> String {
        let over = name_of(&*self.generator);
        match self.generator.dim() {
            Some(d) => format!("BregmanDistance over {over} of dimension {d}"),
            None => format!("BregmanDistance over {over}"),
        }
    }

    fn parameters(&self) -> Vec<Parameter> {
        let own = self.generator.parameters();
        own.iter().map(|p| Parameter::new(format!("generator.{}", p.name), &p.var, Role::Generator)).collect()
    }
}
