#!/usr/bin/env bash
# Tells where the time of a run went, by step and by scenario on nested Xen, slowest first.
#
# times.sh run COMMAND...         runs it, then prints what took how long; a run inside of another
#                                 leaves the table to the outer one
# times.sh step NAME COMMAND...   runs it as a step of the run
# times.sh cargo NAME COMMAND...  the same for `cargo test`, with a line for each test program
#
# RXL_TIMES names the file of the run: lines of kind, seconds, name and a remark, tab-separated.
# tests/nested adds a line for each scenario.
set -uo pipefail

note() {
    [ -z "${RXL_TIMES:-}" ] || printf '%s\t%s\t%s\t%s\n' "$@" >>"$RXL_TIMES"
}

# seconds_since BEGINNING: both by EPOCHREALTIME.
seconds_since() {
    awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }'
}

table() {
    local kind=$1 title=$2
    grep -q "^$kind" "$RXL_TIMES" || return 0
    printf '\n%s, slowest first:\n' "$title"
    grep "^$kind" "$RXL_TIMES" | sort -t "$(printf '\t')" -k 2 -rn |
        awk -F '\t' '{ printf "  %7.1f s  %s%s\n", $2, $3, $4 == "" ? "" : "  (" $4 ")" }'
}

# Notes each test program that `cargo test` tells of, with the time that libtest gives it.
programs() {
    awk -v times="${RXL_TIMES:-/dev/null}" '
        { print; fflush() }
        $1 == "Running" { program = $2 == "unittests" ? $3 " " $4 : $2 }
        $1 == "Doc-tests" { program = "doc-tests of " $2 }
        /^test result: .* finished in / {
            seconds = $NF; sub(/s$/, "", seconds)
            if (seconds >= 1) printf "program\t%s\t%s\t\n", seconds, program >>times
        }'
}

step() {
    local name=$1 begun=$EPOCHREALTIME status remark=
    shift
    "$@"
    status=$?
    [ "$status" = 0 ] || remark="failed with $status"
    note step "$(seconds_since "$begun")" "$name" "$remark"
    return "$status"
}

cargo_test() {
    "$@" 2>&1 | programs
}

run() {
    if [ -n "${RXL_TIMES:-}" ]; then
        exec "$@"
    fi
    local begun=$EPOCHREALTIME status
    RXL_TIMES=$(mktemp)
    export RXL_TIMES
    "$@"
    status=$?
    table step 'Steps'
    table program 'Test programs that ran for a second or more'
    table scenario 'Scenarios on nested Xen'
    printf '\n  %7.1f s  in all\n' "$(seconds_since "$begun")"
    rm -f "$RXL_TIMES"
    return "$status"
}

what=${1:?run, step or cargo}
shift
case $what in
run) run "$@" ;;
step) step "$@" ;;
cargo)
    name=$1
    shift
    step "$name" cargo_test "$@"
    ;;
*)
    echo "$0: unknown: $what" >&2
    exit 2
    ;;
esac
