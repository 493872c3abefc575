"""Write the Grafana dashboard: `python -m scripts.write_dashboard` makes `deploy/grafana-trustwatch.json`.

Rows and panels are in the order in which an operator looks: are answers fresh, do events arrive, is policy enforced,
are people notified.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueTextMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef

DASHBOARD: Final = Path(__file__).resolve().parents[1] / "deploy" / "grafana-trustwatch.json"
RUNBOOKS: Final = "https://trustwatch.dev/docs/reference/runbooks.html"
_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${source}")
_WIDTH, _HEIGHT, _SMALL = 8, 7, 4


class PanelPlan(NamedTuple):
    """One panel.

    Attributes:
        title: what it shows.
        unit: Grafana's name of the unit.
        queries: PromQL, by legend.
        text: how to read it.
        single: one number, not a curve.
    """

    title: str
    unit: str
    queries: dict[str, str]
    text: str
    single: bool = False


ROWS: Final[dict[str, tuple[PanelPlan, ...]]] = {
    "Answers": (
        PanelPlan("Age of answers", "s", {"": "max(trustwatch_pipeline_age_seconds)"}, "Above 5 s: look.", True),
        PanelPlan("Agents", "short", {"": "max(trustwatch_agents)"}, "Agents in the risk view.", True),
        PanelPlan(
            "Records that wait", "short", {"": "sum(trustwatch_pipeline_behind)"}, "Rising: too few workers.", True
        ),
        PanelPlan(
            "Age of answers by process",
            "s",
            {"{{instance}}": "trustwatch_pipeline_age_seconds"},
            "Age of the newest event that answers take into account; -1 is unknown.",
        ),
        PanelPlan(
            "Time to answer, 99 of 100",
            "s",
            {"{{route}}": "route:trustwatch_http_request_seconds:p99_5m"},
            "By route; the slowest hundredth is above.",
        ),
        PanelPlan(
            "Answers",
            "reqps",
            {"{{status}}": "sum by (status) (rate(trustwatch_http_requests_total[5m]))"},
            "By status. 5xx: store or brokers are away, or a fault of ours.",
        ),
    ),
    "Events": (
        PanelPlan(
            "Events taken in",
            "eps",
            {"{{outcome}}": "sum by (outcome) (rate(trustwatch_events_total[5m]))"},
            "Rejected: a sender's format has changed, see dead letters.",
        ),
        PanelPlan(
            "Senders told to wait",
            "reqps",
            {
                "{{source}} {{limit}}": "sum by (source, limit) (rate(trustwatch_limited_requests_total[5m]))",
            },
            "By caller and cause.",
        ),
        PanelPlan(
            "Pipeline by stage",
            "percentunit",
            {"{{stage}}": "sum by (stage) (rate(trustwatch_pipeline_seconds_total[5m]))"},
            "Share of a second. `publish` or `commit` near 1: brokers or database are the bottleneck.",
        ),
        PanelPlan(
            "Foreign topics: records that wait",
            "short",
            {"{{source}}": "max by (source) (trustwatch_ingest_lag)"},
            "-1 is not known, or not read here.",
        ),
        PanelPlan(
            "Silent sources",
            "short",
            {"{{source}}": "min by (source) (trustwatch_source_silent)"},
            "1: a source with silence_s was heard by no process.",
        ),
        PanelPlan(
            "Archive lag",
            "s",
            {"{{instance}}": "trustwatch_archive_lag_seconds"},
            "Age of the oldest record that waits for its file; normal is up to archive.interval_s.",
        ),
    ),
    "Risk and policy": (
        PanelPlan(
            "Changes of level",
            "short",
            {"{{level}}": "max by (level) (increase(trustwatch_decisions_total[1h]))"},
            "By the new level, in an hour. Every replica counts every change: the one that saw most.",
        ),
        PanelPlan(
            "Verdicts",
            "ops",
            {"{{via}} {{reason}}": "sum by (via, reason) (rate(trustwatch_verdicts_total[5m]))"},
            "By way and reason. In shadow mode a reason other than allowed is what would have been refused.",
        ),
        PanelPlan(
            "Calls before they are made",
            "ops",
            {"{{decision}} {{basis}}": "sum by (decision, basis) (rate(trustwatch_call_verdicts_total[5m]))"},
            "By decision, and what it rests on.",
        ),
        PanelPlan(
            "Answered without a verdict",
            "ops",
            {"{{via}} {{fails}}": "sum by (via, fails) (rate(trustwatch_verdict_failures_total[5m]))"},
            "Anything but 0: what fails open lets everybody pass, what fails closed nobody.",
        ),
        PanelPlan(
            "Time at hooks and gateways, 99 of 100",
            "s",
            {
                "hook {{hook}}": "hook:trustwatch_hook_seconds:p99_5m",
                "{{way}}": "way:trustwatch_gateway_seconds:p99_5m",
            },
            "Tokens and calls wait for these answers.",
        ),
        PanelPlan(
            "Containment, 99 of 100",
            "s",
            {"{{target}}": "target:trustwatch_containment_seconds:p99_1h"},
            "From the event to the confirmed revocation.",
        ),
    ),
    "Cases": (
        PanelPlan(
            "Cases that wait",
            "short",
            {"{{status}} {{level}}": "max by (status, level) (trustwatch_cases)"},
            "Open: nobody has looked at it.",
        ),
        PanelPlan(
            "Oldest case",
            "s",
            {"{{status}}": "max by (status) (trustwatch_case_oldest_seconds)"},
            "Open above an hour: people do not see what calls them.",
        ),
        PanelPlan(
            "Time until people act, half of the cases",
            "s",
            {
                "{{act}}": "histogram_quantile(0.5, sum by (act, le) "
                "(increase(trustwatch_case_response_seconds_bucket[1d])))"
            },
            "From the opening of a case, of those of a day.",
        ),
        PanelPlan(
            "Pages a day, against the budget",
            "short",
            {
                "{{level}}": "max by (level) (job:trustwatch_decisions_total:increase1d"
                '{level=~"medium|high|critical"})',
                "budget, {{level}}": "max by (level) (trustwatch_alert_budget) * scalar(max(trustwatch_agents)) / 1000",
            },
            "Changes to a level, falls to it among them. The budget is of false ones.",
        ),
    ),
    "Acting and telling": (
        PanelPlan(
            "Actuations",
            "short",
            {"{{target}} {{outcome}}": "sum by (target, outcome) (increase(trustwatch_actuations_total[1h]))"},
            "Failed: a client is not in the state that policy wants.",
        ),
        PanelPlan(
            "Alerts",
            "short",
            {"{{target}} {{outcome}}": "sum by (target, outcome) (increase(trustwatch_deliveries_total[1h]))"},
            "Failed: given up.",
        ),
        PanelPlan(
            "Own audit events",
            "eps",
            {"{{outcome}}": "sum by (outcome) (rate(trustwatch_audit_events_total[5m]))"},
            "Dropped: something was answered and not noted.",
        ),
    ),
    "Processes": (
        PanelPlan(
            "Memory",
            "bytes",
            {"{{instance}}": 'process_resident_memory_bytes{job="trustwatch"}'},
            "Of the process that answers.",
        ),
        PanelPlan(
            "CPU",
            "percentunit",
            {"{{instance}}": 'rate(process_cpu_seconds_total{job="trustwatch"}[5m])'},
            "Cores of the process that answers.",
        ),
        PanelPlan(
            "Versions",
            "short",
            {"{{version}}, Python {{python}}": "count by (version, python) (trustwatch_build_info)"},
            "Two lines while an upgrade goes on.",
        ),
    ),
}


def dashboard_text() -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("Trustwatch")
        .uid("trustwatch")
        .description("Answers, events, policy, alerts of all processes. Alerts have runbooks.")
        .tags(["trustwatch"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("utc")
        .readonly()
        .link(dashboard.DashboardLink("Runbooks").url(RUNBOOKS).type(DashboardLinkType.LINK).target_blank(True))
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )
    for title, plans in ROWS.items():
        board = board.with_row(dashboard.Row(title))
        for plan in plans:
            board = board.with_panel(_panel(plan))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def _panel(plan: PanelPlan) -> stat.Panel | timeseries.Panel:
    panel: stat.Panel | timeseries.Panel
    if plan.single:
        panel = stat.Panel().height(_SMALL).text_mode(BigValueTextMode.AUTO)
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        panel = timeseries.Panel().height(_HEIGHT).legend(legend.show_legend(True).calcs([]))
    panel = panel.title(plan.title).description(plan.text).unit(plan.unit).span(_WIDTH).datasource(_SOURCE)
    for number, (name, query) in enumerate(plan.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(name).ref_id(chr(ord("A") + number))
        panel = panel.with_target(target)
    return panel


def main() -> None:
    """Write the dashboard."""
    DASHBOARD.write_text(dashboard_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
