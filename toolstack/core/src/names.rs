//! The names of domains during a migration, and of their locks.

/// Most bytes of a domain's name in its lock's file name. Each becomes two characters, of which a
/// file's name may have 255.
const MAX_LOCK_KEY: usize = 120;

/// Suffix of the name of a domain that is being received; the same as xl's.
pub const INCOMING: &str = "--incoming";

/// Suffix of the name of a domain that has been given away; the same as xl's.
pub const MIGRATED_AWAY: &str = "--migratedaway";

/// Suffix of the name of a domain that is being booted again after a loss of power, until it is
/// complete.
pub const BOOTING: &str = "--booting";

/// A domain's name in a form that is safe as part of a file's name. The name comes from a peer or a
/// file, and may hold anything.
pub fn lock_key(name: &str) -> String {
    name.bytes().take(MAX_LOCK_KEY).map(|byte| format!("{byte:02x}")).collect()
}
