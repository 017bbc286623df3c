//! Margin loss with a learned boundary (Wu et al. 2017).

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use dml_kernels::{Band, Real, RowMap, Tally};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Distance, Divisor, Index, Loss, Parameter, Part, Reduced, Reducer, Result, Role,
    TripletsPerAnchor, Tuples,
    error::{count, finite},
    loss::{
        class_table::class_ids,
        triplet_rows::{TripletForm, TripletRows},
        tuple_sum::{Added, TupleSum},
    },
    rows,
    tensor::{download, entries, hinge, rows as rows_of, upload},
    tuples::TripletTable,
};

/// Knobs of [`Margin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarginConfig {
    /// m: how far from the boundary pairs must stay; 0.2.
    pub margin: f64,
    /// ν, the weight of β itself, which keeps a learned boundary from growing; 0.
    pub nu: f64,
    /// β: the boundary, or where it begins; 1.2, for Euclidean distances of normalized rows.
    pub beta: f64,
    /// Whether β is learned. Off by default.
    pub learn_beta: bool,
    /// A boundary for each of so many classes; without it (the default), one for all.
    pub num_classes: Option<usize>,
    /// How many triplets of each anchor count where none are given: all (the default), or a number drawn at random.
    pub triplets_per_anchor: TripletsPerAnchor,
    /// Seeds the draws; 0.
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

/// [D(a, p) − β + m]₊ + [β − D(a, n) + m]₊ for each triplet, the signs turned for similarities; plus ν·β where β is
/// learned.
///
/// β is one number, or one for each class and then that of the anchor. Parts `margin_loss`, a loss a triplet, and
/// `beta_reg_loss`, one for the batch or, with a boundary for each class, a loss a triplet; both with the number of
/// hinge terms above 0 as divisor, which the usual reducer ([`Divisor`](crate::Divisor)) takes. Own parameter where
/// learned: `beta` `[1]` or `[classes]`, in the role [`Boundary`](crate::Role::Boundary).
///
/// # Distances
/// Any, with β and m in its units. Under a divergence β is a threshold of D_φ with the anchor on the side of the
/// distance; let it begin at the median divergence of a first batch and learn it. Its usual miner is
/// [`DistanceWeighted`](crate::DistanceWeighted), for Euclid of normalized rows.
/// # Cost
/// With p positives and q negatives an anchor: O(n·p·q) time and O(nm) memory, as triplets are visited; a number of
/// `triplets_per_anchor` lists that many an anchor; unreduced losses are as many numbers as there are
/// triplets.
/// # Source
/// Wu et al. 2017 \[wu2017\], equations 4 and 7.
/// # Examples
/// ```
/// # use std::sync::Arc;
/// # use {candle_core::{DType, Device, Tensor}, dml_loss::*};
/// let config = MarginConfig { beta: 1.0, learn_beta: true, ..Default::default() };
/// let loss = Objective::new(Arc::new(Margin::new(Arc::new(Lp::raw(2.0)), config, DType::F64, &Device::Cpu)?));
/// let x = Tensor::new(&[[0f64], [1.], [3.]], &Device::Cpu)?;
/// let value = loss.forward(&Batch::new(&x, &[0, 0, 1])?)?;
/// // The positive pair lies on the boundary, 0.2 too near to it; the negatives are far enough away.
/// assert!((value.to_scalar::<f64>()? - 0.2).abs() < 1e-12);
/// // Two terms push the boundary outwards, and their sum is divided by two.
/// let beta = &loss.parameters()[0].var;
/// let gradient = value.backward()?.get(beta).map(|g| g.to_vec1::<f64>()).transpose()?;
/// assert_eq!(gradient, Some(vec![-1.0]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        let owner = "Margin";
        finite(owner, &[("margin", config.margin), ("nu", config.nu), ("beta", config.beta)])?;
        config.num_classes.map_or(Ok(()), |classes| count(owner, "num_classes", classes))?;
        config.triplets_per_anchor.check(owner)?;
        let beta = Tensor::full(config.beta, config.num_classes.unwrap_or(1), device)?;
        Ok(Self { distance, config, beta: Var::from_tensor(&beta.to_dtype(dtype)?)? })
    }
}

impl Margin {
    /// A learned boundary is of the embeddings' type and on their device.
    fn check(&self, batch: &Batch) -> Result<()> {
        if self.config.learn_beta { batch.check_type("Margin", ("beta", &self.beta)) } else { Ok(()) }
    }

    /// What each boundary is multiplied by when a reducer takes ν·β of each triplet, given how many triplets each
    /// anchor has and the divisor; `None` where the reducer is no weighted sum.
    fn boundary_weights(
        &self,
        batch: &Batch,
        reducer: &dyn Reducer,
        ids: &[u32],
        (counts, active): &(Vec<f64>, f64),
    ) -> Result<Option<Vec<f64>>> {
        const PART: &str = "beta_reg_loss";
        let nu = self.config.nu;
        let Some(weighing) = reducer.weighing_of_rows(PART)? else { return Ok(None) };
        let (low, high) = weighing.band();
        let double = self.beta.dtype() == DType::F64;
        let holds = |loss: f64| match double {
            true => Band::<f64>::new(low, high).holds(loss),
            false => Band::<f32>::new(low, high).holds(loss as f32),
        };
        let losses = download(&(self.beta.as_detached_tensor() * nu)?)?;
        let tally = |(&id, &count): (&u32, &f64)| {
            let loss = losses[id as usize];
            Tally { count, sum: count * loss, inside: if holds(loss) { count } else { 0.0 } }
        };
        let tallies: Vec<Tally> = ids.iter().zip(counts).map(tally).collect();
        let weights = weighing.weights(PART, Some(*active), &tallies, batch.labels())?;
        let mut of_beta = vec![0.0; losses.len()];
        for ((&id, weight), tally) in ids.iter().zip(weights).zip(&tallies) {
            of_beta[id as usize] += nu * weight * tally.inside;
        }
        Ok(Some(of_beta))
    }
}

/// [D_ap − β + m]₊ + [β − D_an + m]₊; `sign` is 1 for distances and −1 for similarities.
struct Boundary {
    beta: Vec<f64>,
    sign: f64,
    margin: f64,
}

impl Boundary {
    /// sign·(v − β) + m for positives, −sign·(v − β) + m for negatives.
    #[inline(always)]
    fn excess<T: Real>(&self, anchor: usize, value: T, sign: f64) -> T {
        T::from_f64(sign) * (value - T::from_f64(self.beta[anchor])) + T::from_f64(self.margin)
    }
}

/// The number of hinge terms above 0 among the triplets of a row, in the precision of the losses.
struct Active<'a> {
    form: &'a Boundary,
    triplets: &'a TripletTable,
}

impl RowMap for Active<'_> {
    type Found = f64;

    fn find<T: Real>(&self, i: usize, row: &[T], found: &mut Vec<f64>) {
        let Boundary { sign: of_positive, .. } = *self.form;
        let one = |j: usize, sign: f64| rows::hinge(self.form.excess(i, row[j], sign)).1.to_f64();
        found.push(match self.triplets {
            TripletTable::Listed { positive, negative } => {
                let positive = positive.of(i).iter().map(|&p| one(p as usize, of_positive)).sum::<f64>();
                positive + negative.of(i).iter().map(|&n| one(n as usize, -of_positive)).sum::<f64>()
            }
            TripletTable::Products(pairs) => {
                let (mut p, mut n) = ([0.0; 2], [0.0; 2]);
                pairs.each_positive(i, |j| p = [p[0] + 1.0, p[1] + one(j, of_positive)]);
                pairs.each_negative(i, |j| n = [n[0] + 1.0, n[1] + one(j, -of_positive)]);
                p[1] * n[0] + p[0] * n[1]
            }
        });
    }
}

impl TripletForm for Boundary {
    type Positive<T: Real> = (T, T);

    #[inline(always)]
    fn positive<T: Real>(&self, anchor: usize, value: T) -> (T, T) {
        let (excess, slope) = rows::hinge(self.excess(anchor, value, self.sign));
        (excess, slope * T::from_f64(self.sign))
    }

    #[inline(always)]
    fn loss<T: Real>(&self, (positive, _): (T, T), anchor: usize, value: T) -> T {
        positive + rows::hinge(self.excess(anchor, value, -self.sign)).0
    }

    #[inline(always)]
    fn slopes<T: Real>(&self, (_, slope): (T, T), anchor: usize, value: T) -> (T, T) {
        let to_negative = rows::hinge(self.excess(anchor, value, -self.sign)).1;
        (slope, to_negative * T::from_f64(-self.sign))
    }
}

impl Loss for Margin {
    fn reduced(&self, batch: &Batch, tuples: Option<&Tuples>, reducer: &dyn Reducer) -> Result<Reduced> {
        let MarginConfig { margin, nu, learn_beta, num_classes, triplets_per_anchor, .. } = self.config;
        // Drawn triplets are few.
        if tuples.is_none() && !triplets_per_anchor.is_all() {
            return Ok(Reduced::Unknown);
        }
        if batch.nothing() {
            return Ok(Reduced::Nothing);
        }
        self.check(batch)?;
        let ids = match num_classes {
            Some(classes) => class_ids("Margin", batch, classes)?,
            None => vec![0; batch.len()],
        };
        let betas = download(self.beta.as_tensor())?;
        let beta = ids.iter().map(|&id| betas[id as usize]).collect();
        let sign = if self.distance.larger_is_closer() { -1.0 } else { 1.0 };
        let losses = TripletRows {
            triplets: &TripletTable::new(batch, tuples),
            form: Boundary { beta, sign, margin },
        };
        let matrix = batch.pairs(&self.distance)?;
        let active = || -> Result<f64> {
            let active = Active { form: &losses.form, triplets: losses.triplets };
            Ok(matrix.map_rows(&active)?.iter().sum())
        };
        let mut sum = TupleSum::new(&matrix, reducer, batch.labels())?;
        let mut counted = (Vec::new(), 0.0);
        let divisor = |tallies: &[Tally]| -> Result<Option<f64>> {
            counted = (tallies.iter().map(|t| t.count).collect(), active()?);
            Ok(Some(counted.1))
        };
        if let Added::No = sum.add("margin_loss", &losses, divisor)? {
            return Ok(Reduced::Unknown);
        }
        // Distances and boundary enter as differences alone.
        let by_row = learn_beta.then(|| sum.row_sums());
        let Some(mut total) = sum.finish(None)? else { return Ok(Reduced::Nothing) };
        if let Some(by_row) = by_row {
            let mut by_beta = vec![0.0; betas.len()];
            ids.iter().zip(by_row).for_each(|(&id, slope)| by_beta[id as usize] -= slope);
            let beta = self.beta.as_tensor();
            let by_beta = upload(by_beta, betas.len(), beta)?;
            let zero = ((beta - beta.detach())? * by_beta)?.sum_all()?;
            total = (total + zero)?;
            if nu != 0.0 {
                // One boundary for all is a loss of the batch, one for each class a loss of each of its triplets.
                let weights = match num_classes {
                    None => Some(vec![nu]),
                    Some(_) => self.boundary_weights(batch, reducer, &ids, &counted)?,
                };
                let Some(weights) = weights else { return Ok(Reduced::Unknown) };
                let weights = upload(weights, betas.len(), beta)?;
                total = (total + (beta * weights)?.sum_all()?)?;
            }
        }
        Ok(Reduced::Value(total))
    }

    fn unreduced(&self, batch: &Batch, tuples: Option<&Tuples>) -> Result<Vec<Part>> {
        let triplets = match tuples {
            Some(tuples) => tuples.to_triplets(),
            None => self.config.triplets_per_anchor.triplets(batch, self.config.seed)?,
        };
        if triplets.is_empty() {
            return Ok(Vec::new());
        }
        let MarginConfig { margin, nu, learn_beta, num_classes, .. } = self.config;
        self.check(batch)?;
        let matrix = batch.all_pairs(&*self.distance)?; // [n, m]
        let own_beta = match learn_beta {
            true => self.beta.as_tensor().clone(),
            false => self.beta.as_detached_tensor().to_dtype(matrix.dtype())?.to_device(matrix.device())?,
        };
        let beta = match num_classes {
            Some(classes) => {
                let ids = class_ids("Margin", batch, classes)?;
                let ids: Vec<u32> = triplets.anchor.iter().map(|&a| ids[a as usize]).collect();
                rows_of(&own_beta, &ids)? // [k]
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
            parts.push(match num_classes {
                Some(_) => Part {
                    name: "beta_reg_loss",
                    losses,
                    index: Index::Rows(triplets.anchor),
                    divisor: Some(active),
                },
                None => Part::whole("beta_reg_loss", losses),
            });
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
