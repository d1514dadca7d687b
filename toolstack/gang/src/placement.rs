//! Which domains go where: `DOMAIN... HOST`, or `DOMAIN:HOST...`.

use std::collections::BTreeSet;

use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;
use rxl_link::ssh::Route;

/// A domain and its target, as the user named them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The domain's name or number on this host.
    pub domain: String,
    /// The target as ssh knows it.
    pub host: String,
}

/// Reads the command line's words, of which there are two at least. Hosts are taken apart at a
/// pair's first colon, so they may have colons themselves; a domain whose name has one is named by
/// its number there.
pub fn placements(words: &[String], ssh_command: Option<&str>) -> Result<Vec<Placement>, Failure> {
    let Some((last, domains)) = words.split_last() else { return Ok(Vec::new()) };
    let to_last = |domain: &String| Placement { domain: domain.clone(), host: last.clone() };
    let pairs: Option<Vec<Placement>> = words.iter().map(|word| pair(word)).collect();
    let placements = match pairs {
        Some(pairs) if ssh_command != Some("") => pairs,
        _ if is_mixed(domains, last, ssh_command) => return Err(mixed(words)),
        _ => domains.iter().map(to_last).collect(),
    };
    let mut named = BTreeSet::new();
    match placements.iter().find(|placement| !named.insert(placement.domain.as_str())) {
        Some(twice) => Err(usage(
            &format!("{} is named twice", one_line(&twice.domain)),
            "name each domain once",
        )),
        None => Ok(placements),
    }
}

fn pair(word: &str) -> Option<Placement> {
    let (domain, host) =
        word.split_once(':').filter(|(domain, host)| !domain.is_empty() && !host.is_empty())?;
    // ssh://HOST:PORT is a host to ssh.
    (!host.starts_with("//")).then(|| Placement { domain: domain.into(), host: host.into() })
}

/// Pairs among domains without a host of their own. A single domain and its target may both be
/// named as they always could.
fn is_mixed(domains: &[String], last: &str, ssh_command: Option<&str>) -> bool {
    let looks_like_pair = |word: &str| pair(word).is_some() && word.matches(':').count() == 1;
    let several = domains.len() > 1 && domains.iter().any(|domain| pair(domain).is_some());
    several || (ssh_command.is_none() && looks_like_pair(last))
}

fn mixed(all: &[String]) -> Failure {
    let what = format!("'{}' mixes DOMAIN... HOST and DOMAIN:HOST...", one_line(&all.join(" ")));
    usage(&what, "give every domain its host, or all of them one at the end")
}

fn usage(what: &str, next: &str) -> Failure {
    Failure::new(Exit::Usage, what).next(next)
}

/// The targets, each once, in their order; and each placement's place among them.
pub fn targets(
    placements: &[Placement],
    ssh_command: Option<&str>,
) -> Result<(Vec<Route>, Vec<usize>), Failure> {
    let (mut routes, mut places) = (Vec::new(), Vec::new());
    for placement in placements {
        let route = Route::new(ssh_command, &placement.host)?;
        places.push(routes.iter().position(|known| *known == route).unwrap_or(routes.len()));
        if places.last() == Some(&routes.len()) {
            routes.push(route);
        }
    }
    Ok((routes, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, ssh_command: Option<&str>) -> Result<String, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let placements = placements(&words, ssh_command).map_err(|failure| {
            assert_eq!(
                (failure.exit, failure.to_string().lines().count()),
                (Exit::Usage, 1),
                "{failure}"
            );
            failure.what
        })?;
        Ok(placements
            .iter()
            .map(|p| format!("{}>{}", p.domain, p.host))
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn domains_and_hosts_are_told_apart() {
        for (line, expected) in [
            ("dom3 nodeB", "dom3>nodeB"),
            ("dom3 root@nodeB", "dom3>root@nodeB"),
            ("dom3 ssh://nodeB:2222", "dom3>ssh://nodeB:2222"),
            ("dom3 fe80::1", "dom3>fe80::1"),
            ("a:b nodeB", "a:b>nodeB"),
            ("dom3 dom4 nodeB", "dom3>nodeB dom4>nodeB"),
            ("dom3 dom4 root@[fe80::1]", "dom3>root@[fe80::1] dom4>root@[fe80::1]"),
            ("dom3:nodeB dom4:nodeC", "dom3>nodeB dom4>nodeC"),
            ("3:root@[fe80::1] dom4:ssh://nodeC:22", "3>root@[fe80::1] dom4>ssh://nodeC:22"),
        ] {
            assert_eq!(read(line, None).as_deref(), Ok(expected), "{line}");
        }
        assert_eq!(
            read("dom3 localhost:2222", Some("my-ssh")).as_deref(),
            Ok("dom3>localhost:2222")
        );
        assert_eq!(read("a:b c:d", Some("")).as_deref(), Ok("a:b>c:d"), "-s '': the whole command");
    }

    #[test]
    fn what_is_mixed_or_doubled_is_said_in_one_line() {
        for line in [
            "dom3:nodeB dom4 nodeC",
            "dom3 dom4:nodeB nodeC",
            "dom3 dom4:nodeC",
            "dom3 dom4 dom5:nodeC",
        ] {
            assert!(read(line, None).unwrap_err().contains("mixes"), "{line}");
        }
        for line in ["dom3 dom3 nodeB", "dom3:nodeB dom3:nodeC"] {
            assert!(read(line, None).unwrap_err().contains("dom3 is named twice"), "{line}");
        }
    }

    #[test]
    fn a_target_is_reached_once() {
        let placed =
            |domain: &str, host: &str| Placement { domain: domain.into(), host: host.into() };
        let all = [placed("1", "nodeB"), placed("2", "nodeC"), placed("3", "nodeB")];
        let (routes, places) = targets(&all, None).unwrap();
        assert_eq!(routes.iter().map(Route::host).collect::<Vec<_>>(), ["nodeB", "nodeC"]);
        assert_eq!(places, [0, 1, 0]);
        assert_eq!(targets(&[placed("1", "-x")], None).unwrap_err().exit, Exit::Usage);
    }
}
