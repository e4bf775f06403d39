"""
Writes the Grafana dashboards and the Prometheus rules: ``python dashboards/build.py``, after each change of this file.

Every query counts by `made`. An instance of a function pushes what it has counted since it began, from a new series
each time one starts, and dies without a word: ``increase()`` and ``rate()`` see nothing of a series that comes with its
only value, and ``sum(last_over_time(…))`` counts the past of an instance that goes on.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml
from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as dashboard_model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("NOT_SHOWN", "files", "made", "write")

HERE = Path(__file__).resolve().parent

# Instruments that no panel shows, and why; a test fails for one that is neither here nor on a panel.
NOT_SHOWN: dict[str, str] = {}

# An instance that said nothing for longer is taken for dead; if it speaks again, its past counts twice. Hosts let go of
# an idle instance after minutes, Lambda at the latest within two hours or so; every query reads so much more history.
_SILENCE = "3h"

_FUNCTION = ("faas_name", "service_version", "deployment_environment_name")
_CHOSEN = 'faas_name=~"$function",service_version=~"$version",deployment_environment_name=~"$environment"'
_SOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")

# Of a step on a chart and of the whole range shown; Grafana fills them in.
_STEP, _RANGE = "$__interval", "$__range"
_PER_SECOND = "($__interval_ms / 1000)"


def made(metric: str, window: str, by: Sequence[str] = (), where: str = _CHOSEN, at: str = "") -> str:
    """
    Return the query for what a cumulative metric gained in a window, exactly.

    Args:
        metric: A counter, or the ``_bucket``, ``_count`` or ``_sum`` of a histogram.
        window: As in PromQL, or a variable of Grafana's.
        by: The labels that are kept; the sum is over all instances.
        where: Matchers of the labels.
        at: ``"@ end()"`` for a window that ends with the range shown, and not with each step.
    """
    moment = f" {at}" if at else ""
    last = f"last_over_time({metric}{{{where}}}[{window}]{moment})"
    # Per instance: its value now, less the value it had when the window began, if there was one.
    gained = f"{last} - last_over_time({metric}{{{where}}}[{_SILENCE}] offset {window}{moment}) or {last}"
    return f"sum by ({', '.join(by)}) ({gained})" if by else f"sum({gained})"


def _quantile(q: float, histogram: str, window: str, by: Sequence[str] = (), where: str = _CHOSEN) -> str:
    return f"histogram_quantile({q:g}, {made(f'{histogram}_bucket', window, (*by, 'le'), where)})"


def _or_zero(part: str, whole: str) -> str:
    """Return a query for a part that may have no series at all, where the whole has one."""
    return f"({part} or {whole} * 0)"


def _outcomes(window: str, by: Sequence[str] = (), where: str = _CHOSEN) -> str:
    """Return the query for how many invocations came to which end, failed loads included, by ``outcome``."""
    counters = {"succeeded": "invocations", "failed": "errors", "timed out": "timeouts"}
    parts = (
        f'label_replace({made(f"faas_{counter}_total", window, by, where)}, "outcome", "{outcome}", "", "")'
        for outcome, counter in counters.items()
    )
    # Not a sum of three: where nothing ever succeeds, one of them has no series, and the sum were nothing.
    return " or ".join(parts)


def _share(part: str, whole: str) -> str:
    return f"{_or_zero(part, whole)} / ({whole} > 0)"


class _Query(NamedTuple):
    expr: str
    legend: str


class _Panel(NamedTuple):
    """What is the same for panels of all types."""

    title: str
    description: str
    queries: Sequence[_Query]
    unit: str
    width: int = 12


_Built = stat.Panel | timeseries.Panel | table.Panel | bargauge.Panel | heatmap.Panel


def _target(
    query: _Query,
    number: int,
    *,
    instant: bool,
    exemplars: bool = False,
    form: prometheus_model.PromQueryFormat = prometheus_model.PromQueryFormat.TIME_SERIES,
) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + number))
    target = target.datasource(_SOURCE).format(form).exemplar(exemplars)
    return target.instant() if instant else target.range()


def _stat(panel: _Panel) -> stat.Panel:
    built = (
        stat.Panel().title(panel.title).description(panel.description).datasource(_SOURCE).unit(panel.unit)
        .span(panel.width).height(4).no_value("none").graph_mode(common_model.BigValueGraphMode.NONE)
        .color_mode(common_model.BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )  # fmt: skip
    return built.targets([_target(query, number, instant=True) for number, query in enumerate(panel.queries)])


def _series(
    panel: _Panel, *, bars: bool = False, stacked: bool = False, exemplars: bool = False, interval: str = "1m"
) -> timeseries.Panel:
    """Make a chart; ``interval`` is its shortest step: of rare events, a longer one says more."""
    built = (
        timeseries.Panel().title(panel.title).description(panel.description).datasource(_SOURCE).unit(panel.unit)
        .span(panel.width).height(8).min(0).interval(interval)
        # One cold start is one point, which a line alone would not show.
        .show_points(common_model.VisibilityMode.AUTO).span_nulls(False).line_width(1).fill_opacity(10)
        .legend(
            common.VizLegendOptions().show_legend(True).display_mode(common_model.LegendDisplayMode.LIST)
            .placement(common_model.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI))
        .targets(
            [_target(query, number, instant=False, exemplars=exemplars) for number, query in enumerate(panel.queries)]
        )
    )  # fmt: skip
    if bars:
        built = built.draw_style(common_model.GraphDrawStyle.BARS).fill_opacity(80)
    if stacked:
        built = built.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    return built


def _table(panel: _Panel, columns: Sequence[tuple[str, str]]) -> table.Panel:
    """Make a table; ``columns`` are title and unit of each query's value."""
    form = prometheus_model.PromQueryFormat.TABLE
    built = (
        table.Panel().title(panel.title).description(panel.description).datasource(_SOURCE).unit(panel.unit)
        .span(panel.width).height(8)
        .targets(
            [_target(query, number, instant=True, form=form) for number, query in enumerate(panel.queries)]
        )
        .with_transformation(dashboard_model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            dashboard_model.DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}})
        )
    )  # fmt: skip
    for number, (title, unit) in enumerate(columns):
        # Of one query alone the column is "Value", of several it is "Value #A" and so on.
        name = f"Value #{chr(ord('A') + number)}"
        properties = [
            dashboard_model.DynamicConfigValue(id_val="displayName", value=title),
            dashboard_model.DynamicConfigValue(id_val="unit", value=unit),
        ]
        built = built.override_by_name(name, properties)
    return built


def _bars(panel: _Panel) -> bargauge.Panel:
    return (
        bargauge.Panel().title(panel.title).description(panel.description).datasource(_SOURCE).unit(panel.unit)
        .span(panel.width).height(8).min(0).orientation(common_model.VizOrientation.HORIZONTAL)
        .display_mode(common_model.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .targets([_target(query, number, instant=True) for number, query in enumerate(panel.queries)])
    )  # fmt: skip


def _heatmap(panel: _Panel) -> heatmap.Panel:
    form = prometheus_model.PromQueryFormat.HEATMAP
    return (
        heatmap.Panel().title(panel.title).description(panel.description).datasource(_SOURCE)
        .span(panel.width).height(9).interval("1m").calculate(False)
        .color(
            heatmap.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
            .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL).exponent(0.5)
        )
        .y_axis(heatmap.YAxisConfig().unit(panel.unit)).filter_values(heatmap.FilterValueRange().le(1e-9))
        .exemplars_color("rgba(255,0,255,0.7)").show_legend()
        .targets(
            [
                _target(query, number, instant=False, exemplars=True, form=form)
                for number, query in enumerate(panel.queries)
            ]
        )
    )  # fmt: skip


def _three(histogram: str, window: str, where: str = _CHOSEN) -> list[_Query]:
    return [_Query(_quantile(q, histogram, window, (), where), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)]


def _variable(name: str, label: str, of: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name).label(label).datasource(_SOURCE)
        .query({"query": f"label_values(faas_invoke_duration_seconds_count, {of})", "refId": name})
        .refresh(dashboard_model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard_model.VariableSort.ALPHABETICAL_ASC)
        # ".*" and not ".+": a function that says no version, or no environment, has no such label.
        .multi(True).include_all(True).all_value(".*")
        .current(dashboard_model.VariableOption(text="All", value="$__all"))
    )  # fmt: skip


def _dashboard(
    uid: str, title: str, description: str, rows: Sequence[tuple[str, Sequence[_Built]]]
) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(title).uid(uid).description(description).tags(["tracedbridge"]).timezone("browser")
        .editable().tooltip(dashboard_model.DashboardCursorSync.CROSSHAIR).refresh("1m").time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("environment", "Environment", "deployment_environment_name"))
        .with_variable(_variable("function", "Function", "faas_name"))
        .with_variable(_variable("version", "Version", "service_version"))
        .link(
            dashboard.DashboardLink("tracedbridge").type(dashboard_model.DashboardLinkType.DASHBOARDS)
            .tags(["tracedbridge"]).include_vars(True).keep_time(True)
        )
    )  # fmt: skip
    ids = itertools.count(1)
    for name, panels in rows:
        built = built.with_row(dashboard.Row(name).id(next(ids)))
        for panel in panels:
            # Of its own, so that a link to a panel holds from one load to the next.
            built = built.with_panel(panel.id(next(ids)))
    return built


_INIT = "faas_init_duration_seconds"
_INVOKE = "faas_invoke_duration_seconds"
_KIND = "tracedbridge_coldstart_kind"
_IS_COLD = 'faas_coldstart="true"'
_COLD, _WARM = f"{_CHOSEN},{_IS_COLD}", f'{_CHOSEN},faas_coldstart="false"'


def _coldstarts() -> dashboard.Dashboard:
    colds, all_of_them = (made(f"{_INVOKE}_count", _RANGE, (), where) for where in (_COLD, _CHOSEN))
    cold_steps, steps = (made(f"{_INVOKE}_count", _STEP, (), where) for where in (_COLD, _CHOSEN))
    phase = "tracedbridge_coldstart_phase_duration_seconds"
    imports = "tracedbridge_import_duration_seconds"
    version = ("faas_name", "service_version")
    overview: list[_Built] = [
        _stat(_Panel("Cold starts", "Processes that started, of any kind, in the range shown.",
                     [_Query(made("faas_coldstarts_total", _RANGE), "cold starts")], "short", 4)),
        _stat(_Panel("Cold share", "Share of the invocations that were the first of their process.",
                     [_Query(_share(colds, all_of_them), "cold")], "percentunit", 4)),
        _stat(_Panel("Init", "From process start to ready: half of the cold starts took no longer than p50.",
                     _three(_INIT, _RANGE), "s", 10)),
        _stat(_Panel("Modules", "Median of the modules that were loaded when the app was ready.",
                     [_Query(_quantile(0.5, "tracedbridge_coldstart_modules", _RANGE), "modules")], "short", 6)),
    ]  # fmt: skip
    starts: list[_Built] = [
        _series(_Panel("Cold starts by kind", "On demand: somebody waited. Proactive: ready before the first event. "
                       "Restored: from a snapshot. The bars add up to the number above.",
                       [_Query(made("faas_coldstarts_total", _STEP, (_KIND,)), f"{{{{{_KIND}}}}}")], "short"),
                bars=True, stacked=True),
        _series(_Panel("Cold share over time", "Share of the invocations that were the first of their process.",
                       [_Query(_share(cold_steps, steps), "cold")], "percentunit"), interval="5m"),
        _series(_Panel("Init duration", "From process start to ready. A point opens the trace of one cold start.",
                       _three(_INIT, _STEP), "s"), exemplars=True, interval="5m"),
        _series(_Panel("Phases of a cold start", "Seconds of each phase per cold start: the mean, as only means add up "
                       "to a stack. For what the slow ones do, see the table of phases.",
                       [_Query(f"{made(f'{phase}_sum', _STEP, ('phase',))} / on () group_left () "
                               f"({made('faas_coldstarts_total', _STEP)} > 0)", "{{phase}}")], "s"),
                bars=True, stacked=True, interval="5m"),
        _table(_Panel("Phases, quantiles", "The same phases, each by itself, in the range shown.",
                      [_Query(_quantile(q, phase, _RANGE, ("phase",)), "") for q in (0.5, 0.95)], "s"),
               [("p50", "s"), ("p95", "s")]),
        _series(_Panel("Lifespan", "p95 of the app's own startup and shutdown (ASGI lifespan).",
                       [_Query(_quantile(0.95, "tracedbridge_lifespan_duration_seconds", _STEP, ("phase",)),
                               "{{phase}} p95")], "s"), interval="5m"),
    ]  # fmt: skip
    deploys: list[_Built] = [
        _table(_Panel("Versions", "Before and after a deploy: cold starts and how long they took, by version.",
                      [_Query(made("faas_coldstarts_total", _RANGE, version), ""),
                       *(_Query(_quantile(q, _INIT, _RANGE, version), "") for q in (0.5, 0.95, 0.99))], "s"),
               [("cold starts", "short"), ("init p50", "s"), ("init p95", "s"), ("init p99", "s")]),
        _series(_Panel("Init by version", "p95 from process start to ready: one version ends where the next begins.",
                       [_Query(_quantile(0.95, _INIT, _STEP, version), "{{faas_name}} {{service_version}} p95")], "s"),
                exemplars=True, interval="5m"),
    ]  # fmt: skip
    loads: list[_Built] = [
        _bars(_Panel("Slowest imports", "p95 of the time a cold start spent in the modules of one top-level package, "
                     "without what they import. Each cold start tells its slowest ones only.",
                     [_Query(f"topk(15, {_quantile(0.95, imports, _RANGE, ('package', 'owner'))})",
                             "{{package}} ({{owner}})")], "s")),
        _series(_Panel("Imports over time", "Seconds that all cold starts together spent in the packages that took "
                       "most in the range shown.",
                       [_Query(f"{made(f'{imports}_sum', _STEP, ('package',))} and on (package) "
                               f"topk(10, {made(f'{imports}_sum', _RANGE, ('package',), at='@ end()')})",
                               "{{package}}")], "s"),
                bars=True, stacked=True, interval="5m"),
    ]  # fmt: skip
    waits: list[_Built] = [
        _series(_Panel("Cold against warm", "Duration of an invocation, without what came before its event.",
                       [_Query(_quantile(q, _INVOKE, _STEP, (), where), f"{name} p{q * 100:.0f}")
                        for name, where in (("cold", _COLD), ("warm", _WARM)) for q in (0.5, 0.95)], "s"),
                exemplars=True, interval="5m"),
        _series(_Panel("Init by kind", "p95 by kind: nobody waits for proactive ones; restored ones should be short.",
                       [_Query(_quantile(0.95, _INIT, _STEP, (_KIND,)), f"{{{{{_KIND}}}}} p95")], "s"),
                interval="5m"),
        _bars(_Panel("Share by kind", "Proactive and restored starts are what warming and snapshots bring.",
                     [_Query(f"{made('faas_coldstarts_total', _RANGE, (_KIND,))} / on () group_left () "
                             f"({made('faas_coldstarts_total', _RANGE)} > 0)", f"{{{{{_KIND}}}}}")], "percentunit")),
    ]  # fmt: skip
    return _dashboard(
        "tracedbridge-coldstarts", "Cold starts", "How many, what they are made of, and what a deploy changed.",
        (("Overview", overview), ("Cold starts", starts), ("Deploys", deploys), ("Imports", loads),
         ("Who waits", waits)),
    )  # fmt: skip


def _invocations() -> dashboard.Dashboard:
    def count(window: str, by: Sequence[str] = ()) -> str:
        return made(f"{_INVOKE}_count", window, by)

    function = ("faas_name",)
    http = "http_server_request_duration_seconds"
    # Not faas_invoke_duration: an app that cannot be loaded fails without an invocation.
    all_of_them, steps = (f"sum({_outcomes(window)})" for window in (_RANGE, _STEP))
    overview: list[_Built] = [
        _stat(_Panel("Invocations", "Invocations that came to an end in the range shown.",
                     [_Query(count(_RANGE), "invocations")], "short", 4)),
        _stat(_Panel("Errors", "Exceptions, 5xx, failed loads, and events that are none.",
                     [_Query(_or_zero(made("faas_errors_total", _RANGE), all_of_them), "errors")], "short", 4)),
        _stat(_Panel("Timeouts", "Invocations that missed their deadline.",
                     [_Query(_or_zero(made("faas_timeouts_total", _RANGE), all_of_them), "timeouts")],
                     "short", 4)),
        _stat(_Panel("Duration", "From event to response.", _three(_INVOKE, _RANGE), "s", 12)),
        _series(_Panel("Rate", "Invocations in a second, by function.",
                       [_Query(f"{count(_STEP, function)} / {_PER_SECOND}", "{{faas_name}}")], "reqps")),
        _series(_Panel("Outcomes", "What became of the invocations.",
                       [_Query(_outcomes(_STEP), "{{outcome}}")], "short"),
                bars=True, stacked=True),
    ]  # fmt: skip
    latency: list[_Built] = [
        _heatmap(_Panel("Duration, all of it", "How many invocations took how long. A diamond opens one trace.",
                        [_Query(made(f"{_INVOKE}_bucket", _STEP, ("le",)), "{{le}}")], "s", 24)),
        _series(_Panel("Duration quantiles", "From event to response. A point opens one trace.",
                       _three(_INVOKE, _STEP), "s"), exemplars=True),
        _series(_Panel("Duration by route", "p95 of the HTTP request, until the app has given its last byte.",
                       [_Query(_quantile(0.95, http, _STEP, ("http_request_method", "http_route")),
                               "{{http_request_method}} {{http_route}}")], "s"), exemplars=True, interval="5m"),
    ]  # fmt: skip
    errors: list[_Built] = [
        _series(_Panel("Error share", "Errors and timeouts among all invocations and failed loads.",
                       [_Query(_share(made("faas_errors_total", _STEP), steps), "errors"),
                        _Query(_share(made("faas_timeouts_total", _STEP), steps), "timeouts")],
                       "percentunit"), interval="5m"),
        _series(_Panel("Errors by type", "Class of the exception, or the status.",
                       [_Query(made("faas_errors_total", _STEP, ("error_type",)), "{{error_type}}")], "short"),
                bars=True, stacked=True),
        _series(_Panel("Answers by status", "HTTP requests by status.",
                       [_Query(made(f"{http}_count", _STEP, ("http_response_status_code",)),
                               "{{http_response_status_code}}")], "short"), bars=True, stacked=True),
        _stat(_Panel("Failed", "Errors and timeouts among all invocations and failed loads, in the range shown.",
                     [_Query(f"({_or_zero(made('faas_errors_total', _RANGE), all_of_them)} + "
                             f"{_or_zero(made('faas_timeouts_total', _RANGE), all_of_them)}) / ({all_of_them} > 0)",
                             "failed")], "percentunit", 12)),
    ]  # fmt: skip
    resources: list[_Built] = [
        _series(_Panel("Memory", "Peak of the process up to the end of an invocation.",
                       _three("faas_mem_usage_bytes", _STEP), "bytes"), interval="5m"),
        _series(_Panel("CPU", "CPU time of the process during an invocation.",
                       _three("faas_cpu_usage_seconds", _STEP), "s"), interval="5m"),
        _series(_Panel("Time left", "Time before the deadline when an invocation ended; p1 are the closest ones.",
                       [_Query(_quantile(q, "tracedbridge_time_left_seconds", _STEP), f"p{q * 100:.0f}")
                        for q in (0.01, 0.05, 0.5)], "s"), interval="5m"),
        _series(_Panel("Event loop stalls", "Invocations whose event loop stood still for longer than "
                       "TRACEDBRIDGE_STALL_MS.",
                       [_Query(made("tracedbridge_loop_stall_seconds_count", _STEP, function), "{{faas_name}}")],
                       "short"), bars=True, stacked=True),
        _series(_Panel("Longest stalls", "p95 of the longest stall of an invocation that had one.",
                       [_Query(_quantile(0.95, "tracedbridge_loop_stall_seconds", _STEP, function),
                               "{{faas_name}} p95")], "s"), interval="5m"),
    ]  # fmt: skip
    return _dashboard(
        "tracedbridge-invocations", "Invocations", "Rate, errors, duration, and what an invocation uses.",
        (("Overview", overview), ("Latency", latency), ("Errors", errors), ("Resources", resources)),
    )  # fmt: skip


_ITEMS = "tracedbridge_export_items_total"
_PRODUCED = "tracedbridge_export_produced_total"
# A newer point says all that a superseded one said: nothing is lost with it.
_LOST = 'outcome!="sent",outcome!="superseded"'
_SENT = 'outcome="sent"'


def _telemetry() -> dashboard.Dashboard:
    def items(window: str, outcome: str, by: Sequence[str] = ("signal",)) -> str:
        return made(_ITEMS, window, by, f"{_CHOSEN},{outcome}")

    def lost_share(window: str) -> str:
        return _share(items(window, _LOST), made(_ITEMS, window, ("signal",)))

    produced = f"sum by (signal) (last_over_time({_PRODUCED}{{{_CHOSEN}}}[{_STEP}]))"
    settled = f"sum by (signal) (last_over_time({_ITEMS}{{{_CHOSEN}}}[{_STEP}]))"
    note = "An instance tells of a flush with its next one: what the last one of each did is not in here."
    overview: list[_Built] = [
        _stat(_Panel("Sent", f"Spans, metric points and log records that were sent. {note}",
                     [_Query(items(_RANGE, _SENT), "{{signal}}")], "short", 12)),
        _stat(_Panel("Lost", "Share of what was sent or dropped that was lost, by signal.",
                     [_Query(lost_share(_RANGE), "{{signal}}")], "percentunit", 12)),
    ]  # fmt: skip
    exports: list[_Built] = [
        _series(_Panel("Exported", "Items a second that were sent, by signal.",
                       [_Query(f"{items(_STEP, _SENT)} / {_PER_SECOND}", "{{signal}}")], "cps")),
        _series(_Panel("Dropped by reason", "Items that were not sent. Superseded ones are no loss: a newer metric "
                       "point said the same. unsupported: the backend does not take this signal.",
                       [_Query(items(_STEP, 'outcome!="sent"', ("signal", "outcome")), "{{signal}} {{outcome}}")],
                       "short"), bars=True, stacked=True),
        _series(_Panel("Breaker: pauses", "How often an instance left a backend alone for a while, because it had "
                       "failed: nothing is sent, and nobody waits, until a probe succeeds.",
                       [_Query(made("tracedbridge_export_pauses_total", _STEP, ("signal", "outcome")),
                               "{{signal}} {{outcome}}")], "short"),
                bars=True, stacked=True, interval="5m"),
        _series(_Panel("Breaker: what waits", "Items that were made and neither sent nor dropped, of the instances "
                       "that spoke in a step. It grows while the backend is left alone after a failure.",
                       [_Query(f"{produced} - {_or_zero(settled, produced)}", "{{signal}}")], "short"),
                interval="5m"),
        _series(_Panel("Produced", "Items a second that were made for export, by signal.",
                       [_Query(f"{made(_PRODUCED, _STEP, ('signal',))} / {_PER_SECOND}", "{{signal}}")], "cps")),
        _series(_Panel("Flush", "Time an invocation waited for its export; TRACEDBRIDGE_FLUSH_TIMEOUT_MS is the most.",
                       _three("tracedbridge_export_duration_seconds", _STEP), "s", 24), interval="5m"),
        _series(_Panel("Lost over time", "Share of what was sent or dropped that was lost, by signal.",
                       [_Query(lost_share(_STEP), "{{signal}}")], "percentunit"), interval="5m"),
    ]  # fmt: skip
    return _dashboard(
        "tracedbridge-telemetry", "Telemetry health", "Whether what the other dashboards show is all there is.",
        (("Overview", overview), ("Export health", exports)),
    )  # fmt: skip


# Sums over the recorded minutes. Half a minute short: a window closed on both sides (Prometheus 2) takes one more.
_FAILED = 'outcome="failed"'
_QUARTER, _HOUR = "14m30s", "59m30s"


def _rules() -> dict[str, object]:
    def record(name: str, metric: str, by: Sequence[str]) -> dict[str, object]:
        return {"record": f"function:{name}:made1m", "expr": made(metric, "1m", (*_FUNCTION, *by), "")}

    def over(name: str, window: str, by: Sequence[str] = (), where: str = "") -> str:
        kept = ", ".join(("faas_name", "deployment_environment_name", *by))
        matchers = f"{{{where}}}" if where else ""
        return f"sum by ({kept}) (sum_over_time(function:{name}:made1m{matchers}[{window}]))"

    def alert(name: str, expr: str, hold: str, summary: str, description: str) -> dict[str, object]:
        return {
            "alert": name, "expr": expr, "for": hold, "labels": {"severity": "warning"},
            "annotations": {"summary": summary, "description": description},
        }  # fmt: skip

    recorded = [
        {"record": "function:faas_outcomes:made1m", "expr": _outcomes("1m", _FUNCTION, "")},
        record("faas_invocations", f"{_INVOKE}_count", ("faas_coldstart",)),
        record("faas_coldstarts", "faas_coldstarts_total", (_KIND,)),
        record("faas_errors", "faas_errors_total", ("error_type",)),
        record("faas_timeouts", "faas_timeouts_total", ()),
        record("faas_init_duration_seconds_bucket", f"{_INIT}_bucket", ("le",)),
        record("faas_invoke_duration_seconds_bucket", f"{_INVOKE}_bucket", ("le",)),
        record("tracedbridge_time_left_seconds_bucket", "tracedbridge_time_left_seconds_bucket", ("le",)),
        record("tracedbridge_export_items", _ITEMS, ("signal", "outcome")),
    ]
    invocations, hourly = over("faas_invocations", _QUARTER), over("faas_invocations", _HOUR)
    ended = over("faas_outcomes", _QUARTER)
    # The limits of quantiles are bounds of buckets: between two of them a quantile is a guess.
    # A handful of events is no pattern: each alert asks for some, and is silent where there are fewer.
    alerts = [
        alert("FunctionErrors", f"{over('faas_outcomes', _QUARTER, (), _FAILED)} / ({ended} >= 20) > 0.05", "5m",
              "{{ $labels.faas_name }} fails",
              "{{ $value | humanizePercentage }} of the invocations of the last 15 minutes were errors."),
        alert("FunctionTimeouts", f"{over('faas_timeouts', _QUARTER)} >= 3", "0m",
              "{{ $labels.faas_name }} misses its deadline",
              "{{ $value }} invocations of the last 15 minutes timed out."),
        alert("FunctionInitSlow",
              f"histogram_quantile(0.95, {over('faas_init_duration_seconds_bucket', _HOUR, ('le',))}) > 2.5 "
              f"and {over('faas_coldstarts', _HOUR)} >= 10", "10m",
              "{{ $labels.faas_name }} starts slowly",
              "p95 of the cold starts of the last hour is {{ $value | humanizeDuration }}."),
        alert("FunctionColdShareHigh",
              f"{over('faas_invocations', _HOUR, (), _IS_COLD)} / ({hourly} >= 30) > 0.3", "10m",
              "{{ $labels.faas_name }} is cold often",
              "{{ $value | humanizePercentage }} of the invocations of the last hour were cold."),
        alert("FunctionTimeLeftShort",
              f"histogram_quantile(0.05, {over('tracedbridge_time_left_seconds_bucket', _QUARTER, ('le',))}) <= 1 "
              f"and {invocations} >= 20", "5m",
              "{{ $labels.faas_name }} ends close to its deadline",
              "One invocation in twenty of the last 15 minutes had less than {{ $value | humanizeDuration }} left."),
        alert("FunctionTelemetryLost",
              f"{over('tracedbridge_export_items', _QUARTER, ('signal',), _LOST)} / "
              f"({over('tracedbridge_export_items', _QUARTER, ('signal',))} > 0) > 0.05", "5m",
              "{{ $labels.faas_name }} loses {{ $labels.signal }}",
              "{{ $value | humanizePercentage }} of the {{ $labels.signal }} of the last 15 minutes were dropped."),
    ]  # fmt: skip
    return {
        "groups": [
            {"name": "tracedbridge-minutes", "interval": "1m", "rules": recorded},
            {"name": "tracedbridge-alerts", "interval": "1m", "rules": alerts},
        ]
    }


def files() -> dict[Path, str]:
    """Return every generated file, as path below this folder → text."""
    texts = {
        Path("grafana/dashboards") / f"{name}.json": json.dumps(
            built.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False
        )
        + "\n"
        for name, built in (
            ("coldstarts", _coldstarts()), ("invocations", _invocations()), ("telemetry", _telemetry()),
        )
    }  # fmt: skip
    rules = yaml.safe_dump(_rules(), sort_keys=False, width=1000, allow_unicode=True)
    texts[Path("prometheus/rules.yml")] = f"# Written by dashboards/build.py; what is changed here is lost.\n{rules}"
    return texts


def write() -> None:
    """Write them."""
    for path, text in files().items():
        (HERE / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
