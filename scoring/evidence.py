"""Explains scored rows: reasons, counterfactual, and the evidence that a decision keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ingest.features.table import FEATURES, NAMES
from . import risk
from .reasons import Narrator
from .records import Reason, RiskLevel

if TYPE_CHECKING:
    from .engine import Engine, Scored


class Explainer:
    """Words for what an engine has scored.

    Args:
        engine: whose state the rows were measured against.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._narrator = Narrator(engine.builder.state, engine.model.baseline)

    def reasons(self, scored: Scored, rows: list[int]) -> list[tuple[Reason, ...]]:
        """Reasons of the given rows, the strongest first; see `reasons.Narrator`."""
        if not rows:
            return []
        engine = self._engine
        shares = engine.model.detector.explain(scored.vectors[rows])
        return [
            self._narrator.reasons(
                scored.columns, row, int(scored.slots[row]), scored.found, scored.vectors[row].tolist(), share.tolist(),
                engine.rules.fired(scored.columns, row, scored.vectors, scored.found),
            )
            for row, share in zip(rows, shares, strict=True)
        ]  # fmt: skip

    def counterfactual(self, scored: Scored, row: int, reasons: tuple[Reason, ...]) -> str:
        """What would have kept the level lower, checked by scoring the row again without its strongest feature; or ""."""
        engine = self._engine
        feature = next((reason.feature for reason in reasons if reason.feature in NAMES), None)
        if feature is None:
            return ""
        index = NAMES.index(feature)
        vector = scored.vectors[row : row + 1].copy()
        vector[0, index] = 0.0
        groups = scored.columns.names[row : row + 1, 1]
        gain, statistic, confidence = scored.risk[row, risk.GAIN :].tolist()
        limits = engine.bounds[engine.agents.bounds[scored.slots[row]]]
        p_value = float(engine.model.detector.score(vector, groups).p_value[0])
        signals = gain - risk.evidence_of(scored.p_values[row], confidence)
        without = max(statistic - gain, 0.0) + risk.evidence_of(p_value, confidence) + signals
        level = int(risk._level_of(risk.displayed(without, limits)))
        if level >= scored.levels[row, 1]:
            return ""
        return f"{RiskLevel(level).label} had the {FEATURES[index].noun} been usual"

    def evidence(self, slot: int, scored: Scored | None = None, row: int = 0) -> dict[str, Any]:
        """What the risk kernel saw: kept with a decision, so that it can be replayed."""
        engine = self._engine
        state = engine.risk[slot]
        limits = engine.bounds[engine.agents.bounds[slot]]
        kept: dict[str, Any] = {
            "statistic": float(state["statistic"]),
            "thresholds": {"medium": float(limits[0]), "high": float(limits[1]), "critical": float(limits[2])},
            "events": int(state["events"]),
        }
        if scored is not None:
            kept["gain"], kept["statistic"] = scored.risk[row, [risk.GAIN, risk.STATISTIC]].tolist()
            fired = engine.rules.fired(scored.columns, row, scored.vectors, scored.found)
            kept["signals"] = [signal.code for signal in fired]
        return kept

    def vector(self, scored: Scored, row: int) -> dict[str, float]:
        """The feature vector by name, without the zeros."""
        values = scored.vectors[row]
        return {NAMES[index]: float(values[index]) for index in np.flatnonzero(values).tolist()}
