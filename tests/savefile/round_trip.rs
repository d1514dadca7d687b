//! What is saved comes back byte for byte, in both formats.

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::files::{captured, names, save};
use rxl_core::save_format::Format;
use rxl_inspect::savefile::saved::Saved;

#[test]
fn every_byte_comes_back() {
    for captured in captured() {
        for format in [Format::Rxl, Format::Plain] {
            let directory = tempfile::tempdir().unwrap();
            let path = save(directory.path(), format, &captured.config, captured.stream());
            assert_eq!(names(directory.path()), ["dom.save"]);
            let saved = Saved::open(&path).unwrap();
            assert_eq!((saved.format(), saved.config_json()), (format, captured.config.as_str()));
            saved.check().unwrap();
            let mut stream = Vec::new();
            saved.stream().unwrap().read_to_end(&mut stream).unwrap();
            assert!(stream == captured.stream(), "{format:?}");
        }
    }
}

#[test]
fn a_plain_file_is_xls_own_to_the_byte() {
    for captured in captured() {
        let directory = tempfile::tempdir().unwrap();
        let path = save(directory.path(), Format::Plain, &captured.config, captured.stream());
        assert!(std::fs::read(path).unwrap() == captured.file);
    }
}

fn rxl(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_rxl"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn rxls_files_are_looked_at_like_xls() {
    for captured in captured() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        std::fs::write(&plain, &captured.file).unwrap();
        let path = save(directory.path(), Format::Rxl, &captured.config, captured.stream());
        for command in ["inspect", "verify"] {
            let look = |path: &std::path::Path| {
                rxl(&["stream", command, "--json", path.to_str().unwrap()])
            };
            let (mut of_rxls, of_xls) = (look(&path), look(&plain));
            assert_eq!(of_rxls["container"].take(), "rxl save file");
            assert_eq!(of_rxls, of_xls);
            if command == "inspect" {
                let estimate = of_xls["compression"]["frame-bytes"].as_f64().unwrap();
                let made = std::fs::metadata(&path).unwrap().len() as f64;
                println!("{made} bytes, {estimate} estimated");
                assert!(
                    (0.8..1.25).contains(&(estimate / made)),
                    "{estimate} estimated, {made} made"
                );
            }
        }
    }
}
