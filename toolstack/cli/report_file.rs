//! The file of `--report`.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use rxl_core::error::{Exit, Failure};

/// A file that is opened before anything happens, so that a wrong path costs nothing, and gets its
/// name when it is complete. Dropped before that, it leaves nothing behind.
///
/// Until then it has a random name in the same directory, and is created exclusively (`O_EXCL`):
/// rxl runs as root, and nobody who may write to that directory can make it write elsewhere by a
/// symbolic link.
pub struct ReportFile {
    path: PathBuf,
    unfinished: NamedTempFile,
}

impl ReportFile {
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let unfinished = unfinished(path).map_err(|e| {
            Failure::internal(format_args!("report {}", path.display()), &e)
                .next("nothing was begun")
        })?;
        Ok(Self { path: path.into(), unfinished })
    }

    /// Writes the report and puts it in place.
    pub fn write(mut self, json: &str) -> Result<(), Failure> {
        let file = self.unfinished.as_file_mut();
        let written = file.write_all(json.as_bytes()).and_then(|()| file.sync_all());
        let placed = written.and_then(|()| Ok(self.unfinished.persist(&self.path)?));
        placed.map(drop).map_err(|error| {
            let path = self.path.display();
            let what = format!("the report could not be written to {path}: {error}");
            Failure::new(Exit::MovedWithWarnings, what)
                .next("what was measured is printed above")
                .caused_by(error)
        })
    }
}

fn unfinished(path: &Path) -> io::Result<NamedTempFile> {
    let placeable = fs::symlink_metadata(path).map(|found| found.is_file() || found.is_symlink());
    // A rename would replace a device by a file, and cannot replace a directory.
    if path.file_name().is_none() || matches!(placeable, Ok(false)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    tempfile::Builder::new()
        .prefix(".rxl-report-")
        .suffix(".part")
        // As any other new file: the umask applies.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_gets_its_name_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        fs::write(&path, "earlier").unwrap();
        let file = ReportFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
        file.write("{}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_of_others_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (victim, path) = (directory.path().join("victim"), directory.path().join("r.json"));
        fs::write(&victim, "precious").unwrap();
        for link in [path.clone(), directory.path().join("r.json.part")] {
            std::os::unix::fs::symlink(&victim, link).unwrap();
        }
        ReportFile::create(&path).unwrap().write("{}").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn devices_and_directories_are_refused_before_anything_happens() {
        for path in ["/dev/null", "/tmp", "/", ".."] {
            let failure = ReportFile::create(Path::new(path)).err().unwrap();
            assert_eq!(failure.exit, Exit::Internal);
            assert!(failure.what.contains("not a regular file"), "{failure}");
        }
    }

    #[test]
    fn a_report_that_is_never_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(ReportFile::create(&directory.path().join("report.json")).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
