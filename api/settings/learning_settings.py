"""Settings of the life of models."""

from __future__ import annotations

from typing import Annotated, Literal

from trustwatch.ingest.settings import SettingsPart, setting
from trustwatch.scoring.learning.promotion import DriftSettings


class LifecycleSettings(SettingsPart, frozen=True):
    """A process at the lowest priority that trains, runs models in shadow, and watches for drift.

    Versions, calibration and the budget chart are there without it. With Kafka every worker that has it enabled stands
    ready, and one of them does it.
    """

    enabled: Annotated[bool, setting("run the process")] = False
    every_h: Annotated[
        float, setting("a new model is trained this often, h; 0 is on request only", ge=0, le=24 * 365)
    ] = 24.0
    min_agent_days: Annotated[int, setting("agent-days in shadow before a challenger may be promoted", ge=0)] = 100
    promote: Annotated[Literal["manual", "automatic"], setting("who promotes a better challenger")] = "manual"
    drift: Annotated[DriftSettings, setting("when behavior differs from what the model learned")] = DriftSettings()
