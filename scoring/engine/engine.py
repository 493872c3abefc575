"""The engine: one batch of decoded events through features, detector and risk, in the order of docs/architecture.md.

The live service, `replay` and every test use this class; it knows neither sources nor stores. An event is scored before
it is learned, and learned only while its agent is under no suspicion. How events are cut into batches changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.capabilities import encode_capabilities
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_builder import SlotIndices, agent_rounds
from trustwatch.ingest.features.feature_table import FEATURE_COUNT
from trustwatch.ingest.features.row_observations import IGNORED_EVENT, allocate_observations
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.models.concerns import CONCERNS, ConcernScores
from trustwatch.models.trained_model import TrainedModel

from . import announced_paths, evidence_dedup, hard_signals, risk, risk_levels, round_kernels
from .agent_state_cache import AgentLoader, AgentStateCache
from .explainer import Explainer
from .feedback_rules import FeedbackRules
from .hard_signals import HardSignalRules
from .resident_agents import ResidentAgents
from .round_kernels import Measured, RoundInput
from .scored_batch import ScoredBatch
from .settings import AlertBudget, RiskEvaluationSettings
from .usual_anomalies import USUAL

MOST_ACCEPTED_SHARE = 0.5
"""Most share of agent-days with an alert that a new network is compared with: a larger budget makes it no odder."""
NEVER_KNOWN = 2.0
"""Least confidence that no agent reaches: it is at most 1."""


class EngineSettings(NamedTuple):
    """Settings of the engine; everything else comes with the model."""

    risk: RiskEvaluationSettings = RiskEvaluationSettings()
    capacity: int = 200_000
    learn: bool = True

    def with_budget(self, budget: AlertBudget) -> EngineSettings:
        """Return these settings with another alert budget."""
        return self._replace(risk=msgspec.structs.replace(self.risk, alert_budget=budget.by_level()))


class Engine:
    """Scores batches and holds the state of all resident agents."""

    def __init__(
        self,
        model: TrainedModel,
        settings: EngineSettings,
        store: AgentLoader | None = None,
        partition: int = 0,
        identities: IdentityHasher | None = None,
    ) -> None:
        self.identities = identities or IdentityHasher(model.salt)
        self.settings = settings
        self.agents = ResidentAgents(settings.capacity)
        self.risk = self.agents.risk
        self.signal_rules = HardSignalRules(settings.risk.disabled_signals)
        self._set_model(model)
        self.agent_states = AgentStateCache(
            self.agents, model, self.thresholds, self.risk_parameters, store, partition, self.identities
        )
        self.builder = self.agent_states.builder
        self.feedback_rules = FeedbackRules(model.salt, model.detector.usual_values(), self.identities)
        """Rules of feedback; changed by records, between batches."""

    def admit(self, columns: EventColumns) -> SlotIndices:
        """Load the agents of a batch that are not in memory; return the slot of each row's agent (n,). At most
        `capacity` different agents may occur."""
        with self.agent_states.arriving(columns):
            return self.builder.admit(columns.names[:, event_columns.AGENT])

    def find_impostors(self, columns: EventColumns, slots: SlotIndices) -> npt.NDArray[np.bool_]:
        """Return rows whose agent has the key of another agent, bool (n,). They must not be scored.

        The agent that is known under the key, here, in the store or by its first event, keeps it. *slots* are from
        `admit`.
        """
        return self.agents.find_impostors(slots, columns.names[:, event_columns.AGENT_CHECK])

    def score(
        self,
        columns: EventColumns,
        received_ms: npt.NDArray[np.int64] | None = None,
        slots: SlotIndices | None = None,
    ) -> ScoredBatch:
        """Score a batch and update all state. At most `capacity` different agents may occur in it.

        *received_ms*, when each event arrived, ends rules of feedback, and what has counted, on time; None = when it
        happened. *slots* are from `admit`, just before; None = they are looked up.
        """
        n = len(columns)
        slots = self.admit(columns) if slots is None else slots
        types = self._register_agents(columns, slots)
        self._keep_capabilities(columns, slots)
        group_rows, group_coverage = self.model.peer_groups(columns.names[:, event_columns.GROUP])
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
            np.zeros((n, hard_signals.COUNTS)),
            group_rows,
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
        rule_matches = self.feedback_rules.coverage(columns, received_ms)
        measured, state = measured_columns(out), self.builder.state
        for rows in agent_rounds(slots):  # one event of each agent: it is observed and scored, and only then learned
            self.builder.observe(columns, slots, rows, out.vectors, out.observations)
            round_kernels.remember_agents(rows, slots, state.numbers, state.known, out.agent_numbers, out.known_items)
            # Before feedback, which silences no signal.
            self.signal_rules.write_evidence(columns, rows, out.vectors, out.observations, out.signals)
            if rule_matches is not None:
                self.feedback_rules.neutralise(rule_matches, rows, slots, columns, out.vectors, out.observations, state)
            self._move_risk(out, rows, group_coverage, measured, self._measure(out, measured, rows))
            self._keep_announced(out, rows)
            if self.settings.learn:
                self.builder.learn(columns, slots, rows, out.observations, self._learnable_parts(out, rows))
        self.agents.mark_changed(slots)
        self.builder.pinned[slots] = self.risk["due_ms"][slots] != 0
        return out

    def _move_risk(
        self,
        out: ScoredBatch,
        rows: npt.NDArray[np.int64],
        group_coverage: Any,
        measured: Measured,
        evidence: npt.NDArray[np.float64],
    ) -> None:
        """Update risk and levels of a round's agents from the scores and the *evidence* (m, F) of each feature."""
        columns = out.columns
        round_kernels.mark_habits(
            rows,
            out.slots,
            self.risk,
            measured.least_p_values,
            columns.codes,
            evidence,
            self._asked_features,
            out.habits,
            out.caller_changed,
        )
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
        evidence_dedup.record_counted(
            rows,
            out.slots,
            self.risk,
            out.observations,
            out.vectors,
            out.at_ms,
            measured.least_p_values,
            columns.codes[:, event_columns.SELF_ASSERTED],
            evidence,
            self._asked_by_compromise,
            out.effective_target_evidence[rows],
        )

    def _measure(self, out: ScoredBatch, measured: Measured, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Compute anomaly scores and p-values of a round; return the evidence of each feature, (m, F).

        What has counted is suppressed for evidence alone: an anomalous event is learned as rarely as ever.
        """
        columns, observations = out.columns, out.observations
        given = RoundInput.allocate(len(rows), FEATURE_COUNT)
        round_kernels.gather_input(
            rows,
            out.vectors,
            columns.names,
            columns.codes,
            out.agent_numbers,
            observations.told_targets,
            self._unnamed_evidence,
            given,
        )
        scores, concerns = self.model.detector.assess(*given)
        of_all = scores.anomaly_score, scores.p_value, concerns.anomaly_score, concerns.p_value
        round_kernels.keep_scores(rows, *of_all, given.raising, self.counted_concerns, measured)
        round_kernels.doubt_new_networks(rows, observations.new_network_p, measured)
        places, masks = evidence_dedup.find_counted(
            rows,
            out.slots,
            self.risk,
            observations,
            out.vectors,
            out.at_ms,
            measured.least_p_values,
            columns.codes[:, event_columns.SELF_ASSERTED],
        )
        if len(places):
            self.measure_suppressed(out, measured, rows, given, places, masks, scores.feature_evidence)
        round_kernels.keep_new_networks(
            rows,
            places,
            masks,
            observations.new_network_p,
            self._accepted_share,
            scores.feature_evidence,
            out.signals,
            measured.least_p_values,
        )
        return scores.feature_evidence

    def measure_suppressed(
        self,
        out: ScoredBatch,
        measured: Measured,
        rows: npt.NDArray[np.int64],
        given: RoundInput,
        places: npt.NDArray[np.int64],
        masks: npt.NDArray[np.uint32],
        evidence: npt.NDArray[np.float64],
    ) -> None:
        """Score the *places* in *rows* in which something has counted before again, without it."""
        codes, own = out.columns.codes, RoundInput.allocate(len(places), FEATURE_COUNT)
        fresh, own_codes = np.empty(len(places), np.uint32), np.empty((len(places), codes.shape[1]), np.int8)
        round_kernels.take_input(
            rows, places, masks, given, out.observations.new_kinds, codes, out.habits, fresh, own_codes, own
        )
        vectors = evidence_dedup.suppress_counted(own.X, masks, fresh, own_codes)
        scores, concerns = self.model.detector.assess(vectors, *own[1:])
        of_all = scores.anomaly_score, scores.p_value, concerns.anomaly_score, concerns.p_value
        round_kernels.keep_suppressed(
            rows,
            places,
            *of_all,
            own.raising,
            scores.feature_evidence,
            evidence,
            self.counted_concerns,
            measured,
        )
        out.effective_rows.update(zip(rows[places].tolist(), vectors, strict=True))

    def _keep_announced(self, out: ScoredBatch, rows: npt.NDArray[np.int64]) -> None:
        """Note which parts of access paths were announced before a round, and keep what its events announce."""
        columns, paths = out.columns, self.agents.paths
        if not announced_paths.may_matter(paths, out.slots, columns.codes, rows):
            return
        known = rows[paths["version"][out.slots[rows]] != 0]
        known = known[out.risk[known, risk.LEVEL_BEFORE] < risk_levels.MEDIUM]
        if len(known):
            parts = announced_paths.part_names(columns.names[known])
            found = announced_paths.find_announced(paths[out.slots[known]], parts, columns.time_ms[known])
            out.announced_paths[known] = announced_paths.as_bits(found)
        telling = announced_paths.find_announcing(paths, out.slots, columns, rows) if self.settings.learn else rows[:0]
        if len(telling):
            codes = columns.codes[telling]
            levels = np.maximum(out.risk[telling, risk.LEVEL_BEFORE], out.levels[telling, 1])
            counts = (levels < risk_levels.MEDIUM) & (out.observations.flags[telling] != IGNORED_EVENT)
            counts &= codes[:, event_columns.SELF_ASSERTED] == 0
            counts &= codes[:, event_columns.OUTCOME] == event_columns.SUCCESS
            now_ms = self.risk["at_ms"]
            announced_paths.keep_announced(paths, out.slots, columns, telling[counts], out.agent_numbers, now_ms)

    def _learnable_parts(self, out: ScoredBatch, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Choose which parts of each event to learn: nothing self-asserted, and only announced keys while an agent is
        suspicious."""
        columns, parts = out.columns, np.empty(len(rows), np.uint8)
        round_kernels.choose_learned(
            rows,
            columns.names,
            columns.codes,
            columns.time_ms,
            out.concern_risk,
            self.thresholds,
            out.threshold_rows,
            out.levels,
            out.raw_p_values,
            out.agent_numbers,
            parts,
        )
        return parts

    def _register_agents(self, columns: EventColumns, slots: SlotIndices) -> dict[int, list[tuple[int, str]]]:
        """Note names and peer groups of agents that are new in their slots or have changed their group.

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

    def _keep_capabilities(self, columns: EventColumns, slots: SlotIndices) -> None:
        """Keep the capabilities that agents declare, for verdicts on calls. Events without any change nothing."""
        declared, known = columns.names[:, event_columns.CAPABILITIES], self.agents.capability_hashes
        differing = (declared != 0) & (known[slots] != declared)
        if not differing.any():
            return
        # All declarations of these agents, in order: one may change its capabilities and change them back.
        for row in np.flatnonzero((declared != 0) & np.isin(slots, slots[differing])).tolist():
            if known[slots[row]] != declared[row]:
                known[slots[row]] = declared[row]
                self.agents.capabilities[slots[row]] = encode_capabilities(columns.events[row].agent.capabilities or ())

    def use_model(self, model: TrainedModel) -> None:
        """Switch to another model with the same salt. All agents leave memory and are loaded again."""
        self.builder.evict_all()
        self._set_model(model)
        self.feedback_rules.use_usual_values(model.detector.usual_values())
        self.agent_states.use_model(model, self.thresholds, self.risk_parameters)

    def _set_model(self, model: TrainedModel) -> None:
        """Set the model, and what each round needs of it."""
        self.model = model
        self.thresholds = risk_levels.model_thresholds(model, self.settings.risk.budget)
        self.risk_parameters = risk_levels.kernel_parameters(self.settings.risk)
        if model.learns:  # it knows no agents
            self.risk_parameters = self.risk_parameters._replace(confidence_minimum=NEVER_KNOWN)
        self.explainer = Explainer(model, self.thresholds, self.risk_parameters, self.agents, self.signal_rules)
        self._asked_by_compromise = model.detector.asked_by_compromise
        self._asked_features = np.flatnonzero(self._asked_by_compromise)
        self.counted_concerns = np.array(model.counted_concerns, np.int64)
        """Numbers of the concerns that move levels."""
        caller = risk_levels.COMPROMISE if len(self._asked_features) else risk_levels.MALFUNCTION
        accepted = model.detector.budget_shares[caller] * self.settings.risk.budget.medium / 1000.0
        self._accepted_share = min(accepted, MOST_ACCEPTED_SHARE)
        self._unnamed_evidence = float(model.target_evidence(np.ones(1, np.bool_))[0])

    def due_slots(self, now_ms: int) -> SlotIndices:
        """Return resident agents whose level changes by *now_ms* without an event."""
        pinned = np.flatnonzero(self.builder.pinned).astype(np.int32)  # few of many: rows of risk are far apart
        due_ms = self.risk["due_ms"][pinned]
        due: SlotIndices = pinned[(due_ms != 0) & (due_ms <= now_ms)]
        return due

    def advance_time(self, slots: SlotIndices, now_ms: int) -> npt.NDArray[np.int8]:
        """Advance time for these agents; return their levels before and after, shape (m, 2)."""
        levels = np.zeros((len(slots), 2), np.int8)
        risk_levels.advance(
            slots, self.risk, self.thresholds, self.agents.threshold_rows, now_ms, self.risk_parameters, levels
        )
        self.agents.mark_changed(slots)
        self.builder.pinned[slots] = self.risk["due_ms"][slots] != 0
        return levels


def measured_columns(out: ScoredBatch) -> Measured:
    """Return the columns of *out* that the detector's results are written into."""
    return Measured(
        out.anomaly,
        out.effective_anomaly,
        out.p_values,
        out.raw_p_values,
        out.concerns.anomaly_score,
        out.effective_concerns,
        out.concerns.p_value,
        out.concern_p_values,
        out.target_evidence,
        out.effective_target_evidence,
        np.empty(len(out.p_values)),
    )
