#!/bin/bash
# Installs from Debian what the tests need and this machine lacks, cargo-deb, cargo-deny and
# cargo-fuzz; builds the machine that tests/machine/run.sh boots.
#
#     setup.sh [packages|tools|machine]     all, unless told which
#
# Asks sudo where root is needed. Does nothing where everything is there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Not everyone has those of root.
PATH+=:/usr/local/sbin:/usr/sbin:/sbin

die() {
    echo "setup.sh: $*" >&2
    exit 1
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root, or sudo, for: $*"
    fi
}

# Prints the packages that are missing, by the commands that are.
missing() {
    local command package busybox
    while read -r command package; do
        command -v "$command" >/dev/null || echo "$package"
    done <<-'END'
		cc gcc
		cc libc6-dev
		g++ g++
		prometheus prometheus
		promtool prometheus
		prometheus-node-exporter prometheus-node-exporter
		prometheus-libvirt-exporter prometheus-libvirt-exporter
		ip iproute2
		unshare util-linux
		mount mount
		debootstrap debootstrap
		strace strace
		setpriv util-linux
		qemu-system-x86_64 qemu-system-x86
		mke2fs e2fsprogs
		debugfs e2fsprogs
		docker docker.io
		dockerd docker.io
		runc runc
		iptables iptables
		podman podman
		/usr/lib/cni/bridge containernetworking-plugins
		pkg-config pkg-config
		libvirtd libvirt-daemon
		libvirtd libvirt-daemon-driver-qemu
		virsh libvirt-clients
		qemu-img qemu-utils
		chromium chromium
		chromedriver chromium-driver
		node nodejs
		npm npm
		systemd-analyze systemd
		cloud-init cloud-init
		caddy caddy
		openssl openssl
		curl curl
		dpkg-shlibdeps dpkg-dev
	END
    # For builds with the feature virt.
    pkg-config --exists libvirt 2>/dev/null || echo libvirt-dev
    # The other one needs libraries, which images made of it do not have.
    busybox=$(command -v busybox) && ! ldd "$busybox" >/dev/null 2>&1 || echo busybox-static
    /usr/bin/python3 -c 'import prometheus_client' 2>/dev/null || echo python3-prometheus-client
}

# Runs as root: no service is started by what is installed, now or at the next boot.
install_quietly() {
    local before
    before=$(installed)
    # cloud-init would set this machine up anew at its next boot.
    if [[ ! -e /etc/cloud/cloud.cfg ]]; then
        mkdir -p /etc/cloud
        touch /etc/cloud/cloud-init.disabled
    fi
    # Not local: the trap comes after.
    policy=/usr/sbin/policy-rc.d kept=
    if [[ -e $policy || -L $policy ]]; then
        kept=$(mktemp -u "$policy.XXXXXX")
        mv "$policy" "$kept"
    fi
    trap 'rm -f "$policy"; [[ -z $kept ]] || mv "$kept" "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"

    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install -y --no-install-recommends "$@"
    comm -13 <(echo "$before") <(installed) | xargs -r dpkg -L | sort -u | disable_all
}

installed() {
    dpkg-query -W -f '${db:Status-Abbrev} ${binary:Package}\n' | sed -n 's/^ii *//p' | sort
}

# Disables the services, sockets and timers among the files that it is told.
disable_all() {
    local file
    while read -r file; do
        case $file in
            /etc/init.d/*) update-rc.d "${file##*/}" disable ;;
            # As systemctl does it, which need not be there.
            */systemd/system/*.service | */systemd/system/*.socket | */systemd/system/*.timer)
                rm -f /etc/systemd/system/*.{wants,requires}/"${file##*/}"
                ;;
        esac
    done
}

packages() {
    local wanted
    mapfile -t wanted < <(missing | sort -u)
    if ((${#wanted[@]})); then
        command -v apt-get >/dev/null || die "needs these packages of Debian's: ${wanted[*]}"
        echo "setup.sh: installs ${wanted[*]}"
        as_root bash -c "set -euo pipefail; $(declare -f install_quietly installed disable_all); install_quietly \"\$@\"" \
            setup "${wanted[@]}" </dev/null
    fi
    # Parts of Rust that come with every cargo but the smallest.
    local part
    for part in fmt:rustfmt clippy:clippy; do
        cargo "${part%:*}" --version >/dev/null 2>&1 ||
            rustup component add "${part#*:}" ||
            die "needs cargo ${part%:*}"
    done
}

# Programs of Rust's that Debian does not have. Not optimised: they are built more often
# than they run.
tools() {
    local tools=${CARGO_TARGET_DIR:-$here/../target}/tools
    # Does nothing where this version is there.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --root "$tools" \
        cargo-deb@3.8.0 cargo-fuzz@0.13.1
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --root "$tools" \
        --no-default-features cargo-deny@0.20.2
}

machine() {
    local cache=${STRATA_MACHINE_DIR:-$here/../target/machine}
    local checksum
    checksum=$(sha256sum <"$here/machine/build.sh")
    if [[ -f $cache/stamp && $(<"$cache/stamp") == "$checksum" ]]; then
        return
    fi
    as_root env STRATA_MACHINE_DIR="$cache" PATH="$PATH" "$here/machine/build.sh" </dev/null
    # Whoever boots it makes a directory there.
    ((EUID == 0)) || as_root chown -R "$(id -u):$(id -g)" "$cache"
}

case ${1-} in
    packages | tools | machine) "$1" ;;
    '')
        packages
        tools
        machine
        ;;
    *) die "usage: setup.sh [packages|tools|machine]" ;;
esac
