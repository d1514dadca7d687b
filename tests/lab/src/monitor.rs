//! QEMU's monitor protocol (QMP) over a Unix socket.
//!
//! Snapshots have no synchronous QMP command in QEMU 7.2, so they and a few others go through
//! `human-monitor-command`, which answers with the text that the human monitor would print.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection to one QEMU.
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects and negotiates. QEMU answers only once its machine is set up.
    pub(crate) fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("QEMU's monitor {}", path.display()))?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.receive().context("QEMU's greeting")?;
        monitor.execute("qmp_capabilities", &Value::Null)?;
        Ok(monitor)
    }

    /// Runs a QMP command and returns its result.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = match arguments {
            Value::Null => json!({ "execute": command }),
            arguments => json!({ "execute": command, "arguments": arguments }),
        };
        writeln!(self.stream.get_mut(), "{request}")
            .with_context(|| format!("sending {command} to QEMU"))?;
        loop {
            let mut reply =
                self.receive().with_context(|| format!("QEMU's answer to {command}"))?;
            if let Some(result) = reply.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = reply.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
        }
    }

    /// Runs a command of the human monitor and returns what it printed.
    pub(crate) fn human(&mut self, line: &str) -> Result<String> {
        let result = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(result.as_str().unwrap_or_default().to_owned())
    }

    /// Runs a command of the human monitor that prints nothing unless it fails.
    pub(crate) fn human_silent(&mut self, line: &str) -> Result<()> {
        let printed = self.human(line)?;
        if !printed.trim().is_empty() {
            bail!("QEMU's {line}: {}", printed.trim());
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// The local port of the only TCP forwarding in the answer to `info usernet`.
pub(crate) fn forwarded_port(info_usernet: &str) -> Result<u16> {
    info_usernet
        .lines()
        .find(|line| line.contains("HOST_FORWARD"))
        .and_then(|line| line.split_ascii_whitespace().nth(3)?.parse().ok())
        .with_context(|| format!("QEMU forwards no port: {info_usernet}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_read() {
        let text = "Hub -1 (n0):\n  Protocol[State]    FD  Source Address  Port   Dest. \
                    Address  Port RecvQ SendQ\n  TCP[HOST_FORWARD]  15       127.0.0.1 \
                    35483       10.0.2.15    22     0     0\n";
        assert_eq!(forwarded_port(text).unwrap(), 35483);
        assert!(forwarded_port("").is_err());
    }
}
