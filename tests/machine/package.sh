#!/bin/sh
# Runs in the virtual machine, next to ./strata_exporter and ./strata_exporter.deb: installs the package and
# alternately scrapes its service and the same binary without the unit's restrictions, for
# tests/system/v2_machine to compare. Then changes the unit as described in examples/systemd, upgrades and
# purges the package.
set -eu

out=out/package
free=9108
flags='--collector.systemd --collector.systemd.private --collector.logind
    --collector.network_route --collector.processes --collector.qdisc --collector.slabinfo
    --collector.tcpstat --collector.container_network.tcp'
service=strata_exporter.service
drop_ins=/etc/systemd/system/$service.d
mkdir -p $out

die() {
    journalctl --no-pager --lines=20 --unit=$service --unit=strata_exporter.socket || true
    echo "package.sh: $*"
    exit 1
}

# scrape PORT FILE [QUERY]
scrape() {
    timeout 60 busybox wget -q -O "$out/$2" "http://127.0.0.1:$1/metrics${3-}"
}

# expect STATE: checks the state of the service and its socket.
expect() {
    for unit in "$service" strata_exporter.socket; do
        state=$(systemctl is-active "$unit") || true
        [ "$state" = "$1" ] || die "$unit is $state, not $1"
    done
}

# await COMMAND...: waits until the command succeeds.
await() {
    for _ in $(seq 60); do
        if "$@"; then
            return
        fi
        sleep 1
    done
    die "timed out waiting for: $*"
}

# has_sample PORT PATTERN: whether the exposition has a matching line.
has_sample() {
    scrape "$1" poll.prom \
        '?collect[]=container_memory&collect[]=history&collect[]=loadavg' && grep -q "$2" $out/poll.prom
}

tar c -C / bin/busybox | docker import - bb >$out/image
docker run --detach --rm --name seen --memory=32m bb /bin/busybox sleep 3600 >$out/container
# File systems on directories that only root may access.
mkdir -p /srv/closed
chmod 700 /srv/closed
mount -t tmpfs -o size=3m tmpfs /srv/closed
mount -t tmpfs -o size=5m,mode=700 tmpfs /home

dpkg --install strata_exporter.deb >$out/install.log 2>&1 || die "$(cat $out/install.log)"
expect active
systemctl is-enabled $service strata_exporter.socket >$out/enabled || die "not enabled"
# Unit states come from systemd's private socket, which only root may use.
# shellcheck disable=SC2086 # words
set -- $flags
echo "ARGS=\"$*\"" >/etc/default/strata_exporter
systemctl restart $service

./strata_exporter --web.listen-address=127.0.0.1:$free "$@" >out/package-free.log 2>&1 &
unlimited=$!
for port in 9100 $free; do
    await has_sample "$port" '^container_cpu_usage_percent_max{.*name="seen"'
done
for round in 1 2; do
    scrape $free "free-before-$round.prom"
    scrape 9100 "unit-$round.prom"
    scrape $free "free-after-$round.prom"
done
kill $unlimited
systemd-analyze security --no-pager $service >$out/security
[ -s /var/lib/strata_exporter/installation-id ] || die "installation-id is missing"

# Upgrade.
dpkg --install strata_exporter.deb >$out/upgrade.log 2>&1 || die "$(cat $out/upgrade.log)"
expect active
grep -q collector /etc/default/strata_exporter || die "the upgrade removed the flags"
scrape 9100 upgraded.prom || die "no response after the upgrade"

# As an unprivileged user.
echo 'ARGS=' >/etc/default/strata_exporter
mkdir -p $drop_ins
cp /usr/share/doc/strata-exporter/examples/unprivileged.conf $drop_ins/
systemctl daemon-reload
systemctl restart $service
expect active
scrape 9100 unprivileged.prom || die "no response without privileges"
echo "SupplementaryGroups=docker" >>$drop_ins/unprivileged.conf
systemctl daemon-reload
systemctl restart $service
await has_sample 9100 '^container_memory_usage_bytes{.*name="seen"'

# On its own port, without the socket unit.
rm $drop_ins/unprivileged.conf
cp /usr/share/doc/strata-exporter/examples/own-port.conf $drop_ins/
echo 'ARGS=--web.listen-address=:9109' >/etc/default/strata_exporter
systemctl --quiet mask --now strata_exporter.socket
systemctl daemon-reload
systemctl restart $service
await has_sample 9109 '^node_load1 '
systemctl --quiet unmask strata_exporter.socket
rm -r $drop_ins

dpkg --purge strata-exporter >$out/purge.log 2>&1 || die "$(cat $out/purge.log)"
expect inactive
for left in /etc/default/strata_exporter /var/lib/strata_exporter \
    /usr/lib/systemd/system/$service /etc/systemd/system/*/"$service"; do
    [ ! -e "$left" ] || die "$left was not removed"
done
docker rm --force seen >/dev/null
docker rmi --force bb >/dev/null
umount /srv/closed /home
