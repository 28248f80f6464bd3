#!/usr/bin/env python3
"""Scrapes the exporter 100,000 times while cgroups and clients change, and checks for leaks.

    benches/soak.py [--short] [--scrapes N] [--strata PATH] [FLAG...]

During the run, a few of twenty cgroups are replaced every hundred scrapes; filters, formats and
connections vary; clients disconnect before or during a response, send half a request, or open a
connection without a request; the web page and its JSON API are requested. The process is sampled a
hundred times: resident and anonymous memory, open files and threads.

The test passes if the median of the last tenth does not exceed that of the second tenth by more than a
margin: 5 % plus 0.5 MB of memory, 8 files, one thread. Otherwise the exit status is 1. A leak of 10
bytes per scrape is detected in 100,000 scrapes.

All default collectors are enabled. The history is short and the cgroup grace period is 1 s, so both
reach their full size within the first tenth. FLAG is passed to the exporter, as in
`-- --no-collector.libvirt`. Cgroups change only if run as root; the exporter then sees only these
cgroups, in its own mount namespace.
"""

import argparse
import http.client
import os
import re
import shutil
import signal
import socket
import statistics
import sys
import time
from pathlib import Path

from containers import hierarchies
from host import HEADERS, ROOT, Exporter

FLAGS = ["--cgroup.grace=1s", "--history.interval=500ms", "--history.points=20"]
PARENT = f"strata-soak-{os.getpid()}"
GROUPS, CHANGED = 20, 3
SAMPLES = 100
# Warm-up scrapes before the first sample.
WARM = 1000
# Allowed growth from the second to the last tenth: (fraction, absolute).
MARGINS = {"RSS": (0.05, 0.5), "own": (0.05, 0.5), "files": (0, 8), "threads": (0, 1)}
# In a short run, not every operation has run once by the second tenth.
SHORT_MARGINS = {"RSS": (0.05, 2), "own": (0.05, 2), "files": (0.1, 50), "threads": (0, 2)}
PATHS = [
    "/metrics",
    "/metrics?collect[]=cpu&collect[]=meminfo",
    "/metrics/containers",
    "/metrics?exclude[]=netclass&exclude[]=filesystem",
    "/metrics/host?name[]=node_load1&name[]=node_cpu_seconds_total",
    "/metrics?collect[]=container_cpu&collect[]=container_memory",
    "/metrics?collect[]=diskstats",
    "/metrics?collect[]=netdev&collect[]=loadavg",
    "/metrics/census",
    "/metrics?collect[]=history",
]
PAGE_PATHS = ["/", "/api/v1/containers", "/api/v1/host", "/api/v1/collectors", "/plot/host.svg", "/nothing"]
FORMATS = [HEADERS, {"Accept": "text/plain"}, {"Accept-Encoding": "gzip"}]


class Groups:
    """Cgroups of which the oldest are replaced by new ones."""

    def __init__(self):
        first, second = hierarchies()
        self.roots = sorted(set(first.values()) | ({second} if second else set())) if os.geteuid() == 0 else []
        self.existing, self.created = [], 0

    def isolated(self, command):
        """A command in a mount namespace with only these cgroups."""
        if not self.roots:
            return command
        binds = [f"mount --bind {root}/{PARENT} {root}" for root in self.roots]
        script = " && ".join([*binds, 'exec "$0" "$@"'])
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, *command]

    def change(self, number):
        for _ in range(number if self.roots else 0):
            if len(self.existing) >= GROUPS:
                self.remove(self.existing.pop(0))
            name = f"{PARENT}/docker/{self.created:064x}"
            self.created += 1
            for root in self.roots:
                (root / name).mkdir(parents=True)
            self.existing.append(name)

    def remove(self, name):
        for root in self.roots:
            for _ in range(50):
                try:
                    (root / name).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)

    def end(self):
        for name in [*self.existing, f"{PARENT}/docker", PARENT]:
            self.remove(name)


def connect(exporter):
    return socket.create_connection(("127.0.0.1", exporter.port), timeout=20)


def run_faulty_client(exporter, number, idle):
    """One faulty or idle client."""
    request = f"GET {PATHS[number % len(PATHS)]} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    what = number % 5
    client = connect(exporter)
    if what == 0:
        # Disconnects before the response.
        client.sendall(request)
    elif what == 1:
        # Disconnects during the response.
        client.sendall(request)
        client.recv(100)
    elif what == 2:
        client.sendall(request[: len(request) // 2])
    elif what == 3:
        client.sendall(b"nonsense\r\n\r\n")
    else:
        idle.append(client)
        if len(idle) > 10:
            idle.pop(0).close()
        return
    client.close()


def state(exporter):
    proc = Path(f"/proc/{exporter.process.pid}")
    status = (proc / "status").read_text()
    number = lambda name: int(re.search(rf"{name}:\s+(\d+)", status)[1])
    return {
        "RSS": number("VmRSS") / 1024,
        "own": number("RssAnon") / 1024,
        "files": len(os.listdir(proc / "fd")),
        "threads": number("Threads"),
    }


class Scraper:
    """A client with a keep-alive connection that is reopened from time to time."""

    def __init__(self, exporter):
        self.exporter, self.connection = exporter, None

    def request(self, path, headers, status=200):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.exporter.port, timeout=20)
        self.connection.request("GET", path, headers=headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != status:
            sys.exit(f"{path}: status {response.status}: {body[:200]!r}")

    def disconnect(self):
        self.connection.close()
        self.connection = None


def soak(exporter, groups, scrapes):
    """Samples of the process state during the run."""
    scraper, idle, samples = Scraper(exporter), [], []
    every = max(1, scrapes // SAMPLES)
    for number in range(-WARM, scrapes):
        scraper.request(PATHS[number % len(PATHS)], FORMATS[number // len(PATHS) % len(FORMATS)])
        if number % 7 == 6:
            scraper.disconnect()
        if number % 10 == 9:
            run_faulty_client(exporter, number // 10, idle)
        if number % 50 == 49:
            path = PAGE_PATHS[number // 50 % len(PAGE_PATHS)]
            scraper.request(path, {}, 404 if path == "/nothing" else 200)
        if number % 100 == 99:
            groups.change(CHANGED)
        if number >= 0 and number % every == every - 1:
            samples.append(state(exporter))
    return samples


def judge(samples, scrapes, seconds, margins):
    """Prints the medians of the tenths; returns whether the last is within the margins of the second."""
    tenth = max(1, len(samples) // 10)
    parts = [samples[n * tenth : (n + 1) * tenth] for n in range(10)]
    medians = [{name: statistics.median(it[name] for it in part) for name in margins} for part in parts]
    print("| scrapes | RSS | anonymous | open files | threads |")
    print("|---|---|---|---|---|")
    for number, of in enumerate(medians, 1):
        cells = [f"{number * scrapes // 10:,}", f"{of['RSS']:.2f} MB", f"{of['own']:.2f} MB"]
        cells += [f"{of['files']:.0f}", f"{of['threads']:.0f}"]
        print("| " + " | ".join(cells) + " |")
    second, last = medians[1], medians[-1]
    grown = []
    for name, (share, margin) in margins.items():
        limit = second[name] * (1 + share) + margin
        if last[name] > limit:
            grown.append(f"{name}: {second[name]:.2f} in the second tenth, {last[name]:.2f} in the last, at most {limit:.2f}")
    print(f"\n{scrapes:,} scrapes in {seconds:.0f} s: {'flat' if not grown else 'NOT flat: ' + '; '.join(grown)}.")
    return not grown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="3,000 scrapes: detects only fast leaks")
    parser.add_argument("--scrapes", type=int, default=100_000, help="number of scrapes; default %(default)s")
    parser.add_argument("--strata", default=str(ROOT / "target/release/strata_exporter"), help="path of strata_exporter")
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="flags for the exporter")
    arguments = parser.parse_args()
    if not shutil.which(arguments.strata):
        sys.exit(f"{arguments.strata} not found; see docs/benchmarks.md")
    scrapes = 3000 if arguments.short else arguments.scrapes
    if scrapes < SAMPLES:
        sys.exit(f"--scrapes must be at least {SAMPLES}")
    # Clean up on SIGTERM too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    groups = Groups()
    if not groups.roots:
        print("not root: cgroups are not changed", file=sys.stderr)
    exporter = None
    try:
        groups.change(GROUPS)
        exporter = Exporter("strata_exporter", groups.isolated([arguments.strata, *FLAGS, *arguments.flags]))
        started = time.monotonic()
        samples = soak(exporter, groups, scrapes)
        margins = SHORT_MARGINS if arguments.short else MARGINS
        is_flat = judge(samples, scrapes, time.monotonic() - started, margins)
    finally:
        if exporter:
            exporter.stop()
        groups.end()
    sys.exit(0 if is_flat else 1)


if __name__ == "__main__":
    main()
