//! Whatever stands in a guest's nodes: a value that is understood is written back as it was read,
//! and is no longer than a node may be. The first byte chooses the node.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use rxl_agent_protocol::{
    AgentInfo, Command, Connection, JobRow, Lease, MAX_VALUE, State, Unclaimed, audit, pack, unpack,
};

fn read<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let again = value.to_string();
    assert!(again.len() <= MAX_VALUE, "{again}");
    assert!(again.parse().is_ok_and(|same: T| same == value), "{again}");
}

fn read_cut(text: &str) {
    let Ok(cut) = unpack(text) else { return };
    audit(&cut);
    let (chunks, left_out) = pack(&cut);
    assert_eq!(left_out, 0, "one chunk was read");
    let again: Vec<Connection> = chunks.iter().flat_map(|chunk| unpack(chunk).unwrap()).collect();
    assert_eq!(again, cut);
}

fuzz_target!(|data: &[u8]| {
    let Some((&node, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match node % 7 {
        0 => read::<AgentInfo>(text),
        1 => read::<State>(text),
        2 => read::<JobRow>(text),
        3 => read::<Unclaimed>(text),
        4 => read::<Command>(text),
        5 => read::<Lease>(text),
        _ => read_cut(text),
    }
});
