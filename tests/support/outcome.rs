//! What a receiver's host is left with, for the test that started it.

use std::path::Path;

use rxl_core::domain::{GuestType, RunState};
use rxl_host::host::Host;
use rxl_testkit::memory::{Guest, MemoryHost};

/// Takes the domains of a receiver that has ended into a host; its failure. None where it has not
/// ended.
#[allow(dead_code, reason = "not every receiver is asked about what it has left")]
pub fn take_up(dir: &Path, host: &MemoryHost) -> Option<Option<String>> {
    let outcome = std::fs::read_to_string(dir.join("outcome.json")).ok()?;
    let outcome: serde_json::Value = serde_json::from_str(&outcome).unwrap();
    for domain in outcome["domains"].as_array().unwrap() {
        let guest = Guest { pages: 1, zero_per_256: 0, dirty: Vec::new(), endless: false, seed: 0 };
        let domid = host.start(domain["name"].as_str().unwrap(), GuestType::Pvh, guest);
        let state = match domain["state"].as_str().unwrap() {
            "Paused" => RunState::Paused,
            _ => RunState::Running,
        };
        host.set_state(domid, state);
        if let Some(mark) = domain["mark"].as_str() {
            host.mark(domid, mark).unwrap();
        }
    }
    Some(outcome["failure"].as_str().map(str::to_owned))
}

/// Writes DIR/outcome.json, whole or not at all.
pub fn leave_outcome(dir: &Path, host: &MemoryHost, failure: Option<String>) {
    let watchers = host.watchers();
    let domains: Vec<_> = host
        .domains()
        .into_iter()
        .map(|kept| {
            let stream = kept.stream.unwrap_or_default();
            let state = format!("{:?}", kept.domain.state);
            let (name, mark) = (kept.domain.name, kept.mark);
            let watched = watchers.contains(&kept.domain.domid);
            serde_json::json!({
                "name": name, "state": state, "stream": stream, "mark": mark, "watched": watched,
            })
        })
        .collect();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
    let outcome = serde_json::json!({"domains": domains, "failure": failure, "peak": peak});
    std::fs::write(dir.join("outcome.part"), outcome.to_string()).unwrap();
    std::fs::rename(dir.join("outcome.part"), dir.join("outcome.json")).unwrap();
}
