"""Settings of the life of models."""

from __future__ import annotations

from typing import Annotated, Literal

from trustwatch.ingest.settings import SettingsPart, setting
from trustwatch.scoring.learning.settings import DriftSettings


class LifecycleSettings(SettingsPart, frozen=True):
    """A process at the lowest priority that trains, runs models in shadow, and watches for drift.

    Versions, calibration and the budget chart are there without it. With Kafka every worker that has it enabled stands
    ready, and one of them does it.
    """

    enabled: Annotated[bool, setting("whether the process runs")] = False
    every_h: Annotated[
        float, setting("a new model is trained this often, h; 0 is on request alone", ge=0, le=24 * 365)
    ] = 24.0
    min_agent_days: Annotated[int, setting("agent-days in shadow before a challenger may be promoted", ge=0)] = 100
    promote: Annotated[Literal["manual", "automatic"], setting("who promotes a challenger that has proved better")] = (
        "manual"
    )
    drift: Annotated[DriftSettings, setting("when behaviour is no longer what the model learned")] = DriftSettings()
