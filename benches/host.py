#!/usr/bin/env python3
"""Scrapes node_exporter and strata_exporter in turn and prints what each costs.

    benches/host.py [--short] [--interfaces N] [--node-exporter PATH] [--strata PATH]

Both run at the same time on this machine, with the same collectors, and are scraped
in alternating rounds as Prometheus does it (kept connection, OpenMetrics wished for,
gzip), so that what else the machine does hits both alike. The figure that counts is
the ratio. CPU time is the kernel's own, in nanoseconds, of all threads that there were.

With --interfaces N the whole runs in a network namespace of its own with N veth
interfaces, which needs root and iproute2. Without it, both namespaces are measured:
the one we are in, and, as root, one with 96 interfaces.
"""

import argparse
import gzip
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What Prometheus 2.42 sends.
HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}
# Debian's defaults are not upstream's, so that each would look at other things.
FILTERS = [
    "--collector.filesystem.mount-points-exclude="
    "^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)",
    "--collector.netdev.device-exclude=",
    "--collector.textfile.directory=",
]
# The targets of the issue that asked for this benchmark: CPU per scrape against node_exporter's.
FEW, MANY = 0.35, 0.2


class Exporter:
    """A running exporter."""

    def __init__(self, name, command):
        self.name = name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = command + [f"--web.listen-address=127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            self.wait(command)
        except BaseException:
            self.stop()
            raise

    def wait(self, command):
        """Until it answers."""
        for _ in range(200):
            try:
                self.scrape()
                return
            except OSError:
                self.connection.close()
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        sys.exit(f"{self.name} does not start: {' '.join(command)}")

    def scrape(self, deadline=10):
        headers = {**HEADERS, "X-Prometheus-Scrape-Timeout-Seconds": str(deadline)}
        self.connection.request("GET", "/metrics", headers=headers)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            sys.exit(f"{self.name} answers {answer.status}: {body[:200]!r}")
        return gzip.decompress(body) if answer.getheader("Content-Encoding") == "gzip" else body

    def cpu(self):
        """CPU time so far, in seconds.

        Not the sum over /proc/PID/task: that forgets the threads that have ended.
        """
        # What clock_getcpuclockid(3) makes of a process.
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def memory(self, which="VmRSS"):
        """Resident memory in MB: all of it, or that which is its own (RssAnon), and the like."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{which}:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()


def switches(help_text):
    """The collectors that a --help text names."""
    names = re.findall(r"--(?:\[no-\])?collector\.(\w+)(?=[\s\[])", help_text)
    return set(names)


def same_collectors(node_exporter, strata):
    """Those that are on by default here and that both have."""

    def helped(binary):
        run = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True)
        return run.stdout + run.stderr

    ours = helped(strata)
    on = re.findall(r"--collector\.(\w+)\[=<BOOL>\]\s+Collect [^\[]*\[default: on\]", ours)
    return sorted(set(on) & switches(helped(node_exporter)))


def series(body):
    return sum(1 for line in body.splitlines() if line and not line.startswith(b"#"))


def measure(exporters, rounds, scrapes):
    """Medians over the rounds, by exporter."""
    seen = {exporter.name: {"cpu": [], "wall": []} for exporter in exporters}
    for exporter in exporters:
        for _ in range(scrapes):
            exporter.scrape()
    for _ in range(rounds):
        for exporter in exporters:
            cpu, wall = exporter.cpu(), time.perf_counter()
            for _ in range(scrapes):
                body = exporter.scrape()
            seen[exporter.name]["wall"].append((time.perf_counter() - wall) / scrapes)
            seen[exporter.name]["cpu"].append((exporter.cpu() - cpu) / scrapes)
            seen[exporter.name]["series"] = series(body)
            seen[exporter.name]["bytes"] = len(body)
            seen[exporter.name]["rss"] = exporter.memory()
    for figures in seen.values():
        for key in ("cpu", "wall"):
            figures[key] = statistics.median(figures[key])
    return seen


def end(process):
    """Ends a daemon, which may have much to see to first."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def idle(exporter, seconds):
    """CPU seconds per second while nobody asks."""
    before = exporter.cpu()
    time.sleep(seconds)
    return (exporter.cpu() - before) / seconds


def report(title, seen, idle_cpu, collectors, target):
    theirs, ours = seen["node_exporter"], seen["strata_exporter"]
    print(f"\n## {title}\n")
    print(f"{len(collectors)} collectors on in both: {', '.join(collectors)}\n")
    print("| per scrape | node_exporter | strata_exporter | ratio |")
    print("|---|---|---|---|")
    for name, key, scale, unit in [
        ("CPU", "cpu", 1e3, "ms"),
        ("wall", "wall", 1e3, "ms"),
        ("series", "series", 1, ""),
        ("body", "bytes", 1e-3, "kB"),
        ("RSS", "rss", 1, "MB"),
    ]:
        a, b = theirs[key] * scale, ours[key] * scale
        digits = 0 if key == "series" else 2
        print(f"| {name} | {a:.{digits}f} {unit} | {b:.{digits}f} {unit} | {b / a:.2f} |")
    a, b = (x["cpu"] / x["series"] * 1e6 for x in (theirs, ours))
    print(f"| CPU per series | {a:.2f} µs | {b:.2f} µs | {b / a:.2f} |")
    print(f"| idle CPU | | {idle_cpu * 100:.4f} % | |")
    ratio = ours["cpu"] / theirs["cpu"]
    print(f"\nCPU ratio {ratio:.3f}, to be at most {target}; RSS {ours['rss']:.1f} MB, to be below 10 MB.")
    sys.stdout.flush()


def here(arguments, title, target):
    collectors = same_collectors(arguments.node_exporter, arguments.strata)
    flags = ["--collector.disable-defaults"] + [f"--collector.{name}" for name in collectors] + FILTERS
    exporters = []
    try:
        exporters.append(Exporter("node_exporter", [arguments.node_exporter] + flags))
        exporters.append(Exporter("strata_exporter", [arguments.strata] + flags))
        rounds, scrapes, still = (2, 5, 1) if arguments.short else (15, 40, 20)
        seen = measure(exporters, rounds, scrapes)
        report(title, seen, idle(exporters[1], still), collectors, target)
        if arguments.json:
            print(json.dumps({"title": title, **seen}))
    finally:
        for exporter in exporters:
            exporter.stop()


def in_namespace(arguments, interfaces):
    """Runs this script again where there are that many interfaces."""
    name = f"strata-bench-{os.getpid()}"
    ip = shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not ip:
        sys.exit("ip is not there, which is in iproute2; see docs/benchmarks.md")

    def run(*words):
        subprocess.run([ip, *words], check=True)

    run("netns", "add", name)
    try:
        run("-n", name, "link", "set", "lo", "up")
        for n in range(0, interfaces, 2):
            run("-n", name, "link", "add", f"veth{n}", "type", "veth", "peer", "name", f"veth{n + 1}")
            run("-n", name, "link", "set", f"veth{n}", "up")
            run("-n", name, "link", "set", f"veth{n + 1}", "up")
        words = [sys.executable, __file__, "--inside", str(interfaces)]
        words += [f"--node-exporter={arguments.node_exporter}", f"--strata={arguments.strata}"]
        words += ["--short"] * arguments.short + ["--json"] * arguments.json
        run("netns", "exec", name, *words)
    finally:
        subprocess.run([ip, "netns", "delete", name], check=False)


def pairs(text):
    """A number of interfaces, which come in pairs."""
    number = int(text)
    if number <= 0 or number % 2:
        raise argparse.ArgumentTypeError("must be even, for veth interfaces come in pairs")
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="only see that it works")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too")
    parser.add_argument("--interfaces", type=pairs, help="measure only with so many interfaces")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--node-exporter", default="prometheus-node-exporter", help="the anchor's binary")
    parser.add_argument("--strata", default=str(ROOT / "target/release/strata_exporter"), help="our binary")
    arguments = parser.parse_args()
    for what in ("node_exporter", "strata"):
        found = shutil.which(getattr(arguments, what))
        if not found:
            sys.exit(f"{getattr(arguments, what)} is not there; see docs/benchmarks.md")
        setattr(arguments, what, found)

    if arguments.inside:
        here(arguments, f"With {arguments.inside} more interfaces", MANY)
    elif arguments.interfaces:
        in_namespace(arguments, arguments.interfaces)
    else:
        here(arguments, f"This machine, {len(socket.if_nameindex())} interfaces", FEW)
        if os.geteuid() == 0:
            in_namespace(arguments, 96)
        else:
            print("\nNot measured with 96 interfaces: that needs root.")


if __name__ == "__main__":
    main()
