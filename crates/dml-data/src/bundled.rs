//! The small real dataset that comes with the workspace.

use std::path::{Path, PathBuf};

use crate::{Error, ImageSet, Manifest, Part, Result};

/// The environment variable that names a folder of datasets, one folder per dataset, to look in first.
pub const DATA_DIR_VARIABLE: &str = "DML_DATA_DIR";

/// The folder where datasets are kept, one folder per dataset: the one that `DML_DATA_DIR` names, else `data` of the
/// workspace this crate was built from, else `data` where the program runs.
///
/// # Examples
/// ```
/// let folder = dml_data::data_dir();
/// assert!(std::env::var_os("DML_DATA_DIR").is_some() || folder.ends_with("data"));
/// ```
pub fn data_dir() -> PathBuf {
    let chosen = std::env::var_os(DATA_DIR_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let workspace = workspace.filter(|root| root.join("datasets/manifest.toml").is_file());
    chosen.unwrap_or_else(|| workspace.unwrap_or(Path::new("")).join("data"))
}

/// MNIST-5k: 5,000 real digits, 500 a class, 28×28, in order of class. `datasets/mnist-5k/README.md` tells
/// where they come from.
///
/// Looks in the folder that `DML_DATA_DIR` names, then in the source tree this crate was built from.
///
/// # Errors
/// [`Error::NotFound`] tells where it looked and what to do; else as [`ImageSet::from_idx`].
/// # Examples
/// ```
/// let digits = dml_data::bundled::mnist_5k()?;
/// assert_eq!(digits.len(), 5000);
/// assert_eq!(digits.shape(), [1, 28, 28]);
/// assert_eq!(digits.class_counts(), [500; 10]);
/// # Ok::<(), dml_data::Error>(())
/// ```
pub fn mnist_5k() -> Result<ImageSet> {
    let name = "mnist-5k";
    Manifest::builtin()?.get(name)?.load(&folder(name)?, Part::All)
}

/// The folder of a bundled dataset.
///
/// # Errors
/// [`Error::NotFound`] when it is in none of the places described at [`mnist_5k`].
pub fn folder(name: &str) -> Result<PathBuf> {
    let chosen = std::env::var_os(DATA_DIR_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    let in_source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
    locate(name, chosen.into_iter().chain([in_source]))
}

fn locate(name: &str, roots: impl Iterator<Item = PathBuf>) -> Result<PathBuf> {
    let mut looked_at = Vec::new();
    for root in roots {
        let folder = root.join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        looked_at.push(folder);
    }
    Err(Error::NotFound {
        dataset: name.to_owned(),
        file: "its folder".to_owned(),
        looked_at,
        remedy: format!(
            "set {DATA_DIR_VARIABLE} to the folder that holds `{name}`, e.g. `datasets` of a checkout"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_root_that_has_it_wins_and_a_miss_says_what_to_do() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = || [a.path().to_owned(), b.path().to_owned()].into_iter();
        let message = locate("set", roots()).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "set: its folder is neither of {}, {}; set DML_DATA_DIR to the folder that holds `set`, e.g. \
                 `datasets` of a checkout",
                a.path().join("set").display(),
                b.path().join("set").display()
            )
        );
        std::fs::create_dir(b.path().join("set")).unwrap();
        assert_eq!(locate("set", roots()).unwrap(), b.path().join("set"));
        std::fs::create_dir(a.path().join("set")).unwrap();
        assert_eq!(locate("set", roots()).unwrap(), a.path().join("set"));
    }
}
