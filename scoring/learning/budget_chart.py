"""The false-alert budget as a control chart: what it expects of each peer group and day against what was decided.

Alerts that keep to the budget are rare and nearly independent, so their number on a day is at most Poisson with mean
budget x agent-days / 1,000. A day is beyond its limit when so many alerts or more have a probability of at most
0.135 %: rule 1 of the Western Electric rules (three sigma), exact for small means. One rule more sees what single days
are too small to show: the sum of the last seven days against the limit of their sum. True positives that people marked
do not count.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Annotated, NamedTuple

import numpy as np

from trustwatch.ingest.described import AgentType, PValue, TenantName, member
from trustwatch.models.calibration import FLEET_GROUP, Calibration, group_index

from ..records.models import FLEET_PEER_GROUP, P_VALUE_EDGES, AgentLifespans, DailyAlertCount, PeerGroup, PeerGroupDay

LIMIT_PROBABILITY = 0.00135
"""Probability of three sigma on one side."""
BREACH_PROBABILITY = 0.01
"""A model's budget is broken when one that keeps it would alert so often with at most this probability."""
RUN_DAYS = 7
MAX_CHARTED_GROUPS = 50
"""Groups that are charted one by one, those with the most alerts first; the others are charted together."""


class AlertVerdictCounts(NamedTuple):
    """Alerts of one group and day that people judged."""

    false_positive: int = 0
    true_positive: int = 0


class BudgetDay(NamedTuple):
    """One peer group on one day, at one level. `limit` is the most alerts that do not stand out."""

    day: int
    tenant: TenantName
    agent_type: AgentType
    agent_days: Annotated[int, member("days on which agents of the group acted", 120)]
    estimated: Annotated[bool, member("whether the agent-days are estimated from when agents were first and last seen")]
    expected: Annotated[float, member("alerts that the budget allows", 1.2)]
    observed: Annotated[int, member("alerts of the day", 2)]
    false_positive: Annotated[int, member("alerts that a person marked as wrong", 1)]
    true_positive: Annotated[int, member("alerts that a person marked as right", 0)]
    unmarked: Annotated[int, member("alerts that no person has judged", 1)]
    limit: Annotated[int, member("maximum number of alerts that is not anomalous", 6)]
    run_observed: Annotated[int, member("alerts of the last seven days, without true positives", 9)]
    run_limit: Annotated[int, member("maximum number of alerts in seven days that is not anomalous", 14)]
    beyond: Annotated[bool, member("whether the day is over its limit", False)]
    run_beyond: Annotated[bool, member("whether the seven days are over their limit", False)]


def upper_control_limit(mean: float, beyond: float = LIMIT_PROBABILITY) -> int:
    """Return the largest number that is not remarkable: exceeding it has a probability of at most *beyond*.

    >>> upper_control_limit(0.0), upper_control_limit(0.04), upper_control_limit(1.0), upper_control_limit(20.0)
    (0, 1, 5, 35)
    """
    if mean <= 0.0:
        return 0
    if mean > 400.0:  # the normal distribution is as good, and exp(-mean) underflows
        return math.floor(mean + NormalDist().inv_cdf(1.0 - beyond) * math.sqrt(mean) + 1.0)
    term = total = math.exp(-mean)
    count = 0
    while 1.0 - total > beyond:
        count += 1
        term *= mean / count
        total += term
    return count


def budget_chart(
    days: range,
    alerts: Iterable[DailyAlertCount],
    counted: Iterable[PeerGroupDay],
    lifespans: Iterable[AgentLifespans],
    marks: Mapping[tuple[int, str, str], AlertVerdictCounts],
    budget: float,
    level: str = "medium",
) -> list[BudgetDay]:
    """Return the chart of *level* over *days*, by day and group, oldest first."""
    observed = {
        (alert_count.day, alert_count.tenant, alert_count.agent_type): int(getattr(alert_count, level))
        for alert_count in alerts
    }
    active: dict[tuple[int, str, str], int] = {}
    for day in counted:
        if day.tenant == FLEET_PEER_GROUP[0]:  # the fleet, which its groups add up to
            continue
        group_day = (day.day, day.tenant, day.agent_type)
        active[group_day] = max(active.get(group_day, 0), day.agent_days)
    estimated: defaultdict[tuple[int, str, str], int] = defaultdict(int)  # as if active from first to last sight
    for lifespan in lifespans:
        for number in range(max(lifespan.first_day, days.start), min(lifespan.last_day + 1, days.stop)):
            estimated[number, lifespan.tenant, lifespan.agent_type] += lifespan.agents
    alerts_of: Counter[PeerGroup] = Counter()
    for (_, tenant, agent_type), count in observed.items():
        alerts_of[tenant, agent_type] += count
    names = {group_day[1:] for group_day in (*observed, *active, *estimated)}
    ranked = sorted(names, key=lambda group: (-alerts_of[group], group))
    groups = {group: group if at < MAX_CHARTED_GROUPS else FLEET_PEER_GROUP for at, group in enumerate(ranked)}
    table: dict[PeerGroup, list[list[int]]] = {group: [[0] * 5 for _ in days] for group in sorted(set(groups.values()))}
    for group, charted_name in groups.items():
        for at, number in enumerate(days):
            group_day = (number, *group)
            counted_days, row = active.get(group_day), table[charted_name][at]
            said = marks.get(group_day, AlertVerdictCounts())
            row[0] += estimated.get(group_day, 0) if counted_days is None else counted_days
            row[1] += int(counted_days is None and estimated.get(group_day, 0) > 0)
            row[2] += observed.get(group_day, 0)
            row[3] += said.false_positive
            row[4] += said.true_positive
    rows = [row for group, cells in table.items() for row in _group_rows(days, group, cells, budget)]
    return sorted(rows, key=lambda row: (row.day, row.tenant, row.agent_type))


def _group_rows(days: range, group: PeerGroup, cells: Sequence[Sequence[int]], budget: float) -> list[BudgetDay]:
    rows = []
    for at, day in enumerate(days):
        agent_days, estimated, observed, false, true = cells[at]
        run = cells[max(0, at - RUN_DAYS + 1) : at + 1]
        expected, expected_run = (budget * sum(cell[0] for cell in part) / 1000.0 for part in ([cells[at]], run))
        limit, run_limit = upper_control_limit(expected), upper_control_limit(expected_run)
        counted = max(0, observed - true)
        run_counted = sum(max(0, cell[2] - cell[4]) for cell in run)
        rows.append(
            BudgetDay(
                day,
                *group,
                agent_days,
                estimated > 0,
                expected,
                observed,
                false,
                true,
                max(0, observed - false - true),
                limit,
                run_counted,
                run_limit,
                counted > limit,
                run_counted > run_limit,
            )
        )
    return rows


CURVE_POINTS = 40
"""Points of one curve, evenly spaced in the logarithm of the p-value."""


class CalibrationPoint(NamedTuple):
    """The score that a share `p_value` of normal behavior reaches."""

    score: Annotated[float, member("anomaly score", 0.62)]
    p_value: PValue


class CalibrationCurve(NamedTuple):
    """Calibration of one peer group."""

    tenant: TenantName
    agent_type: AgentType
    events: Annotated[int, member("held-out events that it is based on", 4210)]
    own: bool  # whether they are the group's own; if not, they are the fleet's
    points: Annotated[tuple[CalibrationPoint, ...], member("points of the curve, by score")]


class ObservedShare(NamedTuple):
    """The share of events in shadow whose p-value was at most *p_value*. Calibration holds if the two agree."""

    p_value: PValue
    share: Annotated[float, member("share of the events", 0.011)]
    events: Annotated[int, member("number of events", 4210)]


def calibration_curves(calibration: Calibration, groups: Mapping[PeerGroup, int]) -> list[CalibrationCurve]:
    """Return the curve of the fleet and of each group that has its own; none if the calibration is empty."""
    if not len(calibration.groups):
        return []
    own = [(name, key) for name, key in sorted(groups.items()) if key != FLEET_GROUP and calibration.covers(key)]
    curves = []
    for name, key in [(FLEET_PEER_GROUP, FLEET_GROUP), *own]:
        entry = int(group_index(calibration.groups, np.uint64(key)))
        part, size = slice(*calibration.start[entry : entry + 2].tolist()), int(calibration.sizes[entry])
        values, above = calibration.values[part], calibration.above[part]
        p_values = (1.0 + np.append(size, above[:-1])) / (1.0 + size)  # a score equal to the value counts itself
        targets = np.geomspace(p_values[-1], 1.0, CURVE_POINTS)
        at = np.unique(np.clip(np.searchsorted(-p_values, -targets), 0, len(values) - 1))
        points = tuple(CalibrationPoint(float(values[i]), float(p_values[i])) for i in at.tolist())
        curves.append(CalibrationCurve(*name, size, True, points))
    return curves


def observed_shares(days: Iterable[PeerGroupDay]) -> list[ObservedShare]:
    """Return the shares of events with p-values up to each edge over all *days*; none if nothing was counted."""
    total = np.zeros(len(P_VALUE_EDGES), np.int64)
    for day in days:
        if (
            len(day.p_values) == len(P_VALUE_EDGES) and (day.tenant, day.agent_type) != FLEET_PEER_GROUP
        ):  # groups add up to it
            total += np.array(day.p_values, np.int64)
    events = int(total.sum())
    if not events:
        return []
    shares = np.cumsum(total) / events
    return [ObservedShare(edge, float(share), events) for edge, share in zip(P_VALUE_EDGES, shares, strict=True)]
