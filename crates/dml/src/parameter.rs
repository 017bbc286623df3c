//! What the optimizer updates: a variable, its name in a checkpoint, and the group whose learning rate it has.

use candle_core::Var;
use dml_loss::Role;
use serde::{Deserialize, Serialize};

/// Parameters that share a learning rate.
///
/// A generator needs one above the encoder's, often ten times and more: at the encoder's rate φ stays where it started and
/// looks like the Euclidean distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The encoder's weights.
    Encoder,
    /// The parameters of φ, and others that a loss learns.
    Generator,
    /// The logarithm of the logit scale.
    Temperature,
}

impl From<Role> for Group {
    fn from(role: Role) -> Self {
        match role {
            Role::Temperature => Self::Temperature,
            _ => Self::Generator,
        }
    }
}

/// A learned parameter of a task.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The name, unique within the task, e.g. `encoder.conv1.weight`.
    pub name: String,
    /// The variable. Clones share storage, so an update is seen by the model.
    pub var: Var,
    /// Its group.
    pub group: Group,
}

impl Parameter {
    /// A parameter named `name`.
    pub fn new(name: impl Into<String>, var: &Var, group: Group) -> Self {
        Self { name: name.into(), var: var.clone(), group }
    }
}
