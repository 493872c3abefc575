"""The report of a back-test. What agents are called comes from outside: the template escapes everything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2
from markupsafe import Markup

from trustwatch.ingest.printable_text import number_text, shown_controls
from trustwatch.scoring.backtest.label_evaluation import LabelEvaluation
from trustwatch.scoring.backtest.policy_simulation import OUTCOMES
from trustwatch.scoring.backtest.result import BacktestResult, BacktestSide
from trustwatch.scoring.records.agents import ALERTING_LEVELS

from ..charts import ChartAxis, ChartSeries, chart, chart_assets

CHARTED_LEVELS = tuple(level.label for level in ALERTING_LEVELS)
MAX_SHOWN_AGENTS = 200
"""Rows of one table; the JSON has more."""


def render_report(outcome: BacktestResult, created_at: datetime) -> str:
    """One HTML document that needs nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        finalize=_shown_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_integer_text, figure=_number_text)
    chart_style, chart_script = chart_assets()
    digest = base64.b64encode(hashlib.sha256(chart_script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        outcome=outcome,
        made=created_at.strftime("%Y-%m-%d %H:%M UTC"),
        charts=_charts(outcome),
        outcomes=OUTCOMES,
        shown=MAX_SHOWN_AGENTS,
        chart_style=Markup(chart_style),  # noqa: S704 - our own files
        chart_script=Markup(chart_script),  # noqa: S704
        script_digest=digest,
    )


def _shown_value(value: Any) -> Any:
    """A value as the report shows it: no name turns its line round."""
    return shown_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _charts(outcome: BacktestResult) -> dict[str, list[Markup]]:
    sides = outcome.sides
    charts: dict[str, list[Markup]] = {
        "alerts": [_budget_chart(side, sides) for side in sides],
        "time": [_level_rise_chart(side, sides) for side in sides if side.bins],
        "labels": [],
    }
    evaluated = [(side, side.evaluation) for side in sides if side.evaluation is not None]
    if evaluated:
        charts["labels"] = _label_charts(evaluated)
    return charts


def _chart_title(text: str, side: BacktestSide, sides: Sequence[BacktestSide]) -> str:
    return f"{text}, {side.name}" if len(sides) > 1 else text


def _budget_chart(side: BacktestSide, sides: Sequence[BacktestSide]) -> Markup:
    """Alerts that came against alerts that were allowed, both per 1,000 agent-days."""
    series = []
    for at, level in enumerate(CHARTED_LEVELS):
        tried = sorted({(row[at].budget, row[at].rate) for row in side.sweep})
        series.append(ChartSeries(level, tried, level))
    spread = [budget for line in series for budget, _ in line.points]
    ends = [(value, value) for value in (min(spread), max(spread))]
    return chart(
        _chart_title("Alerts at other budgets", side, sides),
        ChartAxis("budget, alerts per 1,000 agent-days", log=True),
        ChartAxis("alerts that came", log=True),
        [*series, ChartSeries("as many as allowed", ends, "allowed")],
    )


def _level_rise_chart(side: BacktestSide, sides: Sequence[BacktestSide]) -> Markup:
    starts = [datetime.fromisoformat(time_bin.start).timestamp() for time_bin in side.bins]
    series = [
        ChartSeries(
            level, [(at, time_bin.rises.get(level, 0)) for at, time_bin in zip(starts, side.bins, strict=True)], level
        )
        for level in CHARTED_LEVELS
    ]
    title, rises = _chart_title("Agents that rose to a level", side, sides), ChartAxis("rises", 0.0, kind="count")
    return chart(title, ChartAxis("time (UTC)", kind="utc"), rises, series, bars=True)


def _label_charts(evaluated: Sequence[tuple[BacktestSide, LabelEvaluation]]) -> list[Markup]:
    """ROC, precision and recall, delay."""
    roc, precision, delay = [], [], []
    for (side, evaluation), style in zip(evaluated, ("first", "second"), strict=False):
        name = f"{side.name}: " if len(evaluated) > 1 else ""
        for unit, figures, dash in (
            ("sessions", evaluation.by_session, ""),
            ("events", evaluation.by_event, " dashed"),
        ):
            if figures.roc:
                roc.append(ChartSeries(f"{name}{unit}", figures.roc, style + dash, band=figures.roc_band))
                precision.append(
                    ChartSeries(f"{name}{unit}", figures.precision_recall, style + dash, band=figures.precision_band)
                )
        if evaluation.delays_seconds:
            delay.append(ChartSeries(f"{name}medium", _detection_curve(evaluation), style, steps=True))
    charts = []
    if roc:
        chance = ChartSeries("by chance", [(0.0, 0.0), (1.0, 1.0)], "allowed")
        false_positive_axis = ChartAxis("share of good ones above the threshold", 0.0, 1.0)
        charts.append(chart("ROC", false_positive_axis, ChartAxis("share of bad ones found", 0.0, 1.0), [*roc, chance]))
        recall_axis = ChartAxis("share of bad ones found", 0.0, 1.0)
        charts.append(
            chart("Precision and recall", recall_axis, ChartAxis("bad among those found", 0.0, 1.0), precision)
        )
    if delay:
        charts.append(
            chart(
                "Bad sessions detected at medium, by time since their first bad event",
                ChartAxis("seconds", minimum=1.0, log=True),
                ChartAxis("share of bad sessions", 0.0, 1.0),
                delay,
            )
        )
    return charts


def _detection_curve(evaluation: LabelEvaluation) -> list[tuple[float, float]]:
    """Share of bad sessions detected within a time; what took less than a second counts as one."""
    bad = max(evaluation.levels[0].sessions, 1)
    return [(max(seconds, 1.0), (at + 1) / bad) for at, seconds in enumerate(evaluation.delays_seconds)]


def _integer_text(value: int) -> str:
    return f"{value:,}"


def _number_text(value: float | None) -> str:
    """A figure in a table.

    >>> _number_text(0.12345), _number_text(None), _number_text(12), _number_text(1234.5)
    ('0.123', '–', '12', '1,234')
    """
    return "–" if value is None else number_text(value)
