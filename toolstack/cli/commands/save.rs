//! `rxl save`: saves a domain to a file.

use crate::arguments::Save;
use crate::{signals, standard_io};
use rxl_core::error::Failure;
use rxl_core::save_format::Format;
use rxl_core::state_dir::StateDir;
use rxl_core::units::bytes;
use rxl_datapath::packing::Packing;
use rxl_host::libxl::LibxlHost;
use rxl_session::events::Events;
use rxl_session::job::reach_agents;
use rxl_session::savefile::save::{self, After};

pub fn run(options: &Save) -> Result<(), Failure> {
    let events = Events::default();
    signals::watch(events.sender())?;
    let host = LibxlHost::new().map_err(Failure::from)?;
    let agents = reach_agents(options.mpi_quiesce, &[])?;
    let saved = save::save(&host, &StateDir::system(), &request(options), agents, &events)?;
    let (name, written, file) = (&saved.domain.name, &saved.written, options.file.display());
    let digest =
        written.digest.as_ref().map_or_else(String::new, |digest| format!(", digest {digest}"));
    let (file_size, stream_size) = (bytes(written.file_bytes), bytes(written.stream_bytes));
    standard_io::print(&format!("{name} saved in {file}: {file_size} of {stream_size}{digest}\n"));
    if let Some(mpi) = &saved.mpi {
        standard_io::print(&format!("  {}\n", mpi.describe()));
    }
    Ok(())
}

fn request(options: &Save) -> save::SaveRequest {
    save::SaveRequest {
        domain: options.domain.clone(),
        path: options.file.clone(),
        format: if options.plain { Format::Plain } else { Format::Rxl },
        after: match (options.checkpoint, options.paused) {
            (true, _) => After::Run,
            (_, true) => After::Pause,
            _ => After::Destroy,
        },
        packing: Packing {
            compress: true,
            level: options.zstd_level,
            threads: Packing::default_threads(),
        },
        quiesce: options.mpi_quiesce,
    }
}
