//! What `rxl stream` says, on how many lines, and how it ends.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use migrate_stream::libxc::{PageData, RecordType};
use migrate_stream::reader::Place;
use serde_json::Value;

use crate::pieces::{captured, cut, shortened, unpacked};
use rxl_core::error::Exit;

pub fn rxl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rxl"));
    command.args(arguments).env_remove("RXL_LOG").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    rxl(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A file with these bytes, for as long as the second lives.
fn file(bytes: &[u8]) -> (String, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, bytes).unwrap();
    (file.path().to_str().unwrap().to_owned(), file)
}

/// The one line that a failure leaves on standard error.
fn failure(output: &Output, exit: Exit) -> &str {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit.code().into()), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("rxl: "), "{said}");
    said
}

/// The figures that `inspect` should give, counted without it.
fn counted(path: &Path) -> (u64, u64, u64, u64) {
    let (mut named, mut contents, mut zero, mut different) = (0, 0, 0, HashSet::new());
    for piece in cut(&unpacked(path))
        .iter()
        .filter(|piece| piece.place == Place::Libxc(RecordType::PageData))
    {
        for page in PageData::parse(&piece.bytes[8..]).unwrap().pages() {
            named += 1;
            let Some(page) = page.contents else { continue };
            contents += 1;
            if page.iter().all(|&byte| byte == 0) {
                zero += 1;
            } else {
                different.insert(*page);
            }
        }
    }
    (named, contents, zero, contents - zero - different.len() as u64)
}

/// libvirt's header and XML, then the same libxl stream as behind xl's.
#[test]
fn what_libvirt_saved_is_inspected_and_verified_and_not_restored() {
    let xl = unpacked(&captured()[0]);
    let optional = u32::from_le_bytes(xl[44..48].try_into().unwrap()) as usize;
    let xml = b"<domain type='xen'>\n  <name>dom3</name>\n</domain>\n\0";
    let header = migrate_stream::libvirt::Header { xml_len: xml.len() as u32 }.to_bytes();
    let bytes = [&header, &xml[..], &xl[48 + optional..]].concat();
    let (name, _file) = file(&bytes);
    let inspected = run(&["stream", "inspect", "--json", &name]);
    assert!(inspected.status.success(), "{inspected:?}");
    let said = json(&inspected);
    assert_eq!(said["format"], "libvirt save file");
    assert!(text(&inspected.stdout).contains("\"dom3\""), "{said}");
    let verified = run(&["stream", "verify", &name]);
    assert!(verified.status.success(), "{verified:?}");
    let (cut, _file) = file(&bytes[..bytes.len() - 8]);
    let cut = run(&["stream", "verify", &cut]);
    assert_eq!(cut.status.code(), Some(Exit::BadStream.code().into()));
    let restored = rxl_inspect::savefile::saved::Saved::open(Path::new(&name)).err().unwrap();
    assert!(restored.to_string().contains("`virsh restore"), "{restored}");
}

#[test]
fn inspect_counts_what_is_there() {
    for path in captured() {
        let bytes = unpacked(&path);
        let (name, _file) = file(&bytes);
        let output = run(&["stream", "inspect", "--json", &name]);
        let said = json(&output);
        assert!(output.status.success() && output.stderr.is_empty());
        assert_eq!(
            (&said["schema"], &said["format"]),
            (&"rxl-stream-inspect/1".into(), &"xl save file".into())
        );
        assert_eq!(said["bytes"], bytes.len());
        let pv = path.to_string_lossy().contains("pv-");
        assert_eq!(said["config"]["name"], if pv { "small-pv" } else { "small" });
        assert_eq!(said["config"]["type"], if pv { "pv" } else { "pvh" });
        assert_eq!(said["libxc"]["domain-type"], if pv { "x86 PV" } else { "x86 HVM" });
        assert_eq!(said["libxc"]["xen-version"], "4.17");
        let (named, contents, zero, repeated) = counted(&path);
        let pages = &said["pages"];
        assert_eq!((&pages["named"], &pages["with-contents"]), (&named.into(), &contents.into()));
        assert_eq!((&pages["zero"], &pages["repeated"]["pages"]), (&zero.into(), &repeated.into()));
        assert_eq!(pages["repeated"]["exact"], true);
        assert_eq!(said["passes"].as_array().unwrap().len(), 1);
        assert_eq!(said["passes"][0]["zero"], zero);
    }
}

#[test]
fn records_add_up_to_the_whole_stream() {
    for path in captured() {
        let bytes = unpacked(&path);
        let (name, _file) = file(&bytes);
        let said = json(&run(&["stream", "inspect", "--json", &name]));
        let headers = 48 + said["xl"]["optional-data"].as_u64().unwrap() + 16 + 24 + 16;
        for list in ["totals", "runs"] {
            let sizes =
                said[list].as_array().unwrap().iter().map(|entry| entry["bytes"].as_u64().unwrap());
            assert_eq!(sizes.sum::<u64>() + headers, bytes.len() as u64, "{list}");
        }
        let pieces = cut(&bytes);
        let records = said["totals"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["records"].as_u64().unwrap());
        // Beside the records there are four headers.
        assert_eq!(records.sum::<u64>() + 4, pieces.len() as u64);
    }
}

#[test]
fn compression_is_estimated_well() {
    for path in captured() {
        let bytes = unpacked(&path);
        let (name, _file) = file(&bytes);
        let said = json(&run(&["stream", "inspect", "--json", &name]));
        let estimate = said["compression"]["frame-bytes"].as_f64().unwrap();
        let zstd = zstd::bulk::compress(&bytes, 1).unwrap().len() as f64;
        assert!(
            (0.8..1.25).contains(&(estimate / zstd)),
            "{estimate} estimated, zstd alone makes {zstd}"
        );
    }
}

#[test]
fn a_pipe_is_as_good_as_a_file() {
    let bytes = unpacked(&captured()[0]);
    let (name, file) = file(&bytes);
    for command in ["inspect", "verify"] {
        let from_file = run(&["stream", command, "--json", &name]);
        let mut cat = Command::new("cat").arg(file.path()).stdout(Stdio::piped()).spawn().unwrap();
        let from_pipe = rxl(&["stream", command, "--json", "-"])
            .stdin(cat.stdout.take().unwrap())
            .output()
            .unwrap();
        assert!(cat.wait().unwrap().success() && from_pipe.status.success());
        assert_eq!(text(&from_file.stdout), text(&from_pipe.stdout));
    }
}

#[test]
fn bare_streams_are_known_by_their_first_bytes() {
    let xl = shortened(&unpacked(&captured()[0]));
    for (stream, format) in
        [(xl.libxl(), "libxl stream"), (xl.libxc(), "libxc stream"), (xl, "xl save file")]
    {
        let (name, _file) = file(&stream.bytes());
        for command in ["inspect", "verify"] {
            let said = json(&run(&["stream", command, "--json", &name]));
            assert_eq!(said["format"], format);
            assert_eq!(said["errors"], 0);
        }
    }
}

#[test]
fn the_text_tells_the_same() {
    for path in captured() {
        let (name, _file) = file(&unpacked(&path));
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("memory.ppm");
        let output =
            run(&["stream", "inspect", "--map", "--map-image", image.to_str().unwrap(), &name]);
        let said = text(&output.stdout);
        for wanted in [
            "xl save file",
            "domain small",
            "saved by Xen 4.17",
            "PAGE_DATA",
            "iteration",
            "zstd level 1",
            "█",
        ] {
            assert!(said.contains(wanted), "{wanted:?} is missing from:\n{said}");
        }
        assert!(
            said.lines().count() < 100 && said.lines().all(|line| line.chars().count() < 160),
            "{said}"
        );
        let image = std::fs::read(image).unwrap();
        assert!(image.starts_with(b"P6\n256 "));
    }
}

#[test]
fn every_damage_is_told_with_its_place() {
    let path = &captured()[0];
    let mut stream = shortened(&unpacked(path));
    let mut damaged = Vec::new();
    let mut offset = 0;
    for piece in &mut stream.list {
        if piece.place == Place::Libxc(RecordType::PageData) {
            // Reserved bits of the first pfn: the length of what follows is still known.
            piece.bytes[8 + 8 + 6] |= 0x30;
            damaged.push((offset, "reserved-bits"));
        } else if piece.place == Place::Libxc(RecordType::X86TscInfo) {
            piece.bytes[8 + 20] = 1;
            damaged.push((offset, "reserved-bits"));
        }
        offset += piece.bytes.len();
    }
    let (name, _file) = file(&stream.bytes());
    let output = run(&["stream", "verify", "--json", &name]);
    let first = damaged[0].0;
    assert!(
        failure(&output, Exit::BadStream)
            .contains(&format!("libxc record PAGE_DATA at byte {first}: reserved"))
    );
    let said = json(&output);
    assert_eq!((&said["verdict"], &said["errors"]), (&"refused".into(), &damaged.len().into()));
    let findings = said["findings"].as_array().unwrap();
    let errors: Vec<&Value> =
        findings.iter().filter(|finding| finding["severity"] == "error").collect();
    // The like are told once, with how often they came.
    assert_eq!(errors[0]["times"], damaged.len() - 1);
    assert_eq!(errors[1]["offset"], damaged.last().unwrap().0);
    assert_eq!(errors[1]["record"], "libxc record X86_TSC_INFO");
}

#[test]
fn a_cut_stream_is_shown_as_far_as_it_goes() {
    let mut bytes = shortened(&unpacked(&captured()[0])).bytes();
    bytes.truncate(bytes.len() - 3);
    let (name, _file) = file(&bytes);
    for command in ["inspect", "verify"] {
        let output = run(&["stream", command, "--json", &name]);
        let said = failure(&output, Exit::BadStream);
        assert!(
            said.contains(&format!("the stream ends at byte {}, 3 bytes", bytes.len())),
            "{said}"
        );
        assert_eq!(json(&output)["bytes"], bytes.len() as u64 - 5, "as far as headers were whole");
    }
    let output = run(&["stream", "inspect", &name]);
    assert!(text(&output.stdout).contains("PAGE_DATA"));
}

#[test]
fn what_follows_the_end_is_only_odd() {
    let mut bytes = shortened(&unpacked(&captured()[0])).bytes();
    bytes.extend_from_slice(b"domain is yours");
    let (name, _file) = file(&bytes);
    let output = run(&["stream", "verify", &name]);
    assert!(
        output.status.success() && text(&output.stdout).contains("15 bytes follow"),
        "{output:?}"
    );
}

#[test]
fn what_is_no_stream_is_refused_in_one_line() {
    for (bytes, wanted) in [
        (&b""[..], "neither"),
        (b"hello, world\n", "neither"),
        (b"Xen ", "neither"),
        (&[0; 5000], "neither"),
    ] {
        let (name, _file) = file(bytes);
        for command in ["inspect", "verify"] {
            let output = run(&["stream", command, &name]);
            assert!(failure(&output, Exit::BadStream).contains(wanted));
        }
    }
    for missing in ["/no/such/file", "/"] {
        let output = run(&["stream", "inspect", missing]);
        assert!(!output.status.success() && text(&output.stderr).contains(missing), "{output:?}");
    }
}

#[test]
fn every_help_has_every_exit_code() {
    for arguments in
        [&["stream", "--help"][..], &["stream", "inspect", "--help"], &["stream", "verify", "-h"]]
    {
        let output = run(arguments);
        for (exit, meaning) in Exit::TABLE {
            let line = format!("  {:>2}  {meaning}", exit.code());
            assert!(
                text(&output.stdout).lines().any(|l| l == line),
                "{arguments:?} lacks {line:?}"
            );
        }
    }
}
