#!/bin/bash
# memcheck, mpi-ring, mpi-audit and mpi-hold, the programs that run in guests.
. "$(dirname "$0")/common.sh"

guest=$images/../../guest
# memcheck uses std alone: rustc needs neither cargo nor the workspace's lock file for it.
rustc --edition 2024 --crate-name memcheck -O -C target-feature=+crt-static -C strip=symbols \
    --target x86_64-unknown-linux-gnu -o "$out/memcheck" "$guest/memcheck/src/main.rs"
for program in mpi-ring mpi-audit mpi-hold; do
    mpicc -O2 -Wall -Wextra -Werror -o "$out/$program" "$guest/$program.c"
done
