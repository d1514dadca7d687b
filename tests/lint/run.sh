#!/bin/sh
# run.sh [OPTION...]: what `make lint` checks beside Rust: the checks' own tests, spelling, and
# house.py, which gets the options. All run, and any that finds something fails it.
set -u

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.." || exit 1
export PYTHONDONTWRITEBYTECODE=1
status=0

python3 -m unittest discover --quiet --start-directory "$here" || status=1
"$here/typos.sh" || status=1
python3 "$here/house.py" "$@" || status=1
exit $status
