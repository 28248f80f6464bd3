#!/usr/bin/env python3
"""Runs every query of every dashboard against a Prometheus and reports errors and missing data.

    query.py --prometheus http://localhost:9090 [--time UNIXTIME] [--board NAME]...
             [--no-data FILE] [--step 1m] [--range 1h] [--chosen] [--json]

Variables get the values that Grafana would use: All if the variable offers it, otherwise the first
value. With --chosen, every existing value is selected explicitly. Queries are evaluated at --time
(default: now). Exit status: 0 no findings, 1 findings, 2 Prometheus could not be queried.

Findings are: expressions that Prometheus rejects, queries without data that --no-data does not
excuse, variables without values, legends that are blank because a label is missing, and unused
lines of --no-data.

A line of --no-data is

    may    DASHBOARD / ROW / PANEL / REFID -- why there may be no data
    never  DASHBOARD / ROW / PANEL / REFID -- why there is no data; data is an error
    blank  DASHBOARD / ROW / PANEL / REFID -- why the legend may be blank

where * matches any text.
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
    """No valid response from Prometheus."""


class Rejected(Exception):
    """Prometheus rejected the query."""


class Prometheus:
    def __init__(self, address: str, at: float) -> None:
        self.address = address.rstrip("/")
        self.at = at

    def _get(self, path: str, **params: Any) -> Any:
        url = f"{self.address}{path}?{urllib.parse.urlencode(params, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                response = json.load(reply)
        except urllib.error.HTTPError as error:
            try:
                response = json.load(error)
            except ValueError:
                raise Unreachable(f"{url}: {error}") from error
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self.address}: {error}") from error
        if response.get("status") != "success":
            raise Rejected(response.get("error", "no error message"))
        return response["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query; a scalar is returned as one series without labels."""
        data = self._get("/api/v1/query", query=expr, time=self.at)
        if data["resultType"] in ("scalar", "string"):
            return [{"metric": {}, "value": data["result"]}]
        return data["result"]

    def values(self, label: str, selector: str, seconds: float) -> list[str]:
        params = {"start": self.at - seconds, "end": self.at}
        if selector:
            params["match[]"] = selector
        return self._get(f"/api/v1/label/{label}/values", **params)


def parse_duration(duration: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    match = re.fullmatch(r"(\d+)([smhd])", duration)
    if not match:
        raise argparse.ArgumentTypeError(f"invalid duration {duration!r} (expected for example 5m)")
    return int(match[1]) * units[match[2]]


def escape_value(value: str) -> str:
    """Escapes a value for =~"…" as Grafana does for multi-value variables."""
    value = value.replace("\\", "\\" * 4)
    return re.sub(r"[$^*{}\[\]'+?.()|]", lambda it: "\\\\" + it[0], value)


def interpolate(expr: str, values: dict[str, str]) -> str:
    # Longest name first, so that $__range does not match in $__range_s.
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(f"${{{name}}}", values[name]).replace(f"${name}", values[name])
    return expr


def resolve_variables(
    dashboard: dict[str, Any], prometheus: Prometheus, options: argparse.Namespace
) -> tuple[dict[str, str], list[str]]:
    """The values of a dashboard's variables, and errors in their queries."""
    values = {
        "__rate_interval": options.step,
        "__interval": options.step,
        "__range": options.range,
        "__range_s": f"{parse_duration(options.range):g}",
    }
    errors = []
    for variable in dashboard["templating"]["list"]:
        name, kind = variable["name"], variable["type"]
        if kind == "datasource":
            continue
        if kind == "custom":
            values[name] = variable["current"]["value"]
            continue
        query = variable["query"]["query"]
        match = re.fullmatch(r"label_values\((?:(.+), )?([a-zA-Z_][a-zA-Z0-9_]*)\)", query)
        if kind != "query" or not match:
            errors.append(f"${name}: unsupported variable query: {query}")
            continue
        try:
            found = prometheus.values(
                match[2], interpolate(match[1] or "", values), parse_duration(options.range)
            )
        except Rejected as error:
            errors.append(f"${name}: {query}: {error}")
            found = []
        if not found:
            errors.append(f"${name}: no values: {query}")
        if options.chosen and found:
            values[name] = "(" + "|".join(escape_value(it) for it in found) + ")"
        else:
            values[name] = variable.get("allValue", ".*")
    return values, errors


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Row, panel and target of every query."""
    row = ""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        for inner in panel.get("panels", []) if panel["type"] == "row" else [panel]:
            for target in inner["targets"]:
                yield row, inner, target


class Excuses:
    """The lines of --no-data, and which of them were used."""

    def __init__(self, path: Path | None) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.matched: set[int] = set()
        self.used: set[int] = set()
        for number, line in enumerate(path.read_text().splitlines() if path else [], 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"(may|never|blank)\s+(.+?) -- (\S.*)", line)
            if not match:
                raise ValueError(
                    f"{path}:{number}: expected `may|never|blank PATTERN -- REASON`, got: {line}"
                )
            self.lines.append((match[1], match[2], match[3]))

    def of(self, path: str, *kinds: str) -> str | None:
        """The kind of the first matching line, of the given kinds."""
        found = None
        for index, (kind, pattern, _) in enumerate(self.lines):
            # Escape [, which may occur in a title and is not a character set.
            if kind in kinds and fnmatch.fnmatchcase(path, pattern.replace("[", "[[]")):
                self.matched.add(index)
                found = found or kind
        return found

    def unused(self, boards: set[str]) -> list[str]:
        return [
            f"{kind} {pattern}: matches no query"
            for index, (kind, pattern, _) in enumerate(self.lines)
            if index not in self.matched
            and any(fnmatch.fnmatchcase(dashboard, pattern.split(" / ")[0]) for dashboard in boards)
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
    query_count = data_count = 0
    try:
        excuses = Excuses(options.no_data)
        for name in names:
            dashboard = json.loads((HERE / f"{name}.json").read_text())
            values, errors = resolve_variables(dashboard, prometheus, options)
            findings += [{"what": "variable", "where": name, "why": it} for it in errors]
            for row, panel, target in queries(dashboard):
                path = f"{name} / {row} / {panel['title']} / {target['refId']}"
                expr = interpolate(target["expr"], values)
                excuse = excuses.of(path, "may", "never")
                blank_allowed = excuses.of(path, "blank")
                query_count += 1
                try:
                    series = prometheus.query(expr)
                except Rejected as error:
                    why = f"{error}: {expr}"
                    findings.append({"what": "refused", "where": path, "why": why})
                    continue
                data_count += bool(series)
                if not series and not excuse:
                    findings.append({"what": "no data", "where": path, "why": expr})
                if series and excuse == "never":
                    findings.append({"what": "data", "where": path, "why": expr})
                legend = "" if target["legendFormat"] == "__auto" else target["legendFormat"]
                if series and not blank_allowed:
                    for label in blank_labels(legend, series):
                        why = f"no series has label {label}: {expr}"
                        findings.append({"what": "blank", "where": path, "why": why})
        findings += [
            {"what": "excuse", "where": "--no-data", "why": it} for it in excuses.unused(set(names))
        ]
    except (Unreachable, OSError, ValueError) as error:
        print(f"query.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        response = {"queries": query_count, "with_data": data_count, "findings": findings}
        print(json.dumps(response, indent=1))
    else:
        for it in findings:
            print(f"{it['what']:9} {it['where']}\n          {it['why']}")
        print(f"{query_count} queries, {data_count} with data, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
