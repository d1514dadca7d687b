#!/bin/bash
# base.tar: Debian bookworm with its security updates, systemd and sshd; what dom0 and the guests
# have in common.
. "$(dirname "$0")/common.sh"

root=$out/root
debootstrap --variant=minbase bookworm "$root" "$main_mirror"
printf 'deb %s bookworm main\ndeb %s bookworm-security main\n' "$main_mirror" "$security_mirror" \
    >"$root/etc/apt/sources.list"
cat >"$root/etc/dpkg/dpkg.cfg.d/lab" <<'CFG'
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/info/*
CFG
# A service that starts in the build would hold the tree busy.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

in_root "$root" apt-get -o Acquire::Retries=3 update
in_root "$root" apt-get -o Acquire::Retries=3 -y dist-upgrade
install_packages "$root" systemd-sysv dbus udev kmod openssh-server openssh-client iproute2 \
    iputils-ping procps psmisc
in_root "$root" apt-get clean

for mounted in dev sys proc; do umount "$root/$mounted"; done
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
tar -C "$root" --numeric-owner -cf "$out/base.tar" .
rm -rf "$root"
