//! What a receiver's host is left with, for the test that started it.

use std::path::Path;

use rxl_testkit::memory::MemoryHost;

/// Writes DIR/outcome.json, whole or not at all.
pub fn leave_outcome(dir: &Path, host: &MemoryHost, failure: Option<String>) {
    let domains: Vec<_> = host
        .domains()
        .into_iter()
        .map(|kept| {
            let stream = kept.stream.unwrap_or_default();
            let state = format!("{:?}", kept.domain.state);
            serde_json::json!({"name": kept.domain.name, "state": state, "stream": stream})
        })
        .collect();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
    let outcome = serde_json::json!({"domains": domains, "failure": failure, "peak": peak});
    std::fs::write(dir.join("outcome.part"), outcome.to_string()).unwrap();
    std::fs::rename(dir.join("outcome.part"), dir.join("outcome.json")).unwrap();
}
