"""Settings of feedback and of the life of models."""

from __future__ import annotations

from typing import Annotated, Literal

from trustwatch.ingest.settings import SettingsPart, setting
from trustwatch.scoring.learning.settings import DriftSettings


class FeedbackSettings(SettingsPart, frozen=True):
    """Bounds of rules that people make of false positives, and of their previews."""

    max_days: Annotated[float, setting("longest time that a rule may hold, days", gt=0, le=365)] = 90.0
    broad_max_hours: Annotated[
        float,
        setting("longest time of a rule for one agent that names neither features nor a resource, h", gt=0, le=168),
    ] = 24.0
    max_rules: Annotated[int, setting("rules in force at a time, per tenant", ge=1, le=1000)] = 100
    preview_days: Annotated[float, setting("a preview counts what happened in the last so many days", gt=0, le=365)] = (
        7.0
    )
    preview_max_s: Annotated[
        float, setting("a preview that takes longer than this is given up, s", gt=0, le=86_400)
    ] = 600.0
    previews_waiting: Annotated[
        int, setting("previews of a tenant that may wait beside one that runs; more are refused with 429", ge=0, le=100)
    ] = 4


class LifecycleSettings(SettingsPart, frozen=True):
    """A process at the lowest priority that trains, runs models in shadow, and watches for drift.

    Versions, calibration and the budget chart are there without it. With Kafka every worker that has it enabled stands
    ready, and one of them does it.
    """

    enabled: Annotated[bool, setting("whether the process runs")] = False
    every_h: Annotated[
        float, setting("a new model is trained this often, h; 0 is on request alone", ge=0, le=24 * 365)
    ] = 24.0
    history_days: Annotated[
        float,
        setting("a model learns from events that arrived in the last, days; as far as they are kept", gt=0, le=3650),
    ] = 28.0
    most_events: Annotated[
        int, setting("the newest events of these, at most so many; bounds the memory of training", ge=1_000)
    ] = 500_000
    learn_days: Annotated[
        float,
        setting("without a model, the first one is trained once there are events of so many days", gt=0, le=365),
    ] = 3.0
    learn_events: Annotated[int, setting("and so many events", ge=200)] = 2_000
    follow_days: Annotated[
        float,
        setting(
            "what arrived so long before a start is read again to bring models in shadow up to date, days", ge=0, le=365
        ),
    ] = 2.0
    min_agent_days: Annotated[int, setting("agent-days in shadow before a challenger may be promoted", ge=0)] = 100
    promote: Annotated[Literal["manual", "automatic"], setting("who promotes a challenger that has proved better")] = (
        "manual"
    )
    keep_versions: Annotated[
        int, setting("versions kept beside champion and challenger; older ones leave the disk, not the history", ge=1)
    ] = 10
    drift: Annotated[DriftSettings, setting("when behaviour is no longer what the model learned")] = DriftSettings()
