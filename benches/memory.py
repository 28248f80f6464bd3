#!/usr/bin/env python3
"""Prints how much memory the exporter needs: for the host alone, with control groups like
those of containers, and under a memory limit of its own.

    benches/memory.py [--short] [--scrapes N] [--limit MB] [--strata PATH]

It is scraped as Prometheus does it. What the kernel keeps for it counts against a limit
too, so that beside its own memory the control group's is shown, with how often it
stood at its limit. A limited exporter that was killed, or does not answer, is a failure.

Needs root.
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

# The targets: host alone, 200 groups.
MEGABYTES = {"host": 10, 200: 20}
NAME = f"strata-memory-{os.getpid()}"


class Limited:
    """A control group of the exporter's own, that counts its memory and may limit it."""

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
        """Enters it, then becomes what it is told: a copy of the program that nobody has read
        yet, so that its pages in memory are charged to this group, as they are to
        whoever first runs a program.
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
    """Every collector of containers, guests and the census is off."""
    said = subprocess.run([strata, "--help"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"--collector\.((?:container_|census|libvirt|machine|history)\w*)\[=<BOOL>\]", said)
    return [f"--no-collector.{name}" for name in sorted(set(names))]


def measure(arguments, number, limit, flags):
    limited = Limited(limit)
    scratch = tempfile.TemporaryDirectory()
    copy = Path(scratch.name) / "strata_exporter"
    groups = exporter = None
    try:
        groups = Groups(number, False) if number else None
        command = limited.command(copy, [arguments.strata, "--engine.socket=", *flags])
        exporter = Exporter("strata_exporter", command)
        spent = []
        for _ in range(arguments.scrapes):
            before = exporter.cpu()
            try:
                body = exporter.scrape()
            except (OSError, http.client.HTTPException):
                sys.exit(f"with {number} groups in {limit} MB it does not answer; {limited.figures()}")
            spent.append(exporter.cpu() - before)
        kept = re.search(rb"^strata_kept_files_max (\d+)", body, re.MULTILINE)
        return {
            "rss": exporter.memory("VmRSS"),
            "own": exporter.memory("RssAnon"),
            "peak": exporter.memory("VmHWM"),
            "cpu": statistics.median(spent) * 1e3,
            "kept": int(kept[1]) if kept else None,
            **limited.figures(),
        }
    finally:
        if exporter:
            exporter.stop()
        if groups:
            groups.remove()
        limited.remove()
        scratch.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="only see that it works")
    parser.add_argument("--scrapes", type=int, default=1000, help="how many; default %(default)s")
    parser.add_argument("--limit", type=int, default=32, help="the limit in MB; default %(default)s")
    parser.add_argument("--strata", default=str(ROOT / "target/release/strata_exporter"), help="our binary")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root, to make control groups")
    if not shutil.which(arguments.strata):
        sys.exit(f"{arguments.strata} is not there; see docs/benchmarks.md")
    if arguments.short:
        arguments.scrapes = 30
    # So that what was made is removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    many = 1000
    cases = [(0, None, host_flags(arguments.strata)), (200, None, []), (many, None, []), (many, arguments.limit, [])]
    print("| groups | limit | RSS | its own | peak RSS | charged to its group | kernel's | files' | at the limit | kept files | CPU |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    seen = {}
    for number, limit, flags in cases:
        of = measure(arguments, number, limit, flags)
        seen[number, limit] = of
        cells = [number or "host alone", f"{limit} MB" if limit else ""]
        cells += [f"{of[name]:.1f} MB" for name in ("rss", "own", "peak", "usage", "kernel", "file")]
        cells += [f"{of['hits']} times" if limit else "", of["kept"], f"{of['cpu']:.1f} ms"]
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
        if of["kills"]:
            sys.exit(f"with {number} groups in {limit} MB it was killed")
    print(f"\n{arguments.scrapes} scrapes each. RSS {seen[0, None]['rss']:.1f} MB for the host alone, to be below {MEGABYTES['host']} MB;", end=" ")
    print(f"{seen[200, None]['rss']:.1f} MB at 200 groups, to be below {MEGABYTES[200]} MB.")


if __name__ == "__main__":
    main()
