#!/usr/bin/env python3
"""Asks a Prometheus every question of every board, and says which fail or have no answer.

    query.py --prometheus http://localhost:9090 [--time UNIXTIME] [--board NAME]...
             [--no-data FILE] [--step 1m] [--range 1h] [--chosen] [--json]

Variables have the values that Grafana would give them: All where that is offered, else
the first; with --chosen, every value that is there, as if each were ticked.
A question is asked as of --time, now by default. Exit status: 0 all well, 1 something
is not, 2 it could not be asked.

Said to be wrong are: expressions that Prometheus does not take, questions without an
answer that --no-data does not excuse, variables without values, names of series that
are blank because their label is not there, and lines of --no-data that are of no use.

A line of --no-data is

    may    BOARD / ROW / PANEL / LETTER -- why there can be no data
    never  BOARD / ROW / PANEL / LETTER -- why there is none; data is an error
    blank  BOARD / ROW / PANEL / LETTER -- why a name may be blank

where * stands for anything.
"""

import argparse
import fnmatch
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Iterator

HERE = Path(__file__).resolve().parent


class Unreachable(Exception):
    """Prometheus gave no answer of its own."""


class Refused(Exception):
    """Prometheus does not take the question."""


class Prometheus:
    def __init__(self, address: str, at: float) -> None:
        self.address = address.rstrip("/")
        self.at = at

    def _get(self, path: str, **words: Any) -> Any:
        url = f"{self.address}{path}?{urllib.parse.urlencode(words, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                said = json.load(answer)
        except urllib.error.HTTPError as error:
            try:
                said = json.load(error)
            except ValueError:
                raise Unreachable(f"{url}: {error}") from error
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self.address}: {error}") from error
        if said.get("status") != "success":
            raise Refused(said.get("error", "no reason given"))
        return said["data"]

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """The series of an answer; a scalar is one without labels."""
        data = self._get("/api/v1/query", query=expr, time=self.at)
        if data["resultType"] in ("scalar", "string"):
            return [{"metric": {}, "value": data["result"]}]
        return data["result"]

    def values(self, label: str, selector: str, seconds: float) -> list[str]:
        words = {"start": self.at - seconds, "end": self.at}
        if selector:
            words["match[]"] = selector
        return self._get(f"/api/v1/label/{label}/values", **words)


def seconds_of(duration: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    match = re.fullmatch(r"(\d+)([smhd])", duration)
    if not match:
        raise argparse.ArgumentTypeError(f"no duration such as 5m: {duration}")
    return int(match[1]) * units[match[2]]


def escaped(value: str) -> str:
    """A value inside =~"…", as Grafana writes it for a variable with several values."""
    value = value.replace("\\", "\\" * 4)
    return re.sub(r"[$^*{}\[\]'+?.()|]", lambda it: "\\\\" + it[0], value)


def interpolated(expr: str, values: dict[str, str]) -> str:
    # The longest first: $__range_s is not $__range and a letter.
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(f"${{{name}}}", values[name]).replace(f"${name}", values[name])
    return expr


def resolved(
    board: dict[str, Any], prometheus: Prometheus, options: argparse.Namespace
) -> tuple[dict[str, str], list[str]]:
    """What the variables of a board stand for, and what is wrong with them."""
    values = {
        "__rate_interval": options.step,
        "__interval": options.step,
        "__range": options.range,
        "__range_s": f"{seconds_of(options.range):g}",
    }
    wrong = []
    for variable in board["templating"]["list"]:
        name, kind = variable["name"], variable["type"]
        if kind == "datasource":
            continue
        if kind == "custom":
            values[name] = variable["current"]["value"]
            continue
        query = variable["query"]["query"]
        match = re.fullmatch(r"label_values\((?:(.+), )?([a-zA-Z_][a-zA-Z0-9_]*)\)", query)
        if kind != "query" or not match:
            wrong.append(f"${name}: cannot be resolved: {query}")
            continue
        try:
            there = prometheus.values(
                match[2], interpolated(match[1] or "", values), seconds_of(options.range)
            )
        except Refused as error:
            wrong.append(f"${name}: {query}: {error}")
            there = []
        if not there:
            wrong.append(f"${name}: has no values: {query}")
        if options.chosen and there:
            values[name] = "(" + "|".join(escaped(it) for it in there) + ")"
        else:
            values[name] = variable.get("allValue", ".*")
    return values, wrong


def questions(board: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Row, panel and query of every question."""
    row = ""
    for panel in board["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        for inner in panel.get("panels", []) if panel["type"] == "row" else [panel]:
            for target in inner["targets"]:
                yield row, inner, target


class Excuses:
    """What --no-data says, and what of it was of use."""

    def __init__(self, path: Path | None) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.matched: set[int] = set()
        self.used: set[int] = set()
        for number, line in enumerate(path.read_text().splitlines() if path else [], 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"(may|never|blank)\s+(.+?) -- (\S.*)", line)
            if not match:
                raise ValueError(f"{path}:{number}: not `may|never|blank PLACE -- REASON`: {line}")
            self.lines.append((match[1], match[2], match[3]))

    def of(self, place: str, *kinds: str) -> str | None:
        """The first kind among these that there is an excuse of."""
        found = None
        for index, (kind, pattern, _) in enumerate(self.lines):
            # Not as a set of letters, which a title can hold.
            if kind in kinds and fnmatch.fnmatchcase(place, pattern.replace("[", "[[]")):
                self.matched.add(index)
                found = found or kind
        return found

    def useless(self, boards: set[str]) -> list[str]:
        return [
            f"{kind} {pattern}: no such question"
            for index, (kind, pattern, _) in enumerate(self.lines)
            if index not in self.matched
            and any(fnmatch.fnmatchcase(board, pattern.split(" / ")[0]) for board in boards)
        ]


def blank_labels(legend: str, series: list[dict[str, Any]]) -> list[str]:
    named = re.findall(r"{{\s*(\w+)\s*}}", legend)
    return [label for label in named if not any(it["metric"].get(label) for it in series)]


def main() -> int:
    parser = argparse.ArgumentParser(
        usage=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--time", type=float, default=None)
    parser.add_argument("--board", action="append")
    parser.add_argument("--no-data", type=Path)
    parser.add_argument("--step", default="1m")
    parser.add_argument("--range", default="1h")
    parser.add_argument("--chosen", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    prometheus = Prometheus(options.prometheus, options.time or time.time())
    names = options.board or sorted(path.stem for path in HERE.glob("*.json"))
    findings: list[dict[str, str]] = []
    asked = answered = 0
    try:
        excuses = Excuses(options.no_data)
        for name in names:
            board = json.loads((HERE / f"{name}.json").read_text())
            values, wrong = resolved(board, prometheus, options)
            findings += [{"what": "variable", "where": name, "why": it} for it in wrong]
            for row, panel, target in questions(board):
                place = f"{name} / {row} / {panel['title']} / {target['refId']}"
                expr = interpolated(target["expr"], values)
                excuse = excuses.of(place, "may", "never")
                nameless = excuses.of(place, "blank")
                asked += 1
                try:
                    series = prometheus.ask(expr)
                except Refused as error:
                    why = f"{error}: {expr}"
                    findings.append({"what": "refused", "where": place, "why": why})
                    continue
                answered += bool(series)
                if not series and not excuse:
                    findings.append({"what": "no data", "where": place, "why": expr})
                if series and excuse == "never":
                    findings.append({"what": "data", "where": place, "why": expr})
                legend = "" if target["legendFormat"] == "__auto" else target["legendFormat"]
                if series and not nameless:
                    for label in blank_labels(legend, series):
                        why = f"no series has the label {label}: {expr}"
                        findings.append({"what": "blank", "where": place, "why": why})
        findings += [
            {"what": "excuse", "where": "--no-data", "why": it}
            for it in excuses.useless(set(names))
        ]
    except (Unreachable, OSError, ValueError) as error:
        print(f"query.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        said = {"asked": asked, "answered": answered, "findings": findings}
        print(json.dumps(said, indent=1))
    else:
        for it in findings:
            print(f"{it['what']:9} {it['where']}\n          {it['why']}")
        print(f"{asked} questions, {answered} with an answer, {len(findings)} things wrong")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
