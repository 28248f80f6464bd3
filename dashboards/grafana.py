"""What a board of Grafana's is as JSON: panels, rows, variables and where they lie.

The names are those of the classic model, schema version 42. A board's file says what is
on it; how Grafana wants it written is here only.
"""

from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 42
# Of the panels' options: what @grafana/schema calls pluginVersion.
PLUGIN_VERSION = "13.2.2"
TAG = "strata"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

TARGET = 'job=~"$job", instance=~"$instance"'


@dataclass
class Query:
    """An expression and what its series are called."""

    expr: str
    legend: str = ""
    # In tables: the heading of its values.
    column: str = ""
    unit: str = ""
    # Whether only the last value is asked for; tables and bars always do.
    instant: bool = False
    steps: list[dict[str, Any]] | None = None
    mappings: list[dict[str, Any]] | None = None


@dataclass
class Panel:
    kind: str
    title: str
    description: str
    queries: list[Query]
    unit: str
    width: int
    height: int
    options: dict[str, Any]
    defaults: dict[str, Any]
    overrides: list[dict[str, Any]] = field(default_factory=list)
    transformations: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Row:
    title: str
    panels: list[Panel]
    collapsed: bool = True


@dataclass
class Board:
    uid: str
    title: str
    description: str
    # A metric that every target of this board has: it fills the variables.
    known_by: str
    rows: list[Row]
    # Beside datasource, job and instance.
    variables: list[dict[str, Any]] = field(default_factory=list)
    # What every selector of the board matches beside job and instance.
    matchers: str = ""


# Colours


def steps(*pairs: tuple[float | None, str]) -> list[dict[str, Any]]:
    """Thresholds: from each value on, a colour. The first value is `None`."""
    return [{"color": color, "value": value} for value, color in pairs]


def high(warning: float, critical: float) -> list[dict[str, Any]]:
    """More is worse."""
    return steps((None, "green"), (warning, "yellow"), (critical, "red"))


def low(critical: float, warning: float) -> list[dict[str, Any]]:
    """Less is worse."""
    return steps((None, "red"), (critical, "yellow"), (warning, "green"))


NONE_IS_GOOD = steps((None, "green"), (1, "red"))
NONE_IS_BEST = steps((None, "green"), (1, "yellow"))
ALL_IS_GOOD = steps((None, "red"), (1, "green"))
PLAIN = steps((None, "blue"))


def words(*meanings: tuple[float, str, str]) -> list[dict[str, Any]]:
    """What numbers mean: value, word, colour."""
    options = {
        str(value): {"text": text, "color": color, "index": index}
        for index, (value, text, color) in enumerate(meanings)
    }
    return [{"type": "value", "options": options}]


# Panels


def _defaults(
    unit: str,
    colors: list[dict[str, Any]],
    decimals: int | None,
    bounds: tuple[float | None, float | None],
    mappings: list[dict[str, Any]] | None,
    missing: str,
) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": colors},
        "mappings": mappings or [],
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    for name, bound in zip(("min", "max"), bounds):
        if bound is not None:
            defaults[name] = bound
    if missing:
        defaults["noValue"] = missing
    return defaults


def _reduced() -> dict[str, Any]:
    return {"calcs": ["lastNotNull"], "fields": "", "values": False}


def tile(
    title: str,
    description: str,
    queries: str | list[Query],
    unit: str,
    colors: list[dict[str, Any]] = PLAIN,
    *,
    width: int = 3,
    height: int = 4,
    decimals: int | None = None,
    mappings: list[dict[str, Any]] | None = None,
    missing: str = "",
    instant: bool = False,
    text: str = "auto",
) -> Panel:
    """One number, or a few, that say how things stand; coloured if there is good and bad."""
    if isinstance(queries, str):
        queries = [Query(queries, instant=instant)]
    judged = colors is not PLAIN or mappings is not None
    options = {
        "reduceOptions": _reduced(),
        "orientation": "auto",
        "textMode": text,
        "colorMode": "background" if judged else "value",
        "graphMode": "none" if instant or mappings else "area",
        "justifyMode": "auto",
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "wideLayout": True,
    }
    defaults = _defaults(unit, colors, decimals, (None, None), mappings, missing)
    return Panel("stat", title, description, queries, unit, width, height, options, defaults)


def lines(
    title: str,
    description: str,
    queries: list[Query],
    unit: str,
    *,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    least: float | None = 0,
    most: float | None = None,
    colors: list[dict[str, Any]] | None = None,
    below: str = "",
    steps_only: bool = False,
    log: bool = False,
) -> Panel:
    """Values over time. Series whose name matches `below` are drawn downwards."""
    options = {
        "legend": {
            "displayMode": "table",
            "placement": "right" if width >= 24 else "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
            "sortBy": "Max",
            "sortDesc": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc", "hideZeros": False},
    }
    defaults = _defaults(
        unit, colors or steps((None, "green")), None, (None if below else least, most), None, ""
    )
    defaults["color"] = {"mode": "palette-classic-by-name" if stacked else "palette-classic"}
    defaults["custom"] = {
        "drawStyle": "line",
        "lineInterpolation": "stepAfter" if steps_only else "linear",
        "lineWidth": 1,
        "fillOpacity": 60 if stacked else 10,
        "gradientMode": "none",
        "showPoints": "never",
        "pointSize": 5,
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "axisPlacement": "auto",
        "axisLabel": "",
        "axisColorMode": "text",
        "axisBorderShow": False,
        "axisCenteredZero": bool(below),
        "axisGridShow": True,
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if colors else "off"},
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
    }
    overrides = []
    if below:
        overrides.append(
            {
                "matcher": {"id": "byRegexp", "options": below},
                "properties": [{"id": "custom.transform", "value": "negative-Y"}],
            }
        )
    return Panel(
        "timeseries", title, description, queries, unit, width, height, options, defaults, overrides
    )


def bars(
    title: str,
    description: str,
    query: Query,
    unit: str,
    *,
    width: int = 8,
    height: int = 8,
    colors: list[dict[str, Any]] = PLAIN,
    least: float | None = 0,
    most: float | None = None,
) -> Panel:
    """What is there now, each as a bar."""
    query.instant = True
    options = {
        "reduceOptions": _reduced(),
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "color",
        "namePlacement": "left",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 32,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
    }
    defaults = _defaults(unit, colors, None, (least, most), None, "")
    return Panel("bargauge", title, description, [query], unit, width, height, options, defaults)


def table(
    title: str,
    description: str,
    queries: list[Query],
    *,
    labels: dict[str, str],
    sort: str,
    descending: bool = True,
    links: dict[str, tuple[str, str]] | None = None,
    hidden: tuple[str, ...] = (),
    width: int = 24,
    height: int = 10,
) -> Panel:
    """Things by their labels, a column for each query.

    `labels` are the headings of labels, in order; `links` lead from a heading to what
    it says, at an address. Where a query has no heading, its value is not shown.
    """
    for query in queries:
        query.instant = True
    alone = len(queries) == 1
    values = ["Value" if alone else f"Value #{ref(i)}" for i in range(len(queries))]
    shown = [(value, query) for value, query in zip(values, queries) if query.column]
    renamed = dict(labels) | {value: query.column for value, query in shown}
    unshown = [value for value, query in zip(values, queries) if not query.column]
    order = [*labels, *(value for value, _ in shown)]
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": {name: True for name in ["Time", *unshown, *hidden]},
            "indexByName": {name: index for index, name in enumerate(order)},
            "renameByName": renamed,
            "includeByName": {},
        },
    }
    merge = {"id": "merge", "options": {}}
    overrides = []
    for _, query in shown:
        properties: list[dict[str, Any]] = [{"id": "unit", "value": query.unit}]
        if query.steps:
            value = {"mode": "absolute", "steps": query.steps}
            properties.append({"id": "thresholds", "value": value})
        if query.mappings:
            properties.append({"id": "mappings", "value": query.mappings})
        if query.steps or query.mappings:
            cell = {"type": "color-background", "mode": "basic"}
            properties.append({"id": "custom.cellOptions", "value": cell})
        matcher = {"id": "byName", "options": query.column}
        overrides.append({"matcher": matcher, "properties": properties})
    for heading, (words_, url) in (links or {}).items():
        link = {"title": words_, "url": url, "targetBlank": False}
        overrides.append(
            {
                "matcher": {"id": "byName", "options": heading},
                "properties": [{"id": "links", "value": [link]}],
            }
        )
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "frameIndex": 0,
        "sortBy": [{"displayName": sort, "desc": descending}],
    }
    defaults = _defaults("short", steps((None, "green")), None, (None, None), None, "")
    defaults["custom"] = {"align": "auto", "cellOptions": {"type": "auto"}}
    defaults["custom"] |= {"filterable": True, "inspect": False}
    return Panel(
        "table",
        title,
        description,
        queries,
        "short",
        width,
        height,
        options,
        defaults,
        overrides,
        [organize] if alone else [merge, organize],
    )


def to_board(uid: str, *variables: tuple[str, str]) -> str:
    """The address of a board, for a link in a table: its variables from columns' names."""
    chosen = [f"var-{name}=${{__data.fields[{column!r}]}}" for name, column in variables]
    return f"/d/{uid}?" + "&".join(
        ["${datasource:queryparam}", "${job:queryparam}", *chosen, "${__url_time_range}"]
    ).replace("'", '"')


# Variables


def _variable(kind: str, name: str, label: str, description: str) -> dict[str, Any]:
    return {
        "type": kind,
        "name": name,
        "label": label,
        "description": description,
        "hide": 0,
        "skipUrlSync": False,
    }


ALL = {"selected": True, "text": ["All"], "value": ["$__all"]}


def values_of(
    name: str, label: str, description: str, query: str, all_value: str = ".+"
) -> dict[str, Any]:
    """A variable that any number of a label's values can be chosen for."""
    return _variable("query", name, label, description) | {
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery", "qryType": 1},
        "regex": "",
        # On each change of the time range: what is gone can be chosen where it was.
        "refresh": 2,
        "sort": 5,
        "multi": True,
        "includeAll": True,
        "allValue": all_value,
        "allowCustomValue": True,
        "current": dict(ALL),
        "options": [],
    }


def one_of(name: str, label: str, description: str, values: list[str], first: str) -> dict[str, Any]:
    """A variable with fixed values."""
    return _variable("custom", name, label, description) | {
        "query": ",".join(values),
        "multi": False,
        "includeAll": False,
        "allowCustomValue": True,
        "current": {"selected": True, "text": first, "value": first},
        "options": [{"selected": it == first, "text": it, "value": it} for it in values],
    }


TOP = one_of(
    "top", "Top", "How many series a diagram shows at most.", ["5", "10", "20", "50"], "10"
)


def top(expr: str, legend: str = "{{instance}}") -> list[Query]:
    """The series with most, on a board with the variable TOP."""
    return [Query(f"topk($top, {expr})", legend)]


def top_rates(
    aggregate: str, legend: str, first: str, second: str, words_: tuple[str, str]
) -> list[Query]:
    """Those with most of two counters, and both of them, told apart by a word."""
    pairs = zip((first, second), words_)
    return [
        query
        for name, word in pairs
        for query in top(f"{aggregate} (rate({name}{{@}}[$__rate_interval]))", f"{legend} {word}")
    ]


def _variables(board: Board) -> list[dict[str, Any]]:
    datasource = _variable("datasource", "datasource", "Data Source", "Which Prometheus is asked.")
    datasource |= {
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "options": [],
    }
    known_by = board.known_by
    return [
        datasource,
        values_of(
            "job", "Job", "Scrape jobs of Prometheus.", f"label_values({known_by}, job)"
        ),
        values_of(
            "instance",
            "Instance",
            "Targets of these jobs, as Prometheus calls them.",
            f'label_values({known_by}{{job=~"$job"}}, instance)',
        ),
        *board.variables,
    ]


# A board


def ref(index: int) -> str:
    """The name of a query in its panel."""
    return chr(ord("A") + index)


def expand(expr: str, matchers: str) -> str:
    """Writes out `{@}`, what all selectors of a board match, and `{@target}`."""
    all_of = f"{TARGET}, {matchers}" if matchers else TARGET
    expr = " ".join(expr.split())
    return expr.replace("@target", TARGET).replace("@", all_of)


def _target(panel: Panel, index: int, query: Query, matchers: str) -> dict[str, Any]:
    as_table = panel.kind == "table"
    return {
        "refId": ref(index),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expand(query.expr, matchers),
        "format": "table" if as_table else "time_series",
        "instant": query.instant,
        "range": not query.instant,
        "legendFormat": query.legend or "__auto",
    }


def _panel(panel: Panel, number: int, place: dict[str, int], matchers: str) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "pluginVersion": PLUGIN_VERSION,
        "gridPos": place,
        "targets": [_target(panel, i, it, matchers) for i, it in enumerate(panel.queries)],
        "fieldConfig": {"defaults": panel.defaults, "overrides": panel.overrides},
        "options": panel.options,
        "transformations": panel.transformations,
    }


def _lay(panels: list[Panel], y: int) -> tuple[list[dict[str, int]], int]:
    """Where panels lie that are put side by side from this line on, and the line below."""
    places, x, height = [], 0, 0
    for panel in panels:
        if x + panel.width > WIDTH:
            x, y, height = 0, y + height, 0
        places.append({"h": panel.height, "w": panel.width, "x": x, "y": y})
        x, height = x + panel.width, max(height, panel.height)
    return places, y + height


def model(board: Board) -> dict[str, Any]:
    """The board as Grafana loads it."""
    panels: list[dict[str, Any]] = []
    number, y = 1, 0
    for row in board.rows:
        head = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
            "panels": [],
        }
        number, y = number + 1, y + 1
        places, below = _lay(row.panels, y)
        inside = []
        for panel, place in zip(row.panels, places):
            inside.append(_panel(panel, number, place, board.matchers))
            number += 1
        panels.append(head)
        if row.collapsed:
            head["panels"] = inside
        else:
            panels += inside
            y = below
    link = {
        "type": "dashboards",
        "title": "Strata",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
    return {
        "id": None,
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "refresh": "30s",
        "timepicker": {},
        "annotations": {"list": []},
        "links": [link],
        "templating": {"list": _variables(board)},
        "panels": panels,
    }
