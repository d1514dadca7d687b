//! `rxl jobs`: the MPI jobs in the domains of all hosts of the cluster.

use std::path::Path;

use crate::arguments::Jobs;
use crate::standard_io::{print, print_json};
use rxl_core::error::Failure;
use rxl_core::level::Level;
use rxl_quiesce::cluster::{CLUSTER_FILE, agents};
use rxl_quiesce::jobs;

pub fn run(options: &Jobs) -> Result<(), Failure> {
    let agents = agents(Level::Job, &[], Path::new(CLUSTER_FILE))?;
    if let Some(domain) = &options.explain {
        let found = jobs::explain(&agents.hosts, domain)?;
        if options.json {
            return print_json("jobs", &found);
        }
        print(&jobs::explanations(&found));
        return Ok(());
    }
    let found = jobs::list(&agents.hosts)?;
    if options.json {
        return print_json("jobs", &found);
    }
    print(&jobs::table(&found));
    Ok(())
}
