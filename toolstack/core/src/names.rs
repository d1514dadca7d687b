//! Names of domains that are on their way, and of their locks.

/// Bytes of a name that go into its lock's file name, which may have 255.
const MAX_LOCK_KEY: usize = 120;

/// Suffix of a domain that is being received, as xl's.
pub const INCOMING: &str = "--incoming";

/// Suffix of a domain that has been given away, as xl's.
pub const MIGRATED_AWAY: &str = "--migratedaway";

/// A domain's name as part of a file's name: it was not checked yet.
pub fn lock_key(name: &str) -> String {
    name.bytes().take(MAX_LOCK_KEY).map(|byte| format!("{byte:02x}")).collect()
}
