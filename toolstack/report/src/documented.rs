//! docs/report.md describes every field of the JSON form.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::mpi::{Direction, MpiDomain, MpiPart};
use crate::schema::{
    ChecksumPart, CompressionPart, DomainPart, IterationPart, JudgedPart, PrecopyPart, RamPart,
    Report, SCHEMA, Status, TransportPart,
};
use crate::timeline::Timeline;
use rxl_core::level::Level;
use rxl_core::steering::Restorer;
use rxl_core::target_spans::TargetSpans;
use rxl_datapath::iterations::Iteration;
use rxl_precopy::policy::Measured;

/// The fields of a report as paths of two names at most: the part, and the field in it at any
/// depth.
fn fields(report: &Map<String, Value>) -> BTreeSet<(String, Option<String>)> {
    fn names(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => object.iter().for_each(|(name, value)| {
                found.push(name.clone());
                names(value, found);
            }),
            Value::Array(list) => list.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }
    let mut fields = BTreeSet::new();
    for (part, value) in report {
        let mut inner = Vec::new();
        names(value, &mut inner);
        fields.insert((part.clone(), None));
        fields.extend(inner.into_iter().map(|name| (part.clone(), Some(name))));
    }
    fields
}

/// Whether the page has the field in code quotes: as `part.field`, or as `field` in the section
/// that has the part in its heading.
fn is_described(page: &str, part: &str, field: Option<&str>) -> bool {
    let Some(field) = field else {
        return ["`", "."].iter().any(|end| page.contains(&format!("`{part}{end}")));
    };
    let heading = format!("`{part}`");
    let described = |section: &str| {
        let has_part = section.lines().next().is_some_and(|first| first.contains(&heading));
        has_part && section.contains(&format!("`{field}`"))
    };
    page.contains(&format!("`{part}.{field}`")) || page.split("\n### ").any(described)
}

fn iteration(began: Instant) -> Iteration {
    Iteration {
        number: 0,
        dirty: Some(1),
        suspended: true,
        pfns: 1,
        pages: 1,
        zero_pages: 0,
        raw_bytes: 4096,
        wire_bytes: 100,
        began,
        ended: began + Duration::from_millis(1),
    }
}

fn mpi() -> MpiPart {
    let end = "10.0.0.1:1024".parse().unwrap();
    let direction = Direction {
        from: end,
        to: end,
        acked: 1,
        received: Some(1),
        unacked: 0,
        notsent: 0,
        unread: Some(0),
        agrees: true,
    };
    MpiPart {
        domains: vec![MpiDomain { name: "dom3".into(), host: "nodeA".into(), ranks: vec![0] }],
        gang: vec!["dom3".into(), "dom4".into()],
        cut: vec![direction],
        ..MpiPart::new(Level::Job, 1, vec!["1".into()], "openmpi".into(), 2)
    }
}

fn timeline(began: Instant) -> Timeline {
    let all = Some(began);
    Timeline {
        began,
        saving: all,
        suspend_asked: all,
        acknowledged: all,
        suspended: all,
        last_page: all,
        stream_end: all,
        ready: all,
        go: all,
        done: all,
    }
}

fn target() -> TargetSpans {
    TargetSpans {
        domid: 1,
        restorer: Restorer::Rxl,
        restore_total: 1.0,
        restore_after_stream: 1.0,
        resume: 1.0,
        frames_verified: 1,
    }
}

/// A report in which nothing is left out.
fn full_report() -> Report {
    let began = Instant::now();
    let timeline = timeline(began);
    let measured = Measured {
        iterations: 1,
        dirty: 1,
        pages_per_second: Some(1.0),
        elapsed: Duration::from_millis(1),
    };
    Report {
        schema: SCHEMA,
        status: Status::Failed,
        error: Some("it broke".into()),
        migration_id: "00".repeat(16),
        domain: DomainPart {
            name: "dom3".into(),
            guest_type: "pvh".into(),
            source_domid: 1,
            target_host: "nodeB".into(),
        },
        total_time: 1.0,
        setup_time: timeline.setup(),
        downtime: timeline.downtime(),
        downtime_split: timeline.split(),
        target: Some(target()),
        ram: RamPart::new(&[iteration(began)], 1, 1, 1),
        precopy: PrecopyPart {
            judged: vec![JudgedPart::new(&measured)],
            ..PrecopyPart::new(Duration::from_millis(300))
        },
        mpi: Some(mpi()),
        iterations: vec![IterationPart::new(&iteration(began))],
        compression: CompressionPart::default(),
        checksum: ChecksumPart::default(),
        transport: TransportPart::default(),
    }
}

#[test]
fn the_page_describes_every_field() {
    let page = include_str!("../../../docs/report.md");
    // The example names every field without a word about it.
    let (page, _example) = page.split_once("\n## Example").unwrap();
    let Value::Object(report) = serde_json::to_value(full_report()).unwrap() else { panic!() };
    let fields = fields(&report);
    let missing: Vec<_> =
        fields.iter().filter(|(part, field)| !is_described(page, part, field.as_deref())).collect();
    assert!(missing.is_empty(), "docs/report.md does not describe {missing:?}");
    assert!(fields.len() > 90, "only {} fields were looked for", fields.len());
}

#[test]
fn an_undescribed_field_is_noticed() {
    let page = "\n### `ram`\n| `total` | bytes |\n### `mpi`\n| `level` |";
    assert!(is_described(page, "ram", Some("total")) && is_described(page, "ram", None));
    assert!(!is_described(page, "mpi", Some("total")) && !is_described(page, "cpu", None));
}
