//! `rxl-save-helper`: started by libxl in its own save helper's place. See `rxl_host::save_helper`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    rxl_host::save_helper::helper::run(&arguments)
}
