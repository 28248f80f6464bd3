#!/usr/bin/env python3
"""Writes the boards in boards/ as the JSON that Grafana loads.

    make.py             writes each board beside this file
    make.py --check     says which differ from what is there, and fails if one does
"""

import importlib
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import grafana  # noqa: E402


def boards() -> dict[str, grafana.Board]:
    """All boards, by the names of their files."""
    names = sorted(path.stem for path in (HERE / "boards").glob("*.py"))
    return {name: importlib.import_module(f"boards.{name}").BOARD for name in names}


def main(words: list[str]) -> int:
    if words not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    made = {
        f"{name}.json": json.dumps(grafana.model(board), indent=1) + "\n"
        for name, board in boards().items()
    }
    there = {path.name: path.read_text() for path in HERE.glob("*.json")}
    differ = [name for name in sorted(made.keys() | there.keys()) if made.get(name) != there.get(name)]
    for name in differ:
        if words:
            print(f"dashboards/{name} is not what dashboards/make.py makes", file=sys.stderr)
        elif name in made:
            (HERE / name).write_text(made[name])
            print(f"wrote {name}")
        else:
            print(f"dashboards/{name} is no board in boards/", file=sys.stderr)
    return 1 if words and differ else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
