//! Margin loss with a learned boundary (Wu et al. 2017).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Divisor, Index, Loss, Parameter, Part, Reducer, Result, Role, TripletsPerAnchor, Tuples,
    loss::class_table::class_ids,
    tensor::{entries, hinge, rows},
};

/// Knobs of [`Margin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarginConfig {
    /// How far from the boundary pairs must stay.
    pub margin: f64,
    /// The weight of β itself, which keeps a learned boundary from growing.
    pub nu: f64,
    /// The boundary, or where it begins.
    pub beta: f64,
    /// Whether it is learned.
    pub learn_beta: bool,
    /// One boundary for each class; without it, one for all.
    pub num_classes: Option<usize>,
    /// How many triplets of each anchor count where none are given: all, or a number drawn at random.
    pub triplets_per_anchor: TripletsPerAnchor,
    /// Seeds the draws.
    pub seed: u64,
}

impl Default for MarginConfig {
    fn default() -> Self {
        Self {
            margin: 0.2,
            nu: 0.0,
            beta: 1.2,
            learn_beta: false,
            num_classes: None,
            triplets_per_anchor: TripletsPerAnchor::default(),
            seed: 0,
        }
    }
}

/// [D_ap − β + m]₊ + [β − D_an + m]₊ over triplets, turned for similarities, and ν·β where β is learned.
///
/// β is one number or one for each class (then that of the anchor). Parts `margin_loss`, a loss a triplet, and
/// `beta_reg_loss`, both with the number of hinge terms above 0 as divisor. Own parameter `beta` `[1]` or `[classes]`
/// where learned. Any distance with β in its units.
///
/// # Source
/// Wu et al. 2017 \[wu2017\], equations 4 and 7.
#[derive(Debug, Clone)]
pub struct Margin {
    distance: Arc<dyn Distance>,
    config: MarginConfig,
    beta: Var,
}

impl Margin {
    /// With every boundary at its first value.
    ///
    /// # Errors
    /// When candle fails.
    pub fn new(
        distance: Arc<dyn Distance>,
        config: MarginConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let beta = Tensor::full(config.beta, config.num_classes.unwrap_or(1).max(1), device)?;
        Ok(Self { distance, config, beta: Var::from_tensor(&beta.to_dtype(dtype)?)? })
    }
}

impl Loss for Margin {
    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let triplets = match tuples {
            Some(tuples) => tuples.to_triplets(),
            None => self.config.triplets_per_anchor.triplets(batch, self.config.seed)?,
        };
        if triplets.is_empty() {
            return Ok(Vec::new());
        }
        let MarginConfig { margin, nu, learn_beta, num_classes, .. } = self.config;
        let matrix = batch.all_pairs(&*self.distance)?; // [n, m]
        let own_beta = if learn_beta && nu != 0.0 {
            self.beta.as_tensor().clone()
        } else {
            self.beta.as_detached_tensor()
        };
        let beta = match num_classes {
            Some(classes) => {
                let ids = class_ids("Margin", batch, classes)?;
                let ids: Vec<u32> = triplets.anchor.iter().map(|&a| ids[a as usize]).collect();
                rows(&own_beta, &ids)? // [k]
            }
            None => own_beta, // [1]
        };
        let to_positive = entries(&matrix, &triplets.anchor, &triplets.positive)?; // [k]
        let to_negative = entries(&matrix, &triplets.anchor, &triplets.negative)?; // [k]
        let positive = hinge(&(self.distance.margin(&to_positive, &beta)? + margin)?)?;
        let negative = hinge(&(self.distance.margin(&beta, &to_negative)? + margin)?)?;
        let count =
            |x: &Tensor| -> Result<Tensor> { Ok(x.detach().gt(0.0)?.to_dtype(x.dtype())?.sum_all()?) };
        let active = (count(&positive)? + count(&negative)?)?;
        let index = Index::Triplets(triplets.clone());
        let mut main = Part::new("margin_loss", (positive + negative)?, index);
        main.divisor = Some(active.clone());
        let mut parts = vec![main];
        if learn_beta && nu != 0.0 {
            let losses = (&beta * nu)?;
            let (index, divisor) = match num_classes {
                Some(_) => (Index::Rows(triplets.anchor), active),
                None => (Index::Classes(vec![0]), active.ones_like()?),
            };
            parts.push(Part { name: "beta_reg_loss", losses, index, divisor: Some(divisor) });
        }
        Ok(parts)
    }

    fn distance(&self) -> Option<&Arc<dyn Distance>> {
        Some(&self.distance)
    }

    fn default_reducer(&self) -> Arc<dyn Reducer> {
        Arc::new(Divisor::default())
    }

    fn own_parameters(&self) -> Vec<Parameter> {
        let learned = self.config.learn_beta;
        learned.then(|| Parameter::new("beta", &self.beta, Role::Boundary)).into_iter().collect()
    }
}
