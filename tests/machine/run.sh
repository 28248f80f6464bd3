#!/bin/bash
# Boots the virtual machine that build.sh built and runs TASKDIR/run.sh in it.
#
#     run.sh TASKDIR
#
# TASKDIR is visible in the machine as /task. Files that the task writes to /task/out are copied to
# TASKDIR/out. Prints the machine's console. The exit code is that of the task, or 125 if the task did not
# run. Nothing else that the machine writes is preserved.
#
# STRATA_MACHINE_DIR      cache directory of build.sh (default: target/machine)
# STRATA_MACHINE_TIMEOUT  timeout in seconds (default: 900)
# STRATA_MACHINE_PORT     local port to forward to the machine's port 9100
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${STRATA_MACHINE_DIR:-$here/../../target/machine}

die() {
    echo "run.sh: $*" >&2
    exit 125
}

(($# == 1)) || die "usage: run.sh TASKDIR"
task=$1
[[ -f $task/run.sh ]] || die "$task/run.sh does not exist"
[[ -f $cache/stamp ]] || die "no virtual machine in $cache: run build.sh"

scratch=$(mktemp -d "$cache/run.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
disk=$scratch/task.img

chmod +x "$task/run.sh"
rm -rf "$task/out"
megabytes=$(($(du -sm "$task" | cut -f1) + 64))
# No journal: the task's output is read from the image itself.
truncate -s "${megabytes}M" "$disk"
mke2fs -q -t ext4 -O ^has_journal -d "$task" "$disk"

# Does not use KVM: nested in a virtual machine it may hang.
network=user,id=net,restrict=on
if [[ -n ${STRATA_MACHINE_PORT:-} ]]; then
    network+=,hostfwd=tcp:127.0.0.1:$STRATA_MACHINE_PORT-:9100
fi
TMPDIR=$scratch timeout --kill-after=10 "${STRATA_MACHINE_TIMEOUT:-900}" \
    qemu-system-x86_64 \
    -accel tcg,thread=multi -smp 2 -m 2048 \
    -display none -monitor none -serial stdio -no-reboot \
    -kernel "$cache/vmlinuz" -initrd "$cache/initrd.img" \
    -append "console=ttyS0 root=/dev/vda rw panic=-1 psi=1 apparmor=0 quiet systemd.show_status=false" \
    -drive "file=$cache/root.img,if=virtio,format=raw,cache=unsafe,snapshot=on" \
    -drive "file=$disk,if=virtio,format=raw,cache=unsafe" \
    -netdev "$network" -device virtio-net,netdev=net \
    </dev/null || die "the virtual machine failed or timed out (exit code $?)"

debugfs -R "rdump /out $task" "$disk" 2>/dev/null
code=$(debugfs -R "cat /exit-code" "$disk" 2>/dev/null)
[[ $code =~ ^[0-9]+$ ]] || die "the task did not finish"
exit "$code"
