#!/usr/bin/env python3
"""Measures the cost of scraping N libvirt domains.

    benches/domains.py [--short] [--json] [--numbers N,N...] [--flag=FLAG...]
                       [--strata PATH] [--libvirt-exporter PATH]

A libvirt daemon with private directories runs emulated, idle domains of 96 MB, each with three disks,
two network interfaces and a balloon. Debian's prometheus-libvirt-exporter and strata_exporter, with
only its libvirt collector, are scraped in alternating rounds like Prometheus does. The compared CPU time
is that of the exporter plus the libvirt daemon, measured by the kernel over all threads.

Then one domain is stopped by a signal, so that its monitor hangs, and strata_exporter is scraped with a
deadline of two seconds.

Requires root, libvirtd, and the kernel of the machine that tests/setup.sh builds.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from containers import hierarchies
from host import ROOT, Exporter, terminate, series

# The targets.
WALL, CPU = 0.5, 0.33
DEADLINE = 2
DISKS = ["vda", "vdb", "vdc"]
# In dependency order.
MODULES = """
    drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev
    drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci net/core/failover
    drivers/net/net_failover drivers/net/virtio_net drivers/virtio/virtio_balloon
    drivers/block/virtio_blk
""".split()
INIT = f"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc none /proc
$b mount -t sysfs none /sys
$b mount -t devtmpfs none /dev
for m in {" ".join(Path(module).name for module in MODULES)}; do
    $b insmod /mod/$m.ko || echo MISSING $m
done
for d in {" ".join(DISKS)}; do
    $b dd if=/dev/zero of=/dev/$d bs=4k count=64 conv=fsync 2>/dev/null
    $b dd if=/dev/$d of=/dev/null bs=64k count=16 2>/dev/null
done
for n in eth0 eth1; do
    $b ip link set $n up
done
echo BOOTED
while :; do
    $b sleep 3600
done
"""
# libvirt looks up this user even if another one is configured.
USER = "libvirt-qemu:x:64055:"
PRIVATE_DIRECTORIES = """
    cd "$0"
    mount --bind passwd /etc/passwd
    mount --bind group /etc/group
    for p in etc:/etc run:/run var:/var/lib cache:/var/cache log:/var/log; do
        mkdir -p ${p#*:}/libvirt
        mount --bind ${p%%:*} ${p#*:}/libvirt
    done
    exec libvirtd -f "$0/libvirtd.conf" -p "$0/libvirtd.pid" --timeout 0
"""


class Domains:
    """A libvirt daemon and its domains."""

    def __init__(self, machine):
        self.dir = Path(tempfile.mkdtemp(prefix="strata-bench-"))
        self.names = []
        self.daemon = None
        first, second = hierarchies()
        # The parent cgroup of domains without systemd; libvirt never removes it.
        parents = [root / "machine" for root in {*first.values(), second} if root]
        self.parents = [parent for parent in parents if not parent.exists()]
        try:
            self.kernel = machine / "vmlinuz"
            self.initrd = self.dir / "initrd.gz"
            self.initrd.write_bytes(initrd(machine, self.dir))
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self):
        for name in ["etc/qemu/networks", "run", "var", "cache", "log"]:
            (self.dir / name).mkdir(parents=True)
        (self.dir / "etc/qemu.conf").write_text(
            'user = "root"\ngroup = "root"\nstdio_handler = "file"\n'
            'security_driver = "none"\nremember_owner = 0\n'
        )
        (self.dir / "libvirtd.conf").write_text('auth_unix_ro = "none"\nauth_unix_rw = "none"\n')
        for name, line in [("passwd", f"{USER}64055::/:/bin/false\n"), ("group", f"{USER}\n")]:
            known = Path("/etc", name).read_text()
            (self.dir / name).write_text(known if USER.split(":")[0] in known else known + line)
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", PRIVATE_DIRECTORIES, self.dir]
        log = open(self.dir / "stderr", "wb")
        self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(600):
            if self.virsh("version").returncode == 0:
                return
            if self.daemon.poll() is not None:
                break
            time.sleep(0.1)
        sys.exit(f"libvirtd failed to start:\n{(self.dir / 'stderr').read_text()[-2000:]}")

    def uri(self, socket):
        return f"qemu+unix:///system?socket={self.dir}/run/{socket}"

    def virsh(self, *words):
        words = ["virsh", "--quiet", "--connect", self.uri("libvirt-sock"), *words]
        return subprocess.run(words, capture_output=True, text=True)

    def run_virsh(self, *words):
        run = self.virsh(*words)
        if run.returncode:
            sys.exit(f"virsh {' '.join(map(str, words))}: {run.stderr}")
        return run.stdout

    def grow(self, number):
        """Starts domains until `number` have booted."""
        while len(self.names) < number:
            name = f"s{os.getpid()}g{len(self.names)}"
            disks = ""
            for disk in DISKS:
                image = self.dir / f"{name}-{disk}.qcow2"
                subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "32M"], check=True)
                disks += f"""
                    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
                    <source file='{image}'/><target dev='{disk}' bus='virtio'/></disk>"""
            nics = "".join(
                f"<interface type='ethernet'><target dev='{name}{n}'/><model type='virtio'/></interface>"
                for n in "ab"
            )
            xml = self.dir / f"{name}.xml"
            xml.write_text(f"""
                <domain type='qemu'><name>{name}</name><memory unit='MiB'>96</memory><vcpu>1</vcpu>
                <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{self.kernel}</kernel>
                <initrd>{self.initrd}</initrd><cmdline>console=ttyS0 quiet</cmdline></os>
                <devices>{disks}{nics}<controller type='usb' model='none'/>
                <serial type='file'><source path='{self.dir}/{name}.console'/></serial>
                <memballoon model='virtio'><stats period='1'/></memballoon></devices></domain>""")
            self.names.append(name)
            self.run_virsh("define", xml)
            self.run_virsh("start", name)
        for name in self.names:
            console = self.dir / f"{name}.console"
            for _ in range(3000):
                if "BOOTED" in console.read_text(errors="replace"):
                    break
                time.sleep(0.1)
            else:
                sys.exit(f"{name} failed to boot:\n{console.read_text(errors='replace')[-2000:]}")
            if "MISSING" in console.read_text(errors="replace"):
                sys.exit(f"{name} is missing a driver:\n{console.read_text(errors='replace')}")

    def cpu(self):
        """CPU time used by the daemon, in seconds."""
        return time.clock_gettime(~self.daemon.pid << 3 | 2)

    def signal(self, name, number):
        os.kill(int((self.dir / f"run/qemu/{name}.pid").read_text()), number)

    def remove(self):
        if self.daemon:
            for name in self.names:
                # QEMU processes are not children of the daemon.
                self.virsh("destroy", name)
            terminate(self.daemon)
        for parent in self.parents:
            try:
                parent.rmdir()
            except OSError:
                pass
        shutil.rmtree(self.dir, ignore_errors=True)


def initrd(machine, scratch):
    """An initramfs with busybox and the drivers for the domain's devices."""

    def debugfs(command):
        words = ["debugfs", "-R", command, machine / "root.img"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    entries = [(directory, 0o40755, b"") for directory in ["bin", "dev", "proc", "sys", "mod"]]
    entries.append(("init", 0o100755, INIT.encode()))
    entries.append(("bin/busybox", 0o100755, Path(shutil.which("busybox")).read_bytes()))
    version = re.search(r"\d+\.\d+\.\S+", debugfs("ls -p /usr/lib/modules"))[0].split("/")[0]
    for module in MODULES:
        name = f"{Path(module).name}.ko"
        debugfs(f"dump /usr/lib/modules/{version}/kernel/{module}.ko {scratch}/{name}")
        entries.append((f"mod/{name}", 0o100644, (scratch / name).read_bytes()))
    entries.append(("TRAILER!!!", 0, b""))

    def padded(some):
        return some + bytes(-len(some) % 4)

    # Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
    archive = b""
    for number, (name, mode, content) in enumerate(entries):
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        header = "070701" + "".join(f"{field:08x}" for field in fields) + name + "\0"
        archive += padded(header.encode()) + padded(content)
    return gzip.compress(archive)


def exporters(arguments, domains):
    """Starts Debian's exporter and strata_exporter."""
    theirs = [arguments.libvirt_exporter, f"--libvirt.uri={domains.uri('libvirt-sock-ro')}"]
    ours = [arguments.strata, "--collector.disable-defaults", "--collector.libvirt"]
    ours += [f"--libvirt.uri={domains.dir}/run/libvirt-sock-ro", *arguments.flag]
    all_results = []
    try:
        all_results.append(Exporter("libvirt_exporter", theirs))
        all_results.append(Exporter("strata_exporter", ours))
    except BaseException:
        stop(all_results)
        raise
    return all_results


def stop(all_results):
    for exporter in all_results:
        exporter.stop()


def values_by_domain(body, family):
    """The values of a family, by domain."""
    pattern = rf'^{family}{{[^}}]*domain="([^"]+)"[^}}]*}} (\S+)'
    return {name: float(value) for name, value in re.findall(pattern, body.decode(), re.MULTILINE)}


def is_complete(body, names):
    """The domains with complete metrics, according to strata_exporter."""
    partial = values_by_domain(body, "libvirt_domain_stats_partial")
    # Disk and balloon statistics require the QEMU monitor.
    disks = values_by_domain(body, "libvirt_domain_block_stats_read_bytes_total")
    balloon = values_by_domain(body, "libvirt_domain_memory_stats_unused_bytes")
    return [name for name in names if partial.get(name) == 0 and name in disks and name in balloon]


def measure(arguments, domains):
    """Results by exporter."""
    rounds, each = (2, 3) if arguments.short else (12, 8)
    all_results = exporters(arguments, domains)
    figures = {exporter.name: {"wall": [], "cpu": [], "daemon": []} for exporter in all_results}
    try:
        # Balloon statistics are updated every second, after the first request.
        for _ in range(2):
            for exporter in all_results:
                for _ in range(each):
                    exporter.scrape()
            time.sleep(1.5)
        for _ in range(rounds):
            for exporter in all_results:
                of = figures[exporter.name]
                cpu, daemon = exporter.cpu(), domains.cpu()
                for _ in range(each):
                    wall = time.perf_counter()
                    body = exporter.scrape()
                    of["wall"].append(time.perf_counter() - wall)
                of["cpu"].append((exporter.cpu() - cpu) / each)
                of["daemon"].append((domains.cpu() - daemon) / each)
                of.update(series=series(body), rss=exporter.memory())
                shown = values_by_domain(body, "libvirt_domain_block_stats_read_bytes_total")
                if set(shown) != set(domains.names):
                    sys.exit(f"{exporter.name} exposes {sorted(shown)} of {domains.names}")
        missing = set(domains.names) - set(is_complete(body, domains.names))
        if missing:
            sys.exit(f"strata_exporter has incomplete metrics of {sorted(missing)}")
    finally:
        stop(all_results)
    for of in figures.values():
        of["sum"] = statistics.median(map(sum, zip(of["cpu"], of["daemon"])))
        of["p90"] = statistics.quantiles(of["wall"], n=10)[-1]
        for key in ("wall", "cpu", "daemon"):
            of[key] = statistics.median(of[key])
    return figures


def report(figures, number):
    theirs, ours = figures["libvirt_exporter"], figures["strata_exporter"]
    print(f"\n## {number} domains\n")
    print("| per scrape | libvirt_exporter | strata_exporter | ratio |")
    print("|---|---|---|---|")
    for name, key, scale, unit in [
        ("wall", "wall", 1e3, "ms"),
        ("wall, 90th percentile", "p90", 1e3, "ms"),
        ("CPU of the exporter", "cpu", 1e3, "ms"),
        ("CPU of the daemon", "daemon", 1e3, "ms"),
        ("CPU of both", "sum", 1e3, "ms"),
        ("series", "series", 1, ""),
        ("RSS", "rss", 1, "MB"),
    ]:
        a, b = theirs[key] * scale, ours[key] * scale
        digits = 0 if key == "series" else 2
        print(f"| {name} | {a:.{digits}f} {unit} | {b:.{digits}f} {unit} | {b / a:.2f} |")
    wall, cpu = (ours[key] / theirs[key] for key in ("wall", "sum"))
    print(f"\nWall ratio {wall:.3f} (target: at most {WALL}); CPU ratio {cpu:.3f} (target: at most {CPU}).")
    sys.stdout.flush()


def hang(arguments, domains):
    """Scrapes strata_exporter before, during and after the hang of one domain."""
    scrapes = 3 if arguments.short else 10
    all_results = exporters(arguments, domains)
    ours, hung = all_results[1], domains.names[0]
    results = []

    def scrape(when):
        wall = time.perf_counter()
        body = ours.scrape(DEADLINE)
        wall = time.perf_counter() - wall
        results.append({"when": when, "wall": wall, "complete": len(is_complete(body, domains.names))})

    try:
        for _ in range(scrapes):
            scrape("before")
        domains.signal(hung, signal.SIGSTOP)
        try:
            for _ in range(scrapes):
                scrape("hangs")
        finally:
            domains.signal(hung, signal.SIGCONT)
        time.sleep(0.5)
        for _ in range(scrapes):
            scrape("after")
    finally:
        stop(all_results)
    print(f"\n## One of {len(domains.names)} domains hangs, deadline {DEADLINE} s\n")
    print("| state of the domain | complete domains | wall time per scrape, ms |")
    print("|---|---|---|")
    for when, title in [("before", "runs"), ("hangs", "hangs"), ("after", "runs again")]:
        of = [one for one in results if one["when"] == when]
        complete = ", ".join(str(one["complete"]) for one in of)
        walls = ", ".join(f"{one['wall'] * 1e3:.0f}" for one in of)
        print(f"| {title} | {complete} | {walls} |")
    sys.stdout.flush()
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="smoke test: few rounds")
    parser.add_argument("--json", action="store_true", help="also print the results as JSON")
    parser.add_argument("--numbers", help="domain counts; default 2,10,20")
    parser.add_argument("--flag", action="append", default=[], help="additional flag for strata_exporter")
    parser.add_argument("--strata", default=str(ROOT / "target/release/strata_exporter"), help="path of strata_exporter")
    parser.add_argument("--libvirt-exporter", default="prometheus-libvirt-exporter", help="path of the exporter to compare with")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("root is required to run a libvirt daemon")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    programs = [arguments.strata, arguments.libvirt_exporter]
    for program in [*programs, "libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "busybox", "debugfs"]:
        if not shutil.which(program):
            sys.exit(f"{program} not found; see docs/benchmarks.md")
    machine = Path(os.environ.get("STRATA_MACHINE_DIR", ROOT / "target/machine"))
    if not (machine / "stamp").exists():
        sys.exit(f"no virtual machine image in {machine}: run tests/setup.sh")
    default = "2" if arguments.short else "2,10,20"
    numbers = sorted(int(number) for number in (arguments.numbers or default).split(","))

    domains = Domains(machine.resolve())
    all_results = {}
    try:
        for number in numbers:
            domains.grow(number)
            all_results[number] = measure(arguments, domains)
            report(all_results[number], number)
        all_results["hung"] = hang(arguments, domains)
    finally:
        domains.remove()
    if arguments.json:
        print(json.dumps(all_results))


if __name__ == "__main__":
    main()
