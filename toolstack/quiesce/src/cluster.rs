//! `/etc/rxl/cluster.toml`: which hosts a job's domains may be on.
//!
//! ```toml
//! # As ssh knows them, seen from each of them.
//! hosts = ["nodeA", "nodeB"]
//! ```

use std::path::Path;

use serde::Deserialize;

use crate::nodes::{LocalNodes, Nodes};
use crate::remote::RemoteNodes;
use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;
use rxl_link::ssh::Route;

/// Where it is.
pub const CLUSTER_FILE: &str = "/etc/rxl/cluster.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    hosts: Vec<String>,
}

/// A host whose agents can be reached.
pub struct AgentHost {
    /// As the user or the file names it; this host's own name for this one.
    pub name: String,
    /// Its nodes.
    pub nodes: Box<dyn Nodes>,
}

/// Other hosts that the file names; none where there is no file.
pub fn other_hosts(file: &Path) -> Result<Vec<String>, Failure> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::internal(file.display(), &error)),
    };
    let cluster: Cluster = toml::from_str(&text).map_err(|error| {
        let what = format!("{}: {}", file.display(), one_line(error.message()));
        Failure::new(Exit::Usage, what).next("it holds one line: hosts = [\"nodeA\", \"nodeB\"]")
    })?;
    if let Some(bad) = cluster.hosts.iter().find(|host| host.is_empty() || host.starts_with('-')) {
        return Err(Failure::new(
            Exit::Usage,
            format!("{}: '{}' is not a host", file.display(), one_line(bad)),
        ));
    }
    let here = own_name();
    let is_here = |host: &String| *host == here || host.split('.').next() == here.split('.').next();
    Ok(cluster.hosts.into_iter().filter(|host| !is_here(host)).collect())
}

/// This host's name.
pub fn own_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "this host".into())
}

/// This host first, then the targets in their order, then the file's others. The ssh connections
/// are being made meanwhile.
pub fn agent_hosts(targets: &[Route], file: &Path) -> Result<Vec<AgentHost>, Failure> {
    let nodes = LocalNodes::connect().map_err(|line| Failure::new(Exit::NoXen, line))?;
    let mut hosts = vec![AgentHost { name: own_name(), nodes: Box::new(nodes) }];
    let others = other_hosts(file)?;
    let known: Vec<&str> = targets.iter().filter_map(Route::address).collect();
    for route in targets {
        hosts.push(AgentHost {
            name: route.host().into(),
            nodes: Box::new(RemoteNodes::start(route)?),
        });
    }
    for name in others.into_iter().filter(|name| !known.contains(&name.as_str())) {
        let nodes = Box::new(RemoteNodes::start(&Route::new(None, &name)?)?);
        hosts.push(AgentHost { name, nodes });
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts_in(text: &str) -> Result<Vec<String>, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        other_hosts(file.path())
    }

    #[test]
    fn the_file_names_hosts_but_this_one() {
        let text = format!("hosts = [\"node-a\", \"{}\", \"node-b.example\"]", own_name());
        assert_eq!(hosts_in(&text).unwrap(), ["node-a", "node-b.example"]);
        assert_eq!(
            other_hosts(Path::new("/nonexistent/cluster.toml")).unwrap(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_wrong_with_it_is_said_in_one_line() {
        for text in
            ["hosts = 3", "host = []", "hosts = [\"-oProxyCommand=x\"]", "hosts = [\"\"]", "]["]
        {
            let failure = hosts_in(text).unwrap_err();
            assert_eq!(
                (failure.exit, failure.to_string().lines().count()),
                (Exit::Usage, 1),
                "{text}: {failure}"
            );
        }
    }
}
