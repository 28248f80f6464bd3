#!/bin/sh
# Runs in the machine, beside ./strata_exporter: scrapes it and Debian's node_exporter
# in turns, with the flags of ./flags, for tests/v2_machine.rs to compare.
set -eu

# scrape PORT FILE
scrape() {
    busybox wget -q -O "out/$2" "http://127.0.0.1:$1/metrics"
}

# await PORT PROCESS: until it answers there.
await() {
    while kill -0 "$2"; do
        if busybox wget -q -O /dev/null "http://127.0.0.1:$1/metrics" 2>/dev/null; then
            return
        fi
        sleep 1
    done
    echo "nobody will answer at port $1"
    exit 1
}

# Something to see: a container, a login session, a unit that failed.
tar c -C / bin/busybox | docker import - bb >out/image
docker run -d --rm bb /bin/busybox sleep 3600 >out/container
systemd-run --quiet --property=PAMName=login --uid=root sleep 3600
systemd-run --quiet --unit=broken.service false || true

# Debian's own file of arguments is not read: it belongs to the unit.
xargs prometheus-node-exporter --web.listen-address=127.0.0.1:9101 \
    <flags >out/anchor.log 2>&1 &
anchor=$!
xargs ./strata_exporter --web.listen-address=127.0.0.1:9100 <flags >out/ours.log 2>&1 &
ours=$!
await 9101 "$anchor"
await 9100 "$ours"

# Without a bus systemd is asked at its own socket.
./strata_exporter --web.listen-address=127.0.0.1:9102 --collector.disable-defaults \
    --collector.systemd --collector.systemd.private >>out/ours.log 2>&1 &
await 9102 "$!"
scrape 9102 private.prom
grep -q '^node_systemd_unit_state{name="broken.service",state="failed".* 1$' out/private.prom

# What differs in every round differs; what does not was only late.
for round in 1 2 3; do
    scrape 9101 "before-$round.prom"
    scrape 9100 "ours-$round.prom"
    scrape 9101 "after-$round.prom"
done
