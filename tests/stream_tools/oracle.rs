//! Xen's verify-stream-v2, in one process for many streams.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The checker, running.
pub struct Oracle {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrate-stream/tests/oracle.sh");
        let mut child = Command::new(script)
            .arg("batch")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// What it says: `None` when it accepts the stream, else why not.
    pub fn refuses(&mut self, format: &str, stream: &[u8]) -> Option<String> {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{format} {}", stream.len()).unwrap();
        input.write_all(stream).unwrap();
        input.flush().unwrap();
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the checker ended");
        let (status, said) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        // 2 is its word for exceptions that it did not foresee, one of which it raises on purpose
        // (TOOLSTACK).
        match status {
            "0" => None,
            "1" | "2" => Some(said.to_owned()),
            other => panic!("the checker did not judge: {other} {said}"),
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
