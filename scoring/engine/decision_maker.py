"""Decisions from changes of level; the reasons of notable events are kept with their agents."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.features.feature_builder import SlotIndices
from trustwatch.ingest.features.feature_table import FEATURE_NAMES
from trustwatch.ingest.identities import unkeyed_agent_key
from trustwatch.ingest.record_keys import record_id

from ..policy.book import LivePolicy
from ..records.agents import AgentName, Indicator, RiskLevel, decode_indicators, encode_indicators
from ..records.decisions import Decision, RiskReason
from . import risk
from .agent_rows import AgentExplanation, decode_reasons, encode_reasons
from .engine import Engine
from .explanations import MAX_CALLER_REASONS, caller_reasons, with_callers, with_prior_reasons
from .indicators import CALLER_BITS, has_room, indicators_of_row, lately_new, new_callers, with_indicators
from .scored_batch import ScoredBatch

_NOTABLE_EVIDENCE = 1.0
"""Evidence (natural log) from which an event's reasons are kept with its agent's risk."""
_MIN_EXPLAINED_RISK = 0.2
_STRONGER = 0.25
"""Evidence by which an event must be stronger than all since its agent was last quiet before it is explained again."""
_LEAST_WEIGHT = 1e-6
"""Evidence of the reasons of an agent that is not quiet, if no event has brought any: each event replaces it."""


class RecordMoment(NamedTuple):
    """Position of a record in the log, and when it counts: its arrival, or the time of a tick, in UTC milliseconds."""

    partition: int
    offset: int
    at_ms: int


class DecisionMaker:
    """Makes the decisions of one partition."""

    def __init__(self, engine: Engine, policy: LivePolicy) -> None:
        self._engine = engine
        self._policy = policy
        self._moment: RecordMoment | None = None
        self._ids: dict[str, AgentName] = {}
        """Agents that got a decision at this moment, by its id."""

    def decide_scored(self, partition: int, scored: ScoredBatch, offsets: Any, received: Any) -> list[Decision]:
        """Keep the reasons of notable rows, and make a decision for each change of level.

        Args:
            offsets: of its records in the log, (n,).
            received: when they arrived, (n,), UTC milliseconds.
        """
        decisions: list[Decision] = []
        if not _has_notable_row(
            scored.slots,
            self._engine.risk,
            scored.levels,
            scored.risk,
            scored.caller_changed,
            scored.concern_risk,
            self._engine.counted_concerns,
            scored.observations.new_kinds,
        ):
            return decisions  # as in most small batches
        changed, quiet = set(scored.level_changes), self._quiet_rows(scored)
        rows = self._rows_to_explain(scored, changed, quiet)
        levels = {row: (int(scored.levels[row, 0]), int(scored.levels[row, 1])) for row in rows}
        # Features are among the reasons of a row that did not change the level, or raised it to medium or above.
        explained = [
            row for row, (before, after) in levels.items() if after == before or after > max(before, RiskLevel.LOW)
        ]
        reasons_by_row = dict(zip(explained, self._engine.explainer.reasons(scored, explained), strict=True))
        new = set(new_callers(scored).tolist())
        callers = set(np.flatnonzero(scored.caller_changed).tolist()) - levels.keys()
        for row in sorted(levels.keys() | callers | new | quiet):
            if row in levels:
                moment = RecordMoment(partition, int(offsets[row]), int(received[row]))
                decisions += self._decide_row(moment, scored, row, levels[row], reasons_by_row.get(row, ()), row in new)
            elif row in callers:
                self._keep_callers(scored, row)
            elif row in new:
                self._keep_indicators(scored, row, only_new_callers=True)
            if row in quiet:
                self._engine.risk[int(scored.slots[row])]["told"] = 0.0
        return decisions

    def _decide_row(
        self,
        moment: RecordMoment,
        scored: ScoredBatch,
        row: int,
        levels: tuple[int, int],
        own: tuple[RiskReason, ...],
        new_caller: bool,
    ) -> list[Decision]:
        """Keep the reasons of one row, and make a decision if it changed the level.

        New callers are kept if the level falls, too: learned by then, they would be known to the events that follow.
        """
        slot, at_ms, weight = int(scored.slots[row]), int(scored.columns.time_ms[row]), float(scored.evidence[row])
        (previous, level), state, before = levels, self._engine.risk[slot], self._engine.agent_states.explanation(slot)
        rising, changes = level > previous and level >= RiskLevel.MEDIUM, level != previous
        indicators = self._indicators_kept(slot, at_ms)
        if rising or not changes or new_caller:
            indicators = with_indicators(indicators, indicators_of_row(scored, row))
        shown = kept = own
        if changes and not rising:
            shown = (_relaxation_reason(previous, level),)
            kept = (*self._callers_kept(slot), *shown)
        elif state["told"] > 0.0:
            shown = kept = with_prior_reasons(
                own,
                weight,
                decode_reasons(before.reasons),
                float(state["told"]),
                int(state["told_ms"]),
                compromise=self._engine.explainer.is_compromise(scored, row),
            )
        counterfactual = self._engine.explainer.counterfactual(scored, row, own) if rising else ""
        decisions = []
        if changes:
            decision = self._event_decision(moment, scored, row, shown, indicators if rising else ())
            decisions.append(msgspec.structs.replace(decision, counterfactual=counterfactual))
        if changes or _replaces(weight, float(state["told"])):
            decision_id = decisions[0].decision_id if changes else before.decision_id
            explanation = AgentExplanation(
                decision_id, encode_reasons(kept), counterfactual, encode_indicators(indicators)
            )
            self._set_explanation(slot, explanation, weight, at_ms)
        return decisions

    def _quiet_rows(self, scored: ScoredBatch) -> set[int]:
        """Return the rows after which an agent with kept reasons or indicators is quiet."""
        explained = self._engine.risk["told"][scored.slots] > 0.0
        noted = scored.caller_changed | (scored.evidence >= _NOTABLE_EVIDENCE)
        noted[scored.level_changes] = True
        slots = set(scored.slots[noted].tolist())
        kept = explained | np.array([slot in slots for slot in scored.slots.tolist()]) if slots else explained
        if not kept.any():
            return set()
        return set(np.flatnonzero(kept & scored.is_quiet(self._engine.model.counted_concerns)).tolist())

    def _callers_kept(self, slot: int) -> list[RiskReason]:
        """Return the kept reasons that name callers, since the agent was last quiet."""
        if self._engine.risk[slot]["told"] <= 0.0:
            return []
        return caller_reasons(decode_reasons(self._engine.agent_states.explanation(slot).reasons))

    def _indicators_kept(self, slot: int, at_ms: int) -> tuple[Indicator, ...]:
        """Return the kept indicators since the agent was last quiet, and new ones of the day before *at_ms*."""
        kept = decode_indicators(self._engine.agent_states.explanation(slot).indicators)
        return kept if self._engine.risk[slot]["told"] > 0.0 else lately_new(kept, at_ms)

    def _keep_indicators(self, scored: ScoredBatch, row: int, *, only_new_callers: bool = False) -> None:
        """Add the indicators of a row to those that are kept.

        *only_new_callers*: only if it has a new caller for which there is room. It is kept even if the event is normal:
        the agent learns the caller, so the events that raise the agent will not show it as new.
        """
        slot = int(scored.slots[row])
        kept = self._indicators_kept(slot, int(scored.columns.time_ms[row]))
        if only_new_callers and not has_room(kept, scored, row):
            return
        indicators = encode_indicators(with_indicators(kept, indicators_of_row(scored, row)))
        states = self._engine.agent_states
        states.set_explanation(slot, msgspec.structs.replace(states.explanation(slot), indicators=indicators))

    def _keep_callers(self, scored: ScoredBatch, row: int) -> None:
        """Keep the caller alongside the reasons of a stronger event, since it counts once and is missing from later
        events. Only the first callers since the agent was quiet are kept: explaining an event costs a hundred times its
        score."""
        slot, at_ms = int(scored.slots[row]), int(scored.columns.time_ms[row])
        if len(self._callers_kept(slot)) >= MAX_CALLER_REASONS:
            self._keep_indicators(scored, row, only_new_callers=True)
            return
        self._keep_indicators(scored, row)
        state, before = self._engine.risk[slot], self._engine.agent_states.explanation(slot)
        (own,) = self._engine.explainer.reasons(scored, [row])
        weight, kept_weight = max(float(scored.evidence[row]), 0.0), float(state["told"])
        if kept_weight <= 0.0:
            reasons, kept_weight = own, max(weight, _LEAST_WEIGHT)
        else:
            reasons = with_callers(decode_reasons(before.reasons), kept_weight, own, weight, at_ms)
            at_ms = int(state["told_ms"])
        explanation = msgspec.structs.replace(before, reasons=encode_reasons(reasons))
        self._set_explanation(slot, explanation, kept_weight, at_ms)

    def decide_time_passed(self, slots: SlotIndices, moment: RecordMoment) -> list[Decision]:
        """Advance time for these agents to *moment*; return decisions, by agent name, for the levels that changed.

        The order of slots has no meaning: which agent has which depends on who moved out before.
        """
        names = self._engine.agents.names
        order = {slot: ("", "", "") if (name := names[slot]) is None else name.identity for slot in slots.tolist()}
        slots = np.array(sorted(order, key=order.__getitem__), np.int32)
        levels = self._engine.advance_time(slots, moment.at_ms)
        return [
            self.decide_level_change(slot, moment, previous, level, "tick")
            for slot, (previous, level) in zip(slots.tolist(), levels.tolist(), strict=True)
            if previous != level
        ]

    def decide_level_change(
        self, slot: int, moment: RecordMoment, previous: int, level: int, cause: str, reason: RiskReason | None = None
    ) -> Decision:
        """Make the decision for a level that no event changed. Without a *reason*, time changed it."""
        reasons = (reason or _relaxation_reason(previous, level),)
        callers = self._callers_kept(slot) if cause == "tick" else []
        evidence = self._engine.explainer.decision_evidence(slot)
        decision = self._new_decision(
            slot, self._engine.agents.types[slot], moment, previous, level, cause, reasons, evidence
        )
        indicators = self._indicators_kept(slot, moment.at_ms) if cause == "tick" else ()
        explanation = AgentExplanation(
            decision.decision_id, encode_reasons((*callers, *reasons)), "", encode_indicators(indicators)
        )
        self._set_explanation(slot, explanation, _LEAST_WEIGHT if callers else 0.0, moment.at_ms)
        return decision

    def _rows_to_explain(self, scored: ScoredBatch, changed: set[int], quiet: set[int]) -> list[int]:
        """Return the rows that change a level, and each agent's notable rows that are stronger than all since it was
        last quiet.

        Explaining a row costs a hundred times its score, and an agent under attack has many notable rows.
        """
        notable = (scored.evidence >= _NOTABLE_EVIDENCE) & (scored.risk_scores >= _MIN_EXPLAINED_RISK)
        strongest: dict[int, float] = {}
        kept = []
        for row in sorted(changed | quiet | set(np.flatnonzero(notable | scored.caller_changed).tolist())):
            slot, weight = int(scored.slots[row]), float(scored.evidence[row])
            most = strongest.get(slot, float(self._engine.risk[slot]["told"]))
            if row in changed or (notable[row] and _replaces(weight, most)):
                strongest[slot] = weight
                kept.append(row)
            elif scored.caller_changed[row] and most <= 0.0:
                strongest[slot] = max(weight, _LEAST_WEIGHT)
            if row in quiet:
                strongest[slot] = 0.0
        return kept

    def _event_decision(
        self,
        moment: RecordMoment,
        scored: ScoredBatch,
        row: int,
        reasons: tuple[RiskReason, ...],
        indicators: tuple[Indicator, ...],
    ) -> Decision:
        """Make the decision for a row that changed its agent's level."""
        slot, (previous, level) = int(scored.slots[row]), scored.levels[row].tolist()
        agent_type, explainer = scored.type_at(row, self._engine.agents.types), self._engine.explainer
        evidence = explainer.decision_evidence(slot, scored, row)
        if indicators:
            evidence["indicators"] = [msgspec.to_builtins(indicator) for indicator in indicators]
        decision = self._new_decision(slot, agent_type, moment, previous, level, "event", reasons, evidence)
        values = scored.vectors[row]
        return msgspec.structs.replace(
            decision,
            event_id=scored.columns.events[row].id or "",
            event_time_ms=int(scored.columns.time_ms[row]),
            risk_score=float(scored.risk_scores[row]),
            confidence=float(scored.risk[row, risk.CONFIDENCE]),
            anomaly_score=float(scored.anomaly[row]),
            p_value=float(scored.p_values[row]),
            feature_vector={FEATURE_NAMES[at]: float(values[at]) for at in np.flatnonzero(values).tolist()},
        )

    def _set_explanation(self, slot: int, explanation: AgentExplanation, weight: float, at_ms: int) -> None:
        """Set an agent's explanation. The weight is stored with the agent's risk, so a restart changes nothing."""
        self._engine.agent_states.set_explanation(slot, explanation)
        state = self._engine.risk[slot]
        # A lowering event that changes a level brings 0. If it were less, it would depend on the batch whether a quiet
        # row after it takes it back.
        state["told"], state["told_ms"] = max(weight, 0.0), at_ms

    def _new_decision(
        self,
        slot: int,
        agent_type: str,
        moment: RecordMoment,
        previous: int,
        level: int,
        cause: str,
        reasons: tuple[RiskReason, ...],
        evidence: dict[str, Any],
    ) -> Decision:
        engine, book = self._engine, self._policy.book
        name = engine.agents.names[slot]
        assert name is not None
        state = engine.risk[slot]
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
            evidence=evidence,
            model_version=engine.model.version,
            baseline_version=engine.model.baseline_version,
            policy_version=book.version,
            mode=book.effective_policy(*name.identity, agent_type).mode,
            cause=cause,
            partition=partition,
            offset=offset,
        )


@allocation_free
def _has_notable_row(
    slots: npt.NDArray[np.int32],
    state: npt.NDArray[Any],
    levels: npt.NDArray[np.int8],
    out: npt.NDArray[np.float64],
    caller_changed: npt.NDArray[np.bool_],
    by_concern: npt.NDArray[np.float64],
    concerns: npt.NDArray[np.int64],
    new_kinds: npt.NDArray[np.uint32],
) -> bool:
    """Return whether a row changed a level or its caller, may be notable or come from a new caller, or left an agent
    quiet that was not. Columns are per row, as in `ScoredBatch` and `RowObservations`.

    Args:
        state: risk rows by slot.
        out, by_concern: of `risk.update`.
        concerns: (k,), those that move levels.
    """
    for row in range(len(slots)):
        moved = levels[row, 0] != levels[row, 1] or caller_changed[row]
        if moved or out[row, risk.GAIN] >= _NOTABLE_EVIDENCE or (new_kinds[row] & CALLER_BITS) != 0:
            return True
        quiet = state[slots[row]].told > 0.0
        for concern in concerns:
            quiet &= by_concern[row, concern, risk.CONCERN_STATISTIC] <= 0.0
        if quiet:
            return True
    return False


def _replaces(weight: float, kept_weight: float) -> bool:
    """Return whether an event is so much stronger than the one kept for its agent that it replaces it."""
    return weight >= kept_weight + _STRONGER if kept_weight > 0.0 else weight > 0.0


def _relaxation_reason(previous: int, level: int) -> RiskReason:
    """Return the reason of a level that fell, or that became known."""
    before, after = RiskLevel(previous).label, RiskLevel(level).label
    if previous == RiskLevel.CRITICAL:
        text = "the longest hold of a critical agent has ended"
    elif previous < RiskLevel.MEDIUM:
        text = "enough behaviour is known now" if level == RiskLevel.LOW else "too little behaviour is known"
    else:
        text = f"no new evidence; risk decayed from {before} to {after}"
    return RiskReason("risk_relaxed" if previous > level else "baseline_known", "risk", after, before, 1.0, text)
