//! A domain's configuration from a file (`-C`).

use std::path::Path;
use std::process::{Command, Stdio};

use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;

/// Turns an xl configuration file into libxl's JSON. xl itself reads it: the syntax is xl's own,
/// not libxl's, and a second reader would differ somewhere. A dry run changes nothing on the host.
pub fn from_xl_file(path: &Path) -> Result<String, Failure> {
    let failed = |what: String| {
        Failure::new(Exit::Usage, format!("configuration {}: {what}", path.display()))
            .next("`xl create --dryrun FILE` must accept it")
    };
    if !path.is_file() {
        return Err(failed("no such file".into()));
    }
    let output = Command::new("xl")
        .args(["create", "--quiet", "--dryrun"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(format!("cannot run xl: {e}")))?;
    if !output.status.success() {
        return Err(failed(one_line(&String::from_utf8_lossy(&output.stderr))));
    }
    let json = String::from_utf8(output.stdout).map_err(|e| failed(e.to_string()))?;
    match serde_json::from_str::<serde_json::Value>(&json) {
        Ok(serde_json::Value::Object(_)) => Ok(json),
        Ok(_) => Err(failed("xl printed no configuration".into())),
        Err(error) => Err(failed(format!("xl printed no configuration: {error}"))),
    }
}
