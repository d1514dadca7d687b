#!/bin/bash
# dom0: dom0.qcow2 (the root disk of both hosts, never written to), xen, vmlinuz and initrd.img to
# boot it, modules/ with the kernel modules that the guests need.
. "$(dirname "$0")/common.sh"

root=$out/root
mkdir "$root"
tar -C "$root" --numeric-owner -xpf "$RXL_LAB_BASE/base.tar"

# A small initramfs with exactly the drivers of QEMU's virtio devices.
mkdir -p "$root/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=gzip\n' >"$root/etc/initramfs-tools/conf.d/lab"
printf 'virtio_pci\nvirtio_blk\nvirtio_net\next4\n' >"$root/tmp/modules"
install_packages "$root" initramfs-tools
cp "$root/tmp/modules" "$root/etc/initramfs-tools/modules"
install_packages "$root" linux-image-amd64 xen-hypervisor-4.17-amd64 xen-utils-4.17 \
    xen-utils-common xenstore-utils bridge-utils libxenmisc4.17 libzstd1 socat arping strace zstd \
    qemu-system-xen nbd-client nbd-server

allow_lab_key "$root"
cp -a "$images/files/dom0/." "$root/"
install -m 644 "$images/files/hosts" "$root/etc/hosts"
# What guests print is kept: a kernel that dies says why there alone.
echo 'XENCONSOLED_ARGS="--log=guest"' >>"$root/etc/default/xen"
mkdir -p "$root/guests" "$root/var/log/xen/console" "$root/var/log/journal" \
    "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../lab-node.service "$root/etc/systemd/system/multi-user.target.wants/lab-node.service"
ln -s ../lab-domains.service "$root/etc/systemd/system/multi-user.target.wants/lab-domains.service"
mask_units "$root" apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer systemd-timesyncd.service networking.service \
    xendomains.service systemd-networkd.service systemd-tmpfiles-clean.timer \
    logrotate.timer man-db.timer nbd-server.service nbd-client.service

version=$(basename "$root"/lib/modules/*)
gunzip -c "$root"/boot/xen-4.17-amd64.gz >"$out/xen"
cp "$root/boot/vmlinuz-$version" "$out/vmlinuz"
cp "$root/boot/initrd.img-$version" "$out/initrd.img"
mkdir "$out/modules"
for module in crc32c_generic jbd2 mbcache crc16 ext4 overlay xen-blkfront xen-netfront inet_diag \
    tcp_diag; do
    find "$root/lib/modules/$version" -name "$module.ko" -exec cp {} "$out/modules/" \;
done
rm -rf "$root/boot" "$root/usr/lib/debug"
mkdir "$root/boot"

finish_root "$root"
make_ext4 "$root" "$out/dom0.raw" 3G
qemu-img convert -O qcow2 "$out/dom0.raw" "$out/dom0.qcow2"
rm -rf "$root" "$out/dom0.raw"
