#!/bin/bash
# Captures the files that collectors read on this machine.
#
#     capture.sh ROOT
#     cargo xtask fixtures pack MACHINE ROOT    # in the repository: writes MACHINE.ttar
#
# Creates ROOT/{proc,sys,root,udev}, with attributes as regular files and symbolic links as links if their
# target is inside. Identifying data (MAC and IP addresses, UUIDs, serial numbers, process names) is replaced,
# and mounts of user data are left out. Review the result before committing it.
set -euo pipefail
shopt -s nullglob extglob

(($# == 1)) || {
    echo "usage: capture.sh ROOT" >&2
    exit 2
}
mkdir -p "$1"
out=$(realpath "$1")

# Longer kernel files are truncated in the fixture.
max_lines=400

# copy FILE DEST: copies a file, unless the kernel returns no value. No command is started per file: in an
# emulated machine that would take longer than everything else.
copy() {
    local lines
    [[ -f $1 && -r $1 ]] || return 0
    mapfile -n "$max_lines" lines 2>/dev/null <"$1" || return 0
    # Empty, or an error?
    if ((${#lines[@]} == 0)); then
        cat "$1" >/dev/null 2>&1 || return 0
    fi
    mkdir -p "${2%/*}"
    (IFS=; printf '%s' "${lines[*]}" >"$2")
}

# link PATH: copies the symbolic links in a path below /sys. Sets $real to the path without links.
link() {
    local path=/sys part rest=${1#/sys/}
    while [[ -n $rest ]]; do
        part=${rest%%/*}
        [[ $rest == */* ]] && rest=${rest#*/} || rest=
        path+=/$part
        if [[ -L $path ]]; then
            mkdir -p "$out${path%/*}"
            ln -sfn "$(readlink "$path")" "$out$path"
            path=$(realpath "$path")
            [[ $path == /sys/* ]] || return 1
        fi
    done
    real=$path
}

# attributes DIRECTORY PATTERN...: copies the matching files of a directory below /sys.
attributes() {
    local directory=$1 pattern file real
    shift
    [[ -d $directory ]] || return 0
    link "$directory" || return 0
    mkdir -p "$out$real"
    for pattern in "$@"; do
        for file in "$real"/$pattern; do
            copy "$file" "$out$file"
        done
    done
}

proc() {
    local file pid
    local files=(
        buddyinfo cgroups cpuinfo diskstats drbd interrupts loadavg mdstat meminfo
        pressure/* schedstat softirqs spl/kstat/zfs/* spl/kstat/zfs/*/* stat swaps vmstat
        zoneinfo filesystems version_signature
        net/{arp,dev,ip_vs,ip_vs_stats,netstat,snmp,snmp6,sockstat,sockstat6}
        net/{softnet_stat,udp,udp6,xfrm_stat,rpc/nfs,rpc/nfsd,stat/*}
        sys/fs/file-nr sys/kernel/{hung_task_detect_count,pid_max,threads-max}
        sys/kernel/random/{entropy_avail,poolsize}
        sys/net/netfilter/nf_conntrack_{count,max}
        1/{cgroup,mountinfo,mounts} self/mountstats
    )
    cd /proc
    for file in "${files[@]}"; do
        copy "/proc/$file" "$out/proc/$file"
    done
    # A few processes, the first of them with threads.
    for pid in 1 2 $$; do
        copy "/proc/$pid/stat" "$out/proc/$pid/stat"
        for file in "/proc/$pid/task/"*; do
            copy "$file/stat" "$out$file/stat"
        done
    done
}

sys() {
    local directory
    local system=/sys/devices/system
    for directory in /sys/class/net/*; do
        attributes "$directory" addr_assign_type addr_len address broadcast carrier \
            'carrier_*' dev_id dev_port dormant duplex flags ifalias ifindex iflink \
            link_mode mtu name_assign_type netdev_group operstate phys_port_id \
            phys_port_name phys_switch_id speed threaded tx_queue_len type
        attributes "$directory/bonding" slaves 'mii_status'
    done
    copy /sys/class/net/bonding_masters "$out/sys/class/net/bonding_masters"
    for directory in /sys/block/*; do
        [[ ${directory##*/} == ram* ]] && continue
        attributes "$directory" size ro removable dev
        attributes "$directory/queue" rotational logical_block_size
        attributes "$directory/dm" name uuid
        attributes "$directory/md" '!(bitmap|new_dev)'
    done
    for directory in /sys/class/hwmon/*; do
        attributes "$directory" name '*_@(input|label|alarm|crit|max|min|type|average|enable)'
        attributes "$directory/device" name '*_@(input|label|alarm|crit|max|min)'
    done
    for directory in /sys/class/thermal/*; do
        attributes "$directory" type temp policy mode passive cur_state max_state
    done
    for directory in /sys/class/power{cap,_supply}/*; do
        attributes "$directory" name energy_uj max_energy_range_uj type online status \
            'capacity*' 'charge_*' 'current_*' 'energy_*' 'voltage_*' present
    done
    for directory in /sys/class/{nvme,watchdog,fc_host,scsi_tape,infiniband}/*; do
        attributes "$directory" '!(uevent)'
    done
    attributes /sys/class/dmi/id 'bios_*' 'board_*' 'chassis_*' 'product_*' sys_vendor
    for directory in "$system"/cpu/cpu+([0-9]); do
        attributes "$directory" online
        attributes "$directory/topology" core_id physical_package_id core_siblings_list \
            thread_siblings_list package_cpus_list core_cpus_list
        attributes "$directory/thermal_throttle" '*_count'
        attributes "$directory/cpufreq" '@(cpuinfo|scaling)_*'
    done
    attributes "$system/cpu" isolated online offline possible present
    attributes "$system/cpu/vulnerabilities" '*'
    for directory in "$system"/node/node*; do
        attributes "$directory" meminfo numastat vmstat cpulist
    done
    for directory in "$system"/clocksource/*; do
        attributes "$directory" '*_clocksource'
    done
    for directory in "$system"/edac/mc/mc*{,/csrow*}; do
        attributes "$directory" '*_count' mc_name
    done
    for directory in /sys/fs/xfs/*/stats /sys/fs/btrfs/*-*{,/allocation/*,/devinfo/*}; do
        attributes "$directory" '!(uevent)'
    done
    attributes /sys/kernel/mm/ksm '*'
    attributes /sys/fs/selinux enforce
}

other() {
    local file
    mkdir -p "$out/root/etc" "$out/root/usr/lib"
    copy /usr/lib/os-release "$out/root/usr/lib/os-release"
    if [[ -L /etc/os-release ]]; then
        ln -sfn "$(readlink /etc/os-release)" "$out/root/etc/os-release"
    else
        copy /etc/os-release "$out/root/etc/os-release"
    fi
    for file in /run/udev/data/b*; do
        copy "$file" "$out/udev/${file##*/}"
    done
}

# Replaces identifying data by neutral values.
scrub() {
    local files file n=0 value id
    mapfile -t files < <(find "$out" -type f)
    # Unique identifiers: equal values are replaced by the same value everywhere.
    local mac='[0-9a-f]{2}(:[0-9a-f]{2}){5}'
    local uuid='[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}'
    while read -r value; do
        case $value in
            00:00:00:00:00:00 | ff:ff:ff:ff:ff:ff) continue ;;
            *:*) printf -v id '02:00:00:00:00:%02x' $((++n)) ;;
            *) printf -v id '00000000-0000-4000-8000-%012x' $((++n)) ;;
        esac
        sed -i "s/$value/$id/g" "${files[@]}"
    done < <(grep -hoE "$mac|$uuid" "${files[@]}" | sort -u)
    # Change interface indexes, because netlink's responses would match the fixture if the test runs on the
    # captured machine.
    while read -r file; do
        value=$(<"$file")
        ((value <= 1)) || echo $((value + 100)) >"$file"
    done < <(find "$out/sys" -type f -path '*/net/*' \( -name ifindex -o -name iflink \))
    n=0
    for file in "$out"/sys/devices/virtual/dmi/id/*@(serial|asset_tag|uuid); do
        echo "not-a-real-number-$((++n))" >"$file"
    done
    [[ -d $out/udev ]] && find "$out/udev" -type f \
        -exec sed -i -E '/SERIAL|WWN|DISKSEQ|by-(id|uuid|partuuid|diskseq)/d' {} +
    # Addresses: hexadecimal in socket lists, otherwise dotted.
    sed -i -E 's/\b[0-9A-F]{8}:([0-9A-F]{4})\b/0100007F:\1/g' "$out"/proc/net/udp
    [[ -f $out/proc/net/udp6 ]] && sed -i -E \
        's/\b[0-9A-F]{32}:([0-9A-F]{4})\b/00000000000000000000000001000000:\1/g' \
        "$out"/proc/net/udp6
    sed -i -E 's/\b([0-9]{1,3}\.){3}([0-9]{1,3})\b/192.0.2.\2/g' \
        "$out"/proc/net/arp "$out"/proc/1/mount* "$out"/proc/self/mountstats
    sed -i -E '\, /(mnt|media|srv|home|opt|run/netns)(/| ),d' \
        "$out"/proc/1/mount* "$out"/proc/self/mountstats
    sed -i -E 's/\(.*\)/(name)/' "$out"/proc/+([0-9])/{,task/*/}stat
}

proc
sys
other
touch "$out/flags"
scrub
find "$out" -type d -empty -delete
echo "$(find "$out" ! -type d | wc -l) files, $(du -s --apparent-size "$out" | cut -f1) kB"
echo "Next: cargo xtask fixtures pack MACHINE $out, and a line in tests/fixtures/README.md"
