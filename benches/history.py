#!/usr/bin/env python3
"""Makes N control groups like those of containers and prints what remembering them costs.

    benches/history.py [--short] [--numbers N,N...] [--list N] [--strata PATH]

The exporter samples every five seconds, as it does by default, and nobody asks it anything:
what it uses then, beside one that does not sample. Then it samples as fast as it may until
its rings are full: the memory that it takes more than the other. Last, with more groups,
what a list of containers as JSON costs, and what a page that looks on asks for, beside a
scrape.

Needs root. CPU time is the kernel's own, of all threads.
"""

import argparse
import http.client
import re
import statistics
import sys
import time

from containers import Groups
from host import ROOT, Exporter, idle

# The targets of the issue that asked for this benchmark.
IDLE = {50: 0.05, 200: 0.2}
LIST_MS, EXTRA_MB = 20, 2
POINTS, BYTES = 720, 32
FASTEST = 0.1


def start(strata, *flags):
    return Exporter("strata_exporter", [strata, "--engine.socket=", *flags])


def sampler(strata, *flags):
    return start(strata, "--collector.disable-defaults", "--collector.history", *flags)


def value(body, name):
    found = re.search(rf"^{name} (\S+)$", body.decode(), re.MULTILINE)
    return float(found[1]) if found else sys.exit(f"no {name}")


def idle_percent(exporter, seconds):
    try:
        # Past what a start costs.
        time.sleep(min(seconds, 6))
        return idle(exporter, seconds) * 100
    finally:
        exporter.stop()


def remembers(arguments, number):
    """Idle CPU and memory of one that samples so many groups, and of one that does not."""
    seconds, points = (6, 50) if arguments.short else (60, POINTS)
    groups = Groups(number, with_processes=True)
    try:
        off = idle_percent(start(arguments.strata, "--no-collector.history"), seconds)
        on = idle_percent(start(arguments.strata), seconds)
        memory = []
        for flags in (["--history.interval=1m"], [f"--history.interval={FASTEST * 1000:.0f}ms"]):
            exporter = sampler(arguments.strata, f"--history.points={points}", *flags)
            try:
                for _ in range(900):
                    time.sleep(FASTEST)
                    kept = value(exporter.scrape(), "strata_history_points")
                    if len(memory) == 0 or kept >= points * (number + 1):
                        break
                else:
                    sys.exit(f"{kept} points of {number} groups")
                # Not the program's pages, which are given back after some scrapes.
                memory.append(exporter.memory("RssAnon"))
            finally:
                exporter.stop()
    finally:
        groups.remove()
    return {"off": off, "on": on, "memory": memory, "points": points}


def asks(exporter, path, rounds):
    """CPU of one request, in ms, and its last answer."""
    connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=20)
    spent = []
    for _ in range(rounds):
        cpu = exporter.cpu()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        spent.append((exporter.cpu() - cpu) * 1e3)
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status}: {body[:200]!r}")
    connection.close()
    return statistics.median(spent), body


def lists(arguments, number):
    rounds = 5 if arguments.short else 40
    groups = Groups(number, with_processes=False)
    try:
        exporter = start(arguments.strata)
        try:
            time.sleep(6)
            return {path: asks(exporter, path, rounds) for path in arguments.paths}
        finally:
            exporter.stop()
    finally:
        groups.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="only see that it works")
    parser.add_argument("--numbers", default="50,200", help="how many groups; default %(default)s")
    parser.add_argument("--list", type=int, default=1000, help="how many to list; default %(default)s")
    parser.add_argument("--strata", default=ROOT / "target/release/strata_exporter", help="our binary")
    arguments = parser.parse_args()
    arguments.paths = ["/metrics", "/api/v1/containers", "/api/v1/host", "/api/v1/collectors"]
    if arguments.short:
        arguments.numbers, arguments.list = "3", 20

    print("| groups | idle CPU without | idle CPU with | to be at most | memory of full rings | points | to be at most |")
    print("|---|---|---|---|---|---|---|")
    for number in map(int, arguments.numbers.split(",")):
        seen = remembers(arguments, number)
        less, more = seen["memory"]
        bound = BYTES * seen["points"] * (number + 1) / 2**20 + EXTRA_MB
        print(
            f"| {number} | {seen['off']:.4f} % | {seen['on']:.4f} % | {IDLE.get(number, '-')} % "
            f"| {more - less:.1f} MB | {seen['points']} | {bound:.1f} MB |",
            flush=True,
        )
    print(f"\nWith {arguments.list} groups:\n\n| request | CPU | body |\n|---|---|---|")
    for path, (spent, body) in lists(arguments, arguments.list).items():
        print(f"| `{path}` | {spent:.1f} ms | {len(body) / 1e3:.0f} kB |")
    print(f"\nThe list of containers is to take at most {LIST_MS} ms.")


if __name__ == "__main__":
    main()
