"""The report of a back-test. What agents are called comes from outside: the template escapes everything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime

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
    """Render the report as one HTML document without further files."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        # No name can reverse the direction of its line.
        finalize=lambda value: (
            shown_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number="{:,}".format, figure=_number_text)
    chart_style, chart_script = chart_assets()
    digest = base64.b64encode(hashlib.sha256(chart_script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        outcome=outcome,
        made=created_at.strftime("%Y-%m-%d %H:%M UTC"),
        charts={
            "alerts": [_budget_chart(side, outcome.sides) for side in outcome.sides],
            "time": [_level_rise_chart(side, outcome.sides) for side in outcome.sides if side.bins],
            "labels": _label_charts([(side, side.evaluation) for side in outcome.sides if side.evaluation is not None]),
        },
        outcomes=OUTCOMES,
        shown=MAX_SHOWN_AGENTS,
        chart_style=Markup(chart_style),  # noqa: S704 - our own files
        chart_script=Markup(chart_script),  # noqa: S704
        script_digest=digest,
    )


def _chart_title(text: str, side: BacktestSide, sides: Sequence[BacktestSide]) -> str:
    return f"{text}, {side.name}" if len(sides) > 1 else text


def _budget_chart(side: BacktestSide, sides: Sequence[BacktestSide]) -> Markup:
    """Draw alerts against the budget, both per 1,000 agent-days."""
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
    """Draw ROC, precision and recall, and the delay of detection; no chart for what there are no figures of."""
    roc, precision, delay = [], [], []
    for (side, evaluation), style in zip(evaluated, ("first", "second"), strict=False):
        name = f"{side.name}: " if len(evaluated) > 1 else ""
        for unit, figures, look in (
            (f"{name}sessions", evaluation.by_session, style),
            (f"{name}events", evaluation.by_event, f"{style} dashed"),
        ):
            if figures.roc:
                roc.append(ChartSeries(unit, figures.roc, look, band=figures.roc_band))
                precision.append(ChartSeries(unit, figures.precision_recall, look, band=figures.precision_band))
        if evaluation.delays_seconds:
            bad = max(evaluation.levels[0].sessions, 1)  # what took less than a second counts as one
            curve = [(max(seconds, 1.0), (at + 1) / bad) for at, seconds in enumerate(evaluation.delays_seconds)]
            delay.append(ChartSeries(f"{name}medium", curve, style, steps=True))
    charts = []
    if roc:
        chance = ChartSeries("by chance", [(0.0, 0.0), (1.0, 1.0)], "allowed")
        false_positives = ChartAxis("share of good ones above the threshold", 0.0, 1.0)
        recall = ChartAxis("share of bad ones found", 0.0, 1.0)
        charts.append(chart("ROC", false_positives, recall, [*roc, chance]))
        charts.append(chart("Precision and recall", recall, ChartAxis("bad among those found", 0.0, 1.0), precision))
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


def _number_text(value: float | None) -> str:
    """A figure in a table.

    >>> _number_text(0.12345), _number_text(None), _number_text(12), _number_text(1234.5)
    ('0.123', '–', '12', '1,234')
    """
    return "–" if value is None else number_text(value)
