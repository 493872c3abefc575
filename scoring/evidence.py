"""Explains scored rows: reasons, counterfactual, and the evidence that a decision keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ingest import columns as c
from ..ingest.features.table import FEATURE_NAMES, FEATURES
from . import risk
from .reasons import ReasonWriter
from .records import RiskLevel, RiskReason

if TYPE_CHECKING:
    from .engine import Engine, ScoredBatch


class Explainer:
    """Words for what an engine has scored.

    Args:
        engine: whose state the rows were measured against.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reason_writer = ReasonWriter(engine.model.baseline)

    def reasons(self, scored: ScoredBatch, rows: list[int], *, alone: bool = False) -> list[tuple[RiskReason, ...]]:
        """Reasons of the given rows, the strongest first; see `reasons.ReasonWriter`.

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
                scored.observations,
                vector.tolist(),
                share.tolist(),
                engine.signal_rules.fired_signals(scored.columns, row, scored.vectors, scored.observations),
            )
            for row, vector, share in zip(rows, vectors, shares, strict=True)
        ]

    def counterfactual(self, scored: ScoredBatch, row: int, reasons: tuple[RiskReason, ...]) -> str:
        """What would have kept the level lower, checked by scoring the row without its strongest feature; or ""."""
        engine = self._engine
        features = [reason for reason in reasons if reason.feature in FEATURE_NAMES]
        if not features:
            return ""
        index = FEATURE_NAMES.index(max(features, key=lambda reason: reason.contribution).feature)
        vectors = np.concatenate(
            [scored.vectors[[row]], scored.effective_vectors([row])]
        )  # the calmer one is what counts
        vectors[:, index] = 0.0
        groups = scored.columns.names[[row, row], c.GROUP]
        p_value = float(engine.model.detector.score(vectors, groups, scored.is_familiar([row, row])).p_value.max())
        level = self._level_with(scored, row, p_value)
        if level >= scored.levels[row, 1]:
            return ""
        return f"{RiskLevel(level).label} had the {FEATURES[index].noun} been usual"

    def _level_with(self, scored: ScoredBatch, row: int, p_value: float) -> int:
        """Level after the row, had it had another p-value."""
        settings = self._engine.settings.risk
        confidence, streak, peak = (
            float(value) for value in scored.risk[row, [risk.CONFIDENCE, risk.STREAK_BEFORE, risk.PEAK_BEFORE]]
        )
        gain = risk.evidence_of(p_value, confidence, streak, peak) + float(scored.signals[row])
        without = max(float(scored.risk[row, risk.STATISTIC_BEFORE]), 0.0) + gain
        reached = int(
            risk.level_for_score(risk.displayed_score(without, self._engine.thresholds[scored.threshold_rows[row]]))
        )
        rested = int(scored.risk[row, risk.LEVEL_BEFORE])
        if gain > 0.0 and reached >= RiskLevel.MEDIUM:
            return max(reached, rested)
        if rested >= RiskLevel.MEDIUM:
            return rested
        return int(RiskLevel.UNKNOWN if confidence < settings.confidence_low else RiskLevel.LOW)

    def decision_evidence(self, slot: int, scored: ScoredBatch | None = None, row: int = 0) -> dict[str, Any]:
        """What the risk kernel saw: kept with a decision, so that it can be replayed."""
        engine = self._engine
        if scored is None:
            state = engine.risk[slot]
            limits = engine.thresholds[engine.agents.threshold_rows[slot]]
            kept: dict[str, Any] = {"statistic": float(state["statistic"]), "events": int(state["events"])}
        else:
            limits = engine.thresholds[scored.threshold_rows[row]]
            after = scored.risk[row]
            kept = {
                "statistic": float(after[risk.STATISTIC]),
                "events": int(after[risk.EVENTS]),
                "gain": float(after[risk.GAIN]),
                "prior": float(after[risk.STATISTIC_BEFORE]),
            }
            fired = engine.signal_rules.fired_signals(scored.columns, row, scored.vectors, scored.observations)
            kept["signals"] = [signal.code for signal in fired]
            if row in scored.effective_rows:
                less = scored.effective_rows[row] < scored.vectors[row]
                kept["left_aside"] = [FEATURE_NAMES[index] for index in np.flatnonzero(less).tolist()]
        kept["thresholds"] = {"medium": float(limits[0]), "high": float(limits[1]), "critical": float(limits[2])}
        return kept

    def named_features(self, scored: ScoredBatch, row: int) -> dict[str, float]:
        """The feature vector by name, without the zeros."""
        values = scored.vectors[row]
        return {FEATURE_NAMES[index]: float(values[index]) for index in np.flatnonzero(values).tolist()}
