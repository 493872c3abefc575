"""Calls that would have needed a person's approval, had each been evaluated before it was made."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.access_path import AccessPath
from trustwatch.ingest.argument_columns import read_arguments
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.events import EFFECTS, NativeEvent
from trustwatch.ingest.timestamps import DAY_MS, format_rfc3339_seconds
from trustwatch.models.call_challenges import CALL_TYPES, EVERY_EFFECT, ChallengeThreshold
from trustwatch.models.input_checks import Flags
from trustwatch.models.trained_model import TrainedModel

from ..engine.announced_paths import KINDS, as_parts
from ..engine.call_scorer import CallScorer, NoCallVerdicts
from ..engine.settings import ChallengeBudget, accepted_challenges
from .plan import BacktestPlan

SESSIONS_OF_AGENT = 16
"""Sessions of an agent whose answers are remembered; the one not used longest makes room."""
_NUMBERED_CALLS = 1024


class _SessionAnswers(msgspec.Struct, gc=False):
    """Answers in a session that other parties may have written."""

    calls: int = 0  # traced so far
    untrusted: int = 0  # bit i is of the i-th latest call
    any_untrusted: bool = False  # whether one was, however long ago

    def add(self, untrusted: bool) -> None:
        self.calls += 1
        self.untrusted = (self.untrusted << 1 | untrusted) & ((1 << _NUMBERED_CALLS) - 1)
        self.any_untrusted |= untrusted

    def is_untrusted(self, call: int) -> bool:
        """Return whether others may have written the answer of a call. Unknown calls are untrusted."""
        if call >= self.calls:
            return True
        if self.calls - call > _NUMBERED_CALLS:
            return self.any_untrusted
        return bool(self.untrusted >> (self.calls - call - 1) & 1)


class AskedCalls:
    """Turns the events of a history into evaluation requests, in order.

    A client knows whether the answer that each argument came from was untrusted; here that is read from the session's
    earlier events. Facts that are known only after the call are left out.
    """

    def __init__(self) -> None:
        self._agents: dict[tuple[str, str, str], OrderedDict[str, _SessionAnswers]] = {}

    def question(self, event: NativeEvent) -> NativeEvent:
        """Return the evaluation request that would have been sent before the call in *event*."""
        arguments = read_arguments(event)
        if arguments:
            sessions: Mapping[str, _SessionAnswers] = self._agents.get(event_columns.full_name(event), {})
            answers = sessions.get(event.session or "") or _SessionAnswers()
            arguments = [
                msgspec.structs.replace(argument, untrusted=answers.is_untrusted(argument.from_call))
                if argument.origin == "tool" and argument.untrusted is None and argument.from_call is not None
                else argument
                for argument in arguments
            ]
        return NativeEvent(
            time=event.time,
            agent=event.agent,
            type=event.type,
            action=event.action,
            outcome="success",
            tenant=event.tenant,
            principal=event.principal,
            delegation=event.delegation,
            task=event.task,
            effect=event.effect,
            resource=event.resource,
            peer=event.peer,
            scopes=event.scopes,
            client=event.client,
            credential=event.credential,
            bytes_in=event.bytes_in,
            arguments=None if arguments is None else list(arguments),
        )

    def remember(self, event: NativeEvent) -> None:
        """Record the answer of a traced call, whether it was evaluated or not."""
        code = event_columns.untrusted_result_code(event)
        if code == event_columns.UNTRACED or not event.session or event.agent.self_asserted:
            return
        sessions = self._agents.setdefault(event_columns.full_name(event), OrderedDict())
        answers = sessions.setdefault(event.session, _SessionAnswers())
        answers.add(code == 1)
        sessions.move_to_end(event.session)
        if len(sessions) > SESSIONS_OF_AGENT:
            sessions.popitem(last=False)


NOT_ASKED = -1
"""Code of an event that is not a call."""
CALLS_AT_ONCE = 1000
UNIT_ROW = np.dtype(
    [
        ("agent", np.uint64),
        ("unit", np.uint64),  # session; of events without one, the day
        ("asked", np.int32, (len(EFFECTS),)),
        ("challenged", np.int32, (len(EFFECTS),)),
        ("left", np.int32),  # of the challenged, where each new access path is trusted with its first call
    ]
)
"""Calls of one session by effect: calls of one session depend on each other."""
_BATCHES_KEPT = 256


class ChallengedKind(NamedTuple):
    """A kind of calls that are listed together."""

    tenant: str
    agent_type: str
    action: str
    effect: str


class ChallengedCalls(msgspec.Struct):
    """Challenged calls of one kind."""

    calls: int  # how many
    agents: set[int]  # keys of those who would have made them
    reasons: Counter[str]  # codes, by how many of the calls had them
    example: tuple[int, str, str]  # time, id and strongest reason of the first of them


class ChallengeCounts(msgspec.Struct):
    """Evaluated and challenged calls of one share under one model."""

    missing_because: str = ""  # why nothing was evaluated; "" = it was
    # by effect, for tenants without separate ones; None = none can be promised, and nothing of that effect is
    # challenged
    thresholds: dict[str, ChallengeThreshold | None] = {}
    tenants_with_own: int = 0  # number of those that have
    units: Any = None  # of dtype UNIT_ROW, only honest calls if labels identify them
    kinds: dict[ChallengedKind, ChallengedCalls] = {}  # challenged calls by kind, of all callers

    def add(self, other: ChallengeCounts) -> None:
        """Add the counts of another share, which has other agents."""
        self.units = sum_units([self.units, other.units])  # in their order, of all counts
        for kind, challenged in other.kinds.items():
            self.add_kind(kind, challenged)

    def add_kind(self, kind: ChallengedKind, challenged: ChallengedCalls) -> None:
        known = self.kinds.setdefault(kind, challenged)
        if known is not challenged:
            known.calls += challenged.calls
            known.agents |= challenged.agents
            known.reasons.update(challenged.reasons)
            known.example = min(known.example, challenged.example)


class ChallengeCounter:
    """Evaluates the calls of one share, batch by batch. The result is the model's answer alone; the level, which
    decides first, is reported with the policy."""

    def __init__(self, plan: BacktestPlan, model: TrainedModel) -> None:
        self._scorer: CallScorer | None = None
        self._counts = ChallengeCounts("" if plan.ask_calls else "calls were not asked about (`--no-calls`)")
        if plan.ask_calls:
            try:
                self._scorer = CallScorer(model, plan.settings.risk.challenge_budget, plan.domains, slots=CALLS_AT_ONCE)
            except NoCallVerdicts as error:
                self._counts.missing_because = str(error)
            else:
                self._counts.thresholds = self._scorer.thresholds
                self._counts.tenants_with_own = self._scorer.tenants_with_own
        self._calls = AskedCalls()
        self._trusted_paths: set[tuple[int, AccessPath]] = set()
        self._batches: list[npt.NDArray[Any]] = []

    def count_batch(
        self, columns: EventColumns, announced: npt.NDArray[np.uint8], counted: Flags, honest: Flags
    ) -> tuple[npt.NDArray[np.int8], Flags]:
        """Evaluate the calls of a batch."""
        effects = np.full(len(columns), NOT_ASKED, np.int8)
        challenged = np.zeros(len(columns), np.bool_)
        if self._scorer is None:
            return effects, challenged
        rows: list[int] = []
        questions: list[NativeEvent] = []
        for row, (event, counts) in enumerate(zip(columns.events, counted.tolist(), strict=True)):
            if counts and event.type in CALL_TYPES:
                rows.append(row)
                questions.append(self._calls.question(event))
            self._calls.remember(event)
        scores = self._scorer.score_many(questions, as_parts(announced[rows]))
        effects[rows] = columns.codes[rows, event_columns.EFFECT]
        challenged[rows] = [score.exceeds for score in scores]
        left = self._left_with_trust(columns, rows, questions, challenged)
        self._add_units(columns, effects, challenged, left, honest)
        for row, question, score in zip(rows, questions, scores, strict=True):
            if score.exceeds:
                kind = ChallengedKind(question.tenant or "", question.agent.type or "", question.action, score.effect)
                text = score.reasons[0].text if score.reasons else ""
                example = int(columns.time_ms[row]), columns.events[row].id or "", text
                reasons = Counter(dict.fromkeys((reason.code for reason in score.reasons), 1))
                agent = int(columns.names[row, event_columns.AGENT])
                self._counts.add_kind(kind, ChallengedCalls(1, {agent}, reasons, example))
        return effects, challenged

    def _left_with_trust(
        self, columns: EventColumns, rows: Sequence[int], questions: Sequence[NativeEvent], challenged: Flags
    ) -> Flags:
        """Flag (n,) the *challenged* rows that would still wait if a person trusted each access path at its first call
        that waits only for the path."""
        assert self._scorer is not None
        waiting = [(row, question) for row, question in zip(rows, questions, strict=True) if challenged[row]]
        trusted = np.full((len(waiting), KINDS), True)
        without_path = self._scorer.score_many([question for _, question in waiting], trusted)
        left = np.zeros(len(columns), np.bool_)
        for (row, question), score in zip(waiting, without_path, strict=True):
            of_agent = int(columns.names[row, event_columns.AGENT]), AccessPath.of_event(question)
            left[row] = score.exceeds or of_agent not in self._trusted_paths
            if not score.exceeds and of_agent[1].is_told:
                self._trusted_paths.add(of_agent)
        return left

    def _add_units(
        self, columns: EventColumns, effects: npt.NDArray[np.int8], challenged: Flags, left: Flags, honest: Flags
    ) -> None:
        rows = np.flatnonzero((effects != NOT_ASKED) & honest)
        session, day = columns.names[rows, event_columns.SESSION], columns.time_ms[rows] // DAY_MS
        calls = np.zeros(len(rows), UNIT_ROW)
        calls["agent"] = columns.names[rows, event_columns.AGENT]
        calls["unit"] = np.where(session != 0, session, day.astype(np.uint64))
        calls["asked"][np.arange(len(rows)), effects[rows]] = 1
        calls["challenged"][np.arange(len(rows)), effects[rows]] = challenged[rows]
        calls["left"] = left[rows]
        self._batches.append(calls)
        if len(self._batches) >= _BATCHES_KEPT:
            self._batches = [sum_units(self._batches)]

    def counts(self) -> ChallengeCounts:
        """Return the counts so far."""
        self._counts.units = sum_units(self._batches)
        return self._counts


def sum_units(batches: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Sum rows of dtype `UNIT_ROW` to one row per unit."""
    rows = np.concatenate([np.zeros(0, UNIT_ROW), *batches])
    keys = np.stack([rows["agent"], rows["unit"]], axis=1)
    units, unit_of = np.unique(keys, axis=0, return_inverse=True)
    out = np.zeros(len(units), UNIT_ROW)
    out["agent"], out["unit"] = units[:, 0], units[:, 1]
    for name in ("asked", "challenged", "left"):
        np.add.at(out[name], unit_of.reshape(-1), rows[name])
    return out


CONFIDENCE = 0.95
MAX_LISTED_KINDS = 100
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class EffectChallenges(msgspec.Struct, frozen=True):
    """Calls of one effect, or of all (`all`)."""

    effect: str
    budget: float | None  # calls of 1,000 that may wait; None for all effects, which have no budget together
    # calls, challenged: counted
    calls: int
    challenged: int
    per_1000: float | None  # challenged of 1,000; None = there were no calls
    # 95 % confidence interval of the share, calls of a session taken together
    within: tuple[float, float] | None
    # score that waiting calls exceed, for tenants without a separate one; None = none can be promised, so
    # nothing of theirs waits
    threshold: float | None
    threshold_of: str | None  # effect of the held-out calls that the threshold was read from
    # True if all of *within* is inside the budget, False if none is; None = too few calls
    budget_kept: bool | None

    @property
    def budget_words(self) -> str:
        """Describe how the bounds compare with the budget."""
        if self.threshold is None and not self.challenged:
            return "no threshold: nothing may wait, or the model's history is too short for this budget"
        if self.budget_kept is None:
            return "too few calls to tell"
        return "kept" if self.budget_kept else "broken"


class ChallengedCallKind(msgspec.Struct, frozen=True):
    """Challenged calls of one kind. *reasons* maps codes to the number of calls that had them."""

    tenant: str
    agent_type: str
    action: str
    effect: str
    calls: int
    agents: int
    reasons: dict[str, int]
    first_at: str
    first_event_id: str
    first_reason: str


class CallChallengeReport(msgspec.Struct, frozen=True):
    """Calls that would have needed a person's approval."""

    missing_because: str | None  # why nothing was evaluated; None = it was
    honest_only: bool  # whether labels left bad sessions, and events without label, out of all but *kinds*
    effects: list[EffectChallenges]  # those that occur, and `all` at the end
    # sessions, sessions_challenged: events without a session count as one by agent and day
    sessions: int
    sessions_challenged: int
    # agents, agents_challenged: who asked, and who was challenged at least once
    agents: int
    agents_challenged: int
    # of the challenged calls, those that would have waited if a person had trusted each new access path with its first
    # call
    left_with_trust: int
    kinds: list[ChallengedCallKind]  # the most frequent first, cut at `MAX_LISTED_KINDS`
    kinds_challenged: int  # how many there are
    # number of tenants of the model's history with separate thresholds, which their calls are compared with
    tenants_with_own_thresholds: int

    @property
    def threshold_words(self) -> str:
        """Describe whose thresholds were used; "" if one model's for all."""
        own = self.tenants_with_own_thresholds
        if not own:
            return ""
        have = "1 tenant of the model's history has" if own == 1 else f"{own:,} tenants of the model's history have"
        return f"{have} thresholds of {'its' if own == 1 else 'their'} own; all others have those of all together"


def challenge_report(counts: ChallengeCounts, budget: ChallengeBudget, *, honest_only: bool) -> CallChallengeReport:
    """Compare *counts* with a budget and return the report."""
    units = counts.units
    asked, challenged = units["asked"], units["challenged"]
    effects = [
        _effect_row(name, accepted_challenges(budget, name), asked[:, code], challenged[:, code], counts)
        for code, name in enumerate(EFFECTS)
        if asked[:, code].any()
    ]
    if effects:
        effects.append(_effect_row(EVERY_EFFECT, None, asked.sum(axis=1), challenged.sum(axis=1), counts))
    waits = challenged.any(axis=1)
    kinds = [
        ChallengedCallKind(
            *kind,
            challenged.calls,
            len(challenged.agents),
            dict(sorted(challenged.reasons.items(), key=lambda item: (-item[1], item[0]))),
            format_rfc3339_seconds(challenged.example[0]),
            *challenged.example[1:],
        )
        for kind, challenged in sorted(counts.kinds.items(), key=lambda item: (-item[1].calls, item[0]))
    ]
    return CallChallengeReport(
        counts.missing_because or None,
        honest_only,
        effects,
        len(units),
        int(waits.sum()),
        len(np.unique(units["agent"])),
        len(np.unique(units["agent"][waits])),
        int(units["left"].sum()),
        kinds[:MAX_LISTED_KINDS],
        len(kinds),
        counts.tenants_with_own,
    )


def _effect_row(
    name: str,
    budget: float | None,
    asked: npt.NDArray[np.int32],
    challenged: npt.NDArray[np.int32],
    counts: ChallengeCounts,
) -> EffectChallenges:
    calls, waiting = int(asked.sum()), int(challenged.sum())
    threshold = counts.thresholds.get(name)
    bounds = clustered_share_bounds(asked, challenged)
    within = None if bounds is None else (1000.0 * bounds[0], 1000.0 * bounds[1])
    kept = None
    if budget is not None and within is not None and (within[1] <= budget or within[0] > budget):
        kept = within[1] <= budget
    return EffectChallenges(
        name,
        budget,
        calls,
        waiting,
        1000.0 * waiting / calls if calls else None,
        within,
        None if threshold is None else threshold.anomaly_score,
        None if threshold is None else threshold.effect,
        kept,
    )


def clustered_share_bounds(
    asked: npt.NDArray[np.int32], challenged: npt.NDArray[np.int32]
) -> tuple[float, float] | None:
    """Return bounds on a share of calls that depend on each other within units, or None if there are no calls.

    Wilson's interval over the effective number of independent calls (Kish's design effect from the
    spread between units, never below 1).
    """
    total = int(asked.sum())
    if not total:
        return None
    share = float(challenged.sum() / total)
    spread = float(((challenged - share * asked) ** 2).sum())
    alone = total * share * (1.0 - share)
    n = total / max(1.0, spread / alone if alone > 0.0 else 1.0)
    middle, reach = share + _Z**2 / (2 * n), _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    whole = 1.0 + _Z**2 / n
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)
