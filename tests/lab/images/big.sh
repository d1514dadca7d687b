#!/bin/bash
# big.ext4: the root file system of the guests that run MPI ranks; mounted read-only by any number
# of them at once.
. "$(dirname "$0")/common.sh"

root=$out/root
mkdir "$root"
tar -C "$root" --numeric-owner -xpf "$RXL_LAB_BASE/base.tar"
install_packages "$root" openmpi-bin

allow_lab_key "$root"
install -m 644 "$images/files/hosts" "$root/etc/hosts"
: >"$root/etc/fstab"
# Open MPI as root, over the guests' one network, without a word on the command line.
mkdir -p "$root/etc/openmpi"
cat >>"$root/etc/openmpi/openmpi-mca-params.conf" <<'CONF'
btl = tcp,self
btl_tcp_if_include = eth0
oob_tcp_if_include = eth0
CONF
printf 'OMPI_ALLOW_RUN_AS_ROOT=1\nOMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n' >>"$root/etc/environment"
mask_units "$root" apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer systemd-timesyncd.service networking.service \
    systemd-networkd.service systemd-tmpfiles-clean.timer systemd-journal-flush.service \
    systemd-remount-fs.service systemd-update-utmp.service logrotate.timer \
    getty@tty1.service systemd-udev-settle.service

finish_root "$root"
make_ext4 "$root" "$out/big.ext4" 2G
rm -rf "$root"
