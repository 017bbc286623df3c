//! What the optimizer updates, and in which role, so that each role has its own learning rate.

use candle_core::Var;
use serde::{Deserialize, Serialize};

/// What a learned parameter is for. Generators want a learning rate far above the encoder's, temperatures one
/// between; so an optimizer groups by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// A parameter of a convex generator φ.
    Generator,
    /// The logarithm of a logit scale.
    Temperature,
    /// Class proxies, centers or weight columns.
    Proxy,
    /// A learned decision boundary, such as β of the margin loss.
    Boundary,
}

/// A learned parameter of a loss or of its distance.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The name, unique within the loss, e.g. `generator.W0` or `log_scale`.
    pub name: String,
    /// The variable. Clones share storage, so an update is seen by the loss.
    pub var: Var,
    /// What it is for.
    pub role: Role,
}

impl Parameter {
    /// A parameter named `name`.
    ///
    /// ```
    /// # use {candle_core::{Device, Var}, dml_loss::{Parameter, Role}};
    /// let var = Var::new(&[0f32], &Device::Cpu)?;
    /// assert_eq!(Parameter::new("log_scale", &var, Role::Temperature).name, "log_scale");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(name: impl Into<String>, var: &Var, role: Role) -> Self {
        Self { name: name.into(), var: var.clone(), role }
    }
}
