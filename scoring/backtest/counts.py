"""Counts of one share of a history under one model; shares add up, since their agents are different ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.models.trained_model import TrainedModel

from ..engine import risk, risk_levels
from ..engine.agent_paces import AgentPaces
from ..engine.resident_agents import ResidentAgents
from ..engine.scored_batch import ScoredBatch
from ..pipeline.processor import AppliedBatch
from ..records.agents import ALERTING_LEVELS, AgentIdentity, RiskLevel
from ..records.decisions import Decision
from .agent_shards import ShardSource, utc_ms
from .alert_list import BacktestAlert, find_alerts
from .budget_sweep import BudgetSweep
from .challenge_counts import ChallengeCounter, ChallengeCounts
from .plan import BacktestPlan, EventLabels
from .policy_simulation import PolicySimulation, PolicySimulationResult

EVENT_ROW = np.dtype(
    [
        ("offset", np.int64),  # of the record in the history
        ("time_ms", np.int64),
        ("label", np.int64),  # position of its label; -1 = none
        ("anomaly", np.float64),
        ("p_value", np.float64),
        ("risk", np.float64),
        ("rested", np.int8),  # level of the agent just before the event
        ("level", np.int8),  # and after it
        ("asked", np.int8),  # effect of a call that was asked about; NOT_ASKED = none was
        ("challenged", np.bool_),  # a person would have been asked about it
    ]
)
"""One event, where the rows of events are kept."""


class BacktestCounts(msgspec.Struct):
    """Counts of events, level changes and alerts under one model.

    Attributes:
        events, duplicates, malformed, mended, late: records, as `replay` counts them, warm-up included.
        counted: events that count (not before the plan's `since`).
        agents, agent_days: among those that count; a day is one of UTC on which the agent did something.
        changes: level changes by (before, after, cause).
        rises: int64 (3,), how often an event brought an agent from below medium, high, critical to it or above.
        sweep: int64 (b, 3), the same at each budget tried.
        hours: events by hour since 1970.
        rises_by_hour: rises by (hour, level reached).
        rises_by_concern: rises by (concern, level reached).
        peaks: highest level of agents that reached medium or more.
        alerts: rises of a level, one by one.
        hasty_agents: agents that did days of their work within an hour, see `AgentPaces`.
        self_asserted: work that counts, and that no token vouches for: no failed sign-ins.
        claimed_agents: agents of whose work that counts all is such, whatever tokens they asked for.
        policed: by policy of the plan.
        challenges: calls that a person would have been asked about.
        rows: of dtype EVENT_ROW, in the order of the history; empty unless they are kept.
    """

    events: int
    counted: int
    duplicates: int
    malformed: int
    mended: int
    late: int
    agents: int
    agent_days: int
    changes: Counter[tuple[int, int, str]]
    rises: Any
    sweep: Any
    hours: Counter[int]
    rises_by_hour: Counter[tuple[int, int]]
    rises_by_concern: Counter[tuple[str, int]]
    peaks: dict[AgentIdentity, int]
    alerts: list[BacktestAlert]
    hasty_agents: int
    self_asserted: int
    claimed_agents: int
    policed: list[PolicySimulationResult]
    challenges: ChallengeCounts
    rows: Any
    model_version: str = ""


class BacktestCounter:
    """Counts one share while it is replayed. *source* knows the ids of events, which labels go by."""

    def __init__(
        self,
        plan: BacktestPlan,
        model: TrainedModel,
        source: ShardSource | None = None,
        labels: EventLabels | None = None,
    ) -> None:
        self._since_ms = 0 if plan.since is None else utc_ms(plan.since)
        self._policing = [PolicySimulation(book, self._since_ms) for book in plan.books]
        self._sweep = BudgetSweep(model, plan.settings.risk, plan.budgets)
        self._challenges = ChallengeCounter(plan, model)
        self._source = source
        self._labels = labels
        self._keep = plan.keep_rows or labels is not None
        self._days: set[tuple[int, int]] = set()
        self._rows: list[npt.NDArray[Any]] = []
        self._version = model.version
        self._counted = self._self_asserted = 0
        self._claiming: set[int] = set()
        self._vouched: set[int] = set()
        self._changes: Counter[tuple[int, int, str]] = Counter()
        self._rises = np.zeros(len(ALERTING_LEVELS), np.int64)
        self._hours: Counter[int] = Counter()
        self._rises_by_hour: Counter[tuple[int, int]] = Counter()
        self._rises_by_concern: Counter[tuple[str, int]] = Counter()
        self._peaks: dict[AgentIdentity, int] = {}
        self._alerts: list[BacktestAlert] = []
        self._paces = AgentPaces()

    def count_batch(self, applied: AppliedBatch, agents: ResidentAgents, ticked_ms: int) -> None:
        """Count one batch right after it was applied; *ticked_ms* is the time to which all then moved, 0 = none."""
        for decision in applied.decisions:
            self._count_decision(decision)
        for policing in self._policing:
            policing.apply_decisions(applied.decisions)
        for scored, offsets in applied.scored:
            self._count_rows(scored, offsets, agents)
            self._paces.note(scored)
        if ticked_ms:
            self._sweep.advance_time(ticked_ms)

    def _count_decision(self, decision: Decision) -> None:
        if decision.event_time_ms < self._since_ms:
            return
        self._changes[decision.previous_level, decision.level, decision.cause] += 1
        name = decision.agent
        if decision.level >= RiskLevel.MEDIUM:
            who = name.identity
            self._peaks[who] = max(self._peaks.get(who, 0), decision.level)

    def _count_rows(self, scored: ScoredBatch, offsets: npt.NDArray[np.int64], agents: ResidentAgents) -> None:
        time_ms = scored.columns.time_ms
        counted = time_ms >= self._since_ms
        self._counted += int(counted.sum())
        self._count_work(scored.columns.codes[counted], scored.columns.names[counted, columns.AGENT])
        pairs = np.stack([scored.columns.names[counted, columns.AGENT], (time_ms[counted] // DAY_MS).astype(np.uint64)])
        self._days.update(zip(*np.unique(pairs, axis=1).tolist(), strict=True))
        hours, numbers = np.unique(time_ms[counted] // HOUR_MS, return_counts=True)
        self._hours.update(dict(zip(hours.tolist(), numbers.tolist(), strict=True)))
        self._rises += risk_levels.count_rises(scored.risk[counted, risk.LEVEL_BEFORE], scored.levels[counted, 1])
        self._count_alerts(find_alerts(scored, agents, counted))
        self._sweep.apply_batch(scored, agents, counted)
        for policing in self._policing:
            policing.simulate_batch(scored, agents, counted)
        positions = self._label_positions(offsets)
        honest = self._is_honest(positions)
        asked = self._challenges.count_batch(scored.columns, scored.announced_paths, counted, honest)
        if self._keep:
            self._rows.append(self._event_rows(scored, offsets, positions, asked)[counted])

    def _count_work(self, codes: npt.NDArray[Any], agents: npt.NDArray[np.uint64]) -> None:
        is_work, is_claimed = codes[:, columns.TYPE] >= columns.FIRST_WORK, codes[:, columns.SELF_ASSERTED] != 0
        self._self_asserted += int((is_work & is_claimed).sum())
        self._claiming.update(np.unique(agents[is_work & is_claimed]).tolist())
        self._vouched.update(np.unique(agents[is_work & ~is_claimed]).tolist())

    def _label_positions(self, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Position of each row's label, (n,); -1 = none."""
        if self._labels is None or self._source is None:
            return np.full(len(offsets), -1)
        ids, base, find = self._source.ids, self._source.base, self._labels.rows.get
        return np.array([find(ids[offset - base], -1) for offset in offsets.tolist()], np.int64)

    def _is_honest(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Rows of sessions that labels call good; without labels nothing is known, and all count."""
        if self._labels is None:
            return np.ones(len(positions), np.bool_)
        labels = self._labels.labels
        good = [at >= 0 and not (labels[at].session_label or labels[at].event_label) for at in positions.tolist()]
        return np.array(good, np.bool_)

    def _count_alerts(self, alerts: list[BacktestAlert]) -> None:
        self._alerts += alerts
        for alert in alerts:
            self._rises_by_hour[alert.at_ms // HOUR_MS, alert.level] += 1
            self._rises_by_concern[alert.concern, alert.level] += 1

    def _event_rows(
        self,
        scored: ScoredBatch,
        offsets: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        asked: tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_]],
    ) -> Any:
        rows = np.zeros(len(offsets), EVENT_ROW)
        rows["offset"], rows["time_ms"], rows["label"] = offsets, scored.columns.time_ms, labels
        rows["anomaly"], rows["p_value"], rows["risk"] = scored.anomaly, scored.p_values, scored.risk_scores
        rows["rested"], rows["level"] = scored.risk[:, risk.LEVEL_BEFORE], scored.levels[:, 1]
        rows["asked"], rows["challenged"] = asked
        return rows

    def counts(self, events: int, duplicates: int, malformed: int, mended: int, late: int) -> BacktestCounts:
        """The sums so far, with what the replay counted."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros(0, EVENT_ROW)
        return BacktestCounts(
            events,
            self._counted,
            duplicates,
            malformed,
            mended,
            late,
            len({key for key, _ in self._days}),
            len(self._days),
            self._changes,
            self._rises,
            self._sweep.rises,
            self._hours,
            self._rises_by_hour,
            self._rises_by_concern,
            self._peaks,
            self._alerts,
            len(self._paces.hasty),
            self._self_asserted,
            len(self._claiming - self._vouched),
            [policing.result for policing in self._policing],
            self._challenges.counts(),
            rows,
            self._version,
        )


_SUMS = (
    *("events", "counted", "duplicates", "malformed", "mended", "late", "agents", "agent_days", "hasty_agents"),
    *("self_asserted", "claimed_agents"),
)


def merge_counts(shares: Iterable[BacktestCounts]) -> BacktestCounts:
    """Sum of the counts of all shares of one model; at least one share."""
    total, *others = shares
    for share in others:
        for name in _SUMS:
            setattr(total, name, getattr(total, name) + getattr(share, name))
        total.rises, total.sweep = total.rises + share.rises, total.sweep + share.sweep
        for name in ("changes", "hours", "rises_by_hour", "rises_by_concern", "peaks"):
            getattr(total, name).update(getattr(share, name))
        total.alerts.extend(share.alerts)
        for ours, theirs in zip(total.policed, share.policed, strict=True):
            ours.counts.update(theirs.counts)
            ours.enforced += theirs.enforced
            ours.agents.update(theirs.agents)
            ours.revoked.extend(theirs.revoked)
        total.challenges.add(share.challenges)
        total.rows = np.concatenate([total.rows, share.rows])
    total.rows = total.rows[np.argsort(total.rows["offset"], kind="stable")]
    total.alerts.sort()
    for policed in total.policed:
        policed.revoked.sort(key=lambda entry: (entry.at_ms, entry.event_id, entry.agent.key))
    return total
