#!/usr/bin/env python3
"""Measures the cost of scraping N cgroups laid out like those of containers.

    benches/containers.py [--short] [--check] [--numbers N,N...] [--processes | --docker]
                          [--strata PATH] [--cadvisor PATH]
    benches/containers.py --machine [--short] [--numbers N,N...] [--strata PATH]

The cgroups are created in every mounted hierarchy, as Docker does; with --processes each contains a
sleeping process, and with --docker they are containers of a temporary Docker daemon. The exporter runs
with only its container collectors and is scraped like Prometheus does. The baseline (floor), measured
in alternating rounds, is a C loop that reads the same files: opened each time below an open directory,
or through open descriptors. A cadvisor on PATH is measured too. With --check, strace verifies that one
scrape reads exactly these files.

With --machine everything runs in the cgroup v2 virtual machine built by tests/setup.sh. It is emulated,
so only ratios are meaningful, not times.

Requires root and a C compiler. CPU time is measured by the kernel, over all threads. The cost per cgroup
is the difference to a run with one cgroup, if that was measured.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from host import ROOT, Exporter, terminate, idle, series

# Files that the exporter reads per cgroup and scrape, by controller. Not included: settings, which are
# read only when they may have changed, and v1 block I/O, which is read only if the kernel accounts it.
FILES_V1 = {
    "cpuacct": ["cpuacct.usage", "cpuacct.stat"],
    "memory": [
        "memory.usage_in_bytes",
        "memory.max_usage_in_bytes",
        "memory.stat",
        "memory.failcnt",
        "memory.kmem.usage_in_bytes",
        "memory.oom_control",
    ],
    "pids": ["pids.current"],
}
PRESSURE = ["cpu.pressure", "memory.pressure", "io.pressure"]
FILES_V2 = [
    "cpu.stat",
    "memory.current",
    "memory.peak",
    "memory.stat",
    "memory.events",
    "memory.swap.current",
    "io.stat",
    "pids.current",
] + PRESSURE
# Read while no process of the cgroup is known.
PROCESSES = "cgroup.procs"
CONTROLLERS_V2 = ["cpu", "memory", "io", "pids"]
PARENT = f"strata-bench-{os.getpid()}"
# The targets.
PER_CONTAINER, TIMES_FLOOR, MEGABYTES = 0.1e-3, 2, 20


class Cadvisor(Exporter):
    """cAdvisor, which has different flags."""

    def __init__(self, path):
        listen = ["sh", "-c", 'exec "$0" -logtostderr -listen_ip=127.0.0.1 -port="${1##*:}"', path]
        super().__init__("cadvisor", listen)


def hierarchies():
    """The mounted hierarchies: v1 by controller, and v2."""
    first, second = {}, None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            second = Path(where)
        elif kind == "cgroup":
            first.update({option: Path(where) for option in options.split(",") if "=" not in option})
            if "name=systemd" in options:
                first["systemd"] = Path(where)
    # Skip mount points that are hidden by another mount.
    return {name: path for name, path in first.items() if (path / "cgroup.procs").exists()}, second


class Groups:
    """A set of cgroups, until remove()."""

    def __init__(self, number, with_processes):
        first, second = hierarchies()
        self.roots = set(first.values()) | ({second} if second else set())
        self.processes, self.pids = [], []
        names = (hashlib.sha256(str(n).encode()).hexdigest() for n in range(number))
        self.paths = [f"/{PARENT}/docker/{name}" for name in names]
        try:
            for root in self.roots:
                self.make(root, with_processes)
        except BaseException:
            self.remove()
            raise
        self.first, self.second = first, second

    def make(self, root, with_processes):
        (root / PARENT / "docker").mkdir(parents=True)
        if (root / "cgroup.subtree_control").exists():
            existing = (root / "cgroup.controllers").read_text().split()
            wanted = " ".join(f"+{name}" for name in CONTROLLERS_V2 if name in existing)
            for parent in [root, root / PARENT, root / PARENT / "docker"]:
                (parent / "cgroup.subtree_control").write_text(wanted)
        if with_processes and not self.processes:
            self.processes = [subprocess.Popen(["sleep", "infinity"]) for _ in self.paths]
            self.pids = [process.pid for process in self.processes]
        for number, path in enumerate(self.paths):
            group = root / path[1:]
            group.mkdir()
            if with_processes:
                cpuset(group)
                (group / "cgroup.procs").write_text(str(self.processes[number].pid))

    def remove(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for root in self.roots:
            for path in [*self.paths, f"/{PARENT}/docker", f"/{PARENT}"]:
                for _ in range(50):
                    try:
                        (root / path[1:]).rmdir()
                        break
                    except FileNotFoundError:
                        break
                    except OSError:
                        # The kernel may still be removing the process.
                        time.sleep(0.02)


def cpuset(group):
    """Initialises cpuset in v1, which is required before a process can join."""
    for name in ["cpuset.cpus", "cpuset.mems"]:
        file = group / name
        if file.exists() and not file.read_text().strip():
            for parent in reversed([group, *group.parents]):
                inherited = parent / name
                if inherited.exists() and not inherited.read_text().strip():
                    inherited.write_text((parent.parent / name).read_text())


class Docker:
    """A Docker daemon in its own network and mount namespace, with sleeping containers."""

    def __init__(self, number):
        self.dir = Path(tempfile.mkdtemp(prefix="strata-bench-"))
        self.socket = f"unix://{self.dir}/sock"
        prepare = 'mount -t tmpfs tmpfs /run; ip link set lo up; exec "$@"'
        words = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", prepare, "sh"]
        words += ["dockerd", f"--data-root={self.dir}/data", f"--exec-root={self.dir}/exec"]
        words += ["-H", self.socket, f"--pidfile={self.dir}/pid"]
        log = open(self.dir / "log", "wb")
        self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.first, self.second = hierarchies()
        try:
            self.start(number)
        except BaseException:
            self.remove()
            raise

    def start(self, number):
        for _ in range(100):
            if self.docker("version").returncode == 0:
                break
            if self.daemon.poll() is not None:
                sys.exit(f"dockerd failed to start:\n{(self.dir / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        image = self.dir / "image/bin"
        image.mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), image / "sleep")
        tar = self.dir / "image.tar"
        subprocess.run(["tar", "cf", tar, "-C", image.parent, "."], check=True)
        self.run_docker("import", str(tar), "box")
        for _ in range(number):
            self.run_docker("run", "--detach", "--network=none", "box", "/bin/sleep", "1000000")
        running = self.run_docker("ps", "--quiet").split()
        pids = self.run_docker("inspect", "--format={{.State.Pid}}", *running).split()
        self.paths, self.pids = [], pids
        for pid in pids:
            lines = Path(f"/proc/{pid}/cgroup").read_text()
            found = re.search(r":memory:(.+)", lines) or re.search(r"0::(.+)", lines)
            self.paths.append(found[1])

    def docker(self, *words):
        return subprocess.run(["docker", "--host", self.socket, *words], capture_output=True, text=True)

    def run_docker(self, *words):
        run = self.docker(*words)
        if run.returncode:
            sys.exit(f"docker {' '.join(words)}: {run.stderr}")
        return run.stdout

    def remove(self):
        all_results = self.docker("ps", "--all", "--quiet").stdout.split()
        if all_results:
            self.docker("rm", "--force", *all_results)
        terminate(self.daemon)
        shutil.rmtree(self.dir, ignore_errors=True)
        roots = set(self.first.values()) | ({self.second} if self.second else set())
        for root in roots:
            try:
                (root / "docker").rmdir()
            except OSError:
                pass


class Floor:
    """The C baseline (floor.c)."""

    def __init__(self, binary, groups):
        self.binary, self.groups = binary, groups
        self.files = []
        if groups.first:
            self.files += [(groups.first[name], files) for name, files in FILES_V1.items() if name in groups.first]
            self.files += [(groups.second, PRESSURE)] if groups.second else []
        else:
            self.files.append((groups.second, FILES_V2))
        if not groups.pids:
            self.files.append((groups.first.get("memory", groups.second), [PROCESSES]))
        # Only files that this kernel has.
        self.files = [(root, self.existing(root, files)) for root, files in self.files]
        self.directories = [
            (root / path[1:], files) for path in groups.paths for root, files in self.files if files
        ]
        if isinstance(groups, Docker):
            self.directories += [(Path(f"/proc/{pid}/net"), ["dev"]) for pid in groups.pids]

    def existing(self, root, files):
        group = root / self.groups.paths[0][1:]

        def is_readable(file):
            try:
                (group / file).read_bytes()
            except OSError:
                return False
            return True

        return [file for file in files if is_readable(file)]

    def paths(self):
        return sorted(str(directory / file) for directory, files in self.directories for file in files)

    def measure(self, how, rounds):
        """CPU seconds and files per round, or None if there are too many files to keep open."""
        lines = "".join(f"{directory} {' '.join(files)}\n" for directory, files in self.directories)
        run = subprocess.run([self.binary, how, str(rounds)], input=lines, capture_output=True, text=True)
        if run.returncode:
            if "Too many open files" in run.stderr:
                return None, None
            sys.exit(f"floor: {run.stderr}")
        nanoseconds, files = run.stdout.split()
        return int(nanoseconds) / 1e9, int(files)


def check(exporter, floor, groups):
    """Verifies that a scrape reads each file of the baseline once, and no others of the cgroups."""
    with tempfile.NamedTemporaryFile() as log:
        words = ["strace", "-f", "-y", "-e", "trace=read,pread64", "-o", log.name]
        tracer = subprocess.Popen([*words, "-p", str(exporter.process.pid)], stderr=subprocess.PIPE, text=True)
        tracer.stderr.readline()
        exporter.scrape()
        tracer.terminate()
        tracer.wait()
        read = re.findall(r" p?read(?:64)?\(\d+<([^>]+)>", Path(log.name).read_text())
    # Only paths below the directories of the baseline.
    ours = tuple(str(directory) + "/" for directory, _ in floor.directories)
    read = sorted(path for path in read if path.startswith(ours))
    expected = floor.paths()
    # These files are read until EOF, with more than one read.
    more = set(path for path in expected if path.endswith("/cgroup.procs") or path.startswith("/proc/"))
    read = [path for n, path in enumerate(read) if path not in more or path not in read[:n]]
    if read != expected:
        parts = [groups.paths[0][1:], f"/{groups.pids[0]}/" if groups.pids else "/-/"]
        for program, some, others in [("exporter", read, expected), ("floor", expected, read)]:
            for path in sorted(set(some)):
                if some.count(path) > others.count(path) and any(part in path for part in parts):
                    print(f"{program}: {path} read {some.count(path)} times, expected {others.count(path)}")
        sys.exit("floor and exporter read different files")
    print(f"check passed: both read the same {len(expected)} files", file=sys.stderr)


def container_flags(strata):
    """Flags for only the container collectors that are enabled by default."""
    run_docker = subprocess.run([strata, "--help"], capture_output=True, text=True, check=True).stdout
    on = re.findall(r"--collector\.(container_\w+|machine)\[=<BOOL>\]\s+Collect [^\[]*\[default: on\]", run_docker)
    if not on:
        sys.exit(f"{strata} has no container collectors")
    return ["--collector.disable-defaults"] + [f"--collector.{name}" for name in sorted(set(on))]


def scrapes(exporter, number):
    cpu, wall = exporter.cpu(), time.perf_counter()
    for _ in range(number):
        body = exporter.scrape()
    return (exporter.cpu() - cpu) / number, (time.perf_counter() - wall) / number, body


def measure(arguments, number, floor_binary):
    """Results for this number of cgroups, by program."""
    groups = Docker(number) if arguments.docker else Groups(number, arguments.processes)
    exporters = []
    try:
        flags = container_flags(arguments.strata)
        flags += [f"--engine.socket={groups.socket}"] if arguments.docker else []
        exporters.append(Exporter("strata_exporter", [arguments.strata] + flags))
        if arguments.cadvisor:
            exporters.append(Cadvisor(arguments.cadvisor))
        floor = Floor(floor_binary, groups)
        rounds, each, idle_seconds = (2, 3, 1) if arguments.short else (7, max(5, 2000 // (number + 20)), 15)
        results = {exporter.name: [] for exporter in exporters}
        floors = {"open": [], "keep": []}
        for exporter in exporters:
            scrapes(exporter, each)
        if arguments.check:
            check(exporters[0], floor, groups)
        for _ in range(rounds):
            for exporter in exporters:
                results[exporter.name].append(scrapes(exporter, each))
            for how in floors:
                floors[how].append(floor.measure(how, each))
        figures = {}
        for exporter in exporters:
            cpu, wall, body = zip(*results[exporter.name])
            text = body[-1].decode()
            shown = {path for path in groups.paths if f'id="{path}"' in text}
            if len(shown) != number:
                sys.exit(f"{exporter.name} exposes {len(shown)} of {number} cgroups")
            figures[exporter.name] = {
                "cpu": statistics.median(cpu),
                "wall": statistics.median(wall),
                "series": series(body[-1]),
                "rss": exporter.memory(),
                "idle": idle(exporter, idle_seconds),
            }
        for how, of in floors.items():
            if of[0][0] is not None:
                figures[how] = {"cpu": statistics.median(cpu for cpu, _ in of), "files": of[0][1]}
        return figures
    finally:
        for exporter in exporters:
            exporter.stop()
        groups.remove()


def in_machine(arguments, numbers, scratch):
    """Results by number of cgroups, from the virtual machine of tests/machine."""
    task = Path(scratch) / "task"
    task.mkdir()
    shutil.copy(ROOT / "benches/containers_machine.sh", task / "run.sh")
    shutil.copy(arguments.strata, task / "strata_exporter")
    flags = container_flags(arguments.strata) + ["--web.listen-address=127.0.0.1:9100"]
    build_floor(task / "floor", "-static")
    for name, words in [
        ("flags", flags),
        ("numbers", map(str, numbers)),
        ("rounds", ["2" if arguments.short else "7"]),
        ("controllers", [" ".join(f"+{name}" for name in CONTROLLERS_V2)]),
        ("files", [*FILES_V2, PROCESSES]),
    ]:
        (task / name).write_text("".join(f"{word}\n" for word in words))
    run = [ROOT / "tests/machine/run.sh", task]
    environment = {"STRATA_MACHINE_TIMEOUT": "3000", **os.environ}
    console = subprocess.run(run, env=environment, capture_output=True, text=True, errors="replace")
    if console.returncode:
        sys.exit(f"the run in the virtual machine failed:\n{console.stdout[-2000:]}{console.stderr}")
    lines = [line.split() for line in (task / "out/figures").read_text().splitlines()]
    all_results = {}
    for number in numbers:
        of = {}
        for _, what, *figures in (line for line in lines if line[0] == str(number)):
            of.setdefault(what, []).append([int(figure) for figure in figures])
        series, resident, shown = of["page"][0]
        if shown != number:
            sys.exit(f"/metrics exposes {shown} of {number} cgroups")
        all_results[number] = {
            "strata_exporter": {
                "cpu": statistics.median(ticks / per for ticks, per in of["scrapes"]),
                "series": series,
                "rss": resident / 1024,
                "idle": of["idle"][0][0] / of["idle"][0][1],
            }
        }
        for how in ("open", "keep"):
            if how in of:
                cpu = statistics.median(nanoseconds for nanoseconds, _ in of[how]) / 1e9
                all_results[number][how] = {"cpu": cpu, "files": of[how][0][1]}
    return all_results


def build_floor(path, *flags):
    source = str(ROOT / "benches/floor.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", *flags, "-o", path, source], check=True)


NAMES = {"open": "floor (open)", "keep": "floor (keep)"}


def each(all_results, number, name):
    """Cost per cgroup, without the fixed cost."""
    cpu = all_results[number][name]["cpu"]
    if number == 1 or 1 not in all_results:
        return cpu / number
    first = all_results[1].get(name, {"cpu": 0})["cpu"]
    return (cpu - first) / (number - 1)


def report(all_results, number):
    for name, of in all_results[number].items():
        cost, floor = each(all_results, number, name), each(all_results, number, "open")
        cells = [number, NAMES.get(name, name), f"{of['cpu'] * 1e3:.3f} ms", f"{cost * 1e6:.1f} µs"]
        cells.append(f"{cost / floor:.2f}")
        if "files" in of:
            cells += ["", f"{of['files']} files", "", ""]
        else:
            wall = f"{of['wall'] * 1e3:.2f} ms" if "wall" in of else ""
            cells += [wall, of["series"], f"{of['rss']:.1f} MB", f"{of['idle'] * 100:.3f} %"]
        print("| " + " | ".join(str(cell) for cell in cells) + " |")
    sys.stdout.flush()


def compare_with_targets(all_results):
    """Compares the results with the targets."""
    for number in all_results:
        if number > 1:
            ours, floor = (each(all_results, number, name) for name in ("strata_exporter", "open"))
            print(
                f"N={number}: {ours * 1e6:.1f} µs per cgroup (target: at most {PER_CONTAINER * 1e6:.0f}); "
                f"{ours / floor:.2f} times the floor (target: at most {TIMES_FLOOR})."
            )
    if 200 in all_results:
        print(f"RSS {all_results[200]['strata_exporter']['rss']:.1f} MB at 200 (target: below {MEGABYTES}).")
    if 50 in all_results and 1000 in all_results:
        few, many = (each(all_results, number, "strata_exporter") for number in (50, 1000))
        print(f"Cost per cgroup at 1000: {many / few:.2f} times the cost at 50.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="smoke test: few rounds")
    parser.add_argument("--check", action="store_true", help="verify with strace that the same files are read")
    parser.add_argument("--json", action="store_true", help="also print the results as JSON")
    parser.add_argument("--numbers", help="cgroup counts; default 1,50,200,1000")
    parser.add_argument("--processes", action="store_true", help="with a process in each group")
    parser.add_argument("--docker", action="store_true", help="use containers of a Docker daemon")
    parser.add_argument("--machine", action="store_true", help="run in the cgroup v2 virtual machine")
    parser.add_argument("--strata", default=str(ROOT / "target/release/strata_exporter"), help="path of strata_exporter")
    parser.add_argument("--cadvisor", default="cadvisor", help="cAdvisor's binary")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("root is required to create cgroups")
    if not shutil.which(arguments.strata):
        sys.exit(f"{arguments.strata} not found; see docs/benchmarks.md")
    arguments.cadvisor = shutil.which(arguments.cadvisor)
    default = "1,50" if arguments.short else "1,50,200" if arguments.docker else "1,50,200,1000"
    numbers = [int(number) for number in (arguments.numbers or default).split(",")]

    with tempfile.TemporaryDirectory() as scratch:
        build_floor(f"{scratch}/floor")
        all_results = in_machine(arguments, numbers, scratch) if arguments.machine else {}
        print("| cgroups | program | CPU | per cgroup | ratio | wall | series | RSS | idle CPU |")
        print("|---|---|---|---|---|---|---|---|---|")
        for number in numbers:
            if not arguments.machine:
                all_results[number] = measure(arguments, number, f"{scratch}/floor")
            report(all_results, number)
    if not arguments.short:
        print()
        compare_with_targets(all_results)
    if arguments.json:
        print(json.dumps(all_results))


if __name__ == "__main__":
    main()
