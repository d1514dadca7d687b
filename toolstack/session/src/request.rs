//! What a migration is asked to do.

use std::net::IpAddr;
use std::time::Duration;

use rxl_core::level::Level;
use rxl_core::peer::{Peer, Transport};
use rxl_core::steering::{Restorer, SaveFlags, Walker};
use rxl_datapath::packing::Packing;
use rxl_link::ssh::Route;
use rxl_precopy::policy::Limits;
use rxl_recover::Asking;

/// What the user of `rxl migrate` asked for.
#[derive(Clone, Debug)]
pub struct MigrationRequest {
    /// Name or number.
    pub domain: String,
    /// How the target is reached.
    pub route: Route,
    /// Another configuration, as libxl's JSON.
    pub config_json: Option<String>,
    /// Copy memory while the guest runs, verify it.
    pub flags: SaveFlags,
    /// The domain is not to run at the target yet (`-p`).
    pub leave_paused: bool,
    /// The domain keeps its number (`-D`).
    pub preserve_domid: bool,
    /// What the target runs.
    pub peer: Peer,
    /// No process is left there that waits for the domain's end (`-e`).
    pub no_monitor: bool,
    /// Every check is made, and nothing is moved.
    pub dry_run: bool,
    /// How data travels.
    pub transport: Transport,
    /// On how many connections.
    pub connections: u16,
    /// The target's address for data over TCP, where it is not the one that ssh uses.
    pub data_address: Option<IpAddr>,
    /// How pages are packed.
    pub packing: Packing,
    /// Silence after which the target is dead.
    pub patience: Duration,
    /// Who walks over the memory.
    pub walker: Walker,
    /// Who fills the new domain's memory, if the target can choose.
    pub restorer: Restorer,
    /// Who of the domain's MPI job is held still meanwhile.
    pub quiesce: Level,
    /// How the target is asked when its answer to GO does not come.
    pub asking: Asking,
    /// When pre-copy ends. With [`rxl_precopy::policy::Otherwise::Cancel`] its timeout holds until
    /// Commit.
    pub limits: Limits,
}
