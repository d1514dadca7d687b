#!/usr/bin/env bash
# build.sh PROGRAM VERSION OUTPUT_DIR: packs the guest agent that cargo has built as a Debian
# package, with dpkg's own tools.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "$1") version=$2
mkdir -p "$3"
out=$(realpath "$3")
tree=$(mktemp -d)
chmod 755 "$tree"
trap 'rm -rf "$tree"' EXIT

install -D -m 755 "$program" "$tree/usr/bin/rxl-guest-agent"
install -D -m 644 -t "$tree/usr/lib/systemd/system" "$here/rxl-guest-agent.service"
doc=$tree/usr/share/doc/rxl-guest-agent
install -D -m 644 -t "$doc" "$here/../../docs/agent.md"
cat >"$doc/copyright" <<'END'
rxl-guest-agent is free software under the GNU General Public License, version 3 or later:
/usr/share/common-licenses/GPL-3.
END
mkdir "$tree/DEBIAN"
install -m 755 "$here"/{postinst,prerm,postrm} "$tree/DEBIAN"

# dpkg-shlibdeps reads the libraries from the program, and wants a source package around it.
installed=$tree/usr/bin/rxl-guest-agent
mkdir "$tree/debian"
: >"$tree/debian/control"
depends=$(cd "$tree" && dpkg-shlibdeps -O -e"$installed" | sed -n 's/^shlibs:Depends=//p')
rm -r "$tree/debian"
architecture=$(dpkg --print-architecture)
size=$(du -k -s --apparent-size "$tree/usr" | cut -f 1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" \
    -e "s/@DEPENDS@/${depends:?no libraries}/" "$here/control" >"$tree/DEBIAN/control"

package=$out/rxl-guest-agent_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$tree" "$package" >/dev/null
echo "$package"
