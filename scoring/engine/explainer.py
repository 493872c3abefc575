"""Words for what an engine has scored: reasons, counterfactuals, and the evidence that a decision keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_declaration import BITS, Carried, Feature, Item, Quantity, Strongest, Z
from trustwatch.ingest.features.feature_table import FEATURE_INDEX, FEATURE_NAMES, FEATURE_OF_KIND, FEATURES
from trustwatch.ingest.features.feature_vector import F_NETWORK, F_OUTCOME, F_TARGET
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.trained_model import TrainedModel

from ..records.agents import ALERTING_LEVELS, RiskLevel
from ..records.decisions import RiskReason
from . import risk, risk_levels
from .composites import recompute_composites
from .explanations import ReasonWriter
from .hard_signals import AS_SIGN, HARD_SIGNALS, IN_FULL, OF_MEDIUM, TO_HIGH, HardSignal, HardSignalRules
from .resident_agents import ResidentAgents
from .scored_batch import ScoredBatch
from .usual_anomalies import NEVER_USUAL, unusual_p_value

# Counterfactuals ("low had the target been usual") name only what another event could have had in its place: a target,
# a key, a size. Pace, order and what has gathered come from the events before it.

_BEFORE_THE_EVENT = frozenset({layout.K_HOUR, layout.K_TRANSITION, layout.K_REPEAT})
"""Kinds whose item follows from when the event happens, and from what came before it."""
_QUANTITIES_OF_EVENT = frozenset(
    {
        layout.Q_BYTES_IN,
        layout.Q_BYTES_OUT,
        layout.Q_DURATION,
        layout.Q_BREADTH,
        layout.Q_DEPTH,
        layout.Q_LIFETIME,
    }
)

_ORDINARY = {BITS: 4.0, Z: 1.0}
"""Value that a feature may have of what is usual, by its unit: the most common of an agent's sizes may be one in
sixteen."""
_LEAST_ANOMALOUS = {BITS: 5.0, Z: 3.0}
"""Value from which a thing is unusual enough to be spoken of."""


def _is_of_event(feature: Feature) -> bool:
    explanation = feature.explanation
    if isinstance(explanation, Item):
        return explanation.kind not in _BEFORE_THE_EVENT
    return isinstance(explanation, Quantity) and explanation.quantity in _QUANTITIES_OF_EVENT


_OF_EVENT = frozenset(at for at, feature in enumerate(FEATURES) if _is_of_event(feature))


def replaceable_features(
    reasons: Iterable[RiskReason], vector: npt.NDArray[np.float64], surprise: npt.NDArray[np.float64]
) -> list[int]:
    """Return the features of unusual things that the event could have had otherwise, in the order of *reasons*,
    strongest first."""
    named = [reason for reason in reasons if reason.feature in FEATURE_INDEX]
    ranked = sorted(named, key=lambda reason: -reason.contribution)
    features = [_thing_of(FEATURES[FEATURE_INDEX[reason.feature]], surprise) for reason in ranked]
    fit = [feature for feature in dict.fromkeys(features) if feature in _OF_EVENT]
    return [feature for feature in fit if vector[feature] >= _LEAST_ANOMALOUS[FEATURES[feature].unit]]


def _thing_of(feature: Feature, surprise: npt.NDArray[np.float64]) -> int:
    """Return the feature that describes the thing a feature's reason names."""
    explanation = feature.explanation
    if isinstance(explanation, Carried):
        return int(FEATURE_OF_KIND[explanation.kind])
    if isinstance(explanation, Strongest):
        return int(FEATURE_OF_KIND[max(explanation.kinds, key=lambda kind: float(surprise[kind]))])
    return FEATURE_INDEX[feature.name]


def signals_of(index: int) -> list[HardSignal]:
    """Return the hard signals that fire because of the thing a feature describes."""
    return [signal for signal in HARD_SIGNALS if FEATURES[index].name in signal.things]


def thing_words(index: int) -> str:
    """Return the words for the thing a feature describes. Outcome and sizes belong to the action: they may be anomalous
    for another action."""
    explanation = FEATURES[index].explanation
    noun = FEATURES[index].noun
    return (
        f"{noun}, its outcome and its sizes"
        if isinstance(explanation, Item) and explanation.kind == layout.K_ACTION
        else noun
    )


def with_usual(
    vectors: npt.NDArray[np.float64], index: int, new_kinds: int, codes: npt.NDArray[np.int8]
) -> npt.NDArray[np.float64]:
    """Copy an event's *vectors* (m, F) as if one thing, and whatever is anomalous only because of it, were usual."""
    after = vectors.copy()
    explanation = FEATURES[index].explanation
    usual = [index, *(FEATURE_INDEX[signal.code] for signal in signals_of(index) if signal.code in FEATURE_INDEX)]
    if isinstance(explanation, Item):
        usual += [at for at, other in enumerate(FEATURES) if _is_anomalous_by(other, explanation.kind, new_kinds)]
    most = [_ORDINARY.get(FEATURES[at].unit, 0.0) for at in usual]
    after[:, usual] = np.minimum(after[:, usual], most)
    recompute_composites(after, codes)
    return after


def _is_anomalous_by(feature: Feature, kind: int, new_kinds: int) -> bool:
    """Return whether a feature is anomalous only because the item of this kind is new."""
    if feature.restates == (kind,):
        return True
    new = [other for other in feature.new_with if (new_kinds >> other) & 1]
    return new == [kind]


class Explainer:
    """Explains scored events."""

    def __init__(
        self,
        model: TrainedModel,
        thresholds: npt.NDArray[np.float64],
        parameters: risk_levels.RiskParameters,
        agents: ResidentAgents,
        signal_rules: HardSignalRules,
    ) -> None:
        self._detector = model.detector
        self._thresholds = thresholds
        self._parameters = parameters
        self._agents = agents
        self._signal_rules = signal_rules
        self._reason_writer = ReasonWriter(model.baseline)

    def reasons(self, scored: ScoredBatch, rows: list[int], *, alone: bool = False) -> list[tuple[RiskReason, ...]]:
        """Return the reasons of these rows, strongest first; see `explanations.ReasonWriter`.

        What has counted before is not a reason for a level now. *alone*: explain the anomalies of single events.
        """
        if not rows:
            return []
        vectors = scored.vectors[rows] if alone else scored.effective_vectors(rows)
        raising = np.zeros(vectors.shape)
        raising[:, F_TARGET] = (scored.target_evidence if alone else scored.effective_target_evidence)[rows]
        shares = self._detector.explain(vectors, raising)
        return [
            self._reason_writer.reasons(
                scored.columns,
                row,
                scored.agent_numbers[row],
                scored.known_items[row],
                scored.observations,
                vector.tolist(),
                share.tolist(),
                self._signal_rules.fired_signals(scored.columns, row, scored.vectors, scored.observations),
                compromise=self.is_compromise(scored, row, alone=alone),
            )
            for row, vector, share in zip(rows, vectors, shares, strict=True)
        ]

    @staticmethod
    def is_compromise(scored: ScoredBatch, row: int, *, alone: bool = False) -> bool:
        """Return whether a row is about as anomalous for compromise as for any other concern."""
        p_values = (scored.concerns.p_value if alone else scored.concern_p_values)[row]
        return bool(p_values[risk_levels.COMPROMISE] <= risk.SAME_ANOMALY_FACTOR * p_values.min())

    def counterfactual(self, scored: ScoredBatch, row: int, reasons: tuple[RiskReason, ...]) -> str:
        """Return which change of one thing would have kept the level lower; "" if none would.

        The row is scored without its strongest such feature, else without the next one.
        """
        fired = self._signal_rules.fired_signals(scored.columns, row, scored.vectors, scored.observations)
        for index in replaceable_features(reasons, scored.vectors[row], scored.observations.surprise_bits[row]):
            if index == F_OUTCOME and int(scored.observations.new_kinds[row]) >> layout.K_NETWORK & 1:
                continue  # had the call succeeded, its new network would weigh more
            signals = scored.signals[row].copy()  # without those that follow from the thing of the feature
            if index == F_NETWORK:
                signals[OF_MEDIUM] = 0.0
            because = {signal.code for signal in signals_of(index)}
            for signal in fired:
                if signal.code in because:
                    signals[signal.counts] -= signal.weight
            level = self._level_with(scored, row, self._p_values_with_usual(scored, row, index), signals)
            if level < scored.levels[row, 1]:
                return f"{RiskLevel(level).label} had the {thing_words(index)} been usual"
        return ""

    def _p_values_with_usual(self, scored: ScoredBatch, row: int, index: int) -> npt.NDArray[np.float64]:
        """Return the p-values (3,) of the row as if the thing a feature describes were usual, in the less anomalous
        view."""
        twice = [row, row]
        vectors = np.concatenate([scored.vectors[[row]], scored.effective_vectors([row])])
        codes, groups = scored.columns.codes[twice], scored.columns.names[twice, event_columns.GROUP]
        usual = with_usual(vectors, index, int(scored.observations.new_kinds[row]), codes)
        failed = codes[:, event_columns.OUTCOME] != event_columns.SUCCESS
        raising = np.array([scored.target_evidence[row], scored.effective_target_evidence[row]])
        raising *= index != F_TARGET
        _, concerns = self._detector.assess(usual, groups, failed, scored.is_familiar(twice), raising)
        return np.asarray(concerns.p_value.max(axis=0))

    def _level_with(
        self, scored: ScoredBatch, row: int, p_values: npt.NDArray[np.float64], signals: npt.NDArray[np.float64]
    ) -> int:
        """Return the highest level after the row if it had these p-values (3,), none of them usual for the agent, and
        these *signals* (COUNTS,)."""
        limits = self._thresholds[scored.threshold_rows[row]]
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
        signalled = risk_levels.signalled_concern(limits)
        if signals[OF_MEDIUM] > 0.0:
            gains[signalled] = max(gains[signalled], signals[OF_MEDIUM] * limits[signalled, 0])
        gains[signalled] += signals[IN_FULL] + signals[AS_SIGN] + signals[TO_HIGH]
        without = np.where(gains > 0.0, np.maximum(before[:, risk.STATISTIC_BEFORE], 0.0) + gains, 0.0)
        reached = int(risk_levels.level_for_score(risk_levels.risk_of(without, limits)[0]))
        rested = int(scored.risk[row, risk.LEVEL_BEFORE])
        if reached >= RiskLevel.MEDIUM:
            return max(reached, rested)
        if rested >= RiskLevel.MEDIUM:
            return rested
        return int(RiskLevel.UNKNOWN if confidence < self._parameters.confidence_minimum else RiskLevel.LOW)

    def decision_evidence(self, slot: int, scored: ScoredBatch | None = None, row: int = 0) -> dict[str, Any]:
        """Return the inputs of the risk kernel. They are stored with a decision, so that it can be replayed."""
        state = self._agents.risk[slot]
        if scored is None:
            limits = self._thresholds[self._agents.threshold_rows[slot]]
            counted = np.empty(len(CONCERNS))
            risk_levels.write_counted(self._agents.risk, slot, limits, counted)
            gravest = int(risk_levels.risk_of(counted, limits)[1])
            kept: dict[str, Any] = {"statistic": float(counted[gravest]), "events": int(state["events"])}
        else:
            limits = self._thresholds[scored.threshold_rows[row]]
            after = scored.risk[row]
            gravest = int(risk_levels.risk_of(scored.concern_risk[row, :, risk.CONCERN_STATISTIC], limits)[1])
            kept = {
                "statistic": float(after[risk.STATISTIC]),
                "events": int(after[risk.EVENTS]),
                "gain": float(after[risk.GAIN]),
                "prior": float(scored.concern_risk[row, gravest, risk.STATISTIC_BEFORE]),
            }
            fired = self._signal_rules.fired_signals(scored.columns, row, scored.vectors, scored.observations)
            kept["signals"] = [signal.code for signal in fired]
            if row in scored.effective_rows:
                less = scored.effective_rows[row] < scored.vectors[row]
                kept["left_aside"] = [FEATURE_NAMES[index] for index in np.flatnonzero(less).tolist()]
            if scored.signals[row, OF_MEDIUM] > 0.0:
                kept["new_network_p"] = float(scored.observations.new_network_p[row])
            if scored.effective_target_evidence[row] > 0.0:
                kept["target_evidence"] = float(scored.effective_target_evidence[row])
            kept["concerns"] = dict(zip(CONCERNS, scored.concern_p_values[row].tolist(), strict=True))
            if (
                scored.habits[row] != NEVER_USUAL
            ):  # p-values that counted for concerns in which it is often as anomalous
                p_values = scored.concern_p_values[row].tolist()
                factors = scored.concern_risk[row, :, risk.USUAL_FACTORS :]
                bet_on = [unusual_p_value(p, factor) for p, factor in zip(p_values, factors, strict=True)]
                larger = {name: q for name, q, p in zip(CONCERNS, bet_on, p_values, strict=True) if q > p}
                if larger:
                    kept["usual_oddness"] = larger
            statistics = scored.concern_risk[row, :, risk.CONCERN_STATISTIC]
            kept["statistics"] = dict(zip(CONCERNS, statistics.tolist(), strict=True))
        reached_at = zip(ALERTING_LEVELS, limits[gravest].tolist(), strict=True)
        kept["thresholds"] = {level.label: limit for level, limit in reached_at if math.isfinite(limit)}
        if kept["statistic"] > 0.0:
            kept["concern"] = CONCERNS[int(state["concern"] if scored is None else scored.risk[row, risk.CONCERN])]
        return kept
