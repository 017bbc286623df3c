//! AdamW or gradient descent with momentum, with a learning rate for each group of parameters, linear warm-up and
//! cosine decay, and clipping of gradients.

use std::f64::consts::PI;

use candle_core::{Tensor, Var, backprop::GradStore};
use dml_kernels::{AdamW, Gradient, Sgd, adamw_step, clipping_scale, sgd_step, squared_norm};
use serde::{Deserialize, Serialize};

use crate::{Error, Group, Parameter, Result};

/// How a parameter moves by its gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum UpdateRule {
    /// AdamW (Loshchilov & Hutter 2019 \[loshchilov2019\]) with β₁ and β₂ of the configuration; weight decay is
    /// decoupled.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// Gradient descent with momentum (Sutskever et al. 2013 \[sutskever2013\]), as `torch.optim.SGD` defines it;
    /// weight decay is added to the gradient. Rates are of another order than AdamW's.
    Sgd {
        /// The decay of the velocity; 0 for none.
        momentum: f64,
        /// The share of the gradient that the velocity leaves out.
        dampening: f64,
        /// Whether a step looks ahead along the velocity; needs momentum and no dampening.
        nesterov: bool,
    },
}

/// What is done to gradients that are too large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clipping {
    /// Nothing.
    #[default]
    None,
    /// All gradients together are scaled down to this norm (Pascanu et al. 2013 \[pascanu2013\]).
    Norm(f64),
    /// Each entry is cut to ± this.
    Value(f64),
}

/// Learning rates and their course.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate of the encoder.
    pub encoder_rate: f64,
    /// Peak learning rate of the generator, above the encoder's.
    pub generator_rate: f64,
    /// Peak learning rate of the temperature.
    pub temperature_rate: f64,
    /// Decoupled weight decay of the encoder. Generators and temperatures have none: shrinking φ changes only its
    /// scale, which the temperature undoes.
    pub weight_decay: f64,
    /// Steps of linear rise at the beginning, without which mining for the hardest triplets collapses.
    pub warmup_steps: usize,
    /// The decay of the mean of gradients.
    pub beta1: f64,
    /// The decay of the mean of squared gradients: 0.99 because runs are short.
    pub beta2: f64,
    /// How parameters move. Default AdamW.
    pub rule: UpdateRule,
    /// What is done to large gradients. Default nothing.
    pub clipping: Clipping,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            encoder_rate: 2e-3,
            generator_rate: 3e-2,
            temperature_rate: 1e-2,
            weight_decay: 1e-4,
            warmup_steps: 10,
            beta1: 0.9,
            beta2: 0.99,
            rule: UpdateRule::default(),
            clipping: Clipping::default(),
        }
    }
}

impl OptimizerConfig {
    /// The share of the peak rate in step `step` of `steps`: a linear rise, then half a cosine down to 0.
    pub fn share(&self, step: usize, steps: usize) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let done = (step - self.warmup_steps) as f64 / steps.saturating_sub(self.warmup_steps).max(1) as f64;
        0.5 * (1.0 + (PI * done.min(1.0)).cos())
    }

    fn check(&self) -> Result<()> {
        let error = |field, got: f64, expected| {
            Err(Error::Config { what: "optimizer", field, got: got.to_string(), expected })
        };
        let rates = [
            ("encoder_rate", self.encoder_rate),
            ("generator_rate", self.generator_rate),
            ("temperature_rate", self.temperature_rate),
            ("weight_decay", self.weight_decay),
        ];
        for (field, value) in rates {
            if !(value >= 0.0 && value.is_finite()) {
                return error(field, value, "a finite number ≥ 0");
            }
        }
        for (field, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return error(field, value, "a number in [0, 1)");
            }
        }
        if let UpdateRule::Sgd { momentum, dampening, nesterov } = self.rule {
            for (field, value) in [("momentum", momentum), ("dampening", dampening)] {
                if !(0.0..=1.0).contains(&value) {
                    return error(field, value, "a number in [0, 1]");
                }
            }
            if nesterov && momentum == 0.0 {
                return error("momentum", momentum, "a number > 0 with `nesterov`");
            }
            if nesterov && dampening != 0.0 {
                return error("dampening", dampening, "0 with `nesterov`");
            }
        }
        match self.clipping {
            Clipping::Norm(largest) | Clipping::Value(largest) if !(largest > 0.0 && largest.is_finite()) => {
                error("clipping", largest, "a finite number > 0")
            }
            _ => Ok(()),
        }
    }

    fn peak(&self, group: Group) -> f64 {
        match group {
            Group::Encoder => self.encoder_rate,
            Group::Generator => self.generator_rate,
            Group::Temperature => self.temperature_rate,
        }
    }
}

/// The optimizer of one run: parameters and what it remembers of their gradients.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    steps: usize,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    parameter: Parameter,
    /// Moments `[2, n]` of AdamW, the velocity of momentum, nothing of plain gradient descent.
    memory: Option<Var>,
}

impl Optimizer {
    /// An optimizer for a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Config`] for a rate that is negative or not finite, a β outside [0, 1), a momentum or dampening
    /// outside [0, 1] or that Nesterov's step excludes, a clipping that is not above 0.
    pub fn new(parameters: Vec<Parameter>, config: OptimizerConfig, steps: usize) -> Result<Self> {
        config.check()?;
        let slot = |parameter: Parameter| -> Result<Slot> {
            let var = &parameter.var;
            let memory = match config.rule {
                UpdateRule::AdamW => Some(Var::zeros((2, var.elem_count()), var.dtype(), var.device())?),
                UpdateRule::Sgd { momentum: 0.0, .. } => None,
                UpdateRule::Sgd { .. } => Some(Var::zeros(var.shape(), var.dtype(), var.device())?),
            };
            Ok(Slot { parameter, memory })
        };
        Ok(Self { config, steps, slots: parameters.into_iter().map(slot).collect::<Result<_>>()? })
    }

    /// Step `step` (from 0).
    ///
    /// # Errors
    /// [`Error::NoGradient`] names a parameter that the loss does not reach; no parameter has moved then.
    pub fn step(&self, step: usize, gradients: &GradStore) -> Result<()> {
        let found: Vec<&Tensor> = self
            .slots
            .iter()
            .map(|Slot { parameter: Parameter { name, var, .. }, .. }| {
                gradients.get(var).ok_or_else(|| Error::NoGradient { step, name: name.clone() })
            })
            .collect::<Result<_>>()?;
        let (scale, bound) = match self.config.clipping {
            Clipping::None => (1.0, f64::INFINITY),
            Clipping::Norm(largest) => {
                (clipping_scale(squared_norm(found.iter().copied())?, largest)?, f64::INFINITY)
            }
            Clipping::Value(largest) => (1.0, largest),
        };
        let share = self.config.share(step, self.steps);
        for (Slot { parameter, memory }, values) in self.slots.iter().zip(found) {
            let Parameter { var, group, .. } = parameter;
            let gradient = Gradient { values, scale, bound };
            let learning_rate = share * self.config.peak(*group);
            let weight_decay = if *group == Group::Encoder { self.config.weight_decay } else { 0.0 };
            match (self.config.rule, memory) {
                (UpdateRule::AdamW, Some(moments)) => {
                    let OptimizerConfig { beta1, beta2, .. } = self.config;
                    let config = AdamW { learning_rate, beta1, beta2, epsilon: 1e-8, weight_decay };
                    adamw_step(var, gradient, moments, step as u64 + 1, config)?;
                }
                (UpdateRule::Sgd { momentum, dampening, nesterov }, velocity) => {
                    let config = Sgd { learning_rate, momentum, dampening, nesterov, weight_decay };
                    sgd_step(var, gradient, velocity.as_ref(), step == 0, config)?;
                }
                (UpdateRule::AdamW, None) => {} // `new` gives every slot its moments
            }
        }
        Ok(())
    }

    /// Everything a checkpoint must hold: each parameter by its name, and what the rule remembers of it as
    /// `NAME#moments` or `NAME#velocity`.
    pub fn state(&self) -> Vec<(String, Var)> {
        let what = if self.config.rule == UpdateRule::AdamW { "moments" } else { "velocity" };
        let entries = self.slots.iter().flat_map(|Slot { parameter, memory }| {
            let Parameter { name, var, .. } = parameter;
            let memory = memory.as_ref().map(|memory| (format!("{name}#{what}"), memory.clone()));
            std::iter::once((name.clone(), var.clone())).chain(memory)
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_zero() {
        let config = OptimizerConfig { warmup_steps: 3, ..Default::default() };
        let shares: Vec<f64> = (0..=13).map(|step| config.share(step, 13)).collect();
        assert_eq!(&shares[..4], &[0.25, 0.5, 0.75, 1.0]);
        assert!(shares[3..].windows(2).all(|w| w[1] < w[0]), "{shares:?}");
        assert!(shares[13] < 1e-12);
        assert_eq!(config.share(0, 0), 0.25);
    }

    #[test]
    fn bad_rates_are_named() {
        let config = OptimizerConfig { generator_rate: f64::NAN, ..Default::default() };
        let message = Optimizer::new(Vec::new(), config, 1).unwrap_err().to_string();
        assert_eq!(message, "optimizer: `generator_rate` is NaN, expected a finite number ≥ 0");
    }

    #[test]
    fn rules_and_clippings_that_make_no_sense_are_named() {
        let message = |rule, clipping| {
            let config = OptimizerConfig { rule, clipping, ..Default::default() };
            Optimizer::new(Vec::new(), config, 1).unwrap_err().to_string()
        };
        let sgd = |momentum, dampening, nesterov| UpdateRule::Sgd { momentum, dampening, nesterov };
        assert_eq!(
            message(sgd(1.5, 0.0, false), Clipping::None),
            "optimizer: `momentum` is 1.5, expected a number in [0, 1]"
        );
        assert_eq!(
            message(sgd(0.0, 0.0, true), Clipping::None),
            "optimizer: `momentum` is 0, expected a number > 0 with `nesterov`"
        );
        assert_eq!(
            message(sgd(0.9, 0.5, true), Clipping::None),
            "optimizer: `dampening` is 0.5, expected 0 with `nesterov`"
        );
        assert_eq!(
            message(UpdateRule::AdamW, Clipping::Norm(0.0)),
            "optimizer: `clipping` is 0, expected a finite number > 0"
        );
    }

    #[test]
    fn a_configuration_survives_its_file() {
        let config = OptimizerConfig {
            rule: UpdateRule::Sgd { momentum: 0.9, dampening: 0.1, nesterov: false },
            clipping: Clipping::Norm(2.0),
            ..Default::default()
        };
        for config in
            [config, OptimizerConfig { clipping: Clipping::None, ..config }, OptimizerConfig::default()]
        {
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<OptimizerConfig>(&text).unwrap(), config, "{text}");
        }
        let short: OptimizerConfig = toml::from_str("clipping = { value = 0.5 }").unwrap();
        assert_eq!(short, OptimizerConfig { clipping: Clipping::Value(0.5), ..Default::default() });
    }
}
