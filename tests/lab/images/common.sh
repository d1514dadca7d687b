# Shared by the image recipes. A recipe is run as `RECIPE OUTPUT_DIR`, in a mount namespace of its
# own, with the directories of the parts that it builds on in RXL_LAB_<PART>.
set -euo pipefail
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

images=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:?usage: $0 OUTPUT_DIR}

# The mirrors of the machine's own apt configuration, as lines "URI SUITE COMPONENT".
configured_mirrors() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 2>/dev/null || true
}

# mirror_of SUITE DEFAULT: the URI that serves a suite of Debian.
mirror_of() {
    configured_mirrors | awk -v suite="$1" -v uri="$2" '
        $2 == suite && $3 == "main" { uri = $1; exit }
        END { print uri }'
}

main_mirror=$(mirror_of bookworm http://deb.debian.org/debian/)
security_mirror=$(mirror_of bookworm-security http://deb.debian.org/debian-security/)

# in_root ROOT COMMAND...: runs a command in a root tree, with what package scripts expect to find
# mounted.
in_root() {
    local root=$1
    shift
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
    mountpoint -q "$root/sys" || mount -t sysfs -o ro sysfs "$root/sys"
    mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
    cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C \
        DEBIAN_FRONTEND=noninteractive ${http_proxy:+http_proxy="$http_proxy"} "$@"
}

install_packages() {
    local root=$1
    shift
    in_root "$root" apt-get -o Acquire::Retries=3 -y install --no-install-recommends "$@"
}

# Leaves the tree without mounts and without what only the build needed.
finish_root() {
    local root=$1 mounted
    for mounted in dev sys proc; do
        ! mountpoint -q "$root/$mounted" || umount "$root/$mounted"
    done
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root/etc/resolv.conf" \
        "$root/usr/sbin/policy-rc.d" "$root"/var/log/*.log "$root"/var/log/apt
    # systemd takes an empty machine-id for "not the first boot, make one up".
    : >"$root/etc/machine-id"
    rm -f "$root/var/lib/dbus/machine-id"
}

# The lab's key for root, both to enter and to go on from there, without a question on either way.
allow_lab_key() {
    local root=$1
    install -d -m 700 "$root/root/.ssh"
    install -m 600 "$RXL_LAB_KEY/id_ed25519" "$root/root/.ssh/id_ed25519"
    install -m 644 "$RXL_LAB_KEY/id_ed25519.pub" "$root/root/.ssh/id_ed25519.pub"
    install -m 600 "$RXL_LAB_KEY/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
    install -m 644 "$images/files/ssh_config" "$root/etc/ssh/ssh_config.d/lab.conf"
    install -m 644 "$images/files/sshd_config" "$root/etc/ssh/sshd_config.d/lab.conf"
    # Without these, a login waits for pam_systemd and for the message of the day.
    sed -i -e '/pam_motd/d' -e '/pam_mail/d' -e '/pam_lastlog/d' \
        "$root/etc/pam.d/sshd" "$root/etc/pam.d/login"
    sed -i -e '/pam_systemd/d' "$root/etc/pam.d/common-session"
}

mask_units() {
    local root=$1 unit
    shift
    for unit in "$@"; do
        ln -sfn /dev/null "$root/etc/systemd/system/$unit"
    done
}

# make_ext4 ROOT IMAGE SIZE: no loop device needed; no journal to replay, lazy initialisation off so
# that the image does not grow by itself after the first mount.
make_ext4() {
    rm -f "$2"
    truncate -s "$3" "$2"
    mke2fs -q -F -t ext4 -d "$1" -E lazy_itable_init=0,nodiscard -m 0 "$2"
}

# pack_initramfs ROOT FILE
pack_initramfs() {
    (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -o -H newc -R 0:0) |
        gzip -9n >"$2"
}
