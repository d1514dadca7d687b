//! `lab`: the nested Xen hosts from the command line.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use rxl_lab::{Host, Lab, Life, Node, Options};

const COPY_LIMIT: Duration = Duration::from_secs(600);

/// Nested Xen hosts in QEMU.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build the images and the golden snapshot.
    Build,
    /// Start the hosts from the golden snapshot.
    Up {
        #[command(flatten)]
        lab: Name,
        /// Also start a third host, nodeC, on which no guest runs yet.
        #[arg(long)]
        third: bool,
    },
    /// Look after a lab until it ends (started by `up`).
    #[command(hide = true)]
    Watch(Name),
    /// End the hosts and forget what they wrote.
    Down(Name),
    /// List the labs that are up and their domains.
    Status,
    /// Open a shell, or run a command, on a host, dom3 or dom4.
    Ssh {
        #[command(flatten)]
        lab: Name,
        /// nodeA, nodeB, nodeC, dom3 or dom4.
        host: String,
        /// The command; a shell where none is given.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Copy a file to a host.
    Put {
        #[command(flatten)]
        lab: Name,
        /// The local file.
        file: PathBuf,
        /// The host and the path there, as HOST:PATH.
        target: String,
    },
    /// Copy a host's file here.
    Get {
        #[command(flatten)]
        lab: Name,
        /// The host and the path there, as HOST:PATH.
        source: String,
        /// The local file.
        file: PathBuf,
    },
    /// Write the hosts' logs to a directory.
    Logs {
        #[command(flatten)]
        lab: Name,
        /// Where the logs go; created where it is missing.
        dir: PathBuf,
    },
}

#[derive(clap::Args)]
struct Name {
    /// Which lab, where there are several.
    #[arg(long, default_value = "default")]
    name: String,
}

impl Name {
    fn connect(&self) -> Result<Lab> {
        Lab::connect(&self.name)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let start = Instant::now();
    match Arguments::parse().command {
        Action::Build => {
            rxl_lab::build()?;
            tell_time("built", start);
        }
        Action::Up { lab, third } => {
            let nodes: &[Node] = if third { &Node::THREE } else { &Node::PAIR };
            Lab::up(Options {
                name: Some(lab.name.clone()),
                life: Life::Detached,
                keep_logs: None,
                nodes,
            })?;
            start_watch(&lab.name)?;
            tell_time("up", start);
        }
        Action::Watch(lab) => Lab::watch(&lab.name)?,
        Action::Down(lab) => lab.connect()?.down()?,
        Action::Status => status()?,
        Action::Ssh { lab, host, command } => {
            return ssh(&find_host(&lab.connect()?, &host)?, &command);
        }
        Action::Put { lab, file, target } => {
            let (host, path) = split_target(&target)?;
            find_host(&lab.connect()?, host)?.put(&file, path, COPY_LIMIT)?;
        }
        Action::Get { lab, source, file } => {
            let (host, path) = split_target(&source)?;
            find_host(&lab.connect()?, host)?.get(path, &file, COPY_LIMIT)?;
        }
        Action::Logs { lab, dir } => lab.connect()?.collect_logs(Path::new(&dir))?,
    }
    Ok(())
}

/// A process of its own, which ends with the lab's QEMUs.
fn start_watch(name: &str) -> Result<()> {
    let mut watch = Command::new(std::env::current_exe()?);
    watch.args(["watch", "--name", name]).process_group(0);
    watch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    watch.spawn().context("starting the watchdog").map(drop)
}

fn tell_time(what: &str, start: Instant) {
    println!("{what} in {:.1} s", start.elapsed().as_secs_f64());
}

fn status() -> Result<()> {
    for name in rxl_lab::names()? {
        println!("{name}");
        let lab = Lab::connect(&name)?;
        for node in lab.nodes() {
            for domain in lab.domains(*node)? {
                println!("  {node} {:>3} {} {}", domain.domid, domain.state, domain.name);
            }
        }
    }
    Ok(())
}

/// Replaces this process by ssh.
fn ssh(host: &Host, command: &[String]) -> Result<()> {
    let mut ssh = host.ssh();
    if command.is_empty() {
        ssh.arg("-t").arg("exec bash -l");
    } else {
        ssh.args(command);
    }
    Err(ssh.exec()).context("starting ssh")
}

fn find_host(lab: &Lab, name: &str) -> Result<Host> {
    match lab.nodes().iter().find(|node| node.name() == name) {
        Some(node) => Ok(lab.node(*node).clone()),
        None => lab.guest(name),
    }
}

fn split_target(target: &str) -> Result<(&str, &str)> {
    match target.split_once(':') {
        Some((host, path)) if !path.is_empty() => Ok((host, path)),
        _ => bail!("{target}: expected HOST:PATH"),
    }
}
