"""A change of level becomes a decision, and the reasons of notable events are kept with their agents."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..ingest.features.slots import Slots
from . import risk
from .engine import NOTABLE, Scored
from .policy import LivePolicy
from .records import Decision, Reason, RiskLevel, record_id
from .residence import Note, Residence, decode_reasons, encode_reasons
from .run_up import with_earlier

_REASONS_HALF_LIFE_MS = 600_000.0
_SHOWN_FROM = 0.2


class Moment(NamedTuple):
    """A record's place in the log, and when it counts: its arrival, or the time that a tick says, UTC milliseconds."""

    partition: int
    offset: int
    at_ms: int


class Decider:
    """Makes the decisions of one partition.

    Args:
        residence: engine and resident agents.
        policy: its version and mode stand in each decision.
    """

    def __init__(self, residence: Residence, policy: LivePolicy) -> None:
        self._residence = residence
        self._engine = residence.engine
        self._policy = policy

    def scored(self, partition: int, scored: Scored, offsets: Any, received: Any) -> list[Decision]:
        """Keep the reasons of notable rows, and make a decision of every change of level.

        Args:
            partition: of the log.
            scored: a batch that the engine has scored just now, n rows.
            offsets: of its records in the log, (n,).
            received: when they arrived, (n,), UTC milliseconds.
        """
        decisions = []
        changed = set(scored.changed)
        rows = self._rows_to_tell(scored, changed)
        levels = {row: (int(scored.levels[row, 0]), int(scored.levels[row, 1])) for row in rows}
        explained = [row for row in rows if levels[row][1] >= levels[row][0] and _worth_reasons(*levels[row])]
        found = dict(zip(explained, self._engine.explainer.reasons(scored, explained), strict=True))
        for row in rows:
            slot, (previous, level) = int(scored.slots[row]), levels[row]
            rising = level > previous and level >= RiskLevel.MEDIUM
            own = found.get(row, ())
            reasons = self._with_run_up(scored, row, own) if rising else own
            told = reasons if rising or level == previous else (_calmed(previous, level),)
            counterfactual = self._engine.explainer.counterfactual(scored, row, own) if rising else ""
            decision_id = self._residence.note(slot).decision_id
            if row in changed:
                moment = Moment(partition, int(offsets[row]), int(received[row]))
                decision = self._of_event(moment, scored, row, told, counterfactual)
                decisions.append(decision)
                decision_id = decision.decision_id
            self._keep(Note(decision_id, encode_reasons(told), counterfactual), scored, row, row in changed)
        return decisions

    def time_passed(self, slots: Slots, moment: Moment) -> list[Decision]:
        """Let time pass for some agents until *moment*; decisions of those whose level changes by that."""
        levels = self._engine.tick(slots, moment.at_ms)
        return [
            self.moved(slot, moment, previous, level, "tick")
            for slot, (previous, level) in zip(slots.tolist(), levels.tolist(), strict=True)
            if previous != level
        ]

    def moved(
        self, slot: int, moment: Moment, previous: int, level: int, cause: str, reason: Reason | None = None
    ) -> Decision:
        """The decision of a level that no event has moved; *reason* None = time did."""
        told = (reason or _calmed(previous, level),)
        decision = self._decision(slot, self._engine.agents.types[slot], moment, previous, level, cause, told)
        self._say(slot, Note(decision.decision_id, encode_reasons(told), ""), 0.0, moment.at_ms)
        return decision

    def _rows_to_tell(self, scored: Scored, changed: set[int]) -> list[int]:
        """Changes of level, and the notable row of each agent whose reasons stand at each rise and at the batch's end.

        Explaining a row costs a hundred times its score, and an agent under attack has many notable rows in a batch.
        """
        notable = (scored.evidence >= NOTABLE) & (scored.risk_scores >= _SHOWN_FROM)
        told: dict[int, tuple[float, int]] = {}
        last: dict[int, int] = {}
        kept = set(changed)
        for row in sorted(changed | set(np.flatnonzero(notable).tolist())):
            slot, at_ms, weight = int(scored.slots[row]), int(scored.columns.time_ms[row]), float(scored.evidence[row])
            state = self._engine.risk[slot]
            old, since = told.get(slot) or (float(state["told"]), int(state["told_ms"]))
            if row in changed and slot in last:
                kept.add(last[slot])
            if row in changed or weight >= _faded(old, since, at_ms):
                told[slot] = weight, at_ms
                last[slot] = row
        return sorted(kept | set(last.values()))

    def _with_run_up(self, scored: Scored, row: int, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """Reasons of a rise: its event's, and those that were kept of its agent on the way."""
        slot, at_ms = int(scored.slots[row]), int(scored.columns.time_ms[row])
        state = self._engine.risk[slot]
        weight, since_ms = float(state["told"]), int(state["told_ms"])
        if weight <= 0.0:
            return reasons
        kept = decode_reasons(self._residence.note(slot).reasons)
        return with_earlier(reasons, float(scored.evidence[row]), kept, _faded(weight, since_ms, at_ms), since_ms)

    def _type_of(self, slot: int, scored: Scored, row: int) -> str:
        """The agent's type when the row's event happened, however many it took in the batch."""
        types = [name for first, name in scored.types.get(slot, ()) if first <= row]
        return types[-1] if types else self._engine.agents.types[slot]

    def _of_event(
        self, moment: Moment, scored: Scored, row: int, reasons: tuple[Reason, ...], counterfactual: str
    ) -> Decision:
        """The decision of a row that moved its agent's level."""
        slot, (previous, level) = int(scored.slots[row]), scored.levels[row].tolist()
        agent_type, explainer = self._type_of(slot, scored, row), self._engine.explainer
        decision = self._decision(slot, agent_type, moment, previous, level, "event", reasons)
        return msgspec.structs.replace(
            decision,
            event_id=scored.columns.events[row].id or "",
            event_time_ms=int(scored.columns.time_ms[row]),
            risk_score=float(scored.risk_scores[row]),
            confidence=float(scored.risk[row, risk.CONFIDENCE]),
            anomaly_score=float(scored.anomaly[row]),
            p_value=float(scored.p_values[row]),
            counterfactual=counterfactual,
            feature_vector=explainer.vector(scored, row),
            evidence=explainer.evidence(slot, scored, row),
        )

    def _keep(self, note: Note, scored: Scored, row: int, force: bool) -> None:
        """Remember the reasons of the strongest recent event; older ones fade."""
        slot, at_ms, weight = int(scored.slots[row]), int(scored.columns.time_ms[row]), float(scored.evidence[row])
        state = self._engine.risk[slot]
        if force or weight >= _faded(float(state["told"]), int(state["told_ms"]), at_ms):
            self._say(slot, note, weight, at_ms)

    def _say(self, slot: int, note: Note, weight: float, at_ms: int) -> None:
        """What is said about an agent from now on. The weight is kept with its risk: a restart goes on alike."""
        self._residence.set_note(slot, note)
        state = self._engine.risk[slot]
        state["told"], state["told_ms"] = weight, at_ms

    def _decision(
        self,
        slot: int,
        agent_type: str,
        moment: Moment,
        previous: int,
        level: int,
        cause: str,
        reasons: tuple[Reason, ...],
    ) -> Decision:
        engine, book = self._engine, self._policy.book
        name = engine.agents.names[slot]
        assert name is not None
        state = engine.risk[slot]
        standing = book.standing(name.tenant, name.issuer, name.agent_id, agent_type)
        partition, offset, at_ms = moment
        # Time may have moved the agent's level at this very record, just before: two decisions, two ids.
        apart = (cause,) if cause == "feedback" else ()
        return Decision(
            decision_id=record_id(at_ms, partition, offset, name.key, *apart, order=offset),
            agent=name,
            agent_type=agent_type,
            decided_ms=at_ms,
            event_id="",
            event_time_ms=at_ms,
            previous_level=previous,
            level=level,
            risk_score=float(state["score"]),
            confidence=float(state["confidence"]),
            anomaly_score=float(state["anomaly"]),
            p_value=max(float(state["p_value"]), 0.0),
            reasons=reasons,
            counterfactual="",
            feature_vector={},
            evidence=engine.explainer.evidence(slot),
            model_version=engine.model.version,
            baseline_version=engine.model.baseline_version,
            policy_version=book.version,
            mode=standing.mode,
            cause=cause,
            partition=partition,
            offset=offset,
        )


def _worth_reasons(previous: int, level: int) -> bool:
    """Whether a row is told with its features' reasons: a rise that people act on, or no change at all."""
    return level == previous or level >= RiskLevel.MEDIUM


def _faded(weight: float, since_ms: int, at_ms: int) -> float:
    """What the weight of kept reasons is worth later."""
    return weight * float(0.5 ** (max(at_ms - since_ms, 0) / _REASONS_HALF_LIFE_MS))


def _calmed(previous: int, level: int) -> Reason:
    """Why a level went down, or first became known."""
    before, after = RiskLevel(previous).label, RiskLevel(level).label
    if previous == RiskLevel.CRITICAL:
        text = "the longest hold of a critical agent has ended"
    elif previous < RiskLevel.MEDIUM:
        text = "enough behaviour is known now" if level == RiskLevel.LOW else "too little behaviour is known"
    else:
        text = f"no new evidence; risk decayed from {before} to {after}"
    return Reason("risk_relaxed" if previous > level else "baseline_known", "risk", after, before, 1.0, text)
