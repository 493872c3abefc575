"""The engine: one batch of decoded events through features, detector and risk, in the order of docs/architecture.md.

The live service, `replay` and every test use this class; it knows neither sources nor stores. An event is scored before
it is learned, and learned only while its agent is under no suspicion. How events are cut into batches changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ...ingest import columns as event_columns
from ...ingest.columns import EventColumns
from ...ingest.features import layout
from ...ingest.features.feature_builder import SlotIndices, agent_rounds
from ...ingest.features.feature_table import FEATURE_COUNT, FEATURE_NAMES
from ...ingest.features.row_observations import IGNORED_EVENT, LATE_EVENT, RowObservations, allocate_observations
from ...ingest.identities import IdentityHasher
from ...models.baseline_learning import LEARN_NOTHING, announced_credentials, learnable_parts
from ...models.concerns import CONCERNS, ConcernScores
from ...models.detector import FAMILIAR_EVENTS
from ...models.trained_model import TrainedModel
from ..records.agents import ALERTING_LEVELS, RiskLevel
from ..records.decisions import RiskReason
from . import evidence_dedup, level_thresholds, risk
from .agent_state_cache import AgentLoader, AgentStateCache
from .counterfactuals import replaceable_features, thing_words, with_usual
from .explanations import ReasonWriter
from .feedback_rules import FeedbackRules, RuleCoverage
from .hard_signals import HardSignalRules
from .resident_agents import ResidentAgents
from .settings import AlertBudget, RiskEvaluationSettings
from .usual_oddness import NEVER_USUAL, NEWCOMER_EVENTS, NO_HABIT, USUAL, unusual_p_value

SUSPICION_SHARE = 0.6
"""Part of the medium threshold from which a run of odd events is no longer learned; single odd events are."""

NOTABLE_EVIDENCE = 1.0
"""Evidence (natural log) from which an event's reasons are kept with its agent's risk."""


class EngineSettings(NamedTuple):
    """Settings of the engine; everything else comes with the model."""

    risk: RiskEvaluationSettings = RiskEvaluationSettings()
    capacity: int = 200_000
    learn: bool = True

    def with_budget(self, budget: AlertBudget) -> EngineSettings:
        """The same at another alert budget."""
        return self._replace(risk=msgspec.structs.replace(self.risk, alert_budget=budget))


class ScoredBatch(NamedTuple):
    """Result of a batch, one row per event in input order."""

    columns: EventColumns
    slots: SlotIndices
    vectors: npt.NDArray[np.float64]  # (n, F)
    observations: RowObservations
    anomaly: npt.NDArray[np.float64]
    p_values: npt.NDArray[np.float64]  # with names that have counted left aside (see `counted`)
    concern_p_values: npt.NDArray[np.float64]  # (n, 3): likewise by concern, as risk rests on them
    concerns: ConcernScores  # of the events by themselves
    effective_concerns: npt.NDArray[np.float64]  # (n, 3): anomaly scores by concern, without what counted
    levels: npt.NDArray[np.int8]  # (n, 2): before and after
    risk: npt.NDArray[np.float64]  # (n, risk.OUTPUTS): see there
    concern_risk: npt.NDArray[np.float64]  # (n, 3, risk.CONCERN_OUTPUTS): see there
    signals: npt.NDArray[np.float64]  # evidence of hard signals
    threshold_rows: npt.NDArray[np.int64]  # row of the thresholds that hold for the event's peer group
    agent_numbers: npt.NDArray[np.float32]  # (n, NUMBERS): what the agent's numbers were when the row was measured
    known_items: npt.NDArray[np.uint8]  # (n, KINDS): likewise its counts of different items
    raw_p_values: npt.NDArray[
        np.float64
    ]  # (n,): p-values of the events by themselves, as if nothing had counted before
    effective_anomaly: npt.NDArray[np.float64]  # (n,): as anomaly, with names that have counted left aside
    effective_rows: dict[int, npt.NDArray[np.float64]]  # vectors (F,) of rows of which something was left aside
    caller_changed: npt.NDArray[np.bool_]  # (n,): a name that says who calls, such as its network, brought evidence
    habits: npt.NDArray[np.int8]  # (n,): `usual_oddness.USUAL`, `NO_HABIT` or `NEVER_USUAL`
    at_ms: npt.NDArray[np.int64]  # (n,): when each event happened, or arrived where that is later
    types: dict[int, list[tuple[int, str]]]  # by slot: agent types that it took in this batch, from which row on

    def effective_vectors(self, rows: Sequence[int]) -> npt.NDArray[np.float64]:
        """Vectors that the p-values of *rows* rest on, shape (len(rows), F): without what has counted before."""
        vectors = self.vectors[list(rows)]
        for place, row in enumerate(rows):
            if row in self.effective_rows:
                vectors[place] = self.effective_rows[row]
        return vectors

    def is_familiar(self, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Flags of the *rows* whose agents the model's history shows well."""
        return np.asarray(self.agent_numbers[list(rows), layout.N_SHARED] >= FAMILIAR_EVENTS)

    @property
    def risk_scores(self) -> npt.NDArray[np.float64]:
        """Risk score of each row's agent after the row, in [0, 1]."""
        return self.risk[:, risk.SCORE]

    @property
    def evidence(self) -> npt.NDArray[np.float64]:
        """Evidence that each row brought, natural log."""
        return self.risk[:, risk.GAIN]

    def is_calm(self, concerns: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Flags (n,) of the rows after which no evidence against their agent is left, for any of *concerns*."""
        return np.asarray((self.concern_risk[:, concerns, risk.CONCERN_STATISTIC] <= 0.0).all(axis=1))

    @property
    def level_changes(self) -> list[int]:
        """Rows that moved their agent to another level."""
        return np.flatnonzero(self.levels[:, 0] != self.levels[:, 1]).tolist()

    @property
    def late_events(self) -> int:
        """Events older than one already seen of their agent."""
        return int((self.observations.flags == LATE_EVENT).sum())


class Engine:
    """Scores batches and keeps all state of resident agents.

    Args:
        model: what is normal, and the detector that measures against it.
        settings: see EngineSettings.
        store: where agents come from that are not in memory; None keeps those that moved out in memory (replay).
        partition: whose agents these are: time alone changes only those.
        identities: of the deployment, as in the store; None = those of an encoder that has none either.
    """

    def __init__(
        self,
        model: TrainedModel,
        settings: EngineSettings,
        store: AgentLoader | None = None,
        partition: int = 0,
        identities: IdentityHasher | None = None,
    ) -> None:
        self.identities = identities or IdentityHasher(model.salt)
        self.model = model
        self.settings = settings
        self.risk_parameters = risk.kernel_parameters(settings.risk)
        self.thresholds = level_thresholds.model_thresholds(model, settings.risk.alert_budget)
        self.agents = ResidentAgents(settings.capacity)
        self.risk, self.dirty = self.agents.risk, self.agents.dirty
        self.agent_states = AgentStateCache(
            self.agents, model, self.thresholds, self.risk_parameters, store, partition, self.identities
        )
        self.builder = self.agent_states.builder
        self.signal_rules = HardSignalRules(settings.risk.disabled_signals)
        self.explainer = Explainer(self)
        self.feedback_rules = FeedbackRules(model.salt, model.detector.usual_values(), self.identities)
        """Rules of feedback; changed by records, between batches."""

    def find_impostors(self, columns: EventColumns) -> npt.NDArray[np.bool_]:
        """Rows of agents whose key belongs to another agent, bool (n,): they must not be scored.

        The agent that is known under the key, here, in the store or by its first event, keeps it. At most `capacity`
        different agents may occur in *columns*.
        """
        slots = self._admit(columns)
        return self.agents.find_impostors(slots, columns.names[:, event_columns.AGENT_CHECK])

    def score(self, columns: EventColumns, received_ms: npt.NDArray[np.int64] | None = None) -> ScoredBatch:
        """Score a batch and move all state; at most `capacity` different agents may occur in it.

        *received_ms*, when each event arrived, ends rules of feedback, and what has counted, on time; None = when it
        happened.
        """
        n = len(columns)
        slots = self._admit(columns)
        types = self._register_agents(columns, slots)
        groups = columns.names[:, event_columns.GROUP]
        out = ScoredBatch(
            columns,
            slots,
            np.zeros((n, FEATURE_COUNT)),
            allocate_observations(n, columns.arguments),
            np.zeros(n),
            np.ones(n),
            np.ones((n, len(CONCERNS))),
            ConcernScores(np.zeros((n, len(CONCERNS))), np.ones((n, len(CONCERNS)))),
            np.zeros((n, len(CONCERNS))),
            np.zeros((n, 2), np.int8),
            np.zeros((n, risk.OUTPUTS)),
            np.zeros((n, len(CONCERNS), risk.CONCERN_OUTPUTS)),
            np.zeros(n),
            self.model.group_rows(groups),
            np.empty((n, layout.NUMBERS), np.float32),
            np.empty((n, layout.KINDS), np.uint8),
            np.ones(n),
            np.zeros(n),
            {},
            np.zeros(n, np.bool_),
            np.full(n, USUAL, np.int8),
            columns.time_ms if received_ms is None else np.maximum(columns.time_ms, received_ms),
            types,
        )
        group_coverage = self.model.coverage(groups)
        rule_matches = self.feedback_rules.coverage(columns, received_ms)
        for rows in agent_rounds(slots):
            self._score_round(out, rows, groups, group_coverage, rule_matches)
        self.dirty[slots] = True
        self.builder.pinned[slots] = self.risk["due_ms"][slots] != 0
        return out

    def _admit(self, columns: EventColumns) -> SlotIndices:
        """Slot of each row's agent, after those that are not resident have moved in."""
        with self.agent_states.arriving(columns):
            return self.builder.admit(columns.names[:, event_columns.AGENT])

    def _score_round(
        self,
        out: ScoredBatch,
        rows: npt.NDArray[np.int64],
        groups: Any,
        group_coverage: Any,
        rule_matches: RuleCoverage | None,
    ) -> None:
        """One event of each agent: observe, score, judge, and only then learn."""
        columns, slots, found = out.columns, out.slots, out.observations
        self.builder.observe(columns, slots, rows, out.vectors, found)
        out.agent_numbers[rows] = self.builder.state.numbers[slots[rows]]
        out.known_items[rows] = self.builder.state.known[slots[rows]]
        self.signal_rules.write_evidence(
            columns, rows, out.vectors, found, out.signals
        )  # before feedback, which silences none
        if rule_matches is not None:
            self.feedback_rules.neutralise(rule_matches, rows, slots, columns, out.vectors, found, self.builder.state)
        feature_evidence = self._measure(out, rows, groups)
        asserted, boldest = columns.codes[:, event_columns.SELF_ASSERTED], self._boldest(out)
        asked = self.model.detector.asked_by_compromise
        out.caller_changed[rows] = evidence_dedup.find_changed_callers(rows, boldest, asserted, feature_evidence, asked)
        newcomer = self.risk["events"][slots[rows]] < NEWCOMER_EVENTS
        out.habits[rows[newcomer]] = USUAL
        never_usual = evidence_dedup.find_never_usual(feature_evidence, asked, newcomer)
        out.habits[rows[never_usual]] = NEVER_USUAL
        risk.update(
            rows,
            slots,
            self.risk,
            columns.time_ms,
            out.concern_p_values,
            out.p_values,
            out.anomaly,
            group_coverage,
            out.signals,
            self.thresholds,
            out.threshold_rows,
            columns.codes[:, event_columns.SELF_ASSERTED],
            found.flags == IGNORED_EVENT,
            out.habits,
            self.risk_parameters,
            out.levels,
            out.risk,
            out.concern_risk,
        )
        evidence_dedup.record_counted(
            rows, slots, self.risk, found, out.vectors, out.at_ms, boldest, asserted, feature_evidence, asked
        )
        if self.settings.learn:
            self.builder.learn(columns, slots, rows, found, self._learnable_parts(out, rows))

    def _measure(self, out: ScoredBatch, rows: npt.NDArray[np.int64], groups: Any) -> npt.NDArray[np.float64]:
        """Anomaly scores and p-values of a round; returns the evidence of each feature, (m, F).

        What has counted is left aside for evidence alone: an odd event is learned as rarely as ever.
        """
        detector, familiar = self.model.detector, out.agent_numbers[rows, layout.N_SHARED] >= FAMILIAR_EVENTS
        failed = out.columns.codes[:, event_columns.OUTCOME] != event_columns.SUCCESS
        scores, concerns = detector.assess(out.vectors[rows], groups[rows], failed[rows], familiar)
        out.anomaly[rows] = out.effective_anomaly[rows] = scores.anomaly_score
        out.p_values[rows] = out.raw_p_values[rows] = scores.p_value
        out.concerns.anomaly_score[rows] = out.effective_concerns[rows] = concerns.anomaly_score
        out.concerns.p_value[rows] = out.concern_p_values[rows] = concerns.p_value
        places, masks = evidence_dedup.find_counted(
            rows,
            out.slots,
            self.risk,
            out.observations,
            out.vectors,
            out.at_ms,
            self._boldest(out),
            out.columns.codes[:, event_columns.SELF_ASSERTED],
        )
        if len(places):
            again = rows[places]
            out.habits[again] = np.where(evidence_dedup.left_aside_callers(masks), NO_HABIT, USUAL)
            vectors = evidence_dedup.suppress_counted(
                out.vectors[again], masks, out.observations.new_kinds[again], out.columns.codes[again]
            )
            rest, others = detector.assess(vectors, groups[again], failed[again], familiar[places])
            # Less that is odd is never odder, whatever the forest makes of the rare combination that is left.
            out.effective_anomaly[again] = np.minimum(rest.anomaly_score, out.anomaly[again])
            out.p_values[again] = np.maximum(rest.p_value, out.raw_p_values[again])
            out.effective_concerns[again] = np.minimum(others.anomaly_score, concerns.anomaly_score[places])
            out.concern_p_values[again] = np.maximum(others.p_value, concerns.p_value[places])
            out.effective_rows.update(zip(again.tolist(), vectors, strict=True))
            scores.feature_evidence[places] = rest.feature_evidence
        return scores.feature_evidence

    def _boldest(self, out: ScoredBatch) -> npt.NDArray[np.float64]:
        """Least p-value (n,) of each row, over the concerns that move levels and all evidence."""
        least: npt.NDArray[np.float64] = out.concern_p_values[:, self.model.counted_concerns].min(axis=1)
        return np.minimum(out.p_values, least)

    def _learnable_parts(self, out: ScoredBatch, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Parts of each event to learn: nothing self-asserted; of a suspicious window an announced key alone."""
        suspicion = out.concern_risk[rows, :, risk.SUSPICION]
        suspicious = suspicion >= SUSPICION_SHARE * self.thresholds[out.threshold_rows[rows], :, 0]
        calm = (out.levels[rows, 1] < risk.MEDIUM) & ~suspicious.any(axis=1)
        vouched = out.columns.codes[rows, event_columns.SELF_ASSERTED] == 0
        habit = learnable_parts(out.columns, rows, out.raw_p_values, out.agent_numbers[rows, layout.N_EVENTS])
        least = announced_credentials(out.columns, rows)
        return np.where(vouched, np.where(calm, habit, least), np.uint8(LEARN_NOTHING))

    def _register_agents(self, columns: EventColumns, slots: SlotIndices) -> dict[int, list[tuple[int, str]]]:
        """Names and peer groups of agents that are new in their slots, or have changed their group.

        Returns the types of those slots: that before the batch (row -1), and each later one with its row.
        """
        groups, types = columns.names[:, event_columns.GROUP], self.agents.types
        taken: dict[int, list[tuple[int, str]]] = {}
        differing = self.agents.groups[slots] != groups
        if not differing.any():
            return taken
        # All events of these agents, in order: one may change its group and change it back.
        for row in np.flatnonzero(np.isin(slots, slots[differing])).tolist():
            slot = int(slots[row])
            if self.agents.groups[slot] == groups[row]:
                continue
            before = types[slot]
            if self.agents.register(slot, int(columns.names[row, event_columns.AGENT]), columns.events[row]):
                taken.setdefault(slot, [(-1, before)]).append((row, types[slot]))
                self.agents.groups[slot] = groups[row]
                self.agents.threshold_rows[slot] = self.model.group_row(groups[row])
            elif not columns.events[row].agent.type:
                groups[row] = self.agents.groups[slot]  # it is judged among the peers that the agent is known to have
        return taken

    def use_model(self, model: TrainedModel) -> None:
        """Go on with another model of the same salt. Agents move out, and come back to be measured against it."""
        self.builder.evict_all()
        self.model = model
        self.feedback_rules.use_usual_values(model.detector.usual_values())
        self.thresholds = level_thresholds.model_thresholds(model, self.settings.risk.alert_budget)
        self.agent_states.use_model(model, self.thresholds)
        self.explainer = Explainer(self)

    def due_slots(self, now_ms: int) -> SlotIndices:
        """Resident agents whose level changes by *now_ms* without any event."""
        due_ms = self.risk["due_ms"]
        return np.flatnonzero((due_ms != 0) & (due_ms <= now_ms)).astype(np.int32)

    def advance_time(self, slots: SlotIndices, now_ms: int) -> npt.NDArray[np.int8]:
        """Let time pass for the given agents; returns their levels before and after, shape (m, 2)."""
        levels = np.zeros((len(slots), 2), np.int8)
        risk.advance(
            slots, self.risk, self.thresholds, self.agents.threshold_rows, now_ms, self.risk_parameters, levels
        )
        self.dirty[slots] = True
        self.builder.pinned[slots] = self.risk["due_ms"][slots] != 0
        return levels


class Explainer:
    """Words for what an engine has scored.

    Args:
        engine: whose state the rows were measured against.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reason_writer = ReasonWriter(engine.model.baseline)

    def reasons(self, scored: ScoredBatch, rows: list[int], *, alone: bool = False) -> list[tuple[RiskReason, ...]]:
        """Reasons of the given rows, the strongest first; see `explanations.ReasonWriter`.

        What has counted before is no reason for a level now. *alone* asks what is odd about the events by themselves.
        """
        if not rows:
            return []
        engine = self._engine
        vectors = scored.vectors[rows] if alone else scored.effective_vectors(rows)
        shares = engine.model.detector.explain(vectors)
        return [
            self._reason_writer.reasons(
                scored.columns,
                row,
                scored.agent_numbers[row],
                scored.known_items[row],
                scored.observations,
                vector.tolist(),
                share.tolist(),
                engine.signal_rules.fired_signals(scored.columns, row, scored.vectors, scored.observations),
                compromise=self.is_compromise(scored, row, alone=alone),
            )
            for row, vector, share in zip(rows, vectors, shares, strict=True)
        ]

    @staticmethod
    def is_compromise(scored: ScoredBatch, row: int, *, alone: bool = False) -> bool:
        """Tell whether a row is about as odd as compromise as in any other way."""
        p_values = (scored.concerns.p_value if alone else scored.concern_p_values)[row]
        return bool(p_values[risk.COMPROMISE] <= risk.SAME_ODDNESS * p_values.min())

    def counterfactual(self, scored: ScoredBatch, row: int, reasons: tuple[RiskReason, ...]) -> str:
        """Change that would have kept the level lower, of a thing that another event could have had; "" = none would.

        The row is scored without its strongest such feature, else without the next one.
        """
        for index in replaceable_features(reasons, scored.vectors[row], scored.observations.surprise_bits[row]):
            level = self._level_with(scored, row, self._p_values_with_usual(scored, row, index))
            if level < scored.levels[row, 1]:
                return f"{RiskLevel(level).label} had the {thing_words(index)} been usual"
        return ""

    def _p_values_with_usual(self, scored: ScoredBatch, row: int, index: int) -> npt.NDArray[np.float64]:
        """p-values (3,) of the row, had the thing that a feature is about been usual; the calmer view counts."""
        twice = [row, row]
        vectors = np.concatenate([scored.vectors[[row]], scored.effective_vectors([row])])
        codes, groups = scored.columns.codes[twice], scored.columns.names[twice, event_columns.GROUP]
        usual = with_usual(vectors, index, int(scored.observations.new_kinds[row]), codes)
        failed = codes[:, event_columns.OUTCOME] != event_columns.SUCCESS
        _, concerns = self._engine.model.detector.assess(usual, groups, failed, scored.is_familiar(twice))
        return np.asarray(concerns.p_value.max(axis=0))

    def _level_with(self, scored: ScoredBatch, row: int, p_values: npt.NDArray[np.float64]) -> int:
        """Highest level after the row, had it had other p-values (3,), of which none is usual for the agent."""
        parameters, limits = self._engine.risk_parameters, self._engine.thresholds[scored.threshold_rows[row]]
        confidence = float(scored.risk[row, risk.CONFIDENCE])
        before = scored.concern_risk[row]
        gains = np.array(
            [
                risk.evidence_of(p_value, confidence, float(streak), float(peak))
                for p_value, (streak, peak) in zip(
                    p_values.tolist(), before[:, [risk.STREAK_BEFORE, risk.PEAK_BEFORE]], strict=True
                )
            ]
        )
        gains[risk.signalled_concern(limits)] += scored.signals[row]
        without = np.where(gains > 0.0, np.maximum(before[:, risk.STATISTIC_BEFORE], 0.0) + gains, 0.0)
        reached = int(risk.level_for_score(risk.risk_of(without, limits)[0]))
        rested = int(scored.risk[row, risk.LEVEL_BEFORE])
        if reached >= RiskLevel.MEDIUM:
            return max(reached, rested)
        if rested >= RiskLevel.MEDIUM:
            return rested
        return int(RiskLevel.UNKNOWN if confidence < parameters.confidence_minimum else RiskLevel.LOW)

    def decision_evidence(self, slot: int, scored: ScoredBatch | None = None, row: int = 0) -> dict[str, Any]:
        """Inputs of the risk kernel: kept with a decision, so that it can be replayed."""
        engine = self._engine
        state = engine.risk[slot]
        if scored is None:
            limits = engine.thresholds[engine.agents.threshold_rows[slot]]
            gravest = int(risk.risk_of(state["statistic"], limits)[1])
            kept: dict[str, Any] = {"statistic": float(state["statistic"][gravest]), "events": int(state["events"])}
        else:
            limits = engine.thresholds[scored.threshold_rows[row]]
            after = scored.risk[row]
            gravest = int(risk.risk_of(scored.concern_risk[row, :, risk.CONCERN_STATISTIC], limits)[1])
            kept = {
                "statistic": float(after[risk.STATISTIC]),
                "events": int(after[risk.EVENTS]),
                "gain": float(after[risk.GAIN]),
                "prior": float(scored.concern_risk[row, gravest, risk.STATISTIC_BEFORE]),
            }
            fired = engine.signal_rules.fired_signals(scored.columns, row, scored.vectors, scored.observations)
            kept["signals"] = [signal.code for signal in fired]
            if row in scored.effective_rows:
                less = scored.effective_rows[row] < scored.vectors[row]
                kept["left_aside"] = [FEATURE_NAMES[index] for index in np.flatnonzero(less).tolist()]
            kept["concerns"] = dict(zip(CONCERNS, scored.concern_p_values[row].tolist(), strict=True))
            kept |= self._usual_p_values(scored, row)
            statistics = scored.concern_risk[row, :, risk.CONCERN_STATISTIC]
            kept["statistics"] = dict(zip(CONCERNS, statistics.tolist(), strict=True))
        reached_at = zip(ALERTING_LEVELS, limits[gravest].tolist(), strict=True)
        kept["thresholds"] = {level.label: limit for level, limit in reached_at if math.isfinite(limit)}
        if kept["statistic"] > 0.0:
            kept["concern"] = CONCERNS[int(state["concern"] if scored is None else scored.risk[row, risk.CONCERN])]
        return kept

    @staticmethod
    def _usual_p_values(scored: ScoredBatch, row: int) -> dict[str, dict[str, float]]:
        """p-values that were bet on, of the concerns in which the agent is often as odd."""
        if scored.habits[row] == NEVER_USUAL:
            return {}
        p_values = scored.concern_p_values[row].tolist()
        factors = scored.concern_risk[row, :, risk.USUAL_ODDNESS :]
        bet_on = {name: unusual_p_value(p, f) for name, p, f in zip(CONCERNS, p_values, factors, strict=True)}
        larger = {name: p for (name, p), by_itself in zip(bet_on.items(), p_values, strict=True) if p > by_itself}
        return {"usual_oddness": larger} if larger else {}

    def named_features(self, scored: ScoredBatch, row: int) -> dict[str, float]:
        """The feature vector by name, without the zeros."""
        values = scored.vectors[row]
        return {FEATURE_NAMES[index]: float(values[index]) for index in np.flatnonzero(values).tolist()}
