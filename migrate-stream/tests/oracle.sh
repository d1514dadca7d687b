#!/bin/sh
# Runs Xen's own checker, verify-stream-v2, on a stream: oracle.sh libxl|libxc|xl FILE
# or on many that come on standard input: oracle.sh batch (see oracle_batch.py)
# Exit status: the checker's (0 accepted, 1 refused, 2 its own fault), 69 when there is no checker.
#
# The checker comes from Debian's package, which is unpacked, not installed, into a cache outside of
# the checkout.
set -eu

package=xen-utils-4.17
cache=${XDG_CACHE_HOME:-$HOME/.cache}/rxl-lab/oracle

fetch() ( # in a subshell, so that the trap runs before the checker replaces this shell
    work=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # apt's own sandbox user cannot write below a private home directory.
    (cd "$work" && timeout 300 apt-get -qq -o APT::Sandbox::User=root download "$package" >&2) ||
        return 1
    mkdir "$work/root"
    dpkg-deb -x "$work/$package"_*.deb "$work/root"
    # A run at the same time may have been quicker: then its copy stays.
    mv -T "$work/root" "$cache" 2>/dev/null || test -d "$cache"
)

if [ ! -d "$cache" ]; then
    mkdir -p "${cache%/*}"
    fetch || {
        echo "oracle.sh: cannot download $package (is apt-get update needed?)" >&2
        exit 69
    }
fi
tools=$cache/usr/lib/xen-4.17
export PYTHONPATH="$tools/lib/python" PYTHONDONTWRITEBYTECODE=1
if [ "$1" = batch ]; then
    exec python3 "$(dirname "$0")/oracle_batch.py" "$tools/bin/verify-stream-v2"
fi
exec python3 "$tools/bin/verify-stream-v2" --format "$1" --in "$2"
