#!/bin/sh
# typos.sh [DIRECTORY]: checks spelling with typos (configuration: typos.toml). The program comes
# from its wheel on PyPI, as building it takes minutes, and is kept in DIRECTORY (default: the
# cache). Where it cannot be fetched the check is skipped, unless TYPOS_REQUIRED is set.
set -eu

version=1.52.0
sha256=418fd85f7fc11dec14e5482e747f6e916af56da96207cde0cdd69540a4b389f6
tools=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/rxl-tools}
program=$tools/typos-$version

cd "$(dirname "$0")/../.."

fetch() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    python3 -m pip --quiet --disable-pip-version-check download --no-deps --only-binary :all: \
        --dest "$work" "typos==$version" || return 1
    echo "$sha256  $(ls "$work"/*.whl)" | sha256sum --quiet --check || exit 1
    python3 -m zipfile -e "$work"/*.whl "$work"
    chmod +x "$work"/*.data/scripts/typos
    mkdir -p "$tools"
    mv "$work"/*.data/scripts/typos "$program"
}

if [ ! -x "$program" ] && ! fetch; then
    echo "typos: cannot be fetched from PyPI: spelling is not checked" >&2
    [ -z "${TYPOS_REQUIRED:-}" ]
    exit
fi
"$program" --format brief
