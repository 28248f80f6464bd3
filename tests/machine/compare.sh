#!/bin/sh
# Runs in the machine, beside ./strata_exporter: scrapes it and Debian's node_exporter
# in turns, with the flags of ./flags, as root and as nobody, for tests/v2_machine
# to compare. Then has systemd start it at the first request.
set -eu

die() {
    echo "compare.sh: $*"
    exit 1
}

# scrape PORT FILE
scrape() {
    timeout 60 busybox wget -q -O "out/$2" "http://127.0.0.1:$1/metrics"
}

# await PORT PROCESS: until it answers there.
await() {
    while kill -0 "$2"; do
        if busybox wget -q -O /dev/null "http://127.0.0.1:$1/metrics" 2>/dev/null; then
            return
        fi
        sleep 1
    done
    die "nobody will answer at port $1"
}

# turns USER ANCHOR-PORT PORT: what differs in every round differs; what does not was
# only late.
turns() {
    for round in 1 2 3; do
        scrape "$2" "$1-before-$round.prom"
        scrape "$3" "$1-ours-$round.prom"
        scrape "$2" "$1-after-$round.prom"
    done
}

# Something to see: a container, a login session, a unit that failed.
tar c -C / bin/busybox | docker import - bb >out/image
docker run -d --rm bb /bin/busybox sleep 3600 >out/container
systemd-run --quiet --property=PAMName=login --uid=root sleep 3600
systemd-run --quiet --unit=broken.service false || true

# Debian's own file of arguments is not read: it belongs to the unit.
as_nobody="setpriv --reuid=nobody --regid=nogroup --clear-groups"
xargs prometheus-node-exporter --web.listen-address=127.0.0.1:9101 \
    <flags >out/anchor.log 2>&1 &
anchor=$!
xargs ./strata_exporter --web.listen-address=127.0.0.1:9100 <flags >out/ours.log 2>&1 &
ours=$!
# shellcheck disable=SC2086 # words
xargs $as_nobody prometheus-node-exporter --web.listen-address=127.0.0.1:9103 \
    <flags >out/nobody-anchor.log 2>&1 &
nobody_anchor=$!
# shellcheck disable=SC2086 # words
xargs $as_nobody ./strata_exporter --web.listen-address=127.0.0.1:9102 \
    <flags >out/nobody-ours.log 2>&1 &
nobody_ours=$!
await 9101 "$anchor"
await 9100 "$ours"
await 9103 "$nobody_anchor"
await 9102 "$nobody_ours"
turns root 9101 9100
turns nobody 9103 9102

# Three turns and one to begin with were scraped already.
for _ in $(seq 26); do
    scrape 9100 last.prom
done &
soak=$!

# Without a bus systemd is asked at its own socket.
./strata_exporter --web.listen-address=127.0.0.1:9104 --collector.disable-defaults \
    --collector.systemd --collector.systemd.private >>out/ours.log 2>&1 &
await 9104 "$!"
scrape 9104 private.prom
grep -q '^node_systemd_unit_state{name="broken.service",state="failed".* 1$' out/private.prom ||
    die "systemd's own socket does not tell what failed"

# Started by the first request, with a user of its own.
units=/run/systemd/system
printf '%s\n' '[Socket]' 'ListenStream=127.0.0.1:9105' >$units/strata.socket
printf '%s\n' '[Service]' 'DynamicUser=yes' \
    "ExecStart=$PWD/strata_exporter --web.systemd-socket" >$units/strata.service
systemctl daemon-reload
systemctl start strata.socket
state() {
    systemctl show --value --property="$1" strata.service
}
[ "$(state ActiveState)" = inactive ] || die "nobody asked, and strata.service started"
scrape 9105 socket.prom || die "strata.service does not serve"
[ "$(state ActiveState)" = active ] || die "strata.service is $(state ActiveState)"
grep -q '^node_load1 ' out/socket.prom || die "strata.service serves nothing"
first=$(state MainPID)
systemctl stop strata.service
[ "$(state Result)" = success ] || die "strata.service stopped with $(state Result)"
scrape 9105 socket.prom || die "strata.service does not serve again"
[ "$(state MainPID)" != "$first" ] || die "strata.service was not stopped"

wait "$soak"
resident=$(sed -n 's/^process_resident_memory_bytes //p' out/last.prom)
echo "resident after 30 scrapes: $resident bytes"
