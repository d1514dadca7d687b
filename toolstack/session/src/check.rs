//! What is checked before anything is begun, on either side.

use std::path::Path;

use rxl_core::domain::{Domain, GuestType, HostFacts, RunState};
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::names::INCOMING;
use rxl_core::permitted::{PERMITTED_FILE, Permitted};
use rxl_core::text::one_line;
use rxl_host::host::Host;
use rxl_link::control::{Accept, Offer, Refusal};

/// Longest domain name taken from a peer, in bytes. Xen's tools give no limit; xenstore's smallest
/// value limit is 1 KiB.
const MAX_NAME: usize = 256;

/// What to do about too little memory.
pub const FREE_SOME: &str =
    "free some: `xl list` shows who has it, `xl mem-set Domain-0 SIZE` shrinks dom0";

/// libxl's name of a guest type.
pub fn type_name(guest_type: GuestType) -> &'static str {
    match guest_type {
        GuestType::Pv => "pv",
        GuestType::Pvh => "pvh",
        GuestType::Hvm => "hvm",
    }
}

/// May this domain leave, in this way?
pub fn at_source(domain: &Domain, facts: &HostFacts, live: bool) -> Result<(), Failure> {
    check_state(domain)?;
    if live { check_log_dirty(domain, facts) } else { Ok(()) }
}

/// May a domain of this configuration leave this host?
pub fn may_leave(name: &str, config_json: &str) -> Result<(), Failure> {
    let config = parse(name, config_json)?;
    check_vnuma(name, &config)?;
    let Some(device) = config.pci_devices().first() else { return Ok(()) };
    let what = format!("{name} has the PCI device {device}, which stays where it is");
    Err(Failure::new(Exit::GuestUnsupported, what)
        .next(format!("`xl pci-detach {name} {device}` first")))
}

/// May it be written down at all? libxl says so when it is about to (libxl_dom_save.c:
/// libxl__domain_save).
pub fn may_be_saved(name: &str, config_json: &str) -> Result<(), Failure> {
    check_vnuma(name, &parse(name, config_json)?)
}

fn parse(name: &str, config_json: &str) -> Result<DomainConfig, Failure> {
    DomainConfig::parse(config_json).map_err(|error| {
        Failure::new(Exit::Internal, format!("the configuration of {name} {error}"))
    })
}

fn check_vnuma(name: &str, config: &DomainConfig) -> Result<(), Failure> {
    if !config.has_vnuma() {
        return Ok(());
    }
    let what = format!("{name} has virtual NUMA nodes, which no stream of libxl's can describe");
    let next = format!(
        "start it without `vnuma` in its configuration, and {name} can be saved and migrated"
    );
    Err(Failure::new(Exit::GuestUnsupported, what).next(next))
}

fn check_state(domain: &Domain) -> Result<(), Failure> {
    let Domain { name, domid, state, .. } = domain;
    let (what, next) = match state {
        RunState::Running => return Ok(()),
        RunState::Paused => {
            ("is paused and cannot answer a suspend request", format!("`xl unpause {name}` first"))
        }
        RunState::Suspended => {
            ("is suspended already", format!("`xl resume {name}` to run it on here"))
        }
        RunState::Shutdown => {
            ("has shut down", format!("`xl destroy {domid}` gives its memory back"))
        }
        RunState::Dying => ("is being destroyed", "there is nothing left to migrate".into()),
    };
    Err(Failure::new(Exit::DomainState, format!("{name} {what}")).next(next))
}

/// Live migration needs Xen's log-dirty mode: shadow paging for PV, hardware-assisted paging for
/// the others.
fn check_log_dirty(domain: &Domain, facts: &HostFacts) -> Result<(), Failure> {
    let missing = match domain.guest_type {
        GuestType::Pv if !facts.shadow_paging => {
            "it is a PV guest, and this Xen is built without shadow paging"
        }
        GuestType::Pvh | GuestType::Hvm if !facts.hap => {
            "this Xen runs without hardware-assisted paging"
        }
        _ => return Ok(()),
    };
    let what = format!("{} cannot be migrated live: {missing}", domain.name);
    Err(Failure::new(Exit::GuestUnsupported, what)
        .next("--non-live suspends it first and then moves it"))
}

/// A domain that wants to come, as far as the checks need to know it.
pub struct Arrival<'a> {
    pub name: &'a str,
    /// Its configuration, libxl's JSON.
    pub config_json: &'a str,
    /// The Xen it comes from, `MAJOR.MINOR`, where that is told.
    pub xen_version: Option<&'a str>,
}

impl<'a> From<&'a Offer> for Arrival<'a> {
    fn from(offer: &'a Offer) -> Self {
        Self {
            name: &offer.name,
            config_json: &offer.config_json,
            xen_version: Some(&offer.xen_version),
        }
    }
}

/// Will this host take that domain? Nothing is begun here.
pub fn at_target(host: &dyn Host, arrival: &Arrival<'_>) -> Result<Accept, Refusal> {
    check_name(arrival.name)?;
    for name in [arrival.name.to_owned(), format!("{}{INCOMING}", arrival.name)] {
        check_free(host, &name)?;
    }
    let facts = host.facts().map_err(|error| refusal(error.to_string(), None))?;
    check_version(arrival, &facts)?;
    let config = configuration(arrival)?;
    check_permitted(&config, Path::new(PERMITTED_FILE))?;
    let needed = host.memory_needed(&config).map_err(|error| refusal(error.to_string(), None))?;
    check_memory(arrival, needed, &facts)?;
    Ok(Accept { port: None, address: None, free_memory_kib: facts.free_memory_kib })
}

fn refusal(what: String, next: Option<String>) -> Refusal {
    Refusal { what, next }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let good = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.contains('/')
        && !name.chars().any(char::is_control);
    if good {
        Ok(())
    } else {
        Err(refusal(format!("'{}' is not a domain's name", one_line(name)), None))
    }
}

fn check_free(host: &dyn Host, name: &str) -> Result<(), Refusal> {
    match host.find(name) {
        Err(HostError::NoSuchDomain(_)) => Ok(()),
        Err(error) => Err(refusal(error.to_string(), None)),
        Ok(domain) => {
            let next = if name.ends_with(INCOMING) {
                "another migration is bringing it, or one that died left it: see `xl list` there"
                    .into()
            } else {
                format!("rename one of the two: `xl rename {name} NEW-NAME`")
            };
            Err(refusal(
                format!("a domain named {name} is there already (number {})", domain.domid),
                Some(next),
            ))
        }
    }
}

/// Xen takes streams of its own and of earlier versions.
fn check_version(arrival: &Arrival<'_>, facts: &HostFacts) -> Result<(), Refusal> {
    let parse = |version: &str| -> Option<(u32, u32)> {
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let Some(theirs) = arrival.xen_version else { return Ok(()) };
    match (parse(theirs), parse(&facts.xen_version)) {
        (Some(source), Some(target)) if source > target => {
            let what = format!(
                "Xen {} there is older than Xen {} here",
                facts.xen_version,
                one_line(theirs)
            );
            Err(refusal(
                what,
                Some("Xen restores domains of its own and of earlier versions only".into()),
            ))
        }
        _ => Ok(()),
    }
}

fn configuration(arrival: &Arrival<'_>) -> Result<DomainConfig, Refusal> {
    let name = one_line(arrival.name);
    DomainConfig::parse(arrival.config_json)
        .map_err(|error| refusal(format!("the configuration of {name} {error}"), None))
}

/// The source is not to run programs of its choice here.
fn check_permitted(config: &DomainConfig, file: &Path) -> Result<(), Refusal> {
    let permitted = match std::fs::read_to_string(file) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            let what = format!("{}: {}", file.display(), one_line(error.message()));
            refusal(what, Some("rxl-receive(1) says what it may hold".into()))
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Permitted::default(),
        Err(error) => return Err(refusal(format!("{}: {error}", file.display()), None)),
    };
    permitted.check(config).map_err(|error| {
        let next = format!("{} there can permit it, see rxl-receive(1)", file.display());
        refusal(error.to_string(), Some(next))
    })
}

/// What the domain will take is what libxl of this host says, as xl goes by it before it makes a
/// domain: the guest's memory target, which a balloon may hold far below its maximum, with what
/// libxl adds (libxl_mem.c: libxl_domain_need_memory).
fn check_memory(arrival: &Arrival<'_>, needed: u64, facts: &HostFacts) -> Result<(), Refusal> {
    if needed <= facts.free_memory_kib || facts.autoballoon {
        return Ok(());
    }
    let what = format!(
        "{} needs {} MiB there, and {} MiB are free",
        one_line(arrival.name),
        needed.div_ceil(1024),
        facts.free_memory_kib / 1024
    );
    Err(refusal(what, Some(FREE_SOME.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rxl_core::domain::DomId;

    fn domain(guest_type: GuestType, state: RunState) -> Domain {
        Domain {
            domid: DomId(3),
            name: "dom3".into(),
            guest_type,
            state,
            max_memory_kib: 4096,
            vcpus: 1,
        }
    }

    fn facts() -> HostFacts {
        HostFacts {
            xen_version: "4.17".into(),
            free_memory_kib: 1 << 20,
            autoballoon: false,
            shadow_paging: false,
            hap: true,
        }
    }

    #[test]
    fn only_a_running_domain_leaves() {
        for state in [RunState::Paused, RunState::Dying, RunState::Shutdown, RunState::Suspended] {
            let failure = at_source(&domain(GuestType::Pvh, state), &facts(), true).unwrap_err();
            assert_eq!(failure.exit, Exit::DomainState);
            assert!(failure.next.is_some());
        }
        at_source(&domain(GuestType::Pvh, RunState::Running), &facts(), true).unwrap();
    }

    #[test]
    fn a_pv_guest_without_shadow_paging_is_offered_the_other_way() {
        let pv = domain(GuestType::Pv, RunState::Running);
        let failure = at_source(&pv, &facts(), true).unwrap_err();
        assert_eq!(failure.exit, Exit::GuestUnsupported);
        assert!(failure.to_string().contains("--non-live"), "{failure}");
        at_source(&pv, &facts(), false).unwrap();
    }

    #[test]
    fn what_cannot_be_taken_along_is_named_before_anything_is_begun() {
        let plain =
            r#"{"c_info":{"name":"dom3"},"b_info":{"max_vcpus":1},"disks":[{"vdev":"xvda"}]}"#;
        may_leave("dom3", plain).unwrap();
        let device = r#"{"dev":2,"bus":3,"func":1,"domain":0,"msitranslate":false}"#;
        let pci = &format!(r#"{{"b_info":{{}},"pcidevs":[{device}]}}"#);
        let failure = may_leave("dom3", pci).unwrap_err();
        assert_eq!(failure.exit, Exit::GuestUnsupported);
        assert!(
            failure.to_string().contains("`xl pci-detach dom3 0000:03:02.1` first"),
            "{failure}"
        );
        may_be_saved("dom3", pci).unwrap();
        let vnuma = r#"{"b_info":{"vnuma_nodes":[{"memkb":1024,"vcpus":[0]}]}}"#;
        for failure in
            [may_leave("dom3", vnuma).unwrap_err(), may_be_saved("dom3", vnuma).unwrap_err()]
        {
            assert!(
                failure.exit == Exit::GuestUnsupported && failure.what.contains("NUMA"),
                "{failure}"
            );
        }
        assert_eq!(may_leave("dom3", "no").unwrap_err().exit, Exit::Internal);
    }

    #[test]
    fn memory_must_be_free_unless_dom0_gives_it() {
        let arrival = Arrival { name: "dom3", config_json: "{}", xen_version: Some("4.17") };
        let needed = 1_064_000;
        let refusal = check_memory(&arrival, needed, &facts()).unwrap_err();
        assert_eq!(refusal.what, "dom3 needs 1040 MiB there, and 1024 MiB are free");
        check_memory(&arrival, needed, &HostFacts { autoballoon: true, ..facts() }).unwrap();
        check_memory(&arrival, needed, &HostFacts { free_memory_kib: needed, ..facts() }).unwrap();
    }

    #[test]
    fn a_configuration_from_the_wire_names_no_program_of_its_own() {
        let evil = DomainConfig::parse(r#"{"nics":[{"script":"/tmp/evil"}]}"#).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [Path::new("/nonexistent/receive.toml"), file.path()] {
            let refusal = check_permitted(&evil, path).unwrap_err();
            assert!(refusal.what.contains("nics[0].script is '/tmp/evil'"), "{}", refusal.what);
        }
        let serial = r#"{"b_info":{"type.hvm":{"serial":"file:/var/log/a"}}}"#;
        let serial = DomainConfig::parse(serial).unwrap();
        std::fs::write(file.path(), "arguments = true\nfiles = [\"/dev/vg0\"]\n").unwrap();
        check_permitted(&serial, file.path()).unwrap();
        std::fs::write(file.path(), "argument = true").unwrap();
        let refusal = check_permitted(&serial, file.path()).unwrap_err();
        assert!(refusal.what.contains("unknown field `argument`"), "{}", refusal.what);
    }

    #[test]
    fn a_name_from_the_wire_cannot_be_a_path() {
        for name in ["", "a/b", "a\nb", &"x".repeat(300)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("dom3").unwrap();
    }
}
