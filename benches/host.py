#!/usr/bin/env python3
"""Compares the cost of a scrape of node_exporter and of strata_exporter.

    benches/host.py [--short] [--interfaces N] [--node-exporter PATH] [--strata PATH]

Both run at the same time on this machine, with the same collectors, and are scraped in alternating
rounds like Prometheus does (keep-alive, OpenMetrics, gzip), so other load affects both equally. The
relevant result is the ratio. CPU time is measured by the kernel, in nanoseconds, over all threads,
including threads that have ended.

With --interfaces N everything runs in a network namespace with N veth interfaces, which requires root
and iproute2. Without it, the current namespace is measured, and, as root, one with 96 interfaces.
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
# Debian's defaults differ from upstream's: set the filters explicitly for both.
FILTERS = [
    "--collector.filesystem.mount-points-exclude="
    "^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)",
    "--collector.netdev.device-exclude=",
    "--collector.textfile.directory=",
]
# The targets: CPU per scrape against node_exporter's.
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
        """Waits until the first successful scrape."""
        for _ in range(200):
            try:
                self.scrape()
                return
            except OSError:
                self.connection.close()
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        sys.exit(f"{self.name} failed to start: {' '.join(command)}")

    def scrape(self, deadline=10):
        headers = {**HEADERS, "X-Prometheus-Scrape-Timeout-Seconds": str(deadline)}
        self.connection.request("GET", "/metrics", headers=headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            sys.exit(f"{self.name} returned status {response.status}: {body[:200]!r}")
        return gzip.decompress(body) if response.getheader("Content-Encoding") == "gzip" else body

    def cpu(self):
        """CPU time used, in seconds.

        Not the sum over /proc/PID/task, which excludes threads that have ended.
        """
        # The clock ID that clock_getcpuclockid(3) returns for a process.
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def memory(self, which="VmRSS"):
        """A memory field of /proc/PID/status, in MB: VmRSS, RssAnon (anonymous only), VmHWM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{which}:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()


def switches(help_text):
    """The collectors in a --help text."""
    names = re.findall(r"--(?:\[no-\])?collector\.(\w+)(?=[\s\[])", help_text)
    return set(names)


def same_collectors(node_exporter, strata):
    """Collectors that both have and that strata_exporter enables by default."""

    def helped(binary):
        run = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True)
        return run.stdout + run.stderr

    ours = helped(strata)
    on = re.findall(r"--collector\.(\w+)\[=<BOOL>\]\s+Collect [^\[]*\[default: on\]", ours)
    return sorted(set(on) & switches(helped(node_exporter)))


def series(body):
    return sum(1 for line in body.splitlines() if line and not line.startswith(b"#"))


def measure(exporters, rounds, scrapes):
    """Medians over all rounds, by exporter."""
    results = {exporter.name: {"cpu": [], "wall": []} for exporter in exporters}
    for exporter in exporters:
        for _ in range(scrapes):
            exporter.scrape()
    for _ in range(rounds):
        for exporter in exporters:
            cpu, wall = exporter.cpu(), time.perf_counter()
            for _ in range(scrapes):
                body = exporter.scrape()
            results[exporter.name]["wall"].append((time.perf_counter() - wall) / scrapes)
            results[exporter.name]["cpu"].append((exporter.cpu() - cpu) / scrapes)
            results[exporter.name]["series"] = series(body)
            results[exporter.name]["bytes"] = len(body)
            results[exporter.name]["rss"] = exporter.memory()
    for figures in results.values():
        for key in ("cpu", "wall"):
            figures[key] = statistics.median(figures[key])
    return results


def terminate(process):
    """Terminates a daemon; kills it after 20 s."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def idle(exporter, seconds):
    """CPU seconds per second without requests."""
    before = exporter.cpu()
    time.sleep(seconds)
    return (exporter.cpu() - before) / seconds


def report(title, results, idle_cpu, collectors, target):
    theirs, ours = results["node_exporter"], results["strata_exporter"]
    print(f"\n## {title}\n")
    print(f"{len(collectors)} collectors enabled in both: {', '.join(collectors)}\n")
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
    print(f"\nCPU ratio {ratio:.3f} (target: at most {target}); RSS {ours['rss']:.1f} MB (target: below 10 MB).")
    sys.stdout.flush()


def run_benchmark(arguments, title, target):
    collectors = same_collectors(arguments.node_exporter, arguments.strata)
    flags = ["--collector.disable-defaults"] + [f"--collector.{name}" for name in collectors] + FILTERS
    exporters = []
    try:
        exporters.append(Exporter("node_exporter", [arguments.node_exporter] + flags))
        exporters.append(Exporter("strata_exporter", [arguments.strata] + flags))
        rounds, scrapes, idle_seconds = (2, 5, 1) if arguments.short else (15, 40, 20)
        results = measure(exporters, rounds, scrapes)
        report(title, results, idle(exporters[1], idle_seconds), collectors, target)
        if arguments.json:
            print(json.dumps({"title": title, **results}))
    finally:
        for exporter in exporters:
            exporter.stop()


def in_namespace(arguments, interfaces):
    """Runs this script in a network namespace with that many interfaces."""
    name = f"strata-bench-{os.getpid()}"
    ip = shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not ip:
        sys.exit("ip not found (package iproute2); see docs/benchmarks.md")

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
    """Parses an even number of interfaces."""
    number = int(text)
    if number <= 0 or number % 2:
        raise argparse.ArgumentTypeError("must be positive and even, because veth interfaces are created in pairs")
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="smoke test: few rounds")
    parser.add_argument("--json", action="store_true", help="also print the results as JSON")
    parser.add_argument("--interfaces", type=pairs, help="measure only with this number of interfaces")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--node-exporter", default="prometheus-node-exporter", help="path of the exporter to compare with")
    parser.add_argument("--strata", default=str(ROOT / "target/release/strata_exporter"), help="path of strata_exporter")
    arguments = parser.parse_args()
    for what in ("node_exporter", "strata"):
        found = shutil.which(getattr(arguments, what))
        if not found:
            sys.exit(f"{getattr(arguments, what)} not found; see docs/benchmarks.md")
        setattr(arguments, what, found)

    if arguments.inside:
        run_benchmark(arguments, f"With {arguments.inside} more interfaces", MANY)
    elif arguments.interfaces:
        in_namespace(arguments, arguments.interfaces)
    else:
        run_benchmark(arguments, f"This machine, {len(socket.if_nameindex())} interfaces", FEW)
        if os.geteuid() == 0:
            in_namespace(arguments, 96)
        else:
            print("\nNot measured with 96 interfaces: requires root.")


if __name__ == "__main__":
    main()
