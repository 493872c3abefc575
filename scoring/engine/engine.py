"""The engine: one batch of decoded events through features, detector and risk, in the order of docs/architecture.md.

The live service, `replay` and every test use this class; it knows neither sources nor stores. An event is scored before
it is learned, and learned only while its agent is under no suspicion. How events are cut into batches changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ...ingest import columns as event_columns
from ...ingest.columns import EventColumns
from ...ingest.features import layout
from ...ingest.features.feature_builder import SlotIndices, agent_rounds
from ...ingest.features.feature_table import FEATURE_COUNT
from ...ingest.features.row_observations import IGNORED_EVENT, allocate_observations
from ...ingest.identities import IdentityHasher
from ...models.baseline_learning import LEARN_NOTHING, announced_credentials, learnable_parts
from ...models.concerns import CONCERNS, ConcernScores
from ...models.detector import FAMILIAR_EVENTS
from ...models.trained_model import TrainedModel
from . import announced_paths, evidence_dedup, level_thresholds, risk, risk_levels
from .agent_state_cache import AgentLoader, AgentStateCache
from .explainer import Explainer
from .feedback_rules import FeedbackRules, RuleCoverage
from .hard_signals import HardSignalRules
from .resident_agents import ResidentAgents
from .scored_batch import ScoredBatch
from .settings import AlertBudget, RiskEvaluationSettings
from .usual_oddness import NEVER_USUAL, NEWCOMER_EVENTS, NO_HABIT, USUAL

SUSPICION_SHARE = 0.6
"""Part of the medium threshold from which a run of odd events is no longer learned; single odd events are."""


NEVER_KNOWN = 2.0
"""Least confidence that no agent reaches: it is at most 1."""


class EngineSettings(NamedTuple):
    """Settings of the engine; everything else comes with the model."""

    risk: RiskEvaluationSettings = RiskEvaluationSettings()
    capacity: int = 200_000
    learn: bool = True

    def with_budget(self, budget: AlertBudget) -> EngineSettings:
        """The same at another alert budget."""
        return self._replace(risk=msgspec.structs.replace(self.risk, alert_budget=budget))


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
        self.risk_parameters = self._risk_parameters()
        self.thresholds = level_thresholds.model_thresholds(model, settings.risk.alert_budget)
        self.agents = ResidentAgents(settings.capacity)
        self.risk, self.dirty = self.agents.risk, self.agents.dirty
        self.agent_states = AgentStateCache(
            self.agents, model, self.thresholds, self.risk_parameters, store, partition, self.identities
        )
        self.builder = self.agent_states.builder
        self.signal_rules = HardSignalRules(settings.risk.disabled_signals)
        self.explainer = self._new_explainer()
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
            np.zeros(n),
            np.zeros(n),
            np.zeros(n, np.bool_),
            np.full(n, USUAL, np.int8),
            columns.time_ms if received_ms is None else np.maximum(columns.time_ms, received_ms),
            np.zeros(n, np.uint8),
            types,
        )
        group_coverage = self.model.coverage(groups)
        rule_matches = self.feedback_rules.coverage(columns, received_ms)
        for rows in agent_rounds(slots):
            self._score_round(out, rows, groups, group_coverage, rule_matches)
        self.agents.mark_changed(slots)
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
        self._observe(out, rows)
        self._judge(out, rows, groups, group_coverage, rule_matches)
        self._keep_announced(out, rows)
        if self.settings.learn:
            self.builder.learn(out.columns, out.slots, rows, out.observations, self._learnable_parts(out, rows))

    def _observe(self, out: ScoredBatch, rows: npt.NDArray[np.int64]) -> None:
        """Write the feature vectors of a round."""
        self.builder.observe(out.columns, out.slots, rows, out.vectors, out.observations)

    def _judge(
        self,
        out: ScoredBatch,
        rows: npt.NDArray[np.int64],
        groups: Any,
        group_coverage: Any,
        rule_matches: RuleCoverage | None,
    ) -> None:
        """Score what was observed, and move the risk of its agents."""
        columns, slots, observations = out.columns, out.slots, out.observations
        out.agent_numbers[rows] = self.builder.state.numbers[slots[rows]]
        out.known_items[rows] = self.builder.state.known[slots[rows]]
        # Before feedback, which silences no signal.
        self.signal_rules.write_evidence(columns, rows, out.vectors, observations, out.signals)
        if rule_matches is not None:
            self.feedback_rules.neutralise(
                rule_matches, rows, slots, columns, out.vectors, observations, self.builder.state
            )
        feature_evidence = self._measure(out, rows, groups)
        least_p_values = self._least_p_values(out)
        self._mark_habits(out, rows, feature_evidence, least_p_values)
        self._move_risk(out, rows, group_coverage)
        evidence_dedup.record_counted(
            rows,
            slots,
            self.risk,
            observations,
            out.vectors,
            out.at_ms,
            least_p_values,
            columns.codes[:, event_columns.SELF_ASSERTED],
            feature_evidence,
            self.model.detector.asked_by_compromise,
            out.effective_target_evidence[rows],
        )

    def _mark_habits(
        self,
        out: ScoredBatch,
        rows: npt.NDArray[np.int64],
        feature_evidence: npt.NDArray[np.float64],
        least_p_values: npt.NDArray[np.float64],
    ) -> None:
        """Mark events that never become usual, and those by which the caller of an agent changed."""
        asserted = out.columns.codes[:, event_columns.SELF_ASSERTED]
        least = evidence_dedup.carrying_evidence(feature_evidence, self.model.detector.asked_by_compromise)
        out.caller_changed[rows] = evidence_dedup.find_changed_callers(
            rows, least_p_values, asserted, feature_evidence, least
        )
        newcomer = self.risk["events"][out.slots[rows]] < NEWCOMER_EVENTS
        out.habits[rows[newcomer]] = USUAL
        never_usual = evidence_dedup.find_never_usual(feature_evidence, least, newcomer)
        out.habits[rows[never_usual]] = NEVER_USUAL

    def _move_risk(self, out: ScoredBatch, rows: npt.NDArray[np.int64], group_coverage: Any) -> None:
        """Move risk and levels of a round's agents by what was measured."""
        columns = out.columns
        risk.update(
            rows,
            out.slots,
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
            out.observations.flags == IGNORED_EVENT,
            out.habits,
            self.risk_parameters,
            out.levels,
            out.risk,
            out.concern_risk,
        )

    def _measure(self, out: ScoredBatch, rows: npt.NDArray[np.int64], groups: Any) -> npt.NDArray[np.float64]:
        """Anomaly scores and p-values of a round; returns the evidence of each feature, (m, F).

        What has counted is suppressed for evidence alone: an odd event is learned as rarely as ever.
        """
        detector, familiar = self.model.detector, out.agent_numbers[rows, layout.N_SHARED] >= FAMILIAR_EVENTS
        failed = out.columns.codes[:, event_columns.OUTCOME] != event_columns.SUCCESS
        raising = self.model.target_evidence(out.observations.told_targets[rows])
        out.target_evidence[rows] = out.effective_target_evidence[rows] = raising
        scores, concerns = detector.assess(out.vectors[rows], groups[rows], failed[rows], familiar, raising)
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
            self._least_p_values(out),
            out.columns.codes[:, event_columns.SELF_ASSERTED],
        )
        if len(places):
            again = rows[places]
            out.habits[again] = np.where(evidence_dedup.leave_never_usual_aside(masks), NO_HABIT, USUAL)
            vectors = evidence_dedup.suppress_counted(
                out.vectors[again], masks, out.observations.new_kinds[again], out.columns.codes[again]
            )
            raising = np.where(evidence_dedup.target_has_counted(masks), 0.0, raising[places])
            out.effective_target_evidence[again] = raising
            suppressed, suppressed_concerns = detector.assess(
                vectors, groups[again], failed[again], familiar[places], raising
            )
            # Less that is odd is never odder, whatever the forest makes of the rare combination that is left.
            out.effective_anomaly[again] = np.minimum(suppressed.anomaly_score, out.anomaly[again])
            out.p_values[again] = np.maximum(suppressed.p_value, out.raw_p_values[again])
            out.effective_concerns[again] = np.minimum(
                suppressed_concerns.anomaly_score, concerns.anomaly_score[places]
            )
            out.concern_p_values[again] = np.maximum(suppressed_concerns.p_value, concerns.p_value[places])
            out.effective_rows.update(zip(again.tolist(), vectors, strict=True))
            scores.feature_evidence[places] = suppressed.feature_evidence
        return scores.feature_evidence

    def _least_p_values(self, out: ScoredBatch) -> npt.NDArray[np.float64]:
        """Least p-value (n,) of each row, over the concerns that move levels and all evidence."""
        least: npt.NDArray[np.float64] = out.concern_p_values[:, self.model.counted_concerns].min(axis=1)
        return np.minimum(out.p_values, least)

    def _keep_announced(self, out: ScoredBatch, rows: npt.NDArray[np.int64]) -> None:
        """Note which parts of access paths had been announced before a round, and keep what its events announce."""
        columns, paths = out.columns, self.agents.paths
        known = rows[paths["version"][out.slots[rows]] != 0]
        known = known[out.risk[known, risk.LEVEL_BEFORE] < risk_levels.MEDIUM]
        if len(known):
            parts = announced_paths.part_names(columns.names[known])
            found = announced_paths.find_announced(paths[out.slots[known]], parts, columns.time_ms[known])
            out.announced_paths[known] = announced_paths.as_bits(found)
        telling = announced_paths.find_telling(paths, out.slots, columns, rows) if self.settings.learn else rows[:0]
        if len(telling):
            codes = columns.codes[telling]
            levels = np.maximum(out.risk[telling, risk.LEVEL_BEFORE], out.levels[telling, 1])
            counts = (levels < risk_levels.MEDIUM) & (out.observations.flags[telling] != IGNORED_EVENT)
            counts &= codes[:, event_columns.SELF_ASSERTED] == 0
            counts &= codes[:, event_columns.OUTCOME] == event_columns.SUCCESS
            now_ms = self.risk["at_ms"]
            announced_paths.keep_told(paths, out.slots, columns, telling[counts], out.agent_numbers, now_ms)

    def _learnable_parts(self, out: ScoredBatch, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Parts of each event to learn: nothing self-asserted; of a suspicious window an announced key alone."""
        suspicion = out.concern_risk[rows, :, risk.SUSPICION]
        suspicious = suspicion >= SUSPICION_SHARE * self.thresholds[out.threshold_rows[rows], :, 0]
        calm = (out.levels[rows, 1] < risk_levels.MEDIUM) & ~suspicious.any(axis=1)
        vouched = out.columns.codes[rows, event_columns.SELF_ASSERTED] == 0
        habit = learnable_parts(out.columns, rows, out.raw_p_values, out.agent_numbers[rows, layout.N_EVENTS])
        least = announced_credentials(out.columns, rows)
        return np.where(vouched, np.where(calm, habit, least), np.uint8(LEARN_NOTHING))

    def _register_agents(self, columns: EventColumns, slots: SlotIndices) -> dict[int, list[tuple[int, str]]]:
        """Names and peer groups of agents that are new in their slots, or have changed their group.

        Returns the types of those slots: that before the batch (row -1), and each later one with its row.
        """
        groups, types = columns.names[:, event_columns.GROUP], self.agents.types
        types_by_slot: dict[int, list[tuple[int, str]]] = {}
        differing = self.agents.groups[slots] != groups
        if not differing.any():
            return types_by_slot
        # All events of these agents, in order: one may change its group and change it back.
        for row in np.flatnonzero(np.isin(slots, slots[differing])).tolist():
            slot = int(slots[row])
            if self.agents.groups[slot] == groups[row]:
                continue
            before = types[slot]
            if self.agents.register(slot, int(columns.names[row, event_columns.AGENT]), columns.events[row]):
                types_by_slot.setdefault(slot, [(-1, before)]).append((row, types[slot]))
                self.agents.groups[slot] = groups[row]
                self.agents.threshold_rows[slot] = self.model.group_row(groups[row])
            elif not columns.events[row].agent.type:
                groups[row] = self.agents.groups[slot]  # it is judged among the peers that the agent is known to have
        return types_by_slot

    def use_model(self, model: TrainedModel) -> None:
        """Go on with another model of the same salt. Agents move out, and come back to be measured against it."""
        self.builder.evict_all()
        self.model = model
        self.feedback_rules.use_usual_values(model.detector.usual_values())
        self.thresholds = level_thresholds.model_thresholds(model, self.settings.risk.alert_budget)
        self.risk_parameters = self._risk_parameters()
        self.agent_states.use_model(model, self.thresholds, self.risk_parameters)
        self.explainer = self._new_explainer()

    def _risk_parameters(self) -> risk_levels.RiskParameters:
        """Parameters of the risk kernel; by a model that has learned nothing nobody is known."""
        parameters = risk_levels.kernel_parameters(self.settings.risk)
        return parameters._replace(confidence_minimum=NEVER_KNOWN) if self.model.learns else parameters

    def _new_explainer(self) -> Explainer:
        return Explainer(self.model, self.thresholds, self.risk_parameters, self.agents, self.signal_rules)

    def due_slots(self, now_ms: int) -> SlotIndices:
        """Resident agents whose level changes by *now_ms* without any event."""
        due_ms = self.risk["due_ms"]
        return np.flatnonzero((due_ms != 0) & (due_ms <= now_ms)).astype(np.int32)

    def advance_time(self, slots: SlotIndices, now_ms: int) -> npt.NDArray[np.int8]:
        """Let time pass for the given agents; returns their levels before and after, shape (m, 2)."""
        levels = np.zeros((len(slots), 2), np.int8)
        risk_levels.advance(
            slots, self.risk, self.thresholds, self.agents.threshold_rows, now_ms, self.risk_parameters, levels
        )
        self.agents.mark_changed(slots)
        self.builder.pinned[slots] = self.risk["due_ms"][slots] != 0
        return levels
