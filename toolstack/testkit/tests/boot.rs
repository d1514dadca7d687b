//! A domain that is booted over a host in memory is what its configuration says.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use rxl_core::domain::RunState;
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_host::host::Host;
use rxl_testkit::memory::{Faults, MemoryHost};

#[test]
fn a_booted_domain_is_paused_and_keeps_its_configuration() {
    let host = MemoryHost::new(1 << 20);
    let json = r#"{"c_info":{"name":"dom3"},"b_info":{"max_memkb":4096},"on_reboot":"restart"}"#;
    let config = DomainConfig::parse(json).unwrap();
    host.set_faults(Faults { boot: true, ..Faults::default() });
    assert!(host.boot(&config).is_err());
    host.set_faults(Faults::default());
    let domid = host.boot(&config).unwrap();
    assert!(matches!(host.boot(&config), Err(HostError::NameTaken(name)) if name == "dom3"));
    assert_eq!(host.domain(domid).unwrap().state, RunState::Paused);
    host.unpause(domid).unwrap();
    assert_eq!(host.domain(domid).unwrap().state, RunState::Running);
    let booted = host.config_json(domid).unwrap();
    assert!(booted.contains(r#""on_reboot":"restart""#), "{booted}");
    assert!(booted.contains(r#""max_memkb":4096"#), "{booted}");
}
