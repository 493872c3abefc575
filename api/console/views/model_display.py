"""The model for people: charts of calibration and budget, and what drifted most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from trustwatch.ingest.features.feature_table import FEATURES
from trustwatch.ingest.timestamps import DAY_S, format_day
from trustwatch.scoring.learning.budget_chart import BudgetDay, upper_control_limit
from trustwatch.scoring.learning.calibration_curve import CalibrationCurve, ObservedShare
from trustwatch.scoring.records.models import ModelVersion, PeerGroupDay

from ...charts import ChartAxis, ChartSeries, chart

_NOUNS = {feature.name: feature.noun for feature in FEATURES}
_STYLES = ("first", "second dash-a", "medium dash-b", "critical dash-c")


class BudgetTotal(NamedTuple):
    """Sum over the peer groups that the caller may see, on one day; more alerts than `limit` stand out."""

    day: int
    expected: float
    observed: int
    limit: int
    false_positive: int
    true_positive: int


class DrawnCurve(NamedTuple):
    """A calibration curve, and what its legend says."""

    name: str
    curve: CalibrationCurve


class DisplayedDrift(NamedTuple):
    """One feature (or the scores) of one group on its last day that was judged; *beyond* its threshold or not."""

    day: int
    group: str
    name: str
    label: str
    value: float
    beyond: bool


def format_day_number(day: float) -> str:
    """A day of UTC.

    >>> format_day_number(20_000)
    '2024-10-04'
    """
    return format_day(round(day))


def describe_group(tenant: str, agent_type: str) -> str:
    """A peer group in words; `*` is all of them."""
    if tenant == "*":
        return "the fleet"
    return f"{agent_type or 'agents without a type'} of {tenant or 'no tenant'}"


def budget_totals(rows: Sequence[BudgetDay]) -> list[BudgetTotal]:
    """The chart of all groups together, by day. Limits are those of the sum, not the sum of limits."""
    days: defaultdict[int, list[BudgetDay]] = defaultdict(list)
    for row in rows:
        days[row.day].append(row)
    return [_budget_total(day, days[day]) for day in sorted(days)]


def _budget_total(day: int, rows: Sequence[BudgetDay]) -> BudgetTotal:
    expected = sum(row.expected for row in rows)
    return BudgetTotal(
        day,
        expected,
        sum(row.observed for row in rows),
        upper_control_limit(expected),
        sum(row.false_positive for row in rows),
        sum(row.true_positive for row in rows),
    )


def days_beyond_budget(rows: Sequence[BudgetDay]) -> list[BudgetDay]:
    """Groups and days that stand out, newest first."""
    beyond = [row for row in rows if row.beyond or row.run_beyond]
    return sorted(beyond, key=lambda row: (-row.day, -row.observed, row.tenant, row.agent_type))


def budget_chart(days: Sequence[BudgetTotal], level: str) -> Markup:
    """Alerts by day against what the budget expects, and the limit that it should not exceed."""
    lines = (
        ("alerts", "observed", "first", True),
        ("limit (3 sigma)", "limit", "critical dashed", True),
        ("expected by the budget", "expected", "allowed", True),
        ("marked as false", "false_positive", "", False),
        ("marked as true", "true_positive", "", False),
    )
    series = [
        ChartSeries(
            name,
            [(day.day * DAY_S, getattr(day, member)) for day in days],
            style,
            steps=member == "limit",
            drawn=is_drawn,
        )
        for name, member, style, is_drawn in lines
    ]
    title = f"Alerts of {level} or above, by day"
    return chart(title, ChartAxis("day (UTC)", kind="utc"), ChartAxis("alerts", 0.0, kind="count"), series)


def calibration_chart(curves: Sequence[DrawnCurve]) -> Markup:
    """Chart of how odd a score is: the share of held-out normal events that score at least as high."""
    series = [
        ChartSeries(drawn.name, [(at.score, at.p_value) for at in drawn.curve.points], style)
        for drawn, style in zip(curves, _STYLES, strict=False)
    ]
    title = "Calibration: from an anomaly score to a p-value"
    return chart(title, ChartAxis("anomaly score"), ChartAxis("p-value", maximum=1.0, log=True), series)


def reliability_chart(shares: Sequence[ObservedShare]) -> Markup:
    """Promised against observed: of live events a share of at most p should have a p-value of at most p."""
    series = [
        ChartSeries("observed in shadow", [(observed.p_value, observed.share) for observed in shares], "first"),
        ChartSeries("as promised", [(observed.p_value, observed.p_value) for observed in shares], "allowed"),
    ]
    title = "Share of live events up to each p-value"
    return chart(title, ChartAxis("p-value", log=True), ChartAxis("share of events", log=True), series)


def largest_drifts(
    days: Sequence[PeerGroupDay], features_above: float, scores_above: float, most: int = 20
) -> list[DisplayedDrift]:
    """Largest drifts of the last judged day of each group, in multiples of the threshold; the largest first."""
    last: dict[tuple[str, str], PeerGroupDay] = {}
    for group_day in days:
        if (
            group_day.drift.get("judged")
            and group_day.day >= last.get((group_day.tenant, group_day.agent_type), group_day).day
        ):
            last[group_day.tenant, group_day.agent_type] = group_day
    drifts = [row for group_day in last.values() for row in _drift_measures(group_day, features_above, scores_above)]
    return sorted(drifts, key=lambda row: (not row.beyond, -row.value))[:most]


def _drift_measures(group_day: PeerGroupDay, features_above: float, scores_above: float) -> list[DisplayedDrift]:
    group = describe_group(group_day.tenant, group_day.agent_type)
    given: dict[str, Any] = group_day.drift.get("features") or {}
    rows = [
        DisplayedDrift(group_day.day, group, name, _NOUNS.get(name, name), float(value), float(value) > features_above)
        for name, value in given.items()
        if isinstance(value, int | float)
    ]
    scores = group_day.drift.get("scores")
    if isinstance(scores, int | float):
        rows.append(
            DisplayedDrift(
                group_day.day, group, "scores", "anomaly scores", float(scores), float(scores) > scores_above
            )
        )
    return rows


def describe_training(model: ModelVersion) -> list[tuple[str, str]]:
    """Training data of a version as (label, value): members that are plain."""
    return [
        (name.replace("_", " ").capitalize(), f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in model.trained.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    ]


def select_curves(
    newcomers: Sequence[CalibrationCurve], familiar: Sequence[CalibrationCurve], names: Collection[str]
) -> list[DrawnCurve]:
    """Curves to draw, four at most: the fleet's, and those of groups that are wanted, else of the largest.

    Of a version that was rehearsed they are pairs, of agents that it knows and of newcomers: each agent is judged by
    one of the two. Of another one there are those of newcomers alone, by which all are judged.
    """
    if not familiar:
        return [DrawnCurve(_describe_curve_group(curve), curve) for curve in _select_groups(newcomers, names)][
            : len(_STYLES)
        ]
    groups = [(curve.tenant, curve.agent_type) for curve in _select_groups(familiar, names)[:2]]
    parts = (("known agents", familiar), ("newcomers", newcomers))
    return [
        DrawnCurve(f"{kind}, {_describe_curve_group(curve)}", curve)
        for group in groups
        for kind, curves in parts
        for curve in curves
        if (curve.tenant, curve.agent_type) == group
    ]


def _describe_curve_group(curve: CalibrationCurve) -> str:
    return describe_group(curve.tenant, curve.agent_type)


def _select_groups(curves: Sequence[CalibrationCurve], names: Collection[str]) -> list[CalibrationCurve]:
    """The fleet's curve, then those of *names* groups, else all, the largest first."""
    fleet = [curve for curve in curves if curve.tenant == "*"]
    others = [curve for curve in curves if curve.tenant != "*"]
    named = [curve for curve in others if _describe_curve_group(curve) in names]
    return [*fleet, *(named or sorted(others, key=lambda curve: -curve.events))]


def group_labels(*parts: Sequence[CalibrationCurve]) -> list[str]:
    """Groups that have a curve of their own in any of *parts*, in words."""
    return sorted({_describe_curve_group(curve) for curves in parts for curve in curves if curve.tenant != "*"})
