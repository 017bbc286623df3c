//! AdamW with a learning rate for each group of parameters, linear warm-up and cosine decay.

use std::f64::consts::PI;

use candle_core::{Var, backprop::GradStore};
use dml_kernels::{AdamW, adamw_step};
use serde::{Deserialize, Serialize};

use crate::{Error, Group, Parameter, Result};

/// Learning rates and their course.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate of the encoder.
    pub encoder_rate: f64,
    /// Peak learning rate of the generator, of the order of ten to thirty times the encoder's.
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

    fn peak(&self, group: Group) -> f64 {
        match group {
            Group::Encoder => self.encoder_rate,
            Group::Generator => self.generator_rate,
            Group::Temperature => self.temperature_rate,
        }
    }
}

/// The optimizer of one run: parameters and the moments of their gradients.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    steps: usize,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    parameter: Parameter,
    moments: Var,
}

impl Optimizer {
    /// An optimizer for a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Config`] for a rate that is negative or not finite, or a β outside [0, 1).
    pub fn new(parameters: Vec<Parameter>, config: OptimizerConfig, steps: usize) -> Result<Self> {
        let rates = [
            ("encoder_rate", config.encoder_rate),
            ("generator_rate", config.generator_rate),
            ("temperature_rate", config.temperature_rate),
            ("weight_decay", config.weight_decay),
        ];
        for (field, value) in rates {
            if !(value >= 0.0 && value.is_finite()) {
                let (got, expected) = (value.to_string(), "a finite number ≥ 0");
                return Err(Error::Config { what: "optimizer", field, got, expected });
            }
        }
        for (field, value) in [("beta1", config.beta1), ("beta2", config.beta2)] {
            if !(0.0..1.0).contains(&value) {
                let (got, expected) = (value.to_string(), "a number in [0, 1)");
                return Err(Error::Config { what: "optimizer", field, got, expected });
            }
        }
        let slot = |parameter: Parameter| -> Result<Slot> {
            let var = &parameter.var;
            let moments = Var::zeros((2, var.elem_count()), var.dtype(), var.device())?;
            Ok(Slot { parameter, moments })
        };
        Ok(Self { config, steps, slots: parameters.into_iter().map(slot).collect::<Result<_>>()? })
    }

    /// Step `step` (from 0).
    ///
    /// # Errors
    /// [`Error::NoGradient`] names a parameter that the loss does not reach.
    pub fn step(&self, step: usize, gradients: &GradStore) -> Result<()> {
        let share = self.config.share(step, self.steps);
        for Slot { parameter, moments } in &self.slots {
            let Parameter { name, var, group } = parameter;
            let gradient =
                gradients.get(var).ok_or_else(|| Error::NoGradient { step, name: name.clone() })?;
            let config = AdamW {
                learning_rate: share * self.config.peak(*group),
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                epsilon: 1e-8,
                weight_decay: if *group == Group::Encoder { self.config.weight_decay } else { 0.0 },
            };
            adamw_step(var, gradient, moments, step as u64 + 1, config)?;
        }
        Ok(())
    }

    /// Everything a checkpoint must hold: each parameter by its name, and its moments as `NAME#moments`.
    pub fn state(&self) -> Vec<(String, Var)> {
        let entries = self.slots.iter().flat_map(|Slot { parameter, moments }| {
            let Parameter { name, var, .. } = parameter;
            [(name.clone(), var.clone()), (format!("{name}#moments"), moments.clone())]
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
}
