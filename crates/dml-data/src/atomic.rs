//! Files that are whole or absent: written aside in the same folder, synced, then renamed into place.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use crate::{Error, Result};

/// Calls `fill` with a writer and puts what it wrote at `path`, replacing what was there.
/// Whatever fails, `path` is untouched and nothing is left beside it.
pub(crate) fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    write_checked(path, fill, |_| Ok(()))
}

/// As [`write`], and `check` must approve of the finished file before it takes its place.
pub(crate) fn write_checked(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(Error::io(folder, "create this folder"))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    {
        // A temporary file is private by default; a dataset is as readable as the user's umask says.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let aside = builder.tempfile_in(folder).map_err(Error::io(folder, "create a file in this folder"))?;
    let mut writer = BufWriter::new(aside);
    let filled = fill(&mut writer).and_then(|()| writer.flush());
    filled.map_err(Error::io(path, "write this file"))?;
    let aside = writer.into_inner().map_err(|e| Error::io(path, "write this file")(e.into_error()))?;
    aside.as_file().sync_all().map_err(Error::io(path, "sync this file"))?;
    check(aside.path())?;
    aside.persist(path).map_err(|e| Error::io(path, "rename the finished file into place")(e.error))?;
    sync_folder(path);
    Ok(())
}

/// Makes a rename to `path` durable where folders can be synced.
pub(crate) fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, |w| w.write_all(b"old")).unwrap();
        let failed = write(&path, |w| {
            w.write_all(b"half")?;
            Err(std::io::Error::other("disk full"))
        });
        assert_eq!(
            failed.unwrap_err().to_string(),
            format!(
                "{}: cannot write this file; check that the path exists and that this user may access it",
                path.display()
            )
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_fails_its_check_never_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let refuse = |aside: &Path| {
            assert_eq!(fs::read(aside).unwrap(), b"whole");
            Err(Error::MissingClass { op: "check", class: 0 })
        };
        assert!(write_checked(&path, |w| w.write_all(b"whole"), refuse).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
