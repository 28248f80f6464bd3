#!/bin/sh
# Runs in the virtual machine, next to ./strata_exporter: alternately scrapes it and Debian's node_exporter
# with the flags in ./flags, as root and as nobody, for tests/system/v2_machine to compare. Then tests systemd
# socket activation.
set -eu

die() {
    echo "compare.sh: $*"
    exit 1
}

# scrape PORT FILE
scrape() {
    timeout 60 busybox wget -q -O "out/$2" "http://127.0.0.1:$1/metrics"
}

# await PORT PROCESS: waits until the exporter responds.
await() {
    while kill -0 "$2"; do
        if busybox wget -q -O /dev/null "http://127.0.0.1:$1/metrics" 2>/dev/null; then
            return
        fi
        sleep 1
    done
    die "exporter on port $1 exited"
}

# alternate USER ANCHOR-PORT PORT: scrapes three rounds. A difference in all rounds is real; one in a single
# round may be due to timing.
alternate() {
    for round in 1 2 3; do
        scrape "$2" "$1-before-$round.prom"
        scrape "$3" "$1-ours-$round.prom"
        scrape "$2" "$1-after-$round.prom"
    done
}

# Create what collectors report: a container, a login session, a failed unit.
tar c -C / bin/busybox | docker import - bb >out/image
docker run -d --rm bb /bin/busybox sleep 3600 >out/container
systemd-run --quiet --property=PAMName=login --uid=root sleep 3600
systemd-run --quiet --unit=broken.service false || true

# Debian's arguments file is not used: it belongs to the unit.
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
alternate root 9101 9100
alternate nobody 9103 9102

# Three rounds and one initial scrape were made already.
for _ in $(seq 26); do
    scrape 9100 last.prom
done &
soak=$!

# Without the bus, through systemd's private socket.
./strata_exporter --web.listen-address=127.0.0.1:9104 --collector.disable-defaults \
    --collector.systemd --collector.systemd.private >>out/ours.log 2>&1 &
await 9104 "$!"
scrape 9104 private.prom
grep -q '^node_systemd_unit_state{name="broken.service",state="failed".* 1$' out/private.prom ||
    die "no failed unit reported through systemd's private socket"

# Socket activation, with a dynamic user.
units=/run/systemd/system
printf '%s\n' '[Socket]' 'ListenStream=127.0.0.1:9105' >$units/strata.socket
printf '%s\n' '[Service]' 'DynamicUser=yes' \
    "ExecStart=$PWD/strata_exporter --web.systemd-socket" >$units/strata.service
systemctl daemon-reload
systemctl start strata.socket
state() {
    systemctl show --value --property="$1" strata.service
}
[ "$(state ActiveState)" = inactive ] || die "strata.service was started without a request"
scrape 9105 socket.prom || die "strata.service does not serve"
[ "$(state ActiveState)" = active ] || die "strata.service is $(state ActiveState)"
grep -q '^node_load1 ' out/socket.prom || die "strata.service returned no metrics"
first=$(state MainPID)
systemctl stop strata.service
[ "$(state Result)" = success ] || die "strata.service stopped with $(state Result)"
scrape 9105 socket.prom || die "strata.service does not serve again"
[ "$(state MainPID)" != "$first" ] || die "strata.service was not stopped"

wait "$soak"
resident=$(sed -n 's/^process_resident_memory_bytes //p' out/last.prom)
echo "resident after 30 scrapes: $resident bytes"
