//! Directed retrieval: the query is a sample of the item.
//!
//! An item is a digit's ink as a histogram over 7×7 cells; a query is the histogram of a few ink points drawn from
//! it. Which item was it drawn from? What is learned is the divergence, and the two argument orders are two different
//! questions; the usual way, an embedding that is compared by a fixed distance, is there to be compared with.

use std::sync::Arc;

use bregman::Side;
use candle_core::{DType, Device, Tensor};
use dml_loss::{Batch, BregmanDistance, InfoNce, Objective, Temperature};
use phi::Generator;
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::histograms::{Histograms, Pairs, Sample};
use crate::train::Task;
use crate::{Encoder, Error, Group, Inputs, Method, Mlp, MlpConfig, Mode, Parameter, Result};

/// What queries and items pass through before they are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Embedding {
    /// Nothing.
    #[default]
    Nothing,
    /// The same network.
    Shared(MlpConfig),
    /// A network for queries and another for items, as of a two-tower model.
    Towers(MlpConfig),
}

impl Embedding {
    /// The networks, that of queries first.
    fn networks(self, cells: usize, seed: u64, dtype: DType, device: &Device) -> Result<Vec<Mlp>> {
        let network = |config: MlpConfig, seed: u64| Mlp::new(cells, &config, seed, dtype, device);
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Shared(config) => Ok(vec![network(config, seed)?]),
            Self::Towers(config) => Ok(vec![network(config, seed)?, network(config, seed ^ 0x70_3e_12)?]),
        }
    }
}

/// A directed retrieval problem.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectedConfig {
    /// The divergence.
    pub method: Method,
    /// Whether the query is the first argument, D(query ‖ item), or the second.
    pub query_first: bool,
    /// What is compared: the histograms themselves, or embeddings of them.
    pub embedding: Embedding,
    /// How queries come from items.
    pub sample: Sample,
    /// Pairs in a batch.
    pub batch: usize,
    /// Seed of weights, batches and draws.
    pub seed: u64,
}

impl DirectedConfig {
    /// The side that the query takes.
    pub fn side(&self) -> Side {
        if self.query_first { Side::First } else { Side::Second }
    }
}

/// A generator trained to find the item that a query was drawn from, among the items of the batch (InfoNCE with a
/// learned logit scale).
#[derive(Debug)]
pub struct DirectedTask {
    items: Arc<Histograms>,
    config: DirectedConfig,
    /// None, one, or that of queries and that of items.
    networks: Vec<Mlp>,
    generator: Arc<dyn Generator>,
    objective: Objective,
    device: Device,
}

impl DirectedTask {
    /// A task over training items.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch larger than the number of items.
    pub fn new(items: Arc<Histograms>, config: DirectedConfig, device: &Device) -> Result<Self> {
        config.sample.check(&items)?;
        if config.batch == 0 || config.batch > items.len() {
            let got = format!("{} pairs of {} items", config.batch, items.len());
            let expected = "at least one, and no more pairs than items";
            return Err(Error::Config { what: "DirectedTask", field: "batch", got, expected });
        }
        let dtype = DType::F32;
        let scale = items.scale();
        // What the parameters are of order one in; the knees themselves stand at the items' quantiles.
        let range = (0.0, 4.0 * scale);
        let sample = items.tensor(0..items.len(), device)?;
        let networks = config.embedding.networks(items.cells(), config.seed, dtype, device)?;
        let inputs = match networks.first() {
            None => Inputs { dim: items.cells(), range, scale, sample: Some(&sample) },
            Some(network) => Inputs { dim: network.dim(), range: (-4.0, 4.0), scale: 1.0, sample: None },
        };
        let generator = config.method.generator(inputs, config.seed, dtype, device)?;
        let distance = Arc::new(BregmanDistance::new(generator.clone(), config.side()));
        let temperature = Temperature::learned(0.1, dtype, device)?;
        let objective = Objective::new(Arc::new(InfoNce::new(distance, temperature)));
        Ok(Self { items, config, networks, generator, objective, device: device.clone() })
    }

    /// The generator.
    pub fn generator(&self) -> &Arc<dyn Generator> {
        &self.generator
    }

    /// Pairs as they are compared.
    ///
    /// # Errors
    /// [`Error::Config`] for histograms over other cells than those trained on.
    pub fn embed(&self, pairs: &Pairs) -> Result<Pairs> {
        let (queries, items) = self.embedded(&pairs.queries, &pairs.items)?;
        Ok(pairs.replaced(queries, items))
    }

    fn embedded(&self, queries: &Tensor, items: &Tensor) -> Result<(Tensor, Tensor)> {
        let through = |network: Option<&Mlp>, rows: &Tensor| match network {
            Some(network) => network.forward(rows, Mode::Train),
            None => Ok(rows.clone()),
        };
        Ok((through(self.networks.first(), queries)?, through(self.networks.last(), items)?))
    }

    fn batch(&self, step: usize) -> Result<Batch> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
        rng.set_stream(step as u64 + 1);
        let rows = index::sample(&mut rng, self.items.len(), self.config.batch).into_vec();
        let sample = self.config.sample;
        let (queries, _) = self.items.drawn(rows.iter().copied(), sample, &mut rng, &self.device)?;
        let items = self.items.tensor(rows.iter().copied(), &self.device)?;
        let (queries, items) = self.embedded(&queries, &items)?;
        let labels: Vec<i64> = rows.iter().map(|&i| i as i64).collect();
        Ok(Batch::new(&queries, &labels)?.with_reference(&items, &labels)?)
    }
}

impl Task for DirectedTask {
    fn loss(&self, step: usize) -> Result<Tensor> {
        Ok(self.objective.forward(&self.batch(step)?)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let learned = self.objective.parameters().into_iter();
        let learned = learned.map(|p| Parameter::new(p.name, &p.var, p.role.into()));
        let networks = ["encoder", "encoder-of-items"].iter().zip(&self.networks);
        let networks = networks.flat_map(|(of, network)| {
            let parameters = network.parameters().into_iter();
            parameters.map(move |(name, var)| Parameter::new(format!("{of}.{name}"), &var, Group::Encoder))
        });
        networks.chain(learned).collect()
    }

    fn calibrate(&self) -> Result<()> {
        Ok(self.objective.calibrate(&self.batch(0)?)?)
    }
}
