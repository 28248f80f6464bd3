#!/usr/bin/env python3
"""Measures the exporter's memory: host collectors only, with cgroups laid out like those of
containers, and under a memory limit.

    benches/memory.py [--short] [--scrapes N] [--limit MB] [--strata PATH]

The exporter is scraped like Prometheus does. Kernel memory counts against a limit too, so the report also
shows the usage of its cgroup and how often the limit was reached. A limited exporter that is killed or
does not respond is a failure.

Requires root.
"""

import argparse
import http.client
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

from containers import Groups, hierarchies
from host import ROOT, Exporter

# The targets: host only, 200 cgroups.
MEGABYTES = {"host": 10, 200: 20}
NAME = f"strata-memory-{os.getpid()}"


class LimitedCgroup:
    """A cgroup for the exporter that accounts, and optionally limits, its memory."""

    def __init__(self, megabytes):
        first, second = hierarchies()
        self.is_first = "memory" in first
        root = first.get("memory", second)
        self.path = root / NAME
        self.path.mkdir()
        if megabytes:
            file = "memory.limit_in_bytes" if self.is_first else "memory.max"
            (self.path / file).write_text(str(megabytes << 20))

    def command(self, copy, words):
        """A command that joins the cgroup and executes a copy of the binary.

        The copy is not in the page cache, so its pages are charged to this cgroup.
        """
        shutil.copy(words[0], copy)
        with open(copy, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        enter = f'echo $$ >{self.path}/cgroup.procs && exec "$0" "$@"'
        return ["sh", "-c", enter, str(copy), *words[1:]]

    def number(self, first, second, word=None):
        text = (self.path / (first if self.is_first else second)).read_text()
        return int(re.search(rf"^{word} (\d+)", text, re.MULTILINE)[1] if word else text)

    def figures(self):
        stat = lambda first, second: self.number("memory.stat", "memory.stat", first if self.is_first else second)
        usage = self.number("memory.usage_in_bytes", "memory.current")
        kernel = self.number("memory.kmem.usage_in_bytes", "memory.stat", None if self.is_first else "kernel")
        return {
            "usage": usage / 2**20,
            "kernel": kernel / 2**20,
            "file": stat("cache", "file") / 2**20,
            "hits": self.number("memory.failcnt", "memory.events", None if self.is_first else "max"),
            "kills": self.number("memory.oom_control", "memory.events", "oom_kill"),
        }

    def remove(self):
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.02)


def host_flags(strata):
    """Flags that disable all collectors of containers, domains and the census."""
    output = subprocess.run([strata, "--help"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"--collector\.((?:container_|census|libvirt|machine|history)\w*)\[=<BOOL>\]", output)
    return [f"--no-collector.{name}" for name in sorted(set(names))]


def measure(arguments, number, limit, flags):
    limited_cgroup = LimitedCgroup(limit)
    scratch = tempfile.TemporaryDirectory()
    copy = Path(scratch.name) / "strata_exporter"
    groups = exporter = None
    try:
        groups = Groups(number, False) if number else None
        command = limited_cgroup.command(copy, [arguments.strata, "--engine.socket=", *flags])
        exporter = Exporter("strata_exporter", command)
        spent = []
        for _ in range(arguments.scrapes):
            before = exporter.cpu()
            try:
                body = exporter.scrape()
            except (OSError, http.client.HTTPException):
                sys.exit(f"with {number} cgroups and {limit} MB: no response; {limited_cgroup.figures()}")
            spent.append(exporter.cpu() - before)
        kept = re.search(rb"^strata_cgroup_max_open_files (\d+)", body, re.MULTILINE)
        return {
            "rss": exporter.memory("VmRSS"),
            "own": exporter.memory("RssAnon"),
            "peak": exporter.memory("VmHWM"),
            "cpu": statistics.median(spent) * 1e3,
            "kept": int(kept[1]) if kept else None,
            **limited_cgroup.figures(),
        }
    finally:
        if exporter:
            exporter.stop()
        if groups:
            groups.remove()
        limited_cgroup.remove()
        scratch.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="smoke test: few rounds")
    parser.add_argument("--scrapes", type=int, default=1000, help="number of scrapes; default %(default)s")
    parser.add_argument("--limit", type=int, default=32, help="the limit in MB; default %(default)s")
    parser.add_argument("--strata", default=str(ROOT / "target/release/strata_exporter"), help="path of strata_exporter")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("root is required to create cgroups")
    if not shutil.which(arguments.strata):
        sys.exit(f"{arguments.strata} not found; see docs/benchmarks.md")
    if arguments.short:
        arguments.scrapes = 30
    # Clean up on SIGTERM too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    many = 1000
    cases = [(0, None, host_flags(arguments.strata)), (200, None, []), (many, None, []), (many, arguments.limit, [])]
    print("| cgroups | limit | RSS | anonymous | peak RSS | cgroup usage | kernel | page cache | limit hits | open cgroup files | CPU |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    results = {}
    for number, limit, flags in cases:
        of = measure(arguments, number, limit, flags)
        results[number, limit] = of
        cells = [number or "host only", f"{limit} MB" if limit else ""]
        cells += [f"{of[name]:.1f} MB" for name in ("rss", "own", "peak", "usage", "kernel", "file")]
        cells += [f"{of['hits']} times" if limit else "", of["kept"], f"{of['cpu']:.1f} ms"]
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
        if of["kills"]:
            sys.exit(f"with {number} cgroups and {limit} MB: OOM killed")
    print(f"\n{arguments.scrapes} scrapes each. RSS {results[0, None]['rss']:.1f} MB for the host only (target: below {MEGABYTES['host']} MB);", end=" ")
    print(f"{results[200, None]['rss']:.1f} MB at 200 cgroups (target: below {MEGABYTES[200]} MB).")


if __name__ == "__main__":
    main()
