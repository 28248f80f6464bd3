#!/usr/bin/env python3
"""Measures the cost of the history with N cgroups laid out like those of containers.

    benches/history.py [--short] [--numbers N,N...] [--list N] [--strata PATH]

First: idle CPU of an exporter that samples every five seconds (the default) and of one without history,
without any requests. Second: the additional memory of an exporter whose rings are full, sampled at the
minimum interval. Third, with more cgroups: CPU time of the JSON API requests of the web page and of a
scrape.

Requires root. CPU time is measured by the kernel, over all threads.
"""

import argparse
import http.client
import re
import statistics
import sys
import time

from containers import Groups
from host import ROOT, Exporter, idle

# The targets.
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
    return float(found[1]) if found else sys.exit(f"{name} is missing")


def idle_percent(exporter, seconds):
    try:
        # Exclude the cost of start-up.
        time.sleep(min(seconds, 6))
        return idle(exporter, seconds) * 100
    finally:
        exporter.stop()


def measure_history(arguments, number):
    """Idle CPU and memory with and without history, for this number of cgroups."""
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
                    points_stored = value(exporter.scrape(), "strata_history_points")
                    if len(memory) == 0 or points_stored >= points * (number + 1):
                        break
                else:
                    sys.exit(f"{points_stored} points of {number} cgroups: rings not full")
                # Anonymous memory only: file pages of the binary are reclaimed after some scrapes.
                memory.append(exporter.memory("RssAnon"))
            finally:
                exporter.stop()
    finally:
        groups.remove()
    return {"off": off, "on": on, "memory": memory, "points": points}


def measure_request(exporter, path, rounds):
    """CPU time per request, in ms, and the last response body."""
    connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=20)
    spent = []
    for _ in range(rounds):
        cpu = exporter.cpu()
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        spent.append((exporter.cpu() - cpu) * 1e3)
        if response.status != 200:
            sys.exit(f"{path}: {response.status}: {body[:200]!r}")
    connection.close()
    return statistics.median(spent), body


def measure_api(arguments, number):
    rounds = 5 if arguments.short else 40
    groups = Groups(number, with_processes=False)
    try:
        exporter = start(arguments.strata)
        try:
            time.sleep(6)
            return {path: measure_request(exporter, path, rounds) for path in arguments.paths}
        finally:
            exporter.stop()
    finally:
        groups.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="smoke test: few rounds")
    parser.add_argument("--numbers", default="50,200", help="cgroup counts; default %(default)s")
    parser.add_argument("--list", type=int, default=1000, help="cgroups for the API test; default %(default)s")
    parser.add_argument("--strata", default=ROOT / "target/release/strata_exporter", help="path of strata_exporter")
    arguments = parser.parse_args()
    arguments.paths = ["/metrics", "/api/v1/containers", "/api/v1/host", "/api/v1/collectors"]
    if arguments.short:
        arguments.numbers, arguments.list = "3", 20

    print("| cgroups | idle CPU without history | idle CPU with history | target | memory of full rings | points | target |")
    print("|---|---|---|---|---|---|---|")
    for number in map(int, arguments.numbers.split(",")):
        results = measure_history(arguments, number)
        less, more = results["memory"]
        bound = BYTES * results["points"] * (number + 1) / 2**20 + EXTRA_MB
        print(
            f"| {number} | {results['off']:.4f} % | {results['on']:.4f} % | {IDLE.get(number, '-')} % "
            f"| {more - less:.1f} MB | {results['points']} | {bound:.1f} MB |",
            flush=True,
        )
    print(f"\nWith {arguments.list} cgroups:\n\n| request | CPU | body |\n|---|---|---|")
    for path, (spent, body) in measure_api(arguments, arguments.list).items():
        print(f"| `{path}` | {spent:.1f} ms | {len(body) / 1e3:.0f} kB |")
    print(f"\nTarget for the container list: at most {LIST_MS} ms.")


if __name__ == "__main__":
    main()
