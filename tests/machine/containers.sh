#!/bin/sh
# Runs in the virtual machine, next to ./strata_exporter: runs containers of all kinds with Docker and
# scrapes. The kernel's and Docker's data before and after the scrape are copied for
# tests/system/v2_machine/containers.rs to compare.
set -eu

out=out/containers
port=9106
image=strata-box:1
mkdir -p $out

die() {
    echo "containers.sh: $*"
    exit 1
}

# scrape FILE [QUERY]
scrape() {
    timeout 60 busybox wget -q -O "$out/$1" "http://127.0.0.1:$port/metrics${2-}"
}

# start NAME [FLAG...] -- COMMAND...: starts a container in the background.
start() {
    name=$1
    shift
    flags=
    while [ "$1" != -- ]; do
        flags="$flags $1"
        shift
    done
    shift
    # shellcheck disable=SC2086 # words
    docker run --detach --name "$name" $flags $image "$@" >/dev/null
}

# await WHAT COMMAND...: waits until the command succeeds.
await() {
    what=$1
    shift
    for _ in $(seq 90); do
        if "$@"; then
            return
        fi
        sleep 1
    done
    die "timed out waiting for $what"
}

# The image contains one static binary.
mkdir -p /tmp/image/bin
cp "$(command -v busybox)" /tmp/image/bin/busybox
for applet in sh sleep head tail dd nc wc true; do
    ln -s busybox "/tmp/image/bin/$applet"
done
tar c -C /tmp/image . | docker import - $image >/dev/null

./strata_exporter --web.listen-address=127.0.0.1:$port >out/containers.log 2>&1 &

# Everything is slow here: run in parallel what is independent.
start load -- sh -c '
    head -c 20971520 /dev/zero >/dev/shm/cached
    dd if=/dev/zero of=/written bs=1M count=8 conv=fsync
    tail -f /dev/null | nc -l -p 5000 | wc -c
    sleep 9999'
start checked "--health-cmd=true" --health-interval=3s --health-timeout=60s \
    -- sleep 9999 &
# More memory than runc needs to start a container: runc joins the cgroup for a while.
start whole --memory=32m -- tail /dev/zero &
start child --memory=32m -- sh -c 'tail /dev/zero; sleep 9999' &
start ended -- sleep 9999 &
start loop --restart=on-failure:1 -- sh -c 'sleep 0.2; exit 3' &
address=$(docker inspect --format '{{.NetworkSettings.IPAddress}}' load)
start sender -- sh -c "until head -c 5000000 /dev/zero | nc $address 5000
    do sleep 1; done; sleep 9999"
start limited --memory=64m --memory-reservation=32m --cpus=0.2 --cpu-shares=512 \
    --pids-limit=23 --label=com.docker.compose.project=shop \
    --label=com.docker.compose.service=till --label=secret=x \
    -- sh -c 'while :; do :; done'

# has_sample FAMILY NAME VALUE: whether the exposition has this sample.
has_sample() {
    scrape poll.prom '?collect[]=container_lifecycle&collect[]=container_memory' &&
        grep -q "^$1{.*name=\"$2\".*} $3\$" "$out/poll.prom"
}
await 'health' has_sample container_health_state checked 1
docker pause checked >/dev/null
await 'the paused container' has_sample container_status checked 2
await 'the container to stop' has_sample container_memory_usage_bytes ended '[0-9.e+]*'
docker stop --time=0 ended >/dev/null
await 'the stopped container' has_sample container_status ended 5
await 'the restart' has_sample container_restarts_total loop 1
await 'the exited loop' has_sample container_status loop 5
await 'the OOM-killed container' has_sample container_status whole 5
await 'the OOM-killed child process' has_sample container_oom_events_total child 1
has_received() {
    [ "$(docker logs load 2>/dev/null)" = 5000000 ]
}
await 'the received data' has_received

running='limited load child checked sender'
# shellcheck disable=SC2086 # words
docker inspect --format '{{.Name}} {{.State.Pid}}' $running >$out/pids
while read -r name pid; do
    name=${name#/}
    mkdir -p "$out/before/$name" "$out/after/$name"
    echo "$pid" >"$out/before/$name/pid"
    cut -d: -f3 "/proc/$pid/cgroup" >"$out/before/$name/path"
done <$out/pids

# copy WHEN: copies the files of the cgroups, line by line because their size is 0.
copy() {
    for name in $running; do
        group=/sys/fs/cgroup$(cat "$out/before/$name/path")
        for file in cpu.stat cpu.max cpu.weight memory.current memory.peak memory.max \
            memory.low memory.stat memory.events pids.current pids.max io.stat \
            cpu.pressure memory.pressure io.pressure; do
            while IFS= read -r line; do
                printf '%s\n' "$line"
            done <"$group/$file" >"$out/$1/$name/$file"
        done
        busybox cat "/proc/$(cat "$out/before/$name/pid")/net/dev" >"$out/$1/$name/net-dev"
    done
}
copy before
scrape page.prom
copy after

docker inspect --format '{{.Name}} {{.Id}} {{.State.Status}} {{.RestartCount}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.Created}} {{.State.StartedAt}} {{.State.FinishedAt}} {{.HostConfig.Memory}} {{.Config.Image}}' \
    limited load loop whole child checked ended sender >$out/inspect
# Docker may miss the event of a container that ends with its cgroup.
docker events --since 1h --until 0s --filter event=oom \
    --format '{{.Actor.Attributes.name}}' >$out/ooms
for disk in /sys/block/*; do
    echo "$(cat "$disk/dev") ${disk##*/}"
done >$out/disks
