//! A file that is there whole or not at all.

use std::fs::File;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

use migrate_stream::{savefile, writer};
use tempfile::NamedTempFile;

use rxl_core::error::{Exit, Failure};
use rxl_core::save_format::Format;

/// A file under way, under a name of its own in the directory where it is to be. Dropping it
/// removes it.
pub struct Unfinished {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl Unfinished {
    /// Makes sure that `path` may be written, and begins. What is there already stays until
    /// [`Unfinished::put_in_place`].
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::internal(path.display(), &e).next("nothing was begun");
        // Through a link, it is the file behind it that is replaced.
        let path = match path.canonicalize() {
            Ok(existing) if existing.is_file() => existing,
            Ok(_) => {
                let what = format!("{} is not a file", path.display());
                return Err(Failure::new(Exit::Usage, what)
                    .next("give the name of a file, new or to be replaced"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(failed(error)),
        };
        let name =
            path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?.to_owned();
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(&name);
        let temporary =
            tempfile::Builder::new().prefix(&prefix).suffix(".part").tempfile_in(directory(&path));
        Ok(Self { temporary: temporary.map_err(failed)?, path })
    }

    /// Writes what comes before the stream.
    pub fn write_head(&mut self, format: Format, config_json: &str) -> Result<(), Failure> {
        let mut head = Vec::new();
        match format {
            Format::Rxl => {
                let header = savefile::Header::new(config_json).map_err(|e| self.failed(&e))?;
                head.extend_from_slice(&header.to_bytes());
                head.extend_from_slice(config_json.as_bytes());
            }
            Format::Plain => {
                writer::xl_header(&mut head, config_json).map_err(|e| self.failed(&e))?
            }
        }
        self.temporary.write_all(&head).map_err(|e| self.failed(&e))
    }

    /// A handle to write the stream with, after the head.
    pub fn stream(&self) -> Result<File, Failure> {
        self.temporary.as_file().try_clone().map_err(|e| self.failed(&e))
    }

    /// Its length so far, in bytes.
    pub fn length(&self) -> Result<u64, Failure> {
        self.temporary
            .as_file()
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(|e| self.failed(&e))
    }

    /// The file that it is to become.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that it is until then.
    pub fn unfinished_path(&self) -> &Path {
        self.temporary.path()
    }

    /// What has been written is on the disk then.
    pub fn flush(&self) -> Result<(), Failure> {
        self.temporary.as_file().sync_all().map_err(|e| self.failed(&e))
    }

    /// Under its name, then that on the disk.
    pub fn put_in_place(self) -> Result<(), Failure> {
        let Self { temporary, path } = self;
        let failed = |e: &dyn std::fmt::Display| failed(&path, e);
        temporary.persist(&path).map_err(|e| failed(&e.error))?;
        File::open(directory(&path))
            .and_then(|directory| directory.sync_all())
            .map_err(|e| failed(&e))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Failure {
        failed(&self.path, error)
    }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Internal, format!("{}: {error}", path.display()))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_and_replaces_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dom3.save");
        std::fs::write(&path, "old").unwrap();
        let mut file = Unfinished::create(&path).unwrap();
        file.write_head(Format::Plain, "{}").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        file.put_in_place().unwrap();
        assert!(std::fs::read(&path).unwrap().starts_with(b"Xen saved domain"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_left_of_one_that_was_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = Unfinished::create(&directory.path().join("dom3.save")).unwrap();
        file.write_head(Format::Rxl, "{}").unwrap();
        assert!(file.write_head(Format::Rxl, "").is_err());
        drop(file);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_files_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("target", &link).unwrap();
        std::fs::write(directory.path().join("target"), "old").unwrap();
        Unfinished::create(&link).unwrap().put_in_place().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&link).unwrap(), b"");
        for path in
            [Path::new("/dev/null"), directory.path(), &directory.path().join("missing/dom3.save")]
        {
            assert!(Unfinished::create(path).is_err(), "{}", path.display());
        }
    }
}
