#!/bin/sh
# How fast `rxl stream` goes through a save file of 4 GiB in the page cache, on one core, beside
# Xen's verify-stream-v2:
# stream_bench.sh RXL MAKE-STREAM [DIRECTORY-WITH-5-GIB]
set -eu

rxl=$1 make=$2
work=$(mktemp -d -p "${3:-${TMPDIR:-/tmp}}")
trap 'rm -rf "$work"' EXIT
oracle=$(dirname "$0")/../migrate-stream/tests/oracle.sh

"$make" 4096 >"$work/save"
bytes=$(stat -c %s "$work/save")
# Fetches the checker, where it is not there, before any time is taken.
"$make" 1 >"$work/small"
"$oracle" xl "$work/small"

# measure NAME COMMAND...: the best of three
measure() {
    name=$1 best=
    shift
    for _ in 1 2 3; do
        cat "$work/save" >"/dev/null"
        begun=$(date +%s%N)
        taskset -c 0 "$@" >"$work/said"
        took=$((($(date +%s%N) - begun) / 1000000))
        if [ -z "$best" ] || [ "$took" -lt "$best" ]; then best=$took; fi
    done
    echo "$name: $best ms, $((bytes / best / 1000)) MB/s"
}

measure 'rxl stream inspect' "$rxl" stream inspect "$work/save"
measure 'rxl stream verify' "$rxl" stream verify "$work/save"
measure 'verify-stream-v2' "$oracle" xl "$work/save"
