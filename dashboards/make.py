#!/usr/bin/env python3
"""Generates the Grafana dashboards (JSON) from boards/*.py.

make.py             write each dashboard next to this file
make.py --check     report dashboards that are out of date; exit 1 if there are any
"""

import importlib
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import grafana  # noqa: E402


def dashboards() -> dict[str, grafana.Dashboard]:
    """All dashboards, by file name."""
    names = sorted(path.stem for path in (HERE / "boards").glob("*.py"))
    return {name: importlib.import_module(f"boards.{name}").DASHBOARD for name in names}


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    generated = {
        f"{name}.json": json.dumps(grafana.dashboard_json(dashboard), indent=1) + "\n"
        for name, dashboard in dashboards().items()
    }
    committed = {path.name: path.read_text() for path in HERE.glob("*.json")}
    differing = [
        name
        for name in sorted(generated.keys() | committed.keys())
        if generated.get(name) != committed.get(name)
    ]
    for name in differing:
        if arguments:
            print(f"dashboards/{name} is out of date: run dashboards/make.py", file=sys.stderr)
        elif name in generated:
            (HERE / name).write_text(generated[name])
            print(f"wrote {name}")
        else:
            print(f"dashboards/{name} has no source in boards/", file=sys.stderr)
    return 1 if arguments and differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
