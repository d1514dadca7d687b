//! The cache of built parts: images, and the golden snapshot.
//!
//! A part lives in `<cache>/<part>-<hash>`, where the hash covers its recipe and, through their
//! hashes, the parts it builds on; so a change rebuilds what it touches and no more. A directory of
//! that name is complete: it is built under another name, with a lock held, and renamed at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::process::wait_for;

/// Longest wait for another process that builds the same part.
const LOCK_LIMIT: Duration = Duration::from_secs(3600);

/// A part that nobody used for this long is removed.
const UNUSED_LIMIT: Duration = Duration::from_secs(14 * 24 * 3600);

const HASH_DIGITS: usize = 12;

/// The cache's directory.
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `RXL_LAB_CACHE`, or `rxl-lab` in the user's cache directory; creates it where needed.
    pub(crate) fn open() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let root = variable("RXL_LAB_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("rxl-lab")))
            .or_else(|| variable("HOME").map(|dir| dir.join(".cache/rxl-lab")))
            .context("neither RXL_LAB_CACHE nor XDG_CACHE_HOME nor HOME is set")?;
        Self::at(root)
    }

    fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
        Ok(Self { root: root.canonicalize()? })
    }

    /// Where the parts are.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a part, built by `build` into the directory that it is given, if it is not
    /// there yet.
    pub(crate) fn part(
        &self,
        part: &str,
        hash: &str,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let finished = self.root.join(format!("{part}-{hash}"));
        if !finished.is_dir() {
            let _lock = self.lock(part)?;
            if !finished.is_dir() {
                self.build_in_place(&finished, build)
                    .with_context(|| format!("building the lab's part {part}"))?;
            }
        }
        note_use(&finished)?;
        Ok(finished)
    }

    fn build_in_place(
        &self,
        finished: &Path,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let unfinished = finished.with_extension("unfinished");
        remove(&unfinished)?;
        fs::create_dir(&unfinished)
            .with_context(|| format!("creating {}", unfinished.display()))?;
        build(&unfinished)?;
        fs::rename(&unfinished, finished)
            .with_context(|| format!("renaming to {}", finished.display()))
    }

    fn lock(&self, part: &str) -> Result<Flock<File>> {
        let path = self.root.join(format!("{part}.lock"));
        let open = || File::create(&path).with_context(|| format!("opening {}", path.display()));
        wait_for(&format!("the lock {}", path.display()), LOCK_LIMIT, || {
            Ok(Flock::lock(open()?, FlockArg::LockExclusiveNonblock).ok())
        })
    }

    /// Removes the directories of `part` that were not used for two weeks.
    pub(crate) fn prune(&self, part: &str) -> Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let of_part = entry.file_name().to_string_lossy().starts_with(&format!("{part}-"));
            let last_use = entry.metadata()?.modified()?;
            if of_part
                && entry.path().is_dir()
                && last_use.elapsed().is_ok_and(|unused| unused > UNUSED_LIMIT)
            {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn note_use(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|file| file.set_modified(SystemTime::now()))
        .with_context(|| dir.display().to_string())
}

/// Removes a directory and all in it, if it is there.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Hash of a recipe: words, and the names and contents of files; a directory stands for all files
/// in it. Lines of comment in Rust and shell do not count: to word one better rebuilds nothing.
pub(crate) fn recipe_hash(words: &[&str], files: &[PathBuf]) -> Result<String> {
    let mut hasher = Sha256::new();
    for word in words {
        hash_field(&mut hasher, word.as_bytes());
    }
    for file in files {
        hash_path(&mut hasher, file)?;
    }
    let digest = hasher.finalize();
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digits[..HASH_DIGITS].to_owned())
}

fn hash_path(hasher: &mut Sha256, path: &Path) -> Result<()> {
    let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
    hash_field(hasher, name.as_encoded_bytes());
    if path.is_dir() {
        let mut entries =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| hash_path(hasher, entry));
    }
    if !path.is_file() {
        bail!("{} is no file", path.display());
    }
    let contents = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    hash_field(hasher, &without_comments(path, contents));
    Ok(())
}

fn without_comments(path: &Path, contents: Vec<u8>) -> Vec<u8> {
    let comment = match path.extension().and_then(|extension| extension.to_str()) {
        Some("rs") => "//",
        Some("sh") => "#",
        _ => return contents,
    };
    let Ok(text) = str::from_utf8(&contents) else { return contents };
    text.split_inclusive('\n')
        .filter(|line| !line.trim_start().starts_with(comment))
        .collect::<String>()
        .into_bytes()
}

/// Lengths keep "ab" + "c" apart from "a" + "bc".
fn hash_field(hasher: &mut Sha256, field: &[u8]) {
    hasher.update((field.len() as u64).to_le_bytes());
    hasher.update(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(Cache);

    impl Scratch {
        fn new(name: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("rxl-lab-cache-{name}-{}", std::process::id()));
            remove(&root).unwrap();
            Self(Cache::at(root).unwrap())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            remove(self.0.root()).unwrap();
        }
    }

    #[test]
    fn a_part_is_built_once() {
        let scratch = Scratch::new("once");
        let mut built = 0;
        for _ in 0..2 {
            let dir = scratch
                .0
                .part("disk", "1", |dir| {
                    built += 1;
                    Ok(fs::write(dir.join("image"), "x")?)
                })
                .unwrap();
            assert!(dir.join("image").is_file());
        }
        assert_eq!(built, 1);
    }

    #[test]
    fn a_failed_build_leaves_nothing_that_passes_for_complete() {
        let scratch = Scratch::new("failed");
        let failed = scratch.0.part("disk", "1", |dir| {
            fs::write(dir.join("image"), "half")?;
            bail!("interrupted")
        });
        assert!(failed.is_err());
        let dir = scratch
            .0
            .part("disk", "1", |dir| {
                assert!(!dir.join("image").exists(), "starts afresh");
                Ok(())
            })
            .unwrap();
        assert!(!dir.join("image").exists());
    }

    #[test]
    fn unused_parts_are_pruned() {
        let scratch = Scratch::new("prune");
        let old = scratch.0.part("disk", "1", |_| Ok(())).unwrap();
        let new = scratch.0.part("disk", "2", |_| Ok(())).unwrap();
        File::open(&old).unwrap().set_modified(SystemTime::now() - UNUSED_LIMIT * 2).unwrap();
        let foreign = scratch.0.root().join("other-1");
        fs::create_dir(&foreign).unwrap();
        File::open(&foreign).unwrap().set_modified(SystemTime::now() - UNUSED_LIMIT * 2).unwrap();
        scratch.0.prune("disk").unwrap();
        assert!(!old.exists() && new.exists() && foreign.exists());
    }

    #[test]
    fn the_hash_leaves_comments_out_where_it_knows_them() {
        let scratch = Scratch::new("comments");
        let hash = |name: &str, text: &str| {
            let file = scratch.0.root().join(name);
            fs::write(&file, text).unwrap();
            recipe_hash(&[], &[file]).unwrap()
        };
        assert_eq!(hash("a.rs", "/// One.\nlet a = 1;\n"), hash("a.rs", "let a = 1;\n"));
        assert_eq!(hash("a.sh", "  # One.\na=1\n"), hash("a.sh", "a=1\n"));
        assert_ne!(hash("a.sh", "a=1 # One.\n"), hash("a.sh", "a=1\n"));
        assert_ne!(hash("a.cfg", "# One.\na=1\n"), hash("a.cfg", "a=1\n"));
    }

    #[test]
    fn the_hash_covers_names_contents_and_words() {
        let scratch = Scratch::new("hash");
        let file = scratch.0.root().join("recipe");
        let hash = |words: &[&str]| recipe_hash(words, &[scratch.0.root().to_owned()]).unwrap();
        fs::write(&file, "one").unwrap();
        let first = hash(&["w"]);
        assert_eq!(first, hash(&["w"]));
        assert_ne!(first, hash(&["v"]));
        fs::write(&file, "two").unwrap();
        assert_ne!(first, hash(&["w"]));
        fs::write(&file, "one").unwrap();
        fs::rename(&file, scratch.0.root().join("renamed")).unwrap();
        assert_ne!(first, hash(&["w"]));
    }
}
