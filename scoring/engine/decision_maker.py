"""Decisions from changes of level; the reasons of notable events are kept with their agents."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np

from ...ingest.features.feature_builder import SlotIndices
from ...ingest.identities import unkeyed_agent_key
from ...ingest.record_keys import record_id
from ..policy.book import LivePolicy
from ..records.agents import AgentIdentity, AgentName, RiskLevel
from ..records.decisions import Decision, RiskReason
from . import risk
from .agent_state_cache import AgentExplanation, decode_reasons, encode_reasons
from .engine import NOTABLE_EVIDENCE, Engine, ScoredBatch
from .explanations import with_prior_reasons

_REASONS_HALF_LIFE_MS = 600_000.0
_MIN_EXPLAINED_RISK = 0.2


class RecordMoment(NamedTuple):
    """A record's place in the log, and when it counts: its arrival, or the time that a tick says, UTC milliseconds."""

    partition: int
    offset: int
    at_ms: int


class DecisionMaker:
    """Makes the decisions of one partition.

    Args:
        engine: with the agents in memory.
        policy: its version and mode stand in each decision.
    """

    def __init__(self, engine: Engine, policy: LivePolicy) -> None:
        self._engine = engine
        self._policy = policy
        self._moment: RecordMoment | None = None
        self._ids: dict[str, AgentName] = {}
        """Agents that got a decision at this moment, by its id."""

    def decide_scored(self, partition: int, scored: ScoredBatch, offsets: Any, received: Any) -> list[Decision]:
        """Keep the reasons of notable rows, and make a decision of every change of level.

        Args:
            partition: of the log.
            scored: a batch that the engine has scored just now, n rows.
            offsets: of its records in the log, (n,).
            received: when they arrived, (n,), UTC milliseconds.
        """
        decisions = []
        changed = set(scored.level_changes)
        rows = self._rows_to_explain(scored, changed)
        levels = {row: (int(scored.levels[row, 0]), int(scored.levels[row, 1])) for row in rows}
        explained = [row for row in rows if levels[row][1] >= levels[row][0] and _needs_feature_reasons(*levels[row])]
        reasons_by_row = dict(zip(explained, self._engine.explainer.reasons(scored, explained), strict=True))
        for row in rows:
            slot, (previous, level) = int(scored.slots[row]), levels[row]
            rising = level > previous and level >= RiskLevel.MEDIUM
            own = reasons_by_row.get(row, ())
            reasons = self._add_prior_reasons(scored, row, own) if rising else own
            shown_reasons = reasons if rising or level == previous else (_relaxation_reason(previous, level),)
            counterfactual = self._engine.explainer.counterfactual(scored, row, own) if rising else ""
            decision_id = self._engine.agent_states.explanation(slot).decision_id
            if row in changed:
                moment = RecordMoment(partition, int(offsets[row]), int(received[row]))
                decision = self._event_decision(moment, scored, row, shown_reasons, counterfactual)
                decisions.append(decision)
                decision_id = decision.decision_id
            self._keep_explanation(
                AgentExplanation(decision_id, encode_reasons(shown_reasons), counterfactual),
                scored,
                row,
                row in changed,
            )
        return decisions

    def decide_time_passed(self, slots: SlotIndices, moment: RecordMoment) -> list[Decision]:
        """Let time pass for some agents until *moment*; decisions of those whose level changes by that, by name.

        Slots are no order: which agent has which depends on who moved out before.
        """
        names = self._engine.agents.names
        slots = np.array(sorted(slots.tolist(), key=lambda slot: _name_order(names[slot])), np.int32)
        levels = self._engine.advance_time(slots, moment.at_ms)
        return [
            self.decide_level_change(slot, moment, previous, level, "tick")
            for slot, (previous, level) in zip(slots.tolist(), levels.tolist(), strict=True)
            if previous != level
        ]

    def decide_level_change(
        self, slot: int, moment: RecordMoment, previous: int, level: int, cause: str, reason: RiskReason | None = None
    ) -> Decision:
        """The decision of a level that no event has moved; *reason* None = the passing of time did."""
        reasons = (reason or _relaxation_reason(previous, level),)
        decision = self._new_decision(slot, self._engine.agents.types[slot], moment, previous, level, cause, reasons)
        self._set_explanation(
            slot, AgentExplanation(decision.decision_id, encode_reasons(reasons), ""), 0.0, moment.at_ms
        )
        return decision

    def _rows_to_explain(self, scored: ScoredBatch, changed: set[int]) -> list[int]:
        """Rows that change a level, and each agent's notable row whose reasons hold at a rise or at the batch's end.

        Explaining a row costs a hundred times its score, and an agent under attack has many notable rows in a batch.
        """
        notable = (scored.evidence >= NOTABLE_EVIDENCE) & (scored.risk_scores >= _MIN_EXPLAINED_RISK)
        strongest: dict[int, tuple[float, int]] = {}
        last: dict[int, int] = {}
        kept = set(changed)
        for row in sorted(changed | set(np.flatnonzero(notable).tolist())):
            slot, at_ms, weight = int(scored.slots[row]), int(scored.columns.time_ms[row]), float(scored.evidence[row])
            state = self._engine.risk[slot]
            old, since = strongest.get(slot) or (float(state["told"]), int(state["told_ms"]))
            if row in changed and slot in last:
                kept.add(last[slot])
            if row in changed or weight >= _faded_weight(old, since, at_ms):
                strongest[slot] = weight, at_ms
                last[slot] = row
        return sorted(kept | set(last.values()))

    def _add_prior_reasons(
        self, scored: ScoredBatch, row: int, reasons: tuple[RiskReason, ...]
    ) -> tuple[RiskReason, ...]:
        """Reasons of a rise: its event's, and those that were kept of its agent on the way."""
        slot, at_ms = int(scored.slots[row]), int(scored.columns.time_ms[row])
        state = self._engine.risk[slot]
        weight, since_ms = float(state["told"]), int(state["told_ms"])
        if weight <= 0.0:
            return reasons
        kept = decode_reasons(self._engine.agent_states.explanation(slot).reasons)
        return with_prior_reasons(
            reasons, float(scored.evidence[row]), kept, _faded_weight(weight, since_ms, at_ms), since_ms
        )

    def _agent_type_at(self, slot: int, scored: ScoredBatch, row: int) -> str:
        """The agent's type when the row's event happened, however many it took in the batch."""
        types = [name for first, name in scored.types.get(slot, ()) if first <= row]
        return types[-1] if types else self._engine.agents.types[slot]

    def _event_decision(
        self, moment: RecordMoment, scored: ScoredBatch, row: int, reasons: tuple[RiskReason, ...], counterfactual: str
    ) -> Decision:
        """The decision of a row that moved its agent's level."""
        slot, (previous, level) = int(scored.slots[row]), scored.levels[row].tolist()
        agent_type, explainer = self._agent_type_at(slot, scored, row), self._engine.explainer
        decision = self._new_decision(slot, agent_type, moment, previous, level, "event", reasons)
        return msgspec.structs.replace(
            decision,
            event_id=scored.columns.events[row].id or "",
            event_time_ms=int(scored.columns.time_ms[row]),
            risk_score=float(scored.risk_scores[row]),
            confidence=float(scored.risk[row, risk.CONFIDENCE]),
            anomaly_score=float(scored.anomaly[row]),
            p_value=float(scored.p_values[row]),
            counterfactual=counterfactual,
            feature_vector=explainer.named_features(scored, row),
            evidence=explainer.decision_evidence(slot, scored, row),
        )

    def _keep_explanation(self, explanation: AgentExplanation, scored: ScoredBatch, row: int, force: bool) -> None:
        """Remember the reasons of the strongest recent event; older ones fade."""
        slot, at_ms, weight = int(scored.slots[row]), int(scored.columns.time_ms[row]), float(scored.evidence[row])
        state = self._engine.risk[slot]
        if force or weight >= _faded_weight(float(state["told"]), int(state["told_ms"]), at_ms):
            self._set_explanation(slot, explanation, weight, at_ms)

    def _set_explanation(self, slot: int, explanation: AgentExplanation, weight: float, at_ms: int) -> None:
        """Set an agent's explanation. Its weight is kept with the agent's risk, so that a restart changes nothing."""
        self._engine.agent_states.set_explanation(slot, explanation)
        state = self._engine.risk[slot]
        state["told"], state["told_ms"] = weight, at_ms

    def _new_decision(
        self,
        slot: int,
        agent_type: str,
        moment: RecordMoment,
        previous: int,
        level: int,
        cause: str,
        reasons: tuple[RiskReason, ...],
    ) -> Decision:
        engine, book = self._engine, self._policy.book
        name = engine.agents.names[slot]
        assert name is not None
        state = engine.risk[slot]
        effective_policy = book.effective_policy(*name.identity, agent_type)
        partition, offset, at_ms = moment
        # Time may have moved the agent's level at this very record, just before: two decisions, two ids.
        apart = (cause,) if cause == "feedback" else ()
        decision_id = record_id(at_ms, partition, offset, unkeyed_agent_key(*name.identity), *apart, order=offset)
        if moment != self._moment:
            self._moment, self._ids = moment, {}
        if self._ids.setdefault(decision_id, name) != name:  # two agents that share an unkeyed hash
            decision_id = record_id(at_ms, partition, offset, *name.identity, *apart, order=offset)
        return Decision(
            decision_id=decision_id,
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
            evidence=engine.explainer.decision_evidence(slot),
            model_version=engine.model.version,
            baseline_version=engine.model.baseline_version,
            policy_version=book.version,
            mode=effective_policy.mode,
            cause=cause,
            partition=partition,
            offset=offset,
        )


def _name_order(name: AgentName | None) -> AgentIdentity:
    """Place of an agent among others."""
    return ("", "", "") if name is None else name.identity


def _needs_feature_reasons(previous: int, level: int) -> bool:
    """Tell whether a row's features are among its reasons: at a rise that people act on, or at no change at all."""
    return level == previous or level >= RiskLevel.MEDIUM


def _faded_weight(weight: float, since_ms: int, at_ms: int) -> float:
    """Weight of stored reasons after they have aged."""
    return weight * float(0.5 ** (max(at_ms - since_ms, 0) / _REASONS_HALF_LIFE_MS))


def _relaxation_reason(previous: int, level: int) -> RiskReason:
    """Reason of a level that went down, or that became known for the first time."""
    before, after = RiskLevel(previous).label, RiskLevel(level).label
    if previous == RiskLevel.CRITICAL:
        text = "the longest hold of a critical agent has ended"
    elif previous < RiskLevel.MEDIUM:
        text = "enough behaviour is known now" if level == RiskLevel.LOW else "too little behaviour is known"
    else:
        text = f"no new evidence; risk decayed from {before} to {after}"
    return RiskReason("risk_relaxed" if previous > level else "baseline_known", "risk", after, before, 1.0, text)
