//! Builds the images by the recipes in `images/`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, recipe_hash};
use crate::process::{Reaped, check};
use crate::qemu::Parts;

const RECIPE_LIMIT: Duration = Duration::from_secs(1800);
const TOOLS_LIMIT: Duration = Duration::from_secs(900);

/// A part made by `images/NAME.sh`.
struct Recipe {
    name: &'static str,
    /// Parts that it builds on; they come before it in [`RECIPES`].
    after: &'static [&'static str],
    /// Further inputs, relative to this crate.
    inputs: &'static [&'static str],
}

const RECIPES: [Recipe; 6] = [
    Recipe { name: "key", after: &[], inputs: &[] },
    Recipe { name: "base", after: &[], inputs: &[] },
    Recipe {
        name: "programs",
        after: &[],
        inputs: &[
            "../guest/memcheck/src",
            "../guest/mpi-ring.c",
            "../guest/mpi-audit.c",
            "../guest/mpi-hold.c",
        ],
    },
    Recipe {
        name: "dom0",
        after: &["key", "base"],
        inputs: &[
            "images/files/dom0",
            "images/files/hosts",
            "images/files/ssh_config",
            "images/files/sshd_config",
        ],
    },
    Recipe {
        name: "big",
        after: &["key", "base"],
        inputs: &["images/files/hosts", "images/files/ssh_config", "images/files/sshd_config"],
    },
    Recipe {
        name: "boot",
        after: &["dom0", "programs"],
        inputs: &["images/files/init-small", "images/files/init-big"],
    },
];

/// The built images.
pub(crate) struct Images {
    /// What the hosts run on.
    pub(crate) parts: Parts,
    /// The private key that opens every host and guest.
    pub(crate) key: PathBuf,
    /// Stands for the contents of all of them.
    pub(crate) hash: String,
}

impl Images {
    /// Installs the tools and builds whatever the cache lacks.
    pub(crate) fn build(cache: &Cache) -> Result<Self> {
        let mut built: BTreeMap<&str, (String, PathBuf)> = BTreeMap::new();
        install_tools()?;
        for recipe in &RECIPES {
            let hash = recipe.hash(&built)?;
            let dir = cache.part(recipe.name, &hash, |out| recipe.run(out, &built))?;
            built.insert(recipe.name, (hash, dir));
        }
        let dir = |name: &str| built[name].1.clone();
        let hashes: Vec<&str> = built.values().map(|(hash, _)| hash.as_str()).collect();
        Ok(Self {
            parts: Parts { dom0: dir("dom0"), big: dir("big"), boot: dir("boot") },
            key: dir("key").join("id_ed25519"),
            hash: recipe_hash(&hashes, &[])?,
        })
    }
}

impl Recipe {
    fn script(&self) -> PathBuf {
        crate_path(&format!("images/{}.sh", self.name))
    }

    fn hash(&self, built: &BTreeMap<&str, (String, PathBuf)>) -> Result<String> {
        let words: Vec<&str> = self.after.iter().map(|&part| built[part].0.as_str()).collect();
        let mut files = vec![self.script(), crate_path("images/common.sh")];
        files.extend(self.inputs.iter().map(|input| crate_path(input)));
        recipe_hash(&words, &files)
    }

    fn run(&self, out: &Path, built: &BTreeMap<&str, (String, PathBuf)>) -> Result<()> {
        eprintln!("lab: building {}", self.name);
        let log_path = out.with_extension("log");
        let log =
            File::create(&log_path).with_context(|| format!("creating {}", log_path.display()))?;
        // In namespaces of its own a recipe leaves neither mounts nor processes behind, however it
        // ends.
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
                "bash",
            ])
            .arg(self.script())
            .arg(out)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        for &part in self.after {
            command.env(format!("RXL_LAB_{}", part.to_uppercase()), &built[part].1);
        }
        let status = Reaped::spawn(&mut command)?.wait_until(Instant::now() + RECIPE_LIMIT)?;
        if !status.is_some_and(|status| status.success()) {
            bail!("{} failed:\n{}", self.script().display(), tail(&log_path));
        }
        Ok(fs::remove_file(&log_path)?)
    }
}

/// Removes images that nobody used for two weeks.
pub(crate) fn prune(cache: &Cache) -> Result<()> {
    RECIPES.iter().try_for_each(|recipe| cache.prune(recipe.name))
}

/// Installs what building and running the lab takes; fast where all is there.
fn install_tools() -> Result<()> {
    check(Command::new("bash").arg(crate_path("images/deps.sh")), TOOLS_LIMIT).map(drop)
}

/// A path relative to this crate's directory.
pub(crate) fn crate_path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn tail(log: &Path) -> String {
    const LINES: usize = 30;
    let text =
        fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_has_its_files_and_comes_after_what_it_builds_on() {
        for (position, recipe) in RECIPES.iter().enumerate() {
            assert!(recipe.script().is_file(), "{}", recipe.name);
            for input in recipe.inputs {
                assert!(crate_path(input).exists(), "{input}");
            }
            for part in recipe.after {
                assert!(RECIPES[..position].iter().any(|earlier| earlier.name == *part), "{part}");
            }
        }
    }
}
