//! A domain's configuration from an xl configuration file (`-C`).

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::string::FromUtf8Error;

use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;

#[derive(Debug, thiserror::Error)]
enum ConfigError {
    #[error("no such file")]
    Missing,
    #[error("cannot run xl: {0}")]
    NoXl(#[source] io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("xl printed no text: {0}")]
    NotText(#[source] FromUtf8Error),
    #[error("xl printed no configuration: {0}")]
    NotJson(#[source] serde_json::Error),
    #[error("xl printed no configuration")]
    NotAnObject,
}

/// Turns an xl configuration file into libxl's JSON. xl itself reads it: the syntax is xl's own,
/// not libxl's, and a second reader would differ somewhere. A dry run changes nothing on the host.
pub fn to_json(path: &Path) -> Result<String, Failure> {
    read(path).map_err(|error| {
        let what = format!("configuration {}: {error}", path.display());
        let failure = Failure::new(Exit::Usage, what).caused_by(error);
        failure.next("`xl create --dryrun FILE` must accept it")
    })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    if !path.is_file() {
        return Err(ConfigError::Missing);
    }
    let output = Command::new("xl")
        .args(["create", "--quiet", "--dryrun"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(ConfigError::NoXl)?;
    printed(output)
}

fn printed(output: Output) -> Result<String, ConfigError> {
    if !output.status.success() {
        return Err(ConfigError::Refused(one_line(&String::from_utf8_lossy(&output.stderr))));
    }
    let json = String::from_utf8(output.stdout).map_err(ConfigError::NotText)?;
    match serde_json::from_str(&json).map_err(ConfigError::NotJson)? {
        serde_json::Value::Object(_) => Ok(json),
        _ => Err(ConfigError::NotAnObject),
    }
}
