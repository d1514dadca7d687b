#!/bin/bash
# boot.ext4: the guests' kernel and their two initramfs, mounted on both hosts as /guests.
. "$(dirname "$0")/common.sh"

# initramfs NAME PROGRAM...: busybox, the named init, every module, and programs.
initramfs() {
    local name=$1 root=$out/initramfs-$1
    shift
    mkdir -p "$root"/{bin,dev,proc,sys,modules,programs}
    cp /bin/busybox "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    install -m 755 "$images/files/init-$name" "$root/init"
    install -m 755 "$@" "$root/programs/"
    if [ "$name" = small ]; then
        cp "$RXL_LAB_DOM0/modules/xen-netfront.ko" "$root/modules/"
    else
        cp "$RXL_LAB_DOM0"/modules/*.ko "$root/modules/"
    fi
    pack_initramfs "$root" "$out/disk/$name.img"
    rm -rf "$root"
}

mkdir "$out/disk"
cp "$RXL_LAB_DOM0/vmlinuz" "$out/disk/vmlinuz"
initramfs small "$RXL_LAB_PROGRAMS/memcheck"
initramfs big "$RXL_LAB_PROGRAMS/memcheck" "$RXL_LAB_PROGRAMS"/mpi-*
make_ext4 "$out/disk" "$out/boot.ext4" 64M
rm -rf "$out/disk"
