"""Counts of one share of a history under one model; shares add up, since their agents are different ones."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import full_name
from trustwatch.ingest.features.row_observations import IGNORED_EVENT
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.input_checks import Flags, Ints
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.models.trained_model import TrainedModel

from ..engine import risk, risk_levels, usual_anomalies
from ..engine.agent_paces import AgentPaces
from ..engine.resident_agents import ResidentAgents
from ..engine.scored_batch import ScoredBatch
from ..engine.settings import AlertBudget, RiskEvaluationSettings
from ..pipeline.processor import AppliedBatch
from ..pipeline.replay import HistoryReplay
from ..records.agents import ALERTING_LEVELS, AgentIdentity, RiskLevel
from .challenge_counts import ChallengeCounter, ChallengeCounts
from .plan import BacktestPlan, EventLabels, ShardDuplicateWindow, ShardSource, first_applied, read_labels, utc_ms
from .policy_simulation import BacktestAlert, PolicySimulation, PolicySimulationResult, find_alerts


class BudgetSweep:
    """Counts alerts at several budgets."""

    def __init__(self, model: TrainedModel, settings: RiskEvaluationSettings, budgets: Sequence[AlertBudget]) -> None:
        self._model = model
        self._parameters = risk_levels.kernel_parameters(settings)
        self._thresholds = [risk_levels.model_thresholds(model, budget) for budget in budgets]
        self._states = [risk_levels.allocate(0) for _ in budgets]
        self._agent_rows: dict[int, int] = {}
        self._threshold_rows = np.zeros(0, np.int64)  # row of the thresholds of each agent's peer group
        self.rises = np.zeros((len(budgets), len(ALERTING_LEVELS)), np.int64)

    def apply_batch(self, scored: ScoredBatch, agents: ResidentAgents, counted: Flags) -> None:
        """Apply a batch at every budget. Rows that are not *counted*, bool (n,), only change state."""
        columns, n = scored.columns, len(scored.columns)
        agents_of, acting, inverse = np.unique(
            columns.names[:, event_columns.AGENT], return_index=True, return_inverse=True
        )
        row_by_agent = self._agent_rows
        first = len(row_by_agent)
        rows_of = [row_by_agent.setdefault(key, len(row_by_agent)) for key in agents_of.tolist()]
        if len(row_by_agent) > first:  # new agents begin as the model's history left them
            fresh = [at for at, row in zip(acting.tolist(), rows_of, strict=True) if row >= first]
            self._seed_agents([full_name(columns.events[at]) for at in fresh], first)
        places = np.array(rows_of, np.int32)[inverse]
        self._threshold_rows[places] = agents.threshold_rows[scored.slots]
        coverage = self._model.coverage(columns.names[:, event_columns.GROUP])
        levels, out = np.zeros((n, 2), np.int8), np.zeros((n, risk.OUTPUTS))
        by_concern = np.zeros((n, len(CONCERNS), risk.CONCERN_OUTPUTS))
        rows, skip = np.arange(n), scored.observations.flags == IGNORED_EVENT
        for at, (bounds, state) in enumerate(zip(self._thresholds, self._states, strict=True)):
            risk.update(
                rows,
                places,
                state,
                columns.time_ms,
                scored.concern_p_values,
                scored.p_values,
                scored.anomaly,
                coverage,
                scored.signals,
                bounds,
                scored.threshold_rows,
                columns.codes[:, event_columns.SELF_ASSERTED],
                skip,
                scored.habits,
                self._parameters,
                levels,
                out,
                by_concern,
            )
            self.rises[at] += risk_levels.count_rises(out[counted, risk.LEVEL_BEFORE], levels[counted, 1])

    def advance_time(self, now_ms: int) -> None:
        """Advance time, as in the run, after the last batch."""
        for bounds, state in zip(self._thresholds, self._states, strict=True):
            due = np.flatnonzero((state["due_ms"] != 0) & (state["due_ms"] <= now_ms))
            levels = np.zeros((len(due), 2), np.int8)
            risk_levels.advance(
                due.astype(np.int32), state, bounds, self._threshold_rows, now_ms, self._parameters, levels
            )

    def _seed_agents(self, names: Sequence[AgentIdentity], first: int) -> None:
        seeds, identities = self._model.seeds, IdentityHasher(self._model.salt)
        at = seeds.find([identities.agent_hash(*name) for name in names])
        places = first + np.flatnonzero(at >= 0)
        if len(self._threshold_rows) < first + len(names):
            self._threshold_rows = np.resize(self._threshold_rows, 2 * (first + len(names)))
        for position, state in enumerate(self._states):
            if len(state) < first + len(names):
                grown = risk_levels.allocate(2 * (first + len(names)))
                grown[:first] = state[:first]
                self._states[position] = state = grown
            risk_levels.seed(state, places, seeds.events[at[at >= 0]], self._parameters)
            usual_anomalies.seed(
                state, places, seeds.odd[at[at >= 0]], seeds.rehearsed[at[at >= 0]], self._model.window_ms[1]
            )


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
        ("asked", np.int8),  # effect of an evaluated call; NOT_ASKED = none was
        ("challenged", np.bool_),  # it would have needed a person's approval
    ]
)
"""One event, if the rows of events are kept."""


class BacktestCounts(msgspec.Struct):
    """Counts of events, level changes and alerts under one model."""

    model_version: str
    sweep: Any  # int64 (b, 3), the same at each budget tried
    # events, duplicates, malformed, mended, late: records, as `replay` counts them, warm-up included
    events: int = 0
    counted: int = 0  # events that count (not before the plan's `since`)
    duplicates: int = 0
    malformed: int = 0
    mended: int = 0
    late: int = 0
    # agents, agent_days: among those that count; a day is one of UTC on which the agent did something
    agents: int = 0
    agent_days: int = 0
    hasty_agents: int = 0  # agents that did days of their work within an hour, see `AgentPaces`
    self_asserted: int = 0  # unauthenticated work that counts: no failed sign-ins
    claimed_agents: int = 0  # agents whose counted work is all unauthenticated, whatever tokens they requested
    # level changes by (before, after, cause)
    changes: Counter[tuple[int, int, str]] = msgspec.field(default_factory=Counter)
    # int64 (3,), how often an event brought an agent from below medium, high, critical to it or above
    rises: Any = msgspec.field(default_factory=lambda: np.zeros(len(ALERTING_LEVELS), np.int64))
    hours: Counter[int] = msgspec.field(default_factory=Counter)  # events by hour since 1970
    rises_by_hour: Counter[tuple[int, int]] = msgspec.field(default_factory=Counter)  # rises by (hour, level reached)
    # rises by (concern, level reached)
    rises_by_concern: Counter[tuple[str, int]] = msgspec.field(default_factory=Counter)
    peaks: dict[AgentIdentity, int] = {}  # highest level of agents that reached medium or more
    alerts: list[BacktestAlert] = []  # rises of a level, one by one
    policed: list[PolicySimulationResult] = []  # by policy of the plan
    # calls that would have needed a person's approval
    challenges: ChallengeCounts = msgspec.field(default_factory=ChallengeCounts)
    rows: Any = None  # of dtype EVENT_ROW, in the order of the history; empty unless they are kept


class BacktestCounter:
    """Counts one share while it is replayed. *source* has the ids of events, which labels refer to."""

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
        self._counts = BacktestCounts(model.version, self._sweep.rises)
        self._claiming: set[int] = set()
        self._authenticated: set[int] = set()
        self._paces = AgentPaces()

    def count_batch(self, applied: AppliedBatch, agents: ResidentAgents, ticked_ms: int) -> None:
        """Count one batch right after it was applied. *ticked_ms* is the time to which all agents then moved, or 0."""
        for decision in applied.decisions:
            if decision.event_time_ms < self._since_ms:
                continue
            self._counts.changes[decision.previous_level, decision.level, decision.cause] += 1
            if decision.level >= RiskLevel.MEDIUM:
                who = decision.agent.identity
                self._counts.peaks[who] = max(self._counts.peaks.get(who, 0), decision.level)
        for policing in self._policing:
            policing.apply_decisions(applied.decisions)
        for scored, offsets in applied.scored:
            self._count_rows(scored, offsets, agents)
            self._paces.note(scored)
        if ticked_ms:
            self._sweep.advance_time(ticked_ms)

    def _count_rows(self, scored: ScoredBatch, offsets: Ints, agents: ResidentAgents) -> None:
        time_ms = scored.columns.time_ms
        counted = time_ms >= self._since_ms
        self._counts.counted += int(counted.sum())
        codes, keys = scored.columns.codes[counted], scored.columns.names[counted, event_columns.AGENT]
        is_work = codes[:, event_columns.TYPE] >= event_columns.FIRST_WORK
        is_claimed = codes[:, event_columns.SELF_ASSERTED] != 0
        self._counts.self_asserted += int((is_work & is_claimed).sum())
        self._claiming.update(np.unique(keys[is_work & is_claimed]).tolist())
        self._authenticated.update(np.unique(keys[is_work & ~is_claimed]).tolist())
        pairs = np.stack([keys, (time_ms[counted] // DAY_MS).astype(np.uint64)])
        self._days.update(zip(*np.unique(pairs, axis=1).tolist(), strict=True))
        hours, numbers = np.unique(time_ms[counted] // HOUR_MS, return_counts=True)
        self._counts.hours.update(dict(zip(hours.tolist(), numbers.tolist(), strict=True)))
        self._counts.rises += risk_levels.count_rises(
            scored.risk[counted, risk.LEVEL_BEFORE], scored.levels[counted, 1]
        )
        for alert in find_alerts(scored, agents, counted):
            self._counts.alerts.append(alert)
            self._counts.rises_by_hour[alert.at_ms // HOUR_MS, alert.level] += 1
            self._counts.rises_by_concern[alert.concern, alert.level] += 1
        self._sweep.apply_batch(scored, agents, counted)
        for policing in self._policing:
            policing.simulate_batch(scored, agents, counted)
        # The position of each row's label, -1 if it has none. Without labels all rows count as honest, else those of
        # sessions that are labeled good.
        positions, honest = np.full(len(offsets), -1), np.ones(len(offsets), np.bool_)
        if self._labels is not None:
            if self._source is not None:
                ids, base, find = self._source.ids, self._source.base, self._labels.rows.get
                positions = np.array([find(ids[offset - base], -1) for offset in offsets.tolist()], np.int64)
            labels = self._labels.labels
            good = [at >= 0 and not (labels[at].session_label or labels[at].event_label) for at in positions.tolist()]
            honest = np.array(good, np.bool_)
        asked, challenged = self._challenges.count_batch(scored.columns, scored.announced_paths, counted, honest)
        if self._keep:
            rows = np.zeros(len(offsets), EVENT_ROW)
            rows["offset"], rows["time_ms"], rows["label"] = offsets, scored.columns.time_ms, positions
            rows["anomaly"], rows["p_value"], rows["risk"] = scored.anomaly, scored.p_values, scored.risk_scores
            rows["rested"], rows["level"] = scored.risk[:, risk.LEVEL_BEFORE], scored.levels[:, 1]
            rows["asked"], rows["challenged"] = asked, challenged
            self._rows.append(rows[counted])

    def counts(self, **replayed: int) -> BacktestCounts:
        """Return the counts so far, with those of the *replayed* records."""
        return msgspec.structs.replace(
            self._counts,
            agents=len({key for key, _ in self._days}),
            agent_days=len(self._days),
            hasty_agents=len(self._paces.hasty),
            claimed_agents=len(self._claiming - self._authenticated),
            policed=[policing.result for policing in self._policing],
            challenges=self._challenges.counts(),
            rows=np.concatenate([np.zeros(0, EVENT_ROW), *self._rows]),
            **replayed,
        )


SUMS = (
    *("events", "counted", "duplicates", "malformed", "mended", "late", "agents", "agent_days", "hasty_agents"),
    *("self_asserted", "claimed_agents"),
)
"""Counts that are numbers, which a report has under the same names."""


def merge_counts(shares: Iterable[BacktestCounts]) -> BacktestCounts:
    """Sum the counts of all shares of one model. There must be at least one share."""
    total, *others = shares
    for share in others:
        for name in SUMS:
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


MAX_SHOWN_PROBLEMS = 5
_POLL_S = 0.2

ProgressCallback = Callable[[int], None]
MalformedRecord = tuple[int, str, str]
ShardResult = tuple["BacktestCounts", list[MalformedRecord]]

_bytes_read: Any = None
"""Bytes that each task has read, shared between a worker process and its parent."""


def run_backtest(
    plan: BacktestPlan, progress: ProgressCallback = lambda _: None
) -> tuple[list[BacktestCounts], list[MalformedRecord]]:
    """Run a plan.

    Raises:
        UnreadableFile, ConfigError: events, labels or a model cannot be read.
    """
    tasks = [(model, index) for model in range(len(plan.models)) for index in range(plan.jobs)]
    done = [run_shard(plan, plan.models[0], 0, progress)] if len(tasks) == 1 else _run_in_pool(plan, tasks, progress)
    counts = [
        merge_counts(part for (model, _), (part, _) in zip(tasks, done, strict=True) if model == model_number)
        for model_number in range(len(plan.models))
    ]
    problems = sorted({problem for _, shard_problems in done[: plan.jobs] for problem in shard_problems})
    return counts, problems[:MAX_SHOWN_PROBLEMS]


def total_bytes(plan: BacktestPlan) -> int:
    """Return the number of bytes that all tasks together read."""
    return FileSource(plan.paths).total_bytes * plan.jobs * len(plan.models)


def _run_in_pool(plan: BacktestPlan, tasks: Sequence[tuple[int, int]], progress: ProgressCallback) -> list[ShardResult]:
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    read = context.Array("q", len(tasks), lock=False)
    with ProcessPoolExecutor(plan.jobs, context, _init_worker, (read,)) as pool:
        futures = [pool.submit(_run_task, plan, at, model, index) for at, (model, index) in enumerate(tasks)]
        try:
            left: set[Future[Any]] = set(futures)
            while left:
                ended, left = wait(left, _POLL_S, FIRST_EXCEPTION)
                progress(sum(read))
                for future in ended:
                    future.result()  # raises what the task raised
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _init_worker(read: Any) -> None:
    global _bytes_read  # noqa: PLW0603 (the only way in that a pool offers)
    _bytes_read = read


def _run_task(plan: BacktestPlan, at: int, model: int, index: int) -> ShardResult:
    def tell(done: int) -> None:
        _bytes_read[at] = done

    return run_shard(plan, plan.models[model], index, tell)


def run_shard(plan: BacktestPlan, model: Path, index: int, progress: ProgressCallback) -> ShardResult:
    """Replay one share under one model."""
    trained = load_trained_model(model)
    labels = None if plan.labels is None else read_labels(plan.labels, plan.leave_out)
    window = ShardDuplicateWindow()
    source = ShardSource(plan, window, index, first_applied(trained.window_ms[1], plan.since, plan.after), progress)
    replay = HistoryReplay(trained, plan.settings, plan.domains, window, window.newest_event_ms)
    tally = BacktestCounter(plan, trained, source, labels)
    problems: list[MalformedRecord] = []

    def malformed(*problem: Any) -> None:
        if len(problems) < MAX_SHOWN_PROBLEMS:
            problems.append(problem)

    try:
        for applied in replay.applied_batches(source, malformed):
            tally.count_batch(applied, replay.engine.agents, replay.ticked_ms)
    finally:
        source.close()
    summary = replay.summary()
    records = {name: getattr(summary, name) for name in ("events", "malformed", "mended", "late")}
    return tally.counts(**records, duplicates=window.duplicates), problems
