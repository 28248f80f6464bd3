#!/bin/sh
# Runs in the virtual machine, next to ./strata_exporter, after the other scripts: sets the clock back by a
# day while the exporter is scraped, and forward again. tests/system/v2_machine/clock.rs checks the results.
# The container of compare.sh is still running.
set -eu

port=9107
out=out/clock
mkdir -p $out

die() {
    echo "clock.sh: $*"
    exit 1
}

# scrape FILE
scrape() {
    timeout 60 busybox wget -q -O "$out/$1" "http://127.0.0.1:$port/metrics"
}

# hundredths: time since boot in hundredths of a second, which setting the clock does not change.
hundredths() {
    read -r up _ </proc/uptime
    echo "${up%.*}${up#*.}"
}

# timed FILE NAME: scrapes and records the duration in milliseconds.
timed() {
    before=$(hundredths)
    scrape "$1"
    echo "$2 $((($(hundredths) - before) * 10))" >>$out/figures
}

# record_idle NAME: records the resources used while idle.
record_idle() {
    sleep 1
    set -- "$1" /proc/$exporter/fd/*
    echo "$1-fds $(($# - 1))" >>$out/figures
    sed -n "s/^Threads:/$1-threads/p; s/^VmRSS:/$1-resident/p" /proc/$exporter/status |
        while read -r name number _; do echo "$name $number"; done >>$out/figures
    wc -l <$out/log | sed "s/^/$1-lines /" >>$out/figures
}

# set_clock SECONDS: changes the clock by this many seconds.
set_clock() {
    busybox date -s "@$(($(date +%s) + $1))" >/dev/null || die "cannot set the clock"
}

./strata_exporter --web.listen-address=127.0.0.1:$port --collector.disable-defaults \
    --collector.loadavg --collector.meminfo --collector.stat --collector.time \
    --collector.container_cpu --collector.container_engine \
    --collector.container_lifecycle --collector.container_memory \
    --collector.history '--cgroup.exclude=^/(system.slice/[^d]|user|init)' >$out/log 2>&1 &
exporter=$!
for _ in $(seq 60); do
    if scrape before.prom 2>/dev/null && grep -q '^container_cpu_usage_percent_max{.*name=' $out/before.prom; then
        break
    fi
    kill -0 $exporter || die "the exporter exited"
    sleep 1
done
scrape before.prom
record_idle well
set_clock -86400
timed back.prom first
for _ in $(seq 8); do
    scrape back.prom
done
timed back.prom tenth
record_idle ten
# Pipelined on one connection.
{
    for _ in $(seq 89); do
        printf 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n'
    done
    printf 'GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
} | timeout 300 busybox nc 127.0.0.1 $port >$out/row
echo "answers $(grep -c '^HTTP/1.1 200 ' $out/row)" >>$out/figures
rm $out/row
scrape back.prom
record_idle all
set_clock 86400
scrape after.prom
kill $exporter
