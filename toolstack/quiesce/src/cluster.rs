//! `/etc/rxl/cluster.toml`: which hosts a job's domains may be on, and whose they are.
//!
//! ```toml
//! # As ssh knows them, seen from each of them.
//! hosts = ["nodeA", "nodeB"]
//!
//! # Ranks of one job are in domains of one owner. Without this table all domains have one.
//! [owners]
//! alice = ["alice-*"]
//! ```

use std::path::Path;

use serde::Deserialize;

use crate::host::AgentHost;
use crate::nodes::LocalNodes;
use crate::owners::Owners;
use rxl_core::error::{Exit, Failure};
use rxl_core::level::Level;
use rxl_core::text::one_line;
use rxl_link::ssh::Route;

/// Where the file is.
pub const CLUSTER_FILE: &str = "/etc/rxl/cluster.toml";

/// What the file says, without this host.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    hosts: Vec<String>,
    #[serde(default)]
    owners: Owners,
}

/// The hosts whose agents are asked, and whose their domains are.
pub struct Agents {
    /// This host first, then the targets in their order, then others. The ssh connections are being
    /// made meanwhile. A host may be there by several of its names.
    pub hosts: Vec<AgentHost>,
    /// The owners of the domains.
    pub owners: Owners,
}

/// Reads the file. Where there is none there are no other hosts.
fn read(file: &Path) -> Result<ClusterFile, Failure> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(ClusterFile::default());
        }
        Err(error) => return Err(Failure::internal(file.display(), &error)),
    };
    let mut cluster: ClusterFile = toml::from_str(&text).map_err(|error| {
        let what = format!("{}: {}", file.display(), one_line(error.message()));
        Failure::new(Exit::Usage, what).next("it holds a line like hosts = [\"nodeA\", \"nodeB\"]")
    })?;
    if let Some(bad) = cluster.hosts.iter().find(|host| host.is_empty() || host.starts_with('-')) {
        return Err(Failure::new(
            Exit::Usage,
            format!("{}: '{}' is not a host", file.display(), one_line(bad)),
        ));
    }
    // By another of its names this host is known later, by its answer.
    let here = own_name();
    let is_here = |host: &String| *host == here || host.split('.').next() == here.split('.').next();
    cluster.hosts.retain(|host| !is_here(host));
    Ok(cluster)
}

/// This host's name.
pub fn own_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "this host".into())
}

/// Whom a migration at this level asks. At level domain hosts but the targets do not matter.
pub fn agents(level: Level, targets: &[Route], file: &Path) -> Result<Agents, Failure> {
    let nodes = LocalNodes::connect()
        .map_err(|error| Failure::new(Exit::NoXen, error.to_string()).caused_by(error))?;
    let local = AgentHost::local(own_name(), Box::new(nodes));
    let mut hosts = vec![local.map_err(|error| Failure::internal("agents of this host", &error))?];
    let cluster = read(file)?;
    let known: Vec<&str> = targets.iter().filter_map(Route::address).collect();
    for route in targets {
        hosts.push(AgentHost::remote(route.host(), route)?);
    }
    let others = cluster.hosts.into_iter().filter(|name| !known.contains(&name.as_str()));
    for name in others.filter(|_| level != Level::Domain) {
        let route = Route::new(None, &name)?;
        hosts.push(AgentHost::remote(name, &route)?);
    }
    Ok(Agents { hosts, owners: cluster.owners })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts_in(text: &str) -> Result<Vec<String>, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map(|cluster| cluster.hosts)
    }

    #[test]
    fn the_file_names_hosts_but_this_one() {
        let text = format!("hosts = [\"node-a\", \"{}\", \"node-b.example\"]", own_name());
        assert_eq!(hosts_in(&text).unwrap(), ["node-a", "node-b.example"]);
        assert!(read(Path::new("/nonexistent/cluster.toml")).unwrap().hosts.is_empty());
    }

    #[test]
    fn what_is_wrong_with_it_is_said_in_one_line() {
        for text in [
            "hosts = 3",
            "host = []",
            "hosts = [\"-oProxyCommand=x\"]",
            "hosts = [\"\"]",
            "][",
            "hosts = []\nowners = 1",
            "hosts = []\n[owners]\nalice = [\"a[\"]",
        ] {
            let failure = hosts_in(text).unwrap_err();
            assert_eq!(
                (failure.exit, failure.to_string().lines().count()),
                (Exit::Usage, 1),
                "{text}: {failure}"
            );
        }
    }
}
