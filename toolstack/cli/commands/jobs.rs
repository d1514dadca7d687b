//! `rxl jobs`: the MPI jobs in the domains of all hosts of the cluster.

use std::path::Path;

use crate::arguments::Jobs;
use crate::standard_io::{print, print_json};
use rxl_core::error::Failure;
use rxl_quiesce::cluster::{CLUSTER_FILE, agent_hosts};
use rxl_quiesce::jobs;

pub fn run(options: &Jobs) -> Result<(), Failure> {
    let found = jobs::list(&mut agent_hosts(&[], Path::new(CLUSTER_FILE))?);
    if options.json {
        return print_json("jobs", &found);
    }
    print(&jobs::table(&found));
    Ok(())
}
