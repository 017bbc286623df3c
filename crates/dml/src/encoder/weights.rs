//! An encoder's weights in a safetensors file, under the names that torchvision gives them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};

use super::Encoder;
use crate::{Error, Result, atomic};

/// PyTorch's count of batches seen, which nothing here needs.
const COUNTER: &str = ".num_batches_tracked";

/// Sets parameters and buffers from a safetensors file.
///
/// Tensors whose name begins with one of `keep` stay as they are and may be missing in the file or have any shape
/// there: `&["fc."]` puts published weights under a new embedding layer. Element types are converted. Counts of
/// batches (`….num_batches_tracked`) are passed over.
///
/// # Errors
/// [`Error::File`] names the file and the tensor that is missing, unexpected, of another shape or not of
/// floating point. Nothing is set then.
/// # Examples
/// ```
/// use candle_core::{DType, Device};
/// use dml::{LeNet, LeNetConfig, load_weights, save_weights};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("lenet.safetensors");
/// let config = LeNetConfig::default();
/// save_weights(&LeNet::new([1, 28, 28], &config, 0, DType::F32, &Device::Cpu)?, &path)?;
/// let other = LeNet::new([1, 28, 28], &LeNetConfig { dim: 8, ..config }, 1, DType::F32, &Device::Cpu)?;
/// load_weights(&other, &path, &["fc3."])?;
/// assert!(load_weights(&other, &path, &[]).is_err()); // `fc3` has another size there
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load_weights(encoder: &dyn Encoder, path: &Path, keep: &[&str]) -> Result<()> {
    let error = |why: String| Error::File { path: path.to_owned(), why };
    let bytes = std::fs::read(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| error(format!("not a safetensors file, or damaged ({e}); obtain it again")))?;
    let kept = |name: &str| keep.iter().any(|prefix| name.starts_with(prefix));
    let mut found = Vec::new();
    for (name, var) in state(encoder).into_iter().filter(|(name, _)| !kept(name)) {
        let Some(tensor) = tensors.remove(&name) else {
            return Err(error(format!(
                "tensor `{name}` is missing; take a file of the same architecture, or keep the encoder's own"
            )));
        };
        if tensor.dims() != var.dims() {
            return Err(error(format!(
                "tensor `{name}` has shape {:?}, expected {:?}; take a file of the same architecture, or keep the \
                 encoder's own",
                tensor.dims(),
                var.dims()
            )));
        }
        if !matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            return Err(error(format!("tensor `{name}` is {:?}, expected floating point", tensor.dtype())));
        }
        found.push((var, tensor));
    }
    let mut rest: Vec<&String> = tensors.keys().filter(|n| !kept(n) && !n.ends_with(COUNTER)).collect();
    rest.sort();
    if let Some(name) = rest.first() {
        return Err(error(format!(
            "tensor `{name}` belongs to no parameter of the encoder; take a file of the same architecture"
        )));
    }
    for (var, tensor) in found {
        var.set(&tensor.to_dtype(var.dtype())?.to_device(var.device())?)?;
    }
    Ok(())
}

/// Writes parameters and buffers to a safetensors file.
///
/// # Errors
/// [`Error::Write`] names the file; what stood there before still does.
pub fn save_weights(encoder: &dyn Encoder, path: &Path) -> Result<()> {
    let tensors: HashMap<String, Tensor> =
        state(encoder).into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
    let bytes = safetensors::serialize(&tensors, None)
        .map_err(|e| Error::File { path: path.to_owned(), why: e.to_string() })?;
    Ok(atomic::write(path, bytes)?)
}

fn state(encoder: &dyn Encoder) -> Vec<(String, Var)> {
    encoder.parameters().into_iter().chain(encoder.buffers()).collect()
}
