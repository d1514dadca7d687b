//! A transport that flips a bit.

use anyhow::{Result, ensure};

use crate::cluster::{COMMAND, Cluster, MIGRATION};
use rxl_lab::Node;

/// `PERL PLACE CONDITION COMMAND...`: runs COMMAND with standard input passed on, one bit of the
/// byte at PLACE flipped where the first 64 bytes satisfy the condition.
const FLIP: &str = r#"#!/usr/bin/perl
use strict; use warnings;
my ($place, $rxl_data_only) = splice(@ARGV, 0, 2);
open(my $to, '|-', @ARGV) or die "cannot run @ARGV: $!";
binmode(STDIN); binmode($to); select((select($to), $| = 1)[0]);
my ($at, $flip) = (0, undef);
while (my $got = sysread(STDIN, my $piece, 65536)) {
    # Byte 10 of rxl's preamble is its purpose: 1 for data.
    $flip //= !$rxl_data_only || substr($piece, 10, 1) eq "\x01";
    if ($flip && $at <= $place && $place < $at + $got) {
        substr($piece, $place - $at, 1) ^= "\x01";
        print STDERR "flipped a bit at $place\n";
    }
    $at += $got;
    for (my $done = 0; $done < $got;) {
        my $written = syswrite($to, $piece, $got - $done, $done) or exit 1;
        $done += $written;
    }
}
close($to);
exit($? >> 8);
"#;

/// Installs the transport on small's host. Returns where small goes from and to.
fn prepare(cluster: &Cluster) -> Result<(Node, Node)> {
    let (from, to) = cluster.way_of("small")?;
    let source = cluster.lab.node(from);
    source.write("/root/flip", FLIP.as_bytes(), COMMAND)?;
    source.check("chmod +x /root/flip", COMMAND)?;
    Ok((from, to))
}

pub fn a_flipped_bit_is_refused(cluster: &Cluster) -> Result<()> {
    let (from, to) = prepare(cluster)?;
    // In the first pages, and near the end; tests/sessions.rs has every kind of place.
    for place in [5_000, 9_000_000] {
        let command = format!("-s '/root/flip {place} 1 ssh' small {to}");
        let (code, said) = cluster.migrate_fails(from, &command)?;
        println!("  rxl, byte {place}: {code}: {said}");
        ensure!(code == 11, "not refused before READY: {said}");
        ensure!(said.contains("runs on here"), "{said}");
        cluster.check_clean("small", from)?;
    }
    Ok(())
}

pub fn stock_xl_restores_a_flipped_bit(cluster: &Cluster) -> Result<()> {
    let (from, to) = prepare(cluster)?;
    // In the middle of the 128 MiB of page data: past it all is checked by nobody.
    let place = 60_000_000;
    let xl = format!("xl migrate -s '/root/flip {place} 0 ssh' small {to}");
    let output = cluster.lab.node(from).run(&xl, MIGRATION)?;
    let last = output.stderr.lines().last().unwrap_or("");
    println!("  xl, byte {place}: exit status {}, {last}", output.status);
    ensure!(output.stderr.contains("flipped a bit"), "nothing was flipped: {}", output.stderr);
    ensure!(output.success(), "xl noticed: {}", output.stderr);
    ensure!(cluster.domid(to, "small")?.is_some(), "small is not on {to}");
    Ok(())
}
