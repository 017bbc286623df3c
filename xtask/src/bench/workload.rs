//! Our side of each case: data and models from a seed or a file, one pass, and what the pass must agree in.

use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bregman::Side;
use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use dml::{
    Encoder, Group, Mode, Optimizer, OptimizerConfig, Parameter, ResNet, ResNetConfig, SmallConv,
    SmallConvConfig,
};
use dml_loss::{
    Batch, BatchHard, BatchHardConfig, BregmanDistance, Distance, Lp, Objective, TripletMargin,
    TripletMarginConfig,
};
use phi::{Generator, Icnn, IcnnConfig};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use super::case::{Case, Divergence, Work};
use super::losses::{self, Given, PER_CLASS};

const SEED: u64 = 20_260_101;
const IMAGE: [usize; 3] = [1, 28, 28];
const PICTURE: [usize; 3] = [3, 32, 32];
/// The margin of hardest triplets under the learned divergence: most triplets violate it.
const MARGIN: f64 = 1.0;
/// Low, so that the work of the hundredth pass is that of the first.
const RATE: f64 = 1e-5;
const WEIGHT_DECAY: f64 = 1e-4;
/// The length of the run that the optimizer believes to be in: its rate stays what it is.
const STEPS: usize = 1_000_000_000;

/// What a pass gives: a value, and gradients where there are any.
pub type Pass = Box<dyn Fn() -> anyhow::Result<(Tensor, Option<GradStore>)>>;

/// A case, built.
pub struct Workload {
    data: HashMap<String, Tensor>,
    parameters: Vec<(String, Var)>,
    pass: Pass,
    /// What is compared before the clock starts, where that is not the pass itself.
    reference: Option<Pass>,
    optimizer: Option<Optimizer>,
    steps: Cell<usize>,
}

impl Workload {
    /// A case with data and parameters drawn from a seed.
    ///
    /// # Errors
    /// What the crates return.
    pub fn seeded(case: &Case) -> anyhow::Result<Self> {
        Self::build(case, data(case.work)?, None)
    }

    /// A pass without parameters.
    pub fn of(data: HashMap<String, Tensor>, pass: Pass, reference: Option<Pass>) -> Self {
        Self { data, parameters: Vec::new(), pass, reference, optimizer: None, steps: Cell::new(0) }
    }

    /// A case with data and parameters of a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When the file cannot be read or lacks a tensor.
    pub fn load(case: &Case, file: &Path) -> anyhow::Result<Self> {
        let tensors = candle_core::safetensors::load(file, &Device::Cpu)
            .with_context(|| format!("{}: cannot be read", file.display()))?;
        let workload = Self::build(case, tensors, Some(file))?;
        for (name, var) in &workload.parameters {
            var.set(get(&workload.data, name)?)?;
        }
        Ok(workload)
    }

    /// Writes data and parameters for both sides to start from.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        let mut tensors = self.data.clone();
        tensors.extend(self.parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())));
        candle_core::safetensors::save(&tensors, file)
            .with_context(|| format!("{}: cannot be written", file.display()))
    }

    /// One pass, and the optimizer's step where the case has one.
    ///
    /// # Errors
    /// What the crates return.
    pub fn run(&self) -> anyhow::Result<()> {
        let (value, gradients) = (self.pass)()?;
        if let (Some(optimizer), Some(gradients)) = (&self.optimizer, &gradients) {
            optimizer.step(self.steps.replace(self.steps.get() + 1), gradients)?;
        }
        black_box((value, gradients));
        Ok(())
    }

    /// The `value` of one pass and its gradients, `grad.NAME`.
    ///
    /// # Errors
    /// What the crates return; when a parameter has no gradient.
    pub fn check(&self) -> anyhow::Result<HashMap<String, Tensor>> {
        let (value, gradients) = self.reference.as_ref().unwrap_or(&self.pass)()?;
        let value = if value.rank() == 0 { value.reshape(1)? } else { value };
        let mut results = HashMap::from([("value".to_owned(), value)]);
        if let Some(gradients) = gradients {
            for (name, var) in &self.parameters {
                let gradient = gradients.get(var).with_context(|| format!("`{name}` has no gradient"))?;
                results.insert(format!("grad.{name}"), gradient.contiguous()?);
            }
        }
        Ok(results)
    }

    fn build(case: &Case, data: HashMap<String, Tensor>, file: Option<&Path>) -> anyhow::Result<Self> {
        match case.work {
            Work::Loader(pictures) => pictures.workload(data, file),
            Work::Matmul { .. } => product(data),
            Work::MultiplyAdds { size } => Ok(multiply_adds(size)),
            Work::Step { divergence, .. } => small_step(divergence, data),
            Work::ResNet { batch, dtype } => {
                let encoder = ResNet::new(PICTURE[0], &ResNetConfig::default(), SEED, dtype, &Device::Cpu)?;
                let objective = losses::find("sup-con")?.objective(batch / PER_CLASS, encoder.dim())?;
                step(encoder, objective, Vec::new(), data)
            }
            Work::HardestTriplet { d, .. } => {
                let (objective, parameters) = under_icnn(d)?;
                alone(objective, parameters, data)
            }
            Work::Loss { name, n, d } => {
                let loss = losses::find(name)?;
                let objective = loss.objective(n / loss.per_class, d)?;
                let own = objective.parameters().into_iter().map(|p| (p.name, p.var)).collect();
                alone(objective, own, data)
            }
        }
    }
}

fn multiply_adds(size: usize) -> Workload {
    let pass: Pass = Box::new(move || {
        let done = dml_kernels::multiply_adds(size * size * size);
        Ok((Tensor::new(done as f32, &Device::Cpu)?, None))
    });
    Workload::of(HashMap::new(), pass, None)
}

fn product(data: HashMap<String, Tensor>) -> anyhow::Result<Workload> {
    let (a, b) = (get(&data, "a")?.clone(), get(&data, "b")?.clone());
    let pass: Pass = Box::new(move || Ok((dml_kernels::matmul(&a, &b)?, None)));
    Ok(Workload::of(data, pass, None))
}

fn small_step(divergence: Divergence, data: HashMap<String, Tensor>) -> anyhow::Result<Workload> {
    let config = SmallConvConfig { channels: [32, 64], hidden: 128, dim: 64 };
    let encoder = SmallConv::new(IMAGE, &config, SEED, DType::F32, &Device::Cpu)?;
    let (objective, generator) = match divergence {
        Divergence::Icnn => under_icnn(config.dim)?,
        Divergence::Euclidean => (hardest_triplet(Arc::new(Lp::default()), 0.05), Vec::new()),
    };
    step(encoder, objective, generator, data)
}

/// Forward, backward and AdamW of an encoder and what the objective has to learn.
fn step(
    encoder: impl Encoder + 'static,
    objective: Objective,
    generator: Vec<(String, Var)>,
    data: HashMap<String, Tensor>,
) -> anyhow::Result<Workload> {
    let mut parameters = encoder.parameters();
    let group = |group| move |(name, var): &(String, Var)| Parameter::new(name.clone(), var, group);
    let mut learned: Vec<Parameter> = parameters.iter().map(group(Group::Encoder)).collect();
    learned.extend(generator.iter().map(group(Group::Generator)));
    parameters.extend(generator);
    let config = OptimizerConfig {
        encoder_rate: RATE,
        generator_rate: RATE,
        weight_decay: WEIGHT_DECAY,
        warmup_steps: 0,
        ..Default::default()
    };
    let optimizer = Optimizer::new(learned, config, STEPS)?;
    let (images, labels) = (get(&data, "x")?.clone(), labels(&data)?);
    let pass: Pass = Box::new(move || {
        let embeddings = encoder.forward(&images, Mode::Train)?;
        let loss = objective.forward(&Batch::new(&embeddings, &labels)?)?;
        let gradients = loss.backward()?;
        Ok((loss, Some(gradients)))
    });
    Ok(Workload { data, parameters, pass, reference: None, optimizer: Some(optimizer), steps: Cell::new(0) })
}

/// An objective over rows that are themselves differentiated by.
fn alone(
    objective: Objective,
    mut parameters: Vec<(String, Var)>,
    data: HashMap<String, Tensor>,
) -> anyhow::Result<Workload> {
    let (x, labels) = (Var::from_tensor(get(&data, "x")?)?, labels(&data)?);
    parameters.push(("x".to_owned(), x.clone()));
    let views = data.get("y").map(Var::from_tensor).transpose()?;
    parameters.extend(views.clone().map(|y| ("y".to_owned(), y)));
    let pass: Pass = Box::new(move || {
        let mut batch = Batch::new(&x, &labels)?;
        if let Some(y) = &views {
            batch = batch.with_reference(y, &labels)?;
        }
        let loss = objective.forward(&batch)?;
        let gradients = loss.backward()?;
        Ok((loss, Some(gradients)))
    });
    Ok(Workload { data, parameters, pass, reference: None, optimizer: None, steps: Cell::new(0) })
}

/// Hardest triplets under a convex network of two layers of 128, with its parameters.
fn under_icnn(dim: usize) -> anyhow::Result<(Objective, Vec<(String, Var)>)> {
    let phi = Icnn::new(dim, &IcnnConfig::default(), SEED, DType::F32, &Device::Cpu)?;
    let parameters = phi.parameters().into_iter().map(|p| (p.name, p.var)).collect();
    let distance = BregmanDistance::new(Arc::new(phi), Side::First);
    Ok((hardest_triplet(Arc::new(distance), MARGIN), parameters))
}

fn hardest_triplet(distance: Arc<dyn Distance>, margin: f64) -> Objective {
    let config = TripletMarginConfig { margin, ..Default::default() };
    Objective::new(Arc::new(TripletMargin { distance: distance.clone(), config }))
        .with_miner(Arc::new(BatchHard::new(distance, BatchHardConfig::default())))
}

/// Rows about a center a class, so that the hardest triplets are not decided by rounding.
fn data(work: Work) -> anyhow::Result<HashMap<String, Tensor>> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut normal = |shape: &[usize]| -> anyhow::Result<Tensor> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| StandardNormal.sample(&mut rng)).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    };
    let (n, shape) = match work {
        Work::Loader(pictures) => return pictures.data(),
        Work::MultiplyAdds { .. } => return Ok(HashMap::new()),
        Work::Matmul { size } => {
            let (a, b) = (normal(&[size, size])?, normal(&[size, size])?);
            return Ok(HashMap::from([("a".to_owned(), a), ("b".to_owned(), b)]));
        }
        Work::Step { batch, .. } => (batch, IMAGE.to_vec()),
        Work::ResNet { batch, .. } => (batch, PICTURE.to_vec()),
        Work::HardestTriplet { n, d } | Work::Loss { n, d, .. } => (n, vec![d]),
    };
    let loss = match work {
        Work::Loss { name, .. } => Some(losses::find(name)?),
        _ => None,
    };
    let per_class = loss.map_or(PER_CLASS, |loss| loss.per_class);
    let classes = n / per_class;
    let grouped = loss.is_some_and(|loss| loss.grouped);
    let class = |row| if grouped { row / per_class } else { row % classes };
    let labels: Vec<i64> = (0..n).map(|row| class(row) as i64).collect();
    let centers = normal(&[&[classes], &shape[..]].concat())?;
    let noise = normal(&[&[n], &shape[..]].concat())?;
    let own = Tensor::from_vec(labels.clone(), n, &Device::Cpu)?;
    let x = (centers.index_select(&own, 0)? + noise)?;
    let x = if let Work::ResNet { dtype, .. } = work { x.to_dtype(dtype)? } else { x };
    let mut data = HashMap::from([("x".to_owned(), x), ("labels".to_owned(), own.clone())]);
    if loss.is_some_and(|loss| loss.given == Given::Views) {
        let noise = normal(&[&[n], &shape[..]].concat())?;
        data.insert("y".to_owned(), (centers.index_select(&own, 0)? + noise)?);
    }
    Ok(data)
}

/// A tensor of the file.
///
/// # Errors
/// When it is not there.
pub fn get<'a>(tensors: &'a HashMap<String, Tensor>, name: &str) -> anyhow::Result<&'a Tensor> {
    tensors.get(name).with_context(|| format!("the file has no tensor `{name}`"))
}

fn labels(data: &HashMap<String, Tensor>) -> anyhow::Result<Vec<i64>> {
    Ok(get(data, "labels")?.to_vec1()?)
}
