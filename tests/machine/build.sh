#!/bin/bash
# Builds the cgroup v2 virtual machine that run.sh boots: Debian with systemd, Docker and Debian's
# node_exporter, as a kernel, an initial RAM disk and a root file system image.
#
# Requires root. Installs missing tools with apt and takes some minutes. The result is cached in
# $STRATA_MACHINE_DIR (default: target/machine) until this script changes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${STRATA_MACHINE_DIR:-$here/../../target/machine}
# Package mirror, if not debootstrap's default.
mirror=${STRATA_MACHINE_MIRROR-}
suite=bookworm
packages=(
    systemd systemd-sysv dbus libpam-systemd
    docker.io iptables iproute2 busybox-static ca-certificates
    linux-image-cloud-amd64 initramfs-tools
    prometheus-node-exporter
)

die() {
    echo "build.sh: $*" >&2
    exit 1
}

# Installs the packages of missing commands.
install_missing_tools() {
    local missing=()
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
    command -v mke2fs >/dev/null || missing+=(e2fsprogs)
    ((${#missing[@]})) || return 0
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

# Configures a fresh root file system to run /task/run.sh and power off.
configure() {
    local root=$1

    echo strata >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 strata\n' >"$root/etc/hosts"
    # The same machine ID at each boot, and no first-boot prompts.
    echo 00000000000000000000000000000001 >"$root/etc/machine-id"
    sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"

    cat >"$root/etc/systemd/network/dhcp.network" <<-'END'
		[Match]
		Name=en* eth*
		[Network]
		DHCP=yes
	END

    cat >"$root/etc/systemd/system/task.service" <<-'END'
		[Unit]
		Description=Task of this virtual machine
		# After startup: system state "running".
		After=multi-user.target docker.service
		[Service]
		Type=exec
		ExecStart=/usr/local/sbin/task
		StandardInput=null
		StandardOutput=tty
		StandardError=tty
		TTYPath=/dev/ttyS0
		[Install]
		WantedBy=multi-user.target
	END

    cat >"$root/usr/local/sbin/task" <<-'END'
		#!/bin/sh
		mount /dev/vdb /task && cd /task && mkdir -p out
		HOME=/root ./run.sh
		echo $? >exit-code
		cd /
		sync
		umount /task || sync
		exec systemctl poweroff -ff
	END
    chmod +x "$root/usr/local/sbin/task"
    mkdir -p "$root/task"

    chroot "$root" systemctl --quiet enable docker systemd-networkd task
    chroot "$root" systemctl --quiet disable \
        prometheus-node-exporter systemd-networkd-wait-online
    chroot "$root" systemctl --quiet mask serial-getty@ttyS0 getty@tty1 \
        apt-daily.timer apt-daily-upgrade.timer fstrim.timer
}

build() {
    local root=$cache/root
    # Remains of an interrupted run, possibly with its mounts.
    if [[ -d $root ]]; then
        umount -R "$root/proc" "$root/sys" "$root/dev" 2>/dev/null || true
        rm -rf --one-file-system "$root"
    fi
    rm -f "$cache"/{stamp,root.img,vmlinuz,initrd.img}

    debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
        "$suite" "$root" ${mirror:+"$mirror"}
    configure "$root"
    umount -R "$root/proc" "$root/sys" 2>/dev/null || true
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

    cp "$root"/boot/vmlinuz-* "$cache/vmlinuz"
    cp "$root"/boot/initrd.img-* "$cache/initrd.img"
    mke2fs -q -t ext4 -d "$root" "$cache/root.img" 3G
    rm -rf --one-file-system "$root"
}

((EUID == 0)) || die "needs root"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
checksum=$(sha256sum <"${BASH_SOURCE[0]}")
if [[ -f $cache/stamp && $(<"$cache/stamp") == "$checksum" ]]; then
    exit 0
fi
install_missing_tools
build
echo "$checksum" >"$cache/stamp"
