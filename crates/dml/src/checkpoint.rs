//! Checkpoints: one safetensors file with parameters, optimizer moments and the losses so far, whole or absent.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use safetensors::SafeTensors;

use crate::{Error, Result, atomic};

/// The tensor that holds the loss of each step done.
const LOSSES: &str = "#losses";
/// The metadata key of the fingerprint.
const FINGERPRINT: &str = "fingerprint";

/// A checkpoint file and the configuration it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint<'a> {
    /// The file.
    pub path: &'a Path,
    /// A digest of the configuration, stored with the tensors.
    pub fingerprint: &'a str,
}

impl Checkpoint<'_> {
    /// Writes the variables and the losses so far.
    ///
    /// # Errors
    /// [`Error::Write`] names the file; what stood there before still does.
    pub fn save(&self, state: &[(String, Var)], losses: &[f64]) -> Result<()> {
        let mut tensors: HashMap<String, Tensor> =
            state.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        tensors.insert(LOSSES.to_owned(), Tensor::from_slice(losses, losses.len(), &Device::Cpu)?);
        let metadata = HashMap::from([(FINGERPRINT.to_owned(), self.fingerprint.to_owned())]);
        let bytes =
            safetensors::serialize(&tensors, Some(metadata)).map_err(|e| self.error(e.to_string()))?;
        Ok(atomic::write(self.path, bytes)?)
    }

    /// Sets the variables from the file and returns the losses so far; `None` when there is no file, or one of
    /// another configuration.
    ///
    /// # Errors
    /// [`Error::File`] names a file that is damaged, or the tensor that is missing or has another shape. Nothing
    /// is set then.
    pub fn load(&self, state: &[(String, Var)]) -> Result<Option<Vec<f64>>> {
        let bytes = match std::fs::read(self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.error(format!("cannot be read: {e}"))),
        };
        let damaged = |e: safetensors::SafeTensorError| {
            self.error(format!("damaged checkpoint ({e}); delete it to begin anew"))
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let fingerprint = metadata.metadata().as_ref().and_then(|m| m.get(FINGERPRINT));
        if fingerprint.map(String::as_str) != Some(self.fingerprint) {
            return Ok(None);
        }
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| self.error(format!("damaged checkpoint ({e}); delete it to begin anew")))?;
        let mut take = |name: &str| {
            let missing = || self.error(format!("tensor `{name}` is missing; delete the file to begin anew"));
            tensors.remove(name).ok_or_else(missing)
        };
        let losses = take(LOSSES)?.to_vec1::<f64>().map_err(|e| self.error(format!("`{LOSSES}`: {e}")))?;
        let mut found = Vec::with_capacity(state.len());
        for (name, var) in state {
            let tensor = take(name)?;
            if tensor.shape() != var.shape() || tensor.dtype() != var.dtype() {
                return Err(self.error(format!(
                    "tensor `{name}` is {:?} {:?}, expected {:?} {:?}; delete the file to begin anew",
                    tensor.dtype(),
                    tensor.dims(),
                    var.dtype(),
                    var.dims()
                )));
            }
            found.push(tensor);
        }
        for (tensor, (_, var)) in found.iter().zip(state) {
            var.set(&tensor.to_device(var.device())?)?;
        }
        Ok(Some(losses))
    }

    fn error(&self, why: String) -> Error {
        Error::File { path: self.path.to_owned(), why }
    }
}
