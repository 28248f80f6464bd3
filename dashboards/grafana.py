"""Grafana dashboard model: panels, rows, variables and layout, as JSON.

Names are those of the classic model, schema version 42. The files in boards/ define the content;
only this module knows the JSON format.
"""

from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 42
# `pluginVersion` in @grafana/schema: the version of the panel options.
PLUGIN_VERSION = "13.2.2"
TAG = "strata"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

TARGET = 'job=~"$job", instance=~"$instance"'


@dataclass
class Query:
    """An expression and the legend of its series."""

    expr: str
    legend: str = ""
    # Column heading in tables.
    column: str = ""
    unit: str = ""
    # Instant query: the last value only. Always set for tables and bar gauges.
    instant: bool = False
    thresholds: list[dict[str, Any]] | None = None
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
class Dashboard:
    uid: str
    title: str
    description: str
    # A metric that every target of this dashboard exposes; the variables are filled from it.
    target_metric: str
    rows: list[Row]
    # In addition to datasource, job and instance.
    variables: list[dict[str, Any]] = field(default_factory=list)
    # Matchers of every selector in addition to job and instance.
    matchers: str = ""


# Thresholds and value mappings


def threshold_steps(*pairs: tuple[float | None, str]) -> list[dict[str, Any]]:
    """Threshold steps: (lower bound, colour). The first bound is `None`."""
    return [{"color": color, "value": value} for value, color in pairs]


def high_is_bad(warning: float, critical: float) -> list[dict[str, Any]]:
    """Higher values are worse."""
    return threshold_steps((None, "green"), (warning, "yellow"), (critical, "red"))


def low_is_bad(critical: float, warning: float) -> list[dict[str, Any]]:
    """Lower values are worse."""
    return threshold_steps((None, "red"), (critical, "yellow"), (warning, "green"))


RED_FROM_ONE = threshold_steps((None, "green"), (1, "red"))
YELLOW_FROM_ONE = threshold_steps((None, "green"), (1, "yellow"))
RED_BELOW_ONE = threshold_steps((None, "red"), (1, "green"))
BLUE = threshold_steps((None, "blue"))


def value_mappings(*meanings: tuple[float, str, str]) -> list[dict[str, Any]]:
    """Value mappings: (value, text, colour)."""
    options = {
        str(value): {"text": text, "color": color, "index": index}
        for index, (value, text, color) in enumerate(meanings)
    }
    return [{"type": "value", "options": options}]


# Panels


def _defaults(
    unit: str,
    thresholds: list[dict[str, Any]],
    decimals: int | None,
    bounds: tuple[float | None, float | None],
    mappings: list[dict[str, Any]] | None,
    no_value: str,
) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": thresholds},
        "mappings": mappings or [],
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    for name, bound in zip(("min", "max"), bounds):
        if bound is not None:
            defaults[name] = bound
    if no_value:
        defaults["noValue"] = no_value
    return defaults


def _reduced() -> dict[str, Any]:
    return {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(
    title: str,
    description: str,
    queries: str | list[Query],
    unit: str,
    thresholds: list[dict[str, Any]] = BLUE,
    *,
    width: int = 3,
    height: int = 4,
    decimals: int | None = None,
    mappings: list[dict[str, Any]] | None = None,
    no_value: str = "",
    instant: bool = False,
    text: str = "auto",
) -> Panel:
    """Stat panel: one or a few numbers, with a background colour if there are thresholds."""
    if isinstance(queries, str):
        queries = [Query(queries, instant=instant)]
    has_thresholds = thresholds is not BLUE or mappings is not None
    options = {
        "reduceOptions": _reduced(),
        "orientation": "auto",
        "textMode": text,
        "colorMode": "background" if has_thresholds else "value",
        "graphMode": "none" if instant or mappings else "area",
        "justifyMode": "auto",
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "wideLayout": True,
    }
    defaults = _defaults(unit, thresholds, decimals, (None, None), mappings, no_value)
    return Panel("stat", title, description, queries, unit, width, height, options, defaults)


def timeseries(
    title: str,
    description: str,
    queries: list[Query],
    unit: str,
    *,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    min_value: float | None = 0,
    max_value: float | None = None,
    thresholds: list[dict[str, Any]] | None = None,
    mirrored: str = "",
    log: bool = False,
) -> Panel:
    """Time series panel. Series whose name matches the regex `mirrored` are drawn below zero."""
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
        unit,
        thresholds or threshold_steps((None, "green")),
        None,
        (None if mirrored else min_value, max_value),
        None,
        "",
    )
    defaults["color"] = {"mode": "palette-classic-by-name" if stacked else "palette-classic"}
    defaults["custom"] = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
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
        "axisCenteredZero": bool(mirrored),
        "axisGridShow": True,
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
    }
    overrides = []
    if mirrored:
        overrides.append(
            {
                "matcher": {"id": "byRegexp", "options": mirrored},
                "properties": [{"id": "custom.transform", "value": "negative-Y"}],
            }
        )
    return Panel(
        "timeseries", title, description, queries, unit, width, height, options, defaults, overrides
    )


def bar_gauge(
    title: str,
    description: str,
    query: Query,
    unit: str,
    *,
    width: int = 8,
    height: int = 8,
    thresholds: list[dict[str, Any]] = BLUE,
    min_value: float | None = 0,
    max_value: float | None = None,
) -> Panel:
    """Bar gauge panel: one bar per series, current values."""
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
    defaults = _defaults(unit, thresholds, None, (min_value, max_value), None, "")
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
    """Table panel: one row per label set, one column per query.

    `labels` maps label names to column headings, in order. `links` maps a heading to the title and
    URL of a data link. The value of a query without a `column` is hidden.
    """
    for query in queries:
        query.instant = True
    is_single = len(queries) == 1
    values = ["Value" if is_single else f"Value #{ref(i)}" for i in range(len(queries))]
    shown_values = [(value, query) for value, query in zip(values, queries) if query.column]
    renamed = dict(labels) | {value: query.column for value, query in shown_values}
    hidden_values = [value for value, query in zip(values, queries) if not query.column]
    order = [*labels, *(value for value, _ in shown_values)]
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": {name: True for name in ["Time", *hidden_values, *hidden]},
            "indexByName": {name: index for index, name in enumerate(order)},
            "renameByName": renamed,
            "includeByName": {},
        },
    }
    merge = {"id": "merge", "options": {}}
    overrides = []
    for _, query in shown_values:
        properties: list[dict[str, Any]] = [{"id": "unit", "value": query.unit}]
        if query.thresholds:
            value = {"mode": "absolute", "steps": query.thresholds}
            properties.append({"id": "thresholds", "value": value})
        if query.mappings:
            properties.append({"id": "mappings", "value": query.mappings})
        if query.thresholds or query.mappings:
            cell = {"type": "color-background", "mode": "basic"}
            properties.append({"id": "custom.cellOptions", "value": cell})
        matcher = {"id": "byName", "options": query.column}
        overrides.append({"matcher": matcher, "properties": properties})
    for heading, (link_title, url) in (links or {}).items():
        link = {"title": link_title, "url": url, "targetBlank": False}
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
    defaults = _defaults("short", threshold_steps((None, "green")), None, (None, None), None, "")
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
        [organize] if is_single else [merge, organize],
    )


def dashboard_url(uid: str, *variables: tuple[str, str]) -> str:
    """URL of a dashboard for a table link; variables are filled from columns of the row."""
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


def query_variable(
    name: str, label: str, description: str, query: str, all_value: str = ".+"
) -> dict[str, Any]:
    """A multi-value variable filled from the values of a label."""
    return _variable("query", name, label, description) | {
        "datasource": DATASOURCE,
        "query": {
            "query": query,
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
            "qryType": 1,
        },
        "regex": "",
        # Refresh on time range change, so that targets that no longer exist can be selected.
        "refresh": 2,
        "sort": 5,
        "multi": True,
        "includeAll": True,
        "allValue": all_value,
        "allowCustomValue": True,
        "current": dict(ALL),
        "options": [],
    }


def custom_variable(
    name: str, label: str, description: str, values: list[str], first: str
) -> dict[str, Any]:
    """A variable with fixed values."""
    return _variable("custom", name, label, description) | {
        "query": ",".join(values),
        "multi": False,
        "includeAll": False,
        "allowCustomValue": True,
        "current": {"selected": True, "text": first, "value": first},
        "options": [{"selected": it == first, "text": it, "value": it} for it in values],
    }


TOP = custom_variable(
    "top", "Top", "Maximum number of series per graph.", ["5", "10", "20", "50"], "10"
)


def top(expr: str, legend: str = "{{instance}}") -> list[Query]:
    """The top series; requires the variable TOP."""
    return [Query(f"topk($top, {expr})", legend)]


def top_rates(
    aggregate: str, legend: str, first: str, second: str, suffixes: tuple[str, str]
) -> list[Query]:
    """The top series of two counters, as rates, with a legend suffix for each."""
    pairs = zip((first, second), suffixes)
    return [
        query
        for name, word in pairs
        for query in top(f"{aggregate} (rate({name}{{@}}[$__rate_interval]))", f"{legend} {word}")
    ]


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    datasource = _variable("datasource", "datasource", "Data Source", "The Prometheus data source.")
    datasource |= {
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "options": [],
    }
    target_metric = dashboard.target_metric
    return [
        datasource,
        query_variable(
            "job", "Job", "Prometheus scrape jobs.", f"label_values({target_metric}, job)"
        ),
        query_variable(
            "instance",
            "Instance",
            "Targets of the selected jobs, by their `instance` label.",
            f'label_values({target_metric}{{job=~"$job"}}, instance)',
        ),
        *dashboard.variables,
    ]


# Dashboard


def ref(index: int) -> str:
    """refId of a query."""
    return chr(ord("A") + index)


def expand(expr: str, matchers: str) -> str:
    """Expands `{@}`, the matchers of all selectors of a dashboard, and `{@target}`."""
    all_matchers = f"{TARGET}, {matchers}" if matchers else TARGET
    expr = " ".join(expr.split())
    return expr.replace("@target", TARGET).replace("@", all_matchers)


def _target(panel: Panel, index: int, query: Query, matchers: str) -> dict[str, Any]:
    is_table = panel.kind == "table"
    return {
        "refId": ref(index),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expand(query.expr, matchers),
        "format": "table" if is_table else "time_series",
        "instant": query.instant,
        "range": not query.instant,
        "legendFormat": query.legend or "__auto",
    }


def _panel(panel: Panel, panel_id: int, grid_pos: dict[str, int], matchers: str) -> dict[str, Any]:
    return {
        "id": panel_id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "pluginVersion": PLUGIN_VERSION,
        "gridPos": grid_pos,
        "targets": [_target(panel, i, it, matchers) for i, it in enumerate(panel.queries)],
        "fieldConfig": {"defaults": panel.defaults, "overrides": panel.overrides},
        "options": panel.options,
        "transformations": panel.transformations,
    }


def _layout(panels: list[Panel], y: int) -> tuple[list[dict[str, int]], int]:
    """Places panels left to right from row `y`; returns their positions and the next free row."""
    grid_positions, x, height = [], 0, 0
    for panel in panels:
        if x + panel.width > WIDTH:
            x, y, height = 0, y + height, 0
        grid_positions.append({"h": panel.height, "w": panel.width, "x": x, "y": y})
        x, height = x + panel.width, max(height, panel.height)
    return grid_positions, y + height


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana loads it."""
    panels: list[dict[str, Any]] = []
    panel_id, y = 1, 0
    for row in dashboard.rows:
        row_panel = {
            "id": panel_id,
            "type": "row",
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
            "panels": [],
        }
        panel_id, y = panel_id + 1, y + 1
        grid_positions, mirrored = _layout(row.panels, y)
        row_panels = []
        for panel, grid_pos in zip(row.panels, grid_positions):
            row_panels.append(_panel(panel, panel_id, grid_pos, dashboard.matchers))
            panel_id += 1
        panels.append(row_panel)
        if row.collapsed:
            row_panel["panels"] = row_panels
        else:
            panels += row_panels
            y = mirrored
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
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
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
        "templating": {"list": _variables(dashboard)},
        "panels": panels,
    }
