#!/bin/bash
# deps.sh [PACKAGE...]: installs what the lab itself needs on the machine that runs it, and these
# packages. Idempotent; returns at once when all is there.
set -euo pipefail

packages=(qemu-system-x86 qemu-utils debootstrap e2fsprogs openssh-client zstd cpio busybox-static
    libopenmpi-dev openmpi-bin libmpich-dev mpich hpcc gcc libc6-dev "$@")
apt=(apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -y)

# Lines "PACKAGE VERSION" of those of the wanted packages that are fully installed.
installed() {
    dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' "${packages[@]}" 2>/dev/null |
        sed -n 's/^installed //p'
}

# missing_of INSTALLED: the wanted packages that it does not list.
missing_of() {
    local package
    for package in "${packages[@]}"; do
        grep -q "^$package " <<<"$1" || echo "$package"
    done
}

# qemu-utils from a newer suite has files of bookworm's qemu-system-x86: both must be of one
# version.
same_qemu() {
    [ "$(sed -n 's/^qemu-system-x86 //p' <<<"$1")" = "$(sed -n 's/^qemu-utils //p' <<<"$1")" ]
}

present=$(installed || true)
mapfile -t missing < <(missing_of "$present")
if [ ${#missing[@]} -eq 0 ] && same_qemu "$present"; then
    exit 0
fi

echo "installing: ${missing[*]:-qemu-utils}"
export DEBIAN_FRONTEND=noninteractive
"${apt[@]}" update
if ! same_qemu "$present" || [[ " ${missing[*]}" == *" qemu"* ]]; then
    # The candidate of bookworm itself, whatever a backports suite offers.
    version=$(apt-cache madison qemu-system-x86 |
        awk '/bookworm/ && !/backports/ { print $3; exit }')
    "${apt[@]}" install --no-install-recommends --allow-downgrades \
        "qemu-system-x86=$version" "qemu-system-common=$version" "qemu-utils=$version"
fi
"${apt[@]}" install --no-install-recommends "${packages[@]}"
