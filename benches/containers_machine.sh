#!/bin/sh
# Runs in the virtual machine of tests/machine for containers.py, next to ./strata_exporter, ./floor and
# its input files ./flags, ./numbers, ./controllers and ./files. Takes the same measurements as
# containers.py and writes them to out/figures.
set -eu

rounds=$(cat rounds)
top=/sys/fs/cgroup/strata-bench
user_hz=100

# scrape: fetch /metrics like Prometheus.
scrape() {
    busybox wget -q -O out/page.gz --header 'Accept-Encoding: gzip' \
        --header 'Accept: application/openmetrics-text;version=1.0.0' \
        http://127.0.0.1:9100/metrics
}

# ticks: CPU time of the exporter, in clock ticks.
ticks() {
    # shellcheck disable=SC2046 # words
    set -- $(cat "/proc/$exporter/stat")
    echo $((${14} + ${15}))
}

while read -r number; do
    mkdir -p $top/docker
    for parent in /sys/fs/cgroup $top $top/docker; do
        cat controllers >$parent/cgroup.subtree_control
    done
    for i in $(seq "$number"); do
        group=$top/docker/$(printf %064x "$i")
        mkdir "$group"
        present=
        for file in $(cat files); do
            [ ! -e "$group/$file" ] || present="$present $file"
        done
        echo "$group$present"
    done >out/groups
    # shellcheck disable=SC2046 # words
    ./strata_exporter $(cat flags) >out/log 2>&1 &
    exporter=$!
    until scrape 2>/dev/null; do
        kill -0 $exporter
        sleep 1
    done
    scrape
    each=$((2000 / (number + 20)))
    [ $each -ge 5 ] || each=5
    for round in $(seq "$rounds"); do
        before=$(ticks)
        for i in $(seq $each); do
            scrape
        done
        after=$(ticks)
        echo "$number scrapes $((after - before)) $((each * user_hz))"
        for mode in open keep; do
            if nanoseconds=$(./floor $mode $each <out/groups 2>out/floor.log); then
                echo "$number $mode $nanoseconds"
            fi
        done
    done
    resident=$(sed -n 's/^VmRSS:\t *\([0-9]*\) kB/\1/p' /proc/$exporter/status)
    before=$(ticks)
    sleep 10
    after=$(ticks)
    echo "$number idle $((after - before)) $((10 * user_hz))"
    gunzip <out/page.gz >out/page
    exposed=$(grep -c '^container_memory_usage_bytes{id="/strata-bench/docker/' out/page)
    echo "$number page $(grep -vc '^#' out/page) $resident $exposed"
    kill $exporter
    wait $exporter || true
    find $top -depth -type d -exec rmdir {} \;
done <numbers >out/figures
