//! Files that are whole or absent: written aside in the same folder, fsynced, renamed over the name.
//!
//! A reader, and a run that was killed and starts again, sees the old bytes or the new ones, never a part.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A file that could not be written; what stood under its name before still does.
#[derive(Debug, thiserror::Error)]
#[error("{}: could not {action}; check that the folder is writable and the disk has room", path.display())]
pub struct Error {
    /// The file that was to be written.
    pub path: PathBuf,
    /// The step that failed, in words.
    pub action: &'static str,
    /// What the system said.
    pub source: std::io::Error,
}

/// Puts `bytes` under `path`, wholly or not at all, and makes its folder where there is none.
///
/// The bytes reach the disk before the name does, and the name before this returns.
///
/// # Errors
/// [`Error`] names the path and the step; nothing half-written is left behind.
/// # Examples
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("metrics.json");
/// dml::atomic::write(&path, b"{}")?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
    let path = path.as_ref();
    let failed = |action| move |source| Error { path: path.to_path_buf(), action, source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(failed("make its folder"))?;
    let mut aside = builder().tempfile_in(folder).map_err(failed("make a file beside it"))?;
    aside.write_all(bytes.as_ref()).map_err(failed("write its bytes"))?;
    aside.as_file().sync_all().map_err(failed("bring its bytes to the disk"))?;
    aside.persist(path).map_err(|e| failed("rename the new file to it")(e.error))?;
    sync_folder(folder).map_err(failed("bring its name to the disk"))
}

/// Temporary files are private by default; a report is for whoever the umask lets read it.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".partial");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened as a file, and the rename itself is what the system offers.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Result = std::result::Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn replaces_the_old_bytes_and_leaves_nothing_beside_them() -> Result {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("new/deeper/file.txt");
        write(&path, "a long first version")?;
        write(&path, "second")?;
        assert_eq!(std::fs::read_to_string(&path)?, "second");
        assert_eq!(std::fs::read_dir(folder.path().join("new/deeper"))?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_failure_names_the_path_and_keeps_the_folder_clean() -> Result {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("taken");
        std::fs::create_dir(&path)?;
        std::fs::write(path.join("inside"), "kept")?;
        let message = write(&path, "x").err().map(|e| e.to_string());
        let wanted = format!(
            "{}: could not rename the new file to it; check that the folder is writable and the disk has room",
            path.display()
        );
        assert_eq!(message, Some(wanted));
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_an_error() -> Result {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("file"), "")?;
        let error = write(folder.path().join("file/inner"), "x").err().map(|e| e.action);
        assert_eq!(error, Some("make its folder"));
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_not_private_to_its_writer() -> Result {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir()?;
        let (path, plain) = (folder.path().join("a"), folder.path().join("b"));
        write(&path, "x")?;
        std::fs::write(&plain, "x")?;
        let mode = |p: &Path| std::fs::metadata(p).map(|m| m.permissions().mode());
        assert_eq!(mode(&path)?, mode(&plain)?);
        Ok(())
    }
}
