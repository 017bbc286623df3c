//! A multilayer perceptron over vectors: histograms, or features of a frozen network.

use candle_core::{DType, Device, Tensor, Var};
use dml_kernels::{Activation, linear};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Encoder, Mode, he_normal, lecun_normal, weights_and_biases};
use crate::{Error, Result};

/// The shape of an [`Mlp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Units of the two hidden layers.
    pub hidden: [usize; 2],
    /// d, the dimension of the embedding.
    pub dim: usize,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self { hidden: [256, 256], dim: 64 }
    }
}

/// linear – ReLU – linear – ReLU – linear.
#[derive(Debug, Clone)]
pub struct Mlp {
    inputs: usize,
    dim: usize,
    layers: [(Var, Var); 3], // weight, bias
}

impl Mlp {
    /// Random weights for rows of `inputs` numbers.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is 0.
    pub fn new(inputs: usize, config: &MlpConfig, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        let MlpConfig { hidden: [first, second], dim } = *config;
        if [inputs, first, second, dim].contains(&0) {
            let (got, expected) = (format!("{inputs} inputs and {config:?}"), "sizes of at least 1");
            return Err(Error::Config { what: "Mlp", field: "config", got, expected });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let bias = |n: usize| -> Result<Var> { Ok(Var::zeros(n, dtype, device)?) };
        let layers = [
            (he_normal(&[first, inputs], &mut rng, dtype, device)?, bias(first)?),
            (he_normal(&[second, first], &mut rng, dtype, device)?, bias(second)?),
            (lecun_normal(&[dim, second], &mut rng, dtype, device)?, bias(dim)?),
        ];
        Ok(Self { inputs, dim, layers })
    }
}

impl Encoder for Mlp {
    /// `[n, …]` with as many numbers a row as inputs → `[n, d]`.
    fn forward(&self, rows: &Tensor, _: Mode) -> Result<Tensor> {
        let [first, second, out] = &self.layers;
        let per_row = || rows.dims().iter().skip(1).product::<usize>();
        if rows.rank() < 2 || per_row() != self.inputs {
            let got = format!("a tensor of shape {:?} for {} inputs", rows.dims(), self.inputs);
            let expected = "rows of as many numbers as the encoder was made for";
            return Err(Error::Config { what: "Mlp::forward", field: "rows", got, expected });
        }
        let x = linear(&rows.flatten_from(1)?, &first.0, Some(&first.1), Activation::Relu)?;
        let x = linear(&x, &second.0, Some(&second.1), Activation::Relu)?;
        Ok(linear(&x, &out.0, Some(&out.1), Activation::Identity)?)
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        weights_and_biases(&["hidden1", "hidden2", "out"], &self.layers)
    }
}
