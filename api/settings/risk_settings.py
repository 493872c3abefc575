"""Risk and its levels."""

from __future__ import annotations

from typing import Annotated

from trustwatch.ingest.settings import setting
from trustwatch.scoring.engine.settings import RiskEvaluationSettings


class ServiceRiskSettings(RiskEvaluationSettings, frozen=True):
    """The engine's settings, and what the service does with its levels."""

    staleness_s: Annotated[
        float,
        setting("answers say `stale` when the pipeline is dead or behind for longer, s", after="hold_s", gt=0),
    ] = 300.0
    cool_down_s: Annotated[float, setting("same agent and reason alert again after, s; 0 is at once", ge=0)] = 900.0
